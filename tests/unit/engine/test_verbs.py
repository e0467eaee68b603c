"""Verbs that lend rights and let keys in: nobody gives away more than they have, and a borrowed key lets nobody in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.gates import HERE, ME, OTHER, FakeGrant, House, errors, job
from trun.messages import Answer, Ask, Present, Submit

SESSION = "s" * 40


def answer(house: House, verb: str, **arguments: Any) -> Answer:
    (found,) = [one for one in house.say(HERE, Ask("t", verb, arguments)) if isinstance(one, Answer)]
    return found


@pytest.mark.parametrize(
    "resource", ["*", "job:theirs", "file:theirs/fit.dat", "job:nobody", "stream:mine", "stream:service", "export:run7"]
)
def test_who_may_not_read_all_lends_their_own_jobs_alone(two: House, resource: str) -> None:
    two.let_in(HERE, ME, "submit")
    two.say(HERE, Submit(specs=(job("mine"),)))

    for wanted in ([resource], ["job:mine", resource]):
        assert f"may not lend '{resource}'" in errors([answer(two, "mint", res=wanted)])
    assert "may not lend '*'" in errors([answer(two, "mint")])
    assert answer(two, "mint", res=["job:mine", "file:mine/fit.dat"]).data == {"token": "token"}


@pytest.mark.parametrize("role", ["read", "admin"])
def test_who_may_read_all_lends_all(two: House, role: str) -> None:
    two.let_in(HERE, ME, role)

    assert answer(two, "mint", res=["*"]).data == {"token": "token"}


@pytest.mark.parametrize("roles", [(), ("upload",)])
def test_who_has_nothing_to_lend_gets_no_token(house: House, roles: tuple[str, ...]) -> None:
    house.let_in(HERE, ME, *roles)

    assert answer(house, "mint", res=["job:mine"]).error is not None


@pytest.mark.parametrize("verb", ["session", "rotate"])
def test_a_borrowed_key_lets_no_further_key_in(house: House, verb: str) -> None:
    house.powers.sessions[SESSION] = ME
    house.powers.people[ME] = frozenset({"read", "submit"})
    house.let_in(HERE, SESSION)

    assert "user's own key" in errors([answer(house, verb, key=OTHER, expires=9e9)])


def test_so_many_tokens_are_looked_at_in_one_message(house: House) -> None:
    tokens = {f"t{number}": FakeGrant(("read",), f"job:{number}") for number in range(20)}
    house.powers.tokens = dict(tokens)
    looked: list[str] = []
    check = house.powers.check
    house.powers.check = lambda token, bearer, now: looked.append(token) or check(token, bearer, now)  # type: ignore
    house.let_in(HERE, ME, "submit")

    house.say(HERE, Present(tokens=tuple(tokens)))

    assert looked == list(tokens)[:16]
