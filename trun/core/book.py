"""The book of a machine: all records, the numbers of all streams, and what the present message brings about.

Every room of the core writes through it: ``move`` changes a state (by the table in ``states``), ``publish`` appends to
a stream, ``save`` marks a record. What was written since the message came in is ``out``; what conditions have yet to
hear of is ``news``. It decides nothing.

Rule: no other place sets ``life.state``, ``life.seq`` or makes an ``Entry``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable

from trun.core.record import FINAL_STATES, Effect, JobRecord, JobState, Life, Publish, Save, SaveSpec
from trun.core.states import TRANSITIONS, Cause, next_state
from trun.messages import FINAL, AnyEvent, Entry, Event, Improved, JobSpec, Progress, Queued, Said, Started

#: Changes of state that are remembered, over all jobs, for ``story``; the streams keep everything.
REMEMBERED = 20_000

#: Events that mean something to some atom.
_NEWS = frozenset({Queued, Started, Progress, Improved, Said, *FINAL})


_ATOM_ID = re.compile(rb'"id":"([^"]*)"')


def _owned_atoms(when: bytes) -> list[bytes]:
    """Return the ids of the atoms that live in clients."""
    return _ATOM_ID.findall(when) if b'"id":' in when else []


class Book:
    """Records and streams of one service.

    Parameters
    ----------
    epoch
        Incarnation of the service, written into each entry.
    here
        Key of the service.
    """

    def __init__(self, *, epoch: int, here: str = "") -> None:
        self.epoch = epoch
        self.here = here
        #: Time of the message that is being handled.
        self.now = 0.0
        #: All jobs by uid, in the order of their numbers.
        self.records: dict[str, JobRecord] = {}
        #: uid by idempotency key.
        self.keys: dict[str, str] = {}
        self.out: list[Effect] = []
        #: (stream, event, sequence number) that conditions have not heard yet.
        self.news: deque[tuple[str, Event, int]] = deque()
        #: Harmless irregularities by name: fenced, unknown, duplicate.
        self.counters: Counter[str] = Counter()
        #: {owner: jobs that install something for the jobs after them}
        self.installs: dict[str, list[JobRecord]] = {}
        self._numbered: dict[int, JobRecord] = {}
        self._last_number = 0
        self._seqs: dict[str, int] = {}
        #: {session: its unfinished jobs}
        self._unfinished: dict[str, dict[str, None]] = {}
        #: {id of an atom or level that lives in a client: the unfinished jobs whose conditions mention it}
        self._mentions: dict[bytes, dict[str, None]] = {}
        #: {job: its unfinished children}
        self._children: dict[str, dict[str, None]] = {}
        self._past: deque[tuple[float, str, JobState, Cause]] = deque(maxlen=REMEMBERED)

    # -- records

    def accept(self, spec: JobSpec) -> JobRecord:
        """Enter a new job."""
        number = self._last_number + 1
        record = JobRecord(spec, Life(number=number, created=self.now, changed=self.now))
        self.enter(record)
        self.out.append(SaveSpec(spec.uid))
        return record

    def enter(self, record: JobRecord) -> None:
        """Enter a job, new or from the journal."""
        spec, number = record.spec, record.life.number
        self.records[spec.uid] = record
        self._numbered[number] = record
        if number > self._last_number:
            self._last_number = number
        if spec.key:
            self.keys[spec.key] = spec.uid
        if spec.package is not None:
            self.installs.setdefault(spec.owner, []).append(record)
        if record.life.state not in FINAL_STATES:
            self.opened(record)

    def numbered(self, number: int) -> JobRecord | None:
        """Return the job with this number."""
        return self._numbered.get(number)

    def opened(self, record: JobRecord) -> None:
        """A run of the job has begun."""
        spec = record.spec
        mine = self._unfinished.get(spec.session)
        if mine is None:
            mine = self._unfinished[spec.session] = {}
        mine[spec.uid] = None
        if spec.when:
            for name in _owned_atoms(spec.when):
                self._mentions.setdefault(name, {})[spec.uid] = None
        if spec.parent:
            self._children.setdefault(spec.parent, {})[spec.uid] = None

    def closed(self, record: JobRecord) -> None:
        """A run of the job is over."""
        spec = record.spec
        mine = self._unfinished.get(spec.session)
        if mine is not None:
            mine.pop(spec.uid, None)
            if not mine:
                del self._unfinished[spec.session]
        if spec.when:
            for name in _owned_atoms(spec.when):
                about = self._mentions.get(name, {})
                about.pop(spec.uid, None)
                if not about:
                    self._mentions.pop(name, None)
        if spec.parent:
            siblings = self._children.get(spec.parent, {})
            siblings.pop(spec.uid, None)
            if not siblings:
                self._children.pop(spec.parent, None)

    def unfinished(self, session: str) -> list[JobRecord]:
        """Return the jobs of a session that have not ended, in order of submission."""
        return [self.records[uid] for uid in self._unfinished.get(session, ())]

    def unfinished_of(self, prefix: str) -> int:
        """Return how many jobs have not ended in all sessions whose names begin so."""
        return sum(len(mine) for session, mine in self._unfinished.items() if session.startswith(prefix))

    def mentioning(self, atom: str) -> Iterable[str]:
        """Return the unfinished jobs whose conditions mention the atom or level with this id."""
        return self._mentions.get(atom.encode(errors="replace"), ())

    def children(self, uid: str) -> Iterable[str]:
        """Return the unfinished jobs that this job submitted from inside."""
        return self._children.get(uid, ())

    # -- what the present message brings about

    def move(self, record: JobRecord, cause: Cause) -> None:
        """Change the state of a job by the table, and save it."""
        life, uid, now = record.life, record.spec.uid, self.now
        before = life.state
        life.state = TRANSITIONS.get((before, cause)) or next_state(before, cause)
        self._past.append((now, uid, before, cause))
        life.changed = now
        self.out.append(Save(uid))

    def save(self, record: JobRecord) -> None:
        """Mark a record as changed."""
        self.out.append(Save(record.spec.uid))

    def publish(self, record: JobRecord, event: AnyEvent) -> None:
        """Append an event to the stream of a job, whose record must be saved too: it holds the number."""
        life = record.life
        life.seq += 1
        uid = record.spec.uid
        self.out.append(Publish(Entry(uid, life.seq, self.epoch, self.now, event)))
        if type(event) in _NEWS:
            self.news.append((uid, event, life.seq))

    def publish_on(self, stream: str, event: AnyEvent) -> None:
        """Append an event to a stream that is no job: a group, ``condition`` or ``service``."""
        seq = self._seqs.get(stream, 0) + 1
        self._seqs[stream] = seq
        self.out.append(Publish(Entry(stream, seq, self.epoch, self.now, event)))

    def restore_stream(self, stream: str, seq: int) -> None:
        """Go on numbering a stream that is no job."""
        self._seqs[stream] = seq

    # -- the past

    def changes(self, uid: str) -> list[tuple[float, JobState, Cause]]:
        """Return the changes of state of a job that are remembered: (time, state before, cause)."""
        return [(when, state, cause) for when, who, state, cause in self._past if who == uid]
