"""The atoms that somebody waits for, and who waits for each.

An atom's *entry* is found by the job it is about, or by its key. As long as it is undecided, has few listeners and
stands in plain conditions only, the entry is an array of the gates that mention it (``Waiters``). Else it is a
``Source``. A true atom that stands in plain conditions only is forgotten: whoever mentions an atom that has no entry
knows that it is true.

Rule: every edge that is entered is taken out again, by its registration or by the atom itself.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from trun.conditions.algebra import Leaf
from trun.conditions.atoms import JobAtom
from trun.conditions.graph import Graph
from trun.conditions.value import TRUE, WAIT, Value

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

    def connect(self, leaf: Leaf, gate: int) -> bool:
        """Let an undecided atom feed a gate; False if it does already."""
        entry = self.find(leaf)
        if entry is None:
            self.put(leaf, waiters(leaf, gate))
        elif isinstance(entry, Waiters):
            if entry[-1] == gate:
                return False
            if len(entry) < WIDE:
                entry.append(gate)
            else:
                self.source(leaf).gates[gate] = None
        else:
            if gate in entry.gates:
                return False
            entry.gates[gate] = None
        return True

    def disconnect(self, leaf: Leaf, gate: int) -> bool:
        """Let an atom feed a gate no more, and forget it if that was the last; False if it is true, or does not."""
        entry = self.find(leaf)
        if isinstance(entry, Waiters):
            try:
                entry.remove(gate)
            except ValueError:
                return False
            if not entry:
                self.remove(leaf)
            return True
        if entry is None:
            return False
        entry.gates.pop(gate, None)
        if not entry.gates and not entry.graphs:
            self.remove(leaf)
        return entry.value is not TRUE

    def value(self, leaf: Leaf) -> Value:
        """Return what an atom that some plain condition mentions is worth."""
        entry = self.find(leaf)
        if entry is None:
            return TRUE
        return entry.value if isinstance(entry, Source) else WAIT
