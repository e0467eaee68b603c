"""The vectors of docs/tokens.md hold, and no changed token is accepted."""

from __future__ import annotations

from typing import Any

import pytest

import token_mutations
import token_vectors
from trun.adapters import tokens
from trun.errors import TokenRefused

PUBLISHED = token_vectors.published()
ROOTS = {number: PUBLISHED["keys"][f"root {number}"]["ed25519"] for number in (1, 2)}


def answer(token: str, bearer: str, **wanted: Any) -> str:
    try:
        tokens.check(token, roots=ROOTS, bearer=PUBLISHED["keys"][bearer]["curve"], revoked=lambda _id: False, **wanted)
    except TokenRefused as refused:
        return refused.reason
    return "good"


def test_the_published_vectors_are_what_this_version_makes() -> None:
    assert token_vectors.vectors() == PUBLISHED, "the format changed: a new prefix, a new tag, new vectors"


@pytest.mark.parametrize("number", range(len(PUBLISHED["checks"])))
def test_each_published_check_is_answered_as_published(number: int) -> None:
    check = dict(PUBLISHED["checks"][number])
    expected = check.pop("answer")

    assert answer(PUBLISHED["tokens"][check.pop("token")]["token"], check.pop("bearer"), **check) == expected


@pytest.mark.parametrize("what", PUBLISHED["refused"])
def test_each_published_forgery_is_refused_for_the_published_reason(what: str) -> None:
    forged = PUBLISHED["refused"][what]

    found = answer(forged["token"], "service B", op="read", resource="job:4f", now=PUBLISHED["now"])

    assert found == forged["reason"]


@pytest.mark.parametrize("seed", range(4))
def test_no_changed_token_is_accepted_by_anybody(seed: int) -> None:
    outcome = token_mutations.run(50_000, seed)

    assert outcome.accepted == []
    assert set(outcome.refused) == {"malformed", "signature"}
    assert min(outcome.refused.values()) > 5_000
