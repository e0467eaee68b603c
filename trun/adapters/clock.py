"""Time that never jumps while the process lives.

The wall clock is read once; from then on the monotonic clock carries it on. So a correction of the wall clock by a day
changes no timeout, no lease and no order of entries. Does not sleep and wakes nobody: the driver waits.

Who may come in: whoever composes a service. Rule: no second clock in a service; whatever needs time is given this one.
"""

from __future__ import annotations

import time


class SteadyClock:
    """Seconds since the epoch (UTC), anchored at construction on the monotonic clock."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return self._offset + time.monotonic()
