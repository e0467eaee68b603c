"""The one ready queue: who starts next, and who may not yet for want of a counted resource.

Ready jobs stand in the order of priority (higher first), then of their first submission. A job that lacks a resource
is parked under that resource and woken when it is given back; nothing is ever scanned, each event costs O(log n).
Push executors take from it through ``take``; claimants that pull (step workers) and batches will take from the same
queue and the same ledger.

Pure: no clock, no lock, no I/O. Rule: a resource is taken only here, by ``take``, and given back only by
``give_back``.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import count

from trun.errors import BadOption, InvariantError, UnknownName

#: (-priority, number, ticket, uid)
Place = tuple[float, int, int, str]


class Ledger:
    """Counted resources: limits and what is in use. Amounts are never negative and never above the limit."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = dict(limits)
        self.used: dict[str, float] = dict.fromkeys(self.limits, 0.0)
        self._held: dict[str, dict[str, float]] = {}

    def check(self, wanted: Mapping[str, float]) -> None:
        """Refuse what could never be given."""
        for name, amount in wanted.items():
            if name not in self.limits:
                have = ", ".join(sorted(self.limits)) or "none"
                raise UnknownName(f"there is no resource {name!r} (there is: {have}).", name=name, known=self.limits)
            if amount > self.limits[name]:
                raise BadOption(f"{amount:g} of resource {name!r} is more than the {self.limits[name]:g} there are.")

    def scarce(self, wanted: Mapping[str, float]) -> str:
        """Return a resource of which too little is free now, or an empty string."""
        for name, amount in wanted.items():
            if self.used[name] + amount > self.limits[name] + 1e-9:
                return name
        return ""

    def free(self, name: str) -> float:
        """Return how much of a resource is free."""
        return self.limits.get(name, 0.0) - self.used.get(name, 0.0)

    def take(self, uid: str, wanted: Mapping[str, float]) -> None:
        """Give a job what it wants; it must be there."""
        if uid in self._held:
            raise InvariantError(f"{uid} holds resources already")
        for name, amount in wanted.items():
            self.used[name] += amount
        self._held[uid] = dict(wanted)

    def give_back(self, uid: str) -> list[str]:
        """Take back all that a job holds; return the names."""
        held = self._held.pop(uid, None)
        if not held:
            return []
        for name, amount in held.items():
            self.used[name] = max(0.0, self.used[name] - amount)
        return list(held)

    def lower(self, uid: str, amounts: Mapping[str, float]) -> list[str]:
        """A running job gives back a part; return the names of what became free."""
        held = self._held.get(uid, {})
        freed = []
        for name, amount in amounts.items():
            given = min(max(0.0, amount), held.get(name, 0.0))
            if given:
                held[name] -= given
                self.used[name] = max(0.0, self.used[name] - given)
                freed.append(name)
        return freed

    def holders(self, name: str) -> list[str]:
        """Return the uids that hold some of a resource."""
        return [uid for uid, held in self._held.items() if held.get(name)]


class ReadyQueue:
    """Jobs whose condition holds, in the order in which they shall start."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._plain: list[Place] = []
        self._special: list[Place] = []
        self._parked: dict[str, list[Place]] = {}
        #: uid -> (ticket, resources wanted, plain)
        self._in: dict[str, tuple[int, Mapping[str, float], bool]] = {}
        self._tickets = count(1)

    def __len__(self) -> int:
        return len(self._in)

    def __contains__(self, uid: str) -> bool:
        return uid in self._in

    def add(self, uid: str, number: int, *, priority: float, resources: Mapping[str, float], plain: bool) -> None:
        """Put a job in; ``plain`` ones have no needs of their own and may be given out ahead."""
        ticket = next(self._tickets)
        self._in[uid] = (ticket, resources, plain)
        heapq.heappush(self._plain if plain else self._special, (-priority, number, ticket, uid))

    def remove(self, uid: str) -> None:
        """Take a job out, wherever it stands (its places are dropped when they are met)."""
        self._in.pop(uid, None)

    def take(self, *, plain_only: bool = False) -> str | None:
        """Take out the next job that can start now, with its resources; None where there is none."""
        while True:
            plain = self._head(self._plain)
            special = None if plain_only else self._head(self._special)
            if special is None or (plain is not None and plain < special):
                if plain is None:
                    return None
                heapq.heappop(self._plain)
                del self._in[plain[3]]
                return plain[3]
            heapq.heappop(self._special)
            uid = special[3]
            wanted = self._in[uid][1]
            scarce = self.ledger.scarce(wanted)
            if scarce:
                heapq.heappush(self._parked.setdefault(scarce, []), special)
                # It was let in for another resource that it does not take now: the next in line for that one may.
                self.wake([name for name in wanted if name != scarce])
                continue
            del self._in[uid]
            if wanted:
                self.ledger.take(uid, wanted)
            return uid

    def wake(self, names: list[str]) -> None:
        """Some of these resources were given back: the first parked under them stand in line again."""
        for name in names:
            parked = self._parked.get(name)
            free = self.ledger.free(name)
            while parked and free > 0:
                place = heapq.heappop(parked)
                known = self._in.get(place[3])
                if known is None or known[0] != place[2]:
                    continue
                heapq.heappush(self._special, place)
                free -= known[1].get(name, 0.0)
            if not parked:
                self._parked.pop(name, None)

    def lacking(self, uid: str) -> str:
        """Return the resource that a ready job lacks, or an empty string."""
        known = self._in.get(uid)
        return self.ledger.scarce(known[1]) if known is not None else ""

    def before(self, uid: str, place: tuple[float, int]) -> int:
        """Return how many jobs stand before a place (for explanations only: looks at all)."""
        heads = (p for heap in (self._plain, self._special) for p in heap)
        return sum(1 for p in heads if (p[0], p[1]) < place and self._in.get(p[3], (0,))[0] == p[2])

    def waiting_for(self, name: str) -> int:
        """Return how many jobs are parked under a resource."""
        return sum(1 for p in self._parked.get(name, ()) if self._in.get(p[3], (0,))[0] == p[2])

    def _head(self, heap: list[Place]) -> Place | None:
        """Return the first place that still counts."""
        known = self._in
        while heap:
            place = heap[0]
            found = known.get(place[3])
            if found is not None and found[0] == place[2]:
                return place
            heapq.heappop(heap)
        return None
