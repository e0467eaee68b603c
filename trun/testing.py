"""Fakes for tests of whoever builds on trun: a clock, a journal, an endpoint and an executor without a world.

Each fulfils its port (``trun.ports``) by the same contract suite as the real one, records what was asked of it, and
lets a test play the other side. Take what you expect and end with ``assert_nothing_left()``: whatever the code under
test did beyond it then fails the test. With ``ManualClock`` nothing ever sleeps.

>>> from trun.testing import ManualClock
>>> clock = ManualClock(100.0)
>>> clock.advance(2.5)
>>> clock.now()
102.5

Who may come in: tests, inside and outside of this project.
Rule: no fake knows more than its port; nothing here starts a process or a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from trun.adapters.memory import MemoryJournal
from trun.adapters.sockets import Wake
from trun.core.codec import encode
from trun.messages import (
    Aborted,
    Adopted,
    AnyAnswer,
    AnyReport,
    AnyRequest,
    Completed,
    Emitted,
    Ended,
    Entries,
    Entry,
    ErrorInfo,
    Failed,
    Improved,
    Missing,
    Payload,
    Progress,
    Replied,
    ResourcesLowered,
    Returned,
    Said,
)
from trun.ports import Batch, Order, Room


class Fake(Protocol):
    """What every fake can be asked at the end of a test."""

    def assert_nothing_left(self) -> None:
        """Fail if something was done that the test did not take."""
        ...


def assert_nothing_left(*fakes: Fake) -> None:
    """Ask each fake."""
    for fake in fakes:
        fake.assert_nothing_left()


def _assert_empty(what: str, left: Iterable[object]) -> None:
    found = list(left)
    if found:
        shown = "\n  ".join(str(item) for item in found[:10])
        raise AssertionError(f"{len(found)} {what} left:\n  {shown}")


# -- time -------------------------------------------------------------------------------------------------------------


class ManualClock:
    """A clock that moves only when told to. Fulfils ``ports.Clock``."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass (not less than none)."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back: {seconds}")
        self._now += seconds


# -- the journal ------------------------------------------------------------------------------------------------------


class RecordingJournal(MemoryJournal):
    """A journal in memory that records its commits and fails on demand. Fulfils ``ports.Journal``."""

    def __init__(self) -> None:
        super().__init__()
        #: What was committed and not yet taken, in order.
        self.commits: deque[Batch] = deque()
        self._failures: deque[Exception] = deque()

    def fail_next(self, error: Exception, *, times: int = 1) -> None:
        """Let the next commits raise ``error`` and write nothing."""
        self._failures.extend([error] * times)

    def commit(self, batch: Batch) -> None:
        """Keep the batch, or fail as told."""
        if self._failures:
            raise self._failures.popleft()
        super().commit(batch)
        # Copied: the caller may go on with its lists.
        self.commits.append(Batch(**{name: list(getattr(batch, name)) for name in batch.__struct_fields__}))

    def take(self) -> Batch:
        """Return the oldest commit that was not taken."""
        if not self.commits:
            raise AssertionError("nothing was committed")
        return self.commits.popleft()

    def take_entries(self) -> list[Entry]:
        """Take all commits and return their entries in order."""
        found = [entry for batch in self.commits for _, entry in batch.entries]
        self.commits.clear()
        return found

    def assert_nothing_left(self) -> None:
        """Fail if a commit was not taken, or an armed failure was not met."""
        _assert_empty("commits", self.commits)
        _assert_empty("failures that never came", self._failures)


# -- the wire ---------------------------------------------------------------------------------------------------------


class RecordingEndpoint:
    """The node's side of a wire whose clients are played by the test. Fulfils ``ports.Endpoint``."""

    def __init__(self, address: str = "ipc:///nowhere") -> None:
        self.address = address
        self.addresses = (address,)
        self.dropped = 0
        self.closed = False
        #: {peer: public key} of those who are not the owner.
        self.users: dict[bytes, str] = {}
        self._arrived: deque[tuple[bytes, Sequence[AnyRequest]]] = deque()
        self._sent: dict[bytes, list[AnyAnswer]] = {}
        self._connected: set[bytes] = set()
        self._gone: list[bytes] = []
        self._wake = Wake()

    # what the test does

    def put(self, peer: bytes, *requests: AnyRequest) -> None:
        """Let a batch arrive from ``peer``, which is connected from then on."""
        self._connected.add(peer)
        self._arrived.append((peer, list(requests)))
        self._wake.set()

    def disconnect(self, peer: bytes) -> None:
        """Let the peer vanish: what is sent to it from now on fails."""
        self._connected.discard(peer)
        self._gone.append(peer)
        self._wake.set()

    def take(self, peer: bytes) -> list[AnyAnswer]:
        """Return, once, what was sent to ``peer``."""
        return self._sent.pop(peer, [])

    def take_entries(self, peer: bytes) -> list[Entry]:
        """Return, once, the entries that were sent to ``peer``; what else was sent stays."""
        sent = self._sent.pop(peer, [])
        rest: list[AnyAnswer] = [answer for answer in sent if not isinstance(answer, Entries)]
        if rest:
            self._sent[peer] = rest
        return [entry for answer in sent if isinstance(answer, Entries) for entry in answer.entries]

    def assert_nothing_left(self) -> None:
        """Fail if something arrived that nobody received, or was sent and not taken."""
        _assert_empty("batches that nobody received", self._arrived)
        _assert_empty("answers", ((peer, answer) for peer, sent in self._sent.items() for answer in sent))

    # what the code under test does

    def fds(self) -> list[int]:
        """Return a descriptor that is readable when something has arrived."""
        return [self._wake.fd]

    def who(self, peer: bytes) -> str:
        """Return the public key of a peer: what ``users`` says, "" for the owner of the service."""
        return self.users.get(peer, "")

    def gone(self) -> list[bytes]:
        """Return, once, the peers that have vanished."""
        found, self._gone = self._gone, []
        return found

    def receive(self) -> list[tuple[bytes, Sequence[AnyRequest]]]:
        """Return what has arrived."""
        self._wake.clear()
        found = list(self._arrived)
        self._arrived.clear()
        return found

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Keep what was sent; False when the peer is gone, or has never spoken."""
        if peer not in self._connected:
            return False
        self._sent.setdefault(peer, []).extend(answers)
        return True

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self._wake.close()


# -- where payloads run -----------------------------------------------------------------------------------------------


class Stopped(msgspec.Struct, frozen=True):
    """An attempt was asked to stop."""

    uid: str
    epoch: int
    grace: float
    reason: str


class Told(msgspec.Struct, frozen=True):
    """A text was put into the inbox of an attempt."""

    uid: str
    epoch: int
    token: str
    text: str


class ScriptedExecutor:
    """An executor that runs nothing: the test says what becomes of each attempt. Fulfils ``ports.Executor``.

    ``complete``, ``fail``, ``abort``, ``give_back`` and ``lose`` end the running attempt of a job; the report comes
    out of the next ``poll``. ``take_order`` returns what was submitted, in order.

    Parameters
    ----------
    slots
        Attempts that run at once.
    ahead
        Further plain attempts that are taken.
    """

    def __init__(self, slots: int = 1, *, ahead: int = 0) -> None:
        self.capabilities: frozenset[str] = frozenset({"kill", "tell", "resources", "memory"})
        self.slots = slots
        self.ahead = ahead
        self.is_open = False
        self.closed = False
        #: Attempts that run, by uid.
        self.running: dict[str, Order] = {}
        self.suspended: set[str] = set()
        self._orders: deque[Order] = deque()
        self._seen: set[tuple[str, int]] = set()
        self._stopped: deque[Stopped] = deque()
        self._messages: deque[Told] = deque()
        self._reports: deque[AnyReport] = deque()
        self._emitted: dict[tuple[str, int], int] = {}
        self._wake = Wake()

    # what the test does

    def take_order(self, uid: str | None = None) -> Order:
        """Return the oldest order that was not taken (of that job)."""
        for order in self._orders:
            if uid in (None, order.uid):
                self._orders.remove(order)
                return order
        raise AssertionError(f"no order {'' if uid is None else 'for ' + uid}; running: {sorted(self.running)}")

    def complete(self, uid: str, value: Any = None, *, result: Payload | None = None, seconds: float = 0.0) -> None:
        """Let the attempt return; ``value`` is plain data, which predicates see as ``result`` or by its own names."""
        values = value if isinstance(value, dict) else {} if value is None else {"result": value}
        payload = result if result is not None else Payload(data=encode(value))
        self._end(uid, Completed(result=payload, values=values, seconds=seconds))

    def fail(self, uid: str, message: str = "boom", *, kind: str = "raised", type: str = "builtins.ValueError") -> None:
        """Let the attempt end badly."""
        self._end(uid, Failed(kind=kind, error=ErrorInfo(type=type, message=message)))

    def abort(self, uid: str, reason: str = "") -> None:
        """Let the attempt end because it was stopped."""
        self._end(uid, Aborted(reason=reason))

    def emit(self, uid: str, *events: Progress | Improved | Said | Replied) -> None:
        """Let the attempt send events."""
        order = self._running(uid)
        place = (uid, order.epoch)
        first = self._emitted.get(place, 0) + 1
        self._emitted[place] = first - 1 + len(events)
        self.report(Emitted(uid=uid, epoch=order.epoch, first=first, events=events))

    def give_back(self, uid: str) -> None:
        """Let the executor give the attempt back, never begun."""
        self.report(Returned(uid=uid, epoch=self._leave(uid).epoch))

    def lose(self, uid: str, reason: str = "node lost") -> None:
        """Let the executor not know what became of the attempt."""
        self.report(Missing(uid=uid, epoch=self._leave(uid).epoch, reason=reason))

    def adopt(self, uid: str, epoch: int) -> None:
        """Let the executor find an attempt running after a restart."""
        self.report(Adopted(uid=uid, epoch=epoch))

    def lower(self, uid: str, **resources: float) -> None:
        """Let the attempt give back a part of its resources."""
        self.report(ResourcesLowered(uid=uid, epoch=self._running(uid).epoch, resources=resources))

    def report(self, report: AnyReport) -> None:
        """Let the executor report anything, also what it should not."""
        self._reports.append(report)
        self._wake.set()

    def take_stopped(self) -> Stopped:
        """Return the oldest demand to stop that was not taken."""
        if not self._stopped:
            raise AssertionError("nothing was asked to stop")
        return self._stopped.popleft()

    def take_message(self) -> Told:
        """Return the oldest text that was not taken."""
        if not self._messages:
            raise AssertionError("nobody was told anything")
        return self._messages.popleft()

    def assert_nothing_left(self) -> None:
        """Fail if an attempt still runs, or an order, a demand, a text or a report was not taken."""
        _assert_empty("running attempts", self.running)
        _assert_empty("orders", (order.id for order in self._orders))
        _assert_empty("demands to stop", self._stopped)
        _assert_empty("texts", self._messages)
        _assert_empty("reports that nobody polled", self._reports)

    def _running(self, uid: str) -> Order:
        order = self.running.get(uid)
        if order is None:
            raise AssertionError(f"{uid} does not run; running: {sorted(self.running)}")
        return order

    def _leave(self, uid: str) -> Order:
        order = self._running(uid)
        del self.running[uid]
        self.suspended.discard(uid)
        return order

    def _end(self, uid: str, outcome: Completed | Failed | Aborted) -> None:
        self.report(Ended(uid=uid, epoch=self._leave(uid).epoch, outcome=outcome))

    # what the code under test does

    def open(self) -> None:
        """Note that it was opened."""
        self.is_open = True

    def room(self) -> Room:
        """Return the free slots."""
        busy = len(self.running) - len(self.suspended)
        return Room(idle=max(0, self.slots - busy), ahead=max(0, self.ahead - max(0, busy - self.slots)))

    def submit(self, orders: Sequence[Order]) -> None:
        """Take the attempts."""
        for order in orders:
            if (order.uid, order.epoch) not in self._seen:
                self._seen.add((order.uid, order.epoch))
                self.running[order.uid] = order
                self._orders.append(order)

    def cancel(self, uid: str, epoch: int, *, grace: float, reason: str) -> None:
        """Note the demand to stop; the test says what comes of it."""
        order = self.running.get(uid)
        if order is not None and order.epoch == epoch:
            self._stopped.append(Stopped(uid, epoch, grace, reason))

    def tell(self, uid: str, epoch: int, token: str, text: str) -> None:
        """Note the text."""
        self._messages.append(Told(uid, epoch, token, text))

    def suspend(self, uid: str, epoch: int) -> None:
        """Count the slot as free."""
        if uid in self.running and self.running[uid].epoch == epoch:
            self.suspended.add(uid)

    def resume(self, uid: str, epoch: int) -> None:
        """Count the slot as taken."""
        if uid in self.running and self.running[uid].epoch == epoch:
            self.suspended.discard(uid)

    def fds(self) -> list[int]:
        """Return a descriptor that is readable when there is a report."""
        return [self._wake.fd]

    def poll(self, now: float) -> list[AnyReport]:
        """Return the reports."""
        self._wake.clear()
        found = list(self._reports)
        self._reports.clear()
        return found

    def next_deadline(self) -> float | None:
        """Return None: it watches no limits."""
        return None

    def log_path(self, uid: str, run: int, attempt: int) -> str | None:
        """Return None: nothing is printed."""
        return None

    def close(self, *, detach: bool = False) -> None:
        """Note that it was closed; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self._wake.close()


__all__ = [
    "Fake",
    "ManualClock",
    "RecordingEndpoint",
    "RecordingJournal",
    "ScriptedExecutor",
    "Stopped",
    "Told",
    "assert_nothing_left",
]
