"""Strange questions, and too many of them; and what the audit log says."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.unit.engine.gates import HERE, ME, OTHER, THERE, House, errors, job
from trun.core.rights import VERBS
from trun.engine import quotas
from trun.engine.sessions import DRAINS, LONGEST_TOKEN
from trun.errors import NotAuthorised
from trun.messages import (
    Answer,
    Ask,
    Call,
    Credit,
    Define,
    Do,
    Drain,
    GroupSpec,
    Hello,
    Listen,
    Payload,
    Refuse,
    SetAtom,
    Submit,
    Suspend,
    Unlisten,
)


@pytest.mark.parametrize("verb", sorted(VERBS))
@pytest.mark.parametrize(
    "arguments",
    [{}, {"job": []}, {"job": None, "uid": {"x": 1}}, {"job": 2**63, "limit": "x", "url": "trun://here/export/%ff"}],
)
def test_a_strange_question_ends_no_service(house: House, verb: str, arguments: dict[str, Any]) -> None:
    house.let_in(HERE, ME, "read", "submit", "upload", "admin")
    for answer in house.say(HERE, Ask(token="t", verb=verb, arguments={**arguments, "since": "x", "expires": "y"})):
        assert isinstance(answer, Answer)
    assert house.say(HERE, Ask(token="t", verb="ping"))[0].error is None


def test_a_stranger_is_answered_a_few_times_and_then_costs_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trun.audit")
    house.endpoint.users[HERE] = ME
    answers = house.say(HERE, *(Submit(specs=(job(f"a{n}"),)) for n in range(3000)))
    assert 1 <= len(answers) <= 10
    assert ME in errors(answers)
    assert len(caplog.records) < 20
    assert house.records == {}


def test_each_decision_is_a_line_of_the_audit_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.let_in(HERE, ME, "submit")
    caplog.set_level("INFO", "trun.audit")
    caplog.clear()
    house.say(HERE, Submit(specs=(job("a"),)), Ask(token="t", verb="ps"), Suspend(uid="a", epoch=1))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["allowed", "denied", "denied"]
    assert all(ME in record.getMessage() for record in caplog.records)


def test_one_user_has_so_many_unfinished_jobs_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "JOBS", 3)
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Submit(specs=tuple(job(f"a{n}") for n in range(3))))
    assert "cancel some" in errors(house.say(HERE, Submit(specs=(job("b"),))))
    house.let_in(THERE, OTHER, "submit")
    house.say(THERE, Submit(specs=(job("c"),)))
    assert set(house.records) == {"a0", "a1", "a2", "c"}


def test_a_list_of_many_jobs_costs_more_than_a_list_of_a_few() -> None:
    def asked(verb: str, jobs: int, **arguments: Any) -> int:
        made, count = quotas.Quotas(), 0
        with contextlib.suppress(NotAuthorised):
            while count < 10_000:
                made.take(ME, Ask(token="t", verb=verb, arguments=arguments), 0.0, jobs)
                count += 1
        return count

    assert asked("ps", 20_000) < asked("ps", 1_000) / 10
    assert asked("ps", 20_000, limit=10) > 10 * asked("ps", 20_000)
    assert asked("ps", 20_000, limit=-1) == asked("ps", 20_000, limit="x") == asked("ps", 20_000)
    assert asked("jobs", 10**9) == 4  # whoever waits can ask, however many there are


def test_streams_that_are_too_many_are_refused_in_one_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "STREAMS", 2)
    house.let_in(HERE, ME, "read")
    (answer,) = house.say(HERE, Listen(streams=tuple((f"s{n}", 1) for n in range(1000))))
    assert isinstance(answer, Refuse)
    assert answer.uids == tuple(f"s{n}" for n in range(2, 1000))


def test_one_connection_listens_to_so_many_streams(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "STREAMS", 2)
    house.let_in(HERE, ME, "read")
    refused = house.say(HERE, Listen(streams=tuple((f"s{n}", 1) for n in range(3))))
    assert [answer.uids for answer in refused] == [("s2",)]
    assert errors(house.say(HERE, Listen(streams=(("s3", 1),))))
    house.say(HERE, Unlisten(streams=("s0",)))
    assert house.say(HERE, Listen(streams=(("s3", 1),))) == []


def test_too_many_requests_are_refused_at_once_and_taken_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = quotas.Quotas()
    ask = Ask(token="t", verb="ping")
    for _ in range(int(quotas.REQUESTS)):
        bucket.take(ME, ask, 0.0)
    with pytest.raises(NotAuthorised, match="too many requests"):
        bucket.take(ME, ask, 0.0)
    bucket.take(OTHER, ask, 0.0)
    bucket.take(ME, ask, 1.0)
    monkeypatch.setattr(quotas, "USERS", 5)
    for n in range(100):
        bucket.take(str(n), ask, 1.0)
    assert len(bucket) == 5


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "BYTES", 10.0)
    bucket = quotas.Quotas()
    with pytest.raises(NotAuthorised, match="too many bytes"):
        bucket.take(ME, Define(digest="d", data=b"12345678901"), 0.0)
    with pytest.raises(NotAuthorised, match="too many bytes"):
        bucket.take(ME, Submit(specs=(job("a", call=Call("f", Payload(b"12345678901"))),)), 0.0)


def test_nothing_is_kept_of_peers_and_sessions_that_have_gone(house: House) -> None:
    house.powers.people[ME] = frozenset({"read", "submit"})
    for n in range(50):
        peer = b"\0%d" % n
        house.endpoint.users[peer] = ME
        house.say(peer, Hello(session=f"s{n}"), Hello(session=f"t{n}"), Listen(streams=(("x", 1),)))
        house.engine.forget(peer)
    assert house.engine.peers == {}
    assert house.engine.sessions == {}
    assert house.gate.user(b"\x000") == ""
    assert house.engine.streams.count(b"\x000") == 0


# -- who does not stop, and who does not read -------------------------------------------------------------------------


def test_who_does_not_heed_that_it_asks_too_much_is_muted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "REQUESTS", 50.0)
    monkeypatch.setattr(quotas, "REQUESTS_S", 0.0)
    monkeypatch.setattr(quotas, "HEEDED", 20)
    house.let_in(HERE, ME, "read")
    house.let_in(THERE, OTHER, "read")
    house.say(HERE, *[Ask(token="t", verb="ping")] * 60)
    assert house.wire.muted == []
    house.say(HERE, *[Ask(token="t", verb="ping")] * 20)
    assert house.wire.muted == [ME]
    assert house.say(THERE, Ask(token="t", verb="ping"))[0].error is None


def test_a_stranger_that_goes_on_is_muted(house: House) -> None:
    house.endpoint.users[HERE] = ME
    house.say(HERE, *[Ask(token="t", verb="ps")] * 200)
    assert house.wire.muted == []
    house.say(HERE, *[Ask(token="t", verb="ps")] * 10)
    assert set(house.wire.muted) == {ME}


def test_the_streams_of_who_does_not_read_wait_and_go_on_once_it_does(house: House) -> None:
    house.let_in(HERE, ME, "read", "submit")
    house.wire.left[HERE] = 10**9
    house.pass_time()
    assert house.say(HERE, Submit(specs=(job("a"),)), Credit(entries=10)) == []
    assert house.say(HERE, Ask(token="t", verb="ping"))[0].error is None
    house.pass_time()
    assert house.endpoint.take(HERE) == []
    house.wire.left[HERE] = 0
    house.pass_time()
    house.engine.step([])
    entries = [entry for answer in house.endpoint.take(HERE) for entry in answer.entries]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert {entry.stream for entry in entries} == {"a"}


def test_atoms_that_no_job_waits_for_are_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "AHEAD", 3.0)
    house.let_in(HERE, ME, "submit")
    answers = house.say(HERE, *(Do(token=f"t{n}", request=SetAtom(key=f"atom:{n}", value=4)) for n in range(9)))
    assert [answer.error is None for answer in answers] == [True] * 3 + [False] * 6
    assert "no job of yours waits for" in errors(answers)


def test_who_asks_for_the_end_for_ever_is_remembered_some_times(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Hello(session="s"), Submit(specs=(job("a", hold=True),)))
    house.say(HERE, *(Drain(token="x" * 10_000 + str(n)) for n in range(1_000)))
    (session,) = [one for one in house.engine.sessions.values() if one.drains]
    assert len("".join(session.drains)) <= DRAINS * LONGEST_TOKEN


def test_groups_cost_what_they_take() -> None:
    groups = tuple(GroupSpec(f"g{n}", "g") for n in range(1_000))
    assert quotas.price(Submit(specs=(), groups=groups))[0] > 1_000
    assert quotas.price(Ask(token="t", verb="downstream"), 10_000)[0] > 100
