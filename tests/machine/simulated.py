"""The parts of a simulated world: a journal, an executor and a wire that a power cut can strike, and a client.

Each fulfils its port. The journal keeps what was committed and nothing else; the executor runs nothing and remembers
everything; a client checks as it listens. Who may come in: ``simulation.py``. Rule: they never choose, they are told.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trun.adapters.memory import MemoryJournal
from trun.errors import StateFull
from trun.messages import (
    Aborted,
    Adopted,
    AnyAnswer,
    AnyReport,
    Completed,
    Credit,
    Define,
    Emitted,
    Ended,
    Entries,
    Entry,
    ErrorInfo,
    Failed,
    Gap,
    Hello,
    Listen,
    Missing,
    Refuse,
    Request,
    ResourcesLowered,
    Returned,
    Said,
    Submit,
    Submitted,
)
from trun.ports import Batch, Order, Room
from trun.testing import RecordingEndpoint


class PowerCut(BaseException):
    """The service is gone, at this very point."""


class Cuts:
    """Strikes at the n-th place that it is asked about."""

    def __init__(self) -> None:
        #: So many places are passed before the power fails; None: it does not.
        self.after: int | None = None

    def here(self) -> None:
        """Note a place where the power may fail."""
        if self.after is None:
            return
        if self.after == 0:
            self.after = None
            raise PowerCut
        self.after -= 1


class SimulatedJournal(MemoryJournal):
    """A journal in memory; the power may fail before and after each commit."""

    def __init__(self, cuts: Cuts, **more: Any) -> None:
        super().__init__(**more)
        self.cuts = cuts
        self.is_short = False

    def reopen(self) -> SimulatedJournal:
        """Return the journal of the next life, on the same disk."""
        again = SimulatedJournal(self.cuts, _store=self._store)
        again.is_short = self.is_short
        return again

    def commit(self, batch: Batch) -> None:
        """Keep the batch, wholly or not at all; on a full disk there is room for outcomes, and for no new job."""
        self.cuts.here()
        if self.is_short and (batch.specs or not self.full):
            self.full = True
            raise StateFull
        self.full = self.is_short
        super().commit(batch)
        self.cuts.here()


class SimulatedEndpoint(RecordingEndpoint):
    """A wire; the power may fail before each batch of answers."""

    def __init__(self, cuts: Cuts) -> None:
        super().__init__()
        self.cuts = cuts

    def cut_off(self, peer: bytes) -> None:
        """Let a connection break with what it carries in both directions."""
        self._arrived = deque((other, batch) for other, batch in self._arrived if other != peer)
        self.take(peer)
        self.disconnect(peer)

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Keep what was sent."""
        self.cuts.here()
        return super().send(peer, answers)


@dataclass
class Attempt:
    """One attempt, as the worker knows it."""

    order: Order
    #: How much it has told the service, of that how often it said something.
    told: int = 0
    said: int = 0
    is_stopping: bool = False
    is_suspended: bool = False
    lowered: float = 0.0

    @property
    def place(self) -> tuple[str, int]:
        return self.order.uid, self.order.epoch


class SimulatedExecutor:
    """Runs nothing. ``lasting``: attempts outlive the service; otherwise they vanish with it, as far as it knows."""

    def __init__(self, cuts: Cuts, *, slots: int, lasting: bool) -> None:
        self.cuts = cuts
        self.slots = slots
        self.capabilities = frozenset({"kill", "tell", "resources"} | ({"attach"} if lasting else set()))
        self.lasting = lasting
        self.running: dict[tuple[str, int], Attempt] = {}
        self.zombies: list[Attempt] = []
        #: How often a payload began under a uid and epoch, and how each attempt ended as the worker knows it.
        self.begun: Counter[tuple[str, int]] = Counter()
        self.outcomes: dict[tuple[str, int], str] = {}
        self._reports: deque[AnyReport] = deque()
        #: Polled, and not known to be durable.
        self._kept: list[AnyReport] = []
        self._past: list[AnyReport] = []

    # what the world does

    @property
    def is_busy(self) -> bool:
        """Whether anything runs or is to be reported."""
        return bool(self.running or self._reports)

    def service_died(self) -> None:
        """Let the attempts go on, or vanish."""
        if self.lasting:
            self._reports = deque([*self._kept, *self._reports])
        else:
            self.zombies += self.running.values()
            self.running.clear()
            self._reports.clear()
        self._kept = []

    def work(self, chance: random.Random) -> None:
        """Let one attempt go on."""
        if not self.running:
            return
        attempt = chance.choice(list(self.running.values()))
        if attempt.is_suspended and not attempt.is_stopping and chance.random() < 0.9:
            return
        if attempt.is_stopping:
            self._end(attempt, "aborted")
        elif chance.random() < 0.4:
            self._say(attempt)
        elif attempt.order.spec.resources and not attempt.lowered and chance.random() < 0.3:
            attempt.lowered = 1.0
            attempt.told += 1
            uid, epoch = attempt.place
            self._reports.append(ResourcesLowered(uid=uid, epoch=epoch, resources={"gpu": 1.0}, number=attempt.told))
        else:
            self._end(attempt, chance.choice(("completed",) * 5 + ("raised", "died", "missing", "returned")))

    def finish_all(self) -> None:
        """Let all attempts complete that do not wait, or stop."""
        for attempt in [one for one in self.running.values() if one.is_stopping or not one.is_suspended]:
            self._end(attempt, "aborted" if attempt.is_stopping else "completed")

    def haunt(self, chance: random.Random) -> None:
        """Report what is over, or report something twice."""
        if self.zombies and chance.random() < 0.7:
            uid, epoch = chance.choice(self.zombies).place
            late = Completed(values={"epoch": epoch, "said": 0})
            self._reports.append(
                chance.choice((Ended(uid=uid, epoch=epoch, outcome=late), Missing(uid=uid, epoch=epoch)))
            )
        elif self._past:
            self._reports.append(chance.choice(self._past))

    def _say(self, attempt: Attempt) -> None:
        uid, epoch = attempt.place
        event = Said(name="note" if attempt.said % 2 else "number", value=attempt.said)
        attempt.said += 1
        attempt.told += 1
        self._reports.append(Emitted(uid=uid, epoch=epoch, first=attempt.told, events=(event,)))

    def _end(self, attempt: Attempt, how: str) -> None:
        uid, epoch = attempt.place
        if how == "returned" and (attempt.told or attempt.is_stopping or attempt.is_suspended):
            how = "completed"
        del self.running[attempt.place]
        self.outcomes[attempt.place] = how
        report: AnyReport
        if how == "completed":
            done = Completed(values={"epoch": epoch, "said": attempt.said})
            report = Ended(uid=uid, epoch=epoch, outcome=done)
        elif how == "aborted":
            report = Ended(uid=uid, epoch=epoch, outcome=Aborted())
        elif how == "missing":
            report = Missing(uid=uid, epoch=epoch)
        elif how == "returned":
            self.begun[attempt.place] -= 1  # never begun
            report = Returned(uid=uid, epoch=epoch)
        else:
            error = ErrorInfo(type="builtins.ValueError", message="boom")
            report = Ended(uid=uid, epoch=epoch, outcome=Failed(kind=how, error=error))
        self._reports.append(report)

    # what the engine does

    def open(self) -> None:
        """Nothing to start."""

    def room(self) -> Room:
        """Return the free slots."""
        return Room(idle=max(0, self.slots - sum(not attempt.is_suspended for attempt in self.running.values())))

    def submit(self, orders: Sequence[Order]) -> None:
        """Begin the attempts, one after the other."""
        for order in orders:
            self.cuts.here()
            if (order.uid, order.epoch) not in self.outcomes and (order.uid, order.epoch) not in self.running:
                self.begun[order.uid, order.epoch] += 1
                self.running[order.uid, order.epoch] = Attempt(order)
        self.cuts.here()

    def cancel(self, uid: str, epoch: int, *, grace: float, reason: str) -> None:
        """Ask an attempt to stop."""
        self.cuts.here()
        if (uid, epoch) in self.running:
            self.running[uid, epoch].is_stopping = True

    def tell(self, uid: str, epoch: int, token: str, text: str) -> None:
        """Nobody listens."""

    def suspend(self, uid: str, epoch: int) -> None:
        """Let an attempt wait."""
        self._turn(uid, epoch, True)

    def resume(self, uid: str, epoch: int) -> None:
        """Let it go on."""
        self._turn(uid, epoch, False)

    def _turn(self, uid: str, epoch: int, is_suspended: bool) -> None:
        self.cuts.here()
        if (uid, epoch) in self.running:
            self.running[uid, epoch].is_suspended = is_suspended

    def fds(self) -> list[int]:
        """Return none: nobody waits."""
        return []

    def poll(self, now: float) -> list[AnyReport]:
        """Return what happened."""
        found = list(self._reports)
        self._reports.clear()
        self._kept += found
        self._past = [*self._past, *found][-20:]
        return found

    def attach(self, orders: Sequence[Order]) -> list[AnyReport]:
        """Return what became of the attempts of an earlier life."""
        wanted = {(order.uid, order.epoch) for order in orders}
        for place in [place for place in self.running if place not in wanted]:
            self.outcomes[place] = "fenced"
            del self.running[place]
        meanwhile = [report for report in self.poll(0.0) if (report.uid, report.epoch) in wanted]  # type: ignore[union-attr]
        heard = {(report.uid, report.epoch) for report in meanwhile}  # type: ignore[union-attr]
        known = [place for place in wanted if place in self.running or place in heard]
        never = [place for place in wanted if place not in known and place not in self.outcomes]
        for place in never:
            self.outcomes[place] = "never begun"
        return [
            *(Adopted(uid=uid, epoch=epoch) for uid, epoch in sorted(known)),
            *meanwhile,
            *(Returned(uid=uid, epoch=epoch) for uid, epoch in sorted(never)),
        ]

    def committed(self) -> None:
        """Keep nothing any more of what was polled."""
        self._kept = []

    def next_deadline(self) -> float | None:
        """Return None: it watches no limits."""
        return None

    def log_path(self, uid: str, run: int, attempt: int) -> str | None:
        """Return None: nothing is printed."""
        return None

    def close(self, *, detach: bool = False) -> None:
        """Nothing is open."""


@dataclass
class Client:
    """A client that keeps what it was not told of, and checks what it hears."""

    name: str
    #: Its connection; empty: none.
    peer: bytes = b""
    connections: int = 0
    #: What it submitted and has not heard of, by uid of the first job.
    unacked: dict[str, Submit] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    heard: dict[str, list[Entry]] = field(default_factory=dict)
    owed: int = 0

    def connect(self, endpoint: RecordingEndpoint, *, credit: int) -> None:
        """Come back, ask for what follows, and say again what was not acknowledged."""
        self.connections += 1
        self.peer = f"{self.name}{self.connections}".encode()
        self.owed = 0
        hello = Hello(session=self.name, detach=True)
        streams = tuple((stream, len(entries) + 1) for stream, entries in self.heard.items())
        self.send(hello, endpoint)
        self.send(Credit(entries=credit), endpoint)
        self.send(Define(digest="f", data=b"function"), endpoint)
        self.send(Listen(streams=streams), endpoint)
        for submission in self.unacked.values():
            self.send(submission, endpoint)

    def submit(self, submission: Submit, endpoint: RecordingEndpoint) -> None:
        """Say it once now, and again until it is acknowledged."""
        self.unacked[submission.specs[0].uid] = submission
        if self.peer:
            self.send(submission, endpoint)

    def send(self, request: Request, endpoint: RecordingEndpoint) -> None:
        """Send one request, if there is a connection."""
        if self.peer:
            endpoint.put(self.peer, msgspec.convert(request, type(request)))  # type: ignore[arg-type]

    def grant(self, endpoint: RecordingEndpoint) -> None:
        """Pay for what was heard."""
        if self.peer and self.owed:
            self.send(Credit(entries=self.owed), endpoint)
            self.owed = 0

    def hear(self, answers: Sequence[AnyAnswer]) -> None:
        """Take what was sent."""
        for answer in answers:
            if isinstance(answer, Refuse):
                self.refused.update(answer.uids)
                self.unacked.pop(answer.uids[0], None)
            assert not isinstance(answer, Gap), f"{self.name} is missing entries: {answer}"
            for entry in answer.entries if isinstance(answer, Entries) else ():
                self._take(entry)

    def _take(self, entry: Entry) -> None:
        kept = self.heard.setdefault(entry.stream, [])
        self.owed += 1
        if entry.seq <= len(kept):  # asked again before it was known
            assert kept[entry.seq - 1] == entry, f"{self.name} heard two entries {entry.seq} of {entry.stream}"
            return
        assert entry.seq == len(kept) + 1, f"{self.name} heard {entry.seq} of {entry.stream} after {len(kept)}"
        kept.append(entry)
        if isinstance(entry.event, Submitted):
            self.acked.add(entry.stream)
            self.unacked = {
                first: submission
                for first, submission in self.unacked.items()
                if not all(spec.uid in self.acked for spec in submission.specs)
            }
