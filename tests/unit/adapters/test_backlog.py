"""What waits to be read: by turns, bounded for each sender, and nothing at all of who is muted."""

from __future__ import annotations

import pytest

from trun.adapters import backlog
from trun.adapters.backlog import Backlog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(made: Backlog, who: str, *items: str, size: int = 1) -> None:
    for item in items:
        if made.hears(who):
            made.put(who, who.encode(), item, size)


def taken(made: Backlog) -> list[str]:
    found = []
    while (one := made.take()) is not None:
        found.append(one[2])
    return found


def test_senders_take_turns_and_each_is_heard_in_order(clock: Clock) -> None:
    made = Backlog(clock)
    put(made, "eve", "e1", "e2", "e3", "e4")
    put(made, "ann", "a1", "a2")
    assert taken(made) == ["e1", "a1", "e2", "a2", "e3", "e4"]
    assert len(made) == 0


@pytest.mark.parametrize("limit", ["BYTES", "MESSAGES"])
def test_who_has_too_much_waiting_is_muted_and_nothing_of_it_is_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    monkeypatch.setattr(backlog, limit, 10)
    caplog.set_level("INFO", "trun.audit")
    made = Backlog(clock)
    put(made, "ann", "a1")
    put(made, "eve", *map(str, range(1000)))
    assert taken(made) == ["a1"]
    assert (made.muted, made.dropped, made.hears("ann"), made.waits(b"eve")) == (1, 1000, True, False)
    clock.now += backlog.FIRST_S
    made.look()
    assert made.muted == 0
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in lines] == ["muted", "unmuted"]
    assert "key=eve" in lines[0]
    assert "dropped=1000" in lines[1]
    put(made, "eve", "again")
    assert taken(made) == ["again"]


def test_each_time_is_twice_as_long_until_a_calm_while(clock: Clock) -> None:
    made = Backlog(clock)
    spans = []
    for _ in range(12):
        made.mute("eve", "flood")
        made.mute("eve", "flood")  # while it is muted that is no news
        began = clock.now
        while not made.hears("eve"):
            clock.now += 0.5
        spans.append(clock.now - began)
    assert spans == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    made.mute("bob", "a stranger", 3.0)
    clock.now += backlog.CALM_S + 601
    made.mute("eve", "flood")
    clock.now += backlog.FIRST_S
    assert made.hears("eve")


def test_no_time_is_longer_than_who_mutes_wants(clock: Clock) -> None:
    made = Backlog(clock)
    for _ in range(5):
        made.mute("eve", "a stranger", 3.0)
        clock.now += 3.0
        assert made.hears("eve")


def test_when_all_together_is_too_much_who_has_most_is_muted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "ALL_BYTES", 10)
    made = Backlog(clock)
    put(made, "ann", "a", size=3)
    put(made, "eve", "e", size=6)
    put(made, "ann", "b", size=2)
    assert made.muted == 1
    assert taken(made) == ["a", "b"]


def test_each_connection_is_told_once(clock: Clock) -> None:
    made = Backlog(clock)
    assert made.must_tell("eve", b"1") == 0
    made.mute("eve", "flood")
    assert [made.must_tell("eve", peer) > 0 for peer in (b"1", b"1", b"2", b"1")] == [True, False, True, False]


def test_the_past_of_many_senders_is_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "SENDERS", 3)
    made = Backlog(clock)
    for n in range(50):
        made.mute(str(n), "flood")
        clock.now += 1.0
        made.look()
    assert len(made._past) == 3


def test_who_has_made_less_work_lately_has_its_turn_first(clock: Clock) -> None:
    made = Backlog(clock)
    for _ in range(10):
        put(made, "eve", "e1", "e2")
        put(made, "mallory", "m1", "m2")
        put(made, "ann", "a1", "a2")
        assert taken(made)[:2] == (["a1", "a2"] if made._work else ["e1", "m1"])
        made.spend("eve", 3.0)
        made.spend("mallory", 2.0)
        made.spend("ann", 0.001)


def test_work_of_long_ago_is_forgotten(clock: Clock) -> None:
    made = Backlog(clock)
    made.spend("eve", 3.0)
    clock.now += 10 * backlog.FORGET_S
    made.spend("ann", 0.001)
    put(made, "eve", "e1", "e2")
    put(made, "ann", "a1", "a2")
    assert taken(made) == ["e1", "a1", "e2", "a2"]
