"""Brute force: who may run, found by looking at everything after each piece of news.

An oracle for the resolver and for ``Depends``, written from the design and not from the code: it shares the classes of
the tree and the numbers 0 to 4 with trun, and nothing else. Time is walked through second by second.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from trun.conditions.algebra import And, AtLeast, Condition, Leaf, Never, Not, Or, Settled
from trun.conditions.atoms import JobAtom, Level
from trun.conditions.timing import After, At, Before, Deadline, Held, Since
from trun.messages import Aborted, Cancelled, Completed, Event, Failed, Skipped, Started

CANCELLED, NEVER, WAIT, HOLDS, TRUE = range(5)

#: kind of atom -> what each event means: T true, N never, C cancelled, - nothing
#:                started completed failed aborted cancelled skipped
_OUTCOMES = {
    "completed": "-TCCCN",
    "failed": "-NTNCN",
    "aborted": "-NNTCN",
    "started": "TTTTCN",
    "ended": "-TTTNN",
    "finished": "-TTTTT",
    "ok": "-TCCCT",
}
_EVENTS = (Started, Completed, Failed, Aborted, Cancelled, Skipped)


def meaning(kind: str, event: Event) -> int | None:
    """What an event means to an atom of this kind."""
    letter = _OUTCOMES[kind][_EVENTS.index(type(event))]
    return {"T": TRUE, "N": NEVER, "C": CANCELLED, "-": None}[letter]


def plain_value(node: Condition, leaves: dict[str, int]) -> int:
    """Value of a tree without memory."""
    return Registration(None, node, 0).look(node, leaves, 0, 0)


class Registration:
    """One who waits, with all that its condition must remember."""

    def __init__(
        self, owner: Hashable, condition: Condition, origin: int, rose: dict[str, int] | None = None
    ) -> None:
        self.owner = owner
        self.condition = condition
        self.origin = origin
        #: When the atoms that hold came true, where that is known to whoever registers.
        self.rose = rose or {}
        #: Whether it fired and stays.
        self.is_up = False
        self.memory: dict[int, Any] = {}

    def look(self, node: Condition, leaves: dict[str, int], now: int, moment: int) -> int:
        """What a node is worth, its memory brought up to date."""
        if isinstance(node, Leaf):
            return self._leaf(node, leaves, now)
        below = [self.look(child, leaves, now, moment) for child in node.of]
        if isinstance(node, And):
            return min([TRUE, *below])
        if isinstance(node, Or):
            return max([*below]) if below else NEVER
        if isinstance(node, AtLeast):
            if node.k == 0:
                return TRUE
            return NEVER if node.k > len(below) else sorted(below)[-node.k]
        return self._memorable(node, below, now, moment)

    def _leaf(self, node: Leaf, leaves: dict[str, int], now: int) -> int:
        if isinstance(node, Deadline):
            return NEVER if now >= self.origin + node.span_s else HOLDS
        if isinstance(node, After):
            return TRUE if now >= self.origin + node.span_s else WAIT
        if isinstance(node, Before):
            return NEVER if now >= node.instant else HOLDS
        if isinstance(node, At):
            return TRUE if now >= node.instant else WAIT
        return leaves[node.key]

    def _memorable(self, node: Condition, below: list[int], now: int, moment: int) -> int:
        if isinstance(node, Not):
            return {CANCELLED: CANCELLED, NEVER: TRUE, WAIT: HOLDS, HOLDS: WAIT, TRUE: NEVER}[below[0]]
        if isinstance(node, Never):
            return TRUE if below[0] <= NEVER else NEVER if below[0] == TRUE else WAIT
        if isinstance(node, Settled):
            return WAIT if below[0] in (WAIT, HOLDS) else TRUE
        if isinstance(node, Held):
            return self._held(node, below[0], now)
        assert isinstance(node, Since)
        return self._since(node, below, moment)

    def _held(self, node: Held, child: int, now: int) -> int:
        if child < HOLDS:
            self.memory.pop(id(node), None)
            return child
        start = self.memory.setdefault(id(node), now)
        return child if now - start >= node.span_s else WAIT

    def _since(self, node: Since, below: list[int], moment: int) -> int:
        if id(node) not in self.memory:
            known = [self.rose.get(side.key, -1) if isinstance(side, Leaf) else -1 for side in node.of]
            self.memory[id(node)] = ([HOLDS if rise >= 0 else WAIT for rise in known], known)
        was, rises = self.memory[id(node)]
        for side in (0, 1):
            if below[side] >= HOLDS > was[side]:
                rises[side] = moment
            was[side] = below[side]
        trigger, reset = below
        if rises[0] > rises[1]:
            return HOLDS if reset in (WAIT, HOLDS) else TRUE
        return WAIT if trigger in (WAIT, HOLDS) else min(trigger, NEVER)


class Brute:
    """All who wait, and the world as it is."""

    def __init__(self, atoms: list[Leaf], *, keep_levels: bool = False, knows_rises: bool = False) -> None:
        self.keep_levels = keep_levels
        #: Whether whoever registers late knows in which order things came true.
        self.knows_rises = knows_rises
        self.rose: dict[str, int] = {}
        self.atoms = {atom.key: atom for atom in atoms}
        self.leaves = dict.fromkeys(self.atoms, WAIT)
        self.waiting: dict[Hashable, Registration] = {}
        self.now = 0
        self.moment = 0

    def register(self, owner: Hashable, condition: Condition) -> list[tuple[str, Hashable]]:
        """Decide at once, or wait."""
        self.moment += 1
        known = {key: rise for key, rise in self.rose.items() if self.leaves[key] >= HOLDS}
        self.waiting[owner] = Registration(owner, condition, self.now, known if self.knows_rises else None)
        return self._judge()

    def settle(self, key: str, value: int, *, same_moment: bool = False) -> list[tuple[str, Hashable]]:
        """Move an atom, unless it is settled, or the move is none for its kind."""
        return self.settle_many([(key, value)], same_moment=same_moment)

    def settle_many(self, updates: list[tuple[str, int]], *, same_moment: bool = False) -> list[tuple[str, Hashable]]:
        """Move atoms one by one, and decide at the end."""
        for key, value in updates:
            if self.leaves[key] in (WAIT, HOLDS) and (isinstance(self.atoms[key], Level) or value in (0, 1, 4)):
                old, self.leaves[key] = self.leaves[key], value
                self._remember(same_moment=same_moment)
                if value >= HOLDS > old:
                    self.rose[key] = self.moment
        return self._judge()

    def hear(self, subject: str, event: Event) -> list[tuple[str, Hashable]]:
        """Move all atoms about a job, at one moment."""
        for key, atom in self.atoms.items():
            if isinstance(atom, JobAtom) and atom.subject == subject and self.leaves[key] == WAIT:
                value = meaning(atom.what, event)
                if value is not None:
                    self.leaves[key] = value
        self._remember()
        return self._judge()

    def advance(self, now: int) -> list[tuple[str, Hashable]]:
        """Walk through time."""
        while self.now < now:
            self.now += 1
            self._remember()
        return self._judge()

    def learn(self, key: str) -> None:
        """Let those who come later know that an atom has come true by now."""
        if self.leaves[key] >= HOLDS and key not in self.rose:
            self.moment += 1
            self.rose[key] = self.moment

    def _remember(self, *, same_moment: bool = False) -> None:
        self.moment += not same_moment
        for one in self.waiting.values():
            one.look(one.condition, self.leaves, self.now, self.moment)

    def _judge(self) -> list[tuple[str, Hashable]]:
        found: list[tuple[str, Hashable]] = []
        for owner, one in list(self.waiting.items()):
            value = one.look(one.condition, self.leaves, self.now, self.moment)
            if value <= NEVER:
                found.append(("drop", owner))
                del self.waiting[owner]
            elif value >= HOLDS and not one.is_up:
                found.append(("fire", owner))
                one.is_up = True
                if value == TRUE or not self.keep_levels:
                    del self.waiting[owner]
            elif value == WAIT and one.is_up:
                one.is_up = False
                found.append(("lapse", owner))
        return found
