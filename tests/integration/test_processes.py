"""What the ``processes`` executor promises beyond the suites of ``contract``: its workers, its queue, its own
death.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executor_kit import Rig, add, await_death, is_alive, ready, wait_for_text
from trun.executors.context import current_job
from trun.executors.limits import LONG_S
from trun.executors.processes import Processes
from trun.messages import Completed, Missing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def made(workers: int = 1, **options: Any) -> Rig:
        folder = tmp_path / f"state{len(rigs)}"
        executor = Processes(workers, folder=folder, **options)
        executor.open()
        rigs.append(Rig(executor, folder))
        return rigs[-1]

    yield made
    for rig in rigs:
        rig.close()


def where() -> int:
    return os.getpid()


def warmed(rig: Rig) -> Rig:
    """Let the executor learn that jobs are short."""
    for i in range(60):
        rig.value(add, i)
    return rig


def zygote_of(rig: Rig) -> int:
    nursery = rig.executor._crew.nursery  # type: ignore[attr-defined]
    return int(nursery.process.pid)


# -- the queue in a worker --------------------------------------------------------------------------------------------


def test_nothing_waits_in_a_worker_before_jobs_are_known_to_be_short(make: Callable[..., Rig]) -> None:
    rig = make(1)

    assert rig.executor.room().ahead == 0
    assert warmed(rig).executor.room().ahead > 10


def test_orders_behind_a_long_job_are_given_back(make: Callable[..., Rig]) -> None:
    rig = warmed(make(1))
    long, behind = rig.order(wait_for_text), rig.order(add, 1)
    rig.give([long])
    rig.give([behind])

    rig.until(lambda: rig.returned[behind.uid], "the short job to come back")

    assert rig.executor.room().ahead == 0, "one long job is a warning"
    rig.tell(long.uid, "end")
    assert rig.result(rig.outcome(behind.uid)) == 2


def test_orders_behind_a_native_loop_are_given_back(make: Callable[..., Rig]) -> None:
    rig = warmed(make(1))
    loop, behind = rig.order(sum, range(30_000_000)), rig.order(add, 1)
    rig.give([loop])
    rig.give([behind])

    rig.until(lambda: rig.returned[behind.uid], "the short job to come back")

    assert loop.uid not in rig.outcomes
    rig.outcome(loop.uid)


def test_a_job_with_limits_never_waits_behind_another(make: Callable[..., Rig]) -> None:
    rig = warmed(make(1))
    long, limited = rig.order(wait_for_text), rig.order(add, 1, timeout=20.0)

    rig.give([long, limited])
    rig.said(long.uid)
    rig.tell(long.uid, "end")

    assert rig.result(rig.outcome(limited.uid)) == 2
    assert rig.returned[limited.uid] == 0


def test_the_next_look_is_due_when_the_first_job_turns_long(make: Callable[..., Rig]) -> None:
    rig = warmed(make(1))
    long, behind = rig.order(wait_for_text), rig.order(add, 1)
    before = time.time()
    rig.give([long, behind])

    deadline = rig.executor.next_deadline()

    assert deadline is not None
    assert deadline <= before + LONG_S + 1.0
    rig.said(long.uid)
    rig.tell(long.uid, "end")
    rig.outcome(behind.uid)


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_is_warm(make: Callable[..., Rig]) -> None:
    rig = make(1)

    assert rig.value(where) == rig.value(where)


def test_a_worker_is_replaced_after_so_many_jobs(make: Callable[..., Rig]) -> None:
    rig = make(1, recycle_after=2)

    pids = [rig.value(where) for _ in range(6)]

    assert len(set(pids)) == 3


_kept: list[Any] = []


def grow() -> int:
    _kept.append(bytearray(b"x") * (64 << 20))
    return os.getpid()


def test_a_worker_that_grows_is_replaced(make: Callable[..., Rig]) -> None:
    rig = make(1, recycle_growth=100 << 20)

    pids = [rig.value(grow) for _ in range(4)]

    assert len(set(pids)) > 1


def test_a_worker_that_dies_idle_is_replaced_without_a_word(make: Callable[..., Rig]) -> None:
    rig = make(1)
    pid = rig.value(where)

    os.kill(pid, signal.SIGKILL)
    await_death([pid])

    assert rig.value(where) != pid


def test_a_worker_has_a_session_of_its_own_and_knows_its_share_of_the_cores(make: Callable[..., Rig]) -> None:
    rig = make(1)

    def facts() -> tuple[int, int, str, str, list[str]]:
        main = sys.modules["__main__"]
        threads = os.environ["OPENBLAS_NUM_THREADS"]
        return os.getsid(0), os.getpid(), threads, sys.stdin.read(), sorted(vars(main))

    session, pid, threads, typed, names = rig.value(facts)

    assert session == pid
    assert int(threads) >= 1
    assert typed == ""
    assert "Zygote" not in names


def test_a_worker_starts_quickly_without_heavy_modules(make: Callable[..., Rig]) -> None:
    rig = make(1)

    def loaded() -> list[str]:
        return [name for name in ("zmq", "sqlite3", "asyncio", "numpy", "tornado") if name in sys.modules]

    assert rig.value(loaded) == []


def abuse_descriptors() -> None:
    for fd in range(3, 64):
        try:
            with socket.socket(fileno=os.dup(fd)) as one:
                one.send(b"\xc1 this is no report")
        except OSError:
            continue


def test_what_a_payload_writes_into_our_socket_is_dropped(make: Callable[..., Rig]) -> None:
    rig = make(1)

    uid = rig.submit(abuse_descriptors)

    assert isinstance(rig.outcome(uid), Completed)
    assert rig.value(add, 1) == 2


def close_everything() -> None:
    os.close(1)
    os.close(2)
    sys.stdout = None  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.path.clear()
    os.umask(0o777)


def test_a_payload_cannot_spoil_the_worker_for_the_next(make: Callable[..., Rig]) -> None:
    rig = make(1)
    rig.run(close_everything)

    def loud() -> None:
        print("heard")
        assert os.umask(0o77) != 0o777
        import colorsys  # noqa: F401

    uid = rig.submit(loud)

    assert isinstance(rig.outcome(uid), Completed)
    assert rig.log(uid) == "heard\n"


def rearrange() -> None:
    os.environ["TRUN_TEST_LEFT"] = "here"
    os.environ["PATH"] = "/nowhere"
    os.environ.pop("HOME", None)
    os.environ = dict(os.environ)  # type: ignore[assignment]  # noqa: B003 - the fault
    os.chdir("/")
    for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1000)


def look_around() -> tuple[Any, ...]:
    child = subprocess.run(["/bin/sh", "-c", "echo $TRUN_TEST_LEFT-$PATH-$HOME"], capture_output=True, check=True)
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGINT)]
    return dict(os.environ), child.stdout, os.getcwd(), handlers, signal.getitimer(signal.ITIMER_REAL)


def test_what_a_payload_changes_around_it_is_put_back(make: Callable[..., Rig]) -> None:
    rig = make(1)
    pid, before = rig.value(os.getpid), rig.value(look_around)

    rig.run(rearrange)

    assert rig.value(look_around) == before
    assert rig.value(os.getpid) == pid


def fork_and_return() -> tuple[str, list[int]]:
    codes = []
    for fail in (False, True):
        child = os.fork()
        if not child and fail:
            raise ValueError("in the child")
        if not child:
            return "child", []
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return "parent", codes


def test_a_forked_child_that_returns_does_not_speak_for_the_job(make: Callable[..., Rig]) -> None:
    rig = make(1)
    uid = rig.submit(fork_and_return)

    assert rig.result(rig.outcome(uid)) == ("parent", [0, 1])
    assert "ValueError: in the child" in rig.log(uid)
    assert rig.value(add, 1) == 2


def test_workers_that_cannot_start_fail_their_jobs_and_say_why(make: Callable[..., Rig]) -> None:
    rig = make(1)
    rig.value(add, 1)
    logs = rig.folder / "logs"
    logs.rename(rig.folder / "elsewhere")
    logs.write_text("in the way")

    failed = rig.failure(rig.submit(add, 1, isolation="fresh"))

    assert failed.kind == "died"
    assert failed.error is not None
    assert "no worker could be started for fit#2" in failed.error.message


# -- jobs that wait for jobs ------------------------------------------------------------------------------------------


def wait_to_be_refused() -> str:
    from trun.errors import Refused

    job = current_job()
    assert job is not None
    try:
        ready()
        job.inbox.get(timeout=20)
    except Refused as error:
        return str(error)
    return "never refused"


def test_too_many_waiting_parents_are_told(make: Callable[..., Rig]) -> None:
    rig = make(1, suspended=1)
    first = rig.submit(wait_for_text)
    rig.said(first)
    rig.executor.suspend(first, 1)
    second = rig.submit(wait_to_be_refused)
    rig.said(second)

    rig.executor.suspend(second, 1)

    assert "more than 1 jobs already wait for jobs of their own" in rig.result(rig.outcome(second))
    rig.tell(first, "end")
    assert rig.result(rig.outcome(first)) == "end"


# -- deaths above the worker ------------------------------------------------------------------------------------------


_CHILD = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(100)"


def have_child() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", _CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    ready(int(child.stdout.readline()))
    time.sleep(100)


def test_when_the_zygote_dies_nobody_can_say_what_became_of_the_job(make: Callable[..., Rig]) -> None:
    rig = make(1)
    uid = rig.submit(have_child)
    pids = rig.said(uid)

    os.kill(zygote_of(rig), signal.SIGKILL)
    rig.until(lambda: any(isinstance(report, Missing) for report in rig.reports), "the loss to be noticed")

    await_death(pids)
    assert rig.value(add, 1) == 2


_NODE = """
import sys, tempfile
from pathlib import Path
from tests.contract.executor_kit import Rig
from tests.integration.test_processes import have_child
from trun.executors.processes import Processes

folder = Path(sys.argv[1])
executor = Processes(2, folder=folder)
executor.open()
rig = Rig(executor, folder)
uids = [rig.submit(have_child) for _ in range(2)]
pids = [pid for uid in uids for pid in rig.said(uid)]
print(*pids, executor._crew.nursery.process.pid, flush=True)
sys.stdin.read()
"""


def test_when_the_engine_is_killed_no_process_is_left(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", _NODE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as node:
        assert node.stdout is not None
        pids = [int(word) for word in node.stdout.readline().split()]
        assert len(pids) == 5
        assert all(is_alive(pid) for pid in pids)

        node.kill()
        node.wait()

        await_death(pids)


# -- scripts ----------------------------------------------------------------------------------------------------------


_SCRIPT = """
import sys
from pathlib import Path
from tests.contract.executor_kit import Rig
from trun.executors.processes import Processes

print("script runs")
FACTOR = 2

class Point:
    def __init__(self, x):
        self.x = x

def double(point):
    return Point(point.x * FACTOR)

folder = Path(sys.argv[1])
executor = Processes(1, folder=folder)
executor.open()
rig = Rig(executor, folder)
for FACTOR in (2, 3):
    found = rig.value(double, Point(4))
    print(type(found) is Point, found.x)
rig.close()
"""


def test_a_script_needs_no_main_guard_and_keeps_its_classes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)

    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "state")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )

    assert done.stdout.splitlines() == ["script runs", "True 8", "True 12"], done.stderr
