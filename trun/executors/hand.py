"""The executor's side of one worker process: which orders it was given, which of them it has begun.

A hand gives orders out and takes them back; it decides nothing (see ``processes``) and never blocks.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from pathlib import Path

from trun.executors.protocol import (
    INLINE_BYTES,
    NUMBER_BYTES,
    Envelope,
    Frame,
    Reader,
    Report,
    current_log_name,
    encode,
    frame_number,
    log_name,
    make_mark,
    number_frame,
    pair,
    report_reader,
    spill,
    tail_of,
)
from trun.messages import Ended
from trun.ports import Order

#: Functions and contexts that a worker keeps.
_FORGET_ABOVE = 500


class Sent:
    """An order in a worker's hands."""

    __slots__ = ("carried", "key", "number", "order", "spilled", "texts")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.key = (order.uid, order.epoch)
        #: Number of its frame, by which it is known when it is taken back.
        self.number = 0
        #: Digests of the function and the context that went with it.
        self.carried: list[str] = []
        #: File of the frame, where it was too big for a datagram.
        self.spilled = ""
        #: Texts for its inbox that came before it was begun.
        self.texts: list[Frame] = []


class Stop:
    """Why and how a worker is being stopped."""

    __slots__ = ("cause", "kill_at", "killed", "peak", "reason")

    def __init__(self, cause: str, reason: str, kill_at: float) -> None:
        #: cancel, timeout or memory
        self.cause = cause
        self.reason = reason
        #: Monotonic time at which SIGKILL follows.
        self.kill_at = kill_at
        self.killed = False
        self.peak = 0


class Hand:
    """One worker process as the executor sees it."""

    def __init__(self, number: int, name: str, folder: Path) -> None:
        self.number = number
        #: Its number as the zygote counts.
        self.zygote_number = number
        self._open()
        self.log = folder / "logs" / current_log_name(name)
        self._spill = folder / "spill"
        self.reader: Reader = report_reader(self._spill)
        self.pid = 0
        self.pidfd = -1
        self.ready = False
        #: Orders that were sent, oldest first; at most the first of them is begun.
        self.queue: deque[Sent] = deque()
        #: Frames that found the socket full; the last orders of ``queue``, and texts.
        self.unsent: deque[bytes] = deque()
        self.untold: deque[bytes] = deque()
        self.known: set[str] = set()
        self._frames = 0
        #: Monotonic time at which the first order of the queue began; 0.0 while the worker is not up.
        self.began = 0.0
        self.done = 0
        #: What its orders have first in their module path; None before the first order.
        self.paths: tuple[str, ...] | None = None
        self.suspended = False
        #: It takes no further orders: for one fresh attempt only, told to go, or going by itself.
        self.closing = False
        self.leaving = False
        self.stop: Stop | None = None
        #: The report of an attempt whose remains are still being killed.
        self.held: Ended | None = None
        #: Monotonic time of the last look at its memory.
        self.weighed_at = 0.0
        self.peak = 0
        self.base_rss = 0

    def _open(self) -> None:
        self.jobs, self.theirs = pair()
        self.control, self.control_theirs = pair()
        self.mark_fd, self._mark = make_mark()

    def _ticket(self, order: Order) -> bytes:
        """Return what is to be known of the order when we have gone; nothing: the worker goes with us."""
        return b""

    @property
    def is_free(self) -> bool:
        """Whether an order would begin at once."""
        return not self.queue and not self.closing and self.stop is None

    @property
    def is_busy(self) -> bool:
        """Whether it takes up a slot."""
        return bool(self.queue or self.held) and not self.suspended

    @property
    def may_queue(self) -> bool:
        """Whether orders may wait in it behind another."""
        return self.ready and not (self.suspended or self.closing or self.stop)

    @property
    def takes_orders(self) -> bool:
        """Whether an order that is given to it now will be looked at."""
        return not (self.closing or self.leaving or self.stop)

    def has_begun(self, sent: Sent) -> bool:
        """Whether the payload of an order that it received was, or may have been, begun."""
        return frame_number(self._mark[:NUMBER_BYTES]) == sent.number

    def is_forked(self, pid: int) -> None:
        """Note the process; from here on it can be killed without doubt about whom that hits."""
        self.pid = pid
        self.control_theirs.close()
        self._close_mark_fd()
        try:
            self.pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, OSError):  # dead already, which the zygote reports next
            self.pidfd = -1

    def give(self, sent: Sent) -> None:
        """Send an order."""
        order = sent.order
        call = order.spec.call
        assert call is not None
        self.paths = order.paths
        forget = len(self.known) > _FORGET_ABOVE
        if forget:
            self.known.clear()
        function, context = call.function, call.context
        sent.carried = [digest for digest in (function, context) if digest not in self.known]
        self.known.update(sent.carried)
        data = encode(
            Envelope(
                uid=order.uid,
                epoch=order.epoch,
                run=order.run,
                attempt=order.attempt,
                id=order.id,
                session=order.spec.session,
                function=function,
                function_data=order.function if function in sent.carried else None,
                context=context,
                context_data=order.context if context in sent.carried and order.context else None,
                arguments=call.arguments,
                inputs=order.inputs,
                resources=order.spec.resources,
                memory=order.spec.memory,
                forget=forget,
                paths=order.paths,
                wanted=order.wanted,
                target=order.target,
                home=order.home,
            )
        )
        if len(data) > INLINE_BYTES:
            data, sent.spilled = spill(data, self._spill)
        self._frames += 1
        sent.number = self._frames
        data = number_frame(sent.number, data, self._ticket(order))
        self.queue.append(sent)
        if self.unsent or not _send(self.jobs, data):
            self.unsent.append(data)

    def flush(self) -> None:
        """Send what found the sockets full."""
        while self.unsent and _send(self.jobs, self.unsent[0]):
            self.unsent.popleft()
        while self.untold and _send(self.control, self.untold[0]):
            self.untold.popleft()

    def take_back(self) -> list[Sent]:
        """Take back all orders that the worker has not begun, without asking it.

        The worker may go on receiving meanwhile, so what we get need not be the last ones; each frame has its number.
        """
        numbers = {frame_number(data) for data in self.unsent}
        self.unsent.clear()
        while True:
            try:
                head = self.theirs.recv(NUMBER_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, OSError):
                break
            if not head:
                break
            numbers.add(frame_number(head))
        taken = [sent for sent in self.queue if sent.number in numbers]
        if taken:
            self.queue = deque(sent for sent in self.queue if sent.number not in numbers)
        for sent in taken:
            self.known.difference_update(sent.carried)
            if sent.spilled:
                Path(sent.spilled).unlink(missing_ok=True)
                sent.spilled = ""
        return taken

    def receive(self) -> Report | None:
        """Return the next report of the worker; None where there is none."""
        try:
            found: Report | None = self.reader.receive(self.jobs)
        except (BlockingIOError, ConnectionError):
            return None
        return found

    def tell(self, frame: Frame) -> None:
        """Send a text for the running attempt."""
        data = encode(frame)
        if len(data) > INLINE_BYTES:
            data, _ = spill(data, self._spill)
        if self.untold or not _send(self.control, data):
            self.untold.append(data)

    def kill(self) -> bool:
        """Kill the process at once, stopped or not; what it leaves is the zygote's business. False: it is not known
        yet.
        """
        if self.pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return True

    def keep_log(self, order: Order) -> None:
        """Give what a dead worker's attempt printed its lasting name."""
        try:
            if self.log.stat().st_size:
                self.log.rename(self.log.with_name(log_name(order.uid, order.run, order.attempt)))
        except OSError:
            pass

    def tail(self, order: Order) -> str:
        """Return the last lines that an attempt printed, whichever name the file has by now."""
        return tail_of(self.log.with_name(log_name(order.uid, order.run, order.attempt))) or tail_of(self.log)

    def drop_log(self) -> None:
        """Remove the file into which it printed, if it still has the worker's own name."""
        try:
            self.log.unlink()
        except OSError:
            pass

    def go(self) -> None:
        """Let the worker end when it has done what it was given."""
        self.closing = True
        try:
            self.jobs.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Close all descriptors."""
        for end in (self.jobs, self.theirs, self.control, self.control_theirs):
            end.close()
        self._close_mark_fd()
        self._mark.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _close_mark_fd(self) -> None:
        if self.mark_fd >= 0:
            os.close(self.mark_fd)
            self.mark_fd = -1


def _send(connection: socket.socket, data: bytes) -> bool:
    """Send a frame if that is possible now; what a dead receiver does not take is kept, and taken back when it is
    buried.
    """
    try:
        connection.send(data)
    except (BlockingIOError, ConnectionError):
        return False
    return True
