"""The executor's side of a keeper: as ``nursery``, for the mother of workers that lasts.

Never blocks, except in ``close``.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from trun.executors import heritage, zygote
from trun.executors.hand import Hand
from trun.executors.heritage import Bury, Finish, Greeting, Kept, Stopping
from trun.executors.nursery import Nursery


class Keeping(Nursery):
    """A keeper as the executor sees it."""

    module = "keeper"

    def __init__(
        self, connection: socket.socket, name: str, log: Path, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        super().__init__(connection, name, log, process)
        self.name = name
        #: Our numbers of its workers, where they differ.
        self.renamed: dict[int, int] = {}
        self._pid = 0 if process is not None else heritage.peer(connection)[0]

    def _fds_for(self, hand: Hand) -> tuple[int, ...]:
        return (*super()._fds_for(hand), hand.jobs.fileno(), hand.control.fileno())

    def stopping(self, order: Stopping) -> None:
        """Say why a worker is being stopped, for the case that we do not see its end."""
        self._post(order)

    def bury(self, numbers: tuple[int, ...]) -> None:
        """Say that nothing more needs to be known of these workers."""
        self._post(Bury(numbers=numbers))

    def leave(self) -> None:
        """Go, and leave all to the keeper."""
        self.flush()
        self.connection.close()

    def close(self, patience: float = 6.0) -> None:
        """Let the keeper end everything and itself; returns when it is dead."""
        self._post(Finish())
        self.connection.settimeout(patience)
        self.flush()
        if self._pid:
            try:
                pidfd = os.pidfd_open(self._pid)
            except OSError:
                pass
            else:
                if not heritage.await_end(pidfd, patience):
                    heritage.kill_process(self._pid, patience)
                    self.kill_marked()
        super().close(patience)


def hear_greeting(connection: socket.socket) -> tuple[Greeting, list[tuple[Kept, tuple[int, int, int, int]]]]:
    """Receive who the keeper is, and all its workers."""
    data = connection.recv(4096)
    if not data:
        raise EOFError("it closed the connection")
    greeting = heritage.keeper_reports.decode(data)
    if not isinstance(greeting, Greeting) or greeting.protocol != heritage.PROTOCOL:
        raise EOFError(f"it is of another kind: {greeting}")
    found: list[tuple[Kept, tuple[int, int, int, int]]] = []
    while len(found) < greeting.workers:
        data, fds, _, _ = socket.recv_fds(connection, 4096, zygote.MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise EOFError("it closed the connection")
        kept = heritage.keeper_reports.decode(data)
        if not isinstance(kept, Kept):  # it forked or buried one meanwhile: there is no such case, but say so
            raise EOFError(f"it said {kept} before it had named all workers")
        jobs, theirs, control, mark = fds
        found.append((kept, (jobs, theirs, control, mark)))
    return greeting, found
