"""Exceptions that cannot be had themselves are caught all the same, by the names that people write."""

from __future__ import annotations

import builtins

import pytest

from trun.adapters.exceptions import stand_in
from trun.errors import JobFailed
from trun.messages import ErrorInfo

PYTHONS = sorted(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)
)


@pytest.mark.parametrize("name", PYTHONS)
def test_an_exception_of_pythons_own_name_keeps_name_and_message(name: str) -> None:
    found = stand_in(ErrorInfo(type=f"builtins.{name}", message="'no beam' here"))
    assert isinstance(found, JobFailed)
    assert (type(found).__name__, str(found)) == (name, "'no beam' here")


@pytest.mark.parametrize("kind", [ValueError, KeyError, OSError, FileNotFoundError, ZeroDivisionError, RuntimeError])
def test_it_is_caught_as_what_it_is_named(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        raise stand_in(ErrorInfo(type=f"builtins.{kind.__name__}", message="no beam"))


@pytest.mark.parametrize(
    "name", ["builtins.StopIteration", "builtins.SystemExit", "elsewhere.ValueError", "builtins.print"]
)
def test_it_is_nothing_else_where_that_would_steer_the_reader(name: str) -> None:
    found = stand_in(ErrorInfo(type=name, message="no beam"))
    assert not isinstance(found, StopIteration | SystemExit | ValueError)
    assert isinstance(found, JobFailed)
