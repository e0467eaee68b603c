"""Explanations add up: with the verdict, with brute force, and from one form to another."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from trun.conditions import (
    And,
    AtLeast,
    Atom,
    Condition,
    Explanation,
    IsCompleted,
    IsFailed,
    IsMessage,
    IsProgress,
    IsReached,
    IsResult,
    JobAtom,
    Level,
    Or,
    Value,
    after,
    all_of,
    any_of,
    at,
    at_least,
    before,
    exists,
    free,
    held,
    never,
    settled,
    since,
)
from trun.conditions.algebra import Leaf, evaluate
from trun.conditions.explain import explain_tree
from trun.conditions.timing import Deadline, Held
from trun.conditions.tree import Row
from trun.messages import Completed, Failed

NAMES = "abcdef"
ATOMS = {name: Atom(name) for name in NAMES}
#: Thresholds over atoms that are decided once.
TREES: st.SearchStrategy[Condition] = st.recursive(
    st.sampled_from(list(ATOMS.values())),
    lambda below: (
        st.lists(below, min_size=1, max_size=4).map(lambda of: And(*of))
        | st.lists(below, min_size=1, max_size=4).map(lambda of: Or(*of))
        | st.builds(lambda k, of: AtLeast(k, *of), st.integers(1, 4), st.lists(below, min_size=1, max_size=4))
    ),
    max_leaves=8,
)
ANY = strategies.timed_conditions(strategies.pool())
values_of = st.fixed_dictionaries({name: st.sampled_from([0, 1, 2, 2, 2, 4]) for name in NAMES})


def worth(condition: Condition, values: dict[str, int]) -> int:
    return int(evaluate(condition, lambda leaf: Value(values[str(leaf)])))


def told(condition: Condition, values: dict[str, int]) -> Explanation:
    return explain_tree(condition, lambda leaf: Value(values[str(leaf)]))


def brute_missing(condition: Condition, values: dict[str, int]) -> set[frozenset[str]]:
    """All minimal sets of undecided atoms that make it hold, by trying every subset."""
    open_ = [name for name in NAMES if values[name] == Value.WAIT and ATOMS[name] in condition.depends]
    enough: list[frozenset[str]] = []
    for size in range(len(open_) + 1):
        for names in itertools.combinations(open_, size):
            chosen = frozenset(names)
            if any(other <= chosen for other in enough):
                continue
            if worth(condition, {**values, **dict.fromkeys(chosen, 4)}) >= Value.HOLDS:
                enough.append(chosen)
    return set(enough)


@settings(max_examples=100)
@given(TREES, values_of)
def test_missing_sets_are_all_minimal_sets_smallest_first(condition: Condition, values: dict[str, int]) -> None:
    found = [frozenset(map(str, one)) for one in told(condition, values).missing]

    if worth(condition, values) == Value.WAIT:
        assert set(found) == brute_missing(condition, values)
        assert len(found) == len(set(found))
        assert [len(one) for one in found] == sorted(len(one) for one in found)
    else:
        assert found == []


@given(TREES, values_of)
def test_what_blocks_is_undecided_and_could_help(condition: Condition, values: dict[str, int]) -> None:
    explanation = told(condition, values)
    if explanation.value is not Value.WAIT:
        return

    assert explanation.blocking
    assert all(values[str(atom)] == Value.WAIT for atom in explanation.blocking)
    assert set().union(*explanation.missing) <= set(explanation.blocking)


@given(TREES, values_of)
def test_what_killed_it_would_kill_it_alone(condition: Condition, values: dict[str, int]) -> None:
    explanation = told(condition, values)
    if explanation.value > Value.NEVER:
        return
    dead = {str(atom) for atom in explanation.blocking}

    assert all(values[name] <= Value.NEVER for name in dead)
    assert worth(condition, {name: values[name] if name in dead else 4 for name in NAMES}) <= Value.NEVER
    assert explanation.witness == ()


@given(TREES, values_of)
def test_the_witness_alone_would_have_fired_it(condition: Condition, values: dict[str, int]) -> None:
    explanation = told(condition, values)
    if explanation.value < Value.HOLDS:
        assert explanation.witness == ()
        return
    witness = {str(atom) for atom in explanation.witness}

    assert worth(condition, {name: 4 if name in witness else 0 for name in NAMES}) >= Value.HOLDS
    assert explanation.blocking == ()


def test_a_dead_quorum_is_blamed_on_as_many_as_it_takes() -> None:
    atoms = [Atom(str(number)) for number in range(5)]
    for atom in atoms[1:]:
        atom.set_cancelled()

    assert at_least(3, *atoms).explain().blocking == tuple(atoms[1:4])
    assert And(*atoms).explain().blocking == (atoms[1],)
    assert Or(*atoms[1:]).explain().blocking == tuple(atoms[1:])


def children_of(place: int, rows: list[Row]) -> list[Row]:
    """The rows directly below one."""
    found = []
    for row in rows[place + 1 :]:
        if row.depth <= rows[place].depth:
            break
        if row.depth == rows[place].depth + 1:
            found.append(row)
    return found


@given(ANY, st.data())
def test_the_tree_adds_up_with_the_verdict(condition: Condition, data: st.DataObject) -> None:
    values: dict[str, Value] = {}

    def lookup(leaf: Leaf) -> Value:
        return values.setdefault(leaf.key, data.draw(st.sampled_from(Value)))

    explanation = explain_tree(condition, lookup)
    rows = explanation.rows()

    assert explanation.value is evaluate(condition, lookup)
    assert rows[0].value == explanation.value
    assert rows[0].depth == 0
    for place, row in enumerate(rows):
        below = children_of(place, rows)
        assert sum(row.counts) == len(below) + row.left_out
        if row.text.startswith("all of"):
            assert row.value == min(child.value for child in below)
        if row.text.startswith("one of"):
            assert row.value == max(child.value for child in below)


@given(ANY, st.data())
def test_an_explanation_is_never_empty_and_travels_as_plain_data(condition: Condition, data: st.DataObject) -> None:
    values: dict[str, Value] = {}
    explanation = explain_tree(
        condition, lambda leaf: values.setdefault(leaf.key, data.draw(st.sampled_from(Value))), now=5.0
    )
    explanation.extra.append("resources are free")

    plain = json.loads(json.dumps(explanation.to_dict()))
    back = Explanation.from_dict(plain)

    assert str(explanation)
    assert str(back) == str(explanation)
    assert back.to_dict() == plain
    assert back.value is explanation.value
    assert back._repr_html_() == explanation._repr_html_()


@given(ANY, st.data())
def test_where_something_is_waited_for_some_atom_blocks(condition: Condition, data: st.DataObject) -> None:
    values: dict[str, Value] = {}
    explanation = explain_tree(condition, lambda leaf: values.setdefault(leaf.key, data.draw(st.sampled_from(Value))))

    if explanation.value is Value.WAIT:
        assert explanation.blocking or all(value.is_settled for value in values.values())
        assert set(explanation.blocking) <= condition.depends
        assert explanation.summary.startswith(("starts when ", "waits,"))
        assert "when ," not in explanation.summary


model, fetch, cache = (IsCompleted(f"uid-{name}", label=name) for name in ("model", "fetch", "cache"))
model.see(Completed())
cache.see(Failed(kind="raised"))
STATES = {"model": "model#4.completed [completed]", "fetch": "fetch#3.completed [running, 41 %]", "cache": "cache#5"}


def describe(leaf: Leaf) -> str:
    assert isinstance(leaf, JobAtom)
    return STATES[leaf.label]


def test_the_text_is_the_tree_with_marks_and_what_would_be_enough() -> None:
    assert str((model & (fetch | cache)).explain()) == (
        "○ all of 2\n"
        "├ ✓ model.iscompleted\n"
        "└ ○ one of 2\n"
        "   ├ ○ fetch.iscompleted  ◀ blocking\n"
        "   └ ⊘ cache.iscompleted\n"
        "starts when fetch completes"
    )


def test_the_caller_may_know_better_names_and_present_states() -> None:
    explanation = explain_tree(model & (fetch | cache), lambda leaf: leaf.latch, describe)
    explanation.extra.append("2 workers are free")

    assert str(explanation) == (
        "○ all of 2\n"
        "├ ✓ model#4.iscompleted [completed]\n"
        "└ ○ one of 2\n"
        "   ├ ○ fetch#3.iscompleted [running, 41 %]  ◀ blocking\n"
        "   └ ⊘ cache#5.iscompleted\n"
        "starts when fetch#3 completes\n"
        "2 workers are free"
    )


def test_every_verdict_has_its_sentence() -> None:
    spent = Atom("spent")
    spent.set_never()

    assert (model & fetch).explain().summary == "starts when fetch completes"
    assert (fetch | spent | IsFailed("u", label="b")).explain().summary == "starts when fetch completes, or b fails"
    assert (model & cache).explain().summary == "cancelled: cache did not complete"
    assert (model & spent).explain().summary == "can never hold: spent can no longer be true"
    assert (model | fetch).explain().summary == "holds: model completed"
    assert any_of().explain().summary == "it can never hold: it asks for more than there is"
    assert str(all_of().explain()) == "✓ no condition"


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        (fetch & IsMessage("u", "go", label="b"), 'fetch completes and b says "go"'),
        (IsResult("u", "chisq < 2", label="b"), "b improves to chisq < 2"),
        (IsProgress("u", 0.5, label="b"), "b reaches 50%"),
        (IsReached("u", "60%", label="g"), "g reaches 60%"),
        (Atom("x"), "x becomes true"),
        (Level("x"), "x holds"),
        (exists("a.dat"), '"a.dat" exists'),
        (free("gpu", 2), "2 of gpu are free"),
        (after("10m"), "10 min have passed"),
        (never(fetch), "it is certain that fetch never completes"),
        (settled(fetch), "it is certain whether fetch completes"),
        (never(Atom("x")), "x turns out not to happen"),
        (~Level("x", holds=True), "x stops being true"),
        (held(Level("x", holds=True), 5), "x has stayed true for long enough"),
        (since(fetch, model), "fetch completes"),
    ],
    ids=str,
)
def test_what_is_still_to_come_is_said_in_words(condition: Condition, sentence: str) -> None:
    assert condition.explain().summary == f"starts when {sentence}"


def test_instants_say_how_far_off_they_are() -> None:
    text = str(explain_tree(at(1000) & before(1e9), lambda leaf: leaf.latch, now=700.0))

    assert 'at("1970-01-01 00:16:40+00:00") [in 5 min]' in text


def test_a_gate_with_a_memory_is_worth_what_its_keeper_says() -> None:
    condition = held(model, "1m") & fetch

    explanation = explain_tree(
        condition, lambda leaf: leaf.latch, gates=lambda gate: Value.HOLDS if isinstance(gate, Held) else None
    )

    assert [(row.value, row.text) for row in explanation.rows()][1] == (Value.HOLDS, 'held(model.iscompleted, "1m")')
    assert explanation.blocking == (fetch,)


def test_an_impossible_pair_of_outcomes_is_no_missing_set() -> None:
    failed = IsFailed("uid-fetch", label="fetch")
    x = Atom("x")

    assert list(((failed | x) & fetch).explain().missing) == [{x, fetch}]


def test_wide_gates_are_folded_in_text_and_counted() -> None:
    jobs = [IsCompleted(f"j{number}") for number in range(1_000)]
    for job in jobs[:900]:
        job.see(Completed())
    explanation = And(*jobs, cache | fetch).explain()

    lines = str(explanation).splitlines()
    plain = explanation.to_dict()

    assert lines[0] == "○ all of 1001: 900 true, 101 not yet"
    assert lines[-2] == "└ ... and 996 more"
    assert lines[-1] == "starts when j900 completes, j901 completes, j902 completes and 98 more"
    assert len(lines) == 8
    assert len(explanation.blocking) == 101
    assert plain["tree"][0]["counts"] == [900, 101, 0]
    assert plain["tree"][0]["left_out"] == 1001 - 200
    assert plain["blocking_count"] == 101
    assert str(Explanation.from_dict(plain)) == str(explanation)


def test_a_wide_quorum_has_its_smallest_sets_at_once() -> None:
    gate = at_least(5_000, *(Atom() for _ in range(10_000)))

    first, second = itertools.islice(gate.explain().missing, 2)

    assert len(first) == len(second) == 5_000
    assert first != second


def test_deep_conditions_are_explained_without_recursion() -> None:
    node: Condition = fetch
    for number in range(20_000):
        node = node & IsCompleted(f"j{number}") if number % 2 else node | IsCompleted(f"j{number}")
    explanation = node.explain()

    assert explanation.value is Value.WAIT
    assert "deeper" in str(explanation)
    assert json.dumps(explanation.to_dict())
    assert len(next(explanation.missing)) == 2


def test_html_shows_texts_as_they_are() -> None:
    nasty = Atom('<script>alert("&")</script>')

    html = (nasty & model).explain()._repr_html_()

    assert "<script>" not in html
    assert "&lt;script&gt;alert(" in html
    assert html.startswith('<pre class="trun-explanation"><span class="trun-wait">○ all of 2</span>')


def test_deadlines_are_said_in_plain_words() -> None:
    open_ = (fetch.within("90m")).explain()
    late = explain_tree(fetch.within("90m"), lambda leaf: leaf.late if isinstance(leaf, Deadline) else leaf.latch)

    assert open_.summary == "starts when fetch completes"
    assert late.summary == "can never hold: the deadline of 1 h 30 min has passed"
    assert "the deadline of 2" in explain_tree(before(1e9), lambda leaf: Value.NEVER).summary


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"value": "x", "tree": 5},
        {"value": 99, "tree": [3, {"depth": -4, "value": "a", "counts": [1]}, {"depth": 10**9, "text": 5}]},
        {"tree": [{}], "missing": 5, "blocking": {}, "witness": None, "extra": "x", "summary": None},
    ],
)
def test_bad_data_from_elsewhere_still_gives_some_text(data: dict[str, Any]) -> None:
    back = Explanation.from_dict(data)

    assert isinstance(str(back), str)
    assert back.value in tuple(Value)
    assert isinstance(back.to_dict(), dict)


def test_the_short_form_says_the_verdict() -> None:
    assert repr((model & fetch).explain()) == "<explanation WAIT: starts when fetch completes>"
    assert repr(all_of().explain()) == "<explanation TRUE: no condition>"


def test_atoms_travel_with_an_explanation_where_they_are_asked_for() -> None:
    x, y = Atom("x"), Atom("y")
    explanation = (x & y & IsCompleted("u")).explain()
    y.set_ready()
    explanation = (x & y & IsCompleted("u")).explain()

    again = Explanation.from_dict({**explanation.to_dict(), "atoms": explanation.atoms_data()})

    assert again.blocking == (x, IsCompleted("u"))
    assert again.blocking[0] is x
    assert list(again.missing) == [frozenset({x, IsCompleted("u")})]
    assert again.to_dict() == explanation.to_dict()
    assert str(again) == str(explanation)
    assert (x | y).explain().atoms_data()["witness"] == [y.to_dict()]


def test_atoms_that_cannot_be_read_leave_their_texts() -> None:
    explanation = (Atom("x") & Atom("y")).explain()

    again = Explanation.from_dict({**explanation.to_dict(), "atoms": {"blocking": [{"atom": "of a later version"}]}})

    assert again.blocking == ("x", "y")
