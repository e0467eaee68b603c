"""Unix sockets as files, and a descriptor that wakes a thread: what the wire needs of the operating system.

Knows nothing of messages. Who may come in: the adapters. Rule: a socket that somebody listens at is never taken away.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
import sys
import threading
from pathlib import Path

from trun.adapters.folders import Holder, check_socket_path, held_by
from trun.errors import BadOption

_TCP = re.compile(r"tcp://[^/;@\s]+:([0-9]{1,9}|\*)", re.ASCII)


def pipe_above_stdio() -> tuple[int, int]:
    """Return a pipe whose writing end a child can inherit beside its standard streams, also where ours are closed."""
    read, write = os.pipe()
    if write > 2:
        return read, write
    import fcntl  # a client on Windows starts no children

    try:
        return read, fcntl.fcntl(write, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(write)


def socket_path(address: str, *, bind: bool = False) -> Path | None:
    """Return the path of an ``ipc://`` address, None for other transports; refuse what no socket can have."""
    if address.startswith("tcp://"):
        check_tcp(address, bind=bind)
    if not address.startswith("ipc://"):
        return None
    path = address.removeprefix("ipc://")
    if not path.startswith("/"):
        raise BadOption(f"the address {address!r} is no ipc:// with an absolute path.")
    check_socket_path(path)
    return Path(path)


def check_tcp(address: str, *, bind: bool = False) -> None:
    """Refuse what is no ``tcp://HOST:PORT``; to listen, port 0 or ``*`` means any that is free.

    ZeroMQ itself takes a port beyond 65535 for another one, and finds other faults where nobody can be told.
    """
    found = _TCP.fullmatch(address)
    port = -1 if found is None else 0 if found[1] == "*" else int(found[1])
    if not (0 if bind else 1) <= port <= 65535:
        least = "0 (any)" if bind else "1"
        raise BadOption(f"{address!r} is no tcp://HOST:PORT with a port from {least} to 65535.")


def free_socket(path: Path) -> None:
    """Remove a socket that nobody listens at any more; binding would take it from a living listener in silence.

    Raises
    ------
    StateHeld
        Somebody listens; ``pid`` says who.
    BadOption
        The path is a file of another kind.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BadOption(f"{path} exists and is no socket; choose another address.")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
        pid = 0
        if hasattr(socket, "SO_PEERCRED"):
            pid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    raise held_by(path, Holder(pid=pid, since=found.st_mtime), what="socket")


class Wake:
    """Wakes a thread that waits in poll for ``fd``."""

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, ...] = ()
        if hasattr(os, "eventfd"):
            self.fd = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        elif sys.platform == "win32":  # where sockets alone can be waited for
            self._pair = socket.socketpair()
            self.fd, self._write = (each.fileno() for each in self._pair)
            for each in self._pair:
                each.setblocking(False)
        else:
            self.fd, self._write = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write, False)
        # A descriptor that was closed may be another file's a moment later: nobody may write to it then.
        self._lock = threading.Lock()

    def set(self) -> None:
        """Wake it, from any thread; more than once is as good as once, and after ``close`` it is nothing."""
        with self._lock:
            if self._write >= 0:
                with contextlib.suppress(BlockingIOError):
                    if self._pair:
                        self._pair[1].send(b"x")
                    else:
                        os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Take note, in the thread that was woken."""
        with contextlib.suppress(BlockingIOError):
            if self._pair:
                self._pair[0].recv(4096)
            else:
                os.read(self.fd, 4096)

    def close(self) -> None:
        """Close the descriptors; a second call does nothing."""
        with self._lock:
            if self._write >= 0:
                for each in self._pair:
                    each.close()
                for fd in {self.fd, self._write} if not self._pair else ():
                    os.close(fd)
                self._write = -1
