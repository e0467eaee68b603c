"""What Hypothesis may try: conditions over a small pool of atoms, and scripts of news about them.

``pools()`` draws the atoms of one example; ``conditions(pool)`` trees over them, ``plain_conditions`` those that two
counters per gate can decide, ``timed_conditions`` everything with spans of time too. Times are whole seconds, so that
brute force can walk through them second by second.

Rule: nothing here knows how trun decides; brute force stands in ``brute``.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from trun.conditions.algebra import And, AtLeast, Condition, Leaf, Never, Not, Or, Settled
from trun.conditions.atoms import Atom, IsCompleted, IsEnded, IsFailed, IsOk, IsStarted, Level
from trun.conditions.timing import After, At, Before, Deadline, Held, Since
from trun.conditions.value import CANCELLED, HOLDS, NEVER, TRUE, WAIT, Value
from trun.messages import Aborted, Cancelled, Completed, Event, Failed, Skipped, Started

SUBJECTS = ("a", "b")
JOB_KINDS = (IsCompleted, IsFailed, IsStarted, IsEnded, IsOk)
FINAL_EVENTS: tuple[Event, ...] = (
    Completed(),
    Failed(kind="raised"),
    Aborted(),
    Cancelled(reason="by hand"),
    Skipped(),
)
EVENTS: tuple[Event, ...] = (Started(), *FINAL_EVENTS)
FINAL_VALUES = (TRUE, NEVER, CANCELLED)
VALUES = tuple(Value)


@dataclass
class Pool:
    """The atoms of one example."""

    jobs: list[Leaf]
    bare: list[Leaf]
    levels: list[Leaf]

    @property
    def events(self) -> list[Leaf]:
        """Atoms that are decided once."""
        return self.jobs + self.bare

    @property
    def all(self) -> list[Leaf]:
        return self.jobs + self.bare + self.levels


def pool() -> Pool:
    """Make fresh atoms: bare ones are never equal to those of another example."""
    jobs: list[Leaf] = [kind(subject) for subject in SUBJECTS for kind in JOB_KINDS]
    return Pool(jobs, [Atom(f"x{n}") for n in range(3)], [Level(f"l{n}") for n in range(2)])


def pools() -> st.SearchStrategy[Pool]:
    """Draw fresh atoms."""
    return st.builds(pool)


def times() -> st.SearchStrategy[int]:
    """Draw whole seconds."""
    return st.integers(1, 8)


def _gates(children: st.SearchStrategy[Condition], *, unary: bool) -> st.SearchStrategy[Condition]:
    several = st.lists(children, min_size=0, max_size=4)
    found: list[st.SearchStrategy[Condition]] = [
        several.map(lambda of: And(*of)),
        several.map(lambda of: Or(*of)),
        st.builds(lambda k, of: AtLeast(k, *of), st.integers(0, 4), several),
        # The same node twice: a tree that is none.
        children.map(lambda c: AtLeast(2, c, Or(c), And(c))),
    ]
    if unary:
        found += [children.map(Not), children.map(Never), children.map(Settled)]
    return st.one_of(found)


def plain_conditions(pool: Pool, *, max_leaves: int = 8) -> st.SearchStrategy[Condition]:
    """Draw thresholds over atoms that are decided once."""
    leaves: st.SearchStrategy[Condition] = st.sampled_from(pool.events)
    return st.recursive(leaves, lambda below: _gates(below, unary=False), max_leaves=max_leaves)


def conditions(pool: Pool, *, max_leaves: int = 8) -> st.SearchStrategy[Condition]:
    """Draw conditions without time: all gates, all kinds of atoms, ``since`` included."""
    leaves: st.SearchStrategy[Condition] = st.sampled_from(pool.all)
    return st.recursive(
        leaves,
        lambda below: _gates(below, unary=True) | st.builds(Since, below, below),
        max_leaves=max_leaves,
    )


def timed_conditions(pool: Pool, *, max_leaves: int = 8) -> st.SearchStrategy[Condition]:
    """Draw conditions with time; ``since`` stands over atoms only, for two clocks that strike at once have no order."""
    spans = times().map(float)
    leaves: st.SearchStrategy[Condition] = st.one_of(
        st.sampled_from(pool.all),
        spans.map(After),
        spans.map(Deadline),
        spans.map(At),
        spans.map(Before),
        st.builds(Since, st.sampled_from(pool.all), st.sampled_from(pool.all)),
    )
    return st.recursive(
        leaves,
        lambda below: _gates(below, unary=True) | st.builds(Held, below, spans),
        max_leaves=max_leaves,
    )


def level_values() -> st.SearchStrategy[Value]:
    """Draw what a level may say; mostly that it moves."""
    return st.sampled_from((WAIT, HOLDS, WAIT, HOLDS, TRUE, NEVER, CANCELLED))
