"""How a caller waits for one job: as ``concurrent.futures.wait`` does, for less."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest

from trun.verdicts import is_done


@pytest.fixture
def job() -> concurrent.futures.Future[Any]:
    return concurrent.futures.Future()


def waiting(job: concurrent.futures.Future[Any], found: list[bool]) -> threading.Thread:
    """Let a thread wait for a job; returns when it waits."""
    thread = threading.Thread(target=lambda: found.append(is_done(job, 60.0)))
    before = len(job._waiters)
    thread.start()
    while len(job._waiters) == before and not found:
        pass
    return thread


def test_what_is_done_is_not_waited_for(job: concurrent.futures.Future[Any]) -> None:
    job.set_result(1)
    assert is_done(job, None)
    assert job._waiters == []


@pytest.mark.parametrize("timeout", [0, 0.001, -1, -0.5])
def test_a_time_that_is_over_says_so_and_leaves_nothing(job: concurrent.futures.Future[Any], timeout: float) -> None:
    assert not is_done(job, timeout)
    assert job._waiters == []


def test_all_who_wait_hear_of_the_end(job: concurrent.futures.Future[Any]) -> None:
    found: list[bool] = []
    threads = [waiting(job, found) for _ in range(3)]
    job.set_exception(ValueError())
    for thread in threads:
        thread.join(60.0)
    assert found == [True, True, True]
    assert job._waiters == []


def test_a_cancelled_job_is_done(job: concurrent.futures.Future[Any]) -> None:
    found: list[bool] = []
    thread = waiting(job, found)
    job.cancel()
    job.set_running_or_notify_cancel()
    thread.join(60.0)
    assert found == [True]


def test_a_longer_time_than_there_is_may_be_given(job: concurrent.futures.Future[Any]) -> None:
    threading.Thread(target=job.set_result, args=(1,)).start()
    assert is_done(job, float("inf"))


def test_an_end_that_comes_twice_is_one_end(job: concurrent.futures.Future[Any]) -> None:
    found: list[bool] = []
    thread = waiting(job, found)
    with job._condition:
        for waiter in job._waiters:
            waiter.add_result(job)
            waiter.add_result(job)
    thread.join(60.0)
    assert found == [True]
