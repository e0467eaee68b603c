"""The chain of five values that every condition has, and the tables of its unary operators.

CANCELLED < NEVER < WAIT < HOLDS < TRUE. And is the minimum, Or the maximum, AtLeast(k) the k-th largest of the
children. The chain is closed: no operator leaves it. Settled values (CANCELLED, NEVER, TRUE) never change within a
run.
Source: PARK's ready/cancelled pair, refined so that "not yet" and "never", "for now" and "for good" differ.
"""

from __future__ import annotations

import enum


class Value(enum.IntEnum):
    """What a condition is worth now."""

    #: The question was withdrawn: the thing watched died or was killed.
    CANCELLED = 0
    #: False for good, without error.
    NEVER = 1
    #: Not true now, still possible.
    WAIT = 2
    #: True now, may stop being true.
    HOLDS = 3
    #: True for good.
    TRUE = 4

    @property
    def is_settled(self) -> bool:
        """Whether the value can no longer change."""
        return self is not Value.WAIT and self is not Value.HOLDS

    @property
    def is_ready(self) -> bool:
        """Whether the condition is true at this moment."""
        return self >= Value.HOLDS


CANCELLED, NEVER, WAIT, HOLDS, TRUE = Value

#: ``~c``: true now becomes not true now and the other way round; CANCELLED stays.
NOT = (CANCELLED, TRUE, HOLDS, WAIT, NEVER)
#: ``never(c)``: waits until c is settled, then holds if c turned out not to happen.
NEVER_OF = (TRUE, TRUE, WAIT, WAIT, NEVER)
#: ``settled(c)``: holds once c is decided, either way.
SETTLED = (TRUE, TRUE, WAIT, WAIT, TRUE)
