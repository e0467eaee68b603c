"""What people order: cancel, hold, release, retry, tell.

Each order is checked completely before anything is changed: what cannot be carried out raises a ``UsageError`` and
leaves everything as it was. An order that was carried out before changes nothing. A group stands for its members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trun.conditions.resolver import Drop
from trun.conditions.value import TRUE, Value
from trun.core.flow import Flow
from trun.core.record import Deliver, JobRecord, JobState
from trun.core.wants import condition_of
from trun.errors import UnknownName, UsageError
from trun.messages import Cancel, Held, Hold, Message, Release, Released, Retried, Retry, Tell, Told, Unneeded, Waiting

#: Tokens of messages to jobs that are remembered, so that one that was sent twice arrives once.
TOKENS = 1000


class Orders:
    """Carries out the orders of people by ``flow``."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._book = flow.book
        self._tokens: deque[tuple[str, str]] = deque(maxlen=TOKENS)
        self.handlers: dict[type[Message], Callable[[Any], None]] = {
            Cancel: self._cancel,
            Unneeded: self._unneeded,
            Hold: self._hold,
            Release: self._release,
            Retry: self._retry,
            Tell: self._tell,
        }

    def _find(self, uids: Sequence[str]) -> list[JobRecord]:
        """Return the records of jobs, and of the members of groups."""
        found: dict[str, JobRecord] = {}
        for uid in uids:
            group = self._flow.groups.get(uid)
            for one in (uid,) if group is None else group.members:
                record = self._book.records.get(one)
                if record is None:
                    raise UnknownName(f"there is no job {one!r}.", name=one)
                found[one] = record
        return list(found.values())

    def _cancel(self, message: Cancel) -> None:
        for record in self._find(message.uids):
            self._flow.cancel(record, "user", message.reason or "cancelled by the user")

    def _unneeded(self, message: Unneeded) -> None:
        for uid in message.uids:
            record = self._book.records.get(uid)
            if record is not None and not self._flow.waits.demand(uid):
                self._flow.cancel(record, "race", message.reason or "lost a race on another service")

    # -- hold and release

    def _hold(self, message: Hold) -> None:
        records = [record for record in self._find(message.uids) if record.life.state is not JobState.HELD]
        for record in records:
            if record.life.state not in (JobState.WAITING, JobState.QUEUED):
                raise UsageError(f"{record.id} is {record.life.state.value}; only a job that does not run can be held.")
            if record.spec.kind == "first":
                raise UsageError(f"the race {record.id} starts nothing that could be held; hold its choices.")
        for record in records:
            # Its condition goes on being watched.
            self._flow.queue.discard(record.spec.uid)
            self._book.move(record, "hold")
            record.life.reason = "held by the user"
            self._book.publish(record, Held(reason=record.life.reason))

    def _release(self, message: Release) -> None:
        self._let_go(record for record in self._find(message.uids) if record.life.state is JobState.HELD)

    def _let_go(self, records: Iterable[JobRecord]) -> None:
        for record in records:
            life = record.life
            self._book.publish(record, Released())
            life.reason, life.root, life.kind = "", "", "" if life.kind == "never" else life.kind
            self._book.move(record, "release")
            self._go_on(record)

    def _go_on(self, record: JobRecord) -> None:
        """Take a released job to where it stood. Who releases one whose condition is dead overrules that."""
        flow, life, uid = self._flow, record.life, record.spec.uid
        if life.until > self._book.now:
            self._book.move(record, "wait")
            self._book.publish(record, Waiting(reason="its next attempt is due later", until=life.until))
            flow.timers.add(life.until, uid)
            return
        life.until = 0.0
        if life.fired:
            flow.ready(record, "fire", Value(life.fired), life.witness)
            return
        condition = None if uid in flow.resolver else condition_of(record.spec, self._book.here)
        decisions = [] if condition is None else flow.waits.register(record, condition)
        if decisions and not isinstance(decisions[0], Drop):
            flow.decide(decisions)
        elif uid in flow.resolver:
            flow.wait(record)
        else:
            flow.ready(record, "fire", TRUE)

    # -- new runs

    def _retry(self, message: Retry) -> None:
        chosen = self._find(message.uids)
        for record in chosen:
            if not record.life.state.is_final:
                raise UsageError(f"{record.id} is {record.life.state.value}; only a job that has ended can be retried.")
        held: list[JobRecord] = []
        if message.downstream:
            roots = {record.spec.uid for record in chosen}
            for record in self._book.records.values():
                if record.life.root in roots and record.spec.uid not in roots:
                    if record.life.state is JobState.HELD:
                        held.append(record)
                    elif record.life.state.is_final:
                        chosen.append(record)
        self._rerun(chosen)
        self._let_go(held)

    def _rerun(self, records: Sequence[JobRecord]) -> None:
        """Begin a new run of ended jobs, which may wait for one another."""
        flow, book = self._flow, self._book
        for record in records:
            spec = record.spec
            if spec.group:
                flow.groups[spec.group].count(spec.uid, record.life.state, -1)
                flow.groups[spec.group].retell()
            book.move(record, "rerun")
            _reset(record)
            book.opened(record)
            book.publish(record, Retried(run=record.life.run))
        groups = dict.fromkeys(record.spec.group for record in records if record.spec.group)
        for record in records:
            flow.decide(flow.resolver.reset(record.spec.uid, record.life.run))
        for group in groups:
            flow.decide(flow.resolver.reset(group))
            flow.count(group)
        for record in records:
            flow.enter(record, condition_of(record.spec, self._book.here))

    # -- messages

    def _tell(self, message: Tell) -> None:
        if message.uid in self._flow.groups:
            raise UsageError(f"{message.uid} is a group; only a job hears messages, so tell its members.")
        (record,) = self._find((message.uid,))
        if record.life.state is not JobState.RUNNING:
            raise UsageError(f"{record.id} is {record.life.state.value}; only a running job hears messages.")
        if (message.uid, message.token) in self._tokens:
            self._book.counters["duplicate"] += 1
            return
        self._tokens.append((message.uid, message.token))
        self._book.publish(record, Told(token=message.token, text=message.text))
        self._book.save(record)
        self._book.out.append(Deliver(message.uid, record.life.epoch, message.token, message.text))


def _reset(record: JobRecord) -> None:
    """Forget what belongs to the run that is over, and begin the next one."""
    life = record.life
    life.run += 1
    life.run_seq = life.seq + 1
    life.attempt = life.failures = life.emitted = life.heard = life.final_seq = life.fired = 0
    life.started = life.ended = life.until = life.progress = life.reached = life.began = life.ran = 0.0
    life.values, life.lowered, life.witness = {}, {}, ()
    life.kind = life.reason = life.root = life.winner = life.note = life.stopping = ""
    life.error = None
