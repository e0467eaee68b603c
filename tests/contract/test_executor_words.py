"""What every executor promises of what a payload prints, says and is told."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.contract.executor_kit import Rig, add, ready, wait_for_text
from trun.executors.context import current_job
from trun.messages import Completed, Failed, Improved, Progress, Replied, ResourcesLowered, Said

# -- what a job prints and says ---------------------------------------------------------------------------------------


def print_much(mebibytes: int) -> None:
    for _ in range(mebibytes):
        print("x" * ((1 << 20) - 1))


def print_below_python() -> None:
    os.write(1, b"from the descriptor\n")
    ctypes.CDLL(None).puts(b"from C")
    print("from Python", file=sys.stderr)


def print_then_wait() -> str:
    print("half way")
    return wait_for_text()


def print_then_fail() -> None:
    for i in range(100):
        print("line", i)
    raise ValueError("after printing")


def test_everything_printed_lands_in_the_log_of_the_attempt(rig: Rig) -> None:
    loud, much, silent = rig.submit(print_below_python), rig.submit(print_much, 10), rig.submit(add, 1)
    for uid in (loud, much, silent):
        rig.outcome(uid)

    assert sorted(rig.log(loud).splitlines()) == ["from C", "from Python", "from the descriptor"]
    assert len(rig.log(much)) == 10 << 20
    assert rig.executor.log_path(silent, 1, 1) is None


def test_the_log_can_be_read_while_the_job_runs(rig: Rig) -> None:
    uid = rig.submit(print_then_wait)
    rig.said(uid)

    assert rig.log(uid) == "half way\n"

    rig.tell(uid, "go on")
    rig.outcome(uid)
    assert rig.log(uid) == "half way\n"


def test_a_failure_brings_the_last_lines_printed(rig: Rig) -> None:
    failed = rig.failure(rig.submit(print_then_fail))

    assert failed.error is not None
    assert failed.error.tail.splitlines() == [f"line {i}" for i in range(70, 100)]


def tell_all() -> None:
    job = current_job()
    assert job is not None
    job.improved(chisq=np.float64(2.5), n=np.int32(3))
    job.say("hello", {"deep": [1, None, "x"]})
    for i in range(1000):
        job.set_progress(i / 1000, "almost")
    job.set_progress(1)


def test_a_job_says_how_it_goes(rig: Rig) -> None:
    uid = rig.submit(tell_all)
    rig.outcome(uid)
    events = rig.events[uid]

    assert events[0] == Improved(values={"chisq": 2.5, "n": 3})
    assert events[1] == Said(name="hello", value={"deep": [1, None, "x"]})
    assert events[-1] == Progress(fraction=1.0, note="")
    assert 2 <= len([event for event in events if isinstance(event, Progress)]) < 100


def progress_then_wait() -> str:
    job = current_job()
    assert job is not None
    job.set_progress(0.1)
    job.set_progress(0.7, "late")
    return wait_for_text()


def test_the_last_progress_arrives_though_the_job_says_nothing_more(rig: Rig) -> None:
    uid = rig.submit(progress_then_wait)
    rig.until(lambda: Progress(fraction=0.7, note="late") in rig.events.get(uid, []), "the last progress")
    rig.said(uid)
    rig.tell(uid, "end")

    assert rig.result(rig.outcome(uid)) == "end"


def test_what_is_no_plain_value_cannot_be_said(rig: Rig) -> None:
    def say_array() -> None:
        job = current_job()
        assert job is not None
        job.improved(curve=np.zeros(3))

    failed = rig.failure(rig.submit(say_array))

    assert failed.error is not None
    assert failed.error.type == "trun.errors.BadOption"
    assert "improved(curve=...) must be plain data" in failed.error.message


def converse() -> list[str]:
    job = current_job()
    assert job is not None
    assert job.inbox.empty()
    ready()
    texts: list[str] = []
    while not texts or texts[-1] != "stop":
        message = job.inbox.get(timeout="20s")
        message.respond(message.content.upper())
        texts.append(message.content)
    return texts


def test_messages_reach_a_job_and_are_answered(rig: Rig) -> None:
    uid = rig.submit(converse)
    rig.said(uid)

    rig.tell(uid, "hello", "a")
    rig.tell(uid, "x" * 200_000, "b")
    rig.tell(uid, "stop", "c")

    assert rig.result(rig.outcome(uid)) == ["hello", "x" * 200_000, "stop"]
    replies = [event for event in rig.events[uid] if isinstance(event, Replied)]
    assert [reply.token for reply in replies] == ["a", "b", "c"]
    assert replies[0].text == "HELLO"


def test_a_message_for_a_job_that_has_not_begun_waits_for_it(make: Callable[..., Rig]) -> None:
    rig = make(1)
    uid = rig.submit(converse)

    rig.tell(uid, "stop")

    assert isinstance(rig.outcome(uid), Completed | Failed)


def describe_place() -> dict[str, Any]:
    job = current_job()
    assert job is not None
    (job.scratch / "file").write_text("x")
    job.lower_resources(gpu=1)
    return {"id": job.id, "uid": job.uid, "fence": job.fence, "scratch": str(job.scratch), "left": job.resources["gpu"]}


def test_a_job_knows_where_it_is(rig: Rig) -> None:
    uid = rig.submit(describe_place, resources={"gpu": 2.0})

    found = rig.result(rig.outcome(uid))

    assert (found["id"], found["uid"], found["fence"]) == ("fit#1", uid, f"{uid}:1")
    assert found["left"] == 1.0
    assert not Path(found["scratch"]).exists()
    assert ResourcesLowered(uid=uid, epoch=1, resources={"gpu": 1}, number=1) in rig.reports
    assert current_job() is None
