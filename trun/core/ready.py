"""Ready jobs in order, and the ledger of counted resources.

Jobs with equal needs are interchangeable as far as resources go, so they share one heap (higher priority first, then
first seen), and only the head of a heap is ever compared with the ledger. Needs that do not fit are parked under the
resource that is scarce, with all their jobs, and looked at again when that resource is released: a blocked job is never
scanned. What fits starts, even past something better that does not (no slot stays empty for a job that needs more).
Cost: O(log n) per event, plus O(distinct needs) per release of their scarce resource.

To come, on the same heaps and the same ledger: pull claimants (``WorkWanted(claimant, slots, held)`` answered by
``Grant`` or ``Idle(counts)``: a claimant has its own view of which needs it may take, not a queue of its own) and
batches (jobs of one family that start together: the head's needs with a longer list of uids).

Rule: no second queue and no second ledger beside these. Turned down: one bucket per scarce resource, which moves
all jobs of one bucket to another whenever two resources are scarce in turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

#: Sums of fractional amounts may be off by rounding; this much is forgiven.
ROUNDING = 1e-9


class Needs(NamedTuple):
    """What a job needs to start; jobs with equal needs wait in one heap."""

    #: Sorted (resource, amount) pairs.
    resources: tuple[tuple[str, float], ...] = ()
    #: No needs, limits or isolation of its own: may be handed to an executor ahead of time.
    plain: bool = True


PLAIN = Needs()

#: (-priority, number, uid): smaller starts first.
_Entry = tuple[float, int, str]


class Ledger:
    """Who holds how much of each counted resource. Never hands out more than the limit."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = dict(limits)
        self.used = dict.fromkeys(limits, 0.0)
        self._held: dict[str, dict[str, float]] = {}
        self._holders = dict.fromkeys(limits, 0)

    def free(self, resource: str) -> float:
        """Return how much is free now; 0 for a name that the service does not have."""
        return max(0.0, self.limits.get(resource, 0.0) - self.used.get(resource, 0.0))

    def scarce(self, needs: Needs) -> str | None:
        """Return the first resource of which too little is free, or None when all fits."""
        for resource, amount in needs.resources:
            if amount > self.free(resource) + ROUNDING:
                return resource
        return None

    def take(self, uid: str, amounts: Mapping[str, float]) -> None:
        """Give the job these amounts (a job found running again gets them even where they no longer fit)."""
        if not amounts:
            return
        self._held[uid] = dict(amounts)
        for resource, amount in amounts.items():
            self.used[resource] = self.used.get(resource, 0.0) + amount
            self._holders[resource] = self._holders.get(resource, 0) + 1

    def give_back(self, uid: str) -> Iterable[str]:
        """Take back all that the job still holds; return the names."""
        held = self._held.pop(uid, None)
        if held is None:
            return ()
        for resource, amount in held.items():
            self._lower(resource, amount)
            self._holders[resource] -= 1
            if not self._holders[resource]:
                self.used[resource] = 0.0
        return held

    def lower(self, uid: str, amounts: Mapping[str, float]) -> dict[str, float]:
        """Take back a part of what the job holds, at most that; return what was taken back."""
        held = self._held.get(uid, {})
        given: dict[str, float] = {}
        for resource, amount in amounts.items():
            part = min(amount, held.get(resource, 0.0))
            if part > 0:
                held[resource] -= part
                self._lower(resource, part)
                given[resource] = part
        return given

    def held(self, uid: str) -> Mapping[str, float]:
        """Return what the job holds."""
        return self._held.get(uid, {})

    def holders(self, resource: str) -> list[str]:
        """Return the uids of the jobs that hold some of a resource."""
        return [uid for uid, held in self._held.items() if held.get(resource)]

    def _lower(self, resource: str, amount: float) -> None:
        self.used[resource] = max(0.0, self.used[resource] - amount)


class ReadyQueue:
    """Jobs that may start as soon as there is room and their needs fit."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._where: dict[str, tuple[_Entry, Needs]] = {}
        self._heaps: dict[Needs, list[_Entry]] = {}
        #: Heads of the heaps that may fit, among some that are none any more; ``_announced`` says which ones count.
        self._heads: list[tuple[_Entry, Needs]] = []
        self._announced: dict[Needs, _Entry] = {}
        #: {scarce resource: needs parked under it}, and the other way round.
        self._parked: dict[str, set[Needs]] = {}
        self._scarce: dict[Needs, str] = {}
        self._dead = 0
        #: How many jobs come before each, as long as nothing changes; and how often that was asked since.
        self._places: dict[str, int] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, uid: object) -> bool:
        return uid in self._where

    def push(self, uid: str, priority: float, number: int, needs: Needs = PLAIN) -> None:
        """Add a job; ``number`` says who was seen first."""
        entry = (-priority, number, uid)
        self._where[uid] = (entry, needs)
        self._asked = 0
        heap = self._heaps.get(needs)
        if heap is None:
            heap = self._heaps[needs] = []
        heappush(heap, entry)
        if heap[0] is entry:
            self._announce(needs)

    def discard(self, uid: str) -> None:
        """Take a job out, if it is there."""
        self._asked = 0
        if self._where.pop(uid, None) is not None:
            self._dead += 1
            if self._dead > 64 and self._dead > len(self._where):
                self._compact()

    def pop(self) -> str | None:
        """Take out the first job that fits; None when none does. Its resources are for the caller to take."""
        while self._heads:
            entry, needs = heappop(self._heads)
            if self._announced.get(needs) is not entry:
                continue
            del self._announced[needs]
            if self._head(needs) is not entry:
                self._announce(needs)
                continue
            scarce = self._ledger.scarce(needs) if needs.resources else None
            if scarce is None:
                return self._take(needs)
            self._parked.setdefault(scarce, set()).add(needs)
            self._scarce[needs] = scarce
        return None

    def pop_plain(self) -> str | None:
        """Take out the first job without needs, limits and isolation of its own."""
        if self._head(PLAIN) is None:
            return None
        # What was put forward is not looked for: ``pop`` finds that it has gone, and puts the next one forward.
        uid = heappop(self._heaps[PLAIN])[2]
        self._asked = 0
        del self._where[uid]
        return uid

    def released(self, resources: Iterable[str]) -> None:
        """Look again at what was parked under these resources."""
        for resource in resources:
            for needs in self._parked.pop(resource, ()):
                del self._scarce[needs]
                self._announce(needs)

    def position(self, uid: str) -> int:
        """Return how many ready jobs come before this one, plus one. O(n), and O(n log n) for all: for people."""
        self._asked += 1
        if self._asked == 1:
            mine = self._where[uid][0]
            return 1 + sum(entry < mine for entry, _ in self._where.values())
        if self._asked == 2:  # somebody lists them
            line = sorted(entry for entry, _ in self._where.values())
            self._places = {uid: place for place, (_, _, uid) in enumerate(line, 1)}
        return self._places[uid]

    def waiting(self) -> dict[str, int]:
        """Return {resource: number of ready jobs that wait for it}. O(n): for people."""
        counts: dict[str, int] = {}
        for _, needs in self._where.values():
            scarce = self._ledger.scarce(needs)
            if scarce is not None:
                counts[scarce] = counts.get(scarce, 0) + 1
        return counts

    def _head(self, needs: Needs) -> _Entry | None:
        """Return the first entry of a heap that is still meant."""
        heap = self._heaps.get(needs)
        while heap:
            entry = heap[0]
            known = self._where.get(entry[2])
            if known is not None and known[0] is entry:
                return entry
            heappop(heap)
            self._dead -= 1
        return None

    def _announce(self, needs: Needs) -> None:
        """Put the head of a heap forward, unless it is already or the heap is parked."""
        first = self._head(needs)
        if first is None or needs in self._scarce or self._announced.get(needs) is first:
            return
        self._announced[needs] = first
        heappush(self._heads, (first, needs))
        if len(self._heads) > 64 + 2 * len(self._announced):
            self._heads = [(entry, other) for other, entry in self._announced.items()]
            heapify(self._heads)

    def _take(self, needs: Needs) -> str:
        """Take out the head of a heap, which must be there, and put the next one forward."""
        heap = self._heaps[needs]
        uid = heappop(heap)[2]
        self._asked = 0
        del self._where[uid]
        if heap:
            self._announce(needs)
        elif needs is not PLAIN:
            del self._heaps[needs]
            self._announced.pop(needs, None)
        return uid

    def _compact(self) -> None:
        """Forget entries that were taken out, so that memory follows the jobs that are there."""
        self._heaps = {}
        for entry, needs in self._where.values():
            self._heaps.setdefault(needs, []).append(entry)
        self._heads, self._announced = [], {}
        for needs, heap in self._heaps.items():
            heapify(heap)
            self._announce(needs)
        self._dead = 0
