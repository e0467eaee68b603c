"""What somebody meets who is new to services elsewhere: what the commands say, and that it is what helps."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trun
from tests.sites import PATIENCE_S, Site, as_person, command, daemons
from trun.adapters import passphrases
from trun.adapters.keys import KeyPair, new_seed, user_key_file, user_keys

pytestmark = [pytest.mark.usefixtures("trun_folders"), pytest.mark.timeout(300)]

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons, and stop them in the end."""
    with daemons() as make:
        yield make


def publish(text: str) -> trun.File:
    """Publish a file with this text."""
    path = Path(trun.current_job().scratch) / "found.txt"
    path.write_text(text)
    return trun.publish_file(path)


def let_in(site: Site, key: str, roles: str = "read,submit") -> None:
    """Let somebody in, and write the service down for them."""
    command("user", "add", "guest", key, "--roles", roles, "--service", site.name)


def known_to_me(site: Site) -> None:
    command("service", "add", site.name, site.address, "--expect", site.key)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_who_knocks_sees_the_whole_command_that_lets_them_in_and_so_does_the_operator(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "guest") as key:
        known_to_me(site)
        asked = command("request-access", "fans", "beam time").stdout
    listed = command("user", "list", "--service", "fans").stdout

    assert "by " in listed
    assert ": beam time" in listed
    for text in (asked.partition("with: ")[2], next(row for row in listed.splitlines() if "trun user add" in row)):
        words = shlex.split(text)
        assert words[:3] == ["trun", "user", "add"]
        assert words[4:] == [key, "--roles", "read,submit", "--service", "fans"]
        command(*words[1:])


def test_a_key_behind_a_passphrase_is_shown_without_it_and_knocks_with_it(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "guest") as key:
        monkeypatch.setenv("TRUN_RUNTIME_DIR", str(tmp_path))  # no agent here
        passphrases.set_passphrase(user_key_file(), "", "quiet river")
        assert command("keygen").stdout.startswith(key)
        assert key in command("service", "add", "fans", site.address, "--expect", site.key).stdout
        assert "a passphrase is needed" in command("request-access", "fans", code=2).stderr


def test_who_knocks_at_another_service_than_was_written_down_is_told_so(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "guest"):
        command("service", "add", "fans", site.address, "--expect", KeyPair(new_seed()).public)
        said = command("request-access", "fans", code=4).stderr
    assert "does not hold the key of service fans" in said


def test_nobody_needs_to_knock_where_no_key_is_needed(start: Start) -> None:
    command("service", "add", "far", "ssh://far.example.org")
    assert "nobody needs a key" in command("request-access", "far", code=2).stderr


# -- what is known ----------------------------------------------------------------------------------------------------


def test_a_service_that_runs_here_is_not_forgotten(start: Start) -> None:
    site = start("fans")
    assert "trun service stop" in command("service", "forget", "fans", code=2).stderr
    assert site.key in command("service", "status", "fans").stdout
    site.stop()
    assert str(site.folder) in command("service", "forget", "fans").stdout


def test_a_start_without_the_address_from_before_says_who_is_left_out(start: Start) -> None:
    site = start("fans")
    site.stop()
    again = command("service", "start", "--name", "fans")
    assert f"listened at {site.address} before" in again.stderr
    site.stop()
    assert not command("service", "start", "--name", "fans").stderr


def test_the_list_says_whose_results_are_loaded() -> None:
    for name, more in (("near", ("--trust-results",)), ("far", ())):
        command("service", "add", name, "tcp://here:7711", "--expect", user_keys().public, *more)
    far, near = sorted(command("service", "list").stdout.splitlines()[1:])
    assert near.endswith("trusted")
    assert "trusted" not in far


def test_a_status_says_what_stands_in_the_way_and_only_that(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans", "--workers", "1")
    assert ", 1 worker\n" in command("service", "status", "fans").stdout
    with as_person(monkeypatch, tmp_path / "guest"):
        known_to_me(site)
        said = command("service", "status", "fans", code=4).stdout
    assert "does not know your key" in said
    assert "does not answer" not in said


# -- results ----------------------------------------------------------------------------------------------------------


def test_files_are_plain_data_also_where_results_are_not_trusted(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "guest") as key:
        known_to_me(site)
    let_in(site, key)
    with as_person(monkeypatch, tmp_path / "guest"):
        fans = trun.remote_service("fans")
        assert not fans.trusted
        job = fans.submit(publish, "hello")
        found = job.result(PATIENCE_S)
        assert (found.size, found.url.rpartition("/")[2]) == (5, "found.txt")
        fetched = trun.fetch_url(job, service=fans).result(PATIENCE_S)
        assert fetched == found


# -- looking at services elsewhere ------------------------------------------------------------------------------------


def fail() -> None:
    """Fail."""
    raise ValueError("no beam")


def test_hints_about_a_job_elsewhere_work_as_they_stand(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "guest") as key:
        known_to_me(site)
    let_in(site, key)
    with as_person(monkeypatch, tmp_path / "guest"), monkeypatch.context() as elsewhere:
        elsewhere.setenv("TRUN_RUNTIME_DIR", str(tmp_path))
        job = trun.remote_service("fans").submit(fail)
        assert "no beam" in str(job.exception(PATIENCE_S))

        assert f"trun logs fans/{job.id}" in command("why", job.id, "--service", "fans").stdout
        command("logs", f"fans/{job.id}")
        assert f"fans · live, {site.address}\n" in command("ps", "--service", "fans").stdout
        assert "--service fans" in command("ps").stdout
        assert "--service fans" in command("services").stdout
        assert "--service fans" in command("why", job.id, code=2).stderr


def test_who_may_submit_alone_sees_and_steers_their_own_jobs(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "guest") as key:
        known_to_me(site)
    let_in(site, key, "submit")
    with as_person(monkeypatch, tmp_path / "guest"), monkeypatch.context() as elsewhere:
        elsewhere.setenv("TRUN_RUNTIME_DIR", str(tmp_path))
        job = trun.remote_service("fans").submit(fail, when=trun.after("1d"))
        assert job.id in command("why", f"fans/{job.id}").stdout
        assert "held" in command("hold", job.id, "--service", "fans").stdout
        assert "cancelled" in command("cancel", job.id, "--service", "fans").stdout
        assert "that you may see" in command("why", "fans/fail#99", code=2).stderr


def test_a_service_of_mine_that_was_killed_is_still_shown_and_started_again_by_name(start: Start) -> None:
    site = start("fans")
    job = trun.remote_service("fans").submit(fail, when=trun.after("1d"))
    job_id = job.id
    site.stop()

    shown = command("ps").stdout
    assert job_id in shown
    assert "trun service start --name fans" in shown
    assert "trun service start --name fans" in command("why", job_id).stdout
    assert "trun service start --name fans" in command("resume", "fans", code=2).stderr
    command("resume", code=2)
    site.start()
    assert f"{job_id} " in command("ps").stdout
