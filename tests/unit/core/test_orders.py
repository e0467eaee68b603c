from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.atoms import IsCompleted, IsFailed
from trun.core.orders import TOKENS_OF_JOB
from trun.errors import UnknownName, UsageError
from trun.messages import Cancel, GroupSpec, Hold, Release, Retried, Retry, Tell, Told


def test_a_held_job_does_not_start_until_it_is_released() -> None:
    service = Service()
    service.job("a")
    service.send(Hold(uids=("a",)))
    assert service.run() == []
    service.send(Release(uids=("a",)))

    assert service.run() == ["a"]
    assert service.kinds("a") == ["Submitted", "Queued", "Held", "Released", "Queued", "Started"]


def test_a_job_may_be_submitted_on_hold() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a"), hold=True), spec("c", hold=True))
    assert service.states("b", "c") == ["held", "held"]
    service.send(Release(uids=("b", "c")))

    assert service.states("b", "c") == ["waiting", "queued"]


def test_the_condition_of_a_held_job_goes_on_being_watched() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))
    service.send(Hold(uids=("b",)))
    service.run()
    service.complete("a")
    assert service.state("b") == "held"
    service.send(Release(uids=("b",)))

    assert service.run() == ["b"]


def test_the_condition_of_a_held_job_may_die() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))
    service.send(Hold(uids=("b",)))
    service.run()
    service.fail("a")

    assert service.state("b") == "cancelled"


def test_whoever_releases_a_job_whose_condition_is_dead_overrules_that() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"), on_never="hold")
    service.run()
    service.fail("a")
    service.send(Release(uids=("b",)))

    assert service.run() == ["b"]


def test_a_job_held_for_its_dead_condition_waits_again_after_a_retry() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"), on_never="hold")
    service.run()
    service.fail("a")
    service.send(Retry(uids=("a",)))
    service.send(Release(uids=("b",)))
    assert service.state("b") == "waiting"
    service.run()
    service.complete("a")

    assert service.state("b") == "queued"


def test_a_job_may_be_held_between_attempts() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=10.0)
    service.run()
    service.fail("a")
    service.send(Hold(uids=("a",)))
    service.wait(5)
    service.send(Release(uids=("a",)))
    assert service.state("a") == "waiting"
    service.wait(5)
    assert service.state("a") == "queued"

    service.run()
    assert service.life("a").attempt == 2


def test_a_release_after_the_delay_queues_at_once() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=10.0)
    service.run()
    service.fail("a")
    service.send(Hold(uids=("a",)))
    service.wait(50)
    assert service.state("a") == "held"
    service.send(Release(uids=("a",)))

    assert service.run() == ["a"]


def test_hold_and_release_twice_are_nothing() -> None:
    service = Service()
    service.job("a")
    service.send(Hold(uids=("a",)))

    assert service.send(Hold(uids=("a",))) == []
    service.send(Release(uids=("a",)))
    assert service.send(Release(uids=("a",))) == []


def test_a_running_job_cannot_be_held_and_nothing_else_is() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsFailed("a")))
    service.run()

    with pytest.raises(UsageError, match="a#1 is running"):
        service.send(Hold(uids=("b", "a")))
    assert service.state("b") == "waiting"


@pytest.mark.parametrize("order", [Cancel, Hold, Release, Retry])
def test_an_order_about_an_unknown_job_changes_nothing(order: type) -> None:
    service = Service()
    service.job("a")

    with pytest.raises(UnknownName, match="no job 'x'"):
        service.send(order(uids=("a", "x")))
    assert service.state("a") == "queued"


def test_a_group_stands_for_its_members() -> None:
    service = Service()
    service.submit(spec("a", group="g"), spec("b", group="g"), groups=[GroupSpec("g", "g", 2)])
    service.send(Cancel(uids=("g",)))

    assert service.states("a", "b") == ["cancelled", "cancelled"]


def test_a_retry_begins_a_new_run_of_the_same_job() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.fail("a")
    service.send(Retry(uids=("a",)))
    assert service.state("a") == "queued"
    service.run()
    service.complete("a")

    life = service.life("a")
    assert (life.run, life.attempt, life.epoch, life.error) == (2, 1, 2, None)
    assert service.kinds("a")[3:] == ["Failed", "Retried", "Queued", "Started", "Completed"]
    assert life.run_seq == 5
    assert isinstance(service.events("a")[life.run_seq - 1], Retried)


def test_a_job_that_runs_cannot_be_retried() -> None:
    service = Service()
    service.job("a")
    service.run()

    with pytest.raises(UsageError, match="only a job that has ended"):
        service.send(Retry(uids=("a",)))


def test_those_that_still_wait_hear_of_the_new_run() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("c", IsFailed("a") & IsCompleted("b"), on_never="hold")
    service.run()
    service.fail("a")
    service.send(Retry(uids=("a",)))
    service.complete("b")
    assert service.state("c") == "waiting"
    service.run()
    service.fail("a")

    assert service.state("c") == "queued"


def test_what_was_decided_on_the_old_run_stays_decided() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))
    service.run()
    service.fail("a")
    service.send(Retry(uids=("a",)))
    service.run()
    service.complete("a")

    assert service.state("b") == "cancelled"


def test_downstream_revives_what_never_ran_because_of_it() -> None:
    service = Service()
    service.submit(
        spec("a"),
        spec("b", IsCompleted("a")),
        spec("c", IsCompleted("b")),
        spec("d", IsCompleted("a"), on_never="skip"),
        spec("e", IsCompleted("a"), on_never="hold"),
        spec("f"),
    )
    service.run()
    service.fail("a")
    service.complete("f")
    service.send(Retry(uids=("a",), downstream=True))
    assert service.states(*"abcdef") == ["queued", "waiting", "waiting", "waiting", "waiting", "completed"]
    service.run()
    service.complete("a")
    service.run()
    service.complete("b")

    assert service.states(*"bcde") == ["completed", "queued", "running", "running"]


def test_a_retried_job_waits_for_its_condition_again() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")))
    service.run()
    service.fail("a")
    service.send(Retry(uids=("a",)))
    service.send(Retry(uids=("b",)))
    assert service.state("b") == "waiting"
    service.run()
    service.complete("a")

    assert service.run() == ["b"]


def test_a_text_reaches_a_running_job_once() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Tell(uid="a", token="t1", text="hello"))
    assert service.send(Tell(uid="a", token="t1", text="hello")) == []

    assert [(told.uid, told.epoch, told.token, told.text) for told in service.delivered] == [("a", 1, "t1", "hello")]
    assert service.last("a") == Told(token="t1", text="hello")


def test_a_text_for_a_job_that_does_not_run_is_refused() -> None:
    service = Service()
    service.job("a")

    with pytest.raises(UsageError, match="only a running job"):
        service.send(Tell(uid="a", token="t1", text="hello"))


def test_a_group_hears_no_messages() -> None:
    service = Service()
    service.submit(groups=[GroupSpec("g", "g")])

    with pytest.raises(UsageError, match="only a job hears messages, so tell its members"):
        service.send(Tell(uid="g", token="1", text="hello"))


# -- given again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_retry_that_is_given_again_begins_no_other_run(is_restarted: bool) -> None:
    service = Service()
    service.job("a")
    for _ in range(2):
        service.run()
        service.complete("a")
        service.send(Retry(uids=("a",), token="t1"))
        service = service.restarted() if is_restarted else service

    assert (service.life("a").run, service.state("a")) == (2, "completed")
    service.send(Retry(uids=("a",), token="t2"))
    assert service.life("a").run == 3


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_is_given_again_does_not_undo_what_somebody_else_has_ordered_since(is_restarted: bool) -> None:
    service = Service()
    service.submit(spec("a", IsCompleted("z")), spec("b", IsCompleted("z")), spec("z"))
    both = ("a", "b")
    for order, other, state in (
        (Hold(uids=both, token="1"), Release(uids=both), "waiting"),
        (Release(uids=both, token="2"), Hold(uids=both), "held"),
        (Cancel(uids=both, token="3"), Retry(uids=both), "waiting"),
    ):
        service.send(order)
        service.send(other)
        service = service.restarted() if is_restarted else service
        assert service.send(order) == []
        assert service.states("a", "b") == [state, state]


def test_an_order_that_was_refused_is_carried_out_when_it_is_given_again_and_can_be() -> None:
    service = Service()
    service.job("a")
    service.run()
    with pytest.raises(UsageError, match="can be held"):
        service.send(Hold(uids=("a",), token="t"))
    service.complete("a")
    service.send(Retry(uids=("a",)))
    service.send(Hold(uids=("a",), token="t"))

    assert service.state("a") == "held"


def test_a_text_that_is_given_again_after_a_restart_is_passed_on_once_more_and_told_once() -> None:
    # Whether it was passed on before, nobody knows; the attempt takes no text twice.
    service = Service()
    service.job("a")
    service.run()
    tell = Tell(uid="a", token="t1", text="hello")
    service.send(tell)
    seq = service.life("a").seq
    again = service.restarted()
    again.send(tell)
    again.send(tell)

    assert [told.token for told in again.delivered] == ["t1"]
    assert again.life("a").seq == seq


def test_a_text_that_is_given_again_to_another_attempt_is_not_passed_on() -> None:
    service = Service()
    service.submit(spec("a", retries=1))
    service.run()
    tell = Tell(uid="a", token="t1", text="hello")
    service.send(tell)
    again = service.restarted()
    again.fail("a")
    again.run()
    again.send(tell)
    again.complete("a")
    again.send(tell)

    assert again.delivered == []


def test_a_job_remembers_its_last_orders_only() -> None:
    service = Service()
    service.job("a")
    service.run()
    for number in range(3 * TOKENS_OF_JOB):
        service.send(Tell(uid="a", token=str(number), text="hello"))

    assert list(service.life("a").orders or ()) == [
        str(number) for number in range(2 * TOKENS_OF_JOB, 3 * TOKENS_OF_JOB)
    ]


@pytest.mark.parametrize("order", [Hold(uids=("a",), token=65 * "x"), Tell(uid="a", token=65 * "x", text="hello")])
def test_a_token_has_a_bounded_length(order: Hold | Tell) -> None:
    service = Service()
    service.job("a")

    with pytest.raises(UsageError, match="at most 64 letters"):
        service.send(order)
