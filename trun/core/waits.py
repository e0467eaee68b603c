"""Who waits for what: the machine's side of the resolver.

Registers conditions with what is known already, asks for the replay of streams that a late message atom must hear
from the beginning, and lets conditions hear the news in order. A stream that is being replayed is held back meanwhile:
its end must not cancel an atom whose message came earlier. What follows is returned as decisions; ``flow`` carries
them out.

Rule: an event reaches the resolver here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


class Waits:
    """The conditions of all waiting jobs."""

    def __init__(self, *, book: Book, known: Known) -> None:
        self._book = book
        self._known = known
        self.resolver = Resolver(keep_levels=True)
        #: {stream that is being replayed: what it has said since it was asked for}
        self._replaying: dict[str, list[tuple[Event, int]]] = {}
        #: Conditions that hold as long as nobody has looked: {job: (decision, atoms and streams that nobody has told)}
        self.doubtful: dict[str, tuple[Fire, set[str]]] = {}

    def register(self, record: JobRecord, condition: Condition) -> list[Decision]:
        """Let a job wait for a condition; what is known already counts."""
        book, known = self._book, self._known
        decisions = self.resolver.register(
            record.spec.uid, condition, now=book.now, known=known.at_registration, origin=record.life.origin
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
        self.doubtful.pop(uid, None)

    def is_doubtful(self, fire: Fire) -> bool:
        """Whether a condition that holds for now does so only because nobody has looked at its atoms yet.

        ``~exists(path)`` before the first look at the path, ``~level`` after a restart, before the client that owns the
        level has come back, ``~job.said(name)`` while the stream is being replayed: such a decision is put off until
        all of them were told. What holds for good, or is dead, does not rest on what is unknown.
        """
        if fire.value is TRUE:
            return False
        unseen = set()
        for leaf in self.resolver.condition_of(fire.owner).depends:
            if isinstance(leaf, JobAtom):
                if leaf.subject in self._replaying or not self._known.is_near(leaf.subject):
                    unseen.add(leaf.subject)
            elif isinstance(leaf, _TOLD) and not self._known.is_told(leaf):
                unseen.add(leaf.key)
        if unseen:
            self.doubtful[str(fire.owner)] = (fire, unseen)
        return bool(unseen)

    def seen(self, key: str) -> list[Fire]:
        """An atom or stream was told for the first time: return the decisions that are certain now."""
        found = []
        for uid, (fire, unseen) in list(self.doubtful.items()):
            unseen.discard(key)
            if not unseen:
                del self.doubtful[uid]
                found.append(fire)
        return found

    def hear_next(self) -> Sequence[Decision]:
        """Let conditions hear the oldest piece of news."""
        subject, event, seq = self._book.news.popleft()
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
        group = book.records[uid].spec.group
        if group:
            owners += [str(owner) for owner in self.resolver.owners_about(group)]
        return tuple(dict.fromkeys([*owners, *book.children(uid)]))
