"""What atoms are worth at the moment when a condition is registered.

Jobs of this service are judged from their records; groups from their counts; jobs of other services from the entries
that clients relayed; atoms that live in a client or are watched in the world from the last value that was told; counted
resources from the ledger. A message atom over a job that has already said something cannot be judged from the record:
its stream must be replayed, and until then it waits.

Rule: judging late gives what listening from the start would have given.
"""

from __future__ import annotations

import msgspec

from trun.conditions.algebra import Leaf
from trun.conditions.atoms import JobAtom, WorldAtom
from trun.conditions.value import CANCELLED, HOLDS, TRUE, WAIT, Value
from trun.core.book import Book
from trun.core.groups import Groups
from trun.core.ready import ROUNDING, Ledger
from trun.core.record import FINAL_STATES, JobRecord, JobState
from trun.core.voices import voiced
from trun.messages import (
    FINAL,
    Aborted,
    AnyEvent,
    Cancelled,
    Completed,
    Entry,
    Event,
    Failed,
    Progress,
    Queued,
    Retried,
    Skipped,
    Started,
)

#: Events kept of one stream of another service, and streams that are kept after their end although nobody waits.
KEPT_EVENTS = 10_000
KEPT_STREAMS = 10_000

_FINAL_EVENTS: dict[JobState, Event] = {
    JobState.FAILED: Failed(kind="raised"),
    JobState.ABORTED: Aborted(),
    JobState.CANCELLED: Cancelled(),
    JobState.SKIPPED: Skipped(),
}
_QUEUED, _STARTED = Queued(), Started()
#: Atoms that only the end of a job decides.
_AT_END = frozenset({"completed", "fetched", "failed", "aborted", "cancelled", "skipped", "ended", "finished", "ok"})


def final_event(record: JobRecord) -> Event | None:
    """Return the event that ended the present run, as far as atoms look at it; None before the end."""
    state = record.life.state
    if state is JobState.COMPLETED:
        return Completed(values=record.life.values)
    return _FINAL_EVENTS.get(state)


def judge(record: JobRecord, atom: JobAtom) -> Value | None:
    """Return what the record says about an atom over its job; None: only its stream can tell."""
    life, what = record.life, atom.what
    is_over = life.state in FINAL_STATES
    if what in _AT_END:
        return WAIT if not is_over else _or_wait(atom.judge(final_event(record)))  # type: ignore[arg-type]
    if what == "started" and life.started:
        return TRUE
    if what == "queued" and (life.fired or life.started):
        return TRUE
    if what == "progress" and life.reached and atom.judge(Progress(fraction=life.reached)) is TRUE:
        return TRUE
    final = final_event(record)
    if what in ("message", "result") and life.emitted:
        return TRUE if type(final) is Completed and atom.judge(final) is TRUE else None
    return WAIT if final is None else _or_wait(atom.judge(final))


def _or_wait(value: Value | None) -> Value:
    return WAIT if value is None else value


class Abroad:
    """What is known of a job of another service."""

    __slots__ = ("events", "final", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.events: list[AnyEvent] = []
        self.final: AnyEvent | None = None

    def take(self, entry: Entry) -> bool:
        """Take the next entry; False for one that was taken before."""
        if entry.seq <= self.seq:
            return False
        self.seq = entry.seq
        event = entry.event
        if type(event) is Retried:
            self.events, self.final = [], None
        elif isinstance(event, FINAL):
            if type(event) is Completed and event.result is not None:
                event = msgspec.structs.replace(event, result=None)
            self.final = event
            self.events.append(event)
        elif len(self.events) < KEPT_EVENTS:
            self.events.append(event)
        return True


class Known:
    """Answers the resolver's question at registration."""

    def __init__(self, book: Book, groups: Groups, ledger: Ledger) -> None:
        self._book = book
        self._groups = groups
        self._ledger = ledger
        #: Jobs of other services by uid.
        self.abroad: dict[str, Abroad] = {}
        #: Atoms over counted resources that conditions mention, by key.
        self.free: dict[str, WorldAtom] = {}
        #: Keys of those that were registered since somebody looked.
        self.new_free: list[str] = []
        #: Streams that must be replayed for atoms registered just now.
        self.asked: list[str] = []
        #: {key: (value, session that owns the atom)} of atoms that were told.
        self._told: dict[str, tuple[Value, str]] = {}
        #: {key: when it was told that the atom holds}
        self._rose: dict[str, float] = {}

    def value(self, leaf: Leaf) -> Value:
        """Return what an atom is worth now, as far as the service can tell."""
        if not isinstance(leaf, JobAtom):
            return self._other(leaf)
        found = self._job(leaf)
        return WAIT if found is None else found

    def name(self, uid: str, owner: str) -> str:
        """Return under which name the jobs of this owner know a job, which may be one of another service."""
        return uid if uid in self._book.records or uid in self._groups else voiced(uid, owner)

    def heard(self, atom: JobAtom, owner: str) -> Value:
        """Return what an atom over a job that is named by its uid is worth to the jobs of this owner."""
        found = self._job(atom, self.name(atom.subject, owner))
        return WAIT if found is None else found

    def at_registration(self, leaf: Leaf) -> Value:
        """Return the same, and note what must be replayed or watched for it."""
        if isinstance(leaf, JobAtom):
            found = self._job(leaf)
            if found is None:
                self.asked.append(leaf.subject)
                return WAIT
            return found
        if isinstance(leaf, WorldAtom) and leaf.what == "free":
            self.free[leaf.key] = leaf
            self.new_free.append(leaf.key)
        return self._other(leaf)

    def is_unsure(self, atom: JobAtom) -> bool:
        """Whether a job is over, and only its stream can tell what an atom over its messages came to be worth."""
        record = self._book.records.get(atom.subject)
        return record is not None and record.life.state in FINAL_STATES and judge(record, atom) is None

    def risen(self, leaf: Leaf) -> float:
        """Return when an atom that holds came true, in seconds; 0.0: unknown. For ``since``."""
        if not isinstance(leaf, JobAtom):
            return self._rose.get(leaf.key, 0.0)
        record = self._book.records.get(leaf.subject)
        if record is None:
            return 0.0
        if leaf.what in _AT_END:
            return record.life.ended
        return record.life.started if leaf.what == "started" else 0.0

    def _job(self, atom: JobAtom, subject: str = "") -> Value | None:
        subject = subject or atom.subject
        record = self._book.records.get(subject)
        if record is not None:
            return judge(record, atom)
        group = self._groups.get(subject)
        if group is not None:
            return _or_wait(atom.judge(group.counted()))
        far = self.abroad.get(subject)
        if far is not None:
            for event in far.events:
                value = atom.judge(event)
                if value is not None:
                    return value
        return WAIT

    def _other(self, leaf: Leaf) -> Value:
        if isinstance(leaf, WorldAtom) and leaf.what == "free":
            return self.free_value(leaf)
        told = self._told.get(leaf.key)
        return WAIT if told is None else told[0]

    def free_value(self, atom: WorldAtom) -> Value:
        """Return what an atom over a counted resource is worth now."""
        return HOLDS if self._ledger.free(atom.target) + ROUNDING >= atom.amount else WAIT

    def tell(self, key: str, value: Value, session: str = "") -> bool:
        """Remember the value of an atom that lives elsewhere; False if it had settled before."""
        old = self._told.get(key)
        if old is not None and old[0].is_settled:
            return False
        if value >= HOLDS and (old is None or old[0] < HOLDS):
            self._rose[key] = self._book.now
        self._told[key] = (value, session or (old[1] if old is not None else ""))
        return True

    def is_told(self, leaf: Leaf) -> bool:
        """Whether somebody has ever said what an atom is worth (counted resources are always known)."""
        return leaf.key in self._told or (isinstance(leaf, WorldAtom) and leaf.what == "free")

    def is_near(self, uid: str) -> bool:
        """Whether anything is known of a stream: a job or group of this service, or one that was relayed."""
        return uid in self._book.records or uid in self._groups or uid in self.abroad

    def forget(self, key: str) -> None:
        """Nobody watches the atom any more."""
        self._told.pop(key, None)
        self._rose.pop(key, None)

    def abandoned(self, session: str) -> list[str]:
        """Cancel the undecided atoms of a session that has left, and return their keys; forget the others."""
        mine = [(key, value) for key, (value, owner) in self._told.items() if owner == session]
        for key, value in mine:
            if value.is_settled:
                self.forget(key)
            else:
                self._told[key] = (CANCELLED, session)
        return [key for key, value in mine if not value.is_settled]

    def relayed(self, entry: Entry) -> AnyEvent | None:
        """Take an entry of another service's stream; return the event if it is new."""
        far = self.abroad.get(entry.stream)
        if far is None:
            if len(self.abroad) >= 2 * KEPT_STREAMS:
                over = [uid for uid, other in self.abroad.items() if other.final is not None]
                for uid in over[:KEPT_STREAMS]:
                    del self.abroad[uid]
            far = self.abroad[entry.stream] = Abroad()
        return entry.event if far.take(entry) else None
