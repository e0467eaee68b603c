"""The atoms that somebody waits for, and who waits for each.

An atom's *entry* is found by the job it is about, or by its key. As long as it is undecided and stands in plain
conditions only, the entry is an array of the gates that mention it (``Waiters``). Else it is a ``Source``. A true atom
that stands in plain conditions only is forgotten: whoever mentions an atom that has no entry knows that it is true.

A registration that is decided stays mentioned for a while: its gates are STALE, each mention that goes is told to
``leave``, and an entry with nothing but stale mentions counts as none.

Rule: every mention that is entered goes exactly once, with its atom, by ``disconnect``, or with the stale ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from trun.conditions.algebra import Leaf
from trun.conditions.atoms import JobAtom
from trun.conditions.graph import Graph
from trun.conditions.value import NEVER, TRUE, WAIT, Value

#: From so many listeners on, taking one out of a list costs too much.
WIDE = 64
#: What marks a gate whose registration is decided, as long as entries mention it.
STALE: Final = "stale"


class Source:
    """An atom that is more than a list can say: decided, a level, or in a five-value condition."""

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


class Wide(Waiters):
    """The same with many gates: stale ones go together, once they may be half of all."""

    __slots__ = ("gone",)
    gone: int


Entry = Waiters | Source


def waiters(leaf: Leaf, gate: int) -> Waiters:
    """Return the entry of an atom with its first gate."""
    found = Waiters("i", (gate,))
    found.leaf = leaf
    return found


class Several(dict[str, Entry]):
    """Entries of several atoms about one job, by key."""


class Entries:
    """The atoms that somebody waits for."""

    __slots__ = ("about", "leave", "marks", "others")

    def __init__(self, marks: list[Any], leave: Callable[[int], None]) -> None:
        #: Job -> entry of the one atom about it, or several.
        self.about: dict[str, Entry | Several] = {}
        #: Key -> entry of an atom that is about no job.
        self.others: dict[str, Entry] = {}
        #: Gate -> STALE, or something else.
        self.marks = marks
        #: Called with each stale gate of which a mention went.
        self.leave = leave

    def find(self, leaf: Leaf) -> Entry | None:
        """Return the entry of an atom that somebody waits for."""
        found = self._find(leaf)
        return found if found is not None and self._is_live(found) else None

    def _find(self, leaf: Leaf) -> Entry | None:
        if not isinstance(leaf, JobAtom):
            return self.others.get(leaf.key)
        found = self.about.get(leaf.subject)
        if isinstance(found, Several):
            return found.get(leaf.key)
        return found if found is not None and found.leaf.key == leaf.key else None

    def _is_live(self, entry: Entry) -> bool:
        """Whether somebody waits for an atom; if the last one does not, all stale mentions go."""
        if isinstance(entry, Waiters):
            return self.marks[entry[-1]] is not STALE or self.prune(entry)
        return not entry.gates or self.marks[next(reversed(entry.gates))] is not STALE or self.prune(entry)

    def prune(self, entry: Entry) -> bool:
        """Take all stale mentions out of an entry; False if it is gone with them."""
        marks = self.marks
        if isinstance(entry, Waiters):
            stale = [gate for gate in entry if marks[gate] is STALE]
            live = [gate for gate in entry if marks[gate] is not STALE]
            del entry[:]
            entry.extend(live)
            if isinstance(entry, Wide):
                entry.gone = 0
            is_live = bool(live)
        else:
            stale = [gate for gate in entry.gates if marks[gate] is STALE]
            for gate in stale:
                del entry.gates[gate]
            is_live = bool(entry.gates or entry.graphs)
        if not is_live:
            self.remove(entry.leaf)
        for gate in stale:
            self.leave(gate)
        return is_live

    def find_key(self, key: str) -> Entry | None:
        """Return the entry of the atom with this key that somebody waits for."""
        found = self.others.get(key)
        if found is not None:
            return found if self._is_live(found) else None
        if not key.startswith("job:"):
            return None
        end = key.find(":", 4)
        while end > 0:
            for entry in self.of_subject(key[4:end]):
                if entry.leaf.key == key:
                    return entry
            end = key.find(":", end + 1)
        return None

    def of_subject(self, subject: str) -> list[Entry]:
        """Return the entries about a job that somebody waits for."""
        found = self.about.get(subject)
        if found is None:
            return []
        return [one for one in (list(found.values()) if isinstance(found, Several) else [found]) if self._is_live(one)]

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

    def connect(self, leaf: Leaf, gate: int) -> bool:
        """Let an undecided atom feed a gate; False if it does already."""
        entry = self.find(leaf)
        if entry is None:
            self.put(leaf, waiters(leaf, gate))
        elif isinstance(entry, Waiters):
            if entry[-1] == gate:
                return False
            if len(entry) == WIDE and not isinstance(entry, Wide):
                entry = self._widen(entry)
            entry.append(gate)
        else:
            if gate in entry.gates:
                return False
            entry.gates[gate] = None
        return True

    def _widen(self, entry: Waiters) -> Waiters:
        """Make room for more; that may be done by taking out what is stale."""
        self.prune(entry)
        if len(entry) < WIDE // 2:
            return entry
        wide = Wide("i", entry)
        wide.leaf, wide.gone = entry.leaf, 0
        self.put(entry.leaf, wide)
        return wide

    def retract(self, leaf: Leaf, gate: int) -> None:
        """Undo ``connect``, if nothing was connected since."""
        entry = self._find(leaf)
        if isinstance(entry, Source):
            entry.gates.pop(gate, None)
            self._let_go(entry)
        elif entry is not None and entry[-1] == gate:
            del entry[-1]
            if not entry:
                self.remove(leaf)

    def disconnect(self, leaf: Leaf, gate: int) -> None:
        """Let an atom mention a stale gate no more; one with many listeners may wait for more of them."""
        entry = self._find(leaf)
        if isinstance(entry, Wide):
            entry.gone += 1
            if 2 * entry.gone > len(entry):
                self.prune(entry)
            return
        if isinstance(entry, Waiters):
            if gate not in entry:
                return
            entry.remove(gate)
            if not entry:
                self.remove(leaf)
        elif entry is None or gate not in entry.gates:
            return
        else:
            del entry.gates[gate]
            self._let_go(entry)
        self.leave(gate)

    def disconnect_dead(self, leaf: Leaf, gate: int) -> None:
        """Let a dead atom mention a gate no more."""
        entry = self._find(leaf)
        if isinstance(entry, Source) and entry.value <= NEVER and gate in entry.gates:
            del entry.gates[gate]
            self._let_go(entry)

    def _let_go(self, source: Source) -> None:
        if not source.gates and not source.graphs:
            self.remove(source.leaf)

    def mentions(self, leaf: Leaf, gate: int) -> bool:
        """Whether an atom that is not true feeds a gate."""
        entry = self._find(leaf)
        return entry is not None and gate in (entry.gates if isinstance(entry, Source) else entry)

    def value(self, leaf: Leaf) -> Value:
        """Return what an atom that some plain condition mentions is worth."""
        entry = self.find(leaf)
        if entry is None:
            return TRUE
        return entry.value if isinstance(entry, Source) else WAIT
