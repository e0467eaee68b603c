"""What Hypothesis may try: conditions over a small pool of atoms, and scripts of news about them.

``pools()`` draws the atoms of one example; ``conditions(pool)`` trees over them, ``plain_conditions`` those that two
counters per gate can decide, ``timed_conditions`` everything with spans of time too. Times are whole seconds, so that
brute force can walk through them second by second.

Rule: nothing here knows how trun decides; brute force stands in ``brute``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from trun.conditions.algebra import And, AtLeast, Condition, Leaf, Never, Not, Or, Settled, Unary
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


# Building a strategy costs more than drawing from it. So what is drawn is a recipe: a name and its ingredients, with
# numbers for atoms; each of these strategies is built once.

Recipe = tuple[str, Any]
_PLAIN: st.SearchStrategy[Recipe] = st.tuples(st.just("event"), st.integers(0, 100))
_ANY: st.SearchStrategy[Recipe] = st.tuples(st.just("atom"), st.integers(0, 100))
_SINCE_ATOMS = st.tuples(st.just("since"), st.tuples(_ANY, _ANY))
_TIMES: st.SearchStrategy[Recipe] = st.tuples(st.sampled_from(("after", "deadline", "at", "before")), times())


def _gates(below: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    several = st.lists(below, max_size=4)
    return st.one_of(
        st.tuples(st.just("and"), several),
        st.tuples(st.just("or"), several),
        st.tuples(st.just("atleast"), st.tuples(st.integers(0, 4), several)),
        st.tuples(st.just("twice"), below),
    )


def _all_gates(below: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    return st.one_of(_gates(below), st.tuples(st.sampled_from(("not", "never", "settled")), below))


def _since(below: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    return _all_gates(below) | st.tuples(st.just("since"), st.tuples(below, below))


def _held(below: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    return _all_gates(below) | st.tuples(st.just("held"), st.tuples(below, times()))


_RECIPES = {
    "plain": st.recursive(_PLAIN, _gates, max_leaves=8),
    "any": st.recursive(_ANY, _since, max_leaves=8),
    # ``since`` over atoms only: two clocks that strike at once have no order.
    "timed": st.recursive(st.one_of(_ANY, _ANY, _TIMES, _SINCE_ATOMS), _held, max_leaves=8),
}
_UNARY: dict[str, type[Unary]] = {"not": Not, "never": Never, "settled": Settled}
_TIME = {"after": After, "deadline": Deadline, "at": At, "before": Before}


def cook(recipe: Recipe, pool: Pool) -> Condition:
    """Make the condition that a recipe describes."""
    name, parts = recipe
    if name in ("event", "atom"):
        atoms: list[Leaf] = pool.events if name == "event" else pool.all
        return atoms[int(parts) % len(atoms)]
    if name in _TIME:
        return _TIME[name](float(parts))
    if name in ("and", "or"):
        of = [cook(part, pool) for part in parts]
        return And(*of) if name == "and" else Or(*of)
    if name == "atleast":
        return AtLeast(parts[0], *[cook(part, pool) for part in parts[1]])
    if name == "since":
        return Since(cook(parts[0], pool), cook(parts[1], pool))
    if name == "held":
        return Held(cook(parts[0], pool), float(parts[1]))
    child = cook(parts, pool)
    # The same node several times: a tree that is none.
    if name == "twice":
        return AtLeast(2, child, Or(child), And(child))
    return _UNARY[name](child)


def plain_conditions(pool: Pool) -> st.SearchStrategy[Condition]:
    """Draw thresholds over atoms that are decided once."""
    return _RECIPES["plain"].map(lambda recipe: cook(recipe, pool))


def conditions(pool: Pool) -> st.SearchStrategy[Condition]:
    """Draw conditions without time: all gates, all kinds of atoms, ``since`` included."""
    return _RECIPES["any"].map(lambda recipe: cook(recipe, pool))


def timed_conditions(pool: Pool) -> st.SearchStrategy[Condition]:
    """Draw conditions with time."""
    return _RECIPES["timed"].map(lambda recipe: cook(recipe, pool))


def level_values() -> st.SearchStrategy[Value]:
    """Draw what a level may say; mostly that it moves."""
    return st.sampled_from((WAIT, HOLDS, WAIT, HOLDS, TRUE, NEVER, CANCELLED))
