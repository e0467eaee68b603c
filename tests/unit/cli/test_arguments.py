from __future__ import annotations

import pytest

from trun.adapters.keys import from_z85, z85
from trun.cli.arguments import Parser, span
from trun.errors import UsageError

#: Keys that begin as an option does.
DASHED = ["-r]$$N2rb1}$%awjgs60tQ%M&9.[A@6@[[Jh3.}-", "--]$$N2rb1}$%awjgs60tQ%M&9.[A@6@[[Jh3.}-"]


def parser() -> Parser:
    made = Parser("test", "Words of a verb.")
    made.add_argument("name")
    made.add_argument("key", nargs="?")
    made.add_argument("--expect")
    made.add_argument("--state")
    return made


@pytest.mark.parametrize("key", DASHED)
def test_a_key_that_begins_with_a_dash_is_a_key(key: str) -> None:
    assert z85(from_z85(key)) == key
    found = parser().parse_args(["fans", key, "--expect", key])
    assert (found.name, found.key, found.expect) == ("fans", key, key)


def test_an_option_that_is_as_long_as_a_key_is_an_option() -> None:
    word = "--state=/tmp/a/folder/somewhere/else/abc"
    assert len(word) == 40
    assert parser().parse_args(["fans", word]).state == "/tmp/a/folder/somewhere/else/abc"


def test_a_misspelt_option_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="--expect"):
        parser().parse_args(["fans", "--expekt", "x"])


def test_a_time_span_that_is_none_says_what_is_one() -> None:
    made = Parser("test", "Words of a verb.")
    made.add_argument("--since", type=span)

    assert made.parse_args(["--since", "2d"]).since == 172800.0
    with pytest.raises(UsageError, match=r"'2x' is no time span; write \"90s\""):
        made.parse_args(["--since", "2x"])
