"""Retries that are due later, in order of time. Entries that are no longer meant are left for their owner to ignore."""

from __future__ import annotations

from heapq import heappop, heappush


class Timers:
    """A heap of (time, uid)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []

    def add(self, when: float, uid: str) -> None:
        """Wake this job at that time."""
        heappush(self._heap, (when, uid))

    def next(self) -> float | None:
        """Return the time of the first timer."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[tuple[float, str]]:
        """Take out all timers up to now."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heappop(self._heap))
        return found
