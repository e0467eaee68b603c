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

import trun.version
from trun.executors import processtree, zygote
from trun.executors.hand import Hand
from trun.executors.protocol import pair

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
    "from trun.executors.zygote import main; main()"
)


class Nursery:
    """The zygote as the executor sees it."""

    def __init__(self, folder: Path, name: str, service_key: str, threads: int) -> None:
        self._mark = f"TRUN_WORKERS={name}"
        ours, theirs = pair()
        self.connection = ours
        facts = {
            "fd": theirs.fileno(),
            "parent": os.getpid(),
            "name": name,
            "folder": str(folder),
            "service_key": service_key,
        }
        environment = {limit: str(threads) for limit in _THREAD_LIMITS} | dict(os.environ)
        environment["TRUN_WORKERS"] = name
        root = str(Path(trun.__file__).parent.parent)
        self.log = folder / "logs" / "zygote.log"
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, root, json.dumps(facts)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )
        theirs.close()
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def fork(self, hand: Hand) -> None:
        """Ask for the process of a hand."""
        self._post(
            zygote.encode(zygote.Fork(number=hand.number)),
            (hand.theirs.fileno(), hand.control_theirs.fileno(), hand.mark_fd),
        )

    def signal(self, hand: Hand, signum: int, *, group: bool) -> None:
        """Send a signal to the worker's process group or to its process alone."""
        self._post(zygote.encode(zygote.Signal(number=hand.number, signum=signum, group=group)), ())

    def _post(self, data: bytes, fds: tuple[int, ...]) -> None:
        self._unsent.append((data, fds))
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
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.kill_marked()

    def kill_marked(self) -> None:
        """Kill whatever carries our mark: for the case that the zygote could not do it."""
        for _ in range(20):
            left = processtree.marked(self._mark)
            if not left:
                return
            processtree.kill(left)
