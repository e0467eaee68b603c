"""Who is connected, by which descriptor, and how much lies unread on the way in and on the way out.

A transport that queues without bounds hides what it holds, but the kernel knows what went over each connection
(``TCP_INFO``): what it took in and nobody has read yet, and what was handed out and the other side has not taken. Both
are looked at a few times a second; a connection with too much is cut, which frees what it holds. Whoever was cut may
come again, and resumes its streams where it stood.

Knows sockets by their numbers only, and reads nothing from them. Who may come in: ``adapters.wire``.
Rule: where the kernel does not tell, nothing is assumed and nobody is cut.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable

_audit = logging.getLogger("trun.audit")

#: Bytes of one connection that may lie unread here, without a whole message or with; and of all connections.
PART_BYTES, IN_BYTES, ALL_IN_BYTES = 96 * 1024 * 1024, 256 * 1024 * 1024, 768 * 1024 * 1024
#: Bytes that a peer may leave unread before it is cut off.
OUT_BYTES = 256 * 1024 * 1024
#: Seconds between two looks, and more for each connection.
LOOK_S, EACH_S = 0.25, 0.0005
#: Where ``struct tcp_info`` has bytes_acked and bytes_received.
_COUNTS = struct.Struct("=120xQQ")


class _Line:
    """One connection."""

    __slots__ = ("acked", "came", "messages", "out", "peer", "read", "received", "sent", "waiting")

    def __init__(self) -> None:
        self.peer = b""
        #: What the kernel said at the last look.
        self.acked = self.received = 0
        #: Bytes and messages since the last look.
        self.read = self.sent = self.messages = 0
        #: Bytes that came since the last look, that wait to be read, and that the peer has not taken.
        self.came = self.waiting = self.out = 0


class Peers:
    """All connections of one endpoint."""

    def __init__(self, unknown: str) -> None:
        self._unknown = unknown
        self._users: dict[bytes, str] = {}
        #: {descriptor of a connection: who came by it}
        self._fds: dict[int, bytes] = {}
        self._lines: dict[int, _Line] = {}
        self._by_peer: dict[bytes, _Line] = {}
        self._gone: list[bytes] = []
        #: Whether connections have ended since ``gone`` was asked.
        self.have_ended = False
        self._late: list[bytes] = []
        self._looked = 0.0
        #: Connections that were cut.
        self.cut = 0

    def __len__(self) -> int:
        return len(self._lines)

    def who(self, peer: bytes) -> str:
        """Return who a peer is that was heard."""
        return self._users.get(peer, self._unknown)

    def is_known(self, peer: bytes, who: str) -> bool:
        """Whether the peer was entered as this."""
        return self._users.get(peer) == who

    def is_leaving(self, peer: bytes) -> bool:
        """Whether the peer is forgotten as soon as what it said last was carried out."""
        return peer in self._late

    def gone(self, waits: Callable[[bytes], bool]) -> list[bytes]:
        """Return, once, the peers whose connections have ended and of whom nothing waits to be read."""
        self.have_ended = False
        self._late += [peer for peer in self._gone if not waits(peer)]
        self._gone = [peer for peer in self._gone if waits(peer)]
        return list(self._late)

    def forget_gone(self) -> None:
        """The last requests of those who have gone were carried out."""
        while self._late:
            peer = self._late.pop()
            self._users.pop(peer, None)
            self._by_peer.pop(peer, None)

    def accepted(self, fd: int) -> None:
        """A connection was made."""
        self._lines[fd] = _Line()

    def ended(self, fd: int) -> None:
        """A connection has ended."""
        self._lines.pop(fd, None)
        peer = self._fds.pop(fd, None)
        if peer is not None:
            self._gone.append(peer)
            self.have_ended = True

    def enter(self, peer: bytes, who: str, fd: int) -> None:
        """Note a peer that was not heard before, and by which connection it came."""
        self._users[peer] = who
        before = self._fds.get(fd, peer)
        # Ids are given in order: what came by a connection that has ended may be read after what followed it.
        if (int.from_bytes(peer[1:]) - int.from_bytes(before[1:])) % 2**32 < 2**31:
            self._fds[fd] = peer
            line = self._lines.get(fd)
            if line is not None:
                line.peer = peer
                self._by_peer[peer] = line
        self._gone += [each for each in {before, peer} if each != self._fds[fd]] if before != peer else []

    # -- how much is on the way

    def read(self, peer: bytes, size: int) -> None:
        """A message of a peer was read."""
        line = self._by_peer.get(peer)
        if line is not None:
            line.read += size
            line.messages += 1

    def sent(self, peer: bytes, size: int) -> None:
        """Something was handed out for a peer."""
        line = self._by_peer.get(peer)
        if line is not None:
            line.sent += size

    def unread(self, peer: bytes) -> int:
        """Return about how many bytes a peer has not taken yet."""
        line = self._by_peer.get(peer)
        return 0 if line is None else line.out + line.sent

    def look(self) -> list[bytes]:
        """Look, now and then, how much is on the way; cut whom too much is of, and return those that are known."""
        now = time.monotonic()
        if now - self._looked < LOOK_S + EACH_S * len(self._lines):
            return []
        self._looked = now
        for fd, line in self._lines.items():
            _count(fd, line)
        cut = [(fd, line, why) for fd, line in self._lines.items() if (why := _fault(line))]
        rest = [line.waiting for line in self._lines.values()]
        if sum(rest) > ALL_IN_BYTES and not cut:
            fd, line = max(self._lines.items(), key=lambda item: item[1].waiting)
            cut.append((fd, line, f"in={line.waiting}"))
        return self._cut(cut)

    def _cut(self, found: Iterable[tuple[int, _Line, str]]) -> list[bytes]:
        peers = []
        for fd, line, why in found:
            self.cut += 1
            _audit.warning("cut off key=%s unread %s", self._users.get(line.peer, "-") or "-", why)
            _shut(fd)
            line.waiting = line.out = line.sent = 0
            if line.peer:
                peers.append(line.peer)
        return peers


def _count(fd: int, line: _Line) -> None:
    """Bring the counts of a connection up to date. What encryption adds is unknown, and must not add up."""
    counts = _counts(fd)
    if counts is None:
        line.read = line.sent = line.messages = line.waiting = line.out = 0
        return
    acked, received = counts
    came, line.received = received - line.received, received
    taken, line.acked = acked - line.acked, acked
    waiting = max(line.waiting + came - line.read, 0)
    # Whoever has said something whole since the last look had nothing waiting before that.
    line.waiting = min(waiting, came) if line.messages else waiting
    line.out = max(line.out + line.sent - taken, 0)
    line.read = line.sent = line.messages = 0
    line.came = came


def _fault(line: _Line) -> str:
    if line.waiting > (IN_BYTES if line.peer else PART_BYTES):
        return f"in={line.waiting}"
    return f"out={line.out}" if line.out > OUT_BYTES else ""


def _counts(fd: int) -> tuple[int, int] | None:
    """Return how many bytes the other side has taken, and how many came; None where the kernel does not tell."""
    try:
        borrowed = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        found = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        acked, received = _COUNTS.unpack_from(found)
    except (OSError, AttributeError, struct.error):
        return None
    finally:
        borrowed.detach()
    return (acked, received) if acked and received else None


def _shut(fd: int) -> None:
    try:
        borrowed = socket.socket(fileno=fd)
    except OSError:
        return
    try:
        borrowed.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        borrowed.detach()


__all__ = ["Peers"]
