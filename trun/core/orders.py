"""What people order: cancel, hold, release, retry, tell.

Each order is checked completely before anything is changed: what cannot be carried out raises a ``UsageError`` and
leaves everything as it was. A group stands for its members. A client whose connection broke gives its order again; an
order with a token that was carried out before changes nothing, whatever has happened since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from trun.conditions.resolver import Drop
from trun.conditions.value import TRUE, Value
from trun.core.flow import Flow
from trun.core.record import Deliver, JobRecord, JobState
from trun.core.wants import condition_of
from trun.errors import UnknownName, UsageError
from trun.messages import Cancel, Held, Hold, Message, Release, Released, Retried, Retry, Tell, Told, Unneeded, Waiting

#: Tokens of orders that are remembered, so that one that was given twice is carried out once: by the service as long as
#: it runs, and by each job for ever. What a client gives a longer token is refused.
TOKENS, TOKENS_OF_JOB, TOKEN_LETTERS = 10_000, 16, 64


class Orders:
    """Carries out the orders of people by ``flow``."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._book = flow.book
        self._tokens: dict[tuple[str, str], None] = {}
        self.handlers: dict[type[Message], Callable[[Any], None]] = {
            Cancel: partial(self._once, self._cancel),
            Unneeded: self._unneeded,
            Hold: partial(self._once, self._hold),
            Release: partial(self._once, self._release),
            Retry: partial(self._once, self._retry),
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

    # -- once

    def _once(self, carry_out: Callable[[Any, list[JobRecord]], None], message: Any) -> None:
        """Carry an order out unless it was carried out before."""
        records = self._find(message.uids)
        if not records or not self._was_given(records[0], message.token):
            carry_out(message, records)
            if records:
                self._note(records[0], message.token)

    def _was_given(self, record: JobRecord, token: str) -> bool:
        """Whether an order that begins with this job was carried out before."""
        if len(token) > TOKEN_LETTERS:
            raise UsageError(f"the token of an order has at most {TOKEN_LETTERS} letters, not {len(token):,}.")
        if not token or not (token in (record.life.orders or ()) or (record.spec.uid, token) in self._tokens):
            return False
        self._book.counters["duplicate"] += 1
        return True

    def _note(self, record: JobRecord, token: str) -> None:
        """Remember that an order was carried out; it stands for all its jobs at the first one, since it is one step."""
        if not token:
            return
        self._tokens[record.spec.uid, token] = None
        if len(self._tokens) > TOKENS:
            del self._tokens[next(iter(self._tokens))]
        last = list((record.life.orders or {}).items())[1 - TOKENS_OF_JOB :]
        record.life.orders = {**dict(last), token: record.life.epoch}
        self._book.save(record)

    # -- the end

    def _cancel(self, message: Cancel, records: list[JobRecord]) -> None:
        for record in records:
            self._flow.cancel(record, "user", message.reason or "cancelled by the user")

    def _unneeded(self, message: Unneeded) -> None:
        for uid in message.uids:
            record = self._book.records.get(uid)
            if record is not None and not self._flow.waits.demand(uid):
                self._flow.cancel(record, "race", message.reason or "lost a race on another service")

    # -- hold and release

    def _hold(self, message: Hold, found: list[JobRecord]) -> None:
        records = [record for record in found if record.life.state is not JobState.HELD]
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

    def _release(self, message: Release, found: list[JobRecord]) -> None:
        self._let_go(record for record in found if record.life.state is JobState.HELD)

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

    def _retry(self, message: Retry, chosen: list[JobRecord]) -> None:
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
        owners = flow.resolver.mentioning({*(record.spec.uid for record in records), *groups})
        for record in records:
            flow.decide(flow.resolver.reset(record.spec.uid, record.life.run, owners[record.spec.uid]))
        for group in groups:
            flow.decide(flow.resolver.reset(group, owners=owners[group]))
            flow.count(group)
        for record in records:
            flow.enter(record, condition_of(record.spec, self._book.here))

    # -- messages

    def _tell(self, message: Tell) -> None:
        if message.uid in self._flow.groups:
            raise UsageError(f"{message.uid} is a group; only a job hears messages, so tell its members.")
        (record,) = self._find((message.uid,))
        life = record.life
        if self._was_given(record, message.token):
            is_of_before = (message.uid, message.token) not in self._tokens
            epoch = (life.orders or {}).get(message.token)
            if is_of_before and life.state is JobState.RUNNING and epoch == life.epoch:
                # Nobody knows whether the daemon before has passed it on. The attempt takes it once.
                self._note(record, message.token)
                self._book.out.append(Deliver(message.uid, life.epoch, message.token, message.text))
            return
        if life.state is not JobState.RUNNING:
            raise UsageError(f"{record.id} is {life.state.value}; only a running job hears messages.")
        self._note(record, message.token)
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
