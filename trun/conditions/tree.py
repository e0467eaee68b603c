"""The tree of an explanation: as rows of plain data, and as lines with marks.

``rows_of`` walks a condition from the root, parents before children, at most ``MAX_ROWS`` rows and ``MAX_CHILDREN`` of
one gate (what blocks first); ``draw`` writes rows as lines, folding gates with many children. Rows travel, so both
sides of a wire draw the same.

Rule: iterative, and what is left out is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trun.conditions.algebra import And, AtLeast, Condition, Gate, Leaf, Never, Not, Settled, postorder
from trun.conditions.causes import Causes, Part
from trun.conditions.timing import Held, Since
from trun.conditions.value import HOLDS, NEVER, TRUE, WAIT, Value
from trun.conditions.writing import span_text

#: "Not yet" has a mark of its own: ✗ is the look of a job that failed, and what waits has not.
MARKS = {Value.CANCELLED: "⊘", NEVER: "⊘", WAIT: "○", HOLDS: "✓", TRUE: "✓"}
#: What stands for the condition that asks for nothing.
NO_CONDITION = "no condition"
#: Most rows in all, and below one gate.
MAX_ROWS = 2_000
MAX_CHILDREN = 200
#: Most children of one gate, levels, and lines in text.
SHOWN_CHILDREN = 8
SHOWN_DEPTH = 12
SHOWN_LINES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node of the tree."""

    #: Distance from the root.
    depth: int
    #: What the node is worth, 0 to 4.
    value: int
    #: The node in words.
    text: str
    #: Content hash of the node.
    key: str = ""
    #: Whether it is an atom, or a gate over one, that blocks.
    blocking: bool = False
    #: How many children are true, not yet, and never.
    counts: tuple[int, int, int] = (0, 0, 0)
    #: How many children have no row.
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        found = asdict(self)
        found["mark"] = MARKS[Value(self.value)]
        found["counts"] = list(self.counts)
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Return the row of plain data; what is not there or no number counts as nothing."""
        value, counts = _whole(data.get("value"), 2), data.get("counts")
        triple = (
            [_whole(count) for count in counts] if isinstance(counts, list | tuple) and len(counts) == 3 else [0, 0, 0]
        )
        return cls(
            depth=max(0, _whole(data.get("depth"))),
            value=value if value in tuple(Value) else WAIT,
            text=str(data.get("text", "")),
            key=str(data.get("key", "")),
            blocking=data.get("blocking") is True,
            counts=(triple[0], triple[1], triple[2]),
            left_out=max(0, _whole(data.get("left_out"))),
        )


def _whole(value: Any, other: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else other


def rows_of(causes: Causes, blocking: Sequence[Part], leaf_text: Callable[[Leaf], str]) -> list[Row]:
    """Return the tree of a condition as rows."""
    blocked = {id(part.leaf) for part in blocking}
    leads = _leading(causes.condition, blocked)
    rows: list[Row] = []
    stack: list[tuple[Condition, int]] = [(causes.condition, 0)]
    while stack and len(rows) < MAX_ROWS:
        node, depth = stack.pop()
        of = () if is_inline(node) else node.of
        shown = _first(of, causes, leads, min(MAX_CHILDREN, MAX_ROWS - len(rows)))
        marks = [MARKS[causes.values[id(child)]] for child in of]
        rows.append(
            Row(
                depth=depth,
                value=int(causes.values[id(node)]),
                text=node_text(node, leaf_text),
                key=node.key,
                blocking=not of and _blocks(node, causes, blocked),
                counts=(marks.count(MARKS[TRUE]), marks.count(MARKS[WAIT]), marks.count(MARKS[NEVER])),
                left_out=len(of) - len(shown),
            )
        )
        stack.extend((child, depth + 1) for child in reversed(shown))
    return rows


def _blocks(node: Condition, causes: Causes, blocked: set[int]) -> bool:
    """Whether a row without rows below it blocks: its leaf does, and a gate over it is no better than the whole."""
    if isinstance(node, Leaf):
        return id(node) in blocked
    return causes.values[id(node)] <= causes.value and any(id(child) in blocked for child in node.of)


def _leading(root: Condition, blocked: set[int]) -> set[int]:
    """Return ids of nodes that block or have something below them that does."""
    found: set[int] = set(blocked)
    if not blocked:
        return found
    for node in postorder(root):
        if any(id(child) in found for child in node.of):
            found.add(id(node))
    return found


def _first(of: Sequence[Condition], causes: Causes, leads: set[int], most: int) -> list[Condition]:
    """Return so many children, those that block first, in their own order."""
    if len(of) <= most:
        return list(of)
    ranked = sorted(range(len(of)), key=lambda place: (id(of[place]) not in leads, place))[:most]
    return [of[place] for place in sorted(ranked)]


def is_inline(node: Condition) -> bool:
    """Whether a node is written in one line with what is below it: a leaf, or a gate other than And, Or over leaves."""
    return isinstance(node, Leaf) or (not isinstance(node, Gate) and all(isinstance(child, Leaf) for child in node.of))


def node_text(node: Condition, leaf_text: Callable[[Leaf], str]) -> str:
    """Return a node in words."""
    if isinstance(node, Leaf):
        return leaf_text(node)
    if isinstance(node, Gate):
        count = len(node.of)
        if not count:
            return NO_CONDITION if node.need == 0 else "any() of nothing"
        if isinstance(node, AtLeast):
            return f"at least {node.need} of {count}"
        return f"{'all' if isinstance(node, And) else 'one'} of {count}"
    inside = [leaf_text(child) for child in node.of if isinstance(child, Leaf)] if is_inline(node) else []
    if isinstance(node, Not):
        return f"~{inside[0]}" if inside else "not"
    if isinstance(node, Held):
        return f"held({inside[0]}, {span_text(node.span_s)})" if inside else f"held for {span_text(node.span_s)}"
    if isinstance(node, Since):
        return f"since({inside[0]}, {inside[1]})" if inside else "since: the first came true after the second"
    assert isinstance(node, Never | Settled)
    return f"{node.op}({inside[0]})" if inside else node.op


# -- lines


def draw(rows: Sequence[Row]) -> list[str]:
    """Return the rows as lines with marks and branches."""
    if not rows:
        return []
    children: list[list[int]] = [[] for _ in rows]
    path: list[int] = []
    for place, row in enumerate(rows):
        del path[row.depth :]
        if path:
            children[path[-1]].append(place)
        path.append(place)
    leads = [row.blocking for row in rows]
    for place in range(len(rows) - 1, -1, -1):
        leads[place] = leads[place] or any(leads[child] for child in children[place])
    lines: list[str] = []
    stack: list[tuple[int, str, str]] = [(0, "", "")]
    while stack:
        place, head, tail = stack.pop()
        if len(lines) >= SHOWN_LINES:
            lines.append("... (the rest is left out)")
            break
        if place < 0:
            lines.append(tail)
            continue
        row, of = rows[place], children[place]
        wide = len(of) + row.left_out > SHOWN_CHILDREN
        lines.append(head + _line(row, wide))
        if of and row.depth >= SHOWN_DEPTH:
            lines.append(f"{tail}└ ... (what lies deeper is left out)")
            continue
        shown = _shown(of, leads, rows) if wide else of
        hidden = len(of) + row.left_out - len(shown)
        branches = [(child, f"{tail}├ ", f"{tail}│  ") for child in shown]
        if hidden:
            branches.append((-1, "", f"{tail}└ ... and {hidden} more"))
        elif branches:
            branches[-1] = (shown[-1], f"{tail}└ ", f"{tail}   ")
        stack.extend(reversed(branches))
    return lines


def _line(row: Row, wide: bool) -> str:
    counts = ""
    if wide or row.text.startswith("at least"):
        said = zip(row.counts, ("true", "not yet", "never"), strict=True)
        counts = ": " + ", ".join(f"{count} {word}" for count, word in said if count)
    return f"{MARKS[Value(row.value)]} {row.text}{counts}" + ("  ◀ blocking" if row.blocking else "")


def _shown(of: Sequence[int], leads: Sequence[bool], rows: Sequence[Row]) -> list[int]:
    """Return the few children of a wide gate that are shown: what blocks first, then what is dead."""
    ranked = sorted(of, key=lambda place: (not leads[place], rows[place].value > NEVER, place))
    return sorted(ranked[: SHOWN_CHILDREN - 3])
