"""The expression tree: operators, evaluation, structure.

A condition is a tree of gates over atoms: And, Or and AtLeast are one kind of gate (a threshold), Not, never,
settled, held and since are gates of their own. Trees are frozen; what they are worth is asked of the atoms. Nested
And (Or) flatten, lazily, so that a chain built one by one stays linear. Everything here is iterative: no depth of
tree exhausts the stack.

It does not resolve (see ``resolver``), print (``text``) or travel (``wire``). Rule: De Morgan, excluded middle and
non-contradiction do not hold on the chain; never simplify by them, and never drop an atom from ``depends``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from trun.conditions.value import CANCELLED, NEVER, NEVER_OF, NOT, SETTLED, TRUE, WAIT, Value
from trun.errors import BadOption, ConditionTypeError, TrunError

#: What the rooms above this one do for the methods of a condition: write, to_dict, from_dict, explain, deadline.
#: Each puts itself in when it is imported, so that no import looks up.
faces: dict[str, Callable[..., Any]] = {}


class ConditionCancelled(TrunError):
    """The condition was cancelled, so it can be neither ready nor not."""

    code = "T110"


class Condition:
    """Something that may hold. Combine with ``&``, ``|`` and ``~`` (``-c`` is the same as ``~c``)."""

    __slots__ = ("__weakref__", "_key")
    _key: str

    #: Raised by ``ready`` where the value is CANCELLED.
    Cancelled: ClassVar[type[ConditionCancelled]] = ConditionCancelled

    # -- operators

    def __and__(self, other: Condition) -> And:
        return And(self, _operand(other, "&"))

    def __or__(self, other: Condition) -> Or:
        return Or(self, _operand(other, "|"))

    def __rand__(self, other: Any) -> NoReturn:
        _operand(other, "&")
        raise AssertionError

    def __ror__(self, other: Any) -> NoReturn:
        _operand(other, "|")
        raise AssertionError

    def __invert__(self) -> Condition:
        return Not(self)

    def __neg__(self) -> Condition:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise ConditionTypeError(
            f"{_short(self)} is a condition and has no truth value: write & for 'and', | for 'or', ~ for 'not' "
            "(in brackets where needed); its present value is .ready"
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Condition):
            return self is other or self.key == other.key
        if other is None:
            return False
        hint = (
            "write the condition alone, or ~ before it; its present value is .ready"
            if isinstance(other, bool)
            else "for a comparison of values inside use job.improved('x == 3')"
        )
        raise ConditionTypeError(
            f"{_short(self)} == {other!r} compares a condition with {type(other).__name__}; {hint}, and put brackets "
            "around each side of & and |"
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.key)

    def _no_order(self, other: object) -> NoReturn:
        raise ConditionTypeError(
            f"{_short(self)} cannot be ordered against {other!r}; for a threshold use job.improved('x < 1') or "
            "job.reaches(0.5), and put brackets around each side of & and |"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _no_order

    # -- what it is worth

    @property
    def value(self) -> Value:
        """What the condition is worth now, as far as this process knows."""
        return evaluate(self, _latch)

    @property
    def ready(self) -> bool:
        """Whether it is true now; raises ``Condition.Cancelled`` where it was cancelled."""
        value = self.value
        if value is CANCELLED:
            raise ConditionCancelled(f"{_short(self)} was cancelled.")
        return value.is_ready

    @property
    def cancelled(self) -> bool:
        """Whether the question was withdrawn."""
        return self.value is CANCELLED

    @property
    def never(self) -> bool:
        """Whether it is false for good (and not cancelled)."""
        return self.value is NEVER

    @property
    def settled(self) -> bool:
        """Whether its value can no longer change."""
        return self.value.is_settled

    @property
    def depends(self) -> frozenset[Leaf]:
        """Every atom mentioned, also those that simplification would drop."""
        return frozenset(node for node in postorder(self) if isinstance(node, Leaf))

    @property
    def key(self) -> str:
        """Content hash of the normal form: equal on every machine for equal trees, whatever the order and nesting."""
        try:
            return self._key
        except AttributeError:
            return _make_keys(self)

    def explain(self) -> Any:
        """Say why it holds, waits, or never will; ``str()`` of the answer is the tree with marks."""
        return faces["explain"](self)

    def within(self, span: Any) -> And:
        """Return "and not later than so long after registration": a deadline (``"10m"``, seconds, timedelta)."""
        return And(self, faces["deadline"](span))

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form as plain data (see ``wire``)."""
        found: dict[str, Any] = faces["to_dict"](self)
        return found

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Condition:
        """Return the condition of a wire form; bad data raises ``ConditionSyntaxError``."""
        found: Condition = faces["from_dict"](data)
        return found

    def __str__(self) -> str:
        return str(faces["write"](self))

    def __repr__(self) -> str:
        return f"<condition {_short(self)}>"

    def _repr_html_(self) -> str:
        return str(self.explain()._repr_html_())

    # -- structure, for the other modules of this room

    @property
    def of(self) -> tuple[Condition, ...]:
        """The children, in the order in which they were written."""
        return ()


class Leaf(Condition):
    """A condition without children: all kinds of atoms (see ``atoms`` and ``timing``)."""

    __slots__ = ()

    @property
    def latch(self) -> Value:
        """What this process knows of the atom's value."""
        return WAIT

    @property
    def value(self) -> Value:
        """What the atom is worth now, as far as this process knows."""
        return self.latch

    @property
    def depends(self) -> frozenset[Leaf]:
        """The atom itself."""
        return frozenset((self,))


class Gate(Condition):
    """A threshold over children: as many of them as ``need`` must hold."""

    __slots__ = ("_of",)
    _of: tuple[Condition, ...]

    @property
    def of(self) -> tuple[Condition, ...]:
        """The children, flattened."""
        return self._of

    @property
    def need(self) -> int:
        """How many children must hold."""
        raise NotImplementedError


class _Chain(Gate):
    """And, Or: built one by one without copying, flattened at the first look."""

    __slots__ = ("_flat",)
    _flat: bool

    def __init__(self, *conditions: Condition) -> None:
        self._of = tuple(_operand(c, type(self).__name__) for c in _spread(conditions))
        self._flat = False

    @property
    def of(self) -> tuple[Condition, ...]:
        """The children, flattened."""
        if not self._flat:
            self._flatten()
        return self._of

    def _flatten(self) -> None:
        kind = type(self)
        if any(type(child) is kind for child in self._of):
            flat: list[Condition] = []
            stack = list(reversed(self._of))
            seen: set[int] = set()
            while stack:
                node = stack.pop()
                # An empty Or is NEVER, which is more than CANCELLED: it may not vanish.
                if type(node) is kind and (node._of or kind is And):
                    # The same chain again means nothing new; unfolding it each time would double with each level.
                    if id(node) not in seen:
                        seen.add(id(node))
                        stack.extend(reversed(node._of))
                else:
                    flat.append(node)
            self._of = tuple(flat)
        self._flat = True


class And(_Chain):
    """Holds while all hold: the minimum. Without children it is TRUE."""

    __slots__ = ()

    @property
    def need(self) -> int:
        """All of them."""
        return len(self.of)


class Or(_Chain):
    """Holds while one holds: the maximum. Without children it is NEVER."""

    __slots__ = ()

    @property
    def need(self) -> int:
        """One of them."""
        return 1


class AtLeast(Gate):
    """Holds while at least ``k`` hold: the k-th largest. ``k`` may be a percentage, ``"60%"``, rounded up.

    ``AtLeast(0, ...)`` is TRUE; more than there are is NEVER; a negative k is a ValueError.
    """

    __slots__ = ("k",)

    def __init__(self, k: int | str, *conditions: Condition) -> None:
        self._of = tuple(_operand(c, "AtLeast") for c in _spread(conditions))
        #: How many must hold.
        self.k = share_count(k, len(self._of))

    @property
    def need(self) -> int:
        """How many must hold."""
        return self.k


class Unary(Condition):
    """A gate over one child."""

    __slots__ = ("child",)
    table: ClassVar[Sequence[Value]]
    op: ClassVar[str]

    def __init__(self, condition: Condition) -> None:
        self.child = _operand(condition, self.op)

    @property
    def of(self) -> tuple[Condition, ...]:
        """The one child."""
        return (self.child,)


class Not(Unary):
    """True while the child is not: ``~c``. Over something undecided it is true already; see ``never`` for waiting."""

    __slots__ = ()
    table = NOT
    op = "not"


class Never(Unary):
    """Holds once it is certain that the child will not hold."""

    __slots__ = ()
    table = NEVER_OF
    op = "never"


class Settled(Unary):
    """Holds once the child is decided, either way."""

    __slots__ = ()
    table = SETTLED
    op = "settled"


def all_of(*conditions: Condition) -> And:
    """Return the condition that all hold."""
    return And(*conditions)


def any_of(*conditions: Condition) -> Or:
    """Return the condition that one holds."""
    return Or(*conditions)


def at_least(k: int | str, *conditions: Condition) -> AtLeast:
    """Return the condition that at least k (or ``"60%"``) hold."""
    return AtLeast(k, *conditions)


def never(condition: Condition) -> Never:
    """Return the condition that ``condition`` has turned out not to happen; waits until that is certain."""
    return Never(condition)


def settled(condition: Condition) -> Settled:
    """Return the condition that ``condition`` is decided, either way."""
    return Settled(condition)


def share_count(k: int | str, total: int) -> int:
    """Return a threshold as a number: ``"60%"`` of ``total`` rounded up, or k itself."""
    if isinstance(k, str):
        try:
            percent = float(k.strip().removesuffix("%")) if k.strip().endswith("%") else -1.0
        except ValueError:
            percent = -1.0
        if 0 <= percent <= 100:
            return -int(-(percent * total) // 100)
    elif isinstance(k, int) and not isinstance(k, bool):
        if k < 0:
            raise BadOption(f"a threshold is at least 0, not {k}.")
        return k
    raise BadOption(f'a threshold is a whole number or a percentage between "0%" and "100%", not {k!r}.')


# -- walking and evaluating


def postorder(root: Condition) -> Iterator[Condition]:
    """Yield each distinct node object once, children before parents. Iterative."""
    seen: set[int] = set()
    stack: list[Condition | None] = [root]
    path: list[Condition] = []
    while stack:
        node = stack.pop()
        if node is None:
            yield path.pop()
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        children = node.of
        if not children:
            yield node
            continue
        path.append(node)
        stack.append(None)
        stack.extend(reversed(children))


def evaluate(root: Condition, lookup: Callable[[Leaf], Value]) -> Value:
    """Return the value of a tree whose atoms have the values that ``lookup`` says. Iterative, O(size)."""
    values: dict[int, Value] = {}
    for node in postorder(root):
        if isinstance(node, Leaf):
            values[id(node)] = Value(lookup(node))
        else:
            values[id(node)] = combine(node, [values[id(child)] for child in node.of])
    return values[id(root)]


def combine(node: Condition, values: Sequence[Value]) -> Value:
    """Return the value of one gate whose children have these values."""
    if isinstance(node, And):
        return min(values, default=TRUE)
    if isinstance(node, Or):
        return max(values, default=NEVER)
    if isinstance(node, AtLeast):
        if node.k == 0:
            return TRUE
        if node.k > len(values):
            return NEVER
        return sorted(values, reverse=True)[node.k - 1]
    if isinstance(node, Unary):
        return node.table[values[0]]
    return node.combine(values)  # type: ignore[attr-defined,no-any-return]


def _latch(leaf: Leaf) -> Value:
    return leaf.latch


# -- keys


def _make_keys(root: Condition) -> str:
    """Compute the keys of a tree bottom-up and return the root's."""
    for node in postorder(root):
        try:
            _ = node._key
        except AttributeError:
            node._key = _key_of(node)
    return root._key


def _key_of(node: Condition) -> str:
    children = [child._key for child in node.of]
    if isinstance(node, Gate):
        need, count = node.need, len(children)
        if not isinstance(node, AtLeast) or need in (1, count):
            # And, Or: repetition means nothing there.
            every = need == count and not isinstance(node, Or)
            children = sorted(set(children))
            if len(children) == 1:
                return children[0]
            return digest("and" if every else "or", *children) if children else ("all()" if every else "any()")
        if need == 0:
            return "all()"
        if need > count:
            return "any()"
        return digest("atleast", str(need), *sorted(children))
    if isinstance(node, Not) and isinstance(node.child, Not):
        return node.child.child._key
    return digest(*node.words(), *children) if hasattr(node, "words") else digest(node.op, *children)  # type: ignore[attr-defined]


def digest(*words: str) -> str:
    """Return the content hash of these words: hexadecimal BLAKE2b-128."""
    text = "\x1f".join(words)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# -- faults of use


def _spread(conditions: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let ``And([a, b])`` mean ``And(a, b)``."""
    if len(conditions) == 1 and not isinstance(conditions[0], Condition) and hasattr(conditions[0], "__iter__"):
        return tuple(conditions[0])
    return conditions


def _operand(value: Any, operator: str) -> Condition:
    if isinstance(value, Condition):
        return value
    what, hint = f"{type(value).__name__} ({value!r})", ""
    if hasattr(value, "iscompleted"):
        what, hint = type(value).__name__, "; write .iscompleted after the job"
    elif isinstance(value, (bool, int, float)) and operator in "&|":
        hint = "; put brackets around a comparison, since & and | bind tighter: (a & b), and compare inside improved()"
    takes = "combines conditions" if operator in ("&", "|", "And", "Or", "AtLeast") else "takes a condition"
    raise ConditionTypeError(f"{operator} {takes}, not {what}{hint}")


def _short(condition: Condition) -> str:
    if isinstance(condition, Leaf):
        return str(condition)
    text = str(condition) if sum(1 for _ in zip(range(50), postorder(condition), strict=False)) < 50 else ""
    return text or f"a condition over {len(condition.of)} others"
