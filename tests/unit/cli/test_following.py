"""What is printed while jobs run: moves, logs, and whether anything is left that can move."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest

from trun.cli.logs import _split
from trun.cli.resuming import moving
from trun.cli.text import Paint
from trun.cli.watching import Follower, move_line, verdict


class Script:
    """Gives prepared answers to ``changes``, one after the other."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.cursors: list[Any] = []

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Return the next answer."""
        assert verb == "changes"
        self.cursors.append(arguments["cursor"])
        return self.answers.pop(0)


def move(seq: int, time: float, state: str, text: str = "") -> dict[str, Any]:
    """Return a move as the view gives it."""
    return {"seq": seq, "time": time, "state": state, "text": text}


def test_each_move_is_told_once_and_in_order() -> None:
    a, b = {"uid": "a", "id": "a#1"}, {"uid": "b", "id": "b#2"}
    first = (
        {**b, "moves": [move(2, 11.0, "running")]},
        {**a, "moves": [move(2, 10.0, "queued"), move(3, 10.5, "running")]},
    )
    again = {**a, "moves": [move(3, 10.5, "running"), move(4, 12.0, "completed")]}
    script = Script(
        {"cursor": [11.0, 2], "more": True, "counts": {"running": 2}, "jobs": list(first)},
        {"cursor": [12.0, 1], "more": False, "counts": {"running": 1, "completed": 1}, "jobs": [again]},
    )
    follower = Follower(script)

    told = [[(job["id"], each["state"]) for job, each in follower.moves()] for _ in range(2)]

    assert told == [[("a#1", "queued"), ("a#1", "running"), ("b#2", "running")], [("a#1", "completed")]]
    assert follower.unfinished == 1
    assert script.cursors == [None, [11.0, 2]]
    assert not follower.more


def test_a_move_is_one_harmless_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    job = {"id": "fit#7", "ran_s": 2.0}

    text = move_line(job, move(4, 1e9, "failed", "ValueError: a\nb\x1b[2J"), Paint(io.StringIO()), run="first-1")

    assert text.endswith("first-1/fit#7     ✗ failed     ValueError: a b")


@pytest.mark.parametrize(
    ("counts", "never", "code"),
    [
        ({}, 0, 0),
        ({"completed": 3, "aborted": 1, "cancelled": 1}, 0, 0),
        ({"completed": 3, "failed": 1, "waiting": 2}, 0, 1),
        ({"completed": 3, "waiting": 1}, 0, 3),
        ({"completed": 3, "cancelled": 1}, 1, 3),
    ],
)
def test_the_verdict_looks_at_final_states(counts: dict[str, int], never: int, code: int) -> None:
    assert verdict(Counter(counts), never) == code


@pytest.mark.parametrize(
    ("text", "now", "later"),
    [
        ("plain", "plain", ""),
        ("half \x1b[3", "half ", "\x1b[3"),
        ("whole \x1b[31mred", "whole \x1b[31mred", ""),
        ("50 %\r", "50 %", "\r"),
    ],
)
def test_half_a_sequence_waits_for_its_other_half(text: str, now: str, later: str) -> None:
    assert _split(text, end=False) == (now, later)
    assert _split(text, end=True) == (text, "")


def left(**states: str) -> dict[str, dict[str, Any]]:
    """Return unfinished jobs by uid."""
    return {uid: {"uid": uid, "state": state, "attempts": 0} for uid, state in states.items()}


DONE_A = {"atom": "job", "is": "completed", "uid": "a"}


@pytest.mark.parametrize(
    ("conditions", "uids"),
    [
        ({"a": {"atom": "bare", "id": "x"}, "b": DONE_A}, set()),
        ({"a": {"atom": "after", "s": 60.0}, "b": DONE_A}, {"a", "b"}),
        ({"a": {"op": "or", "of": [{"atom": "level", "id": "x"}, {"atom": "world"}]}, "b": DONE_A}, {"a", "b"}),
        ({"a": {"atom": "job", "is": "completed", "uid": "held"}, "b": DONE_A}, set()),
    ],
)
def test_what_waits_for_a_person_does_not_move_by_itself(conditions: dict[str, Any], uids: set[str]) -> None:
    assert moving(left(a="waiting", b="waiting", held="held"), conditions) == uids


def test_what_waits_for_its_next_attempt_moves() -> None:
    jobs = left(a="waiting")
    jobs["a"]["attempts"] = 1

    assert moving(jobs, {}) == {"a"}
