"""Python's own operators on conditions: each wrong one says which is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trun.conditions import And, AtLeast, Atom, Condition, IsCompleted, IsProgress, at_least, never
from trun.errors import BadOption, ConditionTypeError

a, b = Atom("a"), Atom("b")


def raised(act: Callable[[], Any]) -> str:
    """Return the message of the TypeError that an act raises."""
    with pytest.raises(TypeError) as caught:
        act()
    assert isinstance(caught.value, ConditionTypeError)
    return str(caught.value)


@pytest.mark.parametrize(
    "act", [lambda: bool(a), lambda: a and b, lambda: a or b, lambda: not a, lambda: 1 if a & b else 0]
)
def test_a_condition_has_no_truth_value_and_the_error_names_the_operators(act: Callable[[], Any]) -> None:
    message = raised(act)

    assert all(operator in message for operator in ("&", "|", "~"))


@pytest.mark.parametrize("other", [True, False, 3, 0.5, "a", [1]])
def test_a_condition_compared_with_a_value_is_an_error(other: Any) -> None:
    assert "compare" in raised(lambda: a == other)
    raised(lambda: a != other)


@pytest.mark.parametrize("act", [lambda: a < 1, lambda: a <= 1, lambda: a > b, lambda: a >= 1, lambda: 0 < a < 1])
def test_a_condition_cannot_be_ordered_and_the_error_names_thresholds(act: Callable[[], Any]) -> None:
    assert "improved" in raised(act)


def test_a_comparison_without_brackets_is_found_out() -> None:
    n = 5

    message = raised(lambda: a & n > 3)

    assert "brackets" in message


def test_none_is_never_equal_to_a_condition() -> None:
    assert (a == None) is False  # noqa: E711
    assert a != None  # noqa: E711
    assert a not in [None]


@pytest.mark.parametrize("other", [True, 1, None, "b", object()])
def test_only_conditions_combine(other: Any) -> None:
    for act in (lambda: a & other, lambda: other & a, lambda: a | other, lambda: other | a, lambda: And(a, other)):
        raised(act)


def test_a_job_in_place_of_its_condition_is_named() -> None:
    class Job:
        iscompleted = IsCompleted("u")

    assert ".iscompleted" in raised(lambda: a & Job())  # type: ignore[operator]
    assert ".iscompleted" in raised(lambda: never(Job()))  # type: ignore[arg-type]


def test_minus_and_tilde_are_the_same() -> None:
    assert -a == ~a
    assert type(-a) is type(~a)


@pytest.mark.parametrize("k", [-1, 1.5, "60", "abc", "101%", "-5%", True, None])
def test_a_bad_threshold_is_a_value_error(k: Any) -> None:
    with pytest.raises(ValueError, match=r"threshold|percentage"):
        at_least(k, a, b)


def test_percentages_round_up() -> None:
    atoms = [Atom() for _ in range(10)]

    assert [at_least(share, *atoms).k for share in ("0%", "1%", "10%", "11%", "55%", "100%")] == [0, 1, 1, 2, 6, 10]
    assert at_least("60%", *atoms[:7]).k == 5


def test_a_list_of_conditions_may_stand_for_its_members() -> None:
    assert And([a, b]) == And(a, b)
    assert AtLeast(1, [a, b]) == AtLeast(1, a, b)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, "half", None, True])
def test_a_bad_fraction_is_refused(fraction: Any) -> None:
    with pytest.raises(BadOption, match="fraction"):
        IsProgress("u", fraction)


def test_an_atom_over_something_that_is_no_job_is_refused() -> None:
    with pytest.raises(BadOption, match="IsCompleted takes a job"):
        IsCompleted(42)


def test_the_base_of_all_conditions_names_the_error_of_a_cancelled_one() -> None:
    gone = Atom("gone")
    gone.set_cancelled()

    with pytest.raises(Condition.Cancelled, match="gone"):
        _ = (gone & a).ready
