"""The forms of trees: how their gates hang together, whatever their atoms are.

Most trees that wait have a form in common: "any of 5 and any of 5" is said once, and a registration adds its atoms as
one tuple, in written order. From both the condition can be made again. ``Plain`` keeps the numbers of the gates.

It holds no values and knows no registration. Rule: a form never changes; the condition made of one has the same nodes
in the same places as the one that it was taken from, and a node that stood in two places does so again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trun.conditions.algebra import And, AtLeast, Condition, Gate, Leaf, Or

#: A gate of a form: its type, how many children it needs, and which gate each child is (-1: the next atom).
Part = tuple[type[Gate], int, tuple[int, ...]]


class Form:
    """Gates without atoms, children before parents."""

    __slots__ = ("is_quorum", "last", "lower", "nothing", "parents", "parts", "starts")

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        kind, need, codes = parts[-1]
        #: Whether the root needs several of its children, but not all.
        self.is_quorum = kind is AtLeast and 1 < need < len(codes)
        #: The number of the root.
        self.last = len(parts) - 1
        parents: list[dict[int, None]] = [{} for _ in parts]
        starts: list[int] = []
        lower: list[tuple[int, int, tuple[int, ...]]] = []
        start = 0
        for index, (_, need, codes) in enumerate(parts):
            starts.append(start)
            below = tuple(code for code in dict.fromkeys(codes) if code >= 0)
            for child in below:
                parents[child][index] = None
            atoms = codes.count(-1)
            start += atoms
            if atoms:
                lower.append((index, len(codes) - need + 1, below))
        #: Where among the atoms those of each gate begin.
        self.starts = tuple(starts)
        #: The gates that each feeds.
        self.parents = tuple(tuple(found) for found in parents)
        #: Gates with atoms of their own, parents before children: which, what it can lose while nothing is decided
        #: (plus one), and the gates among its children.
        self.lower = tuple(reversed(lower))
        #: What ``Plain`` puts in the place of gates that are gone.
        self.nothing = [None] * len(parts)

    def children(self, index: int, leaves: Sequence[Leaf]) -> list[Leaf | int]:
        """Return the children of a gate: atoms, or numbers of gates."""
        at = self.starts[index]
        found: list[Leaf | int] = []
        for code in self.parts[index][2]:
            if code < 0:
                found.append(leaves[at])
                at += 1
            else:
                found.append(code)
        return found

    def own(self, index: int, leaves: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
        """Return the atoms among the children of a gate."""
        end = self.starts[index + 1] if index < self.last else len(leaves)
        return leaves[self.starts[index] : end]

    def condition(self, leaves: Sequence[Leaf]) -> Condition:
        """Make the condition of this form over these atoms."""
        nodes: list[Condition] = []
        for index, (kind, need, _) in enumerate(self.parts):
            of = [nodes[child] if isinstance(child, int) else child for child in self.children(index, leaves)]
            nodes.append(AtLeast(need, *of) if kind is AtLeast else And(*of) if kind is And else Or(*of))
        return nodes[-1]


def take_apart(gates: Sequence[Gate]) -> tuple[tuple[Part, ...], tuple[Leaf, ...]]:
    """Return what gates, children before parents, are made of: the parts of their form, and the atoms."""
    places: dict[int, int] = {}
    parts: list[Part] = []
    leaves: list[Any] = []
    for index, node in enumerate(gates):
        of = node.of
        kind: type[Gate] = And if isinstance(node, And) else Or if isinstance(node, Or) else AtLeast
        codes = tuple([places.get(id(child), -1) for child in of]) if places else (-1,) * len(of)
        if max(codes, default=-1) < 0:
            leaves += of
        else:
            leaves += [child for child, code in zip(of, codes, strict=True) if code < 0]
        parts.append((kind, node.need, codes))
        places[id(node)] = index
    return tuple(parts), tuple(leaves)


class Grounds(tuple[Form, tuple[Leaf, ...], int, list[Any]]):
    """What a tree fired on, as long as nobody asks: what made each of its gates true, as far as it did not need all.

    Its form, its atoms, the number of its first gate as it was while it waited; per gate an atom, the number of a gate,
    or several of both. A tuple, since one is made for each tree that fires.
    """

    __slots__ = ()

    def witness(self) -> tuple[Leaf, ...]:
        """Return one smallest set of atoms that made the condition true, in written order."""
        form, leaves, first, done = self
        found: dict[int, Leaf] = {}
        stack: list[Any] = [form.last]
        seen: set[int] = set()
        while stack:
            child = stack.pop()
            if not isinstance(child, int):
                found[id(child)] = child
                continue
            if child in seen:
                continue
            seen.add(child)
            _, need, codes = form.parts[child]
            if need >= len(codes):
                stack += reversed(form.children(child, leaves))
            elif need:
                by = done[child]
                several = by if type(by) is tuple else (by,)
                stack += [one - first if isinstance(one, int) else one for one in reversed(several)]
        return tuple(found.values())
