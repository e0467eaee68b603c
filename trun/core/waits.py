"""Who waits for what: the machine's side of the resolver.

Registers conditions with what is known already, asks for the replay of streams that a late message atom must hear
from the beginning, and lets conditions hear the news in order. A stream that is being replayed is held back meanwhile:
its end must not cancel an atom whose message came earlier. What follows is returned as decisions; ``flow`` carries
them out.

Rule: an event reaches the resolver here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trun.conditions.algebra import Condition
from trun.conditions.atoms import Atom, JobAtom, Level, WorldAtom
from trun.conditions.resolver import Decision, Fire, Resolver
from trun.conditions.value import TRUE
from trun.core.book import Book
from trun.core.known import Known
from trun.core.record import JobRecord, Replay
from trun.messages import Entry, Event

#: Atoms that somebody else must tell: their owner, or a watcher.
_TOLD = (Atom, Level, WorldAtom)


class Doubt(NamedTuple):
    """A condition that holds as long as nobody has looked at some of its atoms."""

    fire: Fire
    #: Keys of its atoms, or the streams that they are about; and those that nobody has told yet.
    names: set[str]
    unseen: set[str]


class Waits:
    """The conditions of all waiting jobs."""

    def __init__(self, *, book: Book, known: Known) -> None:
        self._book = book
        self._known = known
        self.resolver = Resolver(keep_levels=True)
        #: {stream that is being replayed: what it has said since it was asked for}
        self._replaying: dict[str, list[tuple[Event, int]]] = {}
        #: Jobs whose condition holds, but only as long as nobody has looked.
        self.doubtful: dict[str, Doubt] = {}
        #: {atom or stream: the doubtful jobs whose conditions mention it}
        self._doubts_about: dict[str, dict[str, None]] = {}

    def register(self, record: JobRecord, condition: Condition) -> list[Decision]:
        """Let a job wait for a condition; what is known already counts."""
        book, known = self._book, self._known
        decisions = self.resolver.register(
            record.spec.uid,
            condition,
            now=book.now,
            known=known.at_registration,
            risen=known.risen,
            origin=record.life.origin,
        )
        if known.asked:
            for uid in known.asked:
                if uid not in self._replaying:
                    self._replaying[uid] = []
                    book.out.append(Replay(uid, book.records[uid].life.run_seq))
            known.asked.clear()
        return decisions

    def withdraw(self, uid: str) -> None:
        """Let a job wait for nothing any more."""
        self.resolver.withdraw(uid)
        self.forget_doubt(uid)

    # -- what holds only because nobody has looked

    def is_doubtful(self, fire: Fire) -> bool:
        """Whether a condition that holds for now does so only because nobody has looked at its atoms yet.

        ``~exists(path)`` before the first look at the path, ``~level`` after a restart, before the client that owns the
        level has come back, ``~job.said(name)`` while the stream is being replayed: such a decision is put off until
        all of them were told. What holds for good, or is dead, does not rest on what is unknown.
        """
        if fire.value is TRUE:
            return False
        names, unseen = set(), set()
        for leaf in self.resolver.condition_of(fire.owner).depends:
            name = leaf.subject if isinstance(leaf, JobAtom) else leaf.key
            names.add(name)
            if isinstance(leaf, JobAtom):
                if name in self._replaying or not self._known.is_near(name):
                    unseen.add(name)
            elif isinstance(leaf, _TOLD) and not self._known.is_told(leaf):
                unseen.add(name)
        if unseen:
            uid = str(fire.owner)
            self.doubtful[uid] = Doubt(fire, names, unseen)
            for name in names:
                self._doubts_about.setdefault(name, {})[uid] = None
        return bool(unseen)

    def told(self, name: str) -> list[Fire]:
        """An atom or stream was told: return the decisions that are certain now."""
        found: list[Fire] = []
        if name in self._replaying:
            return found
        for uid in list(self._doubts_about.get(name, ())):
            self.doubtful[uid].unseen.discard(name)
            found += self._certain(uid)
        return found

    def time_passed(self) -> list[Fire]:
        """Return the doubtful decisions that have become certain by themselves."""
        return [fire for uid in list(self.doubtful) for fire in self._certain(uid)]

    def _certain(self, uid: str) -> list[Fire]:
        doubt = self.doubtful[uid]
        found = self.resolver.explain(uid, now=self._book.now)
        if found.value is TRUE:
            # It holds for good by now, whatever the rest may be.
            witness = found.witness
            self.withdraw(uid)
            return [Fire(uid, TRUE, witness)]
        if doubt.unseen:
            return []
        self.forget_doubt(uid)
        return [doubt.fire]

    def forget_doubt(self, uid: str) -> bool:
        """A doubtful condition lapsed, died or is waited for no more; False if it was none."""
        doubt = self.doubtful.pop(uid, None)
        if doubt is None:
            return False
        for name in doubt.names:
            about = self._doubts_about[name]
            del about[uid]
            if not about:
                del self._doubts_about[name]
        return True

    # -- news

    def hear(self, subject: str, event: Event, seq: int) -> Sequence[Decision]:
        """Let conditions hear one piece of news."""
        if self._replaying:
            held_back = self._replaying.get(subject)
            if held_back is not None:
                held_back.append((event, seq))
                return ()
        return self.resolver.hear(subject, event, seq=seq, now=self._book.now)

    def replayed(self, stream: str, entries: Iterable[Entry]) -> list[Decision]:
        """A stream was read back: conditions hear it, then what it has said since it was asked for."""
        hear, now = self.resolver.hear, self._book.now
        past = [(entry.event, entry.seq) for entry in entries]
        late = self._replaying.pop(stream, [])
        return [decision for event, seq in past + late for decision in hear(stream, event, seq=seq, now=now)]

    def demand(self, uid: str) -> tuple[str, ...]:
        """Return the uids of live jobs that still need this one: they wait for it or its group, or are its children."""
        book = self._book
        owners = [str(owner) for owner in self.resolver.owners_about(uid)]
        record = book.records.get(uid)  # none: a job of another service
        group = record.spec.group if record is not None else ""
        if group:
            owners += [str(owner) for owner in self.resolver.owners_about(group)]
        return tuple(dict.fromkeys([*owners, *book.children(uid)]))
