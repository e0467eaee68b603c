"""What can be known of a condition before anything has happened.

``never_reason`` finds conditions that cannot hold whatever comes (``a.iscompleted & a.isfailed``): for atoms that
depend on one another (outcomes of one job, instants on one clock, an atom used twice) it tries the states that they
can be in together; all others are taken as free. What is called impossible is impossible; what takes more than a
bounded amount of work to refute counts as possible. ``refuse_alternatives`` and ``warn`` find what is legal or
possible, but not what was meant.

It looks at no present value: that an upstream job has failed already is news for the resolver, not a fault of the
caller. Source: case splitting as in SAT solvers, on the chain of five; the values of a node are a set, kept as bits.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from trun.conditions.algebra import Condition, Gate, Leaf, Never, Not, Settled, Unary, postorder
from trun.conditions.atoms import Atom, JobAtom, Level, WorldAtom
from trun.conditions.outcomes import MESSAGE_KINDS, OUTCOMES, judge_group
from trun.conditions.timing import After, At, Before, Deadline, Held
from trun.conditions.value import CANCELLED, HOLDS, NEVER, TRUE, WAIT, Value
from trun.errors import ConditionWarning, UsageError
from trun.messages import FINAL, Counted

#: How many nodes may be evaluated before a condition counts as possible.
BUDGET = 100_000
#: How many doubtful places of one condition are worth a warning.
MAX_WARNINGS = 3

_C, _N, _W, _H, _T = (1 << value for value in (CANCELLED, NEVER, WAIT, HOLDS, TRUE))
_READY = _H | _T
_ALL = _C | _N | _W | _H | _T
_LATCHING = frozenset({"queued", "started"}) | MESSAGE_KINDS

#: What the leaves of one variable can be worth together: {place of the leaf: set of values as bits}.
_State = dict[int, int]


class Purse:
    """How many nodes may still be evaluated for the conditions that came together."""

    def __init__(self) -> None:
        self.left = BUDGET


def never_reason(condition: Condition, purse: Purse | None = None) -> str:
    """Say why the condition can never hold, whatever happens; an empty text if it can, or nobody can tell cheaply."""
    if isinstance(condition, Leaf) or _is_plain(condition):
        return ""
    purse = purse or Purse()
    search = _Search(condition, purse.left)
    found = search.reason()
    purse.left = search.left
    return found


def _is_plain(condition: Condition) -> bool:
    """Whether it is one gate over conditions on different jobs: the usual case, which always can hold."""
    if not isinstance(condition, Gate):
        return False
    children = condition.of
    if not 0 <= condition.need <= len(children) or not children:
        return False
    seen: set[str] = set()
    for child in children:
        if not isinstance(child, JobAtom) or child.subject in seen:
            return False
        seen.add(child.subject)
    return True


class _Search:
    """The tree as flat lists, and the variables that occur in it more than once."""

    def __init__(self, condition: Condition, left: int) -> None:
        self.condition = condition
        self.nodes = list(postorder(condition))
        self.index = {id(node): place for place, node in enumerate(self.nodes)}
        self.children = [[self.index[id(child)] for child in node.of] for node in self.nodes]
        self.left = left
        uses: Counter[int] = Counter(place for children in self.children for place in children)
        leaves: dict[str, list[int]] = {}
        times: Counter[str] = Counter()
        for place, node in enumerate(self.nodes):
            if isinstance(node, Leaf):
                name = _variable(node)
                leaves.setdefault(name, []).append(place)
                times[name] += uses[place]
        #: {variable: places of its leaves}, for those that bind leaves together.
        self.bound = {name: places for name, places in leaves.items() if times[name] > 1}

    def reason(self) -> str:
        """Return why the root cannot hold."""
        if not self.masks({})[-1] & _READY:
            return self.blame()
        if not self.bound:
            return ""
        states: dict[str, list[_State]] = {}
        for name, places in self.bound.items():
            if name in ("clock", "timer"):  # each of its stretches says something of each of its leaves
                self.left -= len(places) ** 2
                if self.left <= 0:
                    return ""
            states[name] = _states([self.leaf(place) for place in places], places)
        for name, places in self.required().items():
            if not any(all(state[place] & _READY for place in places) for state in states[name]):
                return self.exclusion([name], places)
        for name, options in states.items():
            if self.left <= 0:
                return ""
            if not any(self.left <= 0 or self.masks(state)[-1] & _READY for state in options):
                return self.exclusion([name])
        if len(states) > 1 and self.refuted(states):
            return self.exclusion(list(states))
        return ""

    def leaf(self, place: int) -> Leaf:
        """Return the leaf at a place."""
        node = self.nodes[place]
        assert isinstance(node, Leaf)
        return node

    def required(self) -> dict[str, list[int]]:
        """Return the bound leaves that must hold themselves: children of an And at the root."""
        root = self.condition
        found: dict[str, list[int]] = {}
        if isinstance(root, Gate) and root.need == len(root.of):
            for place in self.children[-1]:
                node = self.nodes[place]
                if isinstance(node, Leaf) and (name := _variable(node)) in self.bound:
                    found.setdefault(name, []).append(place)
        return found

    def masks(self, state: _State) -> list[int]:
        """Return the set of values that each node can have in a state, as bits; bound leaves not in it are free."""
        self.left -= len(self.nodes)
        found: list[int] = []
        for place, node in enumerate(self.nodes):
            if isinstance(node, Leaf):
                found.append(state.get(place) or _range(node))
            else:
                found.append(_combine(node, [found[child] for child in self.children[place]]))
        return found

    def refuted(self, states: dict[str, list[_State]]) -> bool:
        """Whether no choice of one state per variable lets the root hold: depth first, giving up on the budget."""
        names = list(states)
        path: list[tuple[_State, Iterator[_State]]] = [({}, iter(states[names[0]]))]
        while path:
            chosen, options = path[-1]
            for option in options:
                if self.left <= 0:
                    return False
                state = {**chosen, **option}
                if self.masks(state)[-1] & _READY:
                    if len(path) == len(names):
                        return False
                    path.append((state, iter(states[names[len(path)]])))
                    break
            else:
                path.pop()
        return True

    def blame(self) -> str:
        """Say which gate is impossible whatever its atoms do."""
        for node in self.nodes:
            if isinstance(node, Gate) and node.need > len(node.of):
                return f"it asks for at least {node.need} of {len(node.of)} conditions"
        for node, mask in zip(self.nodes, self.masks({}), strict=True):
            if isinstance(node, Gate) and not node.of and not mask & _READY:
                return "any() of no conditions is never true"
        return "its parts exclude one another"

    def exclusion(self, names: Sequence[str], places: Sequence[int] = ()) -> str:
        """Say which conditions cannot be true together."""
        if len(names) == 1 and names[0].startswith("job:"):
            atoms = [self.leaf(place) for place in places or self.bound[names[0]]]
            found = [atom for atom in atoms if isinstance(atom, JobAtom)]
            kinds = " and ".join(dict.fromkeys(f"is{atom.what}" for atom in found))
            if " and " not in kinds:
                return f"{kinds} of {_name(found[0])!r} cannot be true and not true at once"
            return f"{kinds} of {_name(found[0])!r} exclude one another (a job ends in one way only)"
        if len(names) == 1 and names[0] in ("clock", "timer"):
            return "its times exclude one another (what must come later lies behind the deadline)"
        things = ", ".join(dict.fromkeys(self.called(name) for name in names))
        return f"what it asks of {things} cannot be true at once"

    def called(self, name: str) -> str:
        """Return what a person calls a variable."""
        if name in ("clock", "timer"):
            return "the time"
        leaf = self.leaf(self.bound[name][0])
        return repr(_name(leaf)) if isinstance(leaf, JobAtom) else str(leaf)


def _name(atom: JobAtom) -> str:
    return atom.label or atom.subject


def _variable(leaf: Leaf) -> str:
    """Return the name of what decides a leaf: leaves of one variable are not independent."""
    if isinstance(leaf, JobAtom):
        return f"job:{leaf.subject}"
    if isinstance(leaf, At):
        return "clock"
    if isinstance(leaf, After):
        return "timer"
    return leaf.key


def _range(leaf: Leaf) -> int:
    """Return what a leaf may be worth at any time."""
    if isinstance(leaf, Before | Deadline):
        return _H | _N
    if isinstance(leaf, After | At):
        return _W | _T
    if isinstance(leaf, Level | WorldAtom):
        return _ALL
    return _ALL & ~_H


def _combine(node: Condition, masks: Sequence[int]) -> int:
    """Return what a gate may be worth, its children taken as independent: never too little."""
    if isinstance(node, Gate):
        return _threshold_of_few(node.need, *masks) if len(masks) < 4 else _threshold(node.need, masks)
    if isinstance(node, Held):
        return masks[0] | (_W if masks[0] & _READY else 0)
    return _turned(tuple(node.table), masks[0]) if isinstance(node, Unary) else _ALL


@functools.cache  # of at most five tables, and 31 sets
def _turned(table: tuple[Value, ...], mask: int) -> int:
    """Return what comes of a set of values by a table."""
    found = 0
    for value in Value:
        if mask >> value & 1:
            found |= 1 << table[value]
    return found


@functools.lru_cache(maxsize=10_000)
def _threshold_of_few(need: int, *masks: int) -> int:
    return _threshold(need, masks)


def _threshold(need: int, masks: Sequence[int]) -> int:
    """Return what the ``need``-th largest of these may be."""
    if need == 0:
        return _T
    if need > len(masks):
        return _N
    kinds = Counter(masks)
    found = 0
    for value in Value:
        above = _ALL & ~((2 << value) - 1)
        here = 1 << value
        reach = sum(times for mask, times in kinds.items() if mask & (above | here))
        forced = sum(times for mask, times in kinds.items() if not mask & ~above)
        if reach >= need > forced and any(mask & here for mask in kinds):
            found |= here
    return found


# -- what the leaves of one variable can be worth together


def _states(leaves: Sequence[Leaf], places: Sequence[int]) -> list[_State]:
    """Return every state of a variable as far as its leaves can tell."""
    first = leaves[0]
    if isinstance(first, JobAtom):
        return _job_states([leaf for leaf in leaves if isinstance(leaf, JobAtom)], places)
    if isinstance(first, At | After):
        return _time_states([leaf for leaf in leaves if isinstance(leaf, At | After)], places)
    return [dict.fromkeys(places, 1 << value) for value in Value if _range(first) >> value & 1]


def _job_states(atoms: Sequence[JobAtom], places: Sequence[int]) -> list[_State]:
    unique = _kind_states(frozenset(atom.what for atom in atoms), any(atom.single for atom in atoms))
    return [{place: state[atom.what] for place, atom in zip(places, atoms, strict=True)} for state in unique]


@functools.lru_cache(maxsize=1000)
def _kind_states(kinds: frozenset[str], is_single: bool) -> list[dict[str, int]]:
    """Return what atoms of these kinds over one job can be worth together: the same for each job."""
    found: list[dict[str, int]] = []
    if "reached" not in kinds:
        found += _single_states(kinds)
    if not kinds & _LATCHING and not is_single:
        found += _group_states(kinds)
    return list({tuple(sorted(state.items())): state for state in found}.values())


def _single_states(kinds: frozenset[str]) -> list[dict[str, int]]:
    """Return what the atoms over one job are worth as it goes along, and after each way to end."""
    ended = []
    for event in FINAL:
        state = {what: 1 << OUTCOMES[what][event] for what in kinds}
        for what in kinds & _LATCHING:
            state[what] |= _T
        ended.append(state)
    waiting = dict.fromkeys(kinds, _W)
    queued = {**waiting, **({"queued": _T} if "queued" in kinds else {})}
    running = {what: _W | _T if what in _LATCHING else _W for what in kinds}
    return [*ended, running, queued, waiting]


def _group_states(kinds: frozenset[str]) -> list[dict[str, int]]:
    """Return what the atoms over a group are worth for every mixture of outcomes, before and after its end."""
    found = []
    for mixture in itertools.product((0, 1), repeat=5):
        counts = dict(zip(("completed", "failed", "aborted", "cancelled", "skipped"), mixture, strict=True))
        for closed in (False, True):
            count = Counted(total=sum(mixture), closed=closed, **counts)
            state = {}
            for what in kinds:
                value = None if what == "reached" else judge_group(what, None, count)
                state[what] = _C | _N | _W | _T if what == "reached" else 1 << (WAIT if value is None else value)
            found.append(state)
    return found


def _time_states(leaves: Sequence[At | After], places: Sequence[int]) -> list[_State]:
    """Return what the time atoms are worth in each stretch between their instants."""
    instants = sorted({leaf.deadline(0.0) for leaf in leaves})
    states: list[_State] = []
    for now in (float("-inf"), *instants):
        state = {}
        for place, leaf in zip(places, leaves, strict=True):
            state[place] = 1 << (leaf.late if now >= leaf.deadline(0.0) else leaf.early)
        states.append(state)
    return states


# -- legal, but not what was meant


def refuse_alternatives(condition: Condition, inputs: tuple[str, ...]) -> None:
    """Refuse a condition that could hold without a job whose result is an argument.

    Parameters
    ----------
    condition
        What was given as ``when=``.
    inputs
        uids of the jobs whose results are arguments: each adds "and completed" to the condition.
    """
    needed = set(inputs)
    stack: list[tuple[Condition, bool]] = [(condition, False)]
    seen: set[tuple[int, bool]] = set()
    names: dict[str, None] = {}
    while stack:
        node, optional = stack.pop()
        if isinstance(node, JobAtom):
            if optional and node.subject in needed:
                names[_name(node)] = None
            continue
        if (id(node), optional) in seen or isinstance(node, Not | Never | Settled):
            continue
        seen.add((id(node), optional))
        if isinstance(node, Gate) and not optional:
            optional = 0 < node.need < len(node.of)
        stack.extend((child, optional) for child in reversed(node.of))
    if names:
        few = ", ".join(itertools.islice(names, 3))
        raise UsageError(
            f"the condition could hold without {few}, but the job takes the result of {few} as an argument, and so "
            f"waits for it anyway; to go on with whichever is ready first, write trun.first({few}, ...) and pass that."
        )


def doubts(condition: Condition) -> list[str]:
    """Return what is legal in a condition but probably not meant, as sentences."""
    found: list[str] = []
    for node in postorder(condition):
        if isinstance(node, Not) and isinstance(node.child, Atom | JobAtom):
            text = str(node.child)
            found.append(f"~ on {text} is true before it is decided; did you mean never({text}), which waits for that?")
            if len(found) == MAX_WARNINGS:
                break
    return found


def warn(condition: Condition) -> None:
    """Warn (``ConditionWarning``) of what is legal but probably not meant."""
    for text in doubts(condition):
        warnings.warn(text, ConditionWarning, stacklevel=3)
