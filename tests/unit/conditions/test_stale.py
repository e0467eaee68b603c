"""Decided registrations stay mentioned for a while: nobody sees it, and it never piles up."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from trun.conditions.algebra import And, AtLeast, Condition, Or
from trun.conditions.atoms import IsCompleted
from trun.conditions.decisions import Drop, Fire
from trun.conditions.entries import WIDE, Source
from trun.conditions.plain import FEW
from trun.conditions.resolver import Resolver
from trun.conditions.value import NEVER, TRUE, WAIT
from trun.messages import Completed, Failed


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


def atoms(names: str) -> list[IsCompleted]:
    return [IsCompleted(name) for name in names]


def owners(decisions: list[Any]) -> list[Any]:
    return [one.owner for one in decisions]


def mentions(resolver: Resolver) -> int:
    """Count the numbers of gates in all entries."""
    entries = resolver._entries.about.values()
    return sum(len(one.gates) if isinstance(one, Source) else len(one) for one in entries)


def one_of_two(number: int, never: IsCompleted) -> Condition:
    """Forms of which one job decides, while ``never`` stays open."""
    one, two = IsCompleted(f"one{number}"), IsCompleted(f"two{number}")
    forms: list[Condition] = [one | never, (one | never) & (one | two), Or(And(one, one), And(never, two), never)]
    return forms[number % 3]


@pytest.mark.parametrize(("count", "waiting"), [(30_000, 10), (10_000, 2_000)])
def test_those_who_fire_past_an_atom_that_never_settles_leave_nothing_behind(
    resolver: Resolver, count: int, waiting: int
) -> None:
    never = IsCompleted("never")
    most = 0
    for number in range(count + waiting):
        if number < count:
            resolver.register(number, one_of_two(number, never))
        if number >= waiting:
            fired = number - waiting
            assert owners(resolver.hear(f"one{fired}", Completed())) == [fired]
        if not number % 1000:
            most = max(most, mentions(resolver))

    assert len(resolver) == 0
    assert most <= 5 * (2 * waiting + FEW) + WIDE
    assert len(resolver._plain.need) <= 9 * (waiting + FEW)
    assert not resolver.wanted("never")
    resolver._plain.sweep()
    assert mentions(resolver) == 0


def test_how_many_may_stay_follows_how_many_wait(resolver: Resolver) -> None:
    never = IsCompleted("never")
    plain = resolver._plain
    plain.few = 10
    for number in range(1000):
        resolver.register(number, one_of_two(number, never))
    for number in range(1000):
        resolver.hear(f"one{number}", Completed())
    most = len(plain.leaving)

    for number in range(1000, 1000 + 16 * 1000):
        resolver.register(number, one_of_two(number, never))
        resolver.hear(f"one{number}", Completed())

    assert most > 500
    assert len(plain.leaving) < 100


@pytest.mark.parametrize("few", [0, FEW])
def test_withdrawing_from_a_barrier_that_all_wait_for_is_not_quadratic(resolver: Resolver, few: int) -> None:
    barrier = IsCompleted("barrier")
    resolver._plain.few = few
    for number in range(20_000):
        resolver.register(number, barrier & IsCompleted(f"one{number}"))

    def withdraw() -> None:
        for number in range(0, 20_000, 2):
            assert resolver.withdraw(number)

    assert steps(withdraw) < 400_000
    assert mentions(resolver) <= 2 * 10_000 + 2 * 20_000
    assert owners(resolver.hear("barrier", Completed())) == []
    assert owners(resolver.hear("one7", Completed())) == [7]


def steps(call: Any) -> int:
    """Count the calls of functions while something runs: time, as far as it can be repeated."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_an_atom_that_only_decided_ones_mention_is_wanted_by_nobody(resolver: Resolver) -> None:
    a, b, c = atoms("abc")
    resolver.register(1, (a | b) & c)
    resolver.hear("a", Completed())
    assert resolver.wanted("b")
    assert resolver.owners_about("b") == [1]

    assert owners(resolver.hear("c", Completed())) == [1]

    assert not resolver.wanted("b")
    assert resolver.owners_about("b") == []
    assert resolver.value(b.key) is WAIT
    assert resolver.hear("b", Failed(kind="raised")) == []


def test_what_is_known_of_such_an_atom_is_asked_anew(resolver: Resolver) -> None:
    a, b = atoms("ab")
    resolver.register(1, a | b)
    resolver.hear("a", Completed())

    (drop,) = resolver.register(2, b & a, known=lambda leaf: NEVER if leaf is b else TRUE)
    assert isinstance(drop, Drop)
    assert resolver.register(3, b, known=lambda leaf: TRUE) == [Fire(3, TRUE)]


def test_the_gates_of_decided_registrations_are_not_fed_to_new_ones(resolver: Resolver) -> None:
    a, b, c, d = atoms("abcd")
    for number in range(100):
        resolver.register(number, (a | IsCompleted(f"x{number}")) & (b | IsCompleted(f"y{number}")))
        resolver.hear(f"x{number}", Completed())
        assert owners(resolver.hear(f"y{number}", Completed())) == [number]
    resolver.register("new", And(c, d))
    resolver.register("tree", (c | d) & IsCompleted("e"))

    assert resolver.hear("a", Completed()) == []
    assert resolver.hear("b", Failed(kind="raised")) == []
    assert resolver.hear("c", Completed()) == []
    assert owners(resolver.hear("d", Completed())) == ["new"]
    assert owners(resolver.hear("e", Completed())) == ["tree"]


def test_a_tree_is_explained_as_it_was_written(resolver: Resolver) -> None:
    a, b, c, d, e, f = atoms("abcdef")
    shared = a | b
    for tree in (
        Or(And(shared, c), AtLeast(2, d, shared, e, f)),
        AtLeast(2, And(a, b), c, Or(d, And(e, f))),
        And(Or(a, b), Or(a, b), Or(c, AtLeast(0, d)), Or()),
        Or(And(a, a, b), And(b, Or(c), And())),
    ):
        again = Resolver()
        if again.register("job", tree):
            continue
        assert str(again.condition_of("job")) == str(tree)
        assert again.condition_of("job") == tree
        assert str(again.explain("job")) == str(tree.explain())


def test_the_witness_of_a_tree_is_what_was_true_when_it_fired(resolver: Resolver) -> None:
    a, b, c, d, e, f = atoms("abcdef")
    resolver.register("job", And(Or(a, b), AtLeast(2, c, And(d, e), f)))
    for name in "fbde":
        found = resolver.hear(name, Completed())
    (fire,) = found
    resolver.hear("a", Completed())
    resolver.hear("c", Completed())

    assert isinstance(fire, Fire)
    assert fire.witness == (b.key, d.key, e.key, f.key)


def test_the_witness_counts_what_was_true_at_registration(resolver: Resolver) -> None:
    a, b, c = atoms("abc")
    assert resolver.register("job", And(Or(a, b), Or(b, c)), known=lambda leaf: TRUE if leaf is c else None) == []
    (fire,) = resolver.hear("a", Completed())

    assert isinstance(fire, Fire)
    assert fire.witness == (a.key, c.key)
