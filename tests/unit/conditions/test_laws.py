"""Laws of the chain of five, against brute force that knows only the definitions.

Conditions are made from small terms (nested tuples) whose value is computed by recursion straight from the tables of
the design, not by trun.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trun.conditions import And, AtLeast, Atom, Condition, Not, Or, Value, all_of, any_of, at_least, never, settled
from trun.conditions.algebra import Settled, combine, evaluate

CANCELLED, NEVER, WAIT, HOLDS, TRUE = range(5)
NAMES = "abcde"

#: name or (operator, ..., children)
Term = Any
names = st.sampled_from(NAMES)
assignments = st.fixed_dictionaries({name: st.integers(0, 4) for name in NAMES})


def _gates(below: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    several = st.lists(below, max_size=4).map(tuple)
    return (
        st.tuples(st.sampled_from(["and", "or"]), several)
        | st.tuples(st.just("atleast"), st.integers(0, 5), several)
        | st.tuples(st.sampled_from(["not", "never", "settled"]), below)
    )


terms = st.recursive(names, _gates, max_leaves=12)
#: Terms in which more truth below never means less above.
monotone = st.recursive(
    names,
    lambda below: st.tuples(st.sampled_from(["and", "or"]), st.lists(below, min_size=1, max_size=4).map(tuple)),
    max_leaves=12,
)
#: Terms without ``not``, whose verdicts are final.
without_not = st.recursive(
    names,
    lambda below: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(below, max_size=4).map(tuple))
        | st.tuples(st.just("atleast"), st.integers(0, 5), st.lists(below, max_size=4).map(tuple))
        | st.tuples(st.sampled_from(["never", "settled"]), below)
    ),
    max_leaves=12,
)


def worth(term: Term, values: dict[str, int]) -> int:
    """Value of a term by the definitions: k-th largest, and three tables."""
    if isinstance(term, str):
        return values[term]
    if term[0] in ("and", "or", "atleast"):
        below = sorted((worth(child, values) for child in term[-1]), reverse=True)
        k = {"and": len(below), "or": 1}.get(term[0], term[1])
        if k == 0:
            return TRUE
        return below[k - 1] if k <= len(below) else NEVER
    inner = worth(term[1], values)
    if term[0] == "not":
        return {0: 0, 1: 4, 2: 3, 3: 2, 4: 1}[inner]
    if term[0] == "never":
        return TRUE if inner in (CANCELLED, NEVER) else NEVER if inner == TRUE else WAIT
    return WAIT if inner in (WAIT, HOLDS) else TRUE


def build(term: Term, atoms: dict[str, Atom]) -> Condition:
    """The condition of a term."""
    if isinstance(term, str):
        return atoms[term]
    if term[0] in ("not", "never", "settled"):
        return {"not": Not, "never": never, "settled": settled}[term[0]](build(term[1], atoms))
    children = [build(child, atoms) for child in term[-1]]
    return AtLeast(term[1], *children) if term[0] == "atleast" else {"and": And, "or": Or}[term[0]](*children)


def fresh() -> dict[str, Atom]:
    return {name: Atom(name) for name in NAMES}


def value_of(condition: Condition, atoms: dict[str, Atom], values: dict[str, int]) -> int:
    """What trun says when the atoms have these values."""
    by_key = {atoms[name].key: Value(value) for name, value in values.items()}
    return int(evaluate(condition, lambda leaf: by_key[leaf.key]))


def names_in(term: Term) -> set[str]:
    if isinstance(term, str):
        return {term}
    if term[0] in ("not", "never", "settled"):
        return names_in(term[1])
    return set().union(*(names_in(child) for child in term[-1]))


@given(terms, assignments)
def test_every_tree_is_worth_what_brute_force_says(term: Term, values: dict[str, int]) -> None:
    atoms = fresh()

    assert value_of(build(term, atoms), atoms, values) == worth(term, values)


@given(terms)
def test_depends_names_every_atom_that_is_mentioned(term: Term) -> None:
    atoms = fresh()

    assert build(term, atoms).depends == {atoms[name] for name in names_in(term)}


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 7))
def test_a_quorum_is_the_kth_largest(values: Sequence[int], k: int) -> None:
    gate = AtLeast(k, *(Atom() for _ in values))

    expected = TRUE if k == 0 else NEVER if k > len(values) else sorted(values)[-k]

    assert combine(gate, [Value(value) for value in values]) == expected


@given(terms, terms, terms, assignments)
def test_the_laws_that_may_be_used_hold(x: Term, y: Term, z: Term, values: dict[str, int]) -> None:
    atoms = fresh()
    a, b, c = (build(term, atoms) for term in (x, y, z))

    def same(one: Condition, other: Condition) -> bool:
        return value_of(one, atoms, values) == value_of(other, atoms, values)

    assert same(a & b, b & a)
    assert same(a | b, b | a)
    assert same((a & b) & c, a & (b & c))
    assert same((a | b) | c, a | (b | c))
    assert same(a & a, a)
    assert same(a | a, a)
    assert same(a & (a | b), a)
    assert same(a | (a & b), a)
    assert same(a & (b | c), (a & b) | (a & c))
    assert same(a | (b & c), (a | b) & (a | c))
    assert same(~~a, a)
    assert same(And(a, b, c), AtLeast(3, a, b, c))
    assert same(Or(a, b, c), AtLeast(1, a, b, c))
    assert same(all_of(a), any_of(a))


@given(terms, terms, assignments)
def test_de_morgan_holds_for_never(x: Term, y: Term, values: dict[str, int]) -> None:
    atoms = fresh()
    a, b = build(x, atoms), build(y, atoms)

    assert value_of(never(a & b), atoms, values) == value_of(never(a) | never(b), atoms, values)
    assert value_of(never(a | b), atoms, values) == value_of(never(a) & never(b), atoms, values)


def test_de_morgan_fails_for_not_where_one_side_was_cancelled() -> None:
    a, b = Atom("a"), Atom("b")
    a.set_cancelled()

    assert (~(a & b)).value is Value.CANCELLED
    assert (~a | ~b).value is Value.HOLDS


def test_excluded_middle_and_non_contradiction_fail() -> None:
    a = Atom("a")
    a.set_cancelled()

    assert (a | ~a).value is Value.CANCELLED
    assert (a & ~a).value is Value.CANCELLED


@given(monotone, assignments, names, st.integers(0, 4))
def test_more_truth_below_never_means_less_above(term: Term, values: dict[str, int], name: str, value: int) -> None:
    atoms = fresh()
    condition = build(term, atoms)
    better = {**values, name: max(values[name], value)}

    assert value_of(condition, atoms, better) >= value_of(condition, atoms, values)


@given(without_not, assignments, st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_without_not_a_verdict_survives_whatever_open_atoms_do(
    term: Term, values: dict[str, int], news: list[int]
) -> None:
    atoms = fresh()
    condition = build(term, atoms)
    before = value_of(condition, atoms, values)
    later = {
        name: new if values[name] in (WAIT, HOLDS) else values[name] for name, new in zip(NAMES, news, strict=True)
    }

    after = value_of(condition, atoms, later)

    if before == TRUE:
        assert after == TRUE
    if before <= NEVER:
        assert after <= NEVER


def test_what_is_dead_may_still_turn_from_never_to_cancelled() -> None:
    a, b = Atom("a"), Atom("b")
    both = a & b

    a.set_never()
    assert both.value is Value.NEVER
    b.set_cancelled()
    assert both.value is Value.CANCELLED


@given(terms, assignments)
def test_the_observables_follow_from_the_value(term: Term, values: dict[str, int]) -> None:
    atoms = fresh()
    condition = build(term, atoms)
    for name, atom in atoms.items():
        if values[name] in (CANCELLED, NEVER, TRUE):
            {CANCELLED: atom.set_cancelled, NEVER: atom.set_never, TRUE: atom.set_ready}[values[name]]()
    seen = {name: value if value in (CANCELLED, NEVER, TRUE) else WAIT for name, value in values.items()}
    value = worth(term, seen)

    assert condition.value == value
    assert condition.cancelled == (value == CANCELLED)
    assert condition.never == (value == NEVER)
    assert condition.settled == (value in (CANCELLED, NEVER, TRUE))
    if value != CANCELLED:
        assert condition.ready == (value >= HOLDS)


@given(st.integers(0, 100), st.integers(0, 30))
def test_a_percentage_is_the_least_count_that_reaches_it(percent: int, total: int) -> None:
    gate = at_least(f"{percent}%", *(Atom() for _ in range(total)))

    assert gate.k == math.ceil(percent * total / 100)


def test_a_settled_gate_over_nothing_is_decided() -> None:
    assert all_of().value is Value.TRUE
    assert any_of().value is Value.NEVER
    assert at_least(0, Atom()).value is Value.TRUE
    assert at_least(3, Atom(), Atom()).value is Value.NEVER
    assert Settled(any_of()).value is Value.TRUE
