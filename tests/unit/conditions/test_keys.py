"""Keys, equality and structure: equal trees are equal everywhere, whatever the order and nesting."""

from __future__ import annotations

import copy
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from trun.conditions import (
    And,
    Atom,
    Condition,
    IsCompleted,
    IsFailed,
    IsMessage,
    IsProgress,
    IsReached,
    IsResult,
    Level,
    Or,
    after,
    all_of,
    any_of,
    at,
    at_least,
    before,
    changed,
    exists,
    free,
    held,
    never,
    since,
    url_ok,
)

a, b, c = IsCompleted("a"), IsCompleted("b"), IsCompleted("c")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (a & b, b & a),
        (a & b & c, a & (b & c)),
        (And(a, And(b, c)), And(c, b, a)),
        (a | b | c, Or(c, Or(b, a))),
        (a & a, a),
        (And(a), a),
        (Or(a), a),
        (at_least(1, a, b), a | b),
        (at_least(2, a, b), a & b),
        (at_least("100%", a, b), b & a),
        (at_least(2, a, b, c), at_least(2, c, a, b)),
        (at_least(0, a), all_of()),
        (at_least(2, a), any_of()),
        (~~a, a),
        (IsCompleted("a", label="fit"), IsCompleted("a", label="other")),
        (after("10m"), after(600)),
        (held(a, "1m"), held(a, 60)),
        (exists("x", poll="1s"), exists("x")),
    ],
)
def test_the_same_meaning_written_otherwise_is_equal(one: Condition, other: Condition) -> None:
    assert one == other
    assert one.key == other.key
    assert hash(one) == hash(other)


def test_different_conditions_have_different_keys() -> None:
    different = [
        a, b, a & b, a | b, ~a, never(a), a & b & c, (a & b) | c, a & (b | c), at_least(2, a, b, c), IsFailed("a"),
        IsMessage("a", "x"), IsMessage("a", "y"), IsResult("a", "x < 1"), IsProgress("a", 0.5), IsReached("a", 1),
        IsReached("a", "50%"), after(1), after(2), before(1), at(1), a.within(1), held(a, 1), held(a, 2), since(a, b),
        since(b, a), exists("x"), changed("x"), url_ok("http://x"), free("x", 1), free("x", 2), Atom("x"), Atom("x"),
        Level("x"), Level("x"), all_of(), any_of(),
    ]  # fmt: skip

    assert len({one.key for one in different}) == len(different)
    assert len(set(different)) == len(different)


def test_two_bare_atoms_are_never_equal_even_with_one_name() -> None:
    assert Atom("x") != Atom("x")
    assert Atom().id != Atom().id


def test_job_file_and_time_atoms_have_the_same_key_wherever_they_are_made() -> None:
    assert IsResult("u", "chisq < 2").key == "job:u:result:chisq < 2"
    assert exists("/data/x").key == "world:d2d1e8f7e61126e2cbfee1fce5d7a15f"
    assert (a & b).key == "a857148ca7ef7cb02b4f4900637eba99"


@given(st.lists(strategies.conditions(strategies.pool()), min_size=1, max_size=5), st.integers())
def test_order_and_nesting_do_not_change_the_key(several: list[Condition], seed: int) -> None:
    shuffled = list(several)
    random.Random(seed).shuffle(shuffled)
    nested = shuffled[0]
    for one in shuffled[1:]:
        nested = nested & one

    assert And(*several) == nested
    assert hash(And(*several)) == hash(nested)


def test_nested_and_and_or_flatten() -> None:
    assert (a & (b & c)).of == (a, b, c)
    assert ((a | b) | c).of == (a, b, c)
    assert ((a | b) & c).of == (a | b, c)


def test_a_chain_of_fifty_thousand_and_is_built_and_used_in_linear_time() -> None:
    atoms = [Atom() for _ in range(50_000)]

    started = time.process_time()
    chain: Condition = atoms[0]
    for atom in atoms[1:]:
        chain = chain & atom
    for atom in atoms:
        atom.set_ready()

    assert chain.ready
    assert len(chain.of) == 50_000
    assert len(chain.depends) == 50_000
    assert len(chain.key) == 32
    assert time.process_time() - started < 10


def test_a_deep_tree_without_flattening_does_not_exhaust_the_stack() -> None:
    node: Condition = a
    for number in range(20_000):
        node = node & IsCompleted(str(number)) if number % 2 else node | IsCompleted(str(number))

    assert len(node.depends) == 20_001
    assert len(node.key) == 32
    assert node.ready is False


def test_a_copy_of_an_expression_is_the_same_condition() -> None:
    assert copy.copy(a & b) == a & b


def test_an_empty_or_does_not_vanish_when_or_flattens() -> None:
    gone = Atom("gone")
    gone.set_cancelled()

    assert (gone | any_of()).never
    assert (gone | any_of()) != gone
    assert (gone & all_of()) == gone
