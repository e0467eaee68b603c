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
from trun.conditions.resolver import Decision, Resolver
from trun.core.book import Book
from trun.core.known import Known
from trun.core.record import JobRecord, Replay
from trun.messages import Entry, Event


class Waits:
    """The conditions of all waiting jobs."""

    def __init__(self, *, book: Book, known: Known) -> None:
        self._book = book
        self._known = known
        self.resolver = Resolver(keep_levels=True)
        #: {stream that is being replayed: what it has said since it was asked for}
        self._replaying: dict[str, list[tuple[Event, int]]] = {}

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
