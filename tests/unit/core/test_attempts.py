"""Starts, ends, retries, losses: what executors report."""

from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.atoms import IsAborted, IsFailed, IsStarted
from trun.messages import (
    Aborted,
    Adopted,
    Attempted,
    Cancel,
    Completed,
    Emitted,
    Ended,
    Failed,
    Improved,
    Lost,
    Missing,
    Progress,
    Replied,
    Resume,
    Returned,
    Said,
    Suspend,
)


def lost(service: Service, uid: str) -> None:
    service.send(Missing(uid=uid, epoch=service.life(uid).epoch, reason="node gone"))


def returned(service: Service, uid: str) -> None:
    service.send(Returned(uid=uid, epoch=service.life(uid).epoch))


def test_a_failed_attempt_is_retried_at_once_without_a_delay() -> None:
    service = Service()
    service.job("a", retries=1)
    service.run()
    service.fail("a")
    assert service.kinds("a") == ["Submitted", "Queued", "Started", "Attempted", "Queued"]
    service.run()
    service.fail("a")

    assert service.state("a") == "failed"
    assert [event.attempt for event in service.events("a") if isinstance(event, Attempted)] == [1]


def test_failed_is_published_only_after_the_last_retry() -> None:
    service = Service()
    service.job("a", retries=2)
    service.job("rescue", IsFailed("a"))
    for _ in range(2):
        service.run()
        service.fail("a")
        assert service.state("rescue") == "waiting"
    service.run()
    service.fail("a")

    assert service.state("rescue") == "queued"


def test_retries_wait_longer_each_time() -> None:
    service = Service()
    service.job("a", retries=3, retry_delay=10.0, backoff=2.0)
    waits = []
    for _ in range(3):
        service.run()
        service.fail("a")
        due = service.machine.next_deadline()
        assert due is not None
        assert service.last("a").until == due  # type: ignore[attr-defined]
        waits.append(due - service.now)
        service.wait(waits[-1] - 0.1)
        assert service.run() == []
        service.wait(0.1)
        assert service.state("a") == "queued"

    assert waits == pytest.approx([10.0, 20.0, 40.0])


def test_an_absurd_backoff_is_bounded() -> None:
    service = Service()
    service.job("a", retries=2000, retry_delay=1.0, backoff=1e300)
    for _ in range(3):
        service.run()
        service.fail("a")
        service.wait(31 * 86_400)

    assert service.state("a") == "queued"


@pytest.mark.parametrize("kind", ["raised", "timeout", "memory", "died"])
def test_every_kind_of_failure_may_be_retried(kind: str) -> None:
    service = Service()
    service.job("a", retries=1)
    service.run()
    service.fail("a", kind=kind)

    assert service.run() == ["a"]
    assert service.life("a").attempt == 2


def test_a_dead_worker_is_final_without_retries() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.fail("a", kind="died")

    assert service.last("a").kind == "died"  # type: ignore[attr-defined]


def test_three_dead_workers_are_poison_whatever_the_retries() -> None:
    service = Service()
    service.job("a", retries=10)
    for _ in range(3):
        assert service.run() == ["a"]
        service.fail("a", kind="died")

    assert service.last("a").kind == "poison"  # type: ignore[attr-defined]
    assert Said(name="poison", value="a") in service.events("service")


def test_a_lost_job_starts_again_under_a_new_epoch_and_uses_no_retry() -> None:
    service = Service()
    service.job("a")
    service.run()
    lost(service, "a")

    assert service.kinds("a") == ["Submitted", "Queued", "Started", "Lost", "Queued"]
    assert service.run() == ["a"]
    assert service.life("a").epoch == 2
    service.complete("a")
    assert service.state("a") == "completed"


def test_the_third_loss_is_poison() -> None:
    service = Service()
    service.job("a", retries=5)
    for _ in range(3):
        service.run()
        lost(service, "a")

    last = service.last("a")
    assert isinstance(last, Failed)
    assert last.kind == "poison"
    assert "3 workers" in last.error.message  # type: ignore[union-attr]


def test_deaths_and_losses_count_together() -> None:
    service = Service()
    service.job("a", retries=5)
    service.run()
    lost(service, "a")
    service.run()
    service.fail("a", kind="died")
    service.run()
    lost(service, "a")

    assert service.life("a").kind == "poison"


def test_a_late_report_of_a_lost_attempt_is_fenced() -> None:
    service = Service()
    service.job("a")
    service.run()
    lost(service, "a")
    assert service.end("a", Completed(), epoch=1) == []
    service.run()

    assert service.end("a", Completed(), epoch=1) == []
    assert service.emit("a", Progress(fraction=0.5)) != []
    assert service.send(Emitted(uid="a", epoch=1, first=1, events=(Progress(fraction=0.9),))) == []
    assert service.machine.counters["fenced"] == 3
    assert service.state("a") == "running"


def test_a_second_end_changes_nothing() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.complete("a")

    assert service.complete("a") == []
    assert service.fail("a") == []
    assert service.state("a") == "completed"


def test_reports_about_unknown_jobs_are_counted() -> None:
    service = Service()

    assert service.send(Ended(uid="x", epoch=1, outcome=Completed())) == []
    assert service.send(Missing(uid="x", epoch=1)) == []
    assert service.machine.counters["unknown"] == 2


def test_a_job_that_was_given_back_has_lost_no_attempt() -> None:
    service = Service()
    service.job("a")
    service.run()
    returned(service, "a")
    assert service.state("a") == "queued"
    assert service.life("a").attempt == 0
    service.run()

    assert service.life("a").attempt == 1
    assert service.life("a").epoch == 2


def test_a_job_that_was_given_back_and_cancelled_never_started() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Cancel(uids=("a",), reason="enough"))
    returned(service, "a")

    assert service.state("a") == "cancelled"
    assert service.last("a").reason == "enough"  # type: ignore[attr-defined]


def test_cancel_of_a_waiting_job_cancels_it() -> None:
    service = Service()
    service.job("a")
    service.send(Cancel(uids=("a",), reason="enough"))

    assert service.kinds("a") == ["Submitted", "Queued", "Cancelled"]
    assert service.run() == []


def test_cancel_of_a_running_job_stops_it_and_its_end_makes_it_aborted() -> None:
    service = Service()
    service.job("a", retries=3)
    service.job("b", IsAborted("a"))
    service.run()
    service.send(Cancel(uids=("a",), reason="enough"))
    assert [(stop.uid, stop.epoch, stop.reason) for stop in service.stops] == [("a", 1, "enough")]
    assert service.state("a") == "running"
    service.end("a", Aborted(reason="killed"))

    assert service.last("a") == Aborted(reason="enough")
    assert service.run() == ["b"]


def test_a_second_cancel_does_not_stop_twice() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Cancel(uids=("a",)))

    assert service.send(Cancel(uids=("a",))) == []
    assert len(service.stops) == 1


def test_a_job_that_completed_before_the_kill_keeps_its_outcome() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Cancel(uids=("a",)))
    service.complete("a")

    assert service.state("a") == "completed"


def test_a_job_that_raised_before_the_kill_has_failed_and_is_not_retried() -> None:
    service = Service()
    service.job("a", retries=3)
    service.run()
    service.send(Cancel(uids=("a",)))
    service.fail("a")

    assert service.state("a") == "failed"


@pytest.mark.parametrize("how", ["died", "missing"])
def test_a_worker_that_goes_while_its_job_is_stopped_makes_it_aborted(how: str) -> None:
    service = Service()
    service.job("a", retries=3)
    service.run()
    service.send(Cancel(uids=("a",)))
    if how == "died":
        service.fail("a", kind="died")
    else:
        lost(service, "a")

    assert service.state("a") == "aborted"


def test_cancel_between_two_attempts_aborts() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=10.0)
    service.run()
    service.fail("a")
    service.send(Cancel(uids=("a",)))

    assert service.state("a") == "aborted"
    service.wait(100)
    assert service.run() == []


def test_cancel_of_an_ended_job_is_nothing() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.complete("a")

    assert service.send(Cancel(uids=("a",))) == []


def test_what_a_running_job_says_is_published_once() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.emit("a", Progress(fraction=0.2), Improved(values={"chisq": 3.0}))
    service.emit("a", Progress(fraction=0.2), Improved(values={"chisq": 3.0}), Said(name="x"), first=1)
    service.emit("a", Replied(token="t", text="yes"))

    assert service.kinds("a")[3:] == ["Progress", "Improved", "Said", "Replied"]
    life = service.life("a")
    assert (life.progress, life.values, life.emitted, life.heard) == (0.2, {"chisq": 3.0}, 2, 4)


def test_numbering_of_words_starts_anew_with_each_attempt() -> None:
    service = Service()
    service.job("a", retries=1)
    service.run()
    service.emit("a", Said(name="x"))
    service.fail("a")
    service.run()
    service.emit("a", Said(name="y"))

    assert [event.name for event in service.events("a") if isinstance(event, Said)] == ["x", "y"]


def test_a_suspended_job_gets_its_slot_back_before_anything_starts() -> None:
    service = Service()
    service.job("parent")
    service.run()
    service.send(Suspend(uid="parent", epoch=1))
    service.job("child", parent="parent", priority=100)
    assert service.run(1) == ["child"]
    service.job("other", priority=1000)
    service.send(Resume(uid="parent", epoch=1))
    service.send(Resume(uid="parent", epoch=1))
    assert service.turns == []

    assert service.run(1) == []
    assert [turn.uid for turn in service.turns] == ["parent"]
    assert service.run(5) == ["other"]
    service.complete("parent")
    assert service.state("parent") == "completed"


def test_resume_of_a_job_that_has_its_slot_is_answered_at_once() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Resume(uid="a", epoch=1))

    assert [turn.uid for turn in service.turns] == ["a"]


def test_a_suspended_job_that_ends_stands_in_no_line() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Suspend(uid="a", epoch=1))
    service.send(Resume(uid="a", epoch=1))
    service.complete("a")

    assert service.run() == []
    assert service.turns == []
    assert len(service.machine.queue) == 0


def test_an_adopted_job_goes_on_running() -> None:
    service = Service()
    service.job("a")
    service.run()
    again = service.restarted()
    again.send(Adopted(uid="a", epoch=1))
    assert again.state("a") == "running"
    again.complete("a")

    assert again.state("a") == "completed"


def test_a_start_counts_although_the_job_is_lost_later() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsStarted("a")))
    service.run(1)
    lost(service, "a")

    assert service.state("b") in ("queued", "running")
    assert any(isinstance(event, Lost) for event in service.events("a"))


def test_the_run_time_is_that_of_the_last_attempt() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=10.0)
    service.wait(3)
    assert (service.life("a").ran_s(service.now), service.life("a").waited_s(service.now)) == (None, 3.0)
    service.run()
    service.wait(2)
    assert service.life("a").ran_s(service.now) == 2.0
    service.fail("a")
    service.wait(4)
    assert (service.life("a").ran_s(service.now), service.life("a").waited_s(service.now)) == (2.0, 4.0)
    service.wait(6)
    service.run()
    service.wait(5)
    service.complete("a")
    service.wait(100)

    assert (service.life("a").ran_s(service.now), service.life("a").waited_s(service.now)) == (5.0, 3.0)


def test_what_was_given_back_has_not_run() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Returned(uid="a", epoch=1))
    service.wait(7)

    assert service.life("a").ran_s(service.now) is None
