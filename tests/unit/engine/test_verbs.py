"""Verbs that lend rights and let keys in: nobody gives away more than they have, and a borrowed key lets nobody in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.engine.gates import HERE, LENDER, ME, OTHER, FakeGrant, House, errors, job
from trun.engine.verbs import LARGEST, bulk_verbs
from trun.errors import BadOption, NotAuthorised, ProtocolError, TrunError, UnknownName
from trun.messages import Answer, Ask, Blob, Credit, Hello, JobSpec, Listen, Payload, Present, Submit, Unneeded

SESSION = "s" * 40


def answer(house: House, verb: str, **arguments: Any) -> Answer:
    (found,) = [one for one in house.say(HERE, Ask("t", verb, arguments)) if isinstance(one, Answer)]
    return found


@pytest.mark.parametrize(
    "resource", ["*", "job:theirs", "file:theirs/fit.dat", "job:nobody", "stream:mine", "stream:service", "export:run7"]
)
def test_who_may_not_read_all_lends_their_own_jobs_alone(two: House, resource: str) -> None:
    two.let_in(HERE, ME, "submit")
    two.say(HERE, Submit(specs=(job("mine"),)))

    for wanted in ([resource], ["job:mine", resource]):
        assert f"may not lend '{resource}'" in errors([answer(two, "mint", res=wanted)])
    assert "may not lend '*'" in errors([answer(two, "mint")])
    assert answer(two, "mint", res=["job:mine", "file:mine/fit.dat"]).data == {"token": "token"}


@pytest.mark.parametrize("role", ["read", "admin"])
def test_who_may_read_all_lends_all(two: House, role: str) -> None:
    two.let_in(HERE, ME, role)

    assert answer(two, "mint", res=["*"]).data == {"token": "token"}


@pytest.mark.parametrize("roles", [(), ("upload",)])
def test_who_has_nothing_to_lend_gets_no_token(house: House, roles: tuple[str, ...]) -> None:
    house.let_in(HERE, ME, *roles)

    assert answer(house, "mint", res=["job:mine"]).error is not None


@pytest.mark.parametrize("verb", ["session", "rotate"])
def test_a_borrowed_key_lets_no_further_key_in(house: House, verb: str) -> None:
    house.powers.sessions[SESSION] = ME
    house.powers.people[ME] = frozenset({"read", "submit"})
    house.let_in(HERE, SESSION)

    assert "user's own key" in errors([answer(house, verb, key=OTHER, expires=9e9)])


def test_so_many_tokens_are_looked_at_in_one_message(house: House) -> None:
    tokens = {f"t{number}": FakeGrant(("read",), f"job:{number}") for number in range(20)}
    house.powers.tokens = dict(tokens)
    looked: list[str] = []
    check = house.powers.check
    house.powers.check = lambda token, bearer, now: looked.append(token) or check(token, bearer, now)  # type: ignore
    house.let_in(HERE, ME, "submit")

    house.say(HERE, Present(tokens=tuple(tokens)))

    assert looked == list(tokens)[:16]


def test_who_waits_for_files_is_looked_at_unless_they_may_do_all(house: House) -> None:
    def refuse(spec: JobSpec) -> None:
        raise NotAuthorised(f"{spec.name} looks around.")

    house.gate.look_around = refuse
    house.let_in(HERE, ME, "submit", "read", "upload")
    assert "looks around" in errors(house.say(HERE, Submit(specs=(job("a"),))))
    house.powers.people[ME] = frozenset({"admin"})
    house.say(HERE, Submit(specs=(job("b"),)))
    assert set(house.records) == {"b"}


def test_a_loser_that_another_service_still_listens_to_is_not_stopped(two: House) -> None:
    third = b"\0third"
    two.powers.people[LENDER] = frozenset({"read", "admin"})
    two.powers.tokens = {
        "stop": FakeGrant(("cancel-loser",), "job:theirs"),
        "hear": FakeGrant(("read",), "job:theirs"),
    }
    two.endpoint.users[third] = "t" * 40
    two.say(third, Present(tokens=("hear",)), Hello(session="x"), Credit(entries=10), Listen(streams=(("theirs", 1),)))
    two.say(HERE, Present(tokens=("stop",)), Unneeded(uids=("theirs",), reason="lost"))
    with pytest.raises(AssertionError):
        two.executor.take_stopped()

    two.engine.forget(third)
    two.say(HERE, Unneeded(uids=("theirs",), reason="lost"))
    assert two.executor.take_stopped().uid == "theirs"


# -- large data and files ---------------------------------------------------------------------------------------------

MINE, THEIRS = "a" * 32, "b" * 32


class Port:
    """A bulk port that notes what tickets it gave."""

    address, fingerprint = "tls://here:1", "f"

    def __init__(self) -> None:
        self.given: list[Any] = []

    def ticket(self, what: Any, *more: Any, **further: Any) -> str:
        self.given.append(what)
        return "ticket"

    accept = ticket


class Hall:
    """What the verbs see of a service that has one job with one large result."""

    def __init__(self, folder: Path, export: Path | None = None) -> None:
        self.port = Port()
        self.verbs = bulk_verbs(folder, lambda: self.port, export)  # type: ignore[arg-type, return-value]
        kept = {"mine": Payload(b"", blob=Blob(MINE, 3))}
        self.engine: Any = SimpleNamespace(
            payloads=SimpleNamespace(result=kept.get),
            machine=SimpleNamespace(records={"mine": None}),
            welcome=SimpleNamespace(service_key="here", key="k"),
            mail=None,
        )

    def ask(self, verb: str, **arguments: Any) -> Any:
        return self.verbs[verb](self.engine, {"_user": ME, **arguments})

    def refuse(self, verb: str, *kinds: type[TrunError], **arguments: Any) -> None:
        with pytest.raises(kinds):
            self.ask(verb, **arguments)
        assert self.port.given == []


def test_a_part_is_given_as_part_of_the_job_that_it_belongs_to(tmp_path: Path) -> None:
    hall = Hall(tmp_path)
    for uid, name in (("mine", THEIRS), ("theirs", MINE), ("mine", "../../keys/curve"), ("mine", "")):
        hall.refuse("blob", UnknownName, uid=uid, name=name)
    assert hall.ask("blob", uid="mine", name=MINE)["ticket"] == "ticket"
    assert hall.port.given == [tmp_path / "blobs" / MINE]


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    hall = Hall(tmp_path)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / THEIRS).write_bytes(b"theirs")
    hall.refuse("upload", BadOption, name=THEIRS, size=6)
    for size in (-1, LARGEST + 1):
        hall.refuse("upload", BadOption, name=MINE, size=size)
    for name in ("", "../keys/curve", "a/b", MINE + "/x", f".{MINE}"):
        hall.refuse("upload", ProtocolError, name=name, size=1)
    assert hall.ask("upload", name=MINE, size=6)["ticket"] == "ticket"


def test_a_service_that_exports_nothing_shows_none_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "authorized_users").write_text("secret")
    hall = Hall(tmp_path)
    hall.refuse("file", UnknownName, url="trun://here/export/authorized_users")
    hall.refuse("file", UnknownName, url="trun://here/jobs/nobody/files/x")
    hall.refuse("file", UnknownName, url="trun://elsewhere/export/x")
    hall.refuse("file", BadOption, url="trun://here/export/../authorized_users")


def test_a_file_below_the_export_folder_is_given(tmp_path: Path) -> None:
    export = tmp_path / "data"
    export.mkdir()
    (export / "a.dat").write_text("abc")
    hall = Hall(tmp_path, export)
    found = hall.ask("file", url="trun://k/export/a.dat")
    assert (found["size"], found["ticket"]) == (3, "ticket")
