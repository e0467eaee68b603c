"""The executor's side of the zygote: starts it, asks it for workers and signals, hears of their deaths.

Never blocks, except in ``close``.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, Self

import trun.version
from trun.executors import processtree, zygote
from trun.executors.hand import Hand
from trun.executors.protocol import Frame, pair

#: Native libraries would start a thread per core in each worker.
_THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_BOOT = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.append(root); "
    "from trun.executors.{module} import main; main()"
)


class Nursery:
    """The zygote as the executor sees it."""

    #: Where the program of the process is.
    module = "zygote"

    def __init__(
        self, connection: socket.socket, name: str, log: Path, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.connection = connection
        self.log = log
        self._mark = mark_of(name)
        self.process = process
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()

    @classmethod
    def start(
        cls,
        folder: Path,
        name: str,
        service_key: str,
        threads: int,
        *,
        facts: dict[str, Any] | None = None,
        fds: tuple[int, ...] = (),
    ) -> Self:
        """Start the process; ``facts`` and ``fds`` are what it needs beside the usual."""
        ours, theirs = pair()
        known = {
            "fd": theirs.fileno(),
            "parent": os.getpid(),
            "name": name,
            "folder": str(folder),
            "service_key": service_key,
        } | (facts or {})
        environment = {limit: str(threads) for limit in _THREAD_LIMITS} | dict(os.environ)
        variable, _, value = mark_of(name).partition("=")
        environment[variable] = value
        root = str(Path(trun.__file__).parent.parent)
        log = folder / "logs" / "zygote.log"
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT.format(module=cls.module), root, json.dumps(known)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=(theirs.fileno(), *fds),
                env=environment,
                start_new_session=True,
            )
        theirs.close()
        return cls(ours, name, log, process)

    def fork(self, hand: Hand) -> None:
        """Ask for the process of a hand."""
        self._post(zygote.Fork(number=hand.zygote_number), self._fds_for(hand))

    def _fds_for(self, hand: Hand) -> tuple[int, ...]:
        return hand.theirs.fileno(), hand.control_theirs.fileno(), hand.mark_fd

    def signal(self, hand: Hand, signum: int, *, group: bool) -> None:
        """Send a signal to the worker's process group or to its process alone."""
        self._post(zygote.Signal(number=hand.zygote_number, signum=signum, group=group))

    def _post(self, order: Frame, fds: tuple[int, ...] = ()) -> None:
        self._unsent.append((zygote.encode(order), fds))
        self.flush()

    def flush(self) -> None:
        """Send what found the socket full."""
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                socket.send_fds(self.connection, [data], fds)
            except ConnectionError:  # it is dead, which shows when we receive
                pass
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS):
                    return
                raise
            self._unsent.popleft()

    @property
    def is_full(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def receive(self) -> list[zygote.Forked | zygote.NotForked | zygote.Exited] | None:
        """Return what the zygote has to say now; None when it is dead."""
        found: list[zygote.Forked | zygote.NotForked | zygote.Exited] = []
        while True:
            try:
                data = self.connection.recv(4096)
            except BlockingIOError:
                return found
            except ConnectionError:
                return found or None
            if not data:
                return found or None
            found.append(zygote.reports.decode(data))

    def close(self, patience: float = 6.0) -> None:
        """Let the zygote end everything and itself; returns when it is dead. Then nothing of it is alive."""
        self.connection.close()
        process = self.process
        if process is None:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kill_marked()

    def kill_marked(self) -> None:
        """Kill whatever carries our mark: for the case that the zygote could not do it."""
        kill_marked(self._mark)


def mark_of(name: str) -> str:
    """Return the variable, with its value, that all processes of a zygote carry in their environment."""
    return f"TRUN_WORKERS={name}"


def kill_marked(mark: str) -> None:
    """Kill whatever carries a mark."""
    for _ in range(20):
        left = processtree.marked(mark)
        if not left:
            return
        processtree.kill(left)
