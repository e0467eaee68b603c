"""What a wrong use of conditions is told: the thing, the fault, and the fix."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trun.conditions.algebra import AtLeast, never, settled
from trun.conditions.atoms import Atom
from trun.conditions.text import parse
from trun.conditions.timing import held
from trun.errors import BadOption, ConditionTypeError, TrunError, UnknownName


@pytest.mark.parametrize("k", [-1, "160%", "x", "x%", "nan%", 1.5, True, None])
def test_a_bad_threshold_is_an_error_of_trun_and_a_value_error(k: int | str) -> None:
    with pytest.raises(BadOption, match="a threshold is") as caught:
        AtLeast(k, Atom("a"))

    assert isinstance(caught.value, TrunError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("make", "name"), [(never, "never"), (settled, "settled"), (lambda c: held(c, 1), "held")])
def test_what_takes_a_condition_says_so_under_its_own_name(make: Callable[[object], object], name: str) -> None:
    with pytest.raises(ConditionTypeError, match=f"^{name} takes a condition, not int"):
        make(3)


def test_comparing_with_true_names_the_condition_itself() -> None:
    with pytest.raises(ConditionTypeError, match=r"write the condition alone, or ~ before it"):
        _ = Atom("a") == True  # noqa: E712 - the fault


def test_an_unknown_name_lists_the_few_that_are_known() -> None:
    with pytest.raises(UnknownName, match="Known are model, data"):
        parse("fit", {"model": Atom("model"), "data": Atom("data")})


def test_capitals_count_for_little_in_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'a'") as caught:
        parse("A", {"a": Atom("a"), "b": Atom("b")})

    assert caught.value.suggestions == ("a",)


def test_names_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(BadOption, match="names= takes a dictionary"):
        parse("a", [Atom("a")])  # type: ignore[arg-type]
