"""The only place where a job changes state: messages in, effects out.

``handle`` takes one message and the time and returns the effects that follow, in order; ``dispatch`` gives ready jobs
to an executor that has room. The machine performs nothing: the engine saves, publishes, starts and stops what the
effects say. Here reports and submissions come in; the orders of people are in ``orders``, news from outside in
``outside``, what a change of state brings with it in ``flow``, what is known of atoms in ``known``.

Reports of an older epoch are fenced: counted and ignored. What is refused leaves no trace; requests that cannot be
carried out raise a ``UsageError``, and nothing has changed.

Rule: no clock, no lock, no I/O; and no state is set except by ``flow`` through the table in ``states``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from trun.conditions.algebra import Leaf
from trun.conditions.explain import Explanation
from trun.conditions.value import Value
from trun.core import picture, why
from trun.core.admit import Door
from trun.core.book import Book
from trun.core.flow import Flow
from trun.core.groups import Groups
from trun.core.known import Known
from trun.core.orders import Orders
from trun.core.outside import Outside
from trun.core.ready import Ledger
from trun.core.record import Effect, JobRecord, JobState, Life, RefuseJobs, Turn
from trun.core.restart import resume
from trun.core.waits import Waits
from trun.core.wants import held_amounts
from trun.errors import TrunError, UnknownName, UsageError
from trun.messages import (
    Aborted,
    Adopted,
    Completed,
    Emitted,
    Ended,
    ErrorInfo,
    GroupSpec,
    Improved,
    JobSpec,
    Message,
    Missing,
    Progress,
    ResourcesLowered,
    Resume,
    Returned,
    Said,
    Submit,
    Submitted,
    Suspend,
    Tick,
)
from trun.ports import Room


class Machine:
    """The state of one service, and all that may happen to it.

    Parameters
    ----------
    resources
        Counted resources and their limits.
    service_key
        Key of the service: atoms that name it (or none) are about jobs of this machine.
    epoch
        Incarnation of the service, written into each entry.
    """

    def __init__(self, *, resources: Mapping[str, float] | None = None, service_key: str = "", epoch: int = 1) -> None:
        self.service_key = service_key
        self.ledger = Ledger(resources or {})
        self.groups = Groups()
        self.book = Book(epoch=epoch, here=service_key)
        self.atoms = Known(self.book, self.groups, self.ledger)
        self.waits = Waits(book=self.book, known=self.atoms)
        self.resolver = self.waits.resolver
        self.flow = Flow(book=self.book, groups=self.groups, ledger=self.ledger, known=self.atoms, waits=self.waits)
        self.queue = self.flow.queue
        self._door = Door(
            book=self.book,
            groups=self.groups,
            ledger=self.ledger,
            resolver=self.resolver,
            service_key=service_key,
        )
        self._outside = Outside(self.flow)
        self._handlers: dict[type[Message], Callable[[Any], None]] = {
            Submit: self._submit,
            Ended: self._ended,
            Emitted: self._emitted,
            Returned: self._returned,
            Missing: self._missing,
            Adopted: self._adopted,
            ResourcesLowered: self._lowered,
            Suspend: self._suspend,
            Resume: self._resume,
            Tick: self._tick,
            **Orders(self.flow).handlers,
            **self._outside.handlers,
        }

    @property
    def records(self) -> dict[str, JobRecord]:
        """All jobs by uid, in the order of their numbers."""
        return self.book.records

    @property
    def counters(self) -> Counter[str]:
        """Harmless irregularities by name: fenced, unknown, duplicate."""
        return self.book.counters

    # -- the door

    def handle(self, message: Message, now: float) -> list[Effect]:
        """Take one message and return what follows from it, in order.

        Raises
        ------
        UsageError
            A request that cannot be carried out (``UnknownName``: there is no such job); nothing has changed.
        """
        book = self.book
        book.now = now
        out = book.out = []
        handler = self._handlers.get(type(message))
        if handler is None:
            raise UsageError(f"the machine takes no {type(message).__name__}.")
        handler(message)
        if book.news:
            self.flow.spread()
        if self.atoms.free:
            self._outside.look_at_free()
        return out

    def dispatch(self, room: Room, now: float) -> list[Effect]:
        """Give out as many ready jobs as there is room for, the best first.

        Idle workers take any job; what an executor takes ahead are plain jobs only: without resources, limits,
        isolation or delays of their own, and with a condition that cannot lapse.
        """
        book, queue = self.book, self.queue
        book.now = now
        out = book.out = []
        deadline = self.resolver.next_deadline()
        if deadline is not None and deadline <= now:
            self.flow.pass_time()
        idle, ahead = room.idle, room.ahead
        while idle > 0 or ahead > 0:
            uid = queue.pop() if idle > 0 else queue.pop_plain()
            if uid is None:
                break
            record = book.records[uid]
            if idle > 0:
                idle -= 1
            else:
                ahead -= 1
            if record.life.state is JobState.RUNNING:
                self.flow.turn(record)
            else:
                self.flow.start(record)
            if book.news:
                self.flow.spread()
            if self.atoms.free:
                self._outside.look_at_free()
        return out

    def next_deadline(self) -> float | None:
        """Return when ``Tick`` is wanted next; None: not before something happens."""
        timer, waiting = self.flow.timers.next(), self.resolver.next_deadline()
        if timer is None or waiting is None:
            return waiting if timer is None else timer
        return min(timer, waiting)

    def watch_changes(self) -> tuple[list[Leaf], list[str]]:
        """Return the world atoms to watch from now on, and the keys of those that nobody needs any more."""
        return self._outside.watch_changes()

    # -- submission

    def _submit(self, message: Submit) -> None:
        book, flow = self.book, self.flow
        try:
            fresh = self._door.check(message)
        except (TrunError, ValueError) as error:
            near = error.suggestions if isinstance(error, UnknownName) else ()
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            facts = ErrorInfo(type=kind, message=str(error), suggestions=near)
            uids = tuple(dict.fromkeys(spec.uid for spec in message.specs if spec.uid not in book.records))
            session = message.specs[0].session if message.specs else ""
            book.out.append(RefuseJobs(session, uids or tuple(spec.uid for spec in message.specs), facts))
            return
        for group in message.groups:
            self.groups.open(group)
        entered = []
        for spec, gate in fresh:
            record = book.accept(spec)
            if spec.group:
                self.groups.join(spec.group, spec.uid, spec.owner)
            book.publish(record, Submitted(id=record.id, name=spec.name, when=gate.text if gate is not None else ""))
            entered.append((record, gate))
        for record, gate in entered:
            flow.enter(record, gate.condition if gate is not None else None, hold=record.spec.hold)
        for group in message.groups:
            flow.count(group.uid)

    # -- reports of executors

    def _running(self, uid: str, epoch: int) -> JobRecord | None:
        """Return the record that a report is about, or None if the report is late."""
        record = self.book.records.get(uid)
        if record is not None and record.life.epoch == epoch and record.life.state is JobState.RUNNING:
            return record
        self.book.counters["unknown" if record is None else "fenced"] += 1
        return None

    def _ended(self, message: Ended) -> None:
        record = self._running(message.uid, message.epoch)
        if record is None:
            return
        flow, life, outcome = self.flow, record.life, message.outcome
        flow.leave(record)
        if isinstance(outcome, Completed):
            flow.end(record, "complete", outcome)
        elif isinstance(outcome, Aborted):
            flow.end(record, "abort", Aborted(reason=life.stopping or outcome.reason))
        elif life.stopping and outcome.kind in ("died", "lost"):
            flow.end(record, "abort", Aborted(reason=life.stopping))
        else:
            flow.fail(record, outcome)

    def _emitted(self, message: Emitted) -> None:
        record = self._running(message.uid, message.epoch)
        if record is None:
            return
        life, book = record.life, self.book
        number = message.first - 1
        for event in message.events:
            number += 1
            if number <= life.heard:
                book.counters["duplicate"] += 1
                continue
            life.heard = number
            if isinstance(event, Progress):
                life.progress, life.note = event.fraction, event.note
                life.reached = max(life.reached, event.fraction)
            elif isinstance(event, Improved):
                life.values = event.values
                life.emitted += 1
            elif isinstance(event, Said):
                life.emitted += 1
            book.publish(record, event)
        book.save(record)

    def _returned(self, message: Returned) -> None:
        record = self._running(message.uid, message.epoch)
        if record is not None:
            self.flow.give_back(record)

    def _missing(self, message: Missing) -> None:
        record = self._running(message.uid, message.epoch)
        if record is not None:
            self.flow.lose(record, message.reason, begun=message.begun)

    def _adopted(self, message: Adopted) -> None:
        record = self.book.records.get(message.uid)
        if record is not None and record.life.state is JobState.LOST and record.life.epoch == message.epoch:
            self.ledger.take(message.uid, held_amounts(record))
            self.book.move(record, "adopted")
        else:
            self._running(message.uid, message.epoch)

    def _lowered(self, message: ResourcesLowered) -> None:
        record = self._running(message.uid, message.epoch)
        if record is None:
            return
        if message.number:
            if message.number <= record.life.heard:
                self.book.counters["duplicate"] += 1
                return
            record.life.heard = message.number
        given = self.ledger.lower(message.uid, message.resources)
        lowered = record.life.lowered
        record.life.lowered = lowered | {name: lowered.get(name, 0.0) + amount for name, amount in given.items()}
        self.book.save(record)
        self.queue.released(given)

    def _suspend(self, message: Suspend) -> None:
        record = self._running(message.uid, message.epoch)
        if record is not None and not record.life.suspended:
            record.life.suspended = True
            self.book.save(record)
            self.queue.released(self.ledger.give_back(message.uid))

    def _resume(self, message: Resume) -> None:
        record = self._running(message.uid, message.epoch)
        if record is None:
            return
        if record.life.suspended:
            self.flow.want_turn(record)
        else:
            self.book.out.append(Turn(message.uid, message.epoch))

    def _tick(self, message: Tick) -> None:
        flow, now = self.flow, self.book.now
        for when, uid in flow.timers.due(now):
            flow.due(uid, when)
        flow.pass_time()

    # -- restart

    def restore(self, spec: JobSpec, life: Life) -> None:
        """Take a job back from the journal, in the order of the numbers; ``resume_all`` lets it go on."""
        record = JobRecord(spec, life)
        self.book.enter(record)
        if spec.group:
            self.groups.join(spec.group, spec.uid, spec.owner)
            if life.state.is_final:
                self.groups[spec.group].count(spec.uid, life.state)

    def restore_group(self, group: GroupSpec) -> None:
        """Take a group back from the journal, before its members."""
        self.groups.open(group)

    def restore_stream(self, stream: str, seq: int) -> None:
        """Go on numbering a stream that is no job: ``condition``, ``service``, and each group's."""
        self.book.restore_stream(stream, seq)

    def resume_all(self, now: float) -> list[Effect]:
        """After all is restored: those that waited wait again, those that were queued stand in line again.

        What ran stays RUNNING until the engine reports it ``Adopted``, ``Ended`` or ``Missing``.
        """
        book = self.book
        book.now = now
        out = book.out = []
        resume(self.flow)
        return out

    # -- questions

    @property
    def known(self) -> Callable[[Leaf], Value]:
        """What an atom is worth now, as far as the service can tell."""
        return self.atoms.value

    def numbered(self, number: int) -> JobRecord | None:
        """Return the job with this number."""
        return self.book.numbered(number)

    def demand(self, uid: str) -> tuple[str, ...]:
        """Return the uids of live jobs that still need this one."""
        return self.waits.demand(uid)

    def explain(self, uid: str, now: float) -> Explanation:
        """Say why a job does not run: condition, then resources and queue; never empty."""
        return why.explain(self.flow, self.book.records[uid], now)

    def reason(self, uid: str, now: float) -> str:
        """Say the same in one short line; empty for a job that runs or has completed."""
        return why.reason(self.flow, self.book.records[uid], now)

    def story(self, uid: str) -> list[str]:
        """Tell what happened to a job, one line each: what is remembered; its stream has everything."""
        return why.story(self.book, self.book.records[uid])

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return limit, use and demand of each counted resource."""
        waiting = self.queue.waiting()
        return {
            name: {
                "limit": limit,
                "used": self.ledger.used[name],
                "waiting": waiting.get(name, 0),
                "holders": [self.book.records[uid].id for uid in self.ledger.holders(name)],
            }
            for name, limit in self.ledger.limits.items()
        }

    def graph(self, uid: str | None = None) -> dict[str, Any]:
        """Return jobs and conditions as plain data: all, or those that one job waits for."""
        return picture.graph(self.book, self.groups, uid)
