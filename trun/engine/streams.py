"""Who listens to which stream, and what each listener gets next.

A listener asks for a stream from a sequence number on and gets every entry once, in order, first from the journal
and then as it is published, on the same socket, so there is nothing to reconcile. It pays with credit, one for each
entry; without credit it falls behind in the journal, not in memory, and goes on from its last entry when it grants
more. A listener that comes back after a broken connection asks for what follows its last entry, and is no special
case.

``listen`` and ``credit`` only note what is wanted: what follows comes out of the next ``publish``, after the
commit, so that nothing from the journal can overtake or be overtaken by what the same step writes. ``keep`` puts off
what need not be told at once: to wake a reader costs more than a short job.

Reads the journal through its port and does nothing else: no socket, no clock. Who may come in: the engine.
Rule: entries leave in the order of each stream, and ``publish`` is called once after each commit, also with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trun.messages import AnyAnswer, Entries, Entry, Gap
from trun.ports import Journal

#: Entries, and streams, that one ``publish`` reads from the journal for one peer; the rest follows (see ``pending``).
ENTRIES_AT_ONCE = 500
STREAMS_AT_ONCE = 200
#: Seconds for which entries are kept at most while more of them are to come.
KEPT_S = 0.002
#: More credit than this is not granted, whatever the peer says.
MOST_CREDIT = 1_000_000


class _Peer:
    """One listener: its credit, and the next entry that it wants of each stream."""

    __slots__ = ("behind", "credit", "held", "key", "wants")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.credit = 0
        #: Credit that was taken back for a while; None: nothing was.
        self.held: int | None = None
        #: {stream: sequence number of the next entry}
        self.wants: dict[str, int] = {}
        #: Streams of which the journal may hold entries that the peer wants, in the order in which they are served
        #: (True: it does hold some).
        self.behind: dict[str, bool] = {}


class Subscriptions:
    """The listeners of a service. All methods belong to the engine's thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._peers: dict[bytes, _Peer] = {}
        # One peer alone, as most streams have, stands for itself: 100,000 lists would be a waste.
        self._listeners: dict[str, _Peer | list[_Peer]] = {}
        #: Peers that have credit and are behind in some stream.
        self._ready: dict[_Peer, None] = {}
        #: Entries that were kept, and since when.
        self._kept: list[Entry] = []
        self._kept_since = 0.0

    @property
    def pending(self) -> bool:
        """Whether ``publish`` would have something to send although nothing new has happened."""
        return bool(self._ready)

    @property
    def are_kept(self) -> bool:
        """Whether entries were kept that ``publish`` is to send soon."""
        return bool(self._kept)

    def keep(self, entries: Sequence[Entry], now: float) -> bool:
        """Keep committed entries for the next ``publish``; False where it is time to send them."""
        if self._ready or (self._kept and not 0.0 <= now - self._kept_since < KEPT_S):
            return False
        if not self._kept:
            self._kept_since = now
        self._kept += entries
        return True

    def count(self, peer: bytes) -> int:
        """Return how many streams a peer listens to."""
        known = self._peers.get(peer)
        return 0 if known is None else len(known.wants)

    def listen(self, peer: bytes, stream: str, since: int = 1) -> None:
        """Send ``peer`` the entries of ``stream`` with seq >= since, from the next ``publish`` on.

        Listening again moves the place: the peer says itself what it has.
        """
        known = self._peer(peer)
        if stream not in known.wants:
            self._add(stream, known)
        known.wants[stream] = max(1, since)
        known.behind[stream] = False
        if known.credit:
            self._ready[known] = None

    def begin(self, peer: bytes, stream: str) -> None:
        """Send ``peer`` a stream that has no entry yet from its first on."""
        known = self._peer(peer)
        if stream not in known.wants:
            self._add(stream, known)
            known.wants[stream] = 1

    def unlisten(self, peer: bytes, stream: str) -> None:
        """Send ``peer`` no more of ``stream``."""
        known = self._peers.get(peer)
        if known is None or stream not in known.wants:
            return
        del known.wants[stream]
        known.behind.pop(stream, None)
        self._remove(stream, known)
        if not known.behind:
            self._ready.pop(known, None)

    def credit(self, peer: bytes, entries: int) -> None:
        """Let ``peer`` have so many entries more, from the next ``publish`` on."""
        if entries <= 0:
            return
        known = self._peer(peer)
        if known.held is not None:
            known.held = min(known.held + entries, MOST_CREDIT)
            return
        known.credit = min(known.credit + entries, MOST_CREDIT)
        if known.behind:
            self._ready[known] = None

    def hold(self, peer: bytes) -> None:
        """Send ``peer`` nothing more until ``resume``: it falls behind in the journal, and misses nothing."""
        known = self._peers.get(peer)
        if known is not None and known.held is None:
            known.held, known.credit = known.credit, 0
            self._ready.pop(known, None)

    def resume(self, peer: bytes) -> None:
        """Go on where ``hold`` stopped."""
        known = self._peers.get(peer)
        if known is not None and known.held is not None:
            credit, known.held = known.held, None
            self.credit(peer, credit)

    def drop(self, peer: bytes) -> None:
        """Forget a peer that has gone."""
        known = self._peers.pop(peer, None)
        if known is None:
            return
        self._ready.pop(known, None)
        for stream in known.wants:
            self._remove(stream, known)

    def publish(self, entries: Iterable[Entry]) -> list[tuple[bytes, Sequence[AnyAnswer]]]:
        """Return what is to be sent to whom, after these entries were committed.

        Returns
        -------
        Pairs of a peer and what it gets, in order; each peer at most once. Costs O(entries x listeners), and one read
        of the journal for each stream in which a peer with credit is behind, bounded for each call (see ``pending``).
        """
        live: dict[_Peer, list[Entry]] = {}
        listeners = self._listeners
        if self._kept:
            entries, self._kept = [*self._kept, *entries], []
        for entry in entries:
            stream = entry.stream
            found = listeners.get(stream)
            if found is None:
                continue
            if type(found) is list:
                for peer in found:
                    self._offer(peer, entry, live)
            elif found.behind or not found.credit or found.wants[stream] != entry.seq:  # type: ignore[union-attr]
                self._offer(found, entry, live)  # type: ignore[arg-type]
            else:  # as nearly always
                found.credit -= 1  # type: ignore[union-attr]
                found.wants[stream] = entry.seq + 1  # type: ignore[union-attr]
                mine = live.get(found)  # type: ignore[arg-type]
                if mine is None:
                    mine = live[found] = []  # type: ignore[index]
                mine.append(entry)
        batches: dict[_Peer, list[AnyAnswer]] = {peer: [Entries(entries=tuple(mine))] for peer, mine in live.items()}
        for peer in list(self._ready):
            past = self._catch_up(peer)
            if past:
                batches.setdefault(peer, []).extend(past)
        return [(peer.key, batch) for peer, batch in batches.items()]

    def _offer(self, peer: _Peer, entry: Entry, live: dict[_Peer, list[Entry]]) -> None:
        stream, seq = entry.stream, entry.seq
        wanted = peer.wants[stream]
        if seq == wanted and peer.credit and not peer.behind.get(stream):
            peer.credit -= 1
            peer.wants[stream] = seq + 1
            if peer.behind:
                peer.behind.pop(stream, None)
                if not peer.behind:
                    self._ready.pop(peer, None)
            mine = live.get(peer)
            if mine is None:
                live[peer] = [entry]
            else:
                mine.append(entry)
        elif seq >= wanted:
            peer.behind[stream] = True
            if peer.credit:
                self._ready[peer] = None

    def _catch_up(self, peer: _Peer) -> list[AnyAnswer]:
        """Read what the peer wants and can pay for."""
        answers: list[AnyAnswer] = []
        found: list[Entry] = []
        for _ in range(min(STREAMS_AT_ONCE, len(peer.behind))):
            room = min(peer.credit, ENTRIES_AT_ONCE - len(found))
            if room <= 0:
                break
            stream = next(iter(peer.behind))
            del peer.behind[stream]
            wanted = peer.wants[stream]
            entries = self._journal.entries(stream, wanted, room)
            if not entries:
                continue
            if entries[0].seq > wanted:
                if found:
                    answers.append(Entries(entries=tuple(found)))
                    found = []
                answers.append(Gap(stream=stream, first=entries[0].seq))
            found += entries
            peer.credit -= len(entries)
            peer.wants[stream] = entries[-1].seq + 1
            if len(entries) == room:
                peer.behind[stream] = True  # there may be more: at the end of the line
        if found:
            answers.append(Entries(entries=tuple(found)))
        if not peer.behind or not peer.credit:
            self._ready.pop(peer, None)
        return answers

    # -- who listens --------------------------------------------------------------------------------------------------

    def _peer(self, key: bytes) -> _Peer:
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = _Peer(key)
        return peer

    def _add(self, stream: str, peer: _Peer) -> None:
        found = self._listeners.get(stream)
        if found is None:
            self._listeners[stream] = peer
        elif isinstance(found, list):
            found.append(peer)
        else:
            self._listeners[stream] = [found, peer]

    def _remove(self, stream: str, peer: _Peer) -> None:
        found = self._listeners.get(stream)
        if isinstance(found, list):
            found.remove(peer)
            if len(found) == 1:
                self._listeners[stream] = found[0]
        elif found is peer:
            del self._listeners[stream]


__all__ = ["Subscriptions"]
