"""Daemons for tests: nodes that belong to nobody, to be killed and started again, and whoever is left of them.

Every process of a ``Daemon`` carries its mark in the environment; by it the test finds who still lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

#: Seconds after which something that should have happened has failed to.
PATIENCE_S = 30.0


class Daemon:
    """A node of one state folder, through all its lives."""

    def __init__(self, folder: Path, runtime: Path, *, workers: int = 2) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.address = f"ipc://{runtime}/{uuid.uuid4().hex[:8]}.sock"
        self.workers = workers
        self.mark = f"TRUN_TEST_DAEMON={uuid.uuid4().hex}"
        self.process: subprocess.Popen[bytes] | None = None
        #: What runs as the node; with ``faulty.program`` it is one that has faults.
        self.program: tuple[str, ...] = ("-m", "trun.daemons.node")

    def _arguments(self) -> list[str]:
        return [
            *("--folder", str(self.folder), "--address", self.address),
            *("--workers", str(self.workers)),
        ]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        name, _, value = self.mark.partition("=")
        return {**os.environ, **more, name: value}

    def start(self, **environment: str) -> dict[str, Any]:
        """Start it and wait until it is ready."""
        ours, theirs = os.pipe()
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, *self._arguments(), "--ready-fd", str(theirs)],
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        os.close(theirs)
        return self._read_ready(ours)

    def _read_ready(self, fd: int) -> dict[str, Any]:
        try:
            assert select.select([fd], [], [], PATIENCE_S)[0], "the daemon is not ready"
            line = os.read(fd, 65536)
        finally:
            os.close(fd)
        found: dict[str, Any] = json.loads(line) if line else {"error": "died", "message": self.log()}
        assert "error" not in found, found
        return found

    def log(self) -> str:
        """Return the end of what it wrote."""
        return (self.folder / "node.log").read_text()[-5000:]

    def send(self, signum: int) -> int:
        """Send a signal to the node and wait for its end; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Kill the node, as a crash would."""
        assert self.send(signal.SIGKILL) == -signal.SIGKILL

    def stop(self) -> None:
        """Stop the node; what runs goes on."""
        assert self.send(signal.SIGTERM) == 0, self.log()

    def end(self) -> None:
        """Stop the node and all that runs."""
        assert self.send(signal.SIGUSR1) == 0, self.log()

    # -- who lives

    def living(self) -> dict[int, str]:
        """Return the processes of this daemon that live, with their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        if words:
                            found[int(entry.name)] = words
        return found

    def keeper(self) -> int:
        """Return the process that holds the workers: the one whose parent is no process of this daemon but the node."""
        living = {pid: words for pid, words in self.living().items() if "executors.keeper" in words}
        (found,) = [pid for pid in living if parent_of(pid) not in living]
        return found

    def await_nobody(self) -> None:
        """Wait until no process of this daemon lives."""
        await_(lambda: not self.living(), lambda: f"the end of {self.living()}")

    def clear(self) -> None:
        """Kill whoever is left; for the end of a test that failed."""
        for _ in range(3):
            for pid in self.living():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(PATIENCE_S)


class QuickDaemon(Daemon):
    """A daemon that is started again in a moment: its lives are forked from one process (see ``mother``)."""

    def __init__(self, folder: Path, runtime: Path, *, workers: int = 2) -> None:
        super().__init__(folder, runtime, workers=workers)
        self._ready = runtime / f"{uuid.uuid4().hex[:8]}.ready"
        os.mkfifo(self._ready)
        root = Path(__file__).parent.parent
        self._mother = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "mother.py"), str(folder / "node.log")],
            env=self._environment({"PYTHONPATH": f"{root}:{root / 'tests'}"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0
        #: Where the next life kills itself; see ``faulty.arm``.
        self.fault: dict[str, Any] = {}

    def start(self, **environment: str) -> dict[str, Any]:
        """Fork the next life and wait until it is ready."""
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        ready = os.open(self._ready, os.O_RDONLY | os.O_NONBLOCK)
        line = json.dumps({"arguments": self._arguments(), "ready": str(self._ready), "fault": self.fault})
        self._mother.stdin.write(line + "\n")
        self._mother.stdin.flush()
        self.pid = int(self._mother.stdout.readline())
        return self._read_ready(ready)

    def send(self, signum: int) -> int:
        """Send a signal to the node and wait for its end; nobody knows its exit code."""
        pidfd = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(pidfd, signum)
            assert select.select([pidfd], [], [], PATIENCE_S)[0], self.log()
        finally:
            os.close(pidfd)
        return -signum if signum == signal.SIGKILL else 0

    def close(self) -> None:
        """Let the mother go."""
        self._mother.communicate(timeout=PATIENCE_S)


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def await_(happened: Any, what: Any, timeout: float = PATIENCE_S) -> None:
    """Wait until something has happened that tells nobody."""
    deadline = time.monotonic() + timeout
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.005)
