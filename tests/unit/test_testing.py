"""The fakes: they play their part, and say what was left."""

from __future__ import annotations

import select

import pytest

from samples import accepted, entry, spec
from trun.errors import StateFull
from trun.messages import (
    Aborted,
    Adopted,
    Answer,
    Completed,
    Emitted,
    Ended,
    Entries,
    Failed,
    Hello,
    Improved,
    Missing,
    Progress,
    ResourcesLowered,
    Returned,
)
from trun.ports import Batch, Order, Room
from trun.testing import ManualClock, RecordingEndpoint, RecordingJournal, ScriptedExecutor, assert_nothing_left


def order(uid: str, epoch: int = 1) -> Order:
    return Order(
        uid=uid, epoch=epoch, run=1, attempt=1, id=f"fit#{uid}", spec=spec(uid), function=b"", context=b"", inputs={}
    )


def test_a_manual_clock_moves_only_when_told_to_and_never_back() -> None:
    clock = ManualClock(5.0)

    assert clock.now() == clock.now() == 5.0
    clock.advance(2.0)
    assert clock.now() == 7.0
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1.0)


def test_a_journal_tells_what_was_committed_and_what_was_not_taken() -> None:
    journal = RecordingJournal()
    batch = accepted(1, "a")
    journal.commit(batch)
    batch.entries.clear()

    with pytest.raises(AssertionError, match="1 commits left"):
        journal.assert_nothing_left()
    assert journal.take().entries == [(1, entry("a", 1))]
    with pytest.raises(AssertionError, match="nothing was committed"):
        journal.take()
    journal.commit(Batch(entries=[(1, entry("a", 2))]))
    assert journal.take_entries() == [entry("a", 2)]
    journal.assert_nothing_left()


def test_a_journal_fails_as_often_as_told_and_then_works() -> None:
    journal = RecordingJournal()
    journal.fail_next(StateFull("full"), times=2)

    for _ in range(2):
        with pytest.raises(StateFull):
            journal.commit(accepted(1, "a"))
    journal.commit(accepted(1, "a"))

    assert len(journal.take().specs) == 1
    journal.fail_next(StateFull("full"))
    with pytest.raises(AssertionError, match="failures that never came"):
        journal.assert_nothing_left()


def test_an_endpoint_separates_entries_from_other_answers() -> None:
    endpoint = RecordingEndpoint()
    endpoint.put(b"ann", Hello(session="ann"))
    with pytest.raises(AssertionError, match="batches that nobody received"):
        endpoint.assert_nothing_left()
    assert endpoint.receive() == [(b"ann", [Hello(session="ann")])]
    assert not select.select(endpoint.fds(), [], [], 0)[0]

    assert endpoint.send(b"ann", [Answer(token="1"), Entries(entries=(entry("a", 1),))])

    assert endpoint.take_entries(b"ann") == [entry("a", 1)]
    with pytest.raises(AssertionError, match="1 answers left"):
        endpoint.assert_nothing_left()
    assert endpoint.take(b"ann") == [Answer(token="1")]
    assert_nothing_left(endpoint)
    endpoint.close()


def test_an_executor_takes_what_fits_and_reports_what_the_test_says() -> None:
    executor = ScriptedExecutor(2, ahead=1)
    executor.open()
    executor.submit([order(uid) for uid in "abc"])
    executor.submit([order("a")])
    assert executor.room() == Room(idle=0, ahead=0)
    assert [executor.take_order().uid, executor.take_order("c").uid, executor.take_order().uid] == ["a", "c", "b"]

    executor.emit("a", Progress(fraction=0.5), Improved(values={"chisq": 1.0}))
    executor.emit("a", Progress(fraction=1.0))
    executor.complete("a", {"chisq": 1.0})
    executor.fail("b", "no")
    executor.lower("c", gpu=1.0)
    executor.abort("c", "user")

    assert select.select(executor.fds(), [], [], 0)[0]
    first, second, done, failed, lowered, aborted = executor.poll(0.0)
    assert isinstance(first, Emitted)
    assert isinstance(second, Emitted)
    assert (first.first, second.first) == (1, 3)
    assert isinstance(done, Ended)
    assert isinstance(done.outcome, Completed)
    assert done.outcome.values == {"chisq": 1.0}
    assert isinstance(failed, Ended)
    assert isinstance(failed.outcome, Failed)
    assert lowered == ResourcesLowered(uid="c", epoch=1, resources={"gpu": 1.0})
    assert aborted == Ended(uid="c", epoch=1, outcome=Aborted(reason="user"))
    assert executor.poll(0.0) == []
    assert executor.room() == Room(idle=2, ahead=1)
    assert executor.next_deadline() is None
    assert executor.log_path("a", 1, 1) is None
    executor.assert_nothing_left()
    executor.close()
    executor.close()


def test_an_executor_gives_back_and_loses_and_finds() -> None:
    executor = ScriptedExecutor(2)
    executor.submit([order("a"), order("b")])
    executor.take_order()
    executor.take_order()

    executor.give_back("a")
    executor.lose("b", "node gone")
    executor.adopt("c", 3)

    assert executor.poll(0.0) == [
        Returned(uid="a", epoch=1),
        Missing(uid="b", epoch=1, reason="node gone"),
        Adopted(uid="c", epoch=3),
    ]
    executor.close()


def test_an_executor_notes_demands_for_what_runs_and_ignores_others() -> None:
    executor = ScriptedExecutor()
    executor.submit([order("a", epoch=2)])
    executor.take_order("a")

    executor.cancel("a", 1, grace=1.0, reason="an old attempt")
    executor.cancel("b", 1, grace=1.0, reason="unknown")
    executor.cancel("a", 2, grace=1.0, reason="user")
    executor.tell("a", 2, "t", "faster")
    executor.suspend("a", 2)
    assert executor.room().idle == 1
    executor.resume("a", 2)
    assert executor.room().idle == 0

    assert executor.take_stopped().reason == "user"
    assert executor.take_message().text == "faster"
    for take in (executor.take_stopped, executor.take_message, executor.take_order):
        with pytest.raises(AssertionError):
            take()
    with pytest.raises(AssertionError, match="1 running attempts left"):
        executor.assert_nothing_left()
    with pytest.raises(AssertionError, match="b does not run"):
        executor.complete("b")
    executor.close()
