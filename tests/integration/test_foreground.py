"""A service that stays in the foreground, as systemd and batch systems start it: with the templates that come along."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trun
from tests.sites import PATIENCE_S, command
from trun.adapters.known import known_services
from trun.remotes import _opened

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "services" / "systemd" / "trun@.service"
BATCH = ROOT / "services" / "slurm" / "trun.sbatch"

Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start a program that is a service in the foreground; it and its daemon are gone when the test ends."""
    begun: list[subprocess.Popen[str]] = []

    def run(*words: str, **more: Any) -> subprocess.Popen[str]:
        made = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True, **more)
        begun.append(made)
        return made

    yield run
    while _opened:
        _opened.pop().leave_quietly()
    for known in known_services():
        command("service", "stop", known.name, "--kill")
    for program in begun:
        if program.poll() is None:
            program.kill()
        program.wait(PATIENCE_S)
        assert program.stdout is not None
        program.stdout.close()


def start_words(*more: str) -> tuple[str, ...]:
    words = ("service", "start", "--name", "fans", "--workers", "1", "--listen", "tcp://127.0.0.1:0", "--foreground")
    return (sys.executable, "-m", "trun", *words, *more)


def first_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


def answers(name: str = "fans") -> bool:
    return trun.remote_service(name).submit(pow, 2, 3).result(PATIENCE_S) == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_that_it_is_ready_stays_and_ends_with_a_signal(begin: Begin, number: signal.Signals) -> None:
    program = begin(*start_words())
    assert first_line(program).startswith("fans ready at tcp://127.0.0.1:")
    assert answers()
    assert program.poll() is None

    program.send_signal(number)

    assert program.wait(PATIENCE_S) == 0
    assert "fans does not run" in command("service", "stop", "fans").stdout


def test_it_ends_well_where_the_service_was_stopped_and_ill_where_it_died(begin: Begin) -> None:
    program = begin(*start_words())
    assert "ready" in first_line(program)
    command("service", "stop", "fans")
    assert program.wait(PATIENCE_S) == 0

    again = begin(*start_words("--json"))
    assert again.stdout is not None
    text = "".join(iter(again.stdout.readline, "}\n")) + "}"
    os.kill(json.loads(text)["pid"], signal.SIGKILL)
    assert again.wait(PATIENCE_S) == 1


def test_a_second_one_ends_with_the_code_after_which_systemd_does_not_try_again(begin: Begin) -> None:
    assert "ready" in first_line(begin(*start_words()))

    command(*start_words()[3:], code=5)

    assert "RestartPreventExitStatus=5" in UNIT.read_text()
    assert "KillMode=process" in UNIT.read_text()  # running jobs live on


def test_the_unit_of_systemd_starts_a_service(begin: Begin) -> None:
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart=").replace("%i", "fans"))
    assert words[0].endswith("/bin/trun")
    assert words[-1] == "$TRUN_OPTIONS"

    begun = begin(sys.executable, "-m", "trun", *words[1:-1], "--listen", "tcp://127.0.0.1:0", "--workers", "1")

    assert "fans ready at tcp://127.0.0.1:" in first_line(begun)
    assert answers()


def test_the_batch_script_starts_a_service_and_ends_it_with_its_allocation(begin: Begin, tmp_path: Path) -> None:
    for name, text in (("trun", f'exec {sys.executable} -m trun "$@"'), ("hostname", "echo 127.0.0.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    there = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_TMPDIR": str(tmp_path),
    }
    begun = begin("bash", str(BATCH), "fans", env=there)
    assert "fans ready at tcp://127.0.0.1:" in first_line(begun)
    assert (tmp_path / "trun-17" / "journal.sqlite").exists()
    assert answers()
    pid = json.loads(command("service", "status", "fans", "--json").stdout)["pid"]

    begun.send_signal(signal.SIGTERM)

    assert begun.wait(PATIENCE_S) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    kept = Path(os.environ["TRUN_CONFIG_DIR"]) / "batch-fans"
    for what in ("keys/curve", "authorized_users"):  # the next allocation has the same key and the same people
        assert (kept / what).read_bytes() == (tmp_path / "trun-17" / what).read_bytes()
