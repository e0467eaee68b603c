"""Where orders could go now: free workers, slots for new ones, and busy workers behind whose short job another may
wait.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from trun.executors.hand import Hand
from trun.ports import Order


class Openings:
    """Where orders could go, looked up once for a batch of them."""

    def __init__(self, hands: Iterable[Hand], workers: int, depth: int) -> None:
        hands = list(hands)
        self._workers = workers
        self.slots = workers - sum(hand.is_busy for hand in hands)
        self._idle = [hand for hand in hands if hand.is_free and not hand.suspended] if self.slots > 0 else []
        # The one that is up and has its modules loaded comes last and is taken first.
        self._idle.sort(key=lambda hand: (hand.ready, hand.done))
        self._hands = hands
        self._depth = depth
        self._heap: list[tuple[int, int, Hand]] | None = None

    def best(self, fresh: bool, paths: tuple[str, ...] = ()) -> Hand | None:
        """Return an idle worker; where it has to be fresh, one that has run nothing yet.

        One that may have imported modules from other folders than these does not do: where only such are idle, one of
        them is let go to make room.
        """
        idle = self._idle
        if not fresh:
            if idle and (idle[-1].paths == paths or idle[-1].paths is None):
                return idle.pop()
            for hand in reversed(idle):
                if hand.paths is None or hand.paths == paths:
                    idle.remove(hand)
                    return hand
        else:
            for hand in idle:
                if not hand.done:
                    idle.remove(hand)
                    return hand
            return None
        if idle and len(self._hands) >= self._workers:
            idle.pop(0).go()
        return None

    def shortest(self) -> Hand | None:
        """Return the busy worker with the fewest orders, if another short one may wait there."""
        if self._heap is None:
            able = [hand for hand in self._hands if hand.is_busy and hand.may_queue and not hand.paths]
            self._heap = [(len(hand.queue), hand.number, hand) for hand in able if len(hand.queue) < self._depth]
            heapq.heapify(self._heap)
        if not self._heap:
            return None
        length, number, hand = self._heap[0]
        if length + 1 < self._depth:
            heapq.heapreplace(self._heap, (length + 1, number, hand))
        else:
            heapq.heappop(self._heap)
        return hand


def is_plain(order: Order) -> bool:
    """Whether an order may wait behind others: it has no resources, limits, isolation or modules of its
    own.
    """
    spec = order.spec
    if order.paths or spec.resources:
        return False
    return spec.timeout is None and spec.memory is None and spec.isolation == "worker"
