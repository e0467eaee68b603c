"""Tickets for bulk data: how many there may be, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trun.adapters import tickets as room
from trun.adapters.tickets import PER_HOLDER, TICKETS, Ticket, Tickets
from trun.errors import Refused


class Time:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(room, "time", made)
    return made


def reading(holder: str = "adam", *, seconds: float = 10.0, uses: int = 2, content: Any = Path("x")) -> Ticket:
    size = len(content) if isinstance(content, bytes) else 0
    return Ticket(holder=holder, size=size, digest="", expires=100.0 + seconds, uses=uses, content=content)


def test_a_ticket_is_found_by_its_text_alone(time: Time) -> None:
    tickets = Tickets()
    one, other = reading(), reading()

    text = tickets.add(one)

    assert tickets.add(other) != text
    assert len(text) == 64
    assert tickets.find(text, "GET") is one
    assert tickets.find(text, "PUT") is None
    assert tickets.find(text.upper(), "GET") is None
    assert tickets.find("\udcff", "GET") is None
    assert text not in repr(vars(tickets))


def test_a_ticket_ends_with_its_time_or_its_uses(time: Time) -> None:
    tickets = Tickets()
    used, old = tickets.add(reading(seconds=100.0)), tickets.add(reading())

    tickets.use(used)
    assert tickets.find(used, "GET") is not None
    tickets.use(used)
    time.now += 10.0
    tickets.use("unknown")

    assert tickets.find(used, "GET") is None
    assert tickets.find(old, "GET") is None


def test_expired_tickets_make_room(time: Time) -> None:
    tickets = Tickets()
    for _ in range(PER_HOLDER):
        tickets.add(reading())
    with pytest.raises(Refused, match="try again later"):
        tickets.add(reading())
    tickets.add(reading("eve"))

    time.now += 10.0

    tickets.add(reading(seconds=100.0))
    assert len(tickets) == 1


def test_all_together_are_bounded(time: Time) -> None:
    tickets = Tickets()
    for number in range(TICKETS):
        tickets.add(reading(str(number)))

    with pytest.raises(Refused, match="too many"):
        tickets.add(reading())


def test_values_are_bounded_by_their_size(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "VALUE_BYTES", 10)
    tickets = Tickets()
    text = tickets.add(reading(content=bytes(6), uses=1))
    with pytest.raises(Refused, match="too many"):
        tickets.add(reading(content=bytes(5)))
    tickets.add(reading())  # a file takes nothing

    tickets.use(text)

    tickets.add(reading(content=bytes(10)))


def test_a_revoked_holder_has_none(time: Time) -> None:
    tickets = Tickets()
    mine, theirs = tickets.add(reading("eve")), tickets.add(reading("adam"))
    tickets.add(reading("eve"))

    assert tickets.revoke("eve") == 2
    assert tickets.revoke("eve") == 0
    assert tickets.find(mine, "GET") is None
    assert tickets.find(theirs, "GET") is not None
