"""Who waits for what: conditions go in once, what happens goes in as it comes, decisions come out.

The resolver decides and does nothing: every method returns what follows, and the caller carries it out. No clock, no
lock, no I/O; time is told (``now``). One registration fires or drops once; with ``keep_levels`` one that fired at
HOLDS stays until it is withdrawn, and may lapse. Decisions come in order of registration.

Thresholds over atoms that are decided once are two counters per gate (``waiting.Plain``); anything with ``~``, a level
or time takes the five-value path (``graph.Graph``). Watched literals were measured and turned down: they save memory,
but lose the early "never". True atoms are forgotten: a caller who must remember tells ``register`` through ``known``.

Rule: the ways through ``hear`` and the short ``register`` are measured (benchmarks/resolver.py); no call, no lookup
more than there are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Set
from typing import Any

from trun.conditions.algebra import And, Condition, Gate, Leaf
from trun.conditions.atoms import JobAtom, WorldAtom
from trun.conditions.decisions import Decision, Drop, Fire, Lapse, Reason, drop, fire, node_values
from trun.conditions.entries import STALE, WIDE, Source, Waiters, Wide, waiters
from trun.conditions.explain import Explanation, explain_tree
from trun.conditions.graph import Graph
from trun.conditions.plain import is_plain_leaf, plain_gates
from trun.conditions.propagation import VALUES, Batch, Propagation
from trun.conditions.timing import TimeLeaf
from trun.conditions.value import HOLDS, TRUE, WAIT, Value
from trun.errors import InvariantError, UnknownName

__all__ = ["Decision", "Drop", "Fire", "Lapse", "Reason", "Resolver"]

Known = Callable[[Any], Value | None]


class Resolver(Propagation):
    """Decides who may run, from conditions and news about their atoms.

    Parameters
    ----------
    keep_levels
        A condition that fires at HOLDS stays registered until it is withdrawn; it may lapse, and fire again.
    """

    # -- who waits

    def register(
        self,
        owner: Hashable,
        condition: Condition,
        *,
        now: float = 0.0,
        known: Known | None = None,
        risen: Callable[[Any], float] | None = None,
        origin: float | None = None,
    ) -> list[Decision]:
        """Let ``owner`` wait for a condition. What is known already counts, so it may fire or drop at once.

        Parameters
        ----------
        owner
            Whatever the caller calls it; each waits for one condition at a time.
        now
            Seconds; starts the spans in the condition unless ``origin`` is given.
        known
            What atoms are worth at present; None, as a function or as its answer, stands for the atom's own latch.
            Not asked about undecided atoms that others wait for: of those every piece of news was heard.
        risen
            For ``since``: when an atom that holds already came true, in any numbers that are ordered (0: unknown).
            Default: the order in which the atoms of this process rose.
        origin
            When the registration was made first, so that deadlines stay where they were after a restart.
        """
        if owner in self._owners:
            raise InvariantError(f"{owner!r} waits already.")
        if now > self._now:
            self._now = now
        if type(condition) is And or is_plain_leaf(condition):
            leaves = condition.of if type(condition) is And else (condition,)
            found = self._register_all(owner, leaves, known)
            if found is not None:
                return found
        gates = plain_gates(condition)
        if gates is not None:
            return self._register_plain(owner, condition, gates, known)
        return self._register_graph(owner, condition, known, risen or _rank, now if origin is None else origin)

    def _register_all(
        self, owner: Hashable, leaves: tuple[Condition, ...], known: Known | None
    ) -> list[Decision] | None:
        """Register a conjunction of plain atoms, the usual case. None: it has something else in it, or is dead."""
        about, plain, connect = self._entries.about, self._plain, self._entries.connect
        marks = plain.root
        gate = plain.new(0, 1)
        missing = 0
        for leaf in leaves:
            if isinstance(leaf, JobAtom):
                entry = about.get(leaf.subject)
                if isinstance(entry, Waiters) and (entry.leaf is leaf or entry.leaf.key == leaf.key):
                    last = entry[-1]
                    if last != gate and marks[last] is not STALE and (len(entry) < WIDE or type(entry) is Wide):
                        entry.append(gate)
                        missing += 1
                        continue
                elif entry is None and known is None and leaf._latch is WAIT and self._late_value(leaf) is WAIT:
                    about[leaf.subject] = waiters(leaf, gate)
                    missing += 1
                    continue
            elif not is_plain_leaf(leaf):
                break
            value = self._present(leaf, known, level=False)  # type: ignore[arg-type]
            if value is WAIT:
                missing += connect(leaf, gate)  # type: ignore[arg-type]
            elif value is not TRUE:
                break
        else:
            if not missing:
                plain.recycle(gate)
                return [Fire(owner, TRUE, leaves)]
            plain.need[gate] = missing
            plain.owner[gate] = owner
            plain.root[gate] = leaves
            self._serial += 1
            plain.serial[gate] = self._serial
            self._owners[owner] = gate
            return []
        for done in leaves:
            if done is leaf:
                break
            self._entries.retract(done, gate)  # type: ignore[arg-type]
        plain.recycle(gate)
        return None

    def _register_plain(
        self, owner: Hashable, condition: Condition, gates: list[Gate], known: Known | None
    ) -> list[Decision]:
        def present(leaf: Leaf) -> Value:
            return self._present(leaf, known, level=False)

        root = self._plain.enter(condition, gates, present, self._serial + 1) if gates else -1
        if root >= 0:
            self._serial += 1
            self._plain.owner[root] = owner
            self._owners[owner] = root
            return []
        values = node_values(condition, present)
        if values[id(condition)] is TRUE:
            return [fire(owner, condition, values)]
        return [drop(owner, condition, values, self._reason_of)]

    def _register_graph(
        self,
        owner: Hashable,
        condition: Condition,
        known: Known | None,
        risen: Callable[[Any], float],
        origin: float,
    ) -> list[Decision]:
        self._serial += 1
        moment = self._moment("", 0)
        graph = Graph(
            owner,
            self._serial,
            condition,
            lookup=lambda leaf: self._present(leaf, known),
            risen=risen,
            origin=origin,
            moment=moment,
        )
        self._owners[owner] = graph
        for key, leaf in graph.leaves.items():
            if isinstance(leaf, TimeLeaf):
                continue
            source = self._entries.source(leaf)
            source.value = graph.values[key]
            source.graphs[graph] = None
            if isinstance(leaf, WorldAtom) and not source.value.is_settled:
                self._watch[key] = leaf
        for at, which in graph.turns(self._now):
            self._clocks.start(at, graph, which)
        found: list[tuple[int, Decision]] = []
        self._judge((graph,), found)
        return [decision for _, decision in found]

    def _present(self, leaf: Leaf, known: Known | None, *, level: bool = True) -> Value:
        """Return what an atom is worth now, as far as anybody knows."""
        entry = self._entries.find(leaf)
        if entry is not None:
            return entry.value if type(entry) is Source else WAIT
        value = known(leaf) if known is not None else None
        if value is None:
            value = leaf.latch
            if value is WAIT:
                value = self._late_value(leaf)
        return WAIT if value == HOLDS and not level else VALUES[value]

    def _late_value(self, leaf: Leaf) -> Value:
        """Return what an atom came to be worth while others waited for it; WAIT if that is forgotten."""
        if isinstance(leaf, JobAtom):
            came = self._came.get(leaf.subject)
            if came is not None and came.key == leaf.key:
                return TRUE
        return self._late.get(leaf.key, WAIT)

    def mentioning(self, subjects: Set[str]) -> dict[str, list[Hashable]]:
        """Return who waits and mentions these jobs, in order of registration: for ``reset`` of many of them.

        Costs a look at every registration, since atoms that came true were forgotten.
        """
        found: dict[str, list[Hashable]] = {subject: [] for subject in subjects}
        for owner, where in self._owners.items():
            leaves = where.leaves.values() if isinstance(where, Graph) else self._plain.leaves(where)
            for subject in {leaf.subject for leaf in leaves if isinstance(leaf, JobAtom)} & subjects:
                found[subject].append(owner)
        return found

    def reset(self, subject: str, run: int = 0, owners: Iterable[Hashable] | None = None) -> list[Decision]:
        """Begin a new run of a job: who still waits and mentions it waits anew; what was decided stays so.

        ``owners`` are those who mention it (see ``mentioning``).
        """
        owners = self.mentioning({subject})[subject] if owners is None else owners
        self._came.pop(subject, None)
        tail = f"job:{subject}:"
        self._late = {key: value for key, value in self._late.items() if not key.startswith(tail)}
        again: list[tuple[Hashable, int | Graph]] = []
        for owner in owners:
            if (where := self._owners.get(owner)) is not None:
                again.append((owner, where))
        batch = Batch()
        renewed: list[tuple[Hashable, int, Condition, dict[str, Value]]] = []
        # The plain ones first: how often atoms mention them is worked out from what the atoms are worth.
        for owner, where in again:
            if not isinstance(where, Graph):
                renewed.append((owner, self._plain.serial[where], *self._take_back(where, subject)))
        for graph in [where for _, where in again if isinstance(where, Graph)]:
            for key, leaf in graph.leaves.items():
                if isinstance(leaf, JobAtom) and leaf.subject == subject:
                    self._entries.source(leaf).value = WAIT
                    batch.touched[graph] = None
                    for at, which in graph.move(key, WAIT, self._moment("", 0)):
                        self._clocks.start(at, graph, which)
        for owner, serial, condition, values in renewed:  # once none of them holds on to what the atoms were worth
            gates = plain_gates(condition) or [And(condition)]
            root = self._plain.enter(gates[-1], gates, lambda leaf, values=values: values[leaf.key], serial)  # type: ignore[misc]
            self._plain.owner[root] = owner
            self._owners[owner] = root
        return self._end(batch)

    def _take_back(self, root: int, subject: str) -> tuple[Condition, dict[str, Value]]:
        """End a plain registration that will be entered again; return it with the atoms about a job undecided."""
        condition = self._plain.condition(root)

        def worth(leaf: Leaf) -> Value:
            return WAIT if getattr(leaf, "subject", "") == subject else self._entries.value(leaf)

        values = {leaf.key: worth(leaf) for leaf in self._plain.leaves(root)}
        self._plain.release(root)
        return condition, values

    # -- questions

    def wanted(self, subject: str) -> bool:
        """Whether a registration still waits to hear something of a job."""
        return any(isinstance(one, Waiters) or not one.value.is_settled for one in self._entries.of_subject(subject))

    def subjects_of(self, owner: Hashable) -> frozenset[str]:
        """Return the jobs that a registration mentions."""
        where = self._where(owner)
        leaves = where.leaves.values() if isinstance(where, Graph) else self._plain.leaves(where)
        return frozenset(leaf.subject for leaf in leaves if isinstance(leaf, JobAtom))

    def owners_about(self, subject: str) -> list[Hashable]:
        """Return who waits for a job, or knows of its bad end, in order of registration."""
        found: dict[Hashable, int] = {}
        plain = self._plain
        for entry in self._entries.of_subject(subject):
            for gate in entry if isinstance(entry, Waiters) else entry.gates:
                if plain.root[gate] is not STALE:
                    root = plain.root_above(gate)
                    found[plain.owner[root]] = plain.serial[root]
            for graph in entry.graphs if isinstance(entry, Source) else ():
                found[graph.owner] = graph.serial
        return sorted(found, key=found.__getitem__)

    def value(self, key: str) -> Value:
        """Return what an atom is worth; WAIT for one that nobody waits for and that settled long ago."""
        entry = self._entries.find_key(key)
        if entry is None:
            came = any(leaf.key == key for leaf in self._came.values())
            return TRUE if came else self._late.get(key, WAIT)
        return entry.value if isinstance(entry, Source) else WAIT

    def condition_of(self, owner: Hashable) -> Condition:
        """Return what somebody waits for."""
        where = self._where(owner)
        return where.condition if isinstance(where, Graph) else self._plain.condition(where)

    def explain(
        self, owner: Hashable, *, now: float | None = None, describe: Callable[[Leaf], str] | None = None
    ) -> Explanation:
        """Say what a registration waits for; ``describe`` names an atom for people, ``now`` dates instants."""
        where = self._where(owner)
        if isinstance(where, Graph):
            values, gates = where.values, where.node_values()
            return explain_tree(
                where.condition, lambda leaf: values[leaf.key], describe, now, gates=lambda node: gates.get(id(node))
            )
        return explain_tree(self._plain.condition(where), self._entries.value, describe, now)

    def _where(self, owner: Hashable) -> int | Graph:
        try:
            return self._owners[owner]
        except KeyError:
            raise UnknownName(f"{owner!r} does not wait for anything.") from None

    def world(self) -> list[WorldAtom]:
        """Return the undecided atoms over the world that somebody waits for."""
        return list(self._watch.values())

    def take_watch_changes(self) -> tuple[list[WorldAtom], list[str]]:
        """Return which atoms to watch from now on, and the keys of those to watch no more, since the last call."""
        if not self._watch and not self._watched:
            return [], []
        start = [atom for key, atom in self._watch.items() if key not in self._watched]
        stop = [key for key in self._watched if key not in self._watch]
        if start or stop:
            self._watched = dict(self._watch)
        return start, stop


def _rank(leaf: Leaf) -> float:
    """Return the how manyeth rise in this process was an atom's last one."""
    return float(getattr(leaf, "rose", 0))
