"""Ordinary scripts: they end when their jobs do, print nothing of ours, leave nothing behind, and carry on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trun

if TYPE_CHECKING:
    from conftest import Stage

ROOT = Path(__file__).resolve().parent.parent.parent


def double(x: int) -> int:
    return 2 * x


def test_the_hello_script_prints_little_and_leaves_nothing(stage: Stage) -> None:
    shutil.copy(ROOT / "examples" / "first.py", stage.folder)

    script = stage.launch([sys.executable, "first.py"])

    assert script.end() == 0, script.err
    assert script.err == ""
    assert 1 <= len(script.out.splitlines()) <= 8
    assert os.listdir(stage.folder) == ["first.py"]
    stage.await_nobody(5.0)


def test_a_quiet_script_prints_nothing_and_its_exit_waits_for_its_jobs(stage: Stage) -> None:
    script = stage.run("for number in range(20):\n    trun.submit(note, f'done-{number}')\n")

    assert (script.process.returncode, script.out, script.err) == (0, "", "")
    assert {f"done-{number}" for number in range(20)} <= set(os.listdir(stage.folder))
    stage.await_nobody(5.0)


def test_close_waits_for_the_jobs_of_its_service(stage: Stage) -> None:
    script = stage.run("s = trun.local(workers=1)\ntrun.submit(note, 'done', service=s)\ns.close()\nawait_file('done')")

    assert (script.process.returncode, script.out, script.err) == (0, "", "")


def test_sys_exit_is_a_normal_exit_and_keeps_its_code(stage: Stage) -> None:
    script = stage.run("trun.submit(note, 'done')\nsys.exit(7)")

    assert (script.process.returncode, script.err) == (7, "")
    assert (stage.folder / "done").exists()


def test_a_failure_that_nobody_asked_about_is_told_in_one_line(stage: Stage) -> None:
    script = stage.run("trun.submit(add, 1).result()\nbad = trun.submit(fail, 'no\\nbeam')\ntrun.submit(add, bad)")

    assert script.process.returncode == 0
    assert script.err == "trun: fail#2 failed: ValueError: no beam (trun why fail#2, trun logs fail#2)\n"


def test_failures_that_somebody_has_seen_or_reckoned_with_are_not_told(stage: Stage) -> None:
    script = stage.run("""
asked = trun.submit(fail, "a").exception()
chained = trun.submit(add, trun.submit(fail, "b")).exception()
minded = trun.submit(fail, "c")
trun.submit(add, 1, when=minded.isfailed)
group = trun.map(fail, ["d", "e", "f"])
try:
    group.results()
except ValueError:
    pass
trun.first(trun.submit(fail, "g"), trun.submit(add, 1)).result()
""")

    assert (script.process.returncode, script.err) == (0, "")


def test_many_failures_are_told_shortly(stage: Stage) -> None:
    script = stage.run("trun.map(fail, [str(number) for number in range(50)])")

    assert len(script.err.splitlines()) == 6
    assert script.err.splitlines()[-1] == "trun: 45 more jobs failed (trun ps --all --state failed)"


def test_a_node_that_dies_while_the_script_exits_is_told(stage: Stage) -> None:
    script = stage.start("trun.submit(wait_for, 'gate')\nawait_file('began-gate')\nnote('ready')")
    stage.await_file("ready", script)

    os.kill(stage.pid_of("trun.daemons.node"), 9)

    script.end()
    (run,) = stage.runs()
    assert f"`trun resume {run.name}`" in script.err
    assert "Traceback" not in script.err
    stage.await_nobody(20.0)


def test_reopening_a_folder_carries_on_what_waits_is_queued_or_ran(stage: Stage) -> None:
    first = stage.start(
        """
service = trun.local(state=HERE / "state", workers=1)
with service:
    running = trun.submit(wait_for, "gate", 5, name="running")
    queued = trun.submit(add, 1, 2, name="queued")
    waiting = trun.submit(add, running, queued, name="waiting")
    waiting.id
await_file("began-gate")
note("ready")
time.sleep(1000)
"""
    )
    stage.await_file("ready", first)
    first.process.kill()
    first.end()
    stage.await_nobody(20.0)
    stage.note("gate")

    again = stage.run("""
with trun.local(state=HERE / "state", workers=1) as service:
    print([job.id for job in service.jobs()])
""")

    assert (again.process.returncode, again.err) == (0, "")
    assert again.out == "['running#1', 'queued#2', 'waiting#3']\n"
    with trun.local(state=stage.folder / "state", workers=1) as service:  # the exit had waited for them
        assert [job.state.value for job in service.jobs()] == ["completed"] * 3
        assert service.job("waiting#3").result(60.0) == 8
        assert trun.submit(double, service.job("waiting#3")).result(60.0) == 16
        service.close()


def test_a_script_without_standard_streams_has_its_service(stage: Stage) -> None:
    script = stage.run("os.closerange(0, 3)\nnote('answer', trun.submit(add, 1, 2).result(60))")

    assert script.process.returncode == 0
    assert stage.await_file("answer") == "3"


def test_a_script_whose_folder_has_gone_can_submit(stage: Stage) -> None:
    text = "sys.path.insert(0, '')\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir(os.getcwd())\n"
    script = stage.run(text + "print(trun.submit(add, 1, 2).result(60))")

    assert (script.out, script.err) == ("3\n", "")


def test_importing_trun_costs_nothing_that_is_not_needed(stage: Stage) -> None:
    script = stage.run(
        "import sys, trun\nheavy = 'tornado psutil asyncio IPython numpy zmq msgspec sqlite3 multiprocessing'\n"
        "print([name for name in heavy.split() if name in sys.modules])\n"
    )

    assert script.out == "[]\n", script.err


def test_a_first_job_needs_neither_asyncio_nor_the_extras(stage: Stage) -> None:
    script = stage.run("""
assert trun.submit(add, 1, 2).result() == 3
print([name for name in "tornado psutil asyncio IPython numpy".split() if name in sys.modules])
""")

    assert script.out == "[]\n", script.err
