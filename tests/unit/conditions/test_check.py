"""What can be known of a condition beforehand: that it can never hold, that it is not what was meant."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import strategies
from trun.conditions import (
    And,
    Atom,
    Condition,
    IsAborted,
    IsCancelled,
    IsCompleted,
    IsEnded,
    IsFailed,
    IsFinished,
    IsMessage,
    IsOk,
    IsReached,
    IsResult,
    IsSkipped,
    IsStarted,
    JobAtom,
    Level,
    Or,
    after,
    all_of,
    any_of,
    at,
    at_least,
    before,
    exists,
    held,
    never,
    settled,
    since,
)
from trun.conditions.check import doubts, never_reason, refuse_alternatives, warn
from trun.errors import ConditionWarning, UsageError


class FakeJob:
    """A job as far as checks know it: it has a uid, a name, and intermediate results, so it is no group."""

    def __init__(self, name: str) -> None:
        self.uid = f"uid-{name}"
        self.name = name

    def improved(self, expression: str) -> JobAtom:
        return IsResult(self, expression)


a, b = FakeJob("a"), FakeJob("b")
x = Atom("x")
level = Level("level")
ENDS = (IsCompleted, IsFailed, IsAborted, IsCancelled, IsSkipped)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(ENDS, 2)))
def test_a_job_ends_in_one_way_only(one: type[JobAtom], other: type[JobAtom]) -> None:
    reason = never_reason(one(a) & other(a))

    assert "'a'" in reason
    assert f"is{one.kind}" in reason
    assert f"is{other.kind}" in reason


@pytest.mark.parametrize(
    "condition",
    [
        IsCompleted(a) & IsCompleted(b) & IsFailed(a),
        IsEnded(a) & IsCancelled(a),
        IsOk(a) & IsFailed(a),
        IsCompleted(a) & never(IsStarted(a)),
        IsCompleted(a) & never(IsCompleted(a)),
        IsCompleted(a) & ~IsCompleted(a),
        (IsCompleted(a) | IsCompleted(b)) & IsFailed(a) & IsFailed(b),
        at_least(2, IsCompleted(a), IsFailed(a), IsAborted(a)),
        at_least(3, x, IsCompleted(a)),
        any_of(),
        x & any_of(),
        never(all_of()),
        x & ~x,
        exists("p") & ~exists("p"),
        after("10m").within("5m"),
        at(200) & before(100),
        IsCompleted(a) & held(IsFailed(a), "1m"),
        IsCompleted("uid") & IsFailed("uid"),
        IsCompleted("group") & IsSkipped("group"),
    ],
    ids=str,
)
def test_what_can_never_hold_is_found(condition: Condition) -> None:
    assert never_reason(condition)


@pytest.mark.parametrize(
    "condition",
    [
        IsCompleted(a),
        IsCompleted(a) & IsCompleted(b),
        IsCompleted(a) | IsFailed(a),
        IsCompleted(a) & never(IsFailed(a)),
        (IsCompleted(a) | IsCompleted(b)) & IsFailed(a),
        IsStarted(a) & IsFailed(a) & IsMessage(a, "x") & IsResult(a, "y < 1"),
        IsResult(a, "y < 1") & IsResult(a, "y > 1"),
        IsStarted(a) & IsCancelled(a),
        IsFailed("group") & IsAborted("group") & IsCancelled("group"),
        IsReached("group", "60%") & IsFailed("group"),
        IsFinished("group") & IsFailed("group"),
        ~IsFailed(a) & IsStarted(a),
        at_least(2, IsCompleted(a), IsFailed(a), x),
        settled(IsCompleted(a)) & IsFailed(a),
        all_of(),
        x | ~x,
        since(level, ~level) & ~level,
        held(level, 5) & level,
        after("5m").within("10m"),
        at(100) & before(200),
        at(100) & before(100.5) & after("1h"),
    ],
    ids=str,
)
def test_what_can_hold_is_not_refused(condition: Condition) -> None:
    assert never_reason(condition) == ""


def test_what_has_happened_already_is_no_reason() -> None:
    gone = Atom("gone")
    gone.set_cancelled()

    assert never_reason(gone & x) == ""


def test_a_quorum_that_cannot_be_reached_says_so() -> None:
    assert never_reason(at_least(3, x, level)) == "it asks for at least 3 of 2 conditions"


POOL: list[Condition] = [
    *(kind(job) for kind in strategies.JOB_KINDS for job in (a, b)),
    x,
    level,
]
SMALL = st.recursive(
    st.sampled_from(POOL),
    lambda below: (
        st.lists(below, max_size=3).map(lambda of: And(*of))
        | st.lists(below, max_size=3).map(lambda of: Or(*of))
        | st.builds(lambda k, of: at_least(k, *of), st.integers(0, 3), st.lists(below, max_size=3))
        | below.map(lambda c: ~c)
        | below.map(never)
        | below.map(settled)
    ),
    max_leaves=6,
)


def lives(job: FakeJob) -> Iterator[dict[str, int]]:
    """Everything that a job may go through, as values of the atoms over it."""
    finals = strategies.FINAL_EVENTS
    stories = [(), (strategies.EVENTS[0],), *((final,) for final in finals)]
    stories += [(strategies.EVENTS[0], final) for final in finals]
    for story in stories:
        values = {}
        for kind in strategies.JOB_KINDS:
            means = [value for event in story if (value := brute.meaning(kind.kind, event)) is not None]
            values[kind(job).key] = means[0] if means else brute.WAIT
        yield values


@settings(max_examples=60)
@given(SMALL)
def test_never_is_said_exactly_where_brute_force_finds_no_way(condition: Condition) -> None:
    possible = any(
        brute.plain_value(condition, {**of_a, **of_b, x.key: own, level.key: now}) >= brute.HOLDS
        for of_a in lives(a)
        for of_b in lives(b)
        for own in (0, 1, 2, 4)
        for now in range(5)
    )

    assert (never_reason(condition) == "") == possible


def test_wide_conditions_are_checked_in_bounded_time() -> None:
    jobs = [FakeJob(str(number)) for number in range(3_000)]
    wide = [
        (And(*(IsCompleted(job) for job in jobs)), False),
        (And(*(kind(job) for job in jobs for kind in (IsCompleted, IsEnded))), False),
        (And(*(IsCompleted(job) for job in jobs), IsFailed(jobs[-1])), True),
        (And(*(IsCompleted(job) | IsFailed(job) for job in jobs)), False),
        (And(*((IsCompleted(job) | x) & (IsFailed(job) | ~x) for job in jobs)), False),
    ]

    for condition, dead in wide:
        started = time.process_time()
        assert bool(never_reason(condition)) == dead
        assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "condition",
    [
        IsCompleted(a) | IsCompleted(b),
        (IsCompleted(a) | x) & IsCompleted(b),
        at_least(1, IsCompleted(a), IsCompleted(b)),
        at_least(2, IsCompleted(a), IsCompleted(b), x),
        IsCompleted(b) | (IsCompleted(a) & x),
        held(IsCompleted(a) | x, 5),
    ],
    ids=str,
)
def test_an_alternative_over_an_argument_is_refused_with_a_hint_at_first(condition: Condition) -> None:
    with pytest.raises(UsageError, match=r"trun\.first") as caught:
        refuse_alternatives(condition, (a.uid,))

    assert "without a," in str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        IsCompleted(a) & IsCompleted(b),
        at_least(2, IsCompleted(a), IsCompleted(b)),
        IsCompleted(a) & (IsCompleted(b) | x),
        never(IsFailed(a) | IsFailed(b)),
        any_of(IsCompleted(a)),
        x | IsCompleted(b),
    ],
    ids=str,
)
def test_what_needs_the_argument_anyway_is_allowed(condition: Condition) -> None:
    refuse_alternatives(condition, (a.uid,))


def test_not_over_an_event_is_doubtful_and_only_that() -> None:
    assert doubts(x & ~IsCompleted(a)) == [
        "~ on a.iscompleted is true before it is decided; did you mean never(a.iscompleted), which waits for that?"
    ]
    assert doubts(~level & ~exists("p") & ~after(1) & never(x) & ~~(x & level)) == []
    with pytest.warns(ConditionWarning, match="never"):
        warn(~x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(~level)


def test_not_more_than_three_doubts_are_told() -> None:
    assert len(doubts(And(*(~Atom(str(number)) for number in range(10))))) == 3
