"""What somebody says has happened on another service: it is for their own jobs, and for nobody else's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.gates import HERE, ME, THERE, House, errors, job
from trun.conditions import wire
from trun.conditions.atoms import IsCompleted, IsFailed
from trun.core.voices import plain, plain_keys, voiced
from trun.engine import quotas
from trun.messages import (
    Answer,
    Ask,
    Cancelled,
    Completed,
    Dismissed,
    Entries,
    Entry,
    Failed,
    JobSpec,
    Listen,
    Payload,
    Queued,
    Relay,
    Submit,
)

FAR = IsCompleted("far", service_key="there")


def _relay(value: bytes = b"forged", event: Any = None) -> Relay:
    event = event or Completed(result=Payload(value))
    return Relay(service_key="there", entries=(Entry("far", 1, 1, 0.0, event),))


def _waits(uid: str, **more: Any) -> JobSpec:
    return job(uid, **{"when": wire.dumps(FAR), "inputs": ("far",), **more})


def _state(house: House, uid: str) -> str:
    found: str = house.records[uid].life.state.value
    return found


def test_nobody_says_what_happened_elsewhere_for_the_jobs_of_others(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.say(THERE, Submit(specs=(_waits("waiting"),)))
    assert two.say(HERE, _relay())[-1].entries[-1].stream == "mine"
    assert _state(two, "waiting") == "waiting"
    assert _state(two, "mine") == "running"


def test_who_waits_beside_somebody_does_not_keep_their_news_from_them(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.say(THERE, Submit(specs=(_waits("waiting"),)))
    two.say(HERE, _relay(b"forged"))
    two.say(THERE, _relay(b"true"))
    assert two.executor.take_order("waiting").inputs == {"far": Payload(b"true")}
    assert two.executor.take_order("mine").inputs == {"far": Payload(b"forged")}


@pytest.mark.parametrize("event", [Completed(result=Payload(b"forged")), Failed(kind="raised"), Cancelled()])
def test_what_one_user_said_ahead_is_not_believed_for_another(two: House, event: Any) -> None:
    two.say(HERE, _relay(event=event))
    two.say(THERE, Submit(specs=(_waits("waiting"),)))
    two.engine.step([(b"", Submit(specs=(_waits("owners"),)))])
    assert _state(two, "waiting") == _state(two, "owners") == "waiting"
    assert two.engine.payloads.result("far") is None


def test_what_a_client_says_before_its_job_is_there_counts_for_it(two: House) -> None:
    two.say(HERE, _relay(b"true"))
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    assert two.executor.take_order("mine").inputs == {"far": Payload(b"true")}


def test_what_the_owner_says_is_for_the_owners_jobs(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.engine.step([(b"", Submit(specs=(_waits("owners"),)))])
    two.engine.step([(b"", _relay(b"true"))])
    assert _state(two, "mine") == "waiting"
    assert two.executor.take_order("owners").inputs == {"far": Payload(b"true")}


def test_no_stream_with_the_voice_of_another_is_taken_from_a_client(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    entry = Entry(voiced("far", ME), 1, 1, 0.0, Completed())
    two.say(THERE, Relay(service_key="there", entries=(entry,)))
    assert _state(two, "mine") == "waiting"
    assert errors(two.say(THERE, Listen(streams=((voiced("far", ME), 1),)))) == ""
    two.say(HERE, _relay(b"secret"))
    assert not [answer for answer in two.say(THERE) if isinstance(answer, Entries)]


def test_people_see_jobs_elsewhere_by_their_plain_names(two: House) -> None:
    two.let_in(HERE, ME, "read", "submit")
    two.say(HERE, Listen(streams=(("condition", 1),)))
    heard: list[Any] = two.say(HERE, Submit(specs=(_waits("mine"),)))
    heard += two.say(HERE, Ask(token="t", verb="why", arguments={"job": "mine"}))
    heard += two.say(HERE, Ask(token="t", verb="graph", arguments={}))
    heard += two.say(HERE, _relay(b"true"))
    heard += two.say(HERE, Ask(token="t", verb="why", arguments={"job": "mine"}))
    assert len([answer for answer in heard if isinstance(answer, Answer) and answer.error is None]) == 3
    assert "far" in repr(heard)
    assert "far@" not in repr(heard)
    events = [entry.event for answer in heard if isinstance(answer, Entries) for entry in answer.entries]
    assert [event.witness for event in events if isinstance(event, Queued)] == [("job:far:completed",)]


def test_the_end_of_a_job_elsewhere_is_told_by_its_plain_name(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.say(HERE, _relay(event=Failed(kind="raised")))
    assert _state(two, "mine") == "cancelled"
    assert two.records["mine"].life.root == "far"
    assert "far@" not in two.records["mine"].life.reason


def test_a_race_with_a_job_elsewhere_is_won_by_what_its_user_has_heard(two: House) -> None:
    when = wire.dumps(IsCompleted("slow") | FAR)
    race = job("race", kind="first", call=None, choices=("slow", "far"), when=when)
    two.say(HERE, Submit(specs=(job("slow", hold=True), race)))
    two.say(THERE, _relay(b"forged"))
    assert _state(two, "race") == "waiting"
    two.say(HERE, _relay(b"true"))
    assert (_state(two, "race"), two.records["race"].life.winner) == ("completed", "far")
    assert two.engine.payloads.result("race") == Payload(b"true")


def test_a_loser_elsewhere_is_let_go_unless_other_jobs_of_its_user_want_it(two: House) -> None:
    when = wire.dumps(IsCompleted("fast") | FAR)
    race = job("race", kind="first", call=None, choices=("fast", "far"), when=when)
    two.say(THERE, Submit(specs=(_waits("waiting"),)))
    two.say(HERE, Submit(specs=(job("fast"), race)))
    two.executor.complete("fast")
    two.engine.step([(b"", report) for report in two.executor.poll(two.clock.now())])
    two.engine.step([])
    (told,) = [answer for answer in two.endpoint.take(HERE) if isinstance(answer, Dismissed)]
    assert told.uids == ("far",)


def test_a_job_that_waits_for_failure_elsewhere_goes_by_its_own_users_word(two: House) -> None:
    when = wire.dumps(IsFailed("far", service_key="there"))
    two.say(HERE, Submit(specs=(job("mine", when=when),)))
    two.say(THERE, _relay(event=Failed(kind="raised")))
    assert _state(two, "mine") == "waiting"
    two.say(HERE, _relay(event=Failed(kind="raised")))
    assert _state(two, "mine") == "running"


def test_news_that_no_job_waits_for_is_bounded(two: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "AHEAD", 3.0)
    entries = tuple(Entry(f"far{n}", 1, 1, 0.0, Completed()) for n in range(4))
    assert errors(two.say(HERE, Relay(service_key="there", entries=entries[:3]))) == ""
    assert "Submit the job first" in errors(two.say(HERE, Relay(service_key="there", entries=entries[3:])))
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.say(HERE, _relay(b"true"))
    assert _state(two, "mine") == "running"


def test_a_name_with_a_voice_leads_back_to_its_uid() -> None:
    assert voiced("far", "") == "far"
    assert voiced("far", ME) != voiced("far", "x" * 40)
    assert plain(voiced("far", ME)) == plain("far") == "far"
    assert plain_keys((f"job:{voiced('far', ME)}:said:x@y", "atom:z"), ME) == ("job:far:said:x@y", "atom:z")
