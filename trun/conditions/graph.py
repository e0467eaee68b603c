"""The five-value path: conditions in which a value may move both ways, or time plays a part.

A ``Graph`` is one registration: its gates as a flat list, children before parents, each with the number of its
children at each of the five values, so that one move costs O(1) per gate it passes. Moves run through in the order of
the list, so that no gate ever sees half of a change. Gates that need more than their children's values (``held``,
``since``) keep it here.

Used by the resolver alone, for what the two counters of a plain gate cannot say: ``~``, levels, time, ``never``.
Rule: nobody here decides; ``root_value`` is all that the resolver reads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from trun.conditions.algebra import Condition, Gate, Leaf, Unary, postorder
from trun.conditions.timing import Held, Since, TimeLeaf
from trun.conditions.value import HOLDS, NEVER, TRUE, WAIT, Value


class Moment(NamedTuple):
    """When something was heard: its number in a stream, where it has one, and the order of arrival."""

    stream: str
    seq: int
    #: (1, count) of what was heard; (0, rank) of what was so at registration.
    arrival: tuple[int, float]
    now: float

    def is_later(self, other: Moment) -> bool:
        """Whether this came after the other: by number within a stream, else by arrival."""
        if self.seq and other.seq and self.stream == other.stream:
            return self.seq > other.seq
        return self.arrival > other.arrival


class Node:
    """One gate."""

    __slots__ = ("condition", "parents", "value")

    def __init__(self, condition: Condition, inputs: Sequence[Value], moment: Moment) -> None:
        self.condition = condition
        #: (index of the gate, which of its children we are)
        self.parents: list[tuple[int, int]] = []
        self.value = WAIT

    def hear(self, side: int, old: Value, new: Value, moment: Moment) -> None:
        """Take the move of one child."""
        raise NotImplementedError

    def worth(self, now: float) -> Value:
        """Return what the gate is worth at this moment."""
        raise NotImplementedError


class Threshold(Node):
    """And, Or, AtLeast: the need-th largest of the children."""

    __slots__ = ("counts", "need")

    def __init__(self, condition: Condition, inputs: Sequence[Value], moment: Moment) -> None:
        super().__init__(condition, inputs, moment)
        self.need = condition.need if isinstance(condition, Gate) else 1
        self.counts = [0, 0, 0, 0, 0]
        for value in inputs:
            self.counts[value] += 1

    def hear(self, side: int, old: Value, new: Value, moment: Moment) -> None:
        """Count the child elsewhere."""
        self.counts[old] -= 1
        self.counts[new] += 1

    def worth(self, now: float) -> Value:
        """Count down from the best."""
        missing = self.need
        if missing <= 0:
            return TRUE
        for value in (TRUE, HOLDS, WAIT, NEVER):
            missing -= self.counts[value]
            if missing <= 0:
                return value
        # Fewer children than are needed is false for good, not a cancellation.
        return Value.CANCELLED if missing <= self.counts[0] else NEVER


class Table(Node):
    """Not, never, settled: a table over the one child."""

    __slots__ = ("child", "table")

    def __init__(self, condition: Condition, inputs: Sequence[Value], moment: Moment) -> None:
        super().__init__(condition, inputs, moment)
        assert isinstance(condition, Unary)
        self.table = condition.table
        self.child = inputs[0]

    def hear(self, side: int, old: Value, new: Value, moment: Moment) -> None:
        """Note the child's value."""
        self.child = new

    def worth(self, now: float) -> Value:
        """Look it up."""
        return Value(self.table[self.child])


class HeldNode(Node):
    """held(c, span): as much as c is worth, once c has held for so long."""

    __slots__ = ("child", "since", "span_s")

    def __init__(self, condition: Condition, inputs: Sequence[Value], moment: Moment) -> None:
        super().__init__(condition, inputs, moment)
        assert isinstance(condition, Held)
        self.span_s = condition.span_s
        self.child = inputs[0]
        #: Since when the child holds.
        self.since: float | None = moment.now if self.child >= HOLDS else None

    @property
    def until(self) -> float | None:
        """When it ripens, if nothing comes between."""
        return None if self.since is None else self.since + self.span_s

    def hear(self, side: int, old: Value, new: Value, moment: Moment) -> None:
        """Start or stop the clock."""
        self.child = new
        if new < HOLDS:
            self.since = None
        elif self.since is None:
            self.since = moment.now

    def worth(self, now: float) -> Value:
        """Wait until it is ripe."""
        until = self.until
        return self.child if until is None or now >= until else WAIT


class SinceNode(Node):
    """since(trigger, reset): set by each rise of the trigger, cleared by each later rise of the reset."""

    __slots__ = ("rose", "sides")

    def __init__(self, condition: Condition, inputs: Sequence[Value], moment: Moment) -> None:
        super().__init__(condition, inputs, moment)
        self.sides = list(inputs)
        #: When each side last came true.
        self.rose: list[Moment | None] = [moment if value >= HOLDS else None for value in inputs]

    def hear(self, side: int, old: Value, new: Value, moment: Moment) -> None:
        """Note a rise; one that comes late counts where it belongs."""
        self.sides[side] = new
        if new >= HOLDS > old:
            last = self.rose[side]
            if last is None or moment.is_later(last):
                self.rose[side] = moment

    def worth(self, now: float) -> Value:
        """Compare the rises."""
        trigger, reset = self.sides
        rose, cleared = self.rose
        if rose is not None and (cleared is None or rose.is_later(cleared)):
            return TRUE if reset.is_settled else HOLDS
        return min(trigger, NEVER) if trigger.is_settled else WAIT


def _node_type(condition: Condition) -> type[Node]:
    if isinstance(condition, Held):
        return HeldNode
    if isinstance(condition, Since):
        return SinceNode
    return Table if isinstance(condition, Unary) else Threshold


class Graph:
    """One registration on the five-value path."""

    __slots__ = (
        "_dirty",
        "_users",
        "clocks",
        "condition",
        "deadlines",
        "is_alive",
        "is_up",
        "leaves",
        "nodes",
        "owner",
        "serial",
        "values",
    )

    def __init__(
        self,
        owner: Hashable,
        serial: int,
        condition: Condition,
        *,
        lookup: Callable[[Leaf], Value],
        risen: Callable[[Leaf], float],
        origin: float,
        moment: Moment,
    ) -> None:
        self.owner = owner
        self.serial = serial
        self.condition = condition
        #: Whether it fired at HOLDS and stays (``keep_levels``).
        self.is_up = False
        self.is_alive = True
        #: How many clocks name it.
        self.clocks = 0
        #: Its leaves and what they are worth, by key.
        self.leaves: dict[str, Leaf] = {}
        self.values: dict[str, Value] = {}
        #: When each time leaf turns, by key.
        self.deadlines: dict[str, float] = {}
        self.nodes: list[Node] = []
        self._users: dict[str, list[tuple[int, int]]] = {}
        self._dirty: list[int] = []
        self._build(lookup, origin, moment)
        self._order_rises(risen, moment)

    def _build(self, lookup: Callable[[Leaf], Value], origin: float, moment: Moment) -> None:
        places: dict[int, int] = {}
        for condition in postorder(self.condition):
            if isinstance(condition, Leaf):
                self._add_leaf(condition, lookup, origin, moment.now)
                continue
            places[id(condition)] = len(self.nodes)
            self._add_node(condition, condition.of, places, moment)
        if not self.nodes:
            self._add_node(self.condition, (self.condition,), places, moment)

    def _add_leaf(self, leaf: Leaf, lookup: Callable[[Leaf], Value], origin: float, now: float) -> None:
        key = leaf.key
        if key in self.leaves:
            return
        self.leaves[key] = leaf
        self._users[key] = []
        if isinstance(leaf, TimeLeaf):
            self.deadlines[key] = leaf.deadline(origin)
            self.values[key] = leaf.late if now >= self.deadlines[key] else leaf.early
        else:
            self.values[key] = lookup(leaf)

    def _add_node(
        self, condition: Condition, children: Sequence[Condition], places: dict[int, int], moment: Moment
    ) -> None:
        index = len(self.nodes)
        inputs: list[Value] = []
        for side, child in enumerate(children):
            if isinstance(child, Leaf):
                self._users[child.key].append((index, side))
                inputs.append(self.values[child.key])
            else:
                below = self.nodes[places[id(child)]]
                below.parents.append((index, side))
                inputs.append(below.value)
        node = _node_type(condition)(condition, inputs, moment)
        node.value = node.worth(moment.now)
        self.nodes.append(node)

    def _order_rises(self, risen: Callable[[Leaf], float], moment: Moment) -> None:
        """Tell ``since`` gates in which order what holds already came true."""
        if not any(type(node) is SinceNode for node in self.nodes):
            return
        ranks: dict[int, float] = {}
        for condition in postorder(self.condition):
            if isinstance(condition, Leaf):
                ranks[id(condition)] = risen(condition)
        for node in self.nodes:
            below = [ranks[id(child)] for child in node.condition.of]
            if isinstance(node, SinceNode):
                node.rose = [
                    Moment("", 0, (0, rank), moment.now) if value >= HOLDS else None
                    for rank, value in zip(below, node.sides, strict=True)
                ]
            # A threshold came true with the last of the first ``need``; of other gates it is not known.
            found = sorted(rank for rank in below if rank > 0)
            need = node.need if isinstance(node, Threshold) else 0
            ranks[id(node.condition)] = found[need - 1] if 0 < need <= len(found) else 0.0
        self._dirty = list(range(len(self.nodes)))
        self._run(moment)

    @property
    def root_value(self) -> Value:
        """What the condition is worth."""
        return self.nodes[-1].value

    def move(self, key: str, value: Value, moment: Moment) -> list[tuple[float, int]]:
        """Let one leaf take a new value; return (when, which gate) of clocks that this started."""
        old = self.values[key]
        if old is value:
            return []
        self.values[key] = value
        for index, side in self._users[key]:
            self.nodes[index].hear(side, old, value, moment)
            heappush(self._dirty, index)
        return self._run(moment)

    def ripen(self, index: int, moment: Moment) -> list[tuple[float, int]]:
        """Look at a ``held`` gate again whose time has come."""
        heappush(self._dirty, index)
        return self._run(moment)

    def _run(self, moment: Moment) -> list[tuple[float, int]]:
        dirty, nodes = self._dirty, self.nodes
        clocks: list[tuple[float, int]] = []
        while dirty:
            index = heappop(dirty)
            while dirty and dirty[0] == index:
                heappop(dirty)
            node = nodes[index]
            if type(node) is HeldNode and node.until is not None and node.until > moment.now:
                clocks.append((node.until, index))
            old, new = node.value, node.worth(moment.now)
            if new is old:
                continue
            node.value = new
            for parent, side in node.parents:
                nodes[parent].hear(side, old, new, moment)
                heappush(dirty, parent)
        return clocks

    def turns(self, now: float) -> list[tuple[float, int | str]]:
        """Return (when, which) of all that time will change: gates by index, leaves by key."""
        found: list[tuple[float, int | str]] = [(at, key) for key, at in self.deadlines.items() if at > now]
        for index, node in enumerate(self.nodes):
            if type(node) is HeldNode and node.until is not None and node.until > now:
                found.append((node.until, index))
        return found

    def node_values(self) -> dict[int, Value]:
        """Return what every node is worth, by ``id`` of the condition."""
        found = {id(node.condition): node.value for node in self.nodes}
        for condition in postorder(self.condition):
            if isinstance(condition, Leaf):
                found[id(condition)] = self.values[condition.key]
        return found

    def end(self) -> None:
        """Let go of everything; clocks that still name this graph find it dead."""
        self.is_alive = False
        self.nodes = []
        self._users = {}
