"""The engine between fakes: nothing is acknowledged, started or published before its commit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trun.adapters.memory import MemoryJournal
from trun.core.machine import Machine
from trun.engine.loop import Engine
from trun.engine.views import VIEWS
from trun.errors import StateFull
from trun.messages import (
    Answer,
    AnyReport,
    AnyRequest,
    Ask,
    Call,
    Cancel,
    Completed,
    Credit,
    Define,
    Do,
    Drain,
    Ended,
    Entries,
    GroupSpec,
    Hello,
    Hold,
    JobSpec,
    Payload,
    Refuse,
    Release,
    Retry,
    Said,
    SetAtom,
    Submit,
    Tell,
    Welcome,
)
from trun.testing import ManualClock, RecordingEndpoint, RecordingJournal, ScriptedExecutor

PEER = b"client"


class House:
    """An engine, its fakes, and a client that has said hello."""

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.journal = journal or RecordingJournal()
        self.executor = ScriptedExecutor(slots=2)
        self.endpoint = RecordingEndpoint()
        self.clock = ManualClock()
        self.engine = Engine(
            machine=Machine(),
            journal=self.journal,
            executor=self.executor,
            endpoint=self.endpoint,
            clock=self.clock,
            welcome=Welcome(service_key="k", name="house", epoch=1),
            views=dict(VIEWS),
        )
        if journal is not None:
            self.engine.recover()
        self.say(Hello(session="s"), Credit(entries=1000), Define(digest="f", data=b"function"))
        assert isinstance(self.endpoint.take(PEER)[0], Welcome)

    def say(self, *requests: AnyRequest) -> None:
        self.endpoint.put(PEER, *requests)
        self.engine.step([(peer, request) for peer, batch in self.endpoint.receive() for request in batch])

    def run(self) -> None:
        reports: list[AnyReport] = self.executor.poll(self.clock.now())
        self.engine.step([(b"", report) for report in reports])

    def heard(self) -> list[str]:
        return [type(entry.event).__name__ for entry in self.endpoint.take_entries(PEER)]


def job(uid: str, when: bytes = b"", group: str = "") -> JobSpec:
    return JobSpec(uid=uid, name=uid, session="s", call=Call("f", Payload(b"arguments")), when=when, group=group)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.endpoint.close()
    made.executor.close()


def test_a_job_is_committed_before_it_is_acknowledged_and_started(house: House) -> None:
    house.journal.fail_next(StateFull())

    house.say(Submit(specs=(job("a"),)))

    assert house.endpoint.take(PEER) == []
    assert house.executor.room().idle == 2

    house.say()

    assert house.heard() == ["Submitted", "Queued", "Started"]
    assert house.executor.take_order("a").function == b"function"


def test_what_a_lost_attempt_says_late_is_dropped_and_counted(house: House) -> None:
    house.say(Submit(specs=(job("a"),)))
    first = house.executor.take_order("a")
    house.executor.lose("a")
    house.run()
    second = house.executor.take_order("a")
    house.executor.report(Ended(uid="a", epoch=first.epoch, outcome=Completed(values={"result": 1})))
    house.run()
    house.executor.complete("a", 2)
    house.run()

    assert (first.epoch, second.epoch) == (1, 2)
    (outcome,) = [entry for entry in house.journal.entries("a") if isinstance(entry.event, Completed)]
    assert outcome.event.values == {"result": 2}
    assert VIEWS["summary"](house.engine, {})["irregular"] == {"fenced": 1}


def test_a_result_is_handed_to_the_dependent(house: House) -> None:
    when = b'{"atom":"job","is":"completed","uid":"a","v":1}'
    dependent = JobSpec(uid="b", name="b", session="s", call=Call("f", Payload(b"x")), when=when, inputs=("a",))
    house.say(Submit(specs=(job("a"), dependent)))
    house.executor.take_order("a")

    house.executor.complete("a", result=Payload(b"result of a"))
    house.run()

    assert house.executor.take_order("b").inputs == {"a": Payload(b"result of a")}


def test_while_the_disk_is_full_submissions_are_refused_and_outcomes_are_written(house: House) -> None:
    house.say(Submit(specs=(job("a"),)))
    house.executor.take_order("a")
    house.endpoint.take(PEER)
    house.journal.full = True

    house.say(Submit(specs=(job("b"),)))
    refused = house.endpoint.take(PEER)
    house.executor.complete("a")
    house.run()

    assert [type(answer) for answer in refused] == [Refuse]
    assert refused[0].uids == ("b",)
    assert house.heard() == ["Completed"]
    assert house.engine.is_short_of_space


def test_while_the_disk_is_full_what_was_accepted_is_not_refused_when_it_is_said_again(house: House) -> None:
    house.say(Submit(specs=(job("a"),)))
    house.endpoint.take(PEER)
    house.journal.full = True

    house.say(Submit(specs=(job("a"),)))

    assert house.heard() == ["Submitted", "Queued", "Started"]
    assert not any(isinstance(answer, Refuse) for answer in house.endpoint.take(PEER))
    house.executor.take_order("a")


def test_the_stream_of_a_group_goes_on_after_a_restart() -> None:
    first = House()
    first.say(Submit(specs=(job("a", group="g"), job("b", group="g")), groups=(GroupSpec("g", "g", 2),)))
    for uid in "ab":
        first.executor.complete(uid)
        first.run()
    before = first.journal.last("g")
    first.say(Do(token="1", request=Retry(uids=("a",))))
    again = House(first.journal.reopen())
    again.executor.complete("a")
    again.run()

    assert before
    assert [entry.seq for entry in again.journal.entries("g")] == list(range(1, again.journal.last("g") + 1))
    assert again.journal.last("g") > before
    for house in (first, again):
        house.endpoint.close()
        house.executor.close()


def test_what_nobody_asked_for_is_told_with_what_follows_from_it(house: House) -> None:
    house.engine.keeps = True
    when = b'{"atom":"job","is":"completed","uid":"a","v":1}'
    house.say(Submit(specs=(job("a"), job("b", when))))
    assert house.heard() == ["Submitted", "Submitted", "Queued", "Waiting", "Started"]

    house.executor.complete("a")
    house.run()
    assert house.heard() == []

    house.executor.complete("b")
    house.run()
    assert house.heard() == ["Completed", "Queued", "Started", "Completed"]


def test_what_was_kept_is_told_before_an_answer(house: House) -> None:
    house.engine.keeps = True
    when = b'{"atom":"job","is":"completed","uid":"a","v":1}'
    house.say(Submit(specs=(job("a"), job("b", when))))
    house.endpoint.take(PEER)
    house.executor.complete("a")
    house.run()

    house.say(Ask(token="1", verb="ping"))

    assert [type(answer) for answer in house.endpoint.take(PEER)] == [Entries, Answer]
    house.engine.speak()
    assert house.endpoint.take(PEER) == []


def test_a_refused_batch_leaves_no_trace(house: House) -> None:
    circle = [
        job("a", b'{"atom":"job","is":"completed","uid":"b","v":1}'),
        job("b", b'{"atom":"job","is":"completed","uid":"a","v":1}'),
    ]

    house.say(Submit(specs=tuple(circle)))

    (refused,) = house.endpoint.take(PEER)
    assert isinstance(refused, Refuse)
    assert "circle" in refused.error.message
    assert house.engine.machine.records == {}


def test_what_follows_from_a_replay_is_heard_after_what_came_before_it(house: House) -> None:
    house.say(Submit(specs=(job("a"),)))
    house.executor.emit("a", Said(name="other"))
    house.executor.complete("a")
    house.run()
    house.heard()

    house.say(Submit(specs=(job("b", b'{"atom":"job","is":"message","arg":"note","uid":"a","v":1}'),)))

    assert house.heard() == ["Submitted", "Waiting", "Cancelled"]


@pytest.mark.parametrize(
    "order",
    [
        Cancel(uids=("nobody",)),
        Hold(uids=("nobody",)),
        Release(uids=("nobody",)),
        Retry(uids=("nobody",)),
        Tell(uid="nobody", token="1", text="x"),
        SetAtom(key="nobody", value=9),
    ],
)
def test_an_order_that_cannot_be_followed_ends_no_service(house: House, order: AnyRequest) -> None:
    house.say(order)
    house.say(Submit(specs=(job("a"),)))

    assert house.executor.take_order("a")
    assert house.heard() == ["Submitted", "Queued", "Started"]


def test_requests_are_answered_after_what_they_caused(house: House) -> None:
    house.say(Submit(specs=(job("a"),)))
    house.executor.take_order("a")
    house.endpoint.take(PEER)

    house.say(Do(token="1", request=Cancel(uids=("a",))), Ask(token="2", verb="nope"), Drain(token="3"))
    answers = {answer.token: answer for answer in house.endpoint.take(PEER) if isinstance(answer, Answer)}

    assert answers["1"].error is None
    assert "no verb" in answers["2"].error.message
    assert "3" not in answers

    house.executor.take_stopped()
    house.executor.abort("a")
    house.run()

    assert [a.token for a in house.endpoint.take(PEER) if isinstance(a, Answer)] == ["3"]


def test_a_restart_finds_everything_again(house: House) -> None:
    when = b'{"atom":"job","is":"completed","uid":"a","v":1}'
    house.say(Submit(specs=(job("a"), job("b", when))))
    house.executor.take_order("a")

    machine, executor = Machine(epoch=2), ScriptedExecutor(slots=1)
    again = Engine(
        machine=machine,
        journal=house.journal,
        executor=executor,
        endpoint=None,
        clock=house.clock,
        welcome=house.engine.welcome,
        views={},
    )
    again.recover()
    order = executor.take_order("a")
    executor.complete("a")
    again.step([(b"", report) for report in executor.poll(0.0)])

    assert order.epoch == 2
    assert executor.take_order("b").uid == "b"
