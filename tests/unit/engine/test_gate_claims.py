"""What a peer claims about itself, about the jobs of others, and about atoms and functions: none of it is believed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.gates import HERE, ME, OTHER, THERE, FakeGrant, House, errors, job
from trun.adapters.pickles import digest_of
from trun.conditions import wire
from trun.conditions.atoms import Atom, IsCompleted, Level
from trun.engine import intake
from trun.messages import (
    Answer,
    Ask,
    Blob,
    Bye,
    Call,
    Cancel,
    Credit,
    Define,
    Do,
    GroupSpec,
    Hello,
    JobSpec,
    Listen,
    Origin,
    Payload,
    Present,
    Refuse,
    SetAtom,
    Submit,
)


@pytest.mark.parametrize("owner_is", ["somebody else", "the owner"])
def test_the_session_of_another_is_not_taken_over(house: House, owner_is: str) -> None:
    if owner_is == "the owner":
        house.say(b"\1own", Hello(session="s"), Credit(entries=10))
    else:
        house.let_in(b"\1own", OTHER, "read", "submit")
    house.let_in(HERE, ME, "read", "submit")

    answers = house.say(b"\1own", Submit(specs=(job("a", session="s"),)))

    assert [type(answer).__name__ for answer in answers] == ["Entries"]
    assert house.say(HERE) == []
    assert len({session.name for session in house.engine.sessions.values()}) == 2


def test_what_a_client_claims_about_its_job_is_not_believed(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Submit(specs=(job("a", owner="", session="root"), job("b", owner=OTHER, session="s"))))
    assert {record.spec.owner for record in house.records.values()} == {ME}
    assert {record.spec.session for record in house.records.values()} == {f"{ME}/s"}


def test_a_peer_cannot_stop_the_service(house: House) -> None:
    house.let_in(HERE, ME, "read", "submit", "upload")
    house.say(HERE, Bye(stop=True))
    assert not house.engine.stopping


@pytest.mark.parametrize("uid", ["../../etc/cron.d/x", "a/b", ".hidden", "fit#1", "", "x" * 200, "a\0b", "service"])
def test_names_that_lead_elsewhere_are_refused(house: House, uid: str) -> None:
    house.let_in(HERE, ME, "submit")
    answers = house.say(HERE, Submit(specs=(job(uid),), groups=()))
    answers += house.say(HERE, Submit(specs=(), groups=(GroupSpec(uid, "g"),)))
    assert house.records == {}
    assert all(isinstance(answer, Refuse) for answer in answers)
    assert answers


def test_a_session_has_a_plain_name(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    assert "session" in errors(house.say(HERE, Hello(session="../x")))


# -- the jobs of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        job("theirs"),
        job("a", inputs=("theirs",)),
        job("a", when=wire.dumps(IsCompleted("theirs"))),
        job("a", when=wire.dumps(IsCompleted("theirs") | Atom("x"))),
        job("a", kind="first", call=None, choices=("theirs",)),
        job("a", parent="theirs"),
        job("a", key="nightly", digest="d"),
        job("a", isolation="inline"),
        job("a", call=Call("f", Payload(b"", blob=Blob("../../etc/passwd", 1)))),
        job("a", call=Call("f", Payload(b"", buffers=(Blob(".x", 1),)))),
        job("a", origins=(Origin("k", "ipc:///run/user/0/service.sock", "", "", ("s",)),)),
        job("a", origins=(Origin("k", "tcp://host:1", "", "", ("s",)),)),
    ],
)
def test_what_is_somebody_elses_is_neither_waited_for_nor_joined(two: House, spec: JobSpec) -> None:
    answers = two.say(HERE, Submit(specs=(spec,)))
    assert [type(answer) for answer in answers] == [Refuse]
    assert set(two.records) == {"theirs"}
    assert two.records["theirs"].spec.owner == OTHER


def test_the_group_of_another_is_neither_joined_nor_closed_nor_heard(two: House) -> None:
    two.say(THERE, Submit(specs=(job("m", group="g"),), groups=(GroupSpec("g", "g"),)))
    assert "somebody else" in errors(two.say(HERE, Submit(specs=(job("a", group="g"),))))
    assert "somebody else" in errors(two.say(HERE, Submit(specs=(), groups=(GroupSpec("g", "g", 1),))))
    assert errors(two.say(HERE, Submit(specs=(job("a", when=wire.dumps(IsCompleted("g"))),))))
    assert errors(two.say(HERE, Listen(streams=(("g", 1),))))
    assert two.engine.machine.groups["g"].spec.total is None


def test_a_question_that_names_two_jobs_is_about_both(two: House) -> None:
    two.say(HERE, Submit(specs=(job("mine"),)))
    for arguments in ({"job": "mine", "uid": "theirs"}, {"uid": "theirs", "stream": "mine"}, {"uid": "theirs"}):
        for verb in ("result", "outcome", "blob"):
            (answer,) = [a for a in two.say(HERE, Ask(token="t", verb=verb, arguments=arguments)) if type(a) is Answer]
            assert answer.error is not None
            assert "theirs" in answer.error.message


def test_a_stream_of_a_job_to_come_is_not_heard_by_who_listened_first(two: House) -> None:
    assert two.say(HERE, Listen(streams=(("next", 1), ("mine", 1)))) == []
    two.say(THERE, Submit(specs=(job("next"),)))
    assert two.say(HERE) == []
    entries = two.say(HERE, Submit(specs=(job("mine"),)))[0].entries
    assert {entry.stream for entry in entries} == {"mine"}


def test_a_token_to_see_does_not_steer(two: House) -> None:
    grant = FakeGrant(("read", "cancel-loser"), "job:theirs")
    grant.user = ME
    two.powers.people[ME] = frozenset({"read"})
    two.powers.tokens["t"] = grant
    assert "admin" in errors(two.say(HERE, Present(tokens=("t",)), Do(token="t", request=Cancel(uids=("theirs",)))))
    assert not two.records["theirs"].life.state.is_final


def test_nobody_renews_for_the_jobs_of_the_owner(two: House) -> None:
    two.engine.step([(b"", Submit(specs=(job("owners"),)))])
    for uid in ("owners", "theirs", "nowhere"):
        assert "no such job" in errors(two.say(HERE, Ask(token="t", verb="renew", arguments={"job": uid, "token": ""})))


def test_a_key_in_use_is_not_made_a_session_of_somebody_else(two: House) -> None:
    two.powers.people[ME] = frozenset({"read", "submit"})
    found = two.say(HERE, Ask(token="t", verb="session", arguments={"key": OTHER, "expires": 1e12}))
    assert "in use" in errors(found)


# -- atoms and functions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["world:x", "free:cpu", "job:theirs:completed", "time:1", "", "atom:" + "x" * 1000])
def test_only_atoms_of_clients_are_set_by_clients(two: House, key: str) -> None:
    assert "not yours" in errors(two.say(HERE, Do(token="t", request=SetAtom(key=key, value=4))))


def test_the_atom_that_others_wait_for_is_not_set(two: House) -> None:
    atom = Atom("gate")
    two.say(THERE, Submit(specs=(job("waiting", when=wire.dumps(atom)),)))
    assert "not yours" in errors(two.say(HERE, Do(token="t", request=SetAtom(key=atom.key, value=4))))
    assert two.records["waiting"].life.state.value == "waiting"


def test_the_atom_is_free_again_once_the_job_that_waited_for_it_has_ended(two: House) -> None:
    gate, level = Atom("gate"), Level("level")
    when = wire.dumps(gate & ~level)
    two.say(THERE, Submit(specs=(job("waiting", when=when, hold=True),)))
    for atom in (gate, level):
        assert "not yours" in errors(two.say(HERE, Do(token="t", request=SetAtom(key=atom.key, value=4))))
    two.say(THERE, Do(token="t", request=Cancel(uids=("waiting",))))
    for atom in (gate, level):
        assert errors(two.say(HERE, Do(token="t", request=SetAtom(key=atom.key, value=4)))) == ""


def test_to_ask_for_an_atom_looks_at_no_job_that_does_not_mention_it(two: House) -> None:
    class Counted(dict[str, Any]):
        looks = 0

        def __getitem__(self, key: str) -> Any:
            Counted.looks += 1
            return super().__getitem__(key)

        def values(self) -> Any:
            raise AssertionError("all jobs were looked at")

    two.say(THERE, Submit(specs=tuple(job(f"j{n}", when=wire.dumps(Atom("x")), hold=True) for n in range(50))))
    two.engine.machine.book.records = Counted(two.records)
    assert intake.may_set(two.engine.machine, ME, Atom("mine").key)
    assert Counted.looks == 0


def test_a_function_is_kept_under_its_own_digest_alone(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Define(digest=digest_of(b"good"), data=b"evil"))
    assert house.engine.payloads.definition(digest_of(b"good")) == b""
    house.say(HERE, Define(digest=digest_of(b"good"), data=b"good"))
    assert house.engine.payloads.definition(digest_of(b"good")) == b"good"
