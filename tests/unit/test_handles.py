"""A job as a Future: it has all that a Future has although less is made of it, and no two jobs share what they hear."""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from typing import Any

from trun.adapters import pickles
from trun.handles import Job
from trun.messages import AnyEvent, Completed, Entry, Queued, Said, Started, Submitted, Welcome
from trun.service import Service

WAIT_S = 20.0


def job(uid: str = "u") -> Job:
    service = Service(name="s", address="ipc:///nowhere")
    service.welcome = Welcome(service_key="k", name="s", epoch=1)
    return Job(service, uid, "f")


def tell(job: Job, *events: AnyEvent) -> None:
    for event in events:
        job.seq += 1
        job.take(Entry(stream=job.uid, seq=job.seq, epoch=1, time=float(job.seq), event=event))


def completed(value: Any) -> Completed:
    return Completed(result=pickles.dump_result(value)[0])


def test_a_job_has_all_that_a_future_has() -> None:
    made = job()
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    for name, value in vars(future).items():
        assert type(getattr(made, name)) is type(value), name
        if isinstance(value, list):
            assert getattr(made, name) is not getattr(job(), name), name


def test_each_end_reaches_its_own_waiters_only() -> None:
    one, two = job("1"), job("2")
    called: list[str] = []
    for each in (one, two):
        each.add_done_callback(lambda done: called.append(done.uid))  # type: ignore[attr-defined]

    tell(two, Submitted(id="f#2"), Queued(), Started(), completed(2))

    assert concurrent.futures.wait([one, two], WAIT_S, concurrent.futures.FIRST_COMPLETED).done == {two}
    assert (one.done(), two.done(), two.result(), called) == (False, True, 2, ["2"])
    tell(one, completed(1))
    assert [done.result() for done in concurrent.futures.as_completed([one, two], WAIT_S)] in ([1, 2], [2, 1])
    assert called == ["2", "1"]


def test_jobs_keep_their_words_and_times_apart() -> None:
    one, two = job("1"), job("2")

    tell(one, Submitted(id="f#1"), Started(attempt=2), Said(name="x", value=1), Said(name="y", value=2), completed(0))

    assert (one.created, one.started, one.ended, one.attempts) == (1.0, 2.0, 5.0, 2)
    assert (two.created, two.started, two.ended, two.attempts) == (None, None, None, 0)
    assert not two.said("x").ready
    assert one.said("x").ready
    assert one.said("y").ready


def test_a_forked_child_has_a_lock_that_nobody_holds() -> None:
    held = Job._condition

    with held, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; this child only looks at one name
        child = os.fork()
        if child == 0:
            os._exit(Job._condition is held)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
