"""Plain registrations: thresholds over atoms that are decided once, as rows of numbers.

A *gate* is an index into parallel lists: how many children it still needs, how many it can still lose, which gates it
feeds. Numbers in lists cost the collector nothing and stay close together in memory. A conjunction of atoms is one
gate, and the tuple of its atoms is all that is kept of it.

Rule: ``propagation`` and ``resolver`` alone come in here. A gate is given back only once no entry mentions it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, MutableSequence
from typing import Any

from trun.conditions.algebra import And, AtLeast, Condition, Gate, Leaf, postorder
from trun.conditions.atoms import Atom, JobAtom
from trun.conditions.entries import WIDE, Entries, Waiters
from trun.conditions.value import NEVER, TRUE, Value


class Tree:
    """A plain condition of more than one gate: which index stands for which of its nodes."""

    __slots__ = ("condition", "gates")

    def __init__(self, condition: Condition, gates: tuple[tuple[int, Condition], ...]) -> None:
        self.condition = condition
        self.gates = gates


_plain_types: dict[type, bool] = {}


def is_plain_leaf(leaf: Condition) -> bool:
    """Whether a leaf is decided once, by news."""
    kind = type(leaf)
    found = _plain_types.get(kind)
    if found is None:
        found = _plain_types[kind] = issubclass(kind, (Atom, JobAtom))
    return found


def plain_gates(condition: Condition) -> list[Gate] | None:
    """Return the gates of a condition, children before parents; None unless two counters per gate can say all of it."""
    found: list[Gate] = []
    seen: set[int] = set()
    stack: list[tuple[Condition, bool]] = [(condition, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            found.append(node)  # type: ignore[arg-type]
            continue
        if not isinstance(node, Gate) or (isinstance(node, AtLeast) and _repeats(node)):
            return None
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.append((node, True))
        for child in node.of:
            if not is_plain_leaf(child):
                stack.append((child, False))
    return found


def _repeats(node: Gate) -> bool:
    """Whether a child stands more than once: that counts in AtLeast, and means nothing in And and Or."""
    return len({child.key if isinstance(child, Leaf) else id(child) for child in node.of}) < len(node.of)


class Plain:
    """Gates as rows of numbers, and the plain registrations made of them."""

    __slots__ = ("entries", "free", "need", "owner", "root", "rows", "serial", "slack", "up")

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        #: How many children must still become true; below zero once more did.
        self.need: list[int] = []
        #: How many children may still die, plus one.
        self.slack = array("i")
        #: The gates that a gate feeds; roots feed none.
        self.up: dict[int, tuple[int, ...]] = {}
        #: Of roots: who waits, ...
        self.owner: list[Hashable] = []
        #: ... for what (a tuple of atoms is their conjunction), ...
        self.root: list[Any] = []
        #: ... and the how manyeth registration this is.
        self.serial = array("q")
        self.free: list[int] = []

    def new(self, need: int, slack: int) -> int:
        """Return a gate."""
        if self.free:
            gate = self.free.pop()
            self.need[gate] = need
            self.slack[gate] = slack
            return gate
        self.need.append(need)
        self.slack.append(slack)
        self.owner.append(None)
        self.root.append(None)
        self.serial.append(0)
        return len(self.need) - 1

    def recycle(self, gate: int) -> None:
        """Give a gate back that nothing mentions any more."""
        self.owner[gate] = self.root[gate] = None
        self.up.pop(gate, None)
        self.free.append(gate)

    def enter(self, condition: Condition, gates: list[Gate], present: Callable[[Leaf], Value], serial: int) -> int:
        """Enter a condition of these gates over atoms of these values; return its root, or -1 if it is decided.

        Gates that are decided already are entered too: their atoms must be known for an explanation.
        """
        places: dict[int, int] = {}
        for node in gates:
            gate = places[id(node)] = self.new(0, 0)
            self._fill(gate, node, places, present)
        root = places[id(condition)]
        self.serial[root] = serial
        if len(gates) > 1:
            self.root[root] = Tree(condition, tuple(zip(places.values(), gates, strict=True)))
        else:
            self.root[root] = condition.of if isinstance(condition, And) else condition
        if self.need[root] > 0 and self.slack[root] > 0:
            return root
        self.release(root)
        return -1

    def _fill(self, gate: int, node: Gate, places: dict[int, int], present: Callable[[Leaf], Value]) -> None:
        """Connect the children of a gate and count them. One that stands twice in And or Or counts once."""
        about, entries = self.entries.about, self.entries
        count = true = dead = 0
        for child in node.of:
            if isinstance(child, JobAtom):
                entry = about.get(child.subject)
                if type(entry) is Waiters and entry.leaf is child and len(entry) < WIDE:
                    if entry[-1] != gate:
                        entry.append(gate)
                        count += 1
                    continue
            if isinstance(child, Leaf):
                value = present(child)
                is_true, is_dead = value is TRUE, value <= NEVER
                if is_dead:
                    entries.source(child).value = value
                is_new = is_true or entries.connect(child, gate)
            else:
                below = places[id(child)]
                is_true, is_dead = self.need[below] <= 0, self.slack[below] <= 0
                is_new = self._feed(below, gate)
            if is_new:
                count += 1
                true += is_true
                dead += is_dead
        need = count if isinstance(node, And) else node.need
        self.need[gate] = need - true
        self.slack[gate] = count - need + 1 - dead

    def _feed(self, below: int, gate: int) -> bool:
        above = self.up.get(below, ())
        if gate in above:
            return False
        self.up[below] = (*above, gate)
        return True

    def condition(self, root: int) -> Condition:
        """Return the condition of a registration."""
        found = self.root[root]
        if type(found) is tuple:
            return And(*found) if len(found) != 1 else found[0]
        condition: Condition = found.condition if type(found) is Tree else found
        return condition

    def leaves(self, root: int) -> Iterable[Leaf]:
        """Return the atoms of a registration, perhaps repeatedly."""
        found = self.root[root]
        if type(found) is tuple:
            return found
        condition: Condition = found.condition if type(found) is Tree else found
        return [node for node in postorder(condition) if isinstance(node, Leaf)]

    def release(self, root: int) -> set[str]:
        """Take out all that a registration still has in the table; return the keys of its atoms that are not true."""
        found = self.root[root]
        missing: set[str] = set()
        if type(found) is Tree:
            for gate, node in found.gates:
                self._take_out(gate, node.of, missing)
        else:
            self._take_out(root, found if type(found) is tuple else found.of, missing)
        return missing

    def _take_out(self, gate: int, leaves: Iterable[Condition], missing: set[str]) -> None:
        """Take a gate out of the entries of its atoms. Measured: the usual entry is handled on the spot."""
        about = self.entries.about
        for leaf in leaves:
            if isinstance(leaf, JobAtom):
                entry = about.get(leaf.subject)
                if entry is None:
                    continue
                if type(entry) is Waiters and entry.leaf is leaf:
                    if gate in entry:
                        missing.add(leaf._key)
                        if len(entry) == 1:
                            del about[leaf.subject]
                        else:
                            entry.remove(gate)
                    continue
            if isinstance(leaf, Leaf) and self.entries.disconnect(leaf, gate):
                missing.add(leaf.key)
        self.recycle(gate)

    def rise(self, gates: list[int]) -> list[int]:
        """Let gates that came true feed those above; return the roots that came true."""
        return self._climb(gates, self.need)

    def fall(self, gates: list[int]) -> list[int]:
        """Let gates that died take from those above; return the roots that died."""
        return self._climb(gates, self.slack)

    def _climb(self, gates: list[int], counts: MutableSequence[int]) -> list[int]:
        up = self.up
        if not up:
            return gates
        roots: list[int] = []
        stack = gates[::-1]
        while stack:
            gate = stack.pop()
            above = up.get(gate)
            if above is None:
                roots.append(gate)
                continue
            for parent in above:
                left = counts[parent] - 1
                counts[parent] = left
                if not left:
                    stack.append(parent)
        return roots

    def root_above(self, gate: int) -> int:
        """Return the root of the registration that a gate belongs to."""
        while above := self.up.get(gate):
            gate = above[0]
        return gate
