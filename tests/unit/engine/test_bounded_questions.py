"""Questions that a peer may ask as it likes: none of them may keep the others waiting for long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.attackers import DISTURBED_S
from tests.unit.engine.gates import HERE, ME, House, errors, job
from trun.engine import views
from trun.messages import Ask, Submit


@pytest.fixture
def asked(house: House) -> House:
    house.let_in(HERE, ME, "read", "submit")
    specs = tuple(job(f"j{n}", name="a" * 3000 + str(n), hold=True) for n in range(500))
    house.say(HERE, Submit(specs=specs))
    return house


@pytest.mark.parametrize("verb", ["ps", "jobs"])
@pytest.mark.parametrize(
    "given",
    [
        {"name": "*" + "a" * 150 + "b"},
        {"name": "a*" * 100_000},
        {"name": "[" * 500_000},
        {"name": "*" + "a?" * 90 + "b"},
        {"state": "x," * 1_000_000},
        {"state": ["held"] * 1_000_000},
    ],
    ids=["letters", "stars", "brackets", "marks", "states", "list"],
)
def test_whatever_is_asked_of_a_list_is_answered_soon(asked: House, verb: str, given: dict[str, Any]) -> None:
    began = time.monotonic()
    assert asked.say(HERE, Ask(token="t", verb=verb, arguments={"limit": 1, **given}))
    assert time.monotonic() - began < DISTURBED_S


def test_a_pattern_that_cannot_be_looked_for_is_named(asked: House) -> None:
    assert "at most 200 letters" in errors(asked.say(HERE, Ask(token="t", verb="ps", arguments={"name": "a" * 201})))
    (answer,) = asked.say(HERE, Ask(token="t", verb="ps", arguments={"name": "*a7", "state": " held, new"}))
    assert [row["uid"] for row in answer.data["jobs"]] == ["j7"]


def test_of_many_jobs_with_one_name_the_newest_are_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MEANT", 3)
    house.let_in(HERE, ME, "read", "submit")
    house.say(HERE, Submit(specs=tuple(job(f"j{n}", name="fit", hold=True) for n in range(9))))
    (answer,) = house.say(HERE, Ask(token="t", verb="which", arguments={"job": "fit"}))
    assert [row["uid"] for row in answer.data["jobs"]] == ["j6", "j7", "j8"]
