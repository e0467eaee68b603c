"""The audit log: the first decision of a kind at once, and what is repeated within a second once, with a count."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.gates import FakeGrant, job
from trun.engine import audit
from trun.engine.audit import Audit
from trun.engine.guests import Guest
from trun.messages import Ask, Bye, Cancel, Do, Hello, Hold, Listen, Submit, Tell

ASK = Ask(token="t", verb="ps")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "trun.audit")
    return caplog


def guest(user: str = "m" * 40) -> Guest:
    return Guest(b"\0here", user, "me", user)


def said(lines: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in lines.records]
    lines.clear()
    return found


def test_what_is_repeated_within_a_second_is_said_once_with_a_count(lines: pytest.LogCaptureFixture) -> None:
    made = Audit()
    for n in range(1000):
        made.say("denied", guest(), ASK, n / 1000)
    (first,) = said(lines)
    assert "times=" not in first
    made.flush(0.9)
    assert said(lines) == []
    made.flush(1.0)
    assert said(lines) == [first + " times=999"]
    made.flush(9.0)
    assert said(lines) == []


def test_a_repetition_after_a_second_is_said_again_with_what_was_counted(lines: pytest.LogCaptureFixture) -> None:
    made = Audit()
    for now in (0.0, 0.5, 2.0):
        made.say("allowed", guest(), ASK, now)
    first, counted, again = said(lines)
    assert counted == first + " times=1"
    assert again == first


def test_other_decisions_other_requests_and_other_people_have_lines_of_their_own(
    lines: pytest.LogCaptureFixture,
) -> None:
    made = Audit()
    made.say("allowed", guest(), ASK, 0.0)
    made.say("denied", guest(), ASK, 0.0)
    made.say("denied", guest(), Ask(token="t", verb="why"), 0.0)
    made.say("denied", guest("o" * 40), ASK, 0.0)
    made.say("denied", guest("o" * 40), Hello(session="s"), 0.0)
    assert len(set(said(lines))) == 5


def test_what_is_counted_is_bounded_and_said_before_it_is_forgotten(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "KINDS", 3)
    made = Audit()
    for user in "abcd":
        made.say("denied", guest(user * 40), Bye(), 0.0)
        made.say("denied", guest(user * 40), Bye(), 0.0)
    assert len(said(lines)) == 4 + 3
    assert len(made._recent) == 1


@pytest.mark.parametrize(
    ("message", "thing"),
    [
        (Bye(), "-"),
        (Ask("t", "result", {"uid": {"a": [1]}, "job": 3}), "-"),
        (Ask("t", "result", {"uid": [[["4f"]]]}), "-"),
        (Ask("t", "ps"), "-"),
        (Ask("t", "result", {"uid": "4f"}), "'4f'"),
        (Ask("t", "file", {"url": "trun://key/export/a b", "token": "secret"}), "'trun://key/export/a b'"),
        (Ask("t", "mint", {"res": ["job:4f", "job:50"]}), "'job:4f'+1"),
        (Cancel(uids=("4f", "50", "51")), "'4f'+2"),
        (Do("t", Hold(uids=("4f",))), "'4f'"),
        (Tell(uid="4f", text="hello", token="t"), "'4f'"),
        (Submit(specs=(job("4f"), job("50"))), "'4f'+1"),
        (Listen(streams=(("4f", 1), ("50", 3))), "'4f'+1"),
        (Cancel(uids=("4f\n2026 INFO trun.audit allowed user=root",)), r"'4f\n2026 INFO trun.audit allowed user=root'"),
        (Cancel(uids=("x" * 1000,)), repr("x" * 80)),
    ],
)
def test_a_line_says_what_the_request_was_about(lines: pytest.LogCaptureFixture, message: Any, thing: str) -> None:
    Audit().say("denied", guest(), message, 0.0)
    (line,) = said(lines)
    assert f" object={thing} tokens=-" in line
    assert "secret" not in line


def test_what_is_counted_together_names_its_object_where_it_is_one(lines: pytest.LogCaptureFixture) -> None:
    made = Audit()
    for verb, uids in (("result", "aab"), ("outcome", "abb")):
        for uid in uids:
            made.say("allowed", guest(), Ask("t", verb, {"uid": uid}), 0.0)
    said(lines)
    made.flush(1.0)
    together, same = said(lines)
    assert "object=several" in together
    assert "object='b'" in same


def test_the_token_that_speaks_of_the_object_is_named_and_not_the_newest(lines: pytest.LogCaptureFixture) -> None:
    lent = guest()
    for uid in ("4f", "50"):
        lent.grants[f"job:{uid}"] = FakeGrant(("read",), f"job:{uid}")
    Audit().say("allowed", lent, Ask("t", "result", {"uid": "4f"}), 0.0)
    (line,) = said(lines)
    assert line.endswith("object='4f' tokens=job:4f-id")


def test_the_key_is_the_one_that_spoke(lines: pytest.LogCaptureFixture) -> None:
    Audit().say("allowed", Guest(b"\0here", "m" * 40, "me", "s" * 40), ASK, 0.0)
    (line,) = said(lines)
    assert f"user=me key={'s' * 40} " in line
