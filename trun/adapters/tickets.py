"""What was promised on the port for bulk data: each ticket stands for one file or value, in one direction.

Kept in memory alone and bounded: a restarted service knows none, and whoever holds one asks for another. Kept under
the SHA-256 of its text, so that neither a log nor a dump of the daemon gives one away.

Any thread may come in; ``bulk`` does. Rule: what a ticket stands for is fixed when it is made; the file that is opened
later must still be the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trun.adapters.parts import PIECE
from trun.errors import Refused, TransferRefused

#: A file by its path, a value, or what opens a file and returns its descriptor.
Content = Path | bytes | memoryview | Callable[[], int]
#: Device, inode, size and time of the last change of a file.
Identity = tuple[int, int, int, int]

#: Tickets at a time, of all and of one holder; bytes that all values together may take.
TICKETS, PER_HOLDER, VALUE_BYTES = 10_000, 2_000, 256 << 20


def size_and_identity(content: Content) -> tuple[int, Identity | None]:
    """Return the size of a content, and what a file of it is recognised by; raises ``OSError`` as opening does."""
    if isinstance(content, bytes | memoryview):
        return memoryview(content).nbytes, None
    fd = open_file(content)
    try:
        found = identity(fd)
    finally:
        os.close(fd)
    return found[2], found


def open_file(content: Path | Callable[[], int]) -> int:
    """Open a regular file and return its descriptor; a link is not followed."""
    if not isinstance(content, Path):
        return content()
    fd = os.open(content, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(f"{content} is no regular file.")
    return fd


def identity(fd: int) -> Identity:
    """Return what an open file is recognised by."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """What one ticket stands for."""

    #: Whose it is; empty for nobody's in particular.
    holder: str
    size: int
    #: Of the whole content; empty while unknown.
    digest: str
    #: On the monotonic clock.
    expires: float
    #: Connections that it is still good for.
    uses: int
    #: What is read, or
    content: Content | None = None
    identity: Identity | None = None
    #: where to what comes is written.
    target: Path | None = None
    #: Called once what came is durable.
    then: Callable[[], None] | None = None

    @property
    def way(self) -> str:
        """``GET`` or ``PUT``."""
        return "GET" if self.target is None else "PUT"

    @property
    def held_bytes(self) -> int:
        """Memory that it keeps."""
        return self.size if isinstance(self.content, bytes | memoryview) else 0

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int], memoryview]]:
        """Give a function from a position to the piece that begins there; empty past the end.

        A piece is good until the next one is read.

        Raises
        ------
        TransferRefused
            The file is gone, or not the one that it was; also at the end, where it was changed meanwhile.
        """
        assert self.content is not None
        if isinstance(self.content, bytes | memoryview):
            whole = memoryview(self.content).cast("B")
            yield lambda position: whole[position : position + PIECE]
            return
        try:
            fd = open_file(self.content)
        except OSError as error:
            raise TransferRefused(reason="missing") from error
        buffer = memoryview(bytearray(PIECE))
        try:
            if identity(fd) != self.identity:
                raise TransferRefused(reason="changed")
            yield lambda position: buffer[: os.preadv(fd, [buffer], position)]
            if identity(fd) != self.identity:
                raise TransferRefused(reason="changed")
        finally:
            os.close(fd)


class Tickets:
    """All tickets that are good, and some that were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_hash: dict[bytes, Ticket] = {}
        #: {holder: tickets}
        self._held: Counter[str] = Counter()
        self._value_bytes = 0

    def __len__(self) -> int:
        return len(self._by_hash)

    def add(self, ticket: Ticket) -> str:
        """Return the text of a new ticket; raises ``Refused`` where there are too many."""
        text = secrets.token_hex(32)
        with self._lock:
            if not self._has_room(ticket):
                self._drop(key for key, one in list(self._by_hash.items()) if one.expires <= time.monotonic())
            if not self._has_room(ticket):
                raise Refused("too many transfers of bulk data have been asked for and not begun; try again later.")
            self._by_hash[_hashed(text)] = ticket
            self._held[ticket.holder] += 1
            self._value_bytes += ticket.held_bytes
        return text

    def find(self, text: str, way: str) -> Ticket | None:
        """Return the ticket with this text, if it is good and for this direction."""
        with self._lock:
            found = self._by_hash.get(_hashed(text))
            if found is None or found.way != way or found.expires <= time.monotonic():
                return None
            return found

    def use(self, text: str) -> None:
        """Count one use of a ticket."""
        with self._lock:
            key = _hashed(text)
            found = self._by_hash.get(key)
            if found is not None:
                found.uses -= 1
                if found.uses <= 0:
                    self._drop((key,))

    def holders(self) -> set[str]:
        """Return who has tickets."""
        with self._lock:
            return set(self._held)

    def revoke(self, holder: str) -> int:
        """Forget all tickets of a holder, and say how many there were."""
        with self._lock:
            count = self._held[holder]
            self._drop(key for key, one in list(self._by_hash.items()) if one.holder == holder)
        return count

    def _has_room(self, ticket: Ticket) -> bool:
        return (
            len(self._by_hash) < TICKETS
            and self._held[ticket.holder] < PER_HOLDER
            and (not ticket.held_bytes or self._value_bytes + ticket.held_bytes <= VALUE_BYTES)
        )

    def _drop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            gone = self._by_hash.pop(key)
            self._value_bytes -= gone.held_bytes
            self._held[gone.holder] -= 1
            if not self._held[gone.holder]:
                del self._held[gone.holder]


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
