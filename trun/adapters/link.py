"""A client's connection, whatever carries it: one thread, a queue, and what happens when the line breaks.

Any thread may send: messages go into a queue, and the thread that owns the line is woken only when it sleeps. What
comes back is handed to one callback in that thread. When the line breaks it is opened anew and nothing old is sent
over it.

Knows no transport (``adapters.wire`` brings it) and sends nothing again: what is resent is decided above.
Who may come in: ``adapters.wire``, and the tests with a line of their own. Rule: every wait is bounded, no callback can
end the thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from trun.adapters.sockets import Wake
from trun.core.codec import decode_answers, encode_batch
from trun.errors import NotAuthorised, ServiceUnavailable, UsageError
from trun.messages import AnyAnswer, AnyRequest, Message

_log = logging.getLogger(__name__)

#: A batch is cut in two while it is larger than this, and as many small ones travel as one message.
BATCH_BYTES = 4 * 1024 * 1024
FRAMES_AT_ONCE = 256
#: Seconds that unsent messages are given at the end.
LINGER_S = 2.0
#: Longest sleep: a sender that is interrupted (Ctrl-C) just before it wakes us costs no more than this.
IDLE_S = 1.0
#: So many batches, with no sleep between them that was longer than so many seconds, are sent in a loop: then we nap for
#: so long after each turn, send at once what has gathered meanwhile, and leave the interpreter to who sends.
BURST = 4
BURST_S = 0.0003
NAP_S = 0.0005


class Line(Protocol):
    """What carries frames; belongs to one thread."""

    def changes(self) -> list[str]:
        """Return what has happened to the line since the last call: ``up``, ``down``."""
        ...

    def receive(self) -> list[bytes]:
        """Return frames that have come, in order; empty only when there are none."""
        ...

    def send(self, frames: list[bytes]) -> None:
        """Send frames together, without waiting."""
        ...

    def wait(self, wake_fd: int, wait_s: float) -> bool:
        """Wait until something happens, or ``wake_fd`` is readable (then True)."""
        ...

    def reopen(self) -> None:
        """Drop the line with all that it has not sent, and connect anew."""
        ...

    def close(self, *, linger_s: float) -> None:
        """Close, giving unsent frames ``linger_s`` seconds."""
        ...


def encode_frames(messages: Sequence[Message]) -> list[bytes]:
    """Return a batch as frames, none larger than it must be."""
    data = encode_batch(messages)
    if len(data) <= BATCH_BYTES or len(messages) < 2:
        return [data]
    half = len(messages) // 2
    return encode_frames(messages[:half]) + encode_frames(messages[half:])


class Connection:
    """A client's connection to a node: made again whenever it breaks.

    All work is done in one daemon thread, which the first ``send`` starts. While the connection is down, messages are
    held and sent after whatever the ``up`` callback sends; what was on its way when it broke may be lost, and is for
    the caller to say again.

    A transport says how a line is opened (``open_line``) and who may be at its other end (``check_peer``).
    """

    def __init__(self, address: str) -> None:
        self.address = address
        #: Batches that could not be read.
        self.dropped = 0
        self._pid = os.getpid()
        self._queue: deque[bytes] = deque()
        self._first: deque[bytes] = deque()
        self._take: Callable[[list[AnyAnswer]], None] = lambda answers: None
        self._tell: Callable[[str], None] = lambda state: None
        self._beat: Callable[[], None] | None = None
        self._beat_s = self._next_beat = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake: Wake | None = None
        self._asleep = False
        self._in_a_row = 0
        self._up = False
        self._greeting = False
        self._deadline: float | None = None
        self._closed = False

    def open_line(self) -> Line:
        """Open the connection (in the thread)."""
        raise NotImplementedError

    def check_peer(self) -> None:
        """Raise ``NotAuthorised`` where somebody else has taken the address."""

    def on_messages(self, callback: Callable[[list[AnyAnswer]], None]) -> None:
        """Call this in the link's thread with the answers that have come, in order."""
        self._take = callback

    def on_state(self, callback: Callable[[str], None]) -> None:
        """Call this in the link's thread with ``up`` (each time anew), ``down``, and ``refused`` (no handshake)."""
        self._tell = callback

    def on_beat(self, callback: Callable[[], None], every_s: float) -> None:
        """Call this in the link's thread every so many seconds while the connection stands and nothing comes."""
        self._beat, self._beat_s = callback, every_s

    def send(self, messages: Sequence[AnyRequest]) -> None:
        """Send a batch, from any thread; returns at once.

        Raises
        ------
        UsageError
            The link was opened before a fork, in another process.
        ServiceUnavailable
            The link is closed.
        """
        if self._pid != os.getpid():
            raise UsageError("a connection opened before a fork cannot be used in the child; open one there.")
        if self._closed:
            raise ServiceUnavailable(f"the connection to {self.address} is closed.")
        frames = encode_frames(messages)
        if self._greeting and threading.current_thread() is self._thread:
            self._first.extend(frames)
        else:
            self._queue.extend(frames)
        if self._thread is None:
            self._start()
        elif self._asleep:
            self._asleep = False
            self._wake.set()  # type: ignore[union-attr]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._wake = Wake()
                thread = threading.Thread(target=self._run, name="trun-link", daemon=True)
                self._thread = thread
                thread.start()

    def close(self, *, flush: bool = True, timeout: float = LINGER_S) -> None:
        """Close the connection; ``flush`` gives unsent messages up to ``timeout`` seconds."""
        if self._pid != os.getpid():
            return
        with self._lock:
            thread, self._closed = self._thread, True
            if self._deadline is None:
                self._deadline = time.monotonic() + (timeout if flush else 0.0)
        if thread is None or not thread.is_alive():
            return
        if thread is threading.current_thread():
            return
        assert self._wake is not None
        self._wake.set()
        thread.join(timeout + 1.0)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        line = self.open_line()
        try:
            while self._turn(line):
                pass
        except Exception:
            _log.exception("the connection ended by a fault address=%s", self.address)
            self._report("down")
        finally:
            self._closed = True
            deadline = self._deadline or 0.0
            line.close(linger_s=max(0.0, deadline - time.monotonic()) if not self._queue else 0.0)
            if self._wake is not None:
                self._wake.close()

    def _turn(self, line: Line) -> bool:
        """Do what there is to do, or wait; False at the end."""
        self._heed(line)
        busy = self._receive(line)
        if self._up:
            busy = self._flush(line) or busy
        deadline = self._deadline
        if deadline is not None and ((self._is_sent() and not busy) or time.monotonic() >= deadline):
            return False
        if not busy:
            if self._beat is not None and self._up:
                self._keep_time(self._beat)
            if self._in_a_row >= BURST and deadline is None:
                time.sleep(NAP_S)
                self._in_a_row = len(self._queue)
                line.wait(self._wake.fd, 0.0)  # type: ignore[union-attr]
                return True
            self._asleep = True
            if (self._up and not self._is_sent()) or self._deadline is not deadline:
                self._asleep = False
                return True
            wait = self._beat_s or IDLE_S
            if deadline is not None:
                wait = min(wait, max(0.0, deadline - time.monotonic()))
            began = time.monotonic()
            if line.wait(self._wake.fd, wait):  # type: ignore[union-attr]
                self._wake.clear()  # type: ignore[union-attr]
            if time.monotonic() - began > BURST_S:
                self._in_a_row = 0
            self._asleep = False
        return True

    def _keep_time(self, beat: Callable[[], None]) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._beat_s
            try:
                beat()
            except Exception:
                _log.exception("the callback for a beat failed")

    def _is_sent(self) -> bool:
        return not self._queue and not self._first

    def _heed(self, line: Line) -> None:
        """Follow the connection's state."""
        for change in line.changes():
            if change == "up" and not self._up:
                try:
                    self.check_peer()
                except NotAuthorised as error:
                    _log.error("%s", error)
                    continue
                self._up = self._greeting = True
                try:
                    self._report("up")
                finally:
                    self._greeting = False
            elif change == "down" and self._up:
                while self._receive(line):
                    pass
                # A new socket: what the old one has not sent must not come before the next greeting.
                line.reopen()
                self._up = False
                self._first.clear()
                self._report("down")
                return
            elif change == "refused":
                self._report("refused")

    def _report(self, state: str) -> None:
        try:
            self._tell(state)
        except Exception:
            _log.exception("the callback for the connection's state failed state=%s", state)

    def _receive(self, line: Line) -> bool:
        answers: list[AnyAnswer] = []
        frames = line.receive()
        for frame in frames:
            try:
                answers += decode_answers(frame)
            except Exception as error:
                self.dropped += 1
                _log.warning("garbage from the service was dropped address=%s reason=%.200s", self.address, error)
        if answers:
            try:
                self._take(answers)
            except Exception:
                _log.exception("the callback for messages failed")
        return bool(frames)

    def _flush(self, line: Line) -> bool:
        frames: list[bytes] = []
        size = 0
        while len(frames) < FRAMES_AT_ONCE and size < BATCH_BYTES:
            queue = self._first or self._queue
            if not queue:
                break
            frame = queue.popleft()
            size += len(frame)
            frames.append(frame)
        if frames:
            line.send(frames)
            self._in_a_row += len(frames)
        return bool(frames)


__all__ = ["Connection", "Line", "encode_frames"]
