"""A stage for whole scripts: each runs as a process of its own, may be interrupted or killed, and leaves no process.

Every process that a script starts, however deep and in whatever session, inherits a mark in its environment; by it
the stage finds who still lives. Waits are for files, lines and ends of processes; nothing sleeps for a fixed time but
the look at ``/proc``, which has no events.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Seconds after which something that should have happened has failed to.
PATIENCE_S = 60.0

#: What scripts and their payloads wait with.
HELPERS = """
import os, pathlib, signal, subprocess, sys, time
import trun

HERE = pathlib.Path({here!r})

def note(name, text="x"):
    part = HERE / (name + ".part")
    part.write_text(str(text))
    part.rename(HERE / name)

def await_file(name):
    while not (HERE / name).exists():
        time.sleep(0.005)
    return (HERE / name).read_text()

def add(*numbers):
    return sum(numbers)

def wait_for(gate, value=1):
    note("began-" + gate, os.getpid())
    await_file(gate)
    return value

def stubborn(mark):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    note("began-" + mark, os.getpid())
    while True:
        time.sleep(1)

def fail(text):
    raise ValueError(text)
"""


class Script:
    """One script that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out = self.err = ""

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def await_line(self, part: str) -> str:
        """Wait for a line on stderr that holds ``part``."""
        assert self.process.stderr is not None
        seen = ""
        for line in iter(self.process.stderr.readline, ""):
            if part in line:
                return line
            seen += line
        raise AssertionError(f"no line with {part!r}:\n{seen}")

    def end(self, timeout: float = PATIENCE_S) -> int:
        """Wait for the end; return the exit code."""
        self.out, self.err = self.process.communicate(timeout=timeout)
        return self.process.returncode


class Stage:
    """Where scripts run: one folder, one mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"TRUN_TEST_STAGE={uuid.uuid4().hex}"
        self.scripts: list[Script] = []

    def environment(self) -> dict[str, str]:
        """Return the environment of a script."""
        name, _, value = self.mark.partition("=")
        return {**os.environ, name: value, "PYTHONWARNINGS": "error"}

    def start(self, text: str, *arguments: str, name: str = "play.py", helpers: bool = True) -> Script:
        """Start a script; its helpers stand above ``text``."""
        path = self.folder / name
        path.write_text((HELPERS.format(here=str(self.folder)) if helpers else "") + text)
        return self.launch([sys.executable, str(path), *arguments])

    def launch(self, command: list[str]) -> Script:
        """Start any command on this stage."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs these tests in the background ignores SIGINT; a terminal does not.
            preexec_fn=_listen_to_interrupts,
        )
        script = Script(process)
        self.scripts.append(script)
        return script

    def run(self, text: str, *arguments: str, timeout: float = PATIENCE_S) -> Script:
        """Run a script to its end."""
        script = self.start(text, *arguments)
        script.end(timeout)
        return script

    def trun(self, *words: str, timeout: float = PATIENCE_S) -> Script:
        """Run the command."""
        script = self.launch([sys.executable, "-m", "trun", *words])
        script.end(timeout)
        return script

    # -- what happens

    def await_file(self, name: str, script: Script | None = None) -> str:
        """Wait until a script or payload has noted something; return it."""
        path = self.folder / name

        def there() -> bool:
            if not path.exists() and script is not None and script.process.poll() is not None:
                script.end()
                raise AssertionError(f"the script ended before {name}:\n{script.out}\n{script.err}")
            return path.exists()

        await_(there, name)
        return path.read_text()

    def note(self, name: str, text: str = "x") -> None:
        """Let those go on who wait for this file."""
        part = self.folder / (name + ".part")
        part.write_text(text)
        part.rename(self.folder / name)

    def runs(self) -> list[Path]:
        """Return the run folders, the oldest first."""
        return sorted((Path(os.environ["TRUN_STATE_DIR"]) / "runs").iterdir(), key=lambda path: path.stat().st_mtime)

    # -- who lives

    def living(self) -> dict[int, str]:
        """Return the processes of this stage that live, with their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        if words:
                            found[int(entry.name)] = words
        return found

    def await_nobody(self, timeout: float = PATIENCE_S) -> None:
        """Wait until no process of this stage lives."""
        await_(lambda: not self.living(), lambda: f"the end of {self.living()}", timeout)

    def pid_of(self, word: str) -> int:
        """Return the process whose command line holds ``word``."""
        (found,) = [pid for pid, words in self.living().items() if word in words]
        return found


def await_(happened: Callable[[], bool], what: str | Callable[[], str], timeout: float = PATIENCE_S) -> None:
    """Wait until something has happened that tells nobody."""
    deadline = time.monotonic() + timeout
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.01)


def _listen_to_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage; whoever is left on it when the test ends is removed."""
    made = Stage(tmp_path)
    yield made
    for script in made.scripts:
        if script.process.poll() is None:
            script.process.kill()
        script.process.communicate()
    for pid in made.living():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
