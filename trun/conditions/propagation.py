"""How news becomes decisions: what one message moves, and who follows.

All that happens comes in here: events of jobs, moves of atoms, time. Each call is one propagation: atoms first, then
gates, and at its end the decisions, in order of registration. ``resolver`` adds who waits for what, and questions.

Rule: the way through ``hear`` is measured (benchmarks/resolver.py); no call and no lookup more than there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from operator import itemgetter
from typing import Any

from trun.conditions.algebra import Leaf
from trun.conditions.atoms import WorldAtom
from trun.conditions.clocks import Clocks
from trun.conditions.decisions import Decision, Drop, Fire, Lapse, Reason, drop, fire, node_values
from trun.conditions.entries import STALE, Entry, Source, Waiters
from trun.conditions.graph import Graph, Moment
from trun.conditions.plain import Plain
from trun.conditions.timing import TimeLeaf
from trun.conditions.value import HOLDS, NEVER, TRUE, WAIT, Value
from trun.messages import Completed, Event

#: The values by number.
VALUES = tuple(Value)
#: So many settlements are remembered after nobody waits for them, for statistics and late registrations.
LATE = 4096

_Numbered = tuple[int, Decision]
_first = itemgetter(0)


class Batch:
    """What one propagation has brought so far."""

    __slots__ = ("found", "touched")

    def __init__(self) -> None:
        #: Decisions with the number of their registration.
        self.found: list[_Numbered] = []
        #: Five-value registrations that moved.
        self.touched: dict[Graph, None] = {}


class Propagation:
    """The half of the resolver that hears news."""

    def __init__(self, *, keep_levels: bool = False) -> None:
        self._keep_levels = keep_levels
        #: Who waits: a plain root, or a graph.
        self._owners: dict[Hashable, int | Graph] = {}
        self._plain = Plain(self._owners)
        self._entries = self._plain.entries
        self._serial = 0
        self._arrival = 0
        self._now = 0.0
        self._clocks = Clocks()
        #: What atoms were worth that nobody waits for any more, by key; the last atom about a job that came true.
        self._late: dict[str, Value] = {}
        self._came: dict[str, Leaf] = {}
        self._watch: dict[str, WorldAtom] = {}
        self._watched: dict[str, WorldAtom] = {}
        #: Updates that said nothing new, or were about atoms that nobody waits for.
        self.ignored = 0
        #: Updates that contradicted a settled value; the first one stays.
        self.contradicted = 0

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def is_timed(self) -> bool:
        """Whether time or the world may change something."""
        return self._clocks.first < inf or bool(self._watch or self._watched)

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._owners

    def withdraw(self, owner: Hashable) -> bool:
        """Forget a registration; False if there is none."""
        found = self._owners.pop(owner, None)
        if found is None:
            return False
        if type(found) is Graph:
            self._release_graph(found)
        else:
            self._plain.release(found)  # type: ignore[arg-type]
        return True

    def _release_graph(self, graph: Graph) -> None:
        for key, leaf in graph.leaves.items():
            if isinstance(leaf, TimeLeaf):
                continue
            entry = self._entries.find(leaf)
            if type(entry) is Source and graph in entry.graphs:
                del entry.graphs[graph]
                self._let_go(entry, key)
        graph.end()
        self._clocks.end(graph)

    def _let_go(self, source: Source, key: str) -> None:
        """Forget an atom that nobody waits for any more."""
        if not source.graphs:
            self._watch.pop(key, None)
            if not source.gates:
                self._entries.remove(source.leaf)

    # -- what happens

    def hear(self, subject: str, event: Event, *, seq: int = 0, now: float = 0.0) -> list[Decision]:
        """Take one event of a job's stream; say who follows."""
        about = self._entries.about
        entry = about.get(subject)
        if entry is None:
            return []
        if isinstance(entry, Waiters) and self._clocks.first > now:
            leaf: Any = entry.leaf
            is_plain_end = type(event) is Completed and leaf.what == "completed"
            value = TRUE if is_plain_end else leaf.judge(event)
            if value is TRUE:
                del about[subject]
                came = self._came
                came[subject] = leaf
                if len(came) > LATE:
                    came.clear()
                return self._come_true(entry, leaf)
            if value is None:
                return []
        batch = Batch()
        self._run_clocks(now, batch)
        why = _words(event)
        moment = self._moment(subject, seq)  # one event is one moment, whatever it means to how many atoms
        for leaf in [one.leaf for one in self._entries.of_subject(subject)]:
            one = self._entries.find(leaf)  # what the first of them decided may have let go of the others
            if one is None or (isinstance(one, Source) and one.value.is_settled):
                continue
            value = leaf.judge(event)
            if value is not None:
                self._take(one, value, moment, why, batch)
        return self._end(batch)

    def settle(self, key: str, value: Value, *, seq: int = 0, now: float = 0.0, reason: str = "") -> list[Decision]:
        """Take the new value of one atom; levels may also go to HOLDS and WAIT. Unknown atoms are counted only."""
        return self.settle_many([(key, value, seq, reason)], now=now)

    def settle_many(self, updates: Iterable[tuple[Any, ...]], *, now: float = 0.0) -> list[Decision]:
        """Take many updates, ``(key, value[, seq[, reason]])``, in one propagation: decisions follow at its end."""
        batch = Batch()
        self._run_clocks(now, batch)
        for key, value, *more in updates:
            seq, reason = (*more, "")[:2] if more else (0, "")
            entry = self._entries.find_key(key)
            if entry is None:
                self._count(self._late.get(key), value)
            else:
                self._take(entry, VALUES[value], self._moment("", seq), reason, batch)
        return self._end(batch)

    def advance(self, now: float) -> list[Decision]:
        """Let time pass."""
        batch = Batch()
        self._run_clocks(now, batch)
        return self._end(batch)

    def next_deadline(self) -> float | None:
        """Return when ``advance`` must be called next; None: time changes nothing."""
        return self._clocks.next()

    def _run_clocks(self, now: float, batch: Batch) -> None:
        """Strike the clocks up to now, each at its own time."""
        while (struck := self._clocks.pop(now)) is not None:
            at, graph, which = struck
            self._now = max(self._now, at)
            batch.touched[graph] = None
            moment = self._moment("", 0)
            if isinstance(which, str):
                started = graph.move(which, graph.leaves[which].late, moment)  # type: ignore[attr-defined]
            else:
                started = graph.ripen(which, moment)
            for when, gate in started:
                self._clocks.start(when, graph, gate)
        if now > self._now:
            self._now = now

    def _count(self, old: Value | None, new: Value) -> None:
        """Count an update that changes nothing."""
        if old is None or old == new or not old.is_settled:
            self.ignored += 1
        else:
            self.contradicted += 1

    def _take(self, entry: Entry, value: Value, moment: Moment, reason: str, batch: Batch) -> None:
        """Give one atom a new value: plain registrations are decided, five-value ones noted."""
        if isinstance(entry, Waiters):
            leaf = entry.leaf
            if value is TRUE:
                self._entries.remove(leaf)
                self._remember(leaf.key, value)
                self._fire(self._feed(entry), leaf, batch.found)
                return
            if value is WAIT or value is HOLDS:
                self.ignored += 1
                return
            entry = self._entries.source(leaf)
        old = entry.value
        if old is value or old.is_settled:
            self._count(old, value)
            return
        entry.value = value
        entry.reason = reason
        key = entry.leaf.key
        if value.is_settled:
            self._remember(key, value)
            self._watch.pop(key, None)
        if entry.graphs:
            self._move(entry, value, moment, batch)
        if value is TRUE:
            gates, entry.gates = entry.gates, {}
            self._let_go(entry, key)
            self._fire(self._feed(gates), entry.leaf, batch.found)
        elif value <= NEVER:
            self._die(entry, batch.found)

    def _move(self, source: Source, value: Value, moment: Moment, batch: Batch) -> None:
        key = source.leaf.key
        for graph in source.graphs:
            batch.touched[graph] = None
            for at, which in graph.move(key, value, moment):
                self._clocks.start(at, graph, which)

    def _moment(self, stream: str, seq: int) -> Moment:
        self._arrival += 1
        return Moment(stream, seq, (1, self._arrival), self._now)

    def _remember(self, key: str, value: Value) -> None:
        late = self._late
        late[key] = value
        if len(late) >= 2 * LATE:
            self._late = dict(list(late.items())[LATE:])

    # -- what follows

    def _feed(self, gates: Iterable[int]) -> list[int]:
        """Let a true atom feed its gates, for good; return those that came true."""
        need = self._plain.need
        done: list[int] = []
        for gate in gates:
            left = need[gate] - 1
            need[gate] = left
            if not left:
                done.append(gate)
        return done

    def _come_true(self, gates: Iterable[int], leaf: Leaf) -> list[Decision]:
        """Let a true atom feed its gates, and say who follows; conjunctions of atoms without detour."""
        need = self._plain.need
        done: list[int] = []
        for gate in gates:
            left = need[gate] - 1
            need[gate] = left
            if not left:
                done.append(gate)
        if not done:
            return []
        plain, owners = self._plain, self._owners
        root, owner, free = plain.root, plain.owner, plain.free
        found: list[Decision] = []
        for gate in done:
            leaves = root[gate]
            if type(leaves) is not tuple:
                roots = plain.rise(done[len(found) :] if found else done, leaf)
                if not roots:
                    return found
                numbered = list(zip([plain.serial[gate] for gate in done], found, strict=False)) if found else []
                self._decide(roots, numbered)
                if len(numbered) > 1:
                    numbered.sort(key=_first)
                return [decision for _, decision in numbered]
            who = owner[gate]
            del owners[who]
            owner[gate] = root[gate] = None
            free.append(gate)
            found.append(Fire(who, TRUE, leaves))
        return found

    def _fire(self, gates: list[int], leaf: Leaf, found: list[_Numbered]) -> None:
        """Decide what follows from gates that an atom made true."""
        self._decide(self._plain.rise(gates, leaf), found)

    def _decide(self, roots: list[tuple[int, Any]], found: list[_Numbered]) -> None:
        """Let those fire whose roots came true, by these children, now that nobody walks over them any more."""
        plain, owners = self._plain, self._owners
        for root, by in roots:
            owner = plain.owner[root]
            del owners[owner]
            found.append((plain.serial[root], Fire(owner, TRUE, plain.grounds(root, by))))
            plain.release(root)

    def _die(self, source: Source, found: list[_Numbered]) -> None:
        """Let a dead atom take from its gates, for good, and decide what follows."""
        plain = self._plain
        slack, marks = plain.slack, plain.root
        dead: list[int] = []
        for gate in list(source.gates):
            if marks[gate] is STALE:
                del source.gates[gate]
                plain.leave(gate)
                continue
            left = slack[gate] - 1
            slack[gate] = left
            if not left:
                dead.append(gate)
        shared: Reason | None = None
        roots = plain.fall(dead)
        for root in roots:
            owner, leaves = plain.owner[root], plain.root[root]
            if type(leaves) is tuple and shared is not None:
                decision = Drop(owner, shared)
            else:
                condition = plain.condition(root)
                decision = drop(owner, condition, node_values(condition, self._entries.value), self._reason_of)
                if type(leaves) is tuple:
                    shared = decision.reason
            found.append((plain.serial[root], decision))
            del self._owners[owner]
        for root in roots:
            plain.release(root)
        self._let_go(source, source.leaf.key)

    def _judge(self, touched: Iterable[Graph], found: list[_Numbered]) -> None:
        """Decide about five-value registrations after a propagation."""
        for graph in touched:
            if not graph.is_alive:
                continue
            value = graph.root_value
            if value <= NEVER:
                found.append((graph.serial, drop(graph.owner, graph.condition, graph.node_values(), self._reason_of)))
                self.withdraw(graph.owner)
            elif value >= HOLDS and not graph.is_up:
                graph.is_up = True
                found.append((graph.serial, fire(graph.owner, graph.condition, graph.node_values())))
                if value is TRUE or not self._keep_levels:
                    self.withdraw(graph.owner)
            elif value is WAIT and graph.is_up:
                graph.is_up = False
                found.append((graph.serial, Lapse(graph.owner)))

    def _end(self, batch: Batch) -> list[Decision]:
        """End a propagation: return its decisions in order of registration."""
        found = batch.found
        if batch.touched:
            self._judge(batch.touched, found)
        if len(found) > 1:
            found.sort(key=_first)
        return [decision for _, decision in found]

    def _reason_of(self, key: str) -> str:
        entry = self._entries.find_key(key)
        return entry.reason if isinstance(entry, Source) else ""


def _words(event: Event) -> str:
    """Say in a few words what ended an atom."""
    name = type(event).__name__.lower()
    more = getattr(event, "reason", "") or getattr(event, "kind", "")
    return f"{name}: {more}" if more else name
