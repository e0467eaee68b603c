from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import Or
from trun.conditions.atoms import IsCompleted, IsMessage, IsReached, IsResult
from trun.conditions.value import Value
from trun.core.record import JobState
from trun.messages import Cancel, GroupSpec, Hold, Improved, Progress, Resume, Suspend


def why(service: Service, uid: str) -> str:
    return str(service.machine.explain(uid, service.now))


def reason(service: Service, uid: str) -> str:
    return service.machine.reason(uid, service.now)


def test_a_waiting_job_shows_its_tree_and_what_blocks_it() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("c", IsCompleted("a") & IsCompleted("b"))
    service.run()
    service.emit("a", Progress(fraction=0.4))
    service.complete("b")
    explanation = service.machine.explain("c", service.now)

    assert [atom.subject for atom in explanation.blocking] == ["a"]
    assert "a#1.iscompleted [is running, 40%]" in str(explanation)
    assert "starts when a#1 completes" in str(explanation)
    assert reason(service, "c") == "needs a#1.completed [is running, 40%]"


def test_a_queued_job_shows_its_place() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", priority=2), spec("c"))

    assert "number 3 of 3 in the queue" in why(service, "c")
    assert "number 1 of 3 in the queue, priority 2" in reason(service, "b")


def test_a_job_that_lacks_a_resource_says_which_and_who_has_it() -> None:
    service = Service(resources={"gpu": 2})
    service.submit(spec("a", resources={"gpu": 2}), spec("b", resources={"gpu": 1}))
    service.run()

    assert "lacks resource gpu: wants 1, 2 of 2 used by a#1" in why(service, "b")


def test_a_resource_that_is_gone_after_a_restart_is_named() -> None:
    service = Service(resources={"gpu": 2})
    service.job("a", resources={"gpu": 2})
    service.resources = {}
    again = service.restarted()

    assert again.run() == []
    assert "no resource gpu any more" in reason(again, "a")


def test_a_held_job_says_who_can_let_it_go_on() -> None:
    service = Service()
    service.job("a")
    service.send(Hold(uids=("a",)))

    assert "held by the user" in why(service, "a")
    assert "trun release a#1" in why(service, "a")


def test_a_retry_delay_is_counted_down() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=90.0)
    service.run()
    service.fail("a")
    service.now += 30

    assert "attempt 1 ended badly (raised); the next one starts in 1:00 min" in reason(service, "a")


def test_a_cancelled_job_names_the_root_cause() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")), spec("c", IsCompleted("b")))
    service.run()
    service.fail("a", message="no data")
    text = why(service, "c")

    assert "b#2 was cancelled" in text
    assert "root cause: a#1 failed: ValueError: no data" in text
    assert service.machine.explain("c", service.now).blocking


def test_a_job_that_ran_shows_what_fired_it() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"), spec("c", IsCompleted("a") | IsCompleted("b")))
    service.run()
    service.complete("b")
    service.run()
    explanation = service.machine.explain("c", service.now)

    assert [atom.subject for atom in explanation.witness] == ["b"]
    assert explanation.blocking == ()
    assert reason(service, "c") == ""


def test_a_race_says_whether_it_is_decided() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job(
        "race", Or(IsResult("a", "x < 1"), IsResult("b", "x < 1")), kind="first", choices=("a", "b"), until="x < 1"
    )
    service.run()
    assert "a#1" in reason(service, "race")
    service.emit("b", Improved(values={"x": 0}))

    assert reason(service, "race") == "the race was won by b#2, which has not ended yet"


def test_a_suspended_job_says_what_it_waits_for() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Suspend(uid="a", epoch=1))
    assert "waits for jobs of its own" in why(service, "a")
    service.send(Resume(uid="a", epoch=1))

    assert "stands in line for its slot" in why(service, "a")


def test_a_job_that_is_being_stopped_says_so() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.send(Cancel(uids=("a",), reason="enough"))

    assert "told to stop (enough)" in why(service, "a")


@pytest.mark.parametrize("state", list(JobState))
def test_no_state_is_without_an_answer(state: JobState) -> None:
    service = Service()
    service.job("a")
    service.life("a").state = state

    assert service.machine.explain("a", service.now).extra
    assert why(service, "a")


def test_the_story_tells_each_change_in_order() -> None:
    service = Service()
    service.job("a", retries=1, retry_delay=5.0)
    service.run()
    service.now += 2
    service.fail("a")
    service.wait(5)
    story = service.machine.story("a")

    assert "a#1 was accepted" in story[0]
    causes = [line.split("s  ", 1)[1].split(" (")[0] for line in story[1:-1]]
    assert causes == ["new: fire", "queued: start", "running: retry later", "waiting: due"]
    assert story[3].startswith("    +2.000 s")
    assert "run 1, attempt 1" in story[-1]


def test_the_graph_is_plain_data_and_may_be_cut_to_what_one_job_waits_for() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")), spec("c"))
    whole = service.machine.graph()
    part = service.machine.graph("b")

    assert [job["id"] for job in whole["jobs"]] == ["a#1", "b#2", "c#3"]
    assert [job["id"] for job in part["jobs"]] == ["a#1", "b#2"]
    assert part["jobs"][1]["condition"]["uid"] == "a"


def test_an_end_without_a_condition_has_no_tick_beside_it() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.fail("a", message="no data")

    assert why(service, "a") == "failed: ValueError: no data"


def test_a_job_that_was_cancelled_while_it_waited_promises_no_start() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a")))
    service.send(Cancel(uids=("b",), reason="enough"))
    explanation = service.machine.explain("b", service.now)

    assert explanation.blocking == ()
    assert list(explanation.missing) == []
    assert str(explanation).splitlines()[1:] == [
        "its condition was still open: a#1.iscompleted",
        "was cancelled: enough",
    ]


def test_a_deadline_is_counted_down_and_then_said_to_have_passed() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a").within("10m"), on_never="hold"))
    service.now += 240
    assert '✓ within("10m") [6 min left]' in why(service, "b")
    service.wait(400)

    assert service.state("b") == "held"
    assert reason(service, "b") == "held: the deadline of 10 min has passed (trun release b#2 runs it all the same)"
    assert why(service, "b").splitlines()[:4] == [
        "⊘ all of 2",
        "├ ○ a#1.iscompleted [is queued]",
        '└ ⊘ within("10m")  ◀ blocking',
        "can never hold: the deadline of 10 min has passed",
    ]


def test_a_job_that_runs_although_it_could_never_says_so() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", IsCompleted("a"), on_never="run"))
    service.run()
    service.fail("a")

    assert "it runs all the same" in why(service, "b")


def test_a_group_says_how_far_it_is() -> None:
    service = Service()
    members = [spec(uid, group="g") for uid in "abcd"]
    service.submit(*members, groups=[GroupSpec("g", "scan", 4)])
    service.job("w", IsReached("g", "75%"))
    service.job("x", IsCompleted("g"), on_never="hold")
    service.run()
    service.complete("a")
    service.fail("b")

    assert "[1 of 4 completed, 1 failed]  ◀ blocking" in why(service, "w")
    assert "[1 of 4 completed, 1 failed]" in reason(service, "w")
    assert "[1 of 4 completed, 1 failed]  ◀ blocking" in why(service, "x")


@pytest.mark.parametrize(
    ("when", "values", "text"),
    [
        (IsResult("a", "chisq < 2"), {"chisq": 3.5}, "improved('chisq < 2') never held (at its end chisq = 3.5)"),
        (IsResult("a", "chi < 2"), {"chisq": 3.5}, "(its values are chisq. Did you mean 'chisq'?)"),
        (IsResult("a", "chi < 2"), {}, "(it reported no values)"),
        (IsMessage("a", "ready"), {}, "a#1 has completed without saying 'ready'"),
    ],
)
def test_a_job_that_never_said_what_was_waited_for(when: IsResult, values: dict[str, float], text: str) -> None:
    service = Service()
    service.job("a")
    service.job("b", when)
    service.run()
    service.emit("a", Improved(values=values))
    service.complete("a", **values)

    assert service.state("b") == "cancelled"
    assert text in service.life("b").reason
    assert service.machine.explain("b", service.now).value is Value.CANCELLED
    assert "⊘" in why(service, "b")
    assert text in reason(service, "b")
