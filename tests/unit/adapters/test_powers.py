"""What a node knows of people and tokens: it holds at the next look, survives a restart, and has bounds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import trun.adapters.powers as powers_module
from trun.adapters import tokens
from trun.adapters.keys import KeyPair, ServiceKeys, new_seed, write_seed
from trun.adapters.people import People
from trun.adapters.powers import SESSIONS, Powers
from trun.errors import BadOption, NotAuthorised

USER, B, THIEF = (KeyPair(bytes([number]) * 32) for number in range(1, 4))
ROLES = ("read", "submit")


@pytest.fixture
def powers(tmp_path: Path) -> Powers:
    People(tmp_path).add("ann", USER.public, ROLES)
    return Powers(tmp_path, ServiceKeys(tmp_path))


def again(folder: Path) -> Powers:
    """Return what the service knows after a restart."""
    return Powers(folder, ServiceKeys(folder))


def lent(powers: Powers, *, seconds: float = 3600.0, res: tuple[str, ...] = ("job:4f",)) -> str:
    token = powers.mint(USER.public, next_key=USER.verify, ops=("read", "fetch"), res=("*",), seconds=seconds)
    return tokens.attenuate(token, USER, holder=B.public, ops=("read",), res=res, expires=time.time() + seconds)


def test_a_token_allows_its_holder_what_it_says_and_nobody_else_anything(powers: Powers) -> None:
    token = lent(powers)
    allowed = powers.check(token, B.public, time.time())

    assert allowed.user == USER.public
    assert allowed.allows("read", "job:4f")
    assert not allowed.allows("read", "job:50")
    assert not allowed.allows("fetch", "job:4f")
    for bearer in (THIEF.public, USER.public):
        with pytest.raises(NotAuthorised):
            powers.check(token, bearer, time.time())


@pytest.mark.parametrize("text", ["", "trun1.", "trun1.AAAA", "nonsense", "trun1." + "A" * 5000])
def test_what_is_no_token_allows_nothing(powers: Powers, text: str) -> None:
    with pytest.raises(NotAuthorised):
        powers.check(text, B.public, time.time())


def test_a_token_is_worth_nothing_once_its_user_has_no_role(powers: Powers, tmp_path: Path) -> None:
    token = lent(powers)
    People(tmp_path).remove("ann")

    with pytest.raises(NotAuthorised, match="no rights"):
        powers.check(token, B.public, time.time())


def test_a_revoked_link_is_worth_nothing_at_once_in_every_process_and_after_a_restart(
    powers: Powers, tmp_path: Path
) -> None:
    token, other = lent(powers), lent(powers, res=("job:50",))
    beside = again(tmp_path)
    assert not beside.is_revoked(tokens.ids(token))

    powers.revoke(tokens.ids(token)[-1], "lost laptop")

    for each in (powers, beside, again(tmp_path)):
        assert each.is_revoked(tokens.ids(token))
        with pytest.raises(NotAuthorised):
            each.check(token, B.public, time.time())
        assert each.check(other, B.public, time.time()).allows("read", "job:50")


@pytest.mark.parametrize("one", ["", "xx", "A" * 64, "0" * 63])
def test_only_an_id_can_be_revoked(powers: Powers, one: str) -> None:
    with pytest.raises(BadOption, match="64 hexadecimal"):
        powers.revoke(one)


def test_one_key_may_show_so_many_tokens_in_a_minute(powers: Powers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(powers_module, "TOKENS_A_MINUTE", 3)
    now = time.time() // 60 * 60
    token = lent(powers)
    for _ in range(3):
        powers.check(token, B.public, now)

    with pytest.raises(NotAuthorised, match="too many"):
        powers.check(token, B.public, now + 1)
    with pytest.raises(NotAuthorised) as another:
        powers.check(token, THIEF.public, now + 1)
    assert "too many" not in str(another.value)
    powers.check(token, B.public, now + 60)


def test_no_token_lives_longer_than_half_a_day(powers: Powers) -> None:
    token = powers.mint(USER.public, next_key=USER.verify, ops=("read",), res=("*",), seconds=1e9)

    assert tokens.inspect(token)[0]["exp"] <= time.time() + tokens.LONGEST_S + 1


def test_new_tokens_are_signed_by_the_newest_root_and_the_one_before_still_counts(
    powers: Powers, tmp_path: Path
) -> None:
    first = lent(powers)
    write_seed(tmp_path / "keys" / "token_root.2", new_seed())
    second = again(tmp_path)
    token = lent(second)
    assert tokens.inspect(token)[0]["gen"] == 2
    second.check(first, B.public, time.time())

    write_seed(tmp_path / "keys" / "token_root.3", new_seed())
    third = again(tmp_path)
    third.check(token, B.public, time.time())
    with pytest.raises(NotAuthorised):
        third.check(first, B.public, time.time())


def test_without_its_root_no_token_counts(powers: Powers, tmp_path: Path) -> None:
    token = lent(powers)
    (tmp_path / "keys" / "token_root.1").unlink()

    with pytest.raises(NotAuthorised):
        again(tmp_path).check(token, B.public, time.time())


# -- keys of a session ------------------------------------------------------------------------------------------------


def test_a_session_key_stands_for_its_user_half_a_day_at_most_and_after_a_restart(
    powers: Powers, tmp_path: Path
) -> None:
    until = powers.register(B.public, USER.public, time.time() + 1e9)

    assert until <= time.time() + tokens.LONGEST_S + 1
    assert powers.user(B.public) == again(tmp_path).user(B.public) == USER.public
    assert powers.user(THIEF.public) == THIEF.public


def test_a_session_that_has_ended_stands_for_nobody(powers: Powers) -> None:
    powers.register(B.public, USER.public, time.time() - 1)

    assert powers.user(B.public) == B.public


def test_neither_known_keys_nor_those_of_strangers_become_sessions(powers: Powers, tmp_path: Path) -> None:
    People(tmp_path).add("bob", B.public, ("read",))
    for key, user in ((B.public, USER.public), (THIEF.public, KeyPair(new_seed()).public)):
        with pytest.raises(NotAuthorised):
            powers.register(key, user, time.time() + 60)
        assert powers.user(key) == key


def test_a_user_has_so_many_sessions_and_the_oldest_ends(powers: Powers) -> None:
    keys = [KeyPair(bytes([100 + number]) * 32).public for number in range(SESSIONS + 1)]
    for key in keys:
        powers.register(key, USER.public, time.time() + 3600)

    assert [powers.user(key) == USER.public for key in keys] == [False] + [True] * SESSIONS
