"""How long, and with how much memory, an attempt may run: when to look, and what has been exceeded."""

from __future__ import annotations

import time

from trun.executors import processtree
from trun.executors.hand import Hand, Stop

#: Seconds: jobs are short below the first (several wait in one worker), long above the second (those behind are taken
#: back).
SHORT_S, LONG_S = 0.002, 0.02
_MEMORY_POLL_S = 0.12


def due(hand: Hand) -> float | None:
    """Return the monotonic time at which a worker is to be looked at again; None: no reason to."""
    if hand.stop is not None:
        return None if hand.stop.killed else hand.stop.kill_at
    if hand.untold or hand.unsent:
        return time.monotonic() + SHORT_S
    if not hand.queue or not hand.ready:
        return None
    spec = hand.queue[0].order.spec
    found = [hand.began + LONG_S] if len(hand.queue) > 1 else []
    if spec.timeout is not None:
        found.append(hand.began + spec.timeout)
    if spec.memory is not None:
        found.append(hand.weighed_at + _MEMORY_POLL_S)
    return min(found, default=None)


def exceeded(
    hand: Hand, mono: float, known: dict[int, int] | None, grace: float
) -> tuple[Stop | None, dict[int, int] | None]:
    """Return why the running attempt must be stopped, if it must; and the process table, where it was read."""
    spec = hand.queue[0].order.spec
    if spec.timeout is not None and mono - hand.began >= spec.timeout:
        return Stop("timeout", "", mono + grace), known
    if spec.memory is None or mono - hand.weighed_at < _MEMORY_POLL_S:
        return None, known
    known = processtree.parents() if known is None else known
    hand.weighed_at = mono
    held = processtree.tree_bytes(hand.pid, known, spec.memory)
    hand.peak = max(hand.peak, held)
    if held <= spec.memory:
        return None, known
    stop = Stop("memory", "", mono)
    stop.peak = held
    return stop, known
