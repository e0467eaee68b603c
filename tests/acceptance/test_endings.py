"""What a script says when its end waits for jobs that do not go on, and when several services are open."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Stage


def test_an_end_that_waits_for_held_jobs_says_which_and_what_can_be_done(stage: Stage) -> None:
    script = stage.start(
        "gate = trun.Atom('gate')\nheld = trun.submit(add, 1, name='held')\nlate = trun.submit(add, 1, when=gate)\n"
        "busy = trun.submit(wait_for, 'go')\nkept = trun.submit(add, busy, name='kept')\n"
        "kept.hold(), held.uid, late.id\nawait_file('began-go')\n"
    )
    stage.await_file("began-go", script)
    stage.note("go")

    line = script.await_line("waiting for 2 jobs on local")

    run = stage.runs()[0].name
    assert "kept#4 (held by the user)" in line
    assert "add#2 (needs gate)" in line
    assert "; trun release kept#4, trun cancel add#2 kept#4 (or Ctrl-C), or Ctrl-\\" in line
    assert line.rstrip().endswith(f"trun resume {run}")
    assert stage.trun("release", "kept#4").process.returncode == 0
    assert stage.trun("cancel", "add#2").process.returncode == 0
    assert script.end() == 0
    assert stage.trun("ps").out.count("✓ completed") >= 3


def test_jobs_that_a_killed_script_left_waiting_are_kept_for_resume(stage: Stage) -> None:
    script = stage.start("held = trun.submit(add, 1, when=trun.after('1h'))\nheld.hold()\n")
    script.await_line("waiting for 1 job on local: add#1 (held by the user); trun release add#1")

    script.process.send_signal(signal.SIGQUIT)
    script.end()
    stage.await_nobody(20.0)

    assert "1 job left unfinished: trun resume" in stage.trun("ps").out


def test_services_that_are_open_together_have_names_of_their_own(stage: Stage) -> None:
    script = stage.run(
        "first, second = trun.local(workers=1), trun.local(workers=1)\n"
        "bad = trun.submit(fail, 'no beam', service=second)\n"
        "print(first.name, second.name, bad.id)\nfirst.close()\nprint(trun.local(workers=1).name)\n"
        "print(trun.local(workers=1, name='beam').name)\n"
    )

    assert script.out.splitlines() == ["local local-2 fail#1", "local", "beam"]
    (run,) = [run.name for run in stage.runs() if (run / "name").exists() and "local-2" in (run / "name").read_text()]
    assert script.err == (
        f"trun: fail#1 on local-2 failed: ValueError: no beam (trun why {run}/fail#1, trun logs {run}/fail#1)\n"
    )
    assert f"{run} (local-2)" in stage.trun("ps", "--all").out
    assert stage.trun("why", f"{run}/fail#1").out.startswith("fail#1  ✗ failed")
