"""When time will change something: one heap of (when, whose, which), with dead entries swept now and then.

A clock belongs to a five-value registration and names a time leaf (by key) or a ``held`` gate (by index). Nobody takes
a clock out when its registration ends: it is found dead at its turn, or swept once half of the heap is dead.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

from trun.conditions.graph import Graph


class Clocks:
    """A heap of clocks."""

    __slots__ = ("_dead", "_heap", "_ties", "first")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Graph, int | str]] = []
        self._ties = 0
        self._dead = 0
        #: When the first clock strikes, at the earliest; it may be dead.
        self.first = inf

    def start(self, at: float, graph: Graph, which: int | str) -> None:
        """Note that at this moment a leaf or gate must be looked at."""
        self._ties += 1
        graph.clocks += 1
        heappush(self._heap, (at, self._ties, graph, which))
        self.first = self._heap[0][0]

    def next(self) -> float | None:
        """Return when the first living clock strikes."""
        heap = self._heap
        while heap and not heap[0][2].is_alive:
            heappop(heap)
            self._dead -= 1
        self.first = heap[0][0] if heap else inf
        return heap[0][0] if heap else None

    def pop(self, now: float) -> tuple[float, Graph, int | str] | None:
        """Take the first living clock that has struck by now."""
        at = self.next()
        if at is None or at > now:
            return None
        at, _, graph, which = heappop(self._heap)
        graph.clocks -= 1
        self.first = self._heap[0][0] if self._heap else inf
        return at, graph, which

    def end(self, graph: Graph) -> None:
        """A registration has ended: its clocks are dead."""
        self._dead += graph.clocks
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [clock for clock in self._heap if clock[2].is_alive]
            heapify(self._heap)
            self._dead = 0
