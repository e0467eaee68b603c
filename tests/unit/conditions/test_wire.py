"""The wire form: there and back is identity, and nothing hostile gets in."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from trun.conditions import (
    Atom,
    Condition,
    IsCompleted,
    IsMessage,
    IsProgress,
    IsReached,
    IsResult,
    Level,
    Or,
    all_of,
    any_of,
    changed,
    exists,
    free,
    url_ok,
    wire,
)
from trun.errors import ConditionSyntaxError

ANY = strategies.timed_conditions(strategies.pool())


@given(ANY)
def test_there_and_back_is_identity(condition: Condition) -> None:
    back = wire.loads(wire.dumps(condition))

    assert back == condition
    assert back.depends == condition.depends
    assert wire.dumps(back) == wire.dumps(condition)
    assert Condition.from_dict(condition.to_dict()) == condition


@given(ANY)
def test_plain_data_is_json(condition: Condition) -> None:
    assert json.loads(json.dumps(condition.to_dict())) == condition.to_dict()
    assert condition.to_dict()["v"] == 1


@pytest.mark.parametrize(
    "condition",
    [
        IsMessage("u", 'na"me\n'),
        IsResult("u", "chisq < 2"),
        IsProgress("u", 0.25),
        IsReached("u", "60%"),
        IsReached("u", 3),
        IsCompleted("u", service_key="key", label="fit"),
        exists("/x", poll="1s"),
        changed("/x"),
        url_ok("https://host/x"),
        free("gpu", 2),
        all_of(),
        any_of(),
    ],
    ids=str,
)
def test_every_kind_of_atom_travels(condition: Condition) -> None:
    back = wire.loads(wire.dumps(condition))

    assert back == condition
    assert back.to_dict() == condition.to_dict()


def test_an_atom_of_this_process_comes_back_as_itself() -> None:
    atom, level = Atom("x"), Level("y", holds=True)

    back = Condition.from_dict((atom & level).to_dict())

    assert back.of[0] is atom
    assert back.of[1] is level


def test_the_condition_of_a_job_of_this_process_comes_back_as_itself() -> None:
    class Job:
        uid = "a job of this process"

    mine = IsCompleted(Job())

    assert Condition.from_dict(mine.to_dict()) is mine
    assert Condition.from_dict(IsCompleted("elsewhere").to_dict()) == IsCompleted("elsewhere")


def test_an_atom_of_another_process_comes_as_one_that_stands_for_it() -> None:
    data = Atom("theirs").to_dict()
    gc.collect()

    one, other = Condition.from_dict(data), Condition.from_dict(data)

    assert one is other
    assert isinstance(one, Atom)
    assert (one.name, one.id, one.key) == ("theirs", data["id"], f"atom:{data['id']}")
    assert one.to_dict() == data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "a map, not list"),
        ("a", "a map, not str"),
        ({}, "no list"),
        ({"v": 2, "op": "and", "of": []}, "version 2"),
        ({"op": "and"}, "no list"),
        ({"op": "and", "of": {}}, "no list"),
        ({"op": "and", "of": [3]}, "not int"),
        ({"op": "nott", "of": []}, "Did you mean 'not'"),
        ({"op": [], "of": []}, "unhashable"),
        ({"op": "not", "of": []}, "one child"),
        ({"op": "since", "of": []}, "trigger and a reset"),
        ({"op": "atleast", "of": []}, "whole number"),
        ({"op": "atleast", "k": True, "of": []}, "whole number"),
        ({"op": "atleast", "k": -1, "of": []}, "at least 0"),
        ({"op": "held", "of": [{"atom": "after", "s": 1}]}, "held must be"),
        ({"atom": "nothing"}, "no atom"),
        ({"atom": []}, "no atom"),
        ({"atom": "job", "is": "compleeted", "uid": "u"}, "Did you mean 'completed'"),
        ({"atom": "job", "is": "completed"}, "'uid'"),
        ({"atom": "job", "is": "completed", "uid": 3}, "'uid'"),
        ({"atom": "job", "is": "completed", "uid": "u" * 20_000}, "'uid'"),
        ({"atom": "job", "is": "completed", "uid": "u", "arg": "x"}, "no argument"),
        ({"atom": "job", "is": "completed", "uid": "u", "arg": {}}, "text or a number"),
        ({"atom": "job", "is": "progress", "uid": "u", "arg": 2}, "fraction"),
        ({"atom": "job", "is": "message", "uid": "u"}, "bad part"),
        ({"atom": "job", "is": "result", "uid": "u", "arg": "__import__('os').system('x') < 1"}, "no place|by name"),
        ({"atom": "after", "s": -1}, "at least 0"),
        ({"atom": "after", "s": float("nan")}, "number 's'"),
        ({"atom": "at", "t": "now"}, "number 't'"),
        ({"atom": "world", "is": "rm", "target": "/", "poll": 1, "amount": 0}, "no world atom"),
        ({"atom": "cron", "expression": 5}, "'expression'"),
    ],
)
def test_hostile_data_is_one_clear_error(data: Any, what: str) -> None:
    with pytest.raises(ConditionSyntaxError, match=what):
        Condition.from_dict(data)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]", b"3", b'{"op":"and","of":[' * 50_000, b"null"])
def test_bytes_that_are_no_condition_are_one_clear_error(data: bytes) -> None:
    with pytest.raises(ConditionSyntaxError):
        wire.loads(data)


def test_depth_is_capped_for_what_was_received() -> None:
    node = IsCompleted("u").to_dict()
    for _ in range(wire.MAX_DEPTH - 1):
        node = {"op": "never", "of": [node]}

    assert Condition.from_dict(node).value is not None
    with pytest.raises(ConditionSyntaxError, match="64 deep"):
        Condition.from_dict({"op": "never", "of": [node]})


def test_the_number_of_atoms_is_capped_for_what_was_received() -> None:
    leaf = IsCompleted("u").to_dict()
    half = {"op": "and", "of": [leaf] * 5_000}

    assert Condition.from_dict({"op": "or", "of": [half, half]}) == IsCompleted("u")
    for data in ({"op": "or", "of": [half, half, leaf]}, {"op": "and", "of": [leaf] * 10_001}):
        with pytest.raises(ConditionSyntaxError, match="10000 atoms"):
            Condition.from_dict(data)


def test_gates_without_atoms_are_capped_too() -> None:
    data: dict[str, Any] = {"op": "and", "of": []}
    for _ in range(40):
        data = {"op": "and", "of": [data, data]}

    with pytest.raises(ConditionSyntaxError, match="at most"):
        Condition.from_dict(data)


def test_a_condition_too_deep_to_travel_is_refused_where_it_is_written() -> None:
    node: Condition = IsCompleted("a")
    for number in range(50_000):
        node = node & IsCompleted(str(number)) if number % 2 else node | IsCompleted(str(number))

    with pytest.raises(ConditionSyntaxError, match="64 deep"):
        wire.dumps(node)


def test_a_wide_condition_is_written_without_recursion() -> None:
    wide = Or(*(IsCompleted(str(number)) for number in range(100_000)))

    assert len(json.loads(wire.dumps(wide))["of"]) == 100_000


FIELDS = ["op", "of", "atom", "is", "uid", "k", "s", "t", "v", "arg", "id"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["and", "or", "not", "atleast", "job", "world", "bare", "completed", "result", "u"]),
    lambda below: st.lists(below, max_size=3)
    | st.dictionaries(st.sampled_from(FIELDS), below, max_size=6),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_whatever_comes_is_a_condition_or_one_clear_error(data: dict[str, Any]) -> None:
    try:
        found = Condition.from_dict(data)
    except ConditionSyntaxError:
        return
    assert Condition.from_dict(found.to_dict()) == found
