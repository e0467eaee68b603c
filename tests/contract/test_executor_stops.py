"""What every executor promises when attempts die, are stopped or want too much: the culprit alone, and all of it."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executor_kit import Rig, add, await_death, is_alive, raise_picky, ready, wait_for_text
from trun.messages import Aborted, Completed

# -- sudden deaths: only the culprit is affected ----------------------------------------------------------------------


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


BAD: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "segfault": (segfault, "died", {}),
    "exit": (lambda: os._exit(3), "died", {}),
    "exit well": (lambda: os._exit(0), "died", {}),
    "kill": (kill_itself, "died", {}),
    "sys.exit": (lambda: sys.exit(3), "raised", {}),
    "unpicklable": (lambda: (i for i in range(3)), "raised", {}),
    "picky": (raise_picky, "raised", {}),
    "sleeper": (lambda: time.sleep(100), "timeout", {"timeout": 0.2}),
    "native loop": (lambda: sum(itertools.repeat(0)), "timeout", {"timeout": 0.2}),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_one_bad_job_among_six_harms_nobody_else(make: Callable[..., Rig], name: str) -> None:
    rig = make(2, grace=0.2)
    bad, kind, options = BAD[name]

    good = [rig.submit(add, i) for i in range(3)]
    culprit = rig.submit(bad, **options)
    good += [rig.submit(add, i) for i in range(3)]

    assert [rig.result(rig.outcome(uid)) for uid in good] == [1, 2, 3] * 2
    assert rig.failure(culprit).kind == kind
    assert rig.value(add, 1) == 2


def test_a_death_names_signal_and_exit_code(rig: Rig) -> None:
    by_signal, by_exit = rig.failure(rig.submit(segfault)), rig.failure(rig.submit(lambda: os._exit(3)))

    assert by_signal.error is not None
    assert by_exit.error is not None
    assert (by_signal.error.type, by_signal.error.signal, by_signal.error.exitcode) == (
        "trun.errors.WorkerDied",
        signal.SIGSEGV,
        None,
    )
    assert "SIGSEGV" in by_signal.error.message
    assert "segfault" in by_signal.error.tail, "the Python stack at the fault is in the log"
    assert (by_exit.error.signal, by_exit.error.exitcode) == (None, 3)


def test_a_kill_from_outside_is_not_called_a_limit(rig: Rig) -> None:
    failed = rig.failure(rig.submit(kill_itself, timeout=50, memory=2 << 30))

    assert failed.error is not None
    assert "neither its timeout of 50 s nor its memory limit of 2.15 GB" in failed.error.message


def die_when_told() -> None:
    wait_for_text()
    kill_itself()


def test_orders_waiting_behind_a_crash_are_given_back(make: Callable[..., Rig]) -> None:
    rig = make(1)
    for i in range(50):
        rig.value(add, i)
    culprit = rig.order(die_when_told)
    behind = [rig.order(add, i) for i in range(5)]

    rig.give([culprit])
    rig.give(behind)
    rig.said(culprit.uid)
    rig.tell(culprit.uid, "now")

    assert [rig.result(rig.outcome(order.uid)) for order in behind] == [1, 2, 3, 4, 5]
    assert rig.failure(culprit.uid).kind == "died"
    assert rig.returned[culprit.uid] == 0


# -- stopping ---------------------------------------------------------------------------------------------------------

_TREE = """
import os, subprocess, sys, time
kind = sys.argv[1]
if kind == "setsid":
    os.setsid()
if kind == "twice":
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(100)
"""


def family() -> list[int]:
    """Start a child, a child in a session of its own and a daemon that was forked twice; return their pids."""
    pids = []
    for kind in ("child", "setsid", "twice"):
        child = subprocess.Popen([sys.executable, "-S", "-c", _TREE, kind], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        pids.append(int(child.stdout.readline()))
    return pids


def raise_family() -> None:
    ready(*family())
    time.sleep(100)


def leave_family() -> list[int]:
    return family()


def abandon_family() -> None:
    ready(*family())
    kill_itself()


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready()
    while True:
        time.sleep(100)


def clean_up(path: Path) -> None:
    try:
        ready()
        time.sleep(100)
    finally:
        path.write_text("clean")


def test_cancel_stops_the_whole_tree(rig: Rig) -> None:
    uid = rig.submit(raise_family)
    pids = rig.said(uid)

    rig.cancel(uid, grace=0.3, reason="no longer wanted")

    assert rig.outcome(uid) == Aborted(reason="no longer wanted")
    assert [pid for pid in pids if is_alive(pid)] == []


def test_a_timeout_stops_the_whole_tree(make: Callable[..., Rig]) -> None:
    rig = make(1, grace=0.2)
    uid = rig.submit(raise_family, timeout=1.5)
    pids = rig.said(uid)

    assert rig.failure(uid).kind == "timeout"
    assert [pid for pid in pids if is_alive(pid)] == []


def test_what_a_job_leaves_behind_is_killed_when_it_ends(rig: Rig) -> None:
    pids = rig.value(leave_family)

    assert len(pids) == 3
    assert [pid for pid in pids if is_alive(pid)] == []


def test_what_a_crash_leaves_behind_is_killed(rig: Rig) -> None:
    uid = rig.submit(abandon_family)

    assert rig.failure(uid).kind == "died"
    assert [pid for pid in rig.said(uid) if is_alive(pid)] == []


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(rig: Rig) -> None:
    uid = rig.submit(ignore_sigterm)
    (pid,) = rig.said(uid)

    rig.cancel(uid, grace=0.2)

    assert isinstance(rig.outcome(uid), Aborted)
    assert not is_alive(pid)


def test_a_cancelled_job_may_clean_up(rig: Rig, tmp_path: Path) -> None:
    uid = rig.submit(clean_up, tmp_path / "note")
    rig.said(uid)

    rig.cancel(uid)

    assert isinstance(rig.outcome(uid), Aborted)
    assert (tmp_path / "note").read_text() == "clean"


def test_a_job_that_swallows_its_interruption_is_aborted_all_the_same(rig: Rig) -> None:
    def stubborn() -> int:
        try:
            ready()
            time.sleep(100)
        except BaseException:
            return 1
        return 2

    uid = rig.submit(stubborn)
    rig.said(uid)
    rig.cancel(uid)

    assert isinstance(rig.outcome(uid), Aborted)


def test_cancelling_a_job_that_waits_behind_another_touches_nobody_else(make: Callable[..., Rig]) -> None:
    rig = make(1)
    for i in range(50):
        rig.value(add, i)
    first, second, third = rig.order(wait_for_text), rig.order(add, 1), rig.order(add, 2)
    rig.give([first])
    rig.give([second, third])

    rig.cancel(second.uid)
    rig.said(first.uid)
    rig.tell(first.uid, "go")

    assert isinstance(rig.outcome(second.uid), Aborted)
    assert rig.result(rig.outcome(first.uid)) == "go"
    assert rig.result(rig.outcome(third.uid)) == 3


def test_cancelling_what_has_ended_changes_nothing(rig: Rig) -> None:
    uid = rig.submit(add, 1)
    rig.outcome(uid)

    rig.cancel(uid)
    rig.executor.cancel("unknown", 1, grace=0, reason="")

    assert rig.value(add, 2) == 3
    assert isinstance(rig.outcomes[uid], Completed)


def test_a_race_of_ends_and_cancels_hits_no_innocent(make: Callable[..., Rig]) -> None:
    rig = make(2)
    for i in range(50):
        rig.value(add, i)
    orders = [rig.order(add, i) for i in range(400)]
    doomed = orders[::7]

    for start in range(0, len(orders), 20):
        rig.give(orders[start : start + 20])
        rig.poll()
        for order in orders[start : start + 20]:
            if order in doomed:
                rig.cancel(order.uid)

    for i, order in enumerate(orders):
        outcome = rig.outcome(order.uid)
        if order in doomed:
            assert isinstance(outcome, Completed | Aborted)
        else:
            assert rig.result(outcome) == i + 1


def test_a_stopped_worker_is_not_lost_and_its_timeout_still_kills_it(make: Callable[..., Rig]) -> None:
    rig = make(1, grace=0.1)
    uid = rig.submit(wait_for_text, timeout=1.0)
    (pid,) = rig.said(uid)

    os.kill(pid, signal.SIGSTOP)

    assert rig.failure(uid).kind == "timeout"
    assert not is_alive(pid)


def test_a_timeout_counts_from_the_begin_of_the_job(make: Callable[..., Rig]) -> None:
    rig = make(1)
    rig.give([rig.order(time.sleep, 0.3), second := rig.order(add, 1, timeout=0.25)])

    assert rig.result(rig.outcome(second.uid)) == 2


# -- memory -----------------------------------------------------------------------------------------------------------


def allocate(size: int) -> int:
    return len(bytearray(b"x") * size)


_HOLD = "import sys, time; held = bytearray(b'x') * int(sys.argv[1]); print('held', flush=True); time.sleep(100)"


def allocate_in_children(size: int, count: int) -> None:
    children = [
        subprocess.Popen([sys.executable, "-S", "-c", _HOLD, str(size)], stdout=subprocess.PIPE) for _ in range(count)
    ]
    ready(*[child.pid for child in children])
    for child in children:
        child.wait()


def test_more_memory_than_allowed_is_a_memory_failure(rig: Rig) -> None:
    failed = rig.failure(rig.submit(allocate, 2 << 30, memory=512 << 20))

    assert failed.kind == "memory"
    assert failed.error is not None
    assert "537 MB" in failed.error.message
    assert rig.value(allocate, 1 << 20, memory=512 << 20) == 1 << 20


def test_numpy_may_be_imported_under_a_limit(rig: Rig) -> None:
    def total() -> float:
        import numpy

        return float(numpy.ones(1000).sum())

    assert rig.value(total, memory=512 << 20) == 1000.0


def test_memory_of_children_counts(rig: Rig) -> None:
    uid = rig.submit(allocate_in_children, 200 << 20, 2, memory=300 << 20)

    failed = rig.failure(uid)

    assert failed.kind == "memory"
    assert failed.error is not None
    assert "limit of 315 MB" in failed.error.message
    assert [pid for pid in rig.said(uid) if is_alive(pid)] == []


def where() -> int:
    return os.getpid()


def test_nothing_is_alive_after_close(make: Callable[..., Rig]) -> None:
    rig = make(2)
    uid, idle = rig.submit(raise_family), rig.value(where)
    pids = [*rig.said(uid), idle]

    rig.executor.close()

    await_death(pids)
