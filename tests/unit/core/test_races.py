from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import Or
from trun.conditions.atoms import IsCompleted, IsFailed, IsMessage, IsResult
from trun.errors import UsageError
from trun.messages import (
    Cancel,
    Cancelled,
    Completed,
    Entry,
    Failed,
    Hold,
    Improved,
    Relay,
    Retry,
    Said,
)


def race(service: Service, *choices: str, until: str = "", losers: str = "unneeded", **options: object) -> None:
    condition = Or(*[IsResult(uid, until) if until else IsCompleted(uid) for uid in choices])
    service.job("race", condition, kind="first", choices=choices, until=until, losers=losers, **options)


def racing(service: Service, *choices: str, **options: object) -> None:
    service.submit(*[spec(uid) for uid in choices])
    race(service, *choices, **options)  # type: ignore[arg-type]
    service.run()


def test_the_first_to_complete_wins_and_the_race_ends_with_it() -> None:
    service = Service()
    racing(service, "a", "b")
    service.complete("b", chisq=2.0)

    assert service.life("race").winner == "b"
    assert service.state("race") == "completed"
    assert service.life("race").values == {"chisq": 2.0}
    assert Said(name="winner", value="b") in service.events("race")
    assert [stop.uid for stop in service.stops] == ["a"]


def test_a_loser_that_the_same_news_would_have_ended_is_ended_once() -> None:
    service = Service()
    racing(service, "a", "b", until="chisq < 1")
    service.job("second", IsCompleted("a") | IsCompleted("race"), kind="first", choices=("a", "race"))
    service.emit("a", Improved(values={"chisq": 0.5}))  # from now on the first race waits for the end of a as well

    service.complete("a", chisq=0.5)

    assert service.state("second") == "completed"
    assert service.life("second").winner == "a"
    assert service.kinds("race").count("Cancelled") + service.kinds("race").count("Completed") == 1


def test_losers_that_wait_are_cancelled_and_say_why() -> None:
    service = Service()
    service.submit(spec("a"), spec("x"), spec("b", IsCompleted("x")))
    race(service, "a", "b")
    service.run()
    service.complete("a")

    last = service.last("b")
    assert isinstance(last, Cancelled)
    assert last.kind == "race"
    assert last.reason == "lost the race race#4 to a#1"


def test_what_waited_for_a_loser_is_cancelled_with_reason_race() -> None:
    service = Service()
    service.submit(spec("a"), spec("x"), spec("b", IsCompleted("x")))
    race(service, "a", "b", losers="all")
    service.job("after", IsCompleted("b"))
    service.run()
    service.complete("a")

    assert service.last("after").kind == "race"  # type: ignore[attr-defined]


def test_a_loser_that_is_still_needed_goes_on() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"), spec("c"))
    race(service, "a", "b", "c")
    service.job("other", IsCompleted("b"))
    service.run()
    service.complete("a")

    assert [stop.uid for stop in service.stops] == ["c"]
    assert service.machine.demand("b") == ("other",)


def test_a_loser_with_an_unfinished_child_goes_on() -> None:
    service = Service()
    racing(service, "a", "b")
    service.job("child", parent="b")
    service.complete("a")

    assert service.stops == []
    assert service.machine.demand("b") == ("child",)


def test_a_loser_that_another_race_needs_goes_on() -> None:
    service = Service()
    racing(service, "a", "b")
    service.submit(spec("x"))
    service.job("second", IsCompleted("b") | IsCompleted("x"), kind="first", choices=("b", "x"))
    service.complete("a")

    assert service.stops == []


def test_losers_none_leaves_them_and_all_takes_them_all() -> None:
    service = Service()
    racing(service, "a", "b", losers="none")
    service.complete("a")
    assert service.stops == []

    service = Service()
    service.submit(spec("a"), spec("b"))
    race(service, "a", "b", losers="all")
    service.job("other", IsCompleted("b"))
    service.run()
    service.complete("a")
    assert [stop.uid for stop in service.stops] == ["b"]


def test_good_enough_wins_while_it_runs_and_the_race_waits_for_its_end() -> None:
    service = Service()
    racing(service, "a", "b", until="chisq < 1")
    service.emit("a", Improved(values={"chisq": 2.0}))
    assert service.life("race").winner == ""
    service.emit("b", Improved(values={"chisq": 0.5}))

    assert service.life("race").winner == "b"
    assert [stop.uid for stop in service.stops] == ["a"]
    assert service.state("race") == "waiting"
    service.complete("b", chisq=0.4)
    assert service.state("race") == "completed"


def test_a_winner_that_fails_fails_the_race() -> None:
    service = Service()
    racing(service, "a", "b", until="chisq < 1")
    service.emit("b", Improved(values={"chisq": 0.5}))
    service.fail("b", message="late")

    last = service.last("race")
    assert isinstance(last, Failed)
    assert last.error is not None
    assert last.error.message == "late"
    assert service.life("race").root == "b"


def test_a_winner_that_is_aborted_cancels_the_race() -> None:
    service = Service()
    racing(service, "a", "b", until="chisq < 1")
    service.emit("b", Improved(values={"chisq": 0.5}))
    service.send(Cancel(uids=("b",)))
    service.fail("b", kind="died")

    assert service.last("race").kind == "race"  # type: ignore[attr-defined]
    assert service.life("race").root == "b"


def test_one_failure_does_not_end_a_race() -> None:
    service = Service()
    racing(service, "a", "b")
    service.fail("a")
    service.complete("b")

    assert service.life("race").winner == "b"


def test_a_race_whose_choices_all_fail_has_failed_with_the_first_error() -> None:
    service = Service()
    racing(service, "a", "b")
    service.job("rescue", IsFailed("race"))
    service.fail("b", message="first")
    service.now += 1
    service.fail("a", message="second")

    last = service.last("race")
    assert isinstance(last, Failed)
    assert last.error is not None
    assert last.error.message == "first"
    assert service.state("rescue") == "queued"
    assert service.life("race").root == "b"


def test_a_race_that_nobody_is_good_enough_for_has_failed_and_says_so() -> None:
    service = Service()
    racing(service, "a", "b", until="chisq < 1")
    service.complete("a", chisq=3.0)
    service.complete("b", chisq=2.0)

    last = service.last("race")
    assert isinstance(last, Failed)
    assert last.error is not None
    assert "chisq < 1" in last.error.message


def test_a_race_whose_choices_are_all_cancelled_is_cancelled() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    race(service, "a", "b")
    service.send(Cancel(uids=("a", "b")))

    assert service.last("race").kind == "race"  # type: ignore[attr-defined]
    assert service.state("race") == "cancelled"


def test_a_race_among_jobs_that_ended_goes_to_the_lower_number_then_to_the_position() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"), spec("c"))
    service.run()
    service.emit("a", Said(name="x"))
    for uid in ("a", "b", "c"):
        service.complete(uid)
    race(service, "a", "c", "b")

    assert service.life("race").winner == "c"
    assert service.state("race") == "completed"


def test_a_late_race_hears_what_was_said_before() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.run()
    service.emit("b", Improved(values={"chisq": 0.5}), Improved(values={"chisq": 5.0}))
    race(service, "a", "b", until="chisq < 1")

    assert service.life("race").winner == "b"


def test_cancelling_a_race_leaves_its_choices_alone() -> None:
    service = Service()
    racing(service, "a", "b")
    service.send(Cancel(uids=("race",)))

    assert service.state("race") == "cancelled"
    assert service.stops == []
    service.complete("a")
    assert service.state("race") == "cancelled"


def test_a_race_without_a_condition_waits_for_its_choices() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("race", kind="first", choices=("a", "b"), until="x > 1")
    service.run()
    service.complete("a", x=2)

    assert service.life("race").winner == "a"


def test_a_race_cannot_be_held() -> None:
    service = Service()
    racing(service, "a", "b")

    with pytest.raises(UsageError, match="hold its choices"):
        service.send(Hold(uids=("race",)))
    assert "hold its choices" in service.refuse(spec("r", kind="first", choices=("a",), hold=True)).message


def test_the_decision_can_be_waited_for() -> None:
    service = Service()
    racing(service, "a", "b", until="chisq < 1")
    service.job("announce", IsMessage("race", "winner"))
    service.emit("b", Improved(values={"chisq": 0.5}))
    service.job("late", IsMessage("race", "winner"))

    assert service.states("announce", "late") == ["queued", "queued"]


def test_a_race_may_be_run_again() -> None:
    service = Service()
    racing(service, "a", "b")
    service.fail("a")
    service.fail("b")
    service.send(Retry(uids=("b", "race")))
    service.run()
    service.complete("b")

    assert service.state("race") == "completed"
    assert service.life("race").run == 2


def test_a_choice_on_another_service_may_win() -> None:
    service = Service(key="mine")
    service.job("a")
    condition = IsCompleted("a") | IsCompleted("far", service_key="theirs")
    service.job("race", condition, kind="first", choices=("a", "far"))
    service.run()
    entry = Entry("far", 1, 1, 5.0, Completed(values={"chisq": 1.0}))
    service.send(Relay(service_key="theirs", entries=(entry,)))

    assert service.life("race").winner == "far"
    assert service.state("race") == "completed"
    assert service.life("race").values == {"chisq": 1.0}
    assert [stop.uid for stop in service.stops] == ["a"]
