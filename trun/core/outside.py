"""What comes from outside the service: atoms of clients, the watched world, other services, owners that leave.

And counted resources as atoms (``free``): the ledger is inside, but conditions look at it as at the world.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from trun.conditions.algebra import Leaf
from trun.conditions.atoms import Atom, Level, WorldAtom
from trun.conditions.value import CANCELLED, TRUE, Value
from trun.core.flow import Flow
from trun.core.ready import ROUNDING
from trun.messages import AtomMoved, Entry, Message, OwnerLeft, Relay, Replayed, Retried, Said, SetAtom


class Outside:
    """Passes news of the outside on to conditions by ``flow``."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._book = flow.book
        self._known = flow.known
        self._free_values: dict[str, Value] = {}
        #: How much of each resource was free when somebody looked last.
        self._free: dict[str, float] = {}
        self.handlers: dict[type[Message], Callable[[Any], None]] = {
            SetAtom: self._set_atom,
            AtomMoved: self._atom_moved,
            Relay: self._relay,
            Replayed: self._replayed,
            OwnerLeft: self._owner_left,
        }

    def _set_atom(self, message: SetAtom) -> None:
        self._tell(message.key, message.value, 0, message.reason, message.session)

    def _atom_moved(self, message: AtomMoved) -> None:
        self._tell(message.key, message.value, message.seq, message.reason, "")

    def _tell(self, key: str, number: int, seq: int, reason: str, session: str) -> None:
        value = Value(min(max(number, CANCELLED), TRUE))
        if self._known.tell(key, value, session):
            self._flow.settle(key, value, seq=seq, reason=reason)
        else:
            self._book.counters["duplicate"] += 1

    def _relay(self, message: Relay) -> None:
        for entry in message.entries:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        """Take an entry of another service's stream; one that claims to be of our own is ignored."""
        stream = entry.stream
        if stream in self._book.records or stream in self._flow.groups:
            self._book.counters["unknown"] += 1
            return
        event = self._known.relayed(entry)
        if event is None:
            self._book.counters["duplicate"] += 1
        elif isinstance(event, Retried):
            self._flow.decide(self._flow.resolver.reset(stream, event.run))
        else:
            self._book.news.append((stream, event, entry.seq))
            self._flow.spread()
        self._flow.decide(self._flow.waits.told(stream))

    def _replayed(self, message: Replayed) -> None:
        if message.stream in self._book.records:
            self._flow.decide(self._flow.waits.replayed(message.stream, message.entries))
            self._flow.decide(self._flow.waits.told(message.stream))
        else:
            for entry in message.entries:
                self._take(entry)

    def _owner_left(self, message: OwnerLeft) -> None:
        flow, session = self._flow, message.session
        left = [record for record in self._book.unfinished(session) if not record.spec.detach]
        keys = self._known.abandoned(session)
        for record in left:
            flow.cancel(record, "owner", "its owner has left")
        for leaf in self._untold(session):
            self._known.tell(leaf.key, CANCELLED, session)
            keys.append(leaf.key)
        for key in keys:
            flow.settle(key, CANCELLED, reason="owner left")
        if left or keys:
            value = {"session": session, "jobs": len(left), "atoms": len(keys)}
            self._book.publish_on("service", Said(name="owner left", value=value))

    def _untold(self, session: str) -> list[Leaf]:
        """Return the atoms of a session that it has not told since a restart: detached jobs still wait for them."""
        flow, found = self._flow, dict[str, Leaf]()
        for record in self._book.unfinished(session):
            if record.spec.uid in flow.resolver:
                for leaf in flow.resolver.condition_of(record.spec.uid).depends:
                    if isinstance(leaf, Atom | Level) and not self._known.is_told(leaf):
                        found[leaf.key] = leaf
        return list(found.values())

    # -- the world

    def watch_changes(self) -> tuple[list[Leaf], list[str]]:
        """Return the world atoms to watch from now on, and the keys of those that nobody needs any more."""
        start, stop = self._flow.resolver.take_watch_changes()
        if not start and not stop:
            return [], []
        free = self._known.free
        if free:
            needed = {atom.key for atom in self._flow.resolver.world()}
            for key in [key for key in free if key not in needed]:
                del free[key]
                self._free_values.pop(key, None)
        for key in stop:
            self._known.forget(key)
        return [atom for atom in start if not _is_free(atom)], list(stop)

    def look_at_free(self) -> None:
        """Let conditions know which counted resources are free now."""
        atoms = self._known.free
        for key in self._to_look_at():
            atom = atoms.get(key)
            if atom is None:  # nobody waits for it any more
                continue
            value = self._known.free_value(atom)
            if self._free_values.get(key) is not value:
                self._free_values[key] = value
                self._flow.settle(key, value)
        self._flow.spread()

    def _to_look_at(self) -> list[str]:
        """Return the keys of the atoms over counted resources that may be worth something else than before."""
        ledger, before, found = self._flow.ledger, self._free, self._known.new_free
        self._known.new_free = []
        now = {name: ledger.free(name) for name in ledger.limits}
        if now != before:
            self._free = now
            moved = {name: sorted((before.get(name, -inf), free)) for name, free in now.items()}
            moved = {name: ends for name, ends in moved.items() if ends[0] != ends[1]}
            for key, atom in self._known.free.items():
                ends = moved.get(atom.target)
                if ends is not None and ends[0] < atom.amount <= ends[1] + 2 * ROUNDING:
                    found.append(key)
        return found


def _is_free(atom: Leaf) -> bool:
    return isinstance(atom, WorldAtom) and atom.what == "free"
