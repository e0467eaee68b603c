"""Rights that end while a connection is open: what they showed is shown no more."""

from __future__ import annotations

import time

import pytest

from tests.unit.engine.gates import HERE, LENDER, ME, OTHER, THERE, FakeGrant, House, errors, job
from trun.messages import Ask, Credit, Hello, Listen, Present, Refuse, Submit


@pytest.mark.parametrize("roles", [("admin",), ("read",), ("read", "submit")])
@pytest.mark.parametrize("speaks", [True, False])
def test_who_may_not_read_any_more_hears_no_more(house: House, roles: tuple[str, ...], speaks: bool) -> None:
    house.let_in(HERE, ME, *roles)
    house.say(HERE, Listen(streams=(("theirs", 1),)))
    del house.powers.people[ME]
    if speaks:  # what it says in between must not hide that it could see once
        house.say(HERE, Credit(entries=1))
    house.pass_time()
    house.endpoint.take(HERE)
    house.let_in(THERE, OTHER, "submit")
    house.say(THERE, Submit(specs=(job("theirs"),)))
    assert house.say(HERE) == []


@pytest.mark.parametrize("end", ["expired", "revoked", "its user has gone", "its user may not read"])
def test_what_a_token_showed_ends_with_it(two: House, end: str) -> None:
    grant = two.powers.tokens["t"] = FakeGrant(("read",), "job:theirs")
    two.powers.people[ME] = frozenset()
    shown = two.say(HERE, Present(tokens=("t",)), Listen(streams=(("theirs", 1),)))
    assert shown[0].entries
    if end == "expired":
        grant.expires = time.time() - 1
    elif end == "revoked":
        two.powers.revoke(grant.ids[0])
    else:
        two.powers.people[LENDER] = frozenset() if "gone" in end else frozenset({"submit"})
    two.pass_time()
    (told,) = [answer for answer in two.endpoint.take(HERE) if isinstance(answer, Refuse)]
    assert told.uids == ("theirs",)
    two.executor.complete("theirs")
    two.engine.step([(b"", report) for report in two.executor.poll(two.clock.now())])
    assert two.endpoint.take(HERE) == []


@pytest.mark.parametrize("speaks", [True, False])
def test_a_session_key_that_has_expired_hears_no_more(house: House, speaks: bool) -> None:
    house.let_in(b"\0user", OTHER, "read", "submit")
    house.powers.sessions[ME] = OTHER
    house.endpoint.users[HERE] = ME
    house.say(HERE, Hello(session="agent"), Credit(entries=100), Listen(streams=(("a", 1),)))
    del house.powers.sessions[ME]
    if speaks:
        house.say(HERE, Credit(entries=1))
    house.pass_time()
    house.endpoint.take(HERE)
    house.say(b"\0user", Submit(specs=(job("a"),)))
    assert house.say(HERE) == []


# -- rights that begin ------------------------------------------------------------------------------------------------


def test_who_is_let_in_over_an_open_connection_may_go_on_at_once(house: House) -> None:
    house.endpoint.users[HERE] = ME
    assert "does not know your key" in errors(house.say(HERE, Hello(session="s"), Ask(token="t", verb="ps")))
    house.powers.people[ME] = frozenset({"read"})
    assert errors(house.say(HERE, Hello(session="s"), Ask(token="t", verb="ps"))) == ""
    assert "submit" in errors(house.say(HERE, Submit(specs=(job("a"),))))
    house.powers.people[ME] = frozenset({"read", "submit"})
    assert errors(house.say(HERE, Submit(specs=(job("a"),)))) == ""
    assert set(house.records) == {"a"}


def test_a_session_key_has_the_rights_of_its_user_and_its_own(house: House) -> None:
    house.powers.people[OTHER] = frozenset({"read"})
    house.powers.sessions[ME] = OTHER
    house.endpoint.users[HERE] = ME
    assert errors(house.say(HERE, Hello(session="s"), Ask(token="t", verb="ps"))) == ""
    assert "submit" in errors(house.say(HERE, Submit(specs=(job("a"),))))
    house.powers.people[ME] = frozenset({"submit"})
    assert errors(house.say(HERE, Ask(token="t", verb="ps"), Submit(specs=(job("a"),)))) == ""
    assert house.records["a"].spec.owner == OTHER
    house.powers.people[OTHER] = frozenset()
    assert errors(house.say(HERE, Submit(specs=(job("b"),)))) == ""
    assert "read" in errors(house.say(HERE, Ask(token="t", verb="ps")))
    house.powers.people[ME] = frozenset()
    assert errors(house.say(HERE, Submit(specs=(job("c"),))))
    assert set(house.records) == {"a", "b"}


def test_a_right_that_is_given_in_place_of_a_token_goes_on_when_the_token_ends(two: House) -> None:
    grant = two.powers.tokens["t"] = FakeGrant(("read",), "job:theirs")
    two.powers.people[ME] = frozenset()
    assert two.say(HERE, Present(tokens=("t",)), Listen(streams=(("theirs", 1),)))[0].entries
    two.powers.people[ME] = frozenset({"read"})
    two.powers.revoke(grant.ids[0])
    two.pass_time()
    assert two.endpoint.take(HERE) == []
    two.executor.complete("theirs")
    two.engine.step([(b"", report) for report in two.executor.poll(two.clock.now())])
    assert two.endpoint.take(HERE)[0].entries
