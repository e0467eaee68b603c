"""Attempts that outlive their executor: the next one finds them, hears what was missed once, and goes on.

Two executors of one folder follow each other in this process; the first goes without a word, as in a crash: reports
that it has read and nobody has written down are there again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trun.executors.lastingcrew as lastingcrew
from nodes import await_
from tests.contract.executor_kit import Rig
from trun.executors.context import current_job
from trun.executors.lasting import Lasting
from trun.messages import Aborted, Adopted, Completed, Emitted, Ended, Failed, Missing, Returned

Lives = Callable[..., Rig]


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    """Return what opens the next executor of one folder; the last one ends all."""
    made: list[Lasting] = []

    def make(workers: int = 1, **options: Any) -> Rig:
        executor = Lasting(workers, folder=tmp_path / "state", **options)
        executor.open()
        made.append(executor)
        return Heir(executor, tmp_path / "state")

    yield make
    if made[-1]._closed:  # the test failed halfway
        make()
    made[-1].close()
    assert not list((tmp_path / "state" / "keepers").iterdir())
    while _keepers:
        _keepers.pop().wait(30)


_keepers: list[subprocess.Popen[bytes]] = []


class Heir(Rig):
    """Hears of attempts that began before it, and some of it twice."""

    def _take(self, report: Any) -> None:
        if isinstance(report, Emitted):
            self.reports.append(report)
            self.events.setdefault(report.uid, []).extend(report.events)
        elif not isinstance(report, Returned):
            super()._take(report)


def crash(rig: Rig) -> None:
    """End an executor as a crash does: nothing is said, nothing is written down."""
    crew = rig.executor._crew  # type: ignore[attr-defined]
    if crew.nursery is not None and crew.nursery.process is not None:
        _keepers.append(crew.nursery.process)
    rig.executor._closed = True  # type: ignore[attr-defined]
    crew.leave()


def attach(rig: Rig, before: Rig, *uids: str, commit: bool = True) -> list[Any]:
    """Let the next executor look for attempts of the one before."""
    orders = [before.orders[uid] for uid in uids]
    rig.orders.update({order.uid: order for order in orders})
    executor = rig.executor
    assert isinstance(executor, Lasting)
    reports = executor.attach(orders)
    for report in reports:
        if not isinstance(report, Adopted):
            rig._take(report)
    if commit:
        executor.committed()
    return reports


def steps(path: str, count: int) -> dict[str, Any]:
    """Say numbers until the file is there, ``count`` at least."""
    number = 0
    while number < count or not os.path.exists(path):
        current_job().say("step", number)
        print("line", number)
        number += 1
        time.sleep(0.005)
    return {"pid": os.getpid(), "said": number}


def said(reports: list[Any], uid: str) -> list[int]:
    """Return what an attempt said, by report; the same number twice counts once."""
    found: dict[int, int] = {}
    for report in reports:
        if isinstance(report, Emitted) and report.uid == uid:
            found.update({report.first: report.events[0].value})  # type: ignore[union-attr]
    return [found[first] for first in sorted(found)]


def pid_of(rig: Rig, uid: str) -> int:
    (hand,) = [hand for hand in rig.executor._crew.hands.values() if hand.queue and hand.queue[0].order.uid == uid]  # type: ignore[attr-defined]
    return int(hand.pid)


def test_a_running_attempt_goes_on_in_the_same_process_and_nothing_it_says_is_missed(
    lives: Lives, tmp_path: Path
) -> None:
    first = lives()
    uid = first.submit(steps, str(tmp_path / "gate"), 3)
    first.until(lambda: len(said(first.reports, uid)) >= 3)
    pid = pid_of(first, uid)
    crash(first)

    second = lives()
    reports = attach(second, first, uid)

    assert reports[0] == Adopted(uid=uid, epoch=1)
    assert pid_of(second, uid) == pid
    (tmp_path / "gate").touch()
    second.until(lambda: uid in second.outcomes)
    outcome = second.outcomes[uid]
    assert isinstance(outcome, Completed)
    count = outcome.values["said"]
    assert outcome.values["pid"] == pid
    assert said(first.reports + reports + second.reports, uid) == list(range(count))
    log = second.executor.log_path(uid, 1, 1)
    assert log is not None
    assert Path(log).read_text().splitlines() == [f"line {number}" for number in range(count)]


def test_what_was_read_but_not_written_down_is_there_again(lives: Lives) -> None:
    first = lives()
    uids = [first.submit(len, "x" * number) for number in range(5)]
    executor = first.executor
    reports: list[Any] = []
    end = time.monotonic() + 30
    while sum(isinstance(report, Ended) for report in reports) < 1 and time.monotonic() < end:
        reports += executor.poll(time.time())
    crash(first)

    second = lives()
    found = attach(second, first, *uids, commit=False)
    crash(second)  # and once more

    third = lives()
    again = attach(third, first, *uids)
    ended = {report.uid for report in again if isinstance(report, Ended)}
    returned = {report.uid for report in again if isinstance(report, Returned)}
    assert {report.uid for report in reports if isinstance(report, Ended)} <= ended
    assert {report.uid for report in found if isinstance(report, Ended)} <= ended
    third.give([third.orders[uid] for uid in uids if uid in returned])
    third.until(lambda: len(third.outcomes) == 5)
    assert [third.outcomes[uid].values["result"] for uid in uids] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]


def test_what_ended_meanwhile_is_reported_once(lives: Lives, tmp_path: Path) -> None:
    first = lives(2)
    uids = [first.submit(steps, str(tmp_path), 60), first.submit(fail_late)]
    first.until(lambda: len(first.events.get(uids[0], [])) > 0)
    crash(first)
    folder = tmp_path / "state" / "left"
    await_(lambda: len(list(folder.iterdir())) == 2 and not any_runs(first), "both ends", 20)

    second = lives(2)
    attach(second, first, *uids)

    assert isinstance(second.outcomes[uids[0]], Completed)
    assert isinstance(second.outcomes[uids[1]], Failed)
    assert not list(folder.iterdir())
    second.executor.close(detach=True)  # nothing runs, so nothing is left
    third = lives(2)
    assert attach(third, first) == []


def fail_late() -> None:
    time.sleep(0.3)
    raise ValueError("late")


def any_runs(rig: Rig) -> bool:
    """Whether a worker of an executor that has gone still has not noted the end of its attempt."""
    return any(
        not any(word in path.read_bytes() for word in (b"Completed", b"Failed"))
        for path in (rig.folder / "left").iterdir()
    )


def test_an_order_that_nobody_began_comes_back(lives: Lives, tmp_path: Path) -> None:
    first = lives()
    busy = first.submit(steps, str(tmp_path / "gate"), 1)
    behind = [first.submit(len, "x") for _ in range(3)]
    first.until(lambda: len(first.events.get(busy, [])) > 0)
    crash(first)

    second = lives()
    reports = attach(second, first, busy, *behind)

    assert {report.uid for report in reports if isinstance(report, Returned)} == set(behind)
    (tmp_path / "gate").touch()
    second.until(lambda: busy in second.outcomes)


def test_an_attempt_whose_epoch_is_over_is_ended(lives: Lives, tmp_path: Path) -> None:
    first = lives()
    uid = first.submit(steps, str(tmp_path / "gate"), 1)
    first.until(lambda: len(first.events.get(uid, [])) > 0)
    pid = pid_of(first, uid)
    crash(first)

    second = lives()
    assert attach(second, first) == []

    await_(lambda: not Path(f"/proc/{pid}").exists() or second.poll(), "the end of the attempt")
    second.until(lambda: not Path(f"/proc/{pid}").exists())
    assert not second.outcomes
    assert second.value(len, "abc") == 3


def stubborn(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    current_job().say("ready")
    while True:
        time.sleep(1)


@pytest.mark.parametrize("payload", [steps, stubborn])
def test_a_timeout_is_enforced_while_nobody_is_there(lives: Lives, tmp_path: Path, payload: Any) -> None:
    arguments = (str(tmp_path / "gate"), 1) if payload is steps else ("",)
    first = lives(grace=0.3)
    uid = first.submit(payload, *arguments, timeout=1.0)
    first.until(lambda: len(first.events.get(uid, [])) > 0)
    pid = pid_of(first, uid)
    crash(first)
    await_(lambda: not Path(f"/proc/{pid}").exists(), "the timeout", 20)

    second = lives()
    attach(second, first, uid)
    second.until(lambda: uid in second.outcomes)

    outcome = second.outcomes[uid]
    assert isinstance(outcome, Failed)
    assert outcome.kind == "timeout"
    assert outcome.error is not None
    assert ("was killed" in outcome.error.message) == (payload is stubborn)


def test_a_timeout_and_a_cancellation_go_on_after_adoption(lives: Lives, tmp_path: Path) -> None:
    first = lives(2)
    late = first.submit(steps, str(tmp_path / "gate"), 1, timeout=2.0)
    unwanted = first.submit(steps, str(tmp_path / "gate"), 1)
    first.until(lambda: len(first.events.get(late, [])) > 0 and len(first.events.get(unwanted, [])) > 0)
    crash(first)

    second = lives(2)
    attach(second, first, late, unwanted)
    second.cancel(unwanted)
    second.until(lambda: late in second.outcomes and unwanted in second.outcomes)

    assert isinstance(second.outcomes[unwanted], Aborted)
    assert getattr(second.outcomes[late], "kind", "") == "timeout"


def test_a_death_while_nobody_is_there_is_told_with_its_signal(lives: Lives, tmp_path: Path) -> None:
    first = lives()
    uid = first.submit(steps, str(tmp_path / "gate"), 1)
    first.until(lambda: len(first.events.get(uid, [])) > 0)
    pid = pid_of(first, uid)
    crash(first)
    os.kill(pid, signal.SIGSEGV)
    await_(lambda: not Path(f"/proc/{pid}").exists(), "its death")

    second = lives()
    attach(second, first, uid)
    second.until(lambda: uid in second.outcomes)

    outcome = second.outcomes[uid]
    assert isinstance(outcome, Failed)
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.signal) == ("died", signal.SIGSEGV)


def test_when_the_keeper_has_died_too_only_what_has_ended_is_known(lives: Lives, tmp_path: Path) -> None:
    first = lives(2)
    ended = first.submit(steps, str(tmp_path), 60)
    runs = first.submit(steps, str(tmp_path / "gate"), 1)
    first.until(lambda: len(first.events.get(runs, [])) > 0)
    pid, keeper = pid_of(first, runs), keeper_of(first)
    crash(first)
    left = tmp_path / "state" / "left"
    await_(lambda: any(b"Completed" in path.read_bytes() for path in left.iterdir()), "one end")
    os.kill(keeper, signal.SIGKILL)
    await_(lambda: not Path(f"/proc/{pid}").exists(), "the end of the worker")

    second = lives(2)
    reports = attach(second, first, ended, runs)

    assert [report.uid for report in reports if isinstance(report, Ended)] == [ended]
    assert not [report for report in reports if isinstance(report, Returned | Missing | Adopted)]
    assert not list((tmp_path / "state" / "left").iterdir())


def keeper_of(rig: Rig) -> int:
    (hand, *_) = rig.executor._crew.hands.values()  # type: ignore[attr-defined]
    return int(Path(f"/proc/{hand.pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def test_a_keeper_with_nothing_to_keep_ends_itself(lives: Lives) -> None:
    first = lives(linger=0.3)
    assert first.value(len, "abc") == 3
    keeper = keeper_of(first)
    crash(first)

    await_(lambda: not Path(f"/proc/{keeper}").exists() or is_zombie(keeper), "its end", 20)

    second = lives()
    assert attach(second, first) == []
    assert second.value(len, "abcd") == 4


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"


def test_after_an_upgrade_old_workers_end_what_they_run_and_new_ones_take_what_comes(
    lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lives(2)
    uid = first.submit(steps, str(tmp_path / "gate"), 1)
    first.until(lambda: len(first.events.get(uid, [])) > 0)
    pid = pid_of(first, uid)
    old = keeper_of(first)
    crash(first)

    monkeypatch.setattr(lastingcrew, "__version__", "999")
    second = lives(2)
    assert attach(second, first, uid)[0] == Adopted(uid=uid, epoch=1)
    assert second.value(os.getppid) != old
    (tmp_path / "gate").touch()
    second.until(lambda: uid in second.outcomes)

    assert second.outcomes[uid].values["pid"] == pid  # type: ignore[union-attr]
    second.until(lambda: is_gone(old))
    assert second.value(os.getppid) != old


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or is_zombie(pid)


def test_a_keeper_that_does_not_answer_is_ended(lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastingcrew, "_PATIENCE_S", 0.5)
    first = lives()
    uid = first.submit(steps, str(tmp_path / "gate"), 1)
    first.until(lambda: len(first.events.get(uid, [])) > 0)
    pid, keeper = pid_of(first, uid), keeper_of(first)
    os.kill(keeper, signal.SIGSTOP)
    crash(first)

    second = lives()
    assert attach(second, first, uid) == []

    await_(lambda: is_gone(pid), "the end of the worker")
    assert second.value(len, "abc") == 3


def test_only_the_user_can_reach_the_keeper(lives: Lives, tmp_path: Path) -> None:
    rig = lives()
    assert rig.value(len, "") == 0
    (path,) = (tmp_path / "state" / "keepers").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
