"""What follows for those who wait: Fire, Drop, Lapse; and which atoms brought it about.

The resolver answers every message with a list of these; whoever called it carries them out. ``support`` picks, from a
tree and the values of its nodes, one smallest set of leaves that makes the root worth what it is: the witness of a
condition that fired, the dead that blocked one that was dropped. Iterative, as everything here.

Rule: a decision is a value; it holds no reference to the resolver.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from trun.conditions.algebra import Condition, Gate, Leaf, Never, Not, Settled, combine, postorder
from trun.conditions.forms import Grounds
from trun.conditions.timing import TimeLeaf
from trun.conditions.value import CANCELLED, HOLDS, NEVER, TRUE, Value


class Fire:
    """The condition of ``owner`` holds: it may run."""

    __slots__ = ("by", "owner", "value")

    def __init__(self, owner: Hashable, value: Value, by: Sequence[Condition] | Grounds = ()) -> None:
        self.owner = owner
        #: TRUE, or HOLDS where it may lapse again.
        self.value = value
        #: The atoms that made it hold, or the grounds to find them on.
        self.by = by

    @property
    def witness(self) -> tuple[str, ...]:
        """Keys of the atoms that made it hold."""
        if isinstance(self.by, Grounds):
            self.by = self.by.witness()
        return tuple(dict.fromkeys([leaf.key for leaf in self.by]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fire) and (self.owner, self.value) == (other.owner, other.value)

    def __hash__(self) -> int:
        return hash((Fire, self.owner))

    def __repr__(self) -> str:
        return f"Fire({self.owner!r}, {self.value.name})"


class Reason:
    """Why a condition can no longer hold."""

    __slots__ = ("atoms", "kind", "subjects", "text", "value")

    def __init__(
        self,
        value: Value,
        *,
        kind: str = "",
        atoms: tuple[Leaf, ...] = (),
        subjects: tuple[str, ...] = (),
        text: str = "",
    ) -> None:
        #: CANCELLED or NEVER.
        self.value = value
        #: ``cancelled`` or ``never``; callers may add kinds of their own.
        self.kind = kind or ("cancelled" if value is CANCELLED else "never")
        #: One minimal set of dead atoms.
        self.atoms = atoms
        #: The jobs that those atoms are about, in the same order, each once.
        self.subjects = subjects
        self.text = text

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of those atoms."""
        return tuple(atom.key for atom in self.atoms)

    def __str__(self) -> str:
        if self.text:
            return self.text
        return "was cancelled" if self.value is CANCELLED else "can never hold"

    def __repr__(self) -> str:
        return f"Reason({self.kind}: {self})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reason):
            return NotImplemented
        return (self.value, self.kind, self.keys, self.text) == (other.value, other.kind, other.keys, other.text)

    def __hash__(self) -> int:
        return hash((self.kind, self.atoms))


class Drop:
    """The condition of ``owner`` can never hold any more."""

    __slots__ = ("owner", "reason")

    def __init__(self, owner: Hashable, reason: Reason) -> None:
        self.owner = owner
        self.reason = reason

    @property
    def value(self) -> Value:
        """CANCELLED or NEVER."""
        return self.reason.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Drop) and (self.owner, self.value) == (other.owner, other.value)

    def __hash__(self) -> int:
        return hash((Drop, self.owner))

    def __repr__(self) -> str:
        return f"Drop({self.owner!r}, {self.reason!r})"


class Lapse:
    """The condition of ``owner`` held and holds no more; it waits again."""

    __slots__ = ("owner",)

    def __init__(self, owner: Hashable) -> None:
        self.owner = owner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lapse) and self.owner == other.owner

    def __hash__(self) -> int:
        return hash((Lapse, self.owner))

    def __repr__(self) -> str:
        return f"Lapse({self.owner!r})"


Decision = Fire | Drop | Lapse


def node_values(root: Condition, lookup: Callable[[Leaf], Value]) -> dict[int, Value]:
    """Return what every node of a tree is worth, by ``id`` of the node."""
    values: dict[int, Value] = {}
    for node in postorder(root):
        if isinstance(node, Leaf):
            values[id(node)] = lookup(node)
        else:
            values[id(node)] = combine(node, [values[id(child)] for child in node.of])
    return values


def support(root: Condition, values: Mapping[int, Value]) -> tuple[Leaf, ...]:
    """Return one smallest set of leaves that makes the root worth what it is, in written order."""
    found: dict[int, Leaf] = {}
    seen: set[int] = set()
    stack: list[Condition] = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Leaf):
            found[id(node)] = node
        elif isinstance(node, Gate):
            stack.extend(reversed(_decisive(node, [values[id(child)] for child in node.of], values[id(node)])))
        elif isinstance(node, Not | Never | Settled) or len(node.of) == 1:
            stack.append(node.of[0])
        else:
            dead = [child for child in node.of if values[id(child)] is values[id(node)]]
            stack.extend(reversed(dead[:1] if values[id(node)] <= NEVER and dead else list(node.of)))
    return tuple(found.values())


def _decisive(node: Gate, values: Sequence[Value], value: Value) -> list[Condition]:
    """Return the children of a threshold gate that decide its value: the best k, or the worst n-k+1."""
    need, children = node.need, node.of
    if value >= HOLDS:
        if need >= len(children):
            return list(children)
        order = sorted(range(len(children)), key=lambda index: -values[index])[:need]
    else:
        order = sorted(range(len(children)), key=values.__getitem__)[: len(children) - need + 1]
    return [children[index] for index in sorted(order)]


def fire(owner: Hashable, root: Condition, values: Mapping[int, Value]) -> Fire:
    """Return the decision that ``root`` holds, with its witness."""
    return Fire(owner, values[id(root)], support(root, values))


def drop(owner: Hashable, root: Condition, values: Mapping[int, Value], why: Callable[[str], str]) -> Drop:
    """Return the decision that ``root`` is dead; ``why(key)`` says what ended one atom."""
    atoms: dict[str, Leaf] = {leaf.key: leaf for leaf in support(root, values)}
    subjects = dict.fromkeys(getattr(leaf, "subject", "") for leaf in atoms.values())
    subjects.pop("", None)
    value = values[id(root)]
    parts = []
    for key, leaf in list(atoms.items())[:3]:
        text = why(key)
        parts.append(ends(leaf, values[id(leaf)]) + (f" ({text})" if text else ""))
    if len(atoms) > 3:
        parts.append(f"and {len(atoms) - 3} more")
    return Drop(owner, Reason(value, atoms=tuple(atoms.values()), subjects=tuple(subjects), text=", ".join(parts)))


def ends(leaf: Leaf, value: Value) -> str:
    """Return in words how a leaf stands."""
    if value is NEVER and isinstance(leaf, TimeLeaf):
        return leaf.passed()
    if value is TRUE:
        stands = "is true"
    elif value is CANCELLED:
        stands = "was cancelled"
    else:
        stands = "can never be" if value is NEVER else "is not true yet" if value < HOLDS else "holds"
    return f"{label(leaf)} {stands}"


def label(leaf: Leaf) -> str:
    """Return the name of a leaf for people."""
    try:
        return str(leaf)
    except KeyError:  # nobody has brought the text form into this process
        return leaf.key
