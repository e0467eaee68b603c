"""Many jobs of all sorts at once: each has one true end, whatever happens to its neighbours."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executor_kit import Rig, add
from trun.executors.processes import Processes
from trun.messages import Aborted, Completed, Failed
from trun.ports import Order

JOBS = 250
KINDS = ["fine"] * 30 + ["killed", "left", "slow", "slow", "parent", "loud", "cancelled", "limited", "fresh"]


def work(kind: str, number: int) -> int:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "left":
        os._exit(3)
    if kind in ("slow", "limited"):
        time.sleep(0.03)
    if kind == "parent":
        subprocess.Popen(["sleep", "100"])
    if kind == "loud":
        print(number)
    return number


def kill_idle(executor: Processes, chance: random.Random) -> None:
    """Kill a worker that seems to have nothing to do, as the kernel may when memory is short."""
    idle = [hand.pid for hand in executor._crew.hands.values() if hand.pid and not hand.queue]
    if idle:
        os.kill(chance.choice(idle), signal.SIGKILL)


def check(rig: Rig, kind: str, number: int, order: Order) -> None:
    outcome = rig.outcomes[order.uid]
    if kind in ("killed", "left"):
        assert isinstance(outcome, Failed)
        assert outcome.kind == "died"
    elif kind == "cancelled":
        assert isinstance(outcome, Completed | Aborted)
    elif kind == "limited":
        assert isinstance(outcome, Completed) or getattr(outcome, "kind", "") == "timeout"
    else:
        assert rig.result(outcome) == number
        assert rig.log(order.uid) == (f"{number}\n" if kind == "loud" else "")


@pytest.mark.parametrize("seed", [1, 2])
def test_every_job_has_one_true_end(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    executor = Processes(3, folder=tmp_path, grace=0.1, recycle_after=37)
    executor.open()
    rig = Rig(executor, tmp_path)
    for i in range(40):
        rig.value(add, i)
    jobs: list[tuple[str, int, Order]] = []
    doomed: list[str] = []

    while len(jobs) < JOBS or any(order.uid not in rig.outcomes for _, _, order in jobs):
        room = executor.room()
        batch = []
        for _ in range(min(JOBS - len(jobs), room.idle + room.ahead)):
            kind = chance.choice(KINDS)
            options: dict[str, Any] = {"limited": {"timeout": 0.05}, "fresh": {"isolation": "fresh"}}.get(kind, {})
            jobs.append((kind, len(jobs), rig.order(work, kind, len(jobs), **options)))
            batch.append(jobs[-1][2])
            if kind == "cancelled":
                doomed.append(batch[-1].uid)
        if batch:
            rig.give(batch)
        while doomed and chance.random() < 0.5:
            rig.cancel(doomed.pop(), grace=chance.choice([0.0, 0.05, 1.0]))
        if chance.random() < 0.01:
            kill_idle(executor, chance)
        heard = len(rig.reports)
        rig.until(lambda heard=heard: len(rig.reports) > heard or (len(jobs) < JOBS and executor.room().idle))

    for kind, number, order in jobs:
        check(rig, kind, number, order)
    rig.close()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert list((tmp_path / "logs").glob("*.current")) == []
