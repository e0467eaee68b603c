"""The ways through a job's life: enter, fire, lapse, drop, start, fail, end, cancel.

Each method takes a job along one or more rows of the table in ``states`` and does all that belongs to it: entries,
ready queue, ledger, groups, registrations. Consequences for other jobs go through ``book.news`` and ``spread``, one
after the other and never by recursion, so a chain of any length may fall at once.

Who may come in: ``machine``, which knows who may ask for what. Rule: whatever must always happen together is here.
"""

from __future__ import annotations

from collections.abc import Iterable

from trun.conditions.algebra import Condition
from trun.conditions.atoms import IsCompleted, JobAtom
from trun.conditions.resolver import Decision, Drop, Fire, Lapse
from trun.conditions.value import TRUE, Value
from trun.core import races
from trun.core.book import Book
from trun.core.groups import Groups
from trun.core.known import Known, final_event
from trun.core.ready import Ledger, Needs, ReadyQueue
from trun.core.record import FINAL_STATES, Dismiss, JobRecord, JobState, Start, Stop, Turn
from trun.core.retrying import delay_s, has_retry, is_poison
from trun.core.states import Cause
from trun.core.timers import Timers
from trun.core.voices import plain, plain_keys
from trun.core.waits import Waits
from trun.core.wants import held_amounts, is_expired, needs_of
from trun.core.words import unmet_words
from trun.messages import (
    Aborted,
    AnyEvent,
    Attempted,
    Cancelled,
    Completed,
    ErrorInfo,
    Event,
    Failed,
    Held,
    Lost,
    Notified,
    Queued,
    Said,
    Skipped,
    Started,
    Waiting,
)

#: Seconds between TERM and KILL.
GRACE_S = 2.0
#: Atoms of a witness that are kept and published.
WITNESS = 1000

_QUEUED = Queued()
_NEVER: dict[str, Cause] = {
    "cancel": "never: cancel",
    "hold": "never: hold",
    "skip": "never: skip",
    "run": "never: run",
}


class Flow:
    """Moves jobs, and lets conditions hear of it."""

    def __init__(self, *, book: Book, groups: Groups, ledger: Ledger, known: Known, waits: Waits) -> None:
        self.book = book
        self.groups = groups
        self.ledger = ledger
        self.known = known
        self.waits = waits
        self.resolver = waits.resolver
        self.queue = ReadyQueue(ledger)
        self.timers = Timers()
        #: {job told to stop: the kind of its cancellation}
        self._stop_kinds: dict[str, str] = {}

    # -- conditions

    def enter(self, record: JobRecord, condition: Condition | None, *, hold: bool = False) -> None:
        """Let a new run wait for its condition, or for a worker."""
        life, book = record.life, self.book
        life.origin = book.now
        if hold:
            book.move(record, "hold")
            life.reason = "submitted on hold"
            book.publish(record, Held(reason=life.reason))
        if condition is None:
            if not hold:
                self.ready(record, "fire", TRUE)
            else:
                life.fired = int(TRUE)
            return
        if record.spec.kind == "first":
            self.wait(record)
            self.decide(self.waits.register(record, condition))
            return
        decisions = self.waits.register(record, condition)
        if decisions:
            self.decide(decisions)
        elif not hold:
            self.wait(record)

    def wait(self, record: JobRecord, reason: str = "") -> None:
        """Let a job wait for its condition, which is registered or will be at once."""
        self.book.move(record, "wait")
        self.book.publish(record, Waiting(reason=reason))

    def spread(self) -> None:
        """Let conditions hear all news, and carry out what follows, until there is no more."""
        news, waits = self.book.news, self.waits
        if not len(self.resolver):
            news.clear()
        while news:
            subject, event, seq = news.popleft()
            decisions = waits.hear(subject, event, seq)
            if decisions:
                self.decide(decisions)
            if waits.doubtful:
                self.decide(waits.told(subject))

    def settle(self, key: str, value: Value, *, seq: int = 0, reason: str = "") -> None:
        """Tell conditions the value of an atom that is about no job."""
        self.decide(self.resolver.settle(key, value, seq=seq, now=self.book.now, reason=reason))
        if self.waits.doubtful:
            self.decide(self.waits.told(key))

    def pass_time(self) -> None:
        """Let conditions know what time it is."""
        self.decide(self.resolver.advance(self.book.now))
        if self.waits.doubtful:
            self.decide(self.waits.time_passed())

    def decide(self, decisions: Iterable[Decision]) -> None:
        """Carry out what conditions decided."""
        records = self.book.records
        for decision in decisions:
            record = records[decision.owner]  # type: ignore[index]
            if record.life.state in FINAL_STATES:  # a decision before this one has ended it: it lost a race
                continue
            kind = type(decision)
            if kind is Fire:
                self._fired(record, decision)  # type: ignore[arg-type]
            elif kind is Drop:
                self._dropped(record, decision)  # type: ignore[arg-type]
            elif kind is Lapse and not self.waits.forget_doubt(record.spec.uid):
                self.lapse(record)

    def _fired(self, record: JobRecord, fire: Fire) -> None:
        life, uid = record.life, record.spec.uid
        if record.spec.kind == "first":
            self.waits.withdraw(uid)
            if life.winner:
                self._end_race(record)
            else:
                self._won(record, fire)
            return
        if self.waits.is_doubtful(fire):
            if life.state is JobState.NEW:
                self.wait(record, "nobody has looked at some of its atoms yet")
            return
        witness = plain_keys(fire.witness[:WITNESS], record.spec.owner)
        life.witness = witness
        self.book.publish_on("condition", Notified(job=uid, status="ready", witness=witness))
        if life.state is JobState.HELD:
            life.fired = int(fire.value)
            self.book.save(record)
        else:
            self.ready(record, "fire", fire.value, witness)

    def lapse(self, record: JobRecord) -> None:
        """A condition that held for the moment holds no more."""
        record.life.fired = 0
        if record.life.state is JobState.QUEUED:
            self.queue.discard(record.spec.uid)
            self.book.move(record, "lapse")
            self.book.publish(record, Waiting(reason="its condition held for a while, but holds no more"))
        else:
            self.book.save(record)

    def _dropped(self, record: JobRecord, drop: Drop) -> None:
        life, spec = record.life, record.spec
        self.waits.forget_doubt(spec.uid)
        reason, root, kind = self._blame(drop)
        witness = plain_keys(drop.reason.keys[:WITNESS], spec.owner)
        self.book.publish_on("condition", Notified(job=spec.uid, status="cancelled", witness=witness))
        if spec.kind == "first":
            life.root = root
            if life.winner:
                self._end_race(record)
            else:
                self.end(record, *races.dead(spec, self.book.records, reason, root))
            return
        policy = spec.on_never
        if policy == "run":
            self._run_anyway(record, reason)
            return
        self.queue.discard(spec.uid)
        cause = _NEVER[policy]
        if policy == "hold":
            self.book.move(record, cause)
            life.fired, life.reason, life.root, life.kind = 0, reason, root, "never"
            self.book.publish(record, Held(reason=reason))
        elif policy == "skip":
            self.end(record, cause, Skipped(reason=reason, root=root))
        else:
            self.end(record, cause, Cancelled(reason=reason, kind=kind, root=root))

    def _run_anyway(self, record: JobRecord, reason: str) -> None:
        life = record.life
        life.reason = reason
        if life.state in (JobState.NEW, JobState.WAITING):
            self.ready(record, "never: run", TRUE)
        else:
            life.fired = int(TRUE)
            self.book.save(record)

    def _root_abroad(self, subjects: Iterable[str]) -> str:
        """Return the uid of the job of another service that began it, or nothing."""
        for uid in subjects:
            far = self.known.abroad.get(uid)
            if far is not None and far.final is not None:
                return getattr(far.final, "root", "") or plain(uid)
        return ""

    def _blame(self, drop: Drop) -> tuple[str, str, str]:
        """Return why a condition is dead, the uid of the job that began it, and the kind of the cancellation."""
        records, found = self.book.records, []
        for uid in drop.reason.subjects:
            group = self.groups.get(uid)
            record = records.get(group.first_bad if group is not None else uid)
            if record is not None:
                found.append(record)
        if not found:
            expired = is_expired(records[str(drop.owner)].spec, drop.reason.keys, self.book.here)
            return str(drop.reason), self._root_abroad(drop.reason.subjects), "expired" if expired else "never"
        first = min(found, key=lambda record: (record.life.state is JobState.COMPLETED, record.life.ended))
        root = first.life.root or first.spec.uid
        atoms = [atom for atom in drop.reason.atoms if isinstance(atom, JobAtom)]
        about = {record.spec.uid: [atom for atom in atoms if atom.subject == record.spec.uid] for record in found[:3]}
        words = dict.fromkeys(f"{record.id} {unmet_words(record, about[record.spec.uid])}" for record in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        kind = "race" if first.life.kind == "race" else "never"
        return f"{', '.join(words)}{more}", root if root != drop.owner else first.spec.uid, kind

    # -- the way to a worker

    def ready(self, record: JobRecord, cause: Cause, fired: Value, witness: tuple[str, ...] = ()) -> None:
        """Put a job into the ready queue."""
        record.life.fired = int(fired)
        self.book.move(record, cause)
        self.book.publish(record, Queued(witness=witness) if witness else _QUEUED)
        self.enqueue(record)

    def enqueue(self, record: JobRecord) -> None:
        """Give a job that is QUEUED its place."""
        spec = record.spec
        self.queue.push(spec.uid, spec.priority, record.life.number, needs_of(spec, record.life.fired))

    def start(self, record: JobRecord) -> None:
        """Hand a job that was taken from the ready queue to a worker, with its resources."""
        life, spec, book = record.life, record.spec, self.book
        uid = spec.uid
        if life.fired < TRUE:
            # The condition gates the run: from here on it does not matter any more.
            self.waits.withdraw(uid)
            life.fired = int(TRUE)
        life.attempt += 1
        life.epoch += 1
        life.heard = 0
        life.until = 0.0
        life.progress, life.note = 0.0, ""
        life.began, life.ran = book.now, 0.0
        if not life.started:
            life.started = book.now
        if spec.resources:
            self.ledger.take(uid, spec.resources)
        book.move(record, "start")
        book.publish(record, Started(run=life.run, attempt=life.attempt, epoch=life.epoch))
        book.out.append(Start(uid, life.epoch))

    def turn(self, record: JobRecord) -> None:
        """Let a suspended job that was taken from the ready queue go on, with its resources."""
        life, uid = record.life, record.spec.uid
        life.suspended = False
        self.ledger.take(uid, held_amounts(record))
        self.book.save(record)
        self.book.out.append(Turn(uid, life.epoch))

    def want_turn(self, record: JobRecord) -> None:
        """Let a suspended job stand in line for its slot and resources: before all that has not started."""
        uid = record.spec.uid
        if uid not in self.queue:
            needs = Needs(tuple(sorted(held_amounts(record).items())), plain=False)
            self.queue.push(uid, float("inf"), record.life.number, needs)

    def leave(self, record: JobRecord) -> None:
        """Take back what a running attempt had: resources, its place among those that want to go on."""
        life, uid = record.life, record.spec.uid
        life.ran = max(0.0, self.book.now - life.began)
        if life.suspended:
            life.suspended = False
            self.queue.discard(uid)
        if life.lowered:
            life.lowered = {}
        if record.spec.resources:
            self.queue.released(self.ledger.give_back(uid))

    # -- the end of an attempt

    def fail(self, record: JobRecord, failed: Failed) -> None:
        """An attempt ended badly: another follows, or the job has failed."""
        life, spec, book = record.life, record.spec, self.book
        life.kind, life.error = failed.kind, failed.error
        life.failures += 1
        if failed.kind in ("died", "lost"):
            life.deaths += 1
        if life.stopping or not has_retry(spec, life):
            self.end(record, "fail", failed)
        elif is_poison(life) and failed.kind in ("died", "lost"):
            self._poison(record, failed.error)
        else:
            book.publish(record, Attempted(attempt=life.attempt, kind=failed.kind, error=failed.error))
            delay = delay_s(spec, life)
            if delay > 0:
                life.until = book.now + delay
                book.move(record, "retry later")
                book.publish(record, Waiting(reason="its next attempt is due later", until=life.until))
                self.timers.add(life.until, spec.uid)
            else:
                self.ready(record, "retry now", TRUE)

    def _poison(self, record: JobRecord, error: ErrorInfo | None) -> None:
        record.life.kind, record.life.error = "poison", error
        self.book.publish_on("service", Said(name="poison", value=record.spec.uid))
        self.end(record, "poison", Failed(kind="poison", error=error))

    def lose(self, record: JobRecord, reason: str, *, begun: bool = True) -> None:
        """Nobody can say what became of the worker: the job is lost, then starts again or is poison."""
        life, book = record.life, self.book
        stopping = life.stopping
        if life.state is not JobState.LOST:
            self.leave(record)
            book.move(record, "missing")
            book.publish(record, Lost(reason=reason))
        life.deaths += begun
        if stopping:
            self.end(record, "abort", Aborted(reason=stopping))
        elif is_poison(life):
            words = f"{life.deaths} workers died under {record.id} or were lost, the last one: {reason or 'no reason'}"
            self._poison(record, ErrorInfo(type="trun.errors.JobLost", message=words))
        else:
            self.ready(record, "requeue", TRUE)

    def give_back(self, record: JobRecord) -> None:
        """The executor gave back a job that it never began: the attempt does not count."""
        life = record.life
        self.leave(record)
        life.attempt -= 1
        life.began = life.ran = 0.0
        stopping = life.stopping
        self.ready(record, "returned", TRUE)
        if stopping:
            self.cancel(record, self._stop_kinds.get(record.spec.uid, "user"), stopping)

    def due(self, uid: str, when: float) -> None:
        """The delay before a retry is over."""
        record = self.book.records.get(uid)
        if record is not None and record.life.state is JobState.WAITING and record.life.until == when:
            record.life.until = 0.0
            self.ready(record, "due", TRUE)

    def end(self, record: JobRecord, cause: Cause, event: AnyEvent) -> None:
        """End the present run of a job with its final event."""
        life, book, uid = record.life, self.book, record.spec.uid
        book.move(record, cause)
        life.ended = book.now
        kind = type(event)
        if kind is Completed:
            life.values = event.values  # type: ignore[union-attr]
            life.progress = life.reached = 1.0
        elif kind is Failed:
            life.kind, life.error = event.kind, event.error  # type: ignore[union-attr]
        else:
            life.reason = event.reason  # type: ignore[union-attr]
            life.root = getattr(event, "root", "")
            life.kind = getattr(event, "kind", "never" if kind is Skipped else "")
        if life.stopping:
            life.stopping = ""
            self._stop_kinds.pop(uid, None)
        book.publish(record, event)
        life.final_seq = life.seq
        book.closed(record)
        if record.spec.group:
            self.groups[record.spec.group].count(uid, life.state)
            self.count(record.spec.group)

    def count(self, uid: str) -> None:
        """Let those who wait for a group hear its counts; the stream says so in steps, and when it is over."""
        group = self.groups[uid]
        is_wanted = self.resolver.wanted(uid)
        if not is_wanted and not group.is_over:
            return
        counted = group.counted()
        if is_wanted:
            self.book.news.append((uid, counted, 0))
        if group.has_news():
            self.book.publish_on(uid, counted)

    # -- orders

    def cancel(self, record: JobRecord, kind: str, reason: str, root: str = "") -> None:
        """Cancel what has not started, stop what runs, leave alone what has ended or was stopped already."""
        life, uid = record.life, record.spec.uid
        if life.state.is_final:
            return
        if life.state in (JobState.RUNNING, JobState.LOST):
            if not life.stopping:
                life.stopping = reason or "cancelled"
                self._stop_kinds[uid] = kind
                self.book.save(record)
                self.book.out.append(Stop(uid, life.epoch, GRACE_S, life.stopping))
            return
        self.waits.withdraw(uid)
        self.queue.discard(uid)
        if life.attempt:
            self.end(record, "abort", Aborted(reason=reason))
        else:
            self.end(record, "cancel", Cancelled(reason=reason, kind=kind, root=root))

    # -- races

    def _won(self, race: JobRecord, fire: Fire) -> None:
        """The race is decided: say who won, deal with the losers, wait for the winner's end."""
        book, spec, life = self.book, race.spec, race.life
        witness = plain_keys(fire.witness, spec.owner)
        life.witness = witness[:WITNESS]
        life.fired = int(fire.value)
        life.winner = races.winner(spec, witness, book.records, lambda atom: self.known.heard(atom, spec.owner))
        life.emitted += 1
        book.publish_on("condition", Notified(job=spec.uid, status="ready", witness=life.witness))
        book.publish(race, Said(name="winner", value=life.winner))
        book.save(race)
        name = self._name(life.winner)
        for uid in spec.choices:
            loser = book.records.get(uid)
            if uid == life.winner or spec.losers == "none":
                continue
            if spec.losers != "all" and self.waits.demand(self.known.name(uid, spec.owner)):
                continue
            reason = f"lost the race {race.id} to {name}"
            if loser is not None:
                self.cancel(loser, "race", reason)
            else:
                book.out.append(Dismiss(spec, uid, reason))
        self.await_winner(race)

    def await_winner(self, race: JobRecord) -> None:
        """Let a decided race wait for the end of its winner."""
        self.decide(self.waits.register(race, IsCompleted(self.known.name(race.life.winner, race.spec.owner))))

    def _end_race(self, race: JobRecord) -> None:
        uid = race.life.winner
        record = self.book.records.get(uid)
        event: Event | None
        if record is not None:
            event = final_event(record)
            if isinstance(event, Failed):
                event = Failed(kind=record.life.kind, error=record.life.error)
        else:
            far = self.known.abroad.get(self.known.name(uid, race.spec.owner))
            event = far.final if far is not None else None
        cause, own = races.ending(self._name(uid), event, uid)
        self.end(race, cause, own)
        if not isinstance(own, Completed):
            race.life.root = record.life.root or uid if record is not None else uid

    def _name(self, uid: str) -> str:
        record = self.book.records.get(uid)
        return uid if record is None else record.id
