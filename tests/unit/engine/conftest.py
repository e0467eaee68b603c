"""The house of the gate's tests, and one in which somebody else's job runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.engine.gates import HERE, ME, OTHER, THERE, House, job
from trun.messages import Submit


@pytest.fixture
def house() -> Iterator[House]:
    """An engine with a gate between fakes."""
    made = House()
    yield made
    made.endpoint.close()
    made.executor.close()


@pytest.fixture
def two(house: House) -> House:
    """Somebody else's job runs; we may submit, and read nothing."""
    house.let_in(THERE, OTHER, "submit")
    house.say(THERE, Submit(specs=(job("theirs", key="nightly", digest="d"),)))
    house.let_in(HERE, ME, "submit")
    return house
