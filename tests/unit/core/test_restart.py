"""A machine that was restored from the records goes on as the one that wrote them would have."""

from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import Or
from trun.conditions.atoms import Atom, IsCompleted, IsFailed, IsMessage, IsResult, Level, free
from trun.conditions.timing import after
from trun.core.record import Replay
from trun.messages import (
    Adopted,
    Cancel,
    Completed,
    Counted,
    Entry,
    GroupSpec,
    Hold,
    Improved,
    Missing,
    OwnerLeft,
    Relay,
    Release,
    ResourcesLowered,
    Retry,
    Said,
    SetAtom,
    Suspend,
    Tick,
)


def test_waiting_and_queued_jobs_go_on_as_they_were() -> None:
    service = Service()
    service.submit(
        spec("a"), spec("b", IsCompleted("a")), spec("c", IsCompleted("b"), hold=True), spec("d", priority=5)
    )
    again = service.restarted()
    assert again.states(*"abcd") == ["queued", "waiting", "held", "queued"]

    assert again.run() == ["d", "a"]
    again.complete("a")
    assert again.run() == ["b"]
    again.complete("b")
    again.send(Release(uids=("c",)))
    assert again.run() == ["c"]


def test_restoring_changes_nothing_by_itself() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")), spec("e"))
    service.submit(spec("c", IsFailed("e")), spec("d", hold=True))
    service.run(1)
    again = service.restarted()

    assert again.lives == service.lives
    assert again.entries == service.entries


def test_numbers_and_streams_go_on_without_a_gap() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")))
    service.run()
    service.complete("a")
    again = service.restarted()
    again.run()
    again.job("c")

    assert again.record("c").id == "c#3"
    assert [entry.epoch for entry in again.entries["b"]] == [1, 1, 1, 2]


def test_a_job_that_ran_is_started_again_once_it_is_reported_missing() -> None:
    service = Service()
    service.job("a")
    service.run()
    again = service.restarted()
    assert again.run() == []
    again.send(Missing(uid="a", epoch=1, reason="restart"))

    assert again.run() == ["a"]
    assert again.life("a").epoch == 2


def test_a_job_that_was_told_to_stop_is_not_started_again() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Cancel(uids=("a",), reason="enough"))
    again = service.restarted()
    again.send(Missing(uid="a", epoch=1))

    assert again.state("a") == "aborted"
    assert again.last("a").reason == "enough"  # type: ignore[attr-defined]


def test_resources_of_running_jobs_are_held_again() -> None:
    service = Service(resources={"gpu": 2})
    service.submit(*[spec(uid, resources={"gpu": 2 if uid == "a" else 1}) for uid in "abc"])
    service.run()
    service.send(ResourcesLowered(uid="a", epoch=1, resources={"gpu": 1}))
    service.run()
    again = service.restarted()

    assert again.machine.resources()["gpu"]["used"] == 2
    assert again.run() == []
    again.send(Adopted(uid="a", epoch=1))
    again.complete("a")
    assert again.run() == ["c"]


def test_a_suspended_job_holds_nothing_after_a_restart() -> None:
    service = Service(resources={"gpu": 1})
    service.job("a", resources={"gpu": 1})
    service.run()
    service.send(Suspend(uid="a", epoch=1))

    assert service.restarted().machine.resources()["gpu"]["used"] == 0


def test_a_delay_goes_on_where_it_was() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=10.0)
    service.run()
    service.fail("a")
    service.now += 4
    again = service.restarted()
    assert again.machine.next_deadline() == 1010.0
    again.wait(6)

    assert again.run() == ["a"]
    assert again.life("a").attempt == 2


def test_spans_count_from_the_original_submission() -> None:
    service = Service()
    service.submit(spec("x"), spec("a", after("10s")), spec("b", IsCompleted("x").within("20s")))
    service.now += 8
    again = service.restarted()
    again.wait(2)
    assert again.states("a", "b") == ["queued", "waiting"]
    again.wait(10)

    assert again.state("b") == "cancelled"


def test_a_deadline_that_passed_while_the_service_was_down_counts() -> None:
    service = Service()
    service.submit(spec("x"), spec("a", after("10s")), spec("b", IsCompleted("x").within("20s")))
    service.now += 100
    again = service.restarted()
    again.send(Tick())

    assert again.states("a", "b") == ["queued", "cancelled"]


def test_a_ready_job_that_runs_anyway_stays_ready_when_its_deadline_passes_meanwhile() -> None:
    service = Service()
    service.submit(spec("x"), spec("a", IsCompleted("x").within("20s"), on_never="run"))
    service.run(1)
    service.complete("x")
    assert service.state("a") == "queued"
    service.now += 100
    again = service.restarted()

    assert again.run() == ["a"]


def test_a_condition_that_held_for_the_moment_is_looked_at_anew() -> None:
    service = Service()
    level = Level("beam")
    service.job("a", level)
    service.send(SetAtom(key=level.key, value=3, session="me"))
    assert service.state("a") == "queued"
    again = service.restarted()
    assert again.state("a") == "waiting"
    again.send(SetAtom(key=level.key, value=3, session="me"))

    assert again.run() == ["a"]


def test_a_client_that_is_not_back_yet_is_not_taken_for_silence() -> None:
    service = Service()
    beam = Level("beam")
    service.send(SetAtom(key=beam.key, value=3, session="me"))
    service.job("a", ~beam)
    again = service.restarted()
    assert again.state("a") == "waiting"
    assert again.run() == []
    again.send(SetAtom(key=beam.key, value=2, session="me"))

    assert again.run() == ["a"]


def test_atoms_of_a_client_that_does_not_come_back_are_cancelled() -> None:
    service = Service()
    atom = Atom("go")
    service.send(SetAtom(key=atom.key, value=2, session="me"))
    service.job("a", atom, detach=True)
    again = service.restarted()
    again.send(OwnerLeft(session="me"))

    assert again.state("a") == "cancelled"
    assert "owner left" in again.last("a").reason  # type: ignore[attr-defined]


def test_a_condition_over_a_free_resource_holds_on() -> None:
    service = Service(resources={"gpu": 1})
    service.job("a", free("gpu", 1))
    again = service.restarted()

    assert again.kinds("a") == service.kinds("a")
    assert again.run() == ["a"]


def test_what_was_decided_on_an_old_run_stays_decided() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsFailed("a")))
    service.run()
    service.fail("a")
    service.send(Retry(uids=("a",)))
    again = service.restarted()

    assert again.states("a", "b") == ["queued", "queued"]


def test_words_said_before_the_restart_are_read_back() -> None:
    service = Service()
    service.submit(spec("a"), spec("x"))
    service.run()
    service.emit("a", Said(name="ready"), Improved(values={"chisq": 1.0}))
    service.submit(
        spec("b", IsMessage("a", "ready") & IsCompleted("x")), spec("c", IsResult("a", "chisq < 2") & IsCompleted("x"))
    )
    again = service.restarted()
    again.complete("x")

    assert again.states("b", "c") == ["queued", "queued"]


def test_a_decided_race_goes_on_waiting_for_its_winner() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    condition = Or(IsResult("a", "chisq < 1"), IsResult("b", "chisq < 1"))
    service.job("race", condition, kind="first", choices=("a", "b"), until="chisq < 1")
    service.run()
    service.emit("b", Improved(values={"chisq": 0.5}))
    again = service.restarted()
    again.complete("b", chisq=0.4)

    assert again.state("race") == "completed"
    assert again.life("race").winner == "b"


def test_an_open_race_goes_on() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("race", Or(IsCompleted("a"), IsCompleted("b")), kind="first", choices=("a", "b"))
    service.run()
    service.fail("a")
    again = service.restarted()
    again.complete("b")

    assert again.life("race").winner == "b"


def test_a_group_is_counted_again_from_its_members() -> None:
    service = Service()
    service.submit(*[spec(f"m{n}", group="g") for n in range(3)], groups=[GroupSpec("g", "g", 3)])
    service.job("all", IsCompleted("g"))
    service.run()
    service.complete("m0")
    again = service.restarted()
    again.complete("m1")
    assert again.state("all") == "waiting"
    again.complete("m2")

    assert again.state("all") == "queued"
    assert again.last("g") == Counted(total=3, closed=True, completed=3)


def test_a_held_job_may_be_released_after_the_restart() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")))
    service.send(Hold(uids=("a", "b")))
    again = service.restarted()
    assert again.states("a", "b") == ["held", "held"]
    again.send(Release(uids=("a", "b")))

    assert again.states("a", "b") == ["queued", "waiting"]


def test_a_job_held_for_its_dead_condition_says_so_once() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a"), on_never="hold"))
    service.run()
    service.fail("a")
    again = service.restarted()

    assert again.kinds("b") == service.kinds("b")
    assert again.life("b").root == "a"


def test_jobs_of_other_services_are_read_back_from_the_journal() -> None:
    service = Service(key="mine")
    service.submit(spec("x"), spec("a", IsCompleted("far", service_key="theirs") & IsCompleted("x")))
    entry = Entry("far", 1, 1, 5.0, Completed())
    service.send(Relay(service_key="theirs", entries=(entry,)))
    service.entries["far"] = [entry]
    again = service.restarted()
    again.run()
    again.complete("x")

    assert again.state("a") == "queued"


def test_a_restored_stream_that_nobody_has_is_no_fault() -> None:
    service = Service(key="mine")
    service.job("a", IsCompleted("far", service_key="theirs"))

    assert service.restarted().state("a") == "waiting"


@pytest.mark.parametrize("batch", [1, 3])
def test_jobs_may_wait_for_later_numbers(batch: int) -> None:
    service = Service()
    service.submit(spec("b", IsCompleted("a")), *[spec(f"x{n}") for n in range(batch)], spec("a"))
    again = service.restarted()
    assert again.state("b") == "waiting"
    again.run()
    again.complete("a")

    assert again.state("b") == "queued"
    assert not any(isinstance(replay, Replay) for replay in again.asked)
