"""Plain registrations: thresholds over atoms that are decided once, as rows of numbers.

A *gate* is an index into parallel lists: how many children it still needs, how many it can still lose, which gate it
feeds. Numbers in lists cost the collector nothing and stay close together in memory. A conjunction of atoms is one
gate, and the tuple of its atoms is all that is kept of it; a tree is a row of gates side by side, its root the last.

A decided registration is not taken out of the entries of its atoms: its gates become STALE, count the mentions that
are left, and are given back with the last. Only so many may do so at a time as waited lately; more are taken out.

Rule: ``propagation`` and ``resolver`` alone come in here. A gate is given back only once no entry mentions it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sized
from typing import Any, Final

from trun.conditions.algebra import And, AtLeast, Condition, Gate, Leaf
from trun.conditions.atoms import Atom, JobAtom
from trun.conditions.entries import STALE, WIDE, Entries, Waiters
from trun.conditions.forms import Form, Grounds, take_apart
from trun.conditions.value import NEVER, TRUE, Value

#: What marks a gate within a tree of which several children, but not all, must come true.
QUORUM: Final = "quorum"
#: So many decided registrations may always stay mentioned.
FEW = 1024
#: By how much each further one lowers the number that waited lately.
DECAY = 1 / 16
#: Forms of so many gates are shared, and so many of them are known.
SHARED_GATES, SHARED_FORMS = 32, 1024

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

    __slots__ = (
        "entries",
        "few",
        "forms",
        "free",
        "leaving",
        "limit",
        "need",
        "owner",
        "root",
        "rows",
        "serial",
        "slack",
        "up",
        "waiting",
    )

    def __init__(self, waiting: Sized) -> None:
        #: Of roots: what for (a tuple of atoms is their conjunction, a form is a tree, a condition is itself).
        #: Of other gates: None or QUORUM until they are true, then what made them so. Of decided ones: STALE.
        self.root: list[Any] = []
        self.entries = Entries(self.root, self.leave)
        self.waiting = waiting
        #: How many children must still become true; below zero once more did. Of stale gates: how often mentioned.
        self.need: list[int] = []
        #: How many children may still die, plus one. Of stale roots: how many of its gates are mentioned.
        self.slack = array("i")
        #: Of roots: who waits. Of the first gate of a tree: its atoms, in written order.
        self.owner: list[Any] = []
        #: Of roots: the how manyeth registration this is. Of other gates, and stale ones: the negative number of the
        #: gate above, or of the root; 0 if it feeds several.
        self.serial = array("q")
        self.up: dict[int, tuple[int, ...]] = {}
        #: Gates to be had; the first gates of rows to be had, by how many follow.
        self.free: list[int] = []
        self.rows: dict[int, list[int]] = {}
        self.forms: dict[Any, Form] = {}
        #: Decided registrations that are mentioned still: root -> atoms.
        self.leaving: dict[int, tuple[Any, ...]] = {}
        self.few = FEW
        self.limit = 0.0

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

    def _new_row(self, count: int) -> int:
        """Return the first of so many gates side by side."""
        rows = self.rows.get(count - 1)
        if rows:
            return rows.pop()
        first = len(self.need)
        nothing = [0] * count
        self.need += nothing
        self.slack.extend(nothing)
        self.serial.extend(nothing)
        self.owner += [None] * count
        self.root += [None] * count
        return first

    def recycle(self, gate: int) -> None:
        """Give a gate back that nothing mentions any more."""
        self.owner[gate] = self.root[gate] = None
        self.free.append(gate)

    # -- in

    def enter(self, condition: Condition, gates: list[Gate], present: Callable[[Leaf], Value], serial: int) -> int:
        """Enter a condition of these gates over atoms of these values; return its root, or -1 if it is decided.

        Gates that are decided already are entered too: their atoms must be known for an explanation.
        """
        if len(gates) == 1:
            root = self.new(0, 0)
            self._fill(root, gates[0], {}, present)
            self.root[root] = condition.of if isinstance(condition, And) else condition
        else:
            parts, leaves = take_apart(gates)
            form = self.forms.get(parts) if len(parts) <= SHARED_GATES else Form(parts)
            if form is None:
                if len(self.forms) == SHARED_FORMS:
                    self.forms.clear()
                form = self.forms[parts] = Form(parts)
            root = self._enter_row(form, gates, present)
            self.root[root] = form
            self.owner[root - form.last] = leaves
        self.serial[root] = serial
        if self.need[root] > 0 and self.slack[root] > 0:
            return root
        self.release(root)
        return -1

    def _enter_row(self, form: Form, gates: list[Gate], present: Callable[[Leaf], Value]) -> int:
        first = self._new_row(len(gates))
        places: dict[int, int] = {}
        serial = self.serial
        for gate, node, parents in zip(range(first, first + len(gates)), gates, form.parents, strict=True):
            places[id(node)] = gate
            self._fill(gate, node, places, present)
            if len(parents) == 1:
                serial[gate] = -first - parents[0]
            elif parents:
                serial[gate] = 0
                self.up[gate] = tuple([first + parent for parent in parents])
        return first + form.last

    def _fill(self, gate: int, node: Gate, places: dict[int, int], present: Callable[[Leaf], Value]) -> None:
        """Connect the children of a gate and count them. One that stands twice in And or Or counts once."""
        about, marks, entries = self.entries.about, self.root, self.entries
        count = dead = 0
        true: list[Any] = []
        below: set[int] = set()
        for child in node.of:
            if isinstance(child, JobAtom):
                entry = about.get(child.subject)
                if type(entry) is Waiters and entry.leaf is child and len(entry) < WIDE:
                    last = entry[-1]
                    if last != gate and marks[last] is not STALE:
                        entry.append(gate)
                        count += 1
                        continue
            if isinstance(child, Leaf):
                value = present(child)
                is_dead = value <= NEVER
                if is_dead:
                    entries.source(child).value = value
                if value is TRUE:
                    true.append(child)
                elif not entries.connect(child, gate):
                    continue
            else:
                at = places[id(child)]
                if at in below:
                    continue
                below.add(at)
                is_dead = self.slack[at] <= 0
                if self.need[at] <= 0:
                    true.append(at)
            count += 1
            dead += is_dead
        need = count if isinstance(node, And) else node.need
        self.need[gate] = need - len(true)
        self.slack[gate] = count - need + 1 - dead
        if len(true) >= need:
            self.root[gate] = tuple(true[:need])
        else:
            self.root[gate] = QUORUM if 1 < need < count else None

    # -- what is known of it

    def condition(self, root: int) -> Condition:
        """Return the condition of a registration."""
        found = self.root[root]
        if type(found) is tuple:
            return And(*found) if len(found) != 1 else found[0]
        if type(found) is Form:
            return found.condition(self.owner[root - found.last])
        condition: Condition = found
        return condition

    def leaves(self, root: int) -> tuple[Leaf, ...]:
        """Return the atoms of a registration, perhaps repeatedly."""
        found = self.root[root]
        leaves: tuple[Leaf, ...]
        if type(found) is tuple:
            leaves = found
        elif type(found) is Form:
            leaves = self.owner[root - found.last]
        else:
            leaves = found.of
        return leaves

    def grounds(self, root: int, by: Any) -> tuple[Leaf, ...] | Grounds:
        """Return what a root is true on; ``by`` is the child that came true last."""
        found = self.root[root]
        if type(found) is Form:
            first = root - found.last
            done = self.root[first:root]
            done.append(self._true_children(root) if found.is_quorum else by)
            return Grounds((found, self.owner[first], first, done))
        if type(found) is tuple:
            leaves: tuple[Leaf, ...] = found
            return leaves
        if found.need == 1:
            return (by,)
        return tuple([leaf for leaf in found.of if not self.entries.mentions(leaf, root)])

    def _true_children(self, gate: int) -> tuple[Leaf | int, ...]:
        """Return as many true children of a gate within a tree as it needs."""
        root = self.root_above(gate)
        form: Form = self.root[root]
        first = root - form.last
        found: list[Leaf | int] = []
        for child in form.children(gate - first, self.owner[first]):
            if not isinstance(child, int):
                if not self.entries.mentions(child, gate):
                    found.append(child)
            elif self.need[first + child] <= 0:
                found.append(first + child)
        return tuple(found[: form.parts[gate - first][1]])

    def root_above(self, gate: int) -> int:
        """Return the root of the registration that a gate belongs to."""
        while (number := self.serial[gate]) <= 0:
            gate = -number if number else self.up[gate][0]
        return gate

    # -- through

    def rise(self, gates: list[int], leaf: Leaf) -> list[tuple[int, Any]]:
        """Let gates that an atom made true feed those above; return the roots that came true, and which child did it.

        Stale gates lose their last mention.
        """
        need, root, serial, slack = self.need, self.root, self.serial, self.slack
        found: list[tuple[int, Any]] = []
        more: list[tuple[int, Any]] = []
        for start in gates:
            mark = root[start]
            if mark is STALE:
                above = -serial[start]
                left = slack[above] - 1
                slack[above] = left
                if not left:
                    self._end(above)
                continue
            gate, child = start, leaf
            while mark is None or mark is QUORUM:
                root[gate] = child if mark is None else self._true_children(gate)
                number = serial[gate]
                if number:
                    left = need[-number] - 1
                    need[-number] = left
                    if left:
                        break
                    child, gate = gate, -number  # type: ignore[assignment]
                    mark = root[gate]
                else:
                    more += [(parent, gate) for parent in self._less(self.up[gate], need)]
                    break
            else:
                found.append((gate, child))
        return [*found, *self._rise_on(more)] if more else found

    def _rise_on(self, more: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Let gates that others made true feed those above, where some feed several."""
        found: list[tuple[int, Any]] = []
        while more:
            gate, child = more.pop()
            mark = self.root[gate]
            if mark is None or mark is QUORUM:
                self.root[gate] = child if mark is None else self._true_children(gate)
                number = self.serial[gate]
                above = (-number,) if number else self.up[gate]
                more += [(parent, gate) for parent in self._less(above, self.need)]
            else:
                found.append((gate, child))
        return found

    def fall(self, gates: list[int]) -> list[int]:
        """Let gates that died take from those above; return the roots that died."""
        found: list[int] = []
        stack = gates[::-1]
        while stack:
            gate = stack.pop()
            number = self.serial[gate]
            if number > 0:
                found.append(gate)
            else:
                stack += self._less((-number,) if number else self.up[gate], self.slack)
        return found

    def _less(self, gates: Iterable[int], counts: MutableSequence[int]) -> list[int]:
        """Count one down for each of these gates; return those that are at zero."""
        found = []
        for gate in gates:
            counts[gate] -= 1
            if not counts[gate]:
                found.append(gate)
        return found

    # -- out

    def release(self, root: int) -> None:
        """End a registration: its gates are stale from now on. What dead atoms mention is taken out at once."""
        form = self.root[root]
        if type(form) is not Form:
            self._release_one(root, form)
            return
        need, slack, marks, serial = self.need, self.slack, self.root, self.serial
        first = root - form.last
        leaves = self.owner[first]
        mentioned = 0
        is_whole = True
        for index, full, below in form.lower:
            gate = first + index
            left = need[gate] + full - 1
            if slack[gate] != full:
                left += slack[gate] - full
                is_whole = False
            if below:
                left -= sum([need[first + child] > 0 and slack[first + child] > 0 for child in below])
            if left:
                mentioned += 1
                need[gate] = left
                marks[gate] = STALE
                serial[gate] = -root
        if not is_whole:
            for gate, leaf in _mentions(form, first, leaves):
                self.entries.disconnect_dead(leaf, gate)
        self.owner[root] = form
        if not mentioned:
            self._end(root)
            return
        slack[root] = mentioned
        self.leaving[root] = leaves
        if len(self.leaving) > self.limit or len(leaves) > WIDE:
            self._leave_now(root)

    def _release_one(self, root: int, found: tuple[Leaf, ...] | Gate) -> None:
        """End a registration of one gate."""
        leaves, full = (found, 1) if isinstance(found, tuple) else (found.of, len(found.of) - found.need + 1)
        lose = self.slack[root]
        if lose != full:
            for leaf in leaves:
                self.entries.disconnect_dead(leaf, root)  # type: ignore[arg-type]
        left = self.need[root] + lose - 1
        if not left:
            self.recycle(root)
            return
        self.need[root] = left
        self.owner[root], self.root[root], self.serial[root], self.slack[root] = None, STALE, -root, 1
        self.leaving[root] = leaves
        if len(self.leaving) > self.limit or len(leaves) > WIDE:
            self._leave_now(root)

    def _leave_now(self, root: int) -> None:
        """Take a stale registration out at once, where it is large or too many are left to go as their atoms do."""
        leaving = self.leaving
        if len(leaving) > self.limit:
            self.limit = max(self.limit - DECAY, len(self.waiting), self.few)
            for _ in range(2):
                if len(leaving) > self.limit:
                    self._take_out(*leaving.popitem())
        leaves = leaving.get(root, ())
        if len(leaves) > WIDE:
            del leaving[root]
            self._take_out(root, leaves)

    def sweep(self) -> None:
        """Take out every mention of a decided registration."""
        while self.leaving:
            self._take_out(*self.leaving.popitem())

    def _take_out(self, root: int, leaves: tuple[Any, ...]) -> None:
        form = self.owner[root]
        if form is None:
            for leaf in leaves:
                self.entries.disconnect(leaf, root)
        else:
            for gate, leaf in _mentions(form, root - form.last, leaves):
                self.entries.disconnect(leaf, gate)

    def leave(self, gate: int) -> None:
        """Count down the mentions of a stale gate."""
        left = self.need[gate] - 1
        self.need[gate] = left
        if not left:
            root = -self.serial[gate]
            left = self.slack[root] - 1
            self.slack[root] = left
            if not left:
                self._end(root)

    def _end(self, root: int) -> None:
        """Give the gates of a stale registration back, of which none is mentioned any more."""
        self.leaving.pop(root, None)
        form = self.owner[root]
        if form is None:
            self.recycle(root)
            return
        first = root - form.last
        self.root[first : root + 1] = form.nothing
        self.owner[first] = self.owner[root] = None
        if self.up:
            for gate in range(first, root):
                self.up.pop(gate, None)
        rows = self.rows.get(form.last)
        if rows is None:
            self.rows[form.last] = [first]
        else:
            rows.append(first)


def _mentions(form: Form, first: int, leaves: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
    """Yield the gates of a row with each of their atoms."""
    for index, _, _ in form.lower:
        for leaf in form.own(index, leaves):
            yield first + index, leaf
