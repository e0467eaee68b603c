"""What a value of a condition rests on: what is still missing, what killed it, what made it hold.

Everything is one question, asked from the root down: to bring a node to a goal (become true, turn out false, be
decided, stop holding), so many of these children must reach that goal. Leaves reached on the way are what blocks;
minimal choices, smallest first, are the missing sets (best-first search with exact remaining cost where no atom occurs
twice). All iterative, over values that were read once.

It writes nothing for people; see ``explain``. Source: minimal cut and path sets of fault trees, on the chain of five.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trun.conditions.algebra import Condition, Gate, Leaf, Never, Settled, Unary, combine, postorder
from trun.conditions.atoms import JobAtom
from trun.conditions.timing import Held, Since
from trun.conditions.value import HOLDS, NEVER, TRUE, WAIT, Value

#: How many partial choices may be looked at for one iterator of missing sets.
BUDGET = 50_000
#: How many sets are sorted and compared before the first is given, where an atom stands in several places.
LOOKAHEAD = 200
#: An expression that shares parts may mention an atom in astronomically many places.
MAX_USES = 10**9
_IMPOSSIBLE = float("inf")


class Goal(enum.IntEnum):
    """What must become of a leaf."""

    #: It becomes true.
    READY = 0
    #: It turns out not to happen.
    DEAD = 1
    #: It is decided, either way.
    DECIDED = 2
    #: It stops being true.
    LAPSED = 3
    #: It goes on being true.
    STAYS = 4


class Part(NamedTuple):
    """A leaf, and what must become of it (or what has, for what is decided)."""

    leaf: Leaf
    goal: Goal


class _Choice(NamedTuple):
    """So many of these must reach their goals."""

    many: int
    of: tuple[tuple[Condition, Goal], ...]
    #: Cost of the first 0, 1, 2, ... of them, where it is known.
    sums: tuple[float, ...] = ()


class Causes:
    """A condition with the values that its parts had when it was asked."""

    def __init__(
        self,
        condition: Condition,
        lookup: Callable[[Leaf], Value],
        gates: Callable[[Condition], Value | None] | None = None,
    ) -> None:
        self.condition = condition
        #: Value of each node, by id.
        self.values: dict[int, Value] = {}
        nodes = list(postorder(condition))
        for node in nodes:
            if isinstance(node, Leaf):
                self.values[id(node)] = Value(lookup(node))
                continue
            found = gates(node) if gates is not None and isinstance(node, Held | Since) else None
            if found is None:
                found = combine(node, [self.values[id(child)] for child in node.of])
            self.values[id(node)] = Value(found)
        self._uses = _count_uses(nodes)
        self._repeated = any(times > 1 for times in self._uses.values())
        self._costs: dict[tuple[int, Goal], float] = {}

    @property
    def value(self) -> Value:
        """What the whole is worth."""
        return self.values[id(self.condition)]

    # -- one step down

    def step(self, node: Condition, goal: Goal) -> _Choice:
        """Return what must happen to the children of a node so that it reaches the goal."""
        if isinstance(node, Gate):
            return self._gate_step(node, goal)
        if isinstance(node, Since):
            return self._since_step(node, goal)
        assert isinstance(node, Unary)
        child, value = node.child, self.values[id(node.child)]
        if isinstance(node, Held):
            ready = goal is Goal.READY and value >= HOLDS
            return _Choice(1, ((child, Goal.STAYS if ready else goal),))
        if goal is Goal.STAYS:
            return _Choice(1, ((child, Goal.STAYS),))
        if goal is Goal.DECIDED or isinstance(node, Settled):
            # settled(...) is never false for good: no number of children is enough.
            return _Choice(2 if goal is Goal.DEAD else 1, ((child, Goal.DECIDED),))
        turned = Goal.READY
        if goal is Goal.READY:
            turned = Goal.DEAD if isinstance(node, Never) or value < HOLDS else Goal.LAPSED
        return _Choice(1, ((child, turned),))

    def _since_step(self, node: Since, goal: Goal) -> _Choice:
        if goal is Goal.LAPSED:
            return _Choice(1, ((node.reset, Goal.READY),))
        return _Choice(1, ((node.trigger, goal),))

    def _gate_step(self, node: Gate, goal: Goal) -> _Choice:
        of, need = node.of, node.need
        values = [self.values[id(child)] for child in of]
        if goal is Goal.DECIDED:
            return _Choice(1, ((node, Goal.READY), (node, Goal.DEAD)))
        if goal is Goal.STAYS:
            return _Choice(
                need, tuple((child, goal) for child, value in zip(of, values, strict=True) if value >= HOLDS)
            )
        if goal is Goal.READY:
            many = need - sum(1 for value in values if value >= HOLDS)
            open_ = [child for child, value in zip(of, values, strict=True) if value is WAIT]
            if self.values[id(node)] is HOLDS:
                # It is true, but not for good.
                many = need - values.count(TRUE)
                open_ = [child for child, value in zip(of, values, strict=True) if value in (WAIT, HOLDS)]
        elif goal is Goal.DEAD:
            many = len(of) - need + 1 - sum(1 for value in values if value <= NEVER)
            open_ = [child for child, value in zip(of, values, strict=True) if NEVER < value < TRUE]
        else:
            many = sum(1 for value in values if value >= HOLDS) - need + 1
            open_ = [child for child, value in zip(of, values, strict=True) if value is HOLDS]
        return _Choice(max(0, many), tuple((child, goal) for child in open_))

    # -- what stands in the way

    def blocking(self) -> tuple[Part, ...]:
        """Return the leaves that matter now: undecided ones that could help, or one minimal set that killed it."""
        if self.value <= NEVER:
            return self.decisive()
        if self.value >= HOLDS:
            return ()
        return self._reach(self.condition, Goal.READY) or self._undecided()

    def _undecided(self) -> tuple[Part, ...]:
        open_ = (leaf for leaf in self.condition.depends if WAIT <= self.values[id(leaf)] <= HOLDS)
        return tuple(Part(leaf, Goal.DECIDED) for leaf in open_)

    def _reach(self, root: Condition, goal: Goal) -> tuple[Part, ...]:
        found: dict[Part, None] = {}
        seen: set[tuple[int, Goal]] = set()
        stack: list[tuple[Condition, Goal]] = [(root, goal)]
        while stack:
            node, goal = stack.pop()
            if (id(node), goal) in seen:
                continue
            seen.add((id(node), goal))
            if isinstance(node, Leaf):
                found[Part(node, goal)] = None
            else:
                stack.extend(reversed(self.step(node, goal).of))
        return tuple(found)

    def decisive(self) -> tuple[Part, ...]:
        """Return one minimal set of leaves on which the present value rests: a witness, or what killed it."""
        if self.value is WAIT:
            return ()
        found: dict[Part, None] = {}
        stack: list[Condition] = [self.condition]
        seen: set[int] = set()
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            value = self.values[id(node)]
            if isinstance(node, Leaf):
                found[Part(node, Goal.READY if value >= HOLDS else Goal.DEAD if value <= NEVER else Goal.DECIDED)] = (
                    None
                )
            elif isinstance(node, Gate):
                stack.extend(reversed(self._decisive_children(node, value)))
            elif isinstance(node, Since):
                stack.append(node.trigger)
            else:
                stack.append(node.of[0])
        return tuple(found)

    def _decisive_children(self, node: Gate, value: Value) -> list[Condition]:
        of = node.of
        if value >= HOLDS:
            found = [child for child in of if self.values[id(child)] >= value]
            return found[: node.need]
        if value <= NEVER:
            found = [child for child in of if self.values[id(child)] <= value]
            return found[: max(0, len(of) - node.need + 1)]
        return [child for child in of if self.values[id(child)] is WAIT]

    # -- what would be enough

    def cost(self, root: Condition, goal: Goal) -> float:
        """Return the size of the smallest set that brings a node to a goal.

        An atom that stands in n places costs 1/n in each, so that the sum is never more than the size of the set.
        """
        costs = self._costs
        stack = [(root, goal)]
        while stack:
            node, goal = stack[-1]
            if (id(node), goal) in costs:
                stack.pop()
                continue
            if isinstance(node, Leaf):
                costs[id(node), goal] = 1.0 / self._uses[node.key]
                continue
            choice = self.step(node, goal)
            unknown = [part for part in choice.of if (id(part[0]), part[1]) not in costs]
            if unknown:
                stack.extend(unknown)
                continue
            below = sorted(costs[id(child), aim] for child, aim in choice.of)
            costs[id(node), goal] = sum(below[: choice.many]) if len(below) >= choice.many else _IMPOSSIBLE
        return costs[id(root), goal]

    def missing(self) -> Iterator[tuple[Part, ...]]:
        """Yield minimal sets of leaves that would be enough, smallest first; nothing unless it waits."""
        if self.value is not WAIT or self.cost(self.condition, Goal.READY) == _IMPOSSIBLE:
            return
        found = filter(possible, self._search())
        if not self._repeated:
            yield from found
            return
        # An atom that stands in several places makes the search's order inexact, and some sets larger than needed.
        first = sorted(itertools.islice(found, LOOKAHEAD), key=len)
        given: list[frozenset[Part]] = []
        for parts in itertools.chain(first, found):
            whole = frozenset(parts)
            if not any(other <= whole for other in given):
                given.append(whole)
                yield parts

    def _search(self) -> Iterator[tuple[Part, ...]]:
        """Best first: each state is what was chosen, and what still has to be reached."""
        numbers = itertools.count(0, -1)
        pending: _Pending | None = _Pending.node(self, self.condition, Goal.READY, None)
        heap: list[tuple[float, int, float, _Chosen | None, _Pending | None]] = [(0.0, 0, 0.0, None, pending)]
        while heap:
            _, _, count, chosen, pending = heapq.heappop(heap)
            while pending is not None:
                if isinstance(pending.what, Leaf):
                    chosen = _Chosen(Part(pending.what, pending.goal), chosen)
                    count += self.cost(pending.what, pending.goal)
                    pending = pending.after
                    continue
                choice, place, after = pending.expand(self), pending.place, pending.after
                if len(choice.of) - place > choice.many > 0:
                    number = next(numbers)
                    if number < -BUDGET:
                        return
                    skip = _Pending.choice(self, choice, place + 1, after)
                    heapq.heappush(heap, (count + skip.total, number, count, chosen, skip))
                    if choice.many > 1:
                        after = _Pending.choice(self, choice._replace(many=choice.many - 1), place + 1, after)
                    pending = _Pending.node(self, *choice.of[place], after)
                    continue
                pending = after
                for part in reversed(choice.of[place:] if choice.many else ()):
                    pending = _Pending.node(self, *part, pending)
            yield _unrolled(chosen)


def _count_uses(nodes: Sequence[Condition]) -> dict[str, int]:
    """Return {key of a leaf: in how many places it stands}, of nodes that come before those that use them."""
    places = {id(nodes[-1]): 1}
    found: dict[str, int] = {}
    for node in reversed(nodes):
        here = min(places[id(node)], MAX_USES)
        if isinstance(node, Leaf):
            found[node.key] = found.get(node.key, 0) + here
        for child in node.of:
            places[id(child)] = places.get(id(child), 0) + here
    return found


class _Chosen(NamedTuple):
    """A part of a set, and those that were chosen before it: sets that begin alike share their beginning."""

    part: Part
    before: _Chosen | None


def _unrolled(chosen: _Chosen | None) -> tuple[Part, ...]:
    found: list[Part] = []
    while chosen is not None:
        found.append(chosen.part)
        chosen = chosen.before
    return tuple(dict.fromkeys(reversed(found)))


class _Pending:
    """Something that still has to be reached, and what comes after it."""

    __slots__ = ("_choice", "after", "goal", "place", "total", "what")

    def __init__(self, what: Condition | None, goal: Goal, place: int, total: float, after: _Pending | None) -> None:
        #: A node, or None for the rest of a choice.
        self.what = what
        self.goal = goal
        self.place = place
        #: How many leaves it takes at least, all that comes after it included.
        self.total: float = total if after is None else total + after.total
        self.after = after
        self._choice: _Choice | None = None

    @classmethod
    def node(cls, causes: Causes, node: Condition, goal: Goal, after: _Pending | None) -> _Pending:
        """A node must reach a goal."""
        return cls(node, goal, 0, causes.cost(node, goal), after)

    @classmethod
    def choice(cls, causes: Causes, choice: _Choice, place: int, after: _Pending | None) -> _Pending:
        """So many of a choice's list must be reached, from a place on."""
        made = cls(None, Goal.READY, place, choice.sums[place + choice.many] - choice.sums[place], after)
        made._choice = choice
        return made

    def expand(self, causes: Causes) -> _Choice:
        """Return what must be chosen, cheapest first."""
        if self._choice is None:
            assert self.what is not None
            many, of, _ = causes.step(self.what, self.goal)
            if len(of) > many:
                of = tuple(sorted(of, key=lambda part: causes.cost(*part)))
            self._choice = _Choice(many, of, (0.0, *itertools.accumulate(causes.cost(*part) for part in of)))
        return self._choice


#: Ways to end of which a job takes one.
_ENDS = frozenset({"completed", "failed", "aborted", "cancelled", "skipped"})


def possible(parts: Sequence[Part]) -> bool:
    """Whether these can come about together: no leaf both ways, no job that ends in two ways."""
    goals: dict[str, Goal] = {}
    ends: dict[str, str] = {}
    for leaf, goal in parts:
        other = goals.setdefault(leaf.key, goal)
        if other is not goal and Goal.DECIDED not in (other, goal):
            return False
        if goal is Goal.READY and isinstance(leaf, JobAtom) and leaf.what in _ENDS:
            end = ends.setdefault(leaf.subject, leaf.what)
            if end != leaf.what and (leaf.single or "completed" in (end, leaf.what)):
                return False
    return True


def leaves(parts: Sequence[Part]) -> tuple[Leaf, ...]:
    """Return the leaves of some parts, each once, in order."""
    return tuple({id(part.leaf): part.leaf for part in parts}.values())
