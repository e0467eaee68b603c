"""Ctrl-C and uncaught exceptions: what waits is cancelled, what runs is killed, one line sums up, nobody is left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Stage

#: One job that ignores SIGTERM and has a child that does so too, three that wait for it, one that has completed.
SCENE = """
service = trun.local(workers=2)
done = trun.submit(add, 1, 2, service=service)
done.result()
busy = trun.submit(stubborn, "busy", service=service)
waiting = [trun.submit(add, busy, service=service) for _ in range(3)]
await_file("began-busy")
note("ready")
"""

#: Where a script may stand when it is interrupted.
WAITS = {
    "result": "busy.result()",
    "close": "service.close()",
    "exit": "",
    "with": "with service:\n    waiting[0].exception()",
    "own code": "time.sleep(1000)",
    "as_completed": "import concurrent.futures\nlist(concurrent.futures.as_completed(waiting))",
    "await": "import asyncio\nasync def main():\n    await busy\nasyncio.run(main())",
}


@pytest.mark.parametrize("where", WAITS)
def test_one_ctrl_c_cancels_sums_up_and_leaves_nobody(stage: Stage, where: str) -> None:
    script = stage.start(SCENE + WAITS[where])
    stage.await_file("ready", script)

    begin = time.monotonic()
    script.interrupt()
    code = script.end()
    seconds = time.monotonic() - begin

    assert code == 130, script.err
    assert seconds < 20, script.err
    line = script.err.splitlines()[-1]
    assert line.startswith("trun: interrupted: 1 running job was stopped and 3 waiting jobs were cancelled on local")
    assert "1 had completed" in line
    stage.await_nobody(5.0)

    listed = stage.trun("ps", "--json").out
    assert listed.count('"cancelled"') >= 3, listed
    assert '"aborted"' in listed


@pytest.mark.parametrize("where", ["result", "exit", "close"])
def test_two_ctrl_c_kill_everything_at_once(stage: Stage, where: str) -> None:
    script = stage.start(SCENE + WAITS[where])
    stage.await_file("ready", script)
    script.interrupt()
    script.await_line("Ctrl-C again kills")

    begin = time.monotonic()
    script.interrupt()
    code = script.end()
    stage.await_nobody(5.0)

    assert code == 130, script.err
    assert time.monotonic() - begin < 20.0  # one second on a machine that has nothing else to do


def test_an_uncaught_exception_cancels_likewise(stage: Stage) -> None:
    script = stage.start(SCENE + "raise RuntimeError('no beam')")

    assert script.end() == 1

    assert "RuntimeError: no beam" in script.err
    line = script.err.splitlines()[-1]
    assert line.startswith("trun: RuntimeError: 1 running job was stopped and 3 waiting jobs were cancelled on local")
    stage.await_nobody(5.0)


def test_a_script_that_catches_the_interrupt_goes_on_with_its_service(stage: Stage) -> None:
    script = stage.start(
        """
service = trun.local(workers=2)
job = trun.submit(wait_for, "gate", 5, service=service)
await_file("began-gate")
for wait in (job.result, service.close):
    try:
        note("ready-" + wait.__name__)
        wait()
    except KeyboardInterrupt:
        print("caught", flush=True)
note("gate")
print(job.result() + trun.submit(add, 1, service=service).result())
"""
    )
    for name in ("result", "close"):
        stage.await_file(f"ready-{name}", script)
        script.interrupt()
        assert script.process.stdout is not None
        assert script.process.stdout.readline() == "caught\n"

    assert script.end() == 0, script.err
    assert script.out == "6\n"
    assert script.err == ""


def test_jobs_that_end_at_the_first_signal_are_given_the_chance(stage: Stage) -> None:
    script = stage.start(
        """
def polite():
    import signal
    def bye(*_):
        note("said-bye")
        raise SystemExit(0)
    signal.signal(signal.SIGTERM, bye)
    note("began-polite")
    while True:
        time.sleep(0.05)

job = trun.submit(polite)
job.result()
"""
    )
    stage.await_file("began-polite", script)
    script.interrupt()

    assert script.end() == 130
    stage.await_file("said-bye")
    stage.await_nobody(5.0)


def test_an_interrupt_with_nothing_unfinished_says_nothing(stage: Stage) -> None:
    script = stage.start("trun.submit(add, 1).result()\nnote('ready')\ntime.sleep(1000)")
    stage.await_file("ready", script)
    script.interrupt()

    assert script.end() == 130
    assert "trun:" not in script.err
    stage.await_nobody(5.0)
