"""``trun.credentials``: what is lent, to whom, and what is never shown."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from trun.adapters import tokens
from trun.adapters.fetching import File
from trun.adapters.keys import KeyPair, user_keys
from trun.adapters.known import Known, remember
from trun.errors import BadOption, UnknownName, UsageError
from trun.handles import Job
from trun.lending import Credentials, credentials, scope_of
from trun.messages import Answer, Ask, Welcome
from trun.minting import lend
from trun.service import Service

ROOT, A_KEY, B_KEY, C_KEY = (KeyPair(bytes([number]) * 32) for number in range(1, 5))


class Minting:
    """The wire of a service that mints."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.asked: list[dict[str, Any]] = []

    def send(self, messages: Any) -> None:
        for message in messages:
            if isinstance(message, Ask):
                self.asked.append(message.arguments)
                given = {name: message.arguments[name] for name in ("ops", "res", "expires")}
                given |= {"next_key": message.arguments["next"], "holder": user_keys().public}
                token = tokens.mint(ROOT, generation=1, user="pk", **given)
                self.service.heard([Answer(token=message.token, data={"token": token})])

    def close(self, *, flush: bool = True) -> None:
        """Nothing to close."""


def service(name: str, key: str) -> tuple[Service, Minting]:
    made = Service(name=name, address=f"tcp://{name}:1", detach=True)
    wire = Minting(made)
    made.attach(wire)  # type: ignore[arg-type]
    made.heard([Welcome(service_key=name, name=name, epoch=1, key=key)])
    return made, wire


def checked(token: str, **changes: Any) -> tokens.Grant:
    arguments: dict[str, Any] = {
        "roots": {1: ROOT.verify}, "bearer": B_KEY.public, "now": time.time(), "op": "read", "resource": "stream:4f",
        "revoked": lambda _id: False,
    } | changes  # fmt: skip
    return tokens.check(token, **arguments)


def test_credentials_are_bound_to_a_service_by_itself_name_or_key() -> None:
    facility, _ = service("facility", A_KEY.public)
    cluster, _ = service("cluster", B_KEY.public)
    remember(Known(name="cluster", address="tcp://cluster:1", key=B_KEY.public))

    for for_ in (cluster, "cluster", B_KEY.public):
        made = credentials(facility, for_=for_)
        assert made.holder == B_KEY.public
        grant = checked(str(made), op="fetch", resource="export:a")
        assert (grant.ops, grant.res) == (("read", "fetch"), ("*",))
        assert grant.ids == made.ids


def test_the_selected_service_lends_where_none_is_named() -> None:
    facility, wire = service("facility", A_KEY.public)

    with facility:
        credentials(for_=B_KEY.public, scope="job:4f", expires="2h")

    assert wire.asked[0]["res"] == ["job:4f"]
    assert wire.asked[0]["next"] == user_keys().verify
    assert abs(wire.asked[0]["expires"] - time.time() - 7200) < 60


def test_unbound_credentials_are_bound_once_and_ask_nobody_before() -> None:
    facility, wire = service("facility", A_KEY.public)
    made = credentials(facility, scope="job:4f")
    assert wire.asked == []
    with pytest.raises(UsageError, match="bound to nobody yet"):
        str(made)

    token = made.bound_to(B_KEY.public)

    assert str(made) == token == made.bound_to(B_KEY.public)
    assert len(wire.asked) == 1
    with pytest.raises(UsageError, match="are bound to"):
        made.bound_to(C_KEY.public)


def test_the_token_is_shown_by_str_alone() -> None:
    facility, _ = service("facility", A_KEY.public)
    made = credentials(facility, for_=B_KEY.public)

    assert str(made)[6:] not in repr(made)
    assert "facility" in repr(made)
    with pytest.raises(TypeError, match="do not travel"):
        pickle.dumps(made)


def test_a_scope_is_a_job_a_published_file_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a b.dat"
    path.write_text("x")
    url = "trun://facility/jobs/4f/files/a%20b.dat"

    assert scope_of(None) == ("*",)
    assert scope_of(File(path, url=url)) == ("file:4f/a%20b.dat",)
    assert scope_of([File(path, url=url), "job:5f", "trun://facility/export/raw/b.h5"]) == (
        "export:raw/b.h5", "file:4f/a%20b.dat", "job:5f",
    )  # fmt: skip


@pytest.mark.parametrize("scope", [3, "everything", [], ["job:.."], {"job": 1}, Future()])
def test_another_scope_is_refused(scope: Any) -> None:
    with pytest.raises(BadOption):
        scope_of(scope)


def test_a_job_is_lent_by_its_own_service_alone() -> None:
    facility, wire = service("facility", A_KEY.public)
    cluster, _ = service("cluster", B_KEY.public)
    job = Job(service=facility, uid="4f", name="reduce")
    for scope in (job, job.output, [job]):
        credentials(facility, for_=cluster, scope=scope)
        with pytest.raises(BadOption, match="a job of facility"):
            credentials(cluster, for_=facility, scope=scope)
    assert len(wire.asked) == 3


def test_a_file_of_this_machine_cannot_be_lent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")

    with pytest.raises(BadOption, match="not published"):
        scope_of(File(path))


def test_a_holder_that_cannot_be_named_is_refused() -> None:
    facility, _ = service("facility", A_KEY.public)
    keyless, _ = service("mine", "")
    remember(Known(name="cluster", address="tcp://cluster:1", key=B_KEY.public))

    with pytest.raises(UnknownName, match="Did you mean 'cluster'"):
        credentials(facility, for_="clutser")
    with pytest.raises(BadOption, match="has no key"):
        credentials(facility, for_=keyless)
    with pytest.raises(BadOption, match="for_ must be"):
        credentials(facility, for_=3)  # type: ignore[arg-type]
    with pytest.raises(BadOption):
        Credentials(lambda key, renew: "", service="a", expires=1.0).bound_to("no key")


@pytest.mark.parametrize("expires", ["soon", -1, 0, "0s", None])
def test_an_end_that_makes_no_sense_is_refused(expires: Any) -> None:
    facility, _ = service("facility", A_KEY.public)

    with pytest.raises(BadOption):
        credentials(facility, expires=expires)


def test_another_right_than_reading_is_lent_by_those_who_name_it() -> None:
    facility, _ = service("facility", A_KEY.public)

    ends = time.time() + 60
    token = lend(
        facility, holder=B_KEY.public, ops=["cancel-loser"], res=["job:4f"], expires=ends, renew=(facility, "7")
    )

    assert checked(token, op="cancel-loser", resource="job:4f").ops == ("cancel-loser",)
