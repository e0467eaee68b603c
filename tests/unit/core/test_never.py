"""What becomes of jobs whose condition can no longer hold, and how blame travels."""

from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import Or, never
from trun.conditions.atoms import IsCompleted, IsFailed, IsFinished, IsOk, IsStarted, Level
from trun.conditions.timing import after, before
from trun.messages import Cancelled, Held, Notified, SetAtom, Skipped


def test_a_failure_cancels_what_needed_completion_and_names_the_root() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))
    service.job("c", IsCompleted("b"))
    service.run()
    service.fail("a", message="no data\nmore")

    assert service.states("b", "c") == ["cancelled", "cancelled"]
    last = service.last("c")
    assert isinstance(last, Cancelled)
    assert (last.kind, last.root) == ("never", "a")
    assert service.life("b").root == "a"
    assert service.last("b").reason == "a#1 failed: ValueError: no data"  # type: ignore[attr-defined]


def test_a_failure_starts_what_waited_for_it() -> None:
    service = Service()
    service.job("a")
    service.job("rescue", IsFailed("a"))
    service.run()
    service.fail("a", kind="memory")

    assert service.run() == ["rescue"]


def test_the_policy_hold_holds_and_says_why() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"), on_never="hold")
    service.run()
    service.fail("a")

    assert service.state("b") == "held"
    assert isinstance(service.last("b"), Held)
    assert service.life("b").root == "a"
    assert "a#1 failed" in service.life("b").reason


def test_the_policy_skip_skips_and_ok_goes_on() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"), on_never="skip")
    service.job("c", IsOk("b"))
    service.job("d", IsCompleted("b"))
    service.run()
    service.fail("a")

    assert isinstance(service.last("b"), Skipped)
    assert service.states("b", "c", "d") == ["skipped", "queued", "cancelled"]


def test_the_policy_run_runs_anyway() -> None:
    service = Service()
    service.job("a")
    service.job("clean", IsCompleted("a"), on_never="run")
    service.run()
    service.fail("a")

    assert service.run() == ["clean"]
    assert Notified(job="clean", status="cancelled", witness=("job:a:completed",)) in service.events("condition")


def test_a_condition_that_is_dead_at_submit_is_dropped_at_once() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.fail("a")
    service.job("b", IsCompleted("a"))

    assert service.kinds("b") == ["Submitted", "Cancelled"]


def test_an_or_lives_as_long_as_one_side_does() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("c", Or(IsCompleted("a"), IsCompleted("b")))
    service.run()
    service.fail("a")
    assert service.state("c") == "waiting"
    service.complete("b")

    assert service.state("c") == "queued"


def test_the_root_is_the_first_that_ended_badly() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("c", Or(IsCompleted("a"), IsCompleted("b")))
    service.run()
    service.fail("b")
    service.now += 1
    service.fail("a")

    assert service.life("c").root == "b"


def test_never_waits_until_its_job_is_decided() -> None:
    service = Service()
    service.job("a")
    service.job("b", never(IsFailed("a")))
    service.run()
    assert service.state("b") == "waiting"
    service.complete("a")

    assert service.state("b") == "queued"


def test_a_deadline_that_passes_cancels_as_expired() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a").within("10s"))
    service.wait(9)
    assert service.state("b") == "waiting"
    assert service.machine.next_deadline() == 1010.0
    service.wait(1)

    assert service.state("b") == "cancelled"
    assert service.last("b").kind == "expired"  # type: ignore[attr-defined]


def test_a_job_starts_after_a_span_and_not_before() -> None:
    service = Service()
    service.job("a", after("10s"))
    service.wait(9.9)
    assert service.run() == []
    service.wait(0.1)

    assert service.run() == ["a"]


def test_a_condition_that_lapses_before_dispatch_takes_the_job_out_of_the_queue() -> None:
    service = Service()
    service.job("b", before(1010.0))
    assert service.state("b") == "queued"
    service.now = 1011.0

    assert service.run() == []
    assert service.state("b") == "cancelled"


def test_a_level_that_falls_lapses_and_rises_again() -> None:
    service = Service()
    level = Level("beam")
    service.job("a", level)
    service.send(SetAtom(key=level.key, value=3, session="me"))
    assert service.state("a") == "queued"
    service.send(SetAtom(key=level.key, value=2, session="me"))
    assert service.state("a") == "waiting"
    assert service.run() == []
    service.send(SetAtom(key=level.key, value=3, session="me"))

    assert service.kinds("a") == ["Submitted", "Waiting", "Queued", "Waiting", "Queued"]
    assert service.run() == ["a"]
    service.send(SetAtom(key=level.key, value=2, session="me"))
    assert service.state("a") == "running"


def test_a_job_whose_condition_may_lapse_is_not_handed_out_ahead() -> None:
    service = Service()
    level = Level()
    service.send(SetAtom(key=level.key, value=3, session="me"))
    service.job("a", level)

    assert service.run(idle=0, ahead=10) == []
    assert service.run(idle=1) == ["a"]


def test_a_starting_job_starts_those_that_waited_for_its_start_in_the_same_dispatch() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsStarted("a"))
    service.job("c", IsStarted("b"))

    assert service.run() == ["a", "b", "c"]


@pytest.mark.parametrize("ending", ["complete", "fail"])
def test_finished_holds_however_it_ended(ending: str) -> None:
    service = Service()
    service.job("a")
    service.job("b", IsFinished("a"))
    service.run()
    getattr(service, ending)("a")

    assert service.state("b") == "queued"
