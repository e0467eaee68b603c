"""The only place where a job changes state: messages in, effects out.

``handle`` takes one message and the time and returns the effects that follow, in order; ``dispatch`` gives ready jobs
to an executor that has room. The machine owns the records, the resolver, the ready queue and the timers of retries;
it numbers every stream. It performs nothing: the engine saves, publishes, starts and stops what the effects say.

Consequences are worked off from one list, never by recursion, so a chain of any length may fall at once. What is
refused leaves no trace. Reports of an older epoch are fenced: counted and ignored.

Rule: no clock, no lock, no I/O; and no state is set except through ``_move`` and the table in ``states``.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trun.conditions import check, wire
from trun.conditions.algebra import Condition, Leaf
from trun.conditions.atoms import MESSAGE_KINDS, JobAtom, WorldAtom
from trun.conditions.explain import Explanation
from trun.conditions.resolver import Decision, Drop, Fire, Lapse, Resolver
from trun.conditions.value import CANCELLED, HOLDS, WAIT, Value
from trun.core import races, why
from trun.core.groups import GroupBook
from trun.core.ready import Ledger, ReadyQueue
from trun.core.record import (
    Deliver,
    Effect,
    JobRecord,
    JobState,
    Life,
    Publish,
    RefuseJobs,
    Replay,
    Save,
    SaveSpec,
    Start,
    Stop,
    Turn,
)
from trun.core.states import Cause, following
from trun.errors import CycleError, KeyConflict, NeverCondition, TrunError, UnknownName, UsageError
from trun.messages import (
    Aborted,
    Adopted,
    AtomMoved,
    Attempted,
    Cancel,
    Cancelled,
    Completed,
    Emitted,
    Ended,
    Entry,
    ErrorInfo,
    Event,
    Failed,
    GroupSpec,
    Held,
    Hold,
    Improved,
    JobSpec,
    Lost,
    Message,
    Missing,
    Notified,
    OwnerLeft,
    Progress,
    Queued,
    Relay,
    Release,
    Released,
    Replayed,
    ResourcesLowered,
    Resume,
    Retried,
    Retry,
    Returned,
    Said,
    SetAtom,
    Skipped,
    Started,
    Submit,
    Submitted,
    Suspend,
    Tell,
    Tick,
    Told,
    Waiting,
)
from trun.ports import Room

#: Worker deaths after which a job is poison: it is not tried again, whatever its retries.
MAX_DEATHS = 3
#: Seconds between TERM and KILL.
GRACE_S = 2.0


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

    def __init__(
        self, *, resources: Mapping[str, float] | None = None, service_key: str = "", epoch: int = 1
    ) -> None:
        self.service_key = service_key
        self.epoch = epoch
        #: All jobs in the order of their numbers. uid -> record.
        self.records: dict[str, JobRecord] = {}
        self.groups = GroupBook()
        self.ledger = Ledger(resources or {})
        self.ready = ReadyQueue(self.ledger)
        self.resolver = Resolver(keep_levels=True)
        #: Harmless irregularities by name: fenced, duplicate, unknown.
        self.counters: Counter[str] = Counter()
        #: Events of other services' jobs that conditions here mention. uid -> events.
        self.foreign: dict[str, list[Event]] = {}
        #: winner uid -> races that wait for its end
        self.awaiting: dict[str, list[str]] = {}
        self._uids: dict[int, str] = {}
        self._last_number = 0
        self._owned: dict[str, tuple[Value, str]] = {}
        self._stopping: dict[str, tuple[str, str]] = {}
        self._resuming: set[str] = set()
        self._timers: list[tuple[float, str, int]] = []
        self._seqs: Counter[str] = Counter()
        self._free: dict[str, WorldAtom] = {}
        self._out: list[Effect] = []
        self._heard: deque[tuple[str, Event, int]] = deque()

    # -- the door

    def handle(self, message: Message, now: float) -> list[Effect]:
        """Take one message and return what follows from it, in order.

        Raises
        ------
        UsageError, UnknownName
            A request that cannot be carried out; nothing has changed.
        """
        out = self._out = []
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise UsageError(f"the machine takes no {type(message).__name__}")
        handler(self, message, now)
        self._work(now)
        return out

    def dispatch(self, room: Room, now: float) -> list[Effect]:
        """Give out as many ready jobs as there is room for."""
        out = self._out = []
        take = self.ready.take
        for _ in range(room.idle):
            uid = take()
            if uid is None:
                break
            self._start(uid, now)
        for _ in range(room.ahead):
            uid = take(plain_only=True)
            if uid is None:
                break
            self._start(uid, now)
        self._work(now)
        return out

    def next_deadline(self) -> float | None:
        """Return when ``Tick`` is wanted next; None: not before something happens."""
        timers = self._timers
        waiting = self.resolver.next_deadline()
        if not timers:
            return waiting
        return timers[0][0] if waiting is None else min(timers[0][0], waiting)

    def watch_changes(self) -> tuple[list[Leaf], list[str]]:
        """Return the world atoms to watch from now on, and the keys of those that nobody needs any more."""
        start, stop = self.resolver.take_watch_changes()
        if not start and not stop:
            return [], []
        outside: list[Leaf] = []
        for atom in start:
            if isinstance(atom, WorldAtom) and atom.what == "free":
                self._free[atom.key] = atom
            else:
                outside.append(atom)
        return outside, [key for key in stop if self._free.pop(key, None) is None]

    # -- numbering and publishing

    def publish(self, record: JobRecord, event: Any, now: float) -> None:
        """Append an event to the job's stream, and let the conditions that look at it hear of it."""
        life = record.life
        life.seq += 1
        uid = record.spec.uid
        self._out.append(Publish(Entry(uid, life.seq, self.epoch, now, event)))
        if self.resolver.wanted(uid):
            self._heard.append((uid, event, life.seq))

    def save(self, record: JobRecord) -> None:
        """The record of this job has changed."""
        self._out.append(Save(record.spec.uid))

    def _announce(self, stream: str, event: Any, now: float) -> None:
        """Append to a stream that is no job: condition, service, or a group."""
        self._seqs[stream] += 1
        self._out.append(Publish(Entry(stream, self._seqs[stream], self.epoch, now, event)))

    def _move(self, record: JobRecord, cause: Cause, now: float) -> None:
        life = record.life
        life.state = following(life.state, cause)
        life.changed = now
        self._out.append(Save(record.spec.uid))

    def _work(self, now: float) -> None:
        heard = self._heard
        while heard:
            subject, event, seq = heard.popleft()
            decisions = self.resolver.hear(subject, event, seq=seq, now=now)
            if decisions:
                self._apply(decisions, now)

    def _apply(self, decisions: Iterable[Decision], now: float) -> None:
        for decision in decisions:
            record = self.records[decision.owner]  # type: ignore[index]
            if isinstance(decision, Fire):
                self._fired(record, decision, now)
            elif isinstance(decision, Drop):
                self._dropped(record, decision, now)
            elif isinstance(decision, Lapse):
                self._lapsed(record, now)

    # -- submission

    def _submit(self, message: Submit, now: float) -> None:
        batch = {spec.uid: spec for spec in message.specs}
        conditions: dict[str, Condition | None] = {}
        try:
            fresh = [spec for spec in message.specs if not self._is_known(spec)]
            groups = {group.uid for group in message.groups}
            for spec in fresh:
                conditions[spec.uid] = self._check(spec, batch, groups)
            if len(fresh) > 1:
                _refuse_circles(conditions)
        except (TrunError, ValueError) as error:
            facts = ErrorInfo(type=f"{type(error).__module__}.{type(error).__qualname__}", message=str(error))
            session = message.specs[0].session if message.specs else ""
            self._out.append(RefuseJobs(session, tuple(batch), facts))
            return
        for group in message.groups:
            self.groups.open(group)
        for spec in fresh:
            self._accept(spec, now)
        for spec in fresh:
            self._enter(self.records[spec.uid], conditions[spec.uid], now, held=spec.hold)
        for group in message.groups:
            self._count_group(group.uid, now)

    def _is_known(self, spec: JobSpec) -> bool:
        """Whether the job was accepted before; the same key with other content is refused."""
        known = self.records.get(spec.uid)
        if known is None:
            return False
        if (spec.key or known.spec.key) and (spec.key, spec.digest) != (known.spec.key, known.spec.digest):
            raise KeyConflict(f"key {spec.key!r} was used for {known.id} with other content; choose another key.")
        self.counters["duplicate"] += 1
        return True

    def _check(self, spec: JobSpec, batch: Mapping[str, JobSpec], groups: set[str]) -> Condition | None:
        if spec.resources:
            self.ledger.check(spec.resources)
        if not spec.when:
            return None
        condition = wire.loads(spec.when)
        for leaf in condition.depends:
            if isinstance(leaf, JobAtom) and leaf.service_key in ("", self.service_key):
                subject = leaf.subject
                if not any(subject in known for known in (self.records, batch, groups, self.groups, self.foreign)):
                    raise UnknownName(f"{spec.name} waits for the job {leaf.label or subject}, which is not known.")
        if spec.on_never == "cancel" and not isinstance(condition, Leaf):
            reason = check.never_reason(condition)
            if reason:
                raise NeverCondition(f"the condition of {spec.name} can never hold: {reason}")
        return condition

    def _accept(self, spec: JobSpec, now: float) -> None:
        self._last_number += 1
        record = JobRecord(spec, Life(number=self._last_number, created=now, changed=now))
        self._enlist(record)
        self._out.append(SaveSpec(spec.uid))
        self.publish(record, Submitted(id=record.id, name=spec.name), now)

    def _enlist(self, record: JobRecord) -> None:
        self.records[record.spec.uid] = record
        self._uids[record.life.number] = record.spec.uid
        if record.spec.group:
            self.groups.join(record.spec.group, record.spec.uid)

    def _enter(self, record: JobRecord, condition: Condition | None, now: float, *, held: bool = False) -> None:
        """Let a new run wait for its condition, or for a worker."""
        if held:
            self._move(record, Cause.ACCEPTED_HELD, now)
            self.publish(record, Held(reason="submitted to be held"), now)
        elif condition is None:
            self._move(record, Cause.ACCEPTED_READY, now)
            self._queue(record, now)
        else:
            self._move(record, Cause.ACCEPTED_WAITING, now)
            self._wait(record, condition, now)

    def _wait(self, record: JobRecord, condition: Condition, now: float) -> None:
        decisions = self.resolver.register(
            record.spec.uid, condition, now=now, origin=record.life.created, known=self.known
        )
        self._apply(decisions, now)
        if record.life.state is JobState.WAITING and not record.life.winner:
            self.publish(record, Waiting(), now)

    def _queue(self, record: JobRecord, now: float, witness: tuple[str, ...] = ()) -> None:
        """Put a job that has just become QUEUED into line."""
        spec = record.spec
        self.ready.add(
            spec.uid,
            record.life.number,
            priority=spec.priority,
            resources=spec.resources,
            plain=not spec.resources and spec.timeout is None and spec.memory is None and spec.isolation == "worker",
        )
        self.publish(record, Queued(witness=witness), now)

    # -- what conditions know

    def known(self, leaf: Leaf) -> Value:
        """Return the present value of an atom at registration."""
        if isinstance(leaf, JobAtom):
            record = self.records.get(leaf.subject)
            if record is not None:
                return self._judge(record, leaf)
            count = self.groups.counted(leaf.subject)
            if count is not None:
                return leaf.judge(count) or WAIT
            for event in self.foreign.get(leaf.subject, ()):
                value = leaf.judge(event)
                if value is not None:
                    return value
            return WAIT
        if isinstance(leaf, WorldAtom) and leaf.what == "free":
            return HOLDS if self.ledger.free(leaf.target) >= leaf.amount else WAIT
        owned = self._owned.get(leaf.key)
        return owned[0] if owned is not None else WAIT

    def _judge(self, record: JobRecord, atom: JobAtom) -> Value:
        life = record.life
        if atom.what in MESSAGE_KINDS:
            if life.progress:
                value = atom.judge(Progress(fraction=life.progress))
                if value is not None:
                    return value
            if life.emitted and atom.what != "progress":
                self._out.append(Replay(record.spec.uid, 1))
                return WAIT
        final = why.final_event(record)
        found: Value | None = None
        if final is not None:
            found = atom.judge(final)
        elif life.started:
            found = atom.judge(Started())
        elif life.state is JobState.QUEUED:
            found = atom.judge(Queued())
        return WAIT if found is None else found

    def _replayed(self, message: Replayed, now: float) -> None:
        entries: list[Entry] = []
        for entry in message.entries:
            if isinstance(entry.event, Retried):
                entries.clear()
            entries.append(entry)
        for entry in entries:
            if isinstance(entry.event, (Improved, Said, Progress, Completed, Failed, Aborted, Cancelled, Skipped)):
                self._heard.append((message.stream, entry.event, 0))

    def _set_atom(self, message: SetAtom, now: float) -> None:
        value = Value(min(4, max(0, message.value)))
        self._owned[message.key] = (value, message.session)
        self._apply(self.resolver.settle(message.key, value, now=now, reason=message.reason), now)

    def _atom_moved(self, message: AtomMoved, now: float) -> None:
        value = Value(min(4, max(0, message.value)))
        self._apply(self.resolver.settle(message.key, value, seq=message.seq, now=now, reason=message.reason), now)

    def _relay(self, message: Relay, now: float) -> None:
        for entry in message.entries:
            if entry.stream in self.records:
                continue
            kept = self.foreign.setdefault(entry.stream, [])
            kept.append(entry.event)
            self._heard.append((entry.stream, entry.event, entry.seq))
            if isinstance(entry.event, (Completed, Failed, Aborted, Cancelled, Skipped)):
                races.winner_ended(self, entry.stream, now)

    def _resources_moved(self, names: Sequence[str], now: float) -> None:
        """Some of these resources were given back: wake who is parked under them, and the atoms that look at them."""
        if not names:
            return
        self.ready.wake(list(names))
        self._look_at_free(names, now)

    def _look_at_free(self, names: Iterable[str], now: float) -> None:
        for key, atom in list(self._free.items()):
            if atom.target in names:
                value = HOLDS if self.ledger.free(atom.target) >= atom.amount else WAIT
                self._apply(self.resolver.settle(key, value, now=now), now)

    # -- decisions of the resolver

    def _fired(self, record: JobRecord, fire: Fire, now: float) -> None:
        if record.life.state is not JobState.WAITING:
            return
        uid = record.spec.uid
        record.life.witness = tuple(fire.witness)
        self._announce("condition", Notified(job=uid, status="ready", witness=record.life.witness), now)
        if record.spec.kind == "first":
            self.resolver.withdraw(uid)
            races.decide(self, record, now)
            return
        self._move(record, Cause.FIRED, now)
        self._queue(record, now, record.life.witness)

    def _dropped(self, record: JobRecord, drop: Drop, now: float) -> None:
        if record.life.state not in (JobState.WAITING, JobState.QUEUED):
            return
        self.ready.remove(record.spec.uid)
        reason, root = self._reason(drop)
        self._announce("condition", Notified(job=record.spec.uid, status="cancelled", witness=()), now)
        policy = record.spec.on_never
        if policy == "hold":
            record.life.reason, record.life.root = reason, root
            self._move(record, Cause.NEVER_HELD, now)
            self.publish(record, Held(reason=reason), now)
        elif policy == "skip":
            self.finish(record, Cause.SKIPPED, Skipped(reason=reason, root=root), now)
        elif policy == "run" and record.life.state is JobState.WAITING:
            self._move(record, Cause.FIRED, now)
            self._queue(record, now)
        else:
            self.finish(record, Cause.CANCELLED, Cancelled(reason=reason, kind="never", root=root), now)

    def _reason(self, drop: Drop) -> tuple[str, str]:
        """Return why a condition is dead in words, and the uid of the job whose end began it."""
        names: list[str] = []
        root = ""
        for key in drop.reason.atoms:
            subject = why.subject_of(key)
            record = self.records.get(subject)
            if record is None:
                names.append(str(drop.reason))
                continue
            names.append(f"{record.id} {why.state_words(record)}")
            if not root:
                root = record.life.root or (subject if record.life.state is not JobState.COMPLETED else "")
        return ("; ".join(dict.fromkeys(names[:5])) or str(drop.reason)), root

    def _lapsed(self, record: JobRecord, now: float) -> None:
        if record.life.state is JobState.QUEUED:
            self.ready.remove(record.spec.uid)
            self._move(record, Cause.LAPSED, now)
            self.publish(record, Waiting(reason="its condition holds no longer"), now)

    # -- running

    def _start(self, uid: str, now: float) -> None:
        record = self.records[uid]
        life = record.life
        if uid in self._resuming:
            self._resuming.discard(uid)
            life.suspended = False
            self._out.append(Save(uid))
            self._out.append(Turn(uid, life.epoch))
            return
        self.resolver.withdraw(uid)
        life.attempt += 1
        life.epoch += 1
        life.heard = 0
        life.until = 0.0
        if not life.started:
            life.started = now
        self._move(record, Cause.STARTED, now)
        self.publish(record, Started(run=life.run, attempt=life.attempt, epoch=life.epoch), now)
        self._out.append(Start(uid, life.epoch))
        if record.spec.resources and self._free:
            self._look_at_free(record.spec.resources, now)

    def _present(self, uid: str, epoch: int) -> JobRecord | None:
        """Return the record that a report is about, or None if the report is late."""
        record = self.records.get(uid)
        if record is None or record.life.epoch != epoch or record.life.state not in _AT_WORK:
            self.counters["fenced" if record is not None else "unknown"] += 1
            return None
        return record

    def _ended(self, message: Ended, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is None:
            return
        outcome = message.outcome
        stopping = self._stopping.pop(message.uid, None)
        self._leave_worker(record, now)
        if isinstance(outcome, Completed):
            record.life.values = outcome.values
            record.life.progress = 1.0
            self.finish(record, Cause.COMPLETED, outcome, now)
        elif isinstance(outcome, Aborted) or stopping is not None:
            reason = stopping[1] if stopping is not None else getattr(outcome, "reason", "")
            self.finish(record, Cause.STOPPED, Aborted(reason=reason), now)
        else:
            self._ended_badly(record, outcome, now)

    def _leave_worker(self, record: JobRecord, now: float) -> None:
        uid = record.spec.uid
        if uid in self._resuming:
            self._resuming.discard(uid)
            self.ready.remove(uid)
        record.life.suspended = False
        if record.spec.resources:
            self._resources_moved(self.ledger.give_back(uid), now)

    def _ended_badly(self, record: JobRecord, outcome: Failed, now: float) -> None:
        life, spec = record.life, record.spec
        life.kind, life.error = outcome.kind, outcome.error
        if outcome.kind in ("died", "lost"):
            life.deaths += 1
        if life.attempt > spec.retries:
            self.finish(record, Cause.FAILED, outcome, now)
        elif life.deaths >= MAX_DEATHS:
            self.finish(record, Cause.FAILED, Failed(kind="poison", error=outcome.error, seconds=outcome.seconds), now)
        else:
            self.publish(record, Attempted(attempt=life.attempt, kind=outcome.kind, error=outcome.error), now)
            delay = spec.retry_delay * spec.backoff ** (life.attempt - 1)
            if delay > 0:
                life.until = now + delay
                self._move(record, Cause.AGAIN_LATER, now)
                self.publish(record, Waiting(reason="waits for its next attempt", until=life.until), now)
                heapq.heappush(self._timers, (life.until, spec.uid, life.epoch))
            else:
                self._move(record, Cause.AGAIN, now)
                self._queue(record, now)

    def _missing(self, message: Missing, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is None:
            return
        life = record.life
        if life.state is JobState.RUNNING:
            self._leave_worker(record, now)
            self._move(record, Cause.MISSING, now)
            self.publish(record, Lost(reason=message.reason), now)
        life.deaths += 1
        stopping = self._stopping.pop(message.uid, None)
        if stopping is not None:
            self.finish(record, Cause.STOPPED, Aborted(reason=stopping[1]), now)
        elif life.deaths >= MAX_DEATHS:
            life.kind = "poison"
            error = ErrorInfo(
                type="trun.errors.JobLost", message=f"{life.deaths} workers were lost under it ({message.reason})"
            )
            life.error = error
            self.finish(record, Cause.FAILED, Failed(kind="poison", error=error), now)
        else:
            life.attempt = max(0, life.attempt - 1)
            self._move(record, Cause.AGAIN, now)
            self._queue(record, now)

    def _adopted(self, message: Adopted, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is not None and record.life.state is JobState.LOST:
            self._move(record, Cause.FOUND, now)

    def _returned(self, message: Returned, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is None or record.life.state is not JobState.RUNNING:
            return
        self._leave_worker(record, now)
        record.life.attempt -= 1
        if record.life.attempt == 0:
            record.life.started = 0.0
        stopping = self._stopping.pop(message.uid, None)
        self._move(record, Cause.RETURNED, now)
        if stopping is not None:
            self.finish(record, Cause.CANCELLED, Cancelled(reason=stopping[1], kind=stopping[0]), now)
        else:
            self._queue(record, now)

    def _emitted(self, message: Emitted, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is None:
            return
        life = record.life
        for number, event in enumerate(message.events, message.first):
            if number <= life.heard:
                self.counters["duplicate"] += 1
                continue
            life.heard = number
            if isinstance(event, Progress):
                life.progress, life.note = event.fraction, event.note
            elif isinstance(event, Improved):
                life.values = event.values
                life.emitted += 1
            elif isinstance(event, Said):
                life.emitted += 1
            self.publish(record, event, now)
        self._out.append(Save(message.uid))

    def _lowered(self, message: ResourcesLowered, now: float) -> None:
        if self._present(message.uid, message.epoch) is not None:
            self._resources_moved(self.ledger.lower(message.uid, message.resources), now)

    def _suspend(self, message: Suspend, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is not None and not record.life.suspended:
            record.life.suspended = True
            self._out.append(Save(message.uid))
            self._resources_moved(self.ledger.give_back(message.uid), now)

    def _resume(self, message: Resume, now: float) -> None:
        record = self._present(message.uid, message.epoch)
        if record is None:
            return
        uid = message.uid
        if not record.life.suspended:
            self._out.append(Turn(uid, message.epoch))
        elif uid not in self._resuming:
            self._resuming.add(uid)
            number, wanted = record.life.number, record.spec.resources
            self.ready.add(uid, number, priority=float("inf"), resources=wanted, plain=False)

    # -- the end

    def finish(self, record: JobRecord, cause: Cause, event: Any, now: float) -> None:
        """End the present run of a job with a final event."""
        life, uid = record.life, record.spec.uid
        self._move(record, cause, now)
        life.ended = now
        life.reason = getattr(event, "reason", "")
        life.root = getattr(event, "root", "") or life.root
        if isinstance(event, Failed):
            life.kind, life.error = event.kind, event.error
        self.publish(record, event, now)
        life.final_seq = life.seq
        if record.spec.group:
            self.groups.ended(record.spec.group, life.state)
            self._count_group(record.spec.group, now)
        if uid in self.awaiting:
            races.winner_ended(self, uid, now)

    def _count_group(self, group: str, now: float) -> None:
        count = self.groups.counted(group)
        if count is None:
            return
        if self.resolver.wanted(group) or self.groups.is_over(group):
            self._announce(group, count, now)
            self._heard.append((group, count, self._seqs[group]))

    def _tick(self, message: Tick, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, uid, epoch = heapq.heappop(timers)
            record = self.records[uid]
            if record.life.state is JobState.WAITING and record.life.epoch == epoch and record.life.until:
                record.life.until = 0.0
                self._move(record, Cause.DUE, now)
                self._queue(record, now)
        self._apply(self.resolver.advance(now), now)

    # -- orders of people

    def _find(self, uid: str) -> JobRecord:
        record = self.records.get(uid)
        if record is None:
            raise UnknownName(f"there is no job {uid!r}.")
        return record

    def _cancel(self, message: Cancel, now: float) -> None:
        uids: list[str] = []
        for uid in message.uids:
            uids.extend(self.groups.members(uid) if uid in self.groups else [self._find(uid).spec.uid])
        for uid in uids:
            self.cancel(self.records[uid], "user", message.reason, now)

    def cancel(self, record: JobRecord, kind: str, reason: str, now: float) -> None:
        """Cancel what has not started, stop what runs, leave alone what has ended."""
        life, uid = record.life, record.spec.uid
        if life.state.is_final or uid in self._stopping:
            return
        if life.state is JobState.RUNNING:
            self._stopping[uid] = (kind, reason)
            self._out.append(Stop(uid, life.epoch, GRACE_S, reason))
            return
        self.resolver.withdraw(uid)
        self.ready.remove(uid)
        if life.attempt:
            if life.state in (JobState.WAITING, JobState.QUEUED, JobState.HELD):
                self.finish(record, Cause.CANCELLED, Cancelled(reason=reason, kind=kind), now)
            else:
                self.finish(record, Cause.STOPPED, Aborted(reason=reason), now)
            return
        self.finish(record, Cause.CANCELLED, Cancelled(reason=reason, kind=kind), now)

    def _hold(self, message: Hold, now: float) -> None:
        for record in [self._find(uid) for uid in message.uids]:
            state = record.life.state
            if state is JobState.HELD:
                continue
            if state not in (JobState.WAITING, JobState.QUEUED):
                raise UsageError(f"{record.id} is {state.value}; only a job that has not started can be held.")
            self.resolver.withdraw(record.spec.uid)
            self.ready.remove(record.spec.uid)
            record.life.reason = "held"
            self._move(record, Cause.HELD, now)
            self.publish(record, Held(reason="held"), now)

    def _release(self, message: Release, now: float) -> None:
        for record in [self._find(uid) for uid in message.uids]:
            if record.life.state is not JobState.HELD:
                continue
            record.life.reason = ""
            self.publish(record, Released(), now)
            if not record.spec.when or record.life.attempt or record.life.root:
                self._move(record, Cause.RELEASED_READY, now)
                self._queue(record, now)
            else:
                self._move(record, Cause.RELEASED_WAITING, now)
                self._wait(record, wire.loads(record.spec.when), now)

    def _retry(self, message: Retry, now: float) -> None:
        chosen = [self._find(uid) for uid in message.uids]
        for record in chosen:
            if not record.life.state.is_final:
                raise UsageError(f"{record.id} is {record.life.state.value}; only a job that has ended can be retried.")
        roots = {record.spec.uid for record in chosen}
        if message.downstream:
            for record in self.records.values():
                fell = record.life.state in (JobState.CANCELLED, JobState.SKIPPED, JobState.FAILED)
                if fell and record.life.root in roots and record.spec.uid not in roots:
                    chosen.append(record)
        for record in chosen:
            self._new_run(record, now)
        for record in chosen:
            self._enter(record, wire.loads(record.spec.when) if record.spec.when else None, now)

    def _new_run(self, record: JobRecord, now: float) -> None:
        life, uid = record.life, record.spec.uid
        if record.spec.group:
            self.groups.revived(record.spec.group, life.state)
        self._move(record, Cause.RETRIED, now)
        life.run += 1
        life.attempt = life.deaths = life.emitted = life.final_seq = 0
        life.started = life.ended = life.until = life.progress = 0.0
        life.values, life.kind, life.error, life.reason, life.root, life.winner = {}, "", None, "", "", ""
        self.resolver.reset(uid, life.run)
        self.publish(record, Retried(run=life.run), now)

    def _tell(self, message: Tell, now: float) -> None:
        record = self._find(message.uid)
        if record.life.state is not JobState.RUNNING:
            raise UsageError(f"{record.id} is {record.life.state.value}; only a running job hears messages.")
        self.publish(record, Told(token=message.token, text=message.text), now)
        self._out.append(Deliver(message.uid, record.life.epoch, message.token, message.text))

    def _owner_left(self, message: OwnerLeft, now: float) -> None:
        session = message.session
        for record in self.records.values():
            if record.spec.session == session and not record.spec.detach and not record.life.state.is_final:
                self.cancel(record, "owner", "its owner has left", now)
        for key, (_, owner) in list(self._owned.items()):
            if owner == session:
                self._owned[key] = (CANCELLED, owner)
                self._apply(self.resolver.settle(key, CANCELLED, now=now, reason="owner left"), now)

    # -- restart

    def restore(self, spec: JobSpec, life: Life) -> None:
        """Take a job back from the journal, in the order of the numbers; ``resume_all`` lets it go on."""
        record = JobRecord(spec, life)
        self._last_number = max(self._last_number, life.number)
        self._enlist(record)
        if life.state.is_final and spec.group:
            self.groups.ended(spec.group, life.state)

    def restore_group(self, group: GroupSpec) -> None:
        """Take a group back from the journal, before its members."""
        self.groups.open(group)

    def restore_stream(self, stream: str, seq: int) -> None:
        """Go on numbering a stream that is no job."""
        self._seqs[stream] = seq

    def resume_all(self, now: float) -> list[Effect]:
        """After all jobs are restored: those that waited wait again, those that were queued stand in line again."""
        out = self._out = []
        for record in list(self.records.values()):
            life, spec = record.life, record.spec
            if life.state is JobState.QUEUED:
                self.ready.add(
                    spec.uid, life.number, priority=spec.priority, resources=spec.resources, plain=not spec.resources
                )
            elif life.state is JobState.WAITING and life.until:
                heapq.heappush(self._timers, (life.until, spec.uid, life.epoch))
            elif life.state is JobState.WAITING and life.winner:
                self.awaiting.setdefault(life.winner, []).append(spec.uid)
            elif life.state is JobState.WAITING:
                decisions = self.resolver.register(
                    spec.uid, wire.loads(spec.when), now=now, origin=life.created, known=self.known
                )
                self._apply(decisions, now)
            elif life.state is JobState.RUNNING and spec.resources:
                self.ledger.take(spec.uid, spec.resources)
        self._work(now)
        return out

    # -- questions

    def numbered(self, number: int) -> JobRecord | None:
        """Return the job with this number."""
        uid = self._uids.get(number)
        return self.records[uid] if uid is not None else None

    def explain(self, uid: str, now: float) -> Explanation:
        """Say why a job does not run: condition, then resources and queue; never empty."""
        return why.explain(self, self.records[uid], now)

    def reason(self, uid: str, now: float) -> str:
        """Say the same in one short line."""
        return why.reason(self, self.records[uid], now)

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return limit, use and demand of each counted resource."""
        return {
            name: {
                "limit": limit,
                "used": self.ledger.used[name],
                "waiting": self.ready.waiting_for(name),
                "holders": [self.records[uid].id for uid in self.ledger.holders(name)],
            }
            for name, limit in self.ledger.limits.items()
        }

    def graph(self, uid: str | None = None) -> dict[str, Any]:
        """Return jobs and conditions as plain data: all, or those that one job waits for."""
        return why.graph(self, uid)


_AT_WORK = (JobState.RUNNING, JobState.LOST)

_HANDLERS: dict[type[Message], Callable[..., None]] = {
    Submit: Machine._submit,
    Ended: Machine._ended,
    Emitted: Machine._emitted,
    Returned: Machine._returned,
    Missing: Machine._missing,
    Adopted: Machine._adopted,
    ResourcesLowered: Machine._lowered,
    Cancel: Machine._cancel,
    Hold: Machine._hold,
    Release: Machine._release,
    Retry: Machine._retry,
    Tell: Machine._tell,
    SetAtom: Machine._set_atom,
    AtomMoved: Machine._atom_moved,
    Relay: Machine._relay,
    Replayed: Machine._replayed,
    OwnerLeft: Machine._owner_left,
    Suspend: Machine._suspend,
    Resume: Machine._resume,
    Tick: Machine._tick,
}


def _refuse_circles(conditions: Mapping[str, Condition | None]) -> None:
    """Refuse jobs of one batch that wait for one another in a circle; iterative depth-first walk."""
    waits = {
        uid: [leaf.subject for leaf in condition.depends if isinstance(leaf, JobAtom) and leaf.subject in conditions]
        for uid, condition in conditions.items()
        if condition is not None
    }
    done: set[str] = set()
    for start in waits:
        path: dict[str, None] = {}
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            uid, leaving = stack.pop()
            if leaving:
                path.popitem()
                done.add(uid)
                continue
            if uid in done:
                continue
            if uid in path:
                steps = list(path)
                circle = " -> ".join([*steps[steps.index(uid) :], uid])
                raise CycleError(f"these jobs wait for one another in a circle: {circle}")
            path[uid] = None
            stack.append((uid, True))
            stack.extend((other, False) for other in waits.get(uid, ()))
