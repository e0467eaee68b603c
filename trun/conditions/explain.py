"""Why a condition holds, waits, or never will: one answer in every form.

``str`` is the tree with marks (✓ true, ○ not yet, ⊘ never), what blocks, and what would be enough; ``to_dict`` the same
as plain data, from which ``from_dict`` makes an explanation with the same text elsewhere. The values are those that
decided, read once, so the tree adds up with the verdict. Others may add lines (``extra``): resources, the queue.

It decides nothing (see ``causes`` for what rests on what). Rule: never an empty answer; wide gates are folded in text
and capped in data, with counts of what was left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trun.conditions.algebra import And, Condition, Leaf, faces
from trun.conditions.atoms import JobAtom
from trun.conditions.causes import Causes, Part, leaves
from trun.conditions.phrases import duration, name_and_detail, past, phrase
from trun.conditions.timing import At, Before
from trun.conditions.tree import MARKS, NO_CONDITION, Row, draw, rows_of
from trun.conditions.value import HOLDS, NEVER, WAIT, Value
from trun.conditions.writing import leaf_text, shared_names
from trun.errors import ConditionSyntaxError

#: How many missing sets, and parts of one, are put into words.
SETS_IN_TEXT, PARTS_IN_TEXT = 3, 4
SETS_IN_DATA, PARTS_IN_DATA = 10, 50
#: How many blocking atoms are listed in data.
ATOMS_IN_DATA = 200

Describe = Callable[[Leaf], str]


class Explanation:
    """Why something waits, will never run, or ran.

    ``value`` is what the condition was worth; ``blocking`` the atoms that matter now (while it waits: undecided ones
    that could help; once it is dead: one minimal set that killed it; else none); ``witness`` those on which a
    condition that holds rests. To ``extra``, a list of lines, anybody may add.
    """

    def __init__(
        self,
        causes: Causes | None = None,
        *,
        describe: Describe | None = None,
        now: float | None = None,
        over: bool = False,
    ) -> None:
        self._causes = causes if causes is not None else Causes(And(), lambda leaf: leaf.latch)
        self._describe = describe
        self._now = now
        #: Nobody waits for the condition any more: nothing blocks, and nothing would be enough.
        self._over = over
        self._data: Mapping[str, Any] | None = None
        self._shared: set[str] | None = None
        self._rows: list[Row] | None = None
        self._ways: list[tuple[Part, ...]] | None = None
        #: What the condition is worth.
        self.value: Value = self._causes.value
        #: Lines that others add: resources, the queue.
        self.extra: list[str] = []

    # -- what it says

    @property
    def blocking(self) -> tuple[Any, ...]:
        """The atoms that matter now; texts where another process told no more."""
        if self._data is not None:
            return tuple(_told(self._data, "blocking"))
        return leaves(self._blocking())

    def _blocking(self) -> tuple[Part, ...]:
        return () if self._over and self.value is WAIT else self._causes.blocking()

    @property
    def witness(self) -> tuple[Any, ...]:
        """One minimal set of atoms on which it rests that the condition holds; empty unless it does."""
        if self._data is not None:
            return tuple(_told(self._data, "witness"))
        return leaves(self._causes.decisive()) if self.value >= HOLDS else ()

    @property
    def missing(self) -> Iterator[frozenset[Any]]:
        """Minimal sets of atoms that would be enough, smallest first; a fresh iterator each time."""
        if self._data is not None:
            return iter([frozenset(one) for one in _told(self._data, "missing")])
        return (frozenset(leaves(parts)) for parts in ([] if self._over else self._causes.missing()))

    @property
    def summary(self) -> str:
        """One sentence: what would be enough, what killed it, or on what it rests; empty without a condition."""
        if self._data is not None:
            return str(self._data.get("summary", ""))
        if self.value is WAIT:
            return self._was_open() if self._over else self._starts_when()
        parts = self._causes.decisive()
        if not parts:
            return "" if self.value >= HOLDS else "it can never hold: it asks for more than there is"
        said = _several(
            [past(part.leaf, part.goal, *self._name(part.leaf)) for part in parts[: PARTS_IN_TEXT + 1]], parts
        )
        if self.value >= HOLDS:
            return f"its condition held: {said}" if self._over else f"holds: {said}"
        return f"{'can never hold' if self.value is NEVER or self._over else 'cancelled'}: {said}"

    def _was_open(self) -> str:
        """Say what was undecided when somebody ended the waiting."""
        parts = self._causes.blocking()
        said = [self._leaf_name(part.leaf) for part in parts[: PARTS_IN_TEXT + 1]]
        return f"its condition was still open: {_several(said, parts)}"

    def _leaf_name(self, leaf: Leaf) -> str:
        name, shared = self._name(leaf)
        return leaf_text(leaf, shared, name)

    def _starts_when(self) -> str:
        ways = self._first_ways()[: SETS_IN_TEXT + 1]
        if not ways:
            return "waits, although what it asks for cannot come true together"
        said = [_several(self._phrases(parts[: PARTS_IN_TEXT + 1]), parts) for parts in ways[:SETS_IN_TEXT]]
        unlike = list(dict.fromkeys(said))
        more = ", or in other ways" if len(ways) > len(unlike) else ""
        return f"starts when {', or '.join(unlike)}{more}"

    def _first_ways(self) -> list[tuple[Part, ...]]:
        if self._ways is None:
            self._ways = [] if self._over else list(itertools.islice(self._causes.missing(), SETS_IN_DATA))
        return self._ways

    def _phrases(self, parts: tuple[Part, ...]) -> list[str]:
        return [phrase(part.leaf, part.goal, *self._name(part.leaf)) for part in parts]

    def _names_in_use(self) -> set[str]:
        if self._shared is None:
            self._shared = shared_names(self._causes.condition)
        return self._shared

    def _name(self, leaf: Leaf) -> tuple[str, set[str]]:
        """Return what to call the thing that a leaf is about, and which plain names to avoid."""
        if self._describe is None or not isinstance(leaf, JobAtom):
            return "", self._names_in_use()
        return name_and_detail(leaf, self._describe(leaf))[0], self._names_in_use()

    def _leaf_text(self, leaf: Leaf) -> str:
        """Return the text of a leaf in the tree, with what the caller knows of it."""
        if self._now is not None and isinstance(leaf, At) and leaf.instant > self._now:
            left = duration(leaf.instant - self._now)
            return f"{leaf_text(leaf)} [{f'{left} left' if isinstance(leaf, Before) else f'in {left}'}]"
        if self._describe is None:
            return leaf_text(leaf, self._names_in_use())
        described = self._describe(leaf)
        if not isinstance(leaf, JobAtom):
            return described
        name, detail = name_and_detail(leaf, described)
        return leaf_text(leaf, subject=name) + (f" [{detail}]" if detail else "")

    # -- forms

    def rows(self) -> list[Row]:
        """Return the tree as a flat list, parents before children."""
        if self._rows is None:
            if self._data is not None:
                self._rows = [Row.from_dict(row) for row in _list(self._data, "tree") if isinstance(row, Mapping)]
            else:
                self._rows = rows_of(self._causes, self._blocking(), self._leaf_text)
        return self._rows

    def lines(self) -> list[str]:
        """Return the text, line by line."""
        rows = self.rows()
        # Without a condition there is nothing to tick off where others say what became of the job.
        found = [] if self.extra and len(rows) == 1 and rows[0].text == NO_CONDITION else draw(rows)
        summary = self.summary
        return [*found, *([summary] if summary else []), *self.extra]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"<explanation {self.value.name}: {self.summary or 'no condition'}>"

    def _repr_html_(self) -> str:
        lines = []
        for line in self.lines():
            mark = next((char for char in line.lstrip("│├└─ ")[:1] if char in _CLASSES), "")
            text = line.translate(_ESCAPES)
            lines.append(f'<span class="trun-{_CLASSES[mark]}">{text}</span>' if mark else text)
        return '<pre class="trun-explanation">' + "\n".join(lines) + "</pre>"

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain data (numbers, texts, lists, maps)."""
        blocking: tuple[Any, ...] = self.blocking
        witness: tuple[Any, ...] = self.witness
        if self._data is not None:
            blocking, witness = tuple(_texts(self._data, "blocking")), tuple(_texts(self._data, "witness"))
        return {
            "value": int(self.value),
            "state": self.value.name.lower(),
            "summary": self.summary,
            "tree": [row.to_dict() for row in self.rows()],
            "blocking": [self._text(atom) for atom in blocking[:ATOMS_IN_DATA]],
            "blocking_count": len(blocking),
            "missing": self._missing_texts(),
            "witness": [self._text(atom) for atom in witness[:ATOMS_IN_DATA]],
            "extra": list(self.extra),
        }

    def atoms_data(self) -> dict[str, list[Any]]:
        """Return the atoms of blocking, witness and missing in wire form, for ``from_dict`` under "atoms"."""
        return {
            "blocking": [atom.to_dict() for atom in self.blocking[:ATOMS_IN_DATA]],
            "witness": [atom.to_dict() for atom in self.witness[:ATOMS_IN_DATA]],
            "missing": [[part.leaf.to_dict() for part in parts[:ATOMS_IN_DATA]] for parts in self._first_ways()],
        }

    def _text(self, atom: Any) -> str:
        return atom if isinstance(atom, str) else self._leaf_text(atom)

    def _missing_texts(self) -> list[list[str]]:
        if self._data is not None:
            return [[str(text) for text in one] for one in _list(self._data, "missing") if isinstance(one, list)]
        ways = self._first_ways()[:SETS_IN_DATA]
        return [
            self._phrases(parts[:PARTS_IN_DATA])
            + ([f"{len(parts) - PARTS_IN_DATA} more"] if len(parts) > PARTS_IN_DATA else [])
            for parts in ways
        ]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Explanation:
        """Return the explanation that another process gave as plain data."""
        made = Explanation()
        made._data = data if isinstance(data, Mapping) else {}
        value = made._data.get("value")
        made.value = Value(value) if value in tuple(Value) else WAIT
        made.extra = _texts(made._data, "extra")
        return made


_CLASSES = {MARKS[HOLDS]: "true", MARKS[WAIT]: "wait", MARKS[NEVER]: "never"}
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def _list(data: Mapping[str, Any], field: str) -> list[Any]:
    found = data.get(field)
    return list(found) if isinstance(found, list | tuple) else []


def _texts(data: Mapping[str, Any], field: str) -> list[str]:
    return [str(text) for text in _list(data, field)]


def _told(data: Mapping[str, Any], field: str) -> list[Any]:
    """Return the atoms that another process told under this name, or their texts; for ``missing``, lists of them."""
    atoms = data.get("atoms")
    try:
        found = _list(atoms, field) if isinstance(atoms, Mapping) else []
        made = [_read(one) for one in found]
    except ConditionSyntaxError:  # of a later version
        made = []
    texts = _list(data, field)
    return made or [list(map(str, one)) if isinstance(one, list) else str(one) for one in texts]


def _read(atom: Any) -> Any:
    return [_read(one) for one in atom] if isinstance(atom, list) else Condition.from_dict(atom)


def _several(said: list[str], parts: tuple[Part, ...]) -> str:
    """Join phrases; of many, the first few and how many more."""
    if not parts:
        return "enough time has passed"
    if len(parts) <= PARTS_IN_TEXT:
        return " and ".join(said)
    shown = PARTS_IN_TEXT - 1
    return f"{', '.join(said[:shown])} and {len(parts) - shown} more"


def explain(condition: Condition) -> Explanation:
    """Explain a condition by what this process knows of its atoms."""
    return Explanation(Causes(condition, lambda leaf: leaf.latch))


def explain_tree(
    condition: Condition,
    lookup: Callable[[Leaf], Value],
    describe: Describe | None = None,
    now: float | None = None,
    *,
    gates: Callable[[Condition], Value | None] | None = None,
    over: bool = False,
) -> Explanation:
    """Explain a condition by the values of whoever decides about it.

    Parameters
    ----------
    condition
        The condition.
    lookup
        Value of each leaf.
    describe
        What to call a leaf, with its present state in square brackets behind it where that is known:
        ``fetch#3.completed [running, 41 %]``.
    now
        The time, to say how far off instants are.
    gates
        Value of ``held`` and ``since`` gates, which depend on more than the values below them; None: as for latches.
    over
        Nobody waits for it any more: an undecided condition blocks nothing and is said to have been open.
    """
    return Explanation(Causes(condition, lookup, gates), describe=describe, now=now, over=over)


faces["explain"] = explain
