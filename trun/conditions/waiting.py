"""What the resolver keeps of those who wait: sources, and plain registrations as rows of numbers.

An atom's *entry* is found by the job it is about, or by its key. As long as it is undecided, has few listeners and
stands in plain conditions only, the entry is an array of the gates that mention it (``Waiters``). Else it is a
``Source``.
A true atom that stands in plain conditions only is forgotten: whoever mentions an atom that has no entry knows that it
is true.

A *gate* is an index into parallel lists: how many children it still needs, how many it can still lose, which gates it
feeds. Numbers in lists cost the collector nothing and stay close together in memory.

Rule: ``resolver`` alone comes in here; every edge that is entered is taken out by ``release`` or by the atom itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, MutableSequence
from typing import TYPE_CHECKING, Any

from trun.conditions.algebra import And, AtLeast, Condition, Gate, Leaf, postorder
from trun.conditions.atoms import Atom, JobAtom
from trun.conditions.graph import Graph
from trun.conditions.value import NEVER, TRUE, WAIT, Value

#: From so many listeners on, taking one out of a list costs too much.
WIDE = 64


class Source:
    """An atom that is more than a list can say: decided, a level, much listened to, or in a five-value condition."""

    __slots__ = ("gates", "graphs", "leaf", "reason", "value")

    def __init__(self, leaf: Leaf, value: Value = WAIT) -> None:
        self.leaf = leaf
        self.value = value
        self.reason = ""
        #: Plain gates that mention it, in order of registration.
        self.gates: dict[int, None] = {}
        #: Five-value registrations that mention it.
        self.graphs: dict[Graph, None] = {}


if TYPE_CHECKING:
    _Numbers = array[int]
else:
    _Numbers = array


class Waiters(_Numbers):
    """An undecided atom and the plain gates that mention it: numbers side by side, since the ways of memory decide."""

    __slots__ = ("leaf",)
    leaf: Leaf


Entry = Waiters | Source


def waiters(leaf: Leaf, gate: int) -> Waiters:
    """Return the entry of an atom with its first gate."""
    found = Waiters("i", (gate,))
    found.leaf = leaf
    return found


class Several(dict[str, Entry]):
    """Entries of several atoms about one job, by key."""


class Tree:
    """A plain condition of more than one gate: which index stands for which of its nodes."""

    __slots__ = ("condition", "gates")

    def __init__(self, condition: Condition, gates: tuple[tuple[int, Condition], ...]) -> None:
        self.condition = condition
        self.gates = gates


class Entries:
    """The atoms that somebody waits for."""

    __slots__ = ("about", "others")

    def __init__(self) -> None:
        #: Job -> entry of the one atom about it, or several.
        self.about: dict[str, Entry | Several] = {}
        #: Key -> entry of an atom that is about no job.
        self.others: dict[str, Entry] = {}

    def find(self, leaf: Leaf) -> Entry | None:
        """Return the entry of an atom."""
        if not isinstance(leaf, JobAtom):
            return self.others.get(leaf.key)
        found = self.about.get(leaf.subject)
        if isinstance(found, Several):
            return found.get(leaf.key)
        return found if found is not None and found.leaf.key == leaf.key else None

    def find_key(self, key: str) -> Entry | None:
        """Return the entry of the atom with this key."""
        found = self.others.get(key)
        if found is not None or not key.startswith("job:"):
            return found
        end = key.find(":", 4)
        while end > 0:
            for entry in self.of_subject(key[4:end]):
                if entry.leaf.key == key:
                    return entry
            end = key.find(":", end + 1)
        return None

    def of_subject(self, subject: str) -> list[Entry]:
        """Return the entries about a job."""
        found = self.about.get(subject)
        if found is None:
            return []
        return list(found.values()) if isinstance(found, Several) else [found]

    def put(self, leaf: Leaf, entry: Entry) -> None:
        """Enter an atom, or change what its entry is."""
        if not isinstance(leaf, JobAtom):
            self.others[leaf.key] = entry
            return
        found = self.about.get(leaf.subject)
        if isinstance(found, Several):
            found[leaf.key] = entry
        elif found is None or found.leaf.key == leaf.key:
            self.about[leaf.subject] = entry
        else:
            self.about[leaf.subject] = Several({found.leaf.key: found, leaf.key: entry})

    def remove(self, leaf: Leaf) -> None:
        """Forget an atom."""
        if not isinstance(leaf, JobAtom):
            self.others.pop(leaf.key, None)
            return
        found = self.about.get(leaf.subject)
        if isinstance(found, Several):
            found.pop(leaf.key, None)
            if found:
                return
        elif found is None or found.leaf.key != leaf.key:
            return
        del self.about[leaf.subject]

    def source(self, leaf: Leaf) -> Source:
        """Return the entry of an atom as a source, made if need be."""
        entry = self.find(leaf)
        if isinstance(entry, Source):
            return entry
        source = Source(leaf)
        if entry is not None:
            source.gates = dict.fromkeys(entry)
        self.put(leaf, source)
        return source

    def value(self, leaf: Leaf) -> Value:
        """Return what an atom that some plain condition mentions is worth."""
        entry = self.find(leaf)
        if entry is None:
            return TRUE
        return entry.value if isinstance(entry, Source) else WAIT


_plain_types: dict[type, bool] = {}


def is_plain_leaf(leaf: Leaf) -> bool:
    """Whether a leaf is decided once, by news."""
    kind = type(leaf)
    found = _plain_types.get(kind)
    if found is None:
        found = _plain_types[kind] = issubclass(kind, (Atom, JobAtom))
    return found


def is_plain(condition: Condition) -> bool:
    """Whether two counters per gate can say all about a condition: thresholds over atoms that are decided once."""
    for node in postorder(condition):
        if isinstance(node, Leaf):
            if not is_plain_leaf(node):
                return False
        elif not isinstance(node, Gate) or (isinstance(node, AtLeast) and _repeats(node)):
            return False
    return True


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

    def connect(self, leaf: Leaf, gate: int) -> bool:
        """Let an undecided atom feed a gate; False if it does already."""
        entries = self.entries
        entry = entries.find(leaf)
        if entry is None:
            entries.put(leaf, waiters(leaf, gate))
        elif isinstance(entry, Waiters):
            if entry[-1] == gate:
                return False
            if len(entry) < WIDE:
                entry.append(gate)
            else:
                entries.source(leaf).gates[gate] = None
        else:
            if gate in entry.gates:
                return False
            entry.gates[gate] = None
        return True

    def disconnect(self, leaf: Leaf, gate: int) -> None:
        """Let an atom feed a gate no more, and forget it if that was the last."""
        entry = self.entries.find(leaf)
        if isinstance(entry, Waiters):
            try:
                entry.remove(gate)
            except ValueError:
                return
            if not entry:
                self.entries.remove(leaf)
        elif entry is not None:
            entry.gates.pop(gate, None)
            if not entry.gates and not entry.graphs:
                self.entries.remove(leaf)

    def build(self, condition: Condition, values: dict[int, Value], serial: int) -> int:
        """Enter an undecided condition whose nodes have these values; return its root.

        Gates that are decided already are entered too: their atoms must be known for an explanation.
        """
        places: dict[int, int] = {}
        gates: list[tuple[int, Condition]] = []
        for node in postorder(condition):
            if not isinstance(node, Leaf) or node is condition:
                gate = places[id(node)] = self.new(0, 0)
                gates.append((gate, node))
                self._fill(gate, node, places, values)
        root = places[id(condition)]
        self.root[root] = self._form(condition, gates)
        self.serial[root] = serial
        return root

    def _fill(self, gate: int, node: Condition, places: dict[int, int], values: dict[int, Value]) -> None:
        """Connect the children of a gate and count them. One that stands twice in And or Or counts once."""
        children = node.of or (node,)
        true = dead = twice = 0
        for child in children:
            value = values[id(child)]
            true += value is TRUE
            if value is TRUE and isinstance(child, Leaf):
                continue
            is_new = self.connect(child, gate) if isinstance(child, Leaf) else self._feed(places[id(child)], gate)
            if is_new or value is TRUE:
                dead += value <= NEVER
            else:
                twice += 1
        count = len(children) - twice
        need = count if isinstance(node, And) else node.need if isinstance(node, Gate) else 1
        self.need[gate] = need - true
        self.slack[gate] = count - need + 1 - dead

    def _feed(self, below: int, gate: int) -> bool:
        above = self.up.get(below, ())
        if gate in above:
            return False
        self.up[below] = (*above, gate)
        return True

    @staticmethod
    def _form(condition: Condition, gates: list[tuple[int, Condition]]) -> Any:
        if all(isinstance(child, Leaf) for child in condition.of):
            if isinstance(condition, Leaf):
                return (condition,)
            return condition.of if isinstance(condition, And) else condition
        return Tree(condition, tuple(gates))

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

    def release(self, root: int) -> None:
        """Take out all that a registration still has in the table, and give its gates back."""
        found = self.root[root]
        if type(found) is Tree:
            for gate, node in found.gates:
                for child in node.of:
                    if isinstance(child, Leaf):
                        self.disconnect(child, gate)
                self.recycle(gate)
            return
        for leaf in found if type(found) is tuple else found.of or (found,):
            self.disconnect(leaf, root)
        self.recycle(root)

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
