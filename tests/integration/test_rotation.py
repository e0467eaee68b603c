"""``trun keygen --rotate``: a new key on all services that one knows, and then here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trun
from tests.sites import Site, as_person, command, daemons
from trun.adapters.keys import user_key_file, user_keys

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    with daemons() as make:
        yield make


def double(x: int) -> int:
    return 2 * x


def test_a_key_is_made_where_there_is_none() -> None:
    made = json.loads(command("keygen", "--rotate", "--json").stdout)

    assert made["new"]
    assert made["key"] == user_keys().public


def test_a_new_key_is_let_in_where_the_old_one_was(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("compufans")
    owner = user_keys().public
    with as_person(monkeypatch, tmp_path / "ann") as old:
        command("service", "add", "compufans", site.address, "--expect", site.key)
        command("service", "add", "gone", "tcp://127.0.0.1:9", "--expect", owner)
        refused = command("keygen", "--rotate", code=4).stderr
        assert "your key was not changed" in refused
        assert "gone" in refused
        assert user_keys().public == old
        command("service", "forget", "gone")
    command("user", "add", "ann", old, "--roles", "read,submit", "--service", "compufans")
    with as_person(monkeypatch, tmp_path / "ann"):
        rotated = json.loads(command("keygen", "--rotate", "--json").stdout)

        assert rotated["key"] == user_keys().public != old
        assert list(rotated["services"]) == ["compufans"]
        assert user_key_file().with_name("id.old").exists()
        assert not user_key_file().with_name("id.next").exists()
        assert trun.remote_service("compufans").submit(double, 4).result(60.0) == 8

    users = json.loads(command("user", "list", "--service", "compufans", "--json").stdout)["users"]
    ann = {user["key"]: user for user in users if user["name"] == "ann"}
    assert set(ann) == {old, rotated["key"]}
    assert ann[old]["until"]
    assert ann[rotated["key"]] == {**ann[old], "key": rotated["key"], "until": None}


def test_the_owner_of_a_service_stays_its_owner(start: Start) -> None:
    site = start("mine")
    old = user_keys().public

    command("keygen", "--rotate")

    assert user_keys().public != old
    assert trun.remote_service(site.address).submit(double, 5).result(60.0) == 10
    site.stop()
    site.start()
    assert trun.remote_service(site.address).jobs(name="double")
