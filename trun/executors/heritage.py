"""What the workers of a daemon leave for the next one: words between a keeper and an executor, and files.

A keeper outlives its executor; the executor that comes next finds it by a socket in the state folder, and is given the
descriptors of all workers. What nobody could read meanwhile lies in ``left/``, one file per worker: records that are
checked, so that a torn one at the end is noticed. Files also serve where the keeper itself is gone.

Rule: words, names and files only; who does what with them is the business of ``keeper`` and ``lasting``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trun.executors.protocol import Frame, Report, Spilled, Ticket
from trun.executors.zygote import Exited, Fork, Forked, NotForked, Signal

#: Version of what an executor and a keeper say to each other, also of different releases.
PROTOCOL = 1
_HEAD = struct.Struct("<II")


# -- to the keeper ----------------------------------------------------------------------------------------------------


class Stopping(Frame, frozen=True):
    """What worker ``number`` runs is being stopped: SIGKILL follows at ``kill_at`` (monotonic)."""

    number: int
    cause: str
    reason: str
    kill_at: float
    killed: bool = False
    #: Bytes that it held, where that is why.
    peak: int = 0


class Bury(Frame, frozen=True):
    """What was said of these dead workers is written down: forget them."""

    numbers: tuple[int, ...]


class Finish(Frame, frozen=True):
    """End all workers, and yourself."""


# -- from the keeper --------------------------------------------------------------------------------------------------


class Greeting(Frame, frozen=True):
    """Who the keeper is; ``workers`` messages ``Kept`` follow."""

    protocol: int
    version: str
    name: str
    pid: int
    workers: int


class Kept(Frame, frozen=True):
    """A worker, with its sockets and its mark: alive, or dead and not yet buried."""

    number: int
    pid: int
    #: When the process was started, in ticks since the machine was.
    start: int
    alive: bool = True
    status: int = 0
    peak: int = 0
    stopping: Stopping | None = None


# -- in files ---------------------------------------------------------------------------------------------------------


class Fate(Frame, frozen=True):
    """How a worker died, and under which attempt (None: under none)."""

    ticket: Ticket | None
    status: int
    seconds: float = 0.0
    peak: int = 0
    stopping: Stopping | None = None


keeper_orders = msgspec.msgpack.Decoder(Fork | Signal | Stopping | Bury | Finish)
keeper_reports = msgspec.msgpack.Decoder(Greeting | Kept | Forked | NotForked | Exited)
_records = msgspec.msgpack.Decoder(Report | Spilled | Fate)


class Record:
    """The file in which the reports of a worker are kept while nobody reads them."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = record_path(folder, worker)
        self._fd = -1
        self.size = 0

    def append(self, data: bytes, *, sync: bool) -> None:
        """Write a record; when this returns after ``sync``, it survives all but the loss of the disk."""
        fresh = self._fd < 0
        if fresh:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self.size = os.fstat(self._fd).st_size
        whole = _HEAD.pack(len(data), zlib.crc32(data)) + data
        written = 0
        try:
            while written < len(whole):
                written += os.write(self._fd, whole[written:])
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += written
        if sync:
            os.fsync(self._fd)
            _sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def record_path(folder: Path, worker: str) -> Path:
    """Return the file of a worker."""
    return folder / "left" / f"{worker}.reports"


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, up to the first that is torn."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    place = 0
    while place + _HEAD.size <= len(data):
        size, check = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        record = data[place : place + size]
        place += size
        if len(record) < size or zlib.crc32(record) != check:
            return
        yield record


def decode_record(data: bytes, spill: Path) -> tuple[Report | Fate, Path | None]:
    """Return what a record says, and the file in which it was spilled."""
    found: Any = _records.decode(data)
    if type(found) is not Spilled:
        return found, None
    path = spill / Path(found.path).name
    return _records.decode(path.read_bytes()), path


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- sockets and processes --------------------------------------------------------------------------------------------


def socket_path(folder: Path, name: str) -> Path:
    """Return where the keeper of that name listens."""
    return folder / "keepers" / f"{name}.sock"


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a socket's path in a form that fits into an address, however deep its folder is."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def listen(path: Path) -> socket.socket:
    """Return a socket at which a keeper can be found; only this user can connect."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with _short(path) as address:
        before = os.umask(0o177)
        try:
            listener.bind(address)
        finally:
            os.umask(before)
    listener.listen(8)
    return listener


def connect(path: Path, patience: float) -> socket.socket | None:
    """Connect to a keeper; None where it is dead."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(patience)
    try:
        with _short(path) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionError, BlockingIOError):
        connection.close()
        return None
    if peer(connection)[1] != os.getuid():
        connection.close()
        return None
    return connection


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the other side, as the kernel knows them."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def start_of(pid: int) -> int:
    """Return when a process was started, in ticks since the machine was; 0: there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def is_asleep(pid: int) -> bool:
    """Whether a process waits for something, is stopped, or is gone."""
    fields = _stat(pid)
    return not fields or fields[0] not in (b"R", b"D")


def _stat(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def kill_process(pid: int, patience: float) -> None:
    """Kill a process that does not answer, and wait for its end."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        await_end(fd, patience)


def await_end(pidfd: int, patience: float) -> bool:
    """Wait for the end of a process; closes the descriptor. Whether it ended."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    try:
        return bool(waiting.poll(patience * 1000))
    finally:
        os.close(pidfd)
