"""One worker of a daemon as the executor sees it: its reports stay in its socket until they are settled.

A report is looked at (``MSG_PEEK``, with an offset that the kernel keeps) and taken out only when the engine has
written it down, so a service that is killed in between loses nothing: the next one looks again. What was said while
nobody looked comes first, from a file.

Rule: as for ``hand``: it gives, takes and hears; it decides nothing.
"""

from __future__ import annotations

import logging
import mmap
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trun.executors import heritage
from trun.executors.hand import Hand
from trun.executors.heritage import Kept
from trun.executors.protocol import (
    Report,
    Ticket,
    begun_and_done,
    begun_at,
    encode,
    file_stem,
    frame_number,
    marked_ticket,
    read_report,
    ticket_in,
)
from trun.messages import Emitted, Ended, ResourcesLowered
from trun.ports import Order

if TYPE_CHECKING:
    from trun.executors.keeping import Keeping

_log = logging.getLogger(__name__)

_SO_PEEK_OFF = 42
#: Seconds for a worker to note what it has just received.
_MARK_S = 1.0
_TICKET_BYTES = 1024
_BUFFER = bytearray(256 * 1024)
_VIEW = memoryview(_BUFFER)
_ONE = bytearray(1)


class Begun(NamedTuple):
    """What the mark of a worker says: the order that it began last."""

    number: int = 0
    ticket: Ticket | None = None
    runs: bool = False
    at: float = 0.0


class LastingHand(Hand):
    """A worker whose reports stay where they are until they are settled."""

    def __init__(
        self, number: int, name: str, folder: Path, keeping: Keeping, fds: tuple[int, int, int, int] | None = None
    ) -> None:
        self.keeping = keeping
        self._fds = fds
        super().__init__(number, name, folder)
        self.jobs.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        #: File with what it said while nobody listened.
        self.left: Path | None = None
        self.begun = Begun()
        #: Reports that were read ahead; the flag: it is still in the socket.
        self._early: deque[tuple[Report | None, bool, Path | None]] = deque()
        #: One for each report that was looked at in the socket: the file in which it was spilled.
        self._seen: deque[Path | None] = deque()
        #: How many of those have been returned to the engine.
        self.returned = 0
        self.left_returned = False
        self.muted = False

    def _open(self) -> None:
        if self._fds is None:
            super()._open()
            return
        jobs, theirs, control, mark = self._fds
        self.jobs, self.theirs = socket.socket(fileno=jobs), socket.socket(fileno=theirs)
        self.control = socket.socket(fileno=control)
        self.control_theirs = self.control.dup()
        for end in (self.jobs, self.control):
            end.setblocking(False)
        self.mark_fd, self._mark = mark, mmap.mmap(mark, mmap.PAGESIZE)

    def _ticket(self, order: Order) -> bytes:
        return encode(Ticket(stem=file_stem(order.uid), epoch=order.epoch, timeout=order.spec.timeout))

    # -- taking over

    def take_tickets(self) -> list[Ticket]:
        """Take back all orders that the worker has not begun."""
        found: list[Ticket] = []
        while True:
            try:
                head = self.theirs.recv(_TICKET_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, OSError):
                return found
            if not head:
                return found
            self._frames = max(self._frames, frame_number(head))
            ticket = ticket_in(head)
            if ticket is not None:
                found.append(ticket)

    def look(self, kept: Kept) -> Begun:
        """Read the mark; all that it has not begun was taken back before."""
        end = time.monotonic() + _MARK_S
        # Between receiving an order and noting it, a worker is awake.
        while kept.alive and not heritage.is_asleep(kept.pid) and time.monotonic() < end:
            begun, done = begun_and_done(self._mark)
            if begun != done:
                break
            time.sleep(0.0005)
        begun, done = begun_and_done(self._mark)
        self._frames = max(self._frames, begun)
        runs = begun != done
        self.begun = Begun(begun, marked_ticket(self._mark), runs, begun_at(self._mark) if runs else 0.0)
        return self.begun

    def fetch(self) -> None:
        """Read ahead what was said so far."""
        if self.left is not None:
            for data in heritage.read_records(self.left):
                try:
                    report, path = heritage.decode_record(data, self._spill)
                except (msgspec.MsgspecError, OSError) as error:
                    _log.warning("skipped a damaged report file=%s reason=%s", self.left, error)
                    continue
                if not isinstance(report, heritage.Fate):
                    self._early.append((report, False, path))
        while True:
            found = self._peek()
            if found is None:
                return
            self._early.append((found[0], True, found[1]))

    def early_reports(self) -> Iterator[Report]:
        """Yield what was read ahead."""
        for report, _, _ in self._early:
            if report is not None:
                yield report

    def forget_reports_but(self, keys: set[tuple[str, int]]) -> None:
        """Of what was read ahead, keep what is about these attempts: the rest is written down already."""
        for place, (report, in_socket, path) in enumerate(self._early):
            if isinstance(report, Ended | Emitted | ResourcesLowered) and (report.uid, report.epoch) not in keys:
                self._early[place] = (None, in_socket, path)

    # -- hearing

    def receive(self) -> Report | None:
        """Return the next report of the worker, which stays where it is; None where there is none."""
        while self._early:
            report, in_socket, path = self._early.popleft()
            if in_socket:
                self._seen.append(path)
            if report is not None:
                return report
        found = self._peek()
        if found is None:
            return None
        self._seen.append(found[1])
        return found[0]

    def _peek(self) -> tuple[Report | None, Path | None] | None:
        try:
            size = self.jobs.recv_into(_BUFFER, 0, socket.MSG_PEEK)
        except (BlockingIOError, ConnectionError):
            return None
        if not size:
            return None
        try:
            return read_report(_VIEW[:size], self._spill)
        except (msgspec.MsgspecError, OSError) as error:
            _log.warning("a worker sent what is no report pid=%d reason=%s", self.pid, error)
            return None, None

    def have_returned(self) -> None:
        """All that was heard so far has gone to the engine, but for a report that is held."""
        if self.held is None:
            self.returned = len(self._seen)
            self.left_returned = self.left is not None and not self._early

    def settle(self) -> None:
        """Take what the engine has written down out of the socket."""
        seen = self._seen
        for _ in range(self.returned):
            try:
                self.jobs.recv_into(_ONE, 1)
            except OSError:
                break
            path = seen.popleft()
            if path is not None:
                path.unlink(missing_ok=True)
        self.returned = 0
        if self.left_returned and self.left is not None:
            self.left.unlink(missing_ok=True)
            self.left, self.left_returned = None, False

    def remains(self) -> list[Path]:
        """Return the files that nobody needs when the last of it is written down."""
        paths = [path for path in self._seen if path is not None]
        return [*paths, self.left] if self.left is not None else paths
