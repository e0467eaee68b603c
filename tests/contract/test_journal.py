"""What every journal promises (``ports.Journal``), run on each implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from samples import accepted, entry, life, spec
from trun.adapters.memory import MemoryJournal
from trun.adapters.sqlite import SqliteJournal
from trun.core.record import JobState
from trun.errors import InvariantError
from trun.messages import (
    FINAL,
    Aborted,
    AnyEvent,
    Attempted,
    Blob,
    Cancelled,
    Completed,
    Counted,
    ErrorInfo,
    Failed,
    Improved,
    Payload,
    Submitted,
)
from trun.ports import Batch, Journal
from trun.testing import RecordingJournal

#: Opens the journal again as after a restart, given the one that was open before.
Reopen = Callable[[Journal], Journal]


@pytest.fixture(params=["memory", "recording", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Journal, Reopen]]:
    with ExitStack() as stack:
        if request.param == "sqlite":

            def open_again(before: Journal | None = None) -> Journal:
                if before is not None:
                    before.close()
                journal = SqliteJournal(tmp_path / "state")
                stack.callback(journal.close)
                return journal

            yield open_again(), open_again
        else:
            journal = MemoryJournal() if request.param == "memory" else RecordingJournal()
            yield journal, lambda before: before.reopen()  # type: ignore[attr-defined]


@pytest.fixture
def journal(opened: tuple[Journal, Reopen]) -> Journal:
    return opened[0]


def test_a_new_journal_is_empty_and_has_a_key_and_its_first_epoch(journal: Journal) -> None:
    meta = journal.meta()

    assert meta["epoch"] == "1"
    assert len(meta["service_key"]) >= 16
    assert meta["version"]
    assert list(journal.jobs()) == []
    assert list(journal.groups()) == []
    assert journal.entries("condition") == []


def test_the_key_stays_and_the_epoch_grows_with_each_opening(opened: tuple[Journal, Reopen]) -> None:
    journal, reopen = opened
    key = journal.meta()["service_key"]

    again = reopen(journal)
    third = reopen(again)

    assert [again.meta()["epoch"], third.meta()["epoch"]] == ["2", "3"]
    assert third.meta()["service_key"] == key


def test_two_journals_have_different_keys(tmp_path: Path) -> None:
    one, two = SqliteJournal(tmp_path / "one"), SqliteJournal(tmp_path / "two")

    assert one.meta()["service_key"] != two.meta()["service_key"]

    one.close()
    two.close()


def test_what_was_committed_can_be_read(journal: Journal) -> None:
    journal.commit(accepted(1, "a"))

    (stored,) = journal.jobs()

    assert (stored.number, stored.spec, stored.life) == (1, spec("a"), life(1))
    assert journal.entries("a") == [entry("a", 1)]
    assert journal.entry("a", 1) == entry("a", 1)


def test_what_was_committed_is_there_after_a_restart(opened: tuple[Journal, Reopen]) -> None:
    journal, reopen = opened
    journal.commit(accepted(1, "a"))
    journal.commit(
        Batch(
            lives=[(1, life(1, JobState.RUNNING))],
            entries=[(1, entry("a", 2)), (0, entry("condition", 1))],
            groups=[("g", b"group")],
            definitions=[("d", b"function")],
        )
    )

    again = reopen(journal)

    assert [stored.life for stored in again.jobs()] == [life(1, JobState.RUNNING)]
    assert [found.seq for found in again.entries("a")] == [1, 2]
    assert again.entries("condition") == [entry("condition", 1)]
    assert list(again.groups()) == [("g", b"group")]
    assert again.definition("d") == b"function"


def test_jobs_come_in_order_of_number(journal: Journal) -> None:
    for number in (3, 1, 2):
        journal.commit(accepted(number, f"job{number}"))

    assert [stored.number for stored in journal.jobs()] == [1, 2, 3]


def test_live_jobs_are_those_that_are_not_over(journal: Journal) -> None:
    for number, state in enumerate((state for state in JobState if state is not JobState.UNKNOWN), start=1):
        journal.commit(Batch(specs=[(number, spec(state.value))], lives=[(number, life(number, state))]))

    found = {stored.spec.uid for stored in journal.jobs(live_only=True)}

    assert found == {"new", "held", "waiting", "queued", "running", "lost"}


def test_a_job_that_ends_and_is_retried_is_live_again(journal: Journal) -> None:
    journal.commit(accepted(1, "a"))
    journal.commit(Batch(lives=[(1, life(1, JobState.FAILED))]))
    assert list(journal.jobs(live_only=True)) == []

    journal.commit(Batch(lives=[(1, life(1, JobState.WAITING, run=2))]))

    assert [stored.number for stored in journal.jobs(live_only=True)] == [1]


def test_the_last_life_wins_also_within_a_batch(journal: Journal) -> None:
    journal.commit(Batch(specs=[(1, spec("a"))], lives=[(1, life(1)), (1, life(1, JobState.QUEUED))]))

    assert [stored.life for stored in journal.jobs()] == [life(1, JobState.QUEUED)]


def test_entries_are_read_from_a_number_on_and_at_most_so_many(journal: Journal) -> None:
    journal.commit(accepted(1, "a"))
    journal.commit(Batch(entries=[(1, entry("a", seq)) for seq in range(2, 11)]))

    assert [found.seq for found in journal.entries("a", 4, 3)] == [4, 5, 6]
    assert [found.seq for found in journal.entries("a", 9)] == [9, 10]
    assert journal.entries("a", 11) == []
    assert journal.entry("a", 11) is None
    assert journal.entries("nobody") == []


def test_the_last_number_of_a_stream_is_known(journal: Journal) -> None:
    journal.commit(accepted(1, "a"))
    journal.commit(Batch(entries=[(1, entry("a", 2)), (0, entry("condition", 1))]))

    assert [journal.last(stream) for stream in ("a", "condition", "nobody")] == [2, 1, 0]


def test_streams_that_are_no_job_are_kept_by_name(journal: Journal) -> None:
    journal.commit(Batch(entries=[(0, entry("condition", 1)), (0, entry("service", 1)), (0, entry("condition", 2))]))

    assert [found.seq for found in journal.entries("condition")] == [1, 2]
    assert [found.stream for found in journal.entries("service")] == ["service"]


def test_an_entry_of_another_service_may_come_twice_and_the_first_counts(journal: Journal) -> None:
    first, second = entry("far", 7, time=1.0), entry("far", 7, time=2.0)
    journal.commit(Batch(entries=[(0, first)]))

    journal.commit(Batch(entries=[(0, second)]))

    assert journal.entries("far") == [first]


def test_an_entry_keeps_its_epoch_and_time_exactly(journal: Journal) -> None:
    made = entry("service", 1, epoch=41, time=1763721234.123456)
    journal.commit(Batch(entries=[(0, made)]))

    assert journal.entries("service") == [made]


def test_every_kind_of_event_comes_back_equal(journal: Journal) -> None:
    error = ErrorInfo(type="builtins.ValueError", message="no", traceback="tb", pickled=b"\0\1", exitcode=3)
    payload = Payload(data=b"x" * 5000, buffers=(b"inline", Blob("name", 1 << 30, "digest")))
    events: list[AnyEvent] = [
        Submitted(id="fit#1", when="a.iscompleted"),
        Improved(values={"chisq": 1.25, "good": True, "n": 3, "text": "µ", "none": None}),
        Attempted(attempt=1, kind="raised", error=error),
        Completed(result=payload, values={"x": [1, 2]}, seconds=0.25, peak_rss=1 << 40),
        Failed(kind="died", error=error),
        Aborted(reason="user"),
        Cancelled(reason="b failed", kind="never", root="b"),
        Counted(total=100_000, closed=True, completed=99_999, failed=1),
    ]
    journal.commit(accepted(1, "a"))
    journal.commit(Batch(entries=[(1, entry("a", seq, event)) for seq, event in enumerate(events, start=2)]))

    assert [found.event for found in journal.entries("a", 2)] == events
    assert sum(isinstance(found.event, FINAL) for found in journal.entries("a")) == 4


def test_a_definition_never_changes_and_an_unknown_one_is_none(journal: Journal) -> None:
    journal.commit(Batch(definitions=[("d", b"one"), ("d", b"two")]))
    journal.commit(Batch(definitions=[("d", b"three")]))

    assert journal.definition("d") == b"one"
    assert journal.definition("e") is None


def test_a_group_is_written_over(journal: Journal) -> None:
    journal.commit(Batch(groups=[("g", b"open")]))
    journal.commit(Batch(groups=[("g", b"closed"), ("h", b"open")]))

    assert dict(journal.groups()) == {"g": b"closed", "h": b"open"}


@pytest.mark.parametrize(
    "bad",
    [
        Batch(specs=[(2, spec("b")), (1, spec("c"))], lives=[(2, life(2))]),
        Batch(specs=[(2, spec("b")), (3, spec("a"))], lives=[(2, life(2))]),
        Batch(specs=[(2, spec("b"))], lives=[(2, life(2))], entries=[(1, entry("a", 1))]),
        Batch(specs=[(2, spec("b"))], entries=[(2, entry("b", 1)), (2, entry("b", 1))]),
    ],
    ids=["number", "uid", "entry", "entry in the batch"],
)
def test_what_is_there_already_is_refused_and_nothing_of_the_batch_is_kept(journal: Journal, bad: Batch) -> None:
    journal.commit(accepted(1, "a"))

    with pytest.raises(InvariantError, match="already"):
        journal.commit(bad)

    assert [stored.spec.uid for stored in journal.jobs()] == ["a"]
    assert [found.seq for found in journal.entries("a")] == [1]
    assert journal.entries("b") == []
    journal.commit(accepted(2, "b"))


def test_an_empty_batch_changes_nothing(journal: Journal) -> None:
    journal.commit(Batch())

    assert list(journal.jobs()) == []


def test_many_rows_are_written_whole(journal: Journal) -> None:
    count = 1234

    journal.commit(
        Batch(
            specs=[(n, spec(f"job{n}")) for n in range(1, count + 1)],
            lives=[(n, life(n)) for n in range(1, count + 1)],
            entries=[(n, entry(f"job{n}", 1)) for n in range(1, count + 1)],
        )
    )

    assert [stored.number for stored in journal.jobs()] == list(range(1, count + 1))
    assert all(journal.entry(f"job{n}", 1) is not None for n in range(1, count + 1))


def test_jobs_can_be_read_while_others_are_committed(journal: Journal) -> None:
    for number in range(1, 4):
        journal.commit(accepted(number, f"job{number}"))

    seen = []
    for stored in journal.jobs():
        seen.append(stored.number)
        journal.commit(Batch(lives=[(stored.number, life(stored.number, JobState.COMPLETED))]))

    assert seen == [1, 2, 3]
    assert list(journal.jobs(live_only=True)) == []
