"""The audit log: the first decision of a kind at once, and what is repeated within a second once, with a count."""

from __future__ import annotations

import pytest

from trun.engine import audit
from trun.engine.audit import Audit
from trun.engine.guests import Guest
from trun.messages import Ask, Bye, Hello

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
