"""The resolver decides as brute force does, whatever the conditions and the order of the news."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brute import Brute
from strategies import (
    EVENTS,
    FINAL_VALUES,
    SUBJECTS,
    Pool,
    conditions,
    level_values,
    plain_conditions,
    pools,
    timed_conditions,
)
from trun.conditions.algebra import Condition
from trun.conditions.atoms import Level
from trun.conditions.plain import FEW
from trun.conditions.resolver import Drop, Fire, Resolver
from trun.conditions.value import Value


def told(decisions: list[Any]) -> list[tuple[str, Any]]:
    return [(type(one).__name__.lower(), one.owner) for one in decisions]


def draw_update(data: st.DataObject, pool: Pool) -> tuple[str, Value]:
    atom = data.draw(st.sampled_from(pool.all), label="atom")
    values = level_values() if isinstance(atom, Level) else st.sampled_from(FINAL_VALUES)
    return atom.key, data.draw(values, label="value")


def play(data: st.DataObject, draw_condition: Any, *, keep_levels: bool, steps: int = 12) -> None:
    pool = data.draw(pools())
    brute = Brute(pool.all, keep_levels=keep_levels)
    resolver = Resolver(keep_levels=keep_levels)
    resolver._plain.few = data.draw(st.sampled_from([0, 1, FEW]), label="stale ones that may stay")
    tree: st.SearchStrategy[Condition] = draw_condition(pool)

    def known(leaf: Any) -> Value:
        return Value(brute.leaves[leaf.key])

    for step in range(data.draw(st.integers(1, steps))):
        now = float(brute.now)
        verb = data.draw(st.sampled_from(["register"] * 3 + ["settle", "hear", "many", "withdraw", "advance"]))
        if verb == "register":
            condition = data.draw(tree)
            expected = brute.register(step, condition)
            found = resolver.register(step, condition, now=now, known=known)
        elif verb == "settle":
            key, value = draw_update(data, pool)
            expected = brute.settle(key, value)
            found = resolver.settle(key, value, now=now)
        elif verb == "many":
            updates = [draw_update(data, pool) for _ in range(data.draw(st.integers(0, 4)))]
            expected = brute.settle_many([(key, int(value)) for key, value in updates])
            found = resolver.settle_many(updates, now=now)
        elif verb == "hear":
            subject, event = data.draw(st.sampled_from(SUBJECTS)), data.draw(st.sampled_from(EVENTS))
            expected = brute.hear(subject, event)
            found = resolver.hear(subject, event, now=now)
        elif verb == "withdraw":
            owner = data.draw(st.sampled_from([*brute.waiting, "nobody"]))
            assert resolver.withdraw(owner) == (brute.waiting.pop(owner, None) is not None)
            continue
        else:
            later = brute.now + data.draw(st.integers(0, 6))
            expected = brute.advance(later)
            found = resolver.advance(float(later))
        assert told(found) == expected
        assert set(resolver._owners) == set(brute.waiting)
    check_nothing_left(resolver)


def check_nothing_left(resolver: Resolver) -> None:
    for owner in list(resolver._owners):
        assert resolver.withdraw(owner)
    plain = resolver._plain
    plain.sweep()
    assert not resolver._entries.about
    assert not resolver._entries.others
    assert resolver.next_deadline() is None
    rows = [range(first, first + last + 1) for last, found in plain.rows.items() for first in found]
    assert sorted([*plain.free, *itertools.chain(*rows)]) == list(range(len(plain.need)))
    assert not plain.up
    assert resolver.world() == []


@pytest.mark.parametrize("keep_levels", [False, True])
@given(data=st.data())
def test_plain_conditions_are_decided_as_by_brute_force(data: st.DataObject, keep_levels: bool) -> None:
    play(data, plain_conditions, keep_levels=keep_levels)


@pytest.mark.parametrize("keep_levels", [False, True])
@given(data=st.data())
def test_all_conditions_without_time_are_decided_as_by_brute_force(data: st.DataObject, keep_levels: bool) -> None:
    play(data, conditions, keep_levels=keep_levels)


@pytest.mark.parametrize("keep_levels", [False, True])
@given(data=st.data())
def test_conditions_with_time_are_decided_as_by_brute_force(data: st.DataObject, keep_levels: bool) -> None:
    play(data, timed_conditions, keep_levels=keep_levels)


@given(data=st.data())
def test_each_registration_is_decided_once_and_nobody_waits_once_all_is_settled(data: st.DataObject) -> None:
    pool = data.draw(pools())
    resolver = Resolver()
    decided: list[Any] = []
    for owner, condition in enumerate(data.draw(st.lists(conditions(pool), min_size=3, max_size=3))):
        decided += resolver.register(owner, condition)
    values = data.draw(st.lists(st.sampled_from(FINAL_VALUES), min_size=len(pool.all), max_size=len(pool.all)))
    for atom, value in zip(data.draw(st.permutations(pool.all)), values, strict=True):
        decided += resolver.settle(atom.key, value)
        decided += resolver.settle(atom.key, values[0])
    assert sorted(one.owner for one in decided) == [0, 1, 2]
    assert all(isinstance(one, Fire | Drop) for one in decided)
    assert len(resolver) == 0


@given(data=st.data())
def test_without_negation_the_order_of_arrival_is_irrelevant(data: st.DataObject) -> None:
    pool = data.draw(pools())
    condition = data.draw(plain_conditions(pool))
    values = data.draw(st.lists(st.sampled_from(FINAL_VALUES), min_size=len(pool.events), max_size=len(pool.events)))
    news = [(atom.key, value) for atom, value in zip(pool.events, values, strict=True)]

    def verdict(order: list[tuple[str, Value]]) -> list[tuple[str, Any]]:
        resolver = Resolver()
        found = resolver.register("job", condition)
        for key, value in order:
            found += resolver.settle(key, value)
        return told(found)

    assert verdict(news) == verdict(data.draw(st.permutations(news)))


@given(data=st.data())
def test_a_witness_alone_makes_the_condition_true(data: st.DataObject) -> None:
    pool = data.draw(pools())
    condition = data.draw(plain_conditions(pool))
    resolver = Resolver()
    found = resolver.register("job", condition)
    values = data.draw(st.lists(st.sampled_from(FINAL_VALUES), min_size=len(pool.events), max_size=len(pool.events)))
    for atom, value in zip(pool.events, values, strict=True):
        found += resolver.settle(atom.key, value)
    (decision,) = found
    if isinstance(decision, Fire):
        alone = Resolver()
        again = alone.register("job", condition)
        for key in decision.witness:
            again += alone.settle(key, Value.TRUE)
        assert told(again) == [("fire", "job")]
    else:
        assert isinstance(decision, Drop)
        alone = Resolver()
        again = alone.register("job", condition)
        for key in decision.reason.keys:
            again += alone.settle(key, Value.NEVER)
        assert told(again) == [("drop", "job")]
