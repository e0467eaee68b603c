"""Who waits for what: conditions go in once, what happens goes in as it comes, decisions come out.

The resolver decides and does nothing: every method returns what follows, and the caller carries it out. No clock, no
lock, no I/O; time is told (``now``). One registration fires or drops once; with ``keep_levels`` one that fired at
HOLDS stays until it is withdrawn, and may lapse.

Simple shape: each registration that hears news is evaluated anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from trun.conditions.algebra import Condition, Leaf, combine, postorder
from trun.conditions.atoms import JobAtom, WorldAtom
from trun.conditions.decisions import Decision, Drop, Fire, Lapse, drop, fire
from trun.conditions.timing import Held, Since, TimeLeaf
from trun.conditions.value import HOLDS, NEVER, TRUE, WAIT, Value
from trun.messages import Event

__all__ = ["Decision", "Drop", "Fire", "Lapse", "Resolver"]


class _Waiting:
    """One registration."""

    __slots__ = ("condition", "held_since", "leaves", "origin", "owner", "rose", "up")

    def __init__(self, owner: Hashable, condition: Condition, origin: float) -> None:
        self.owner = owner
        self.condition = condition
        self.origin = origin
        self.leaves: list[Leaf] = list({leaf.key: leaf for leaf in condition.depends}.values())
        #: id of a held gate -> since when its child holds.
        self.held_since: dict[int, float] = {}
        #: id of a since gate -> [rank of the trigger's rise, of the reset's rise, was up, was up].
        self.rose: dict[int, list[float]] = {}
        self.up = False


class Resolver:
    """Decides who may run, from conditions and news about their atoms."""

    def __init__(self, *, keep_levels: bool = False) -> None:
        self._keep_levels = keep_levels
        self._waiting: dict[Hashable, _Waiting] = {}
        self._values: dict[str, Value] = {}
        self._reasons: dict[str, str] = {}
        self._users: dict[str, dict[Hashable, None]] = {}
        self._about: dict[str, dict[str, JobAtom]] = {}
        self._world: dict[str, WorldAtom] = {}
        self._told: dict[str, WorldAtom] = {}
        self._rank = 0
        self._seq = 0
        self._now = 0.0
        #: Updates that said nothing new, or were about atoms that nobody waits for.
        self.ignored = 0
        #: Updates that contradicted a settled value.
        self.contradicted = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._waiting

    # -- who waits

    def register(
        self,
        owner: Hashable,
        condition: Condition,
        *,
        now: float = 0.0,
        known: Callable[[Leaf], Value | None] | None = None,
        origin: float | None = None,
    ) -> list[Decision]:
        """Let ``owner`` wait for a condition; what is known already counts, so it may fire or drop at once."""
        if owner in self._waiting:
            raise ValueError(f"{owner!r} waits already")
        self._now = max(self._now, now)
        waiting = _Waiting(owner, condition, now if origin is None else origin)
        self._waiting[owner] = waiting
        for leaf in waiting.leaves:
            key = leaf.key
            if key not in self._users:
                self._users[key] = {}
                if not isinstance(leaf, TimeLeaf):
                    value = known(leaf) if known is not None else None
                    self._values[key] = leaf.latch if value is None else value
            self._users[key][owner] = None
            if isinstance(leaf, JobAtom):
                self._about.setdefault(leaf.subject, {})[key] = leaf
            if isinstance(leaf, WorldAtom):
                self._world[key] = leaf
        return self._judge([waiting])

    def withdraw(self, owner: Hashable) -> bool:
        """Forget a registration; False if there is none."""
        waiting = self._waiting.pop(owner, None)
        if waiting is None:
            return False
        for leaf in waiting.leaves:
            users = self._users[leaf.key]
            del users[owner]
            if not users:
                self._forget(leaf)
        return True

    def _forget(self, leaf: Leaf) -> None:
        key = leaf.key
        del self._users[key]
        self._values.pop(key, None)
        self._reasons.pop(key, None)
        self._world.pop(key, None)
        if isinstance(leaf, JobAtom):
            others = self._about[leaf.subject]
            others.pop(key, None)
            if not others:
                del self._about[leaf.subject]

    # -- what happens

    def hear(self, subject: str, event: Event, *, seq: int = 0, now: float = 0.0) -> list[Decision]:
        """Take one event of a job's stream."""
        atoms = self._about.get(subject)
        if atoms is None:
            return []
        moved = []
        for key, atom in atoms.items():
            if self._values[key].is_settled:
                continue
            value = atom.judge(event)
            if value is not None:
                moved.append((key, value, type(event).__name__.lower()))
        return self._move(moved, seq, now)

    def settle(self, key: str, value: Value, *, seq: int = 0, now: float = 0.0, reason: str = "") -> list[Decision]:
        """Take the new value of one atom."""
        return self._move([(key, value, reason)], seq, now)

    def settle_many(self, updates: Iterable[tuple[str, Value]], *, now: float = 0.0) -> list[Decision]:
        """Take the new values of many atoms in one propagation."""
        return self._move([(key, value, "") for key, value in updates], 0, now)

    def _move(self, moved: Iterable[tuple[str, Value, str]], seq: int, now: float) -> list[Decision]:
        self._now = max(self._now, now)
        touched: dict[Hashable, None] = {}
        for key, value, reason in moved:
            old = self._values.get(key)
            if old is None or old == value:
                self.ignored += 1
            elif old.is_settled:
                self.contradicted += 1
            else:
                self._values[key] = Value(value)
                self._reasons[key] = reason
                touched.update(self._users[key])
        self._rank += 1
        return self._judge([self._waiting[owner] for owner in self._waiting if owner in touched]) if touched else []

    def reset(self, subject: str, run: int = 0) -> None:
        """Begin a new run of a job: those who still wait for its atoms wait anew; what was decided stays so."""
        for key in self._about.get(subject, ()):
            self._values[key] = WAIT
        self._judge([self._waiting[o] for key in self._about.get(subject, ()) for o in self._users[key]])

    # -- time

    def next_deadline(self) -> float | None:
        """Return when ``advance`` must be called next."""
        found = [at for waiting in self._waiting.values() for at in self._deadlines(waiting)]
        return min(found, default=None)

    def advance(self, now: float) -> list[Decision]:
        """Let time pass."""
        self._now = max(self._now, now)
        return self._judge([w for w in list(self._waiting.values()) if any(at <= now for at in self._deadlines(w))])

    def _deadlines(self, waiting: _Waiting) -> list[float]:
        found = [at for leaf in waiting.leaves if isinstance(leaf, TimeLeaf) for at in [leaf.deadline(waiting.origin)]]
        for node in postorder(waiting.condition):
            if isinstance(node, Held) and id(node) in waiting.held_since:
                found.append(waiting.held_since[id(node)] + node.span_s)
        return [at for at in found if at > self._now or not waiting.up]

    # -- judging

    def _judge(self, waiting: list[_Waiting]) -> list[Decision]:
        found: list[Decision] = []
        for one in waiting:
            if one.owner not in self._waiting:
                continue
            values = self._worth(one)
            value = values[id(one.condition)]
            if value <= NEVER:
                found.append(drop(one.owner, one.condition, values, lambda key: self._reasons.get(key, "")))
                self.withdraw(one.owner)
            elif value >= HOLDS:
                if not one.up or value is TRUE:
                    found.append(fire(one.owner, one.condition, values))
                one.up = True
                if value is TRUE or not self._keep_levels:
                    self.withdraw(one.owner)
            elif one.up:
                one.up = False
                found.append(Lapse(one.owner))
        return found

    def _worth(self, waiting: _Waiting) -> dict[int, Value]:
        values: dict[int, Value] = {}
        for node in postorder(waiting.condition):
            if isinstance(node, TimeLeaf):
                value = node.late if self._now >= node.deadline(waiting.origin) else node.early
            elif isinstance(node, Leaf):
                value = self._values[node.key]
            elif isinstance(node, Held):
                value = self._held(waiting, node, values[id(node.child)])
            elif isinstance(node, Since):
                value = self._since(waiting, node, values)
            else:
                value = combine(node, [values[id(child)] for child in node.of])
            values[id(node)] = value
        return values

    def _held(self, waiting: _Waiting, node: Held, child: Value) -> Value:
        if child < HOLDS:
            waiting.held_since.pop(id(node), None)
            return child
        start = waiting.held_since.setdefault(id(node), self._now)
        return child if self._now >= start + node.span_s else WAIT

    def _since(self, waiting: _Waiting, node: Since, values: Mapping[int, Value]) -> Value:
        trigger, reset = values[id(node.trigger)], values[id(node.reset)]
        state = waiting.rose.setdefault(id(node), [0, 0, 0, 0])
        for index, value in enumerate((trigger, reset)):
            if value >= HOLDS and not state[index + 2]:
                state[index] = self._rank + 1
            state[index + 2] = value >= HOLDS
        if state[0] > state[1]:
            return TRUE if reset.is_settled else HOLDS
        if trigger.is_settled:
            return min(trigger, NEVER)
        return WAIT

    # -- questions

    def wanted(self, subject: str) -> bool:
        """Whether a live registration is still interested in a job."""
        return subject in self._about

    def subjects_of(self, owner: Hashable) -> frozenset[str]:
        """Return the jobs that a registration looks at."""
        found = (getattr(leaf, "subject", "") for leaf in self._waiting[owner].leaves)
        return frozenset(subject for subject in found if subject)

    def owners_about(self, subject: str) -> list[Hashable]:
        """Return who looks at a job."""
        return list(dict.fromkeys(owner for key in self._about.get(subject, ()) for owner in self._users[key]))

    def value(self, key: str) -> Value:
        """Return what an atom is worth; WAIT for one that nobody waits for."""
        return self._values.get(key, WAIT)

    def condition_of(self, owner: Hashable) -> Condition:
        """Return what a registration waits for."""
        return self._waiting[owner].condition

    def explain(
        self, owner: Hashable, *, now: float | None = None, describe: Callable[[Leaf], str] | None = None
    ) -> Any:
        """Say what a registration waits for."""
        from trun.conditions.explain import explain_tree

        waiting = self._waiting[owner]
        if now is not None:
            self._now = max(self._now, now)
        values = self._worth(waiting)
        by_key = {leaf.key: values[id(leaf)] for leaf in postorder(waiting.condition) if isinstance(leaf, Leaf)}
        return explain_tree(waiting.condition, lambda leaf: by_key[leaf.key], describe=describe)

    def world(self) -> list[WorldAtom]:
        """Return the atoms over the world that somebody waits for."""
        return list(self._world.values())

    def take_watch_changes(self) -> tuple[list[WorldAtom], list[str]]:
        """Return which world atoms to watch from now on, and the keys of those to watch no more."""
        start = [atom for key, atom in self._world.items() if key not in self._told]
        stop = [key for key in self._told if key not in self._world]
        self._told = dict(self._world)
        return start, stop
