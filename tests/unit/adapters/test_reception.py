"""What is read in which order of what has come from elsewhere: senders take turns by the work that they make."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trun.adapters.reception import FOREIGN_AT_ONCE, REQUEST_BYTES, Reception
from trun.core.codec import encode_batch
from trun.messages import AnyAnswer, AnyRequest, Ask, Listen


class Part(bytes):
    """A frame."""

    @property
    def bytes(self) -> bytes:
        return self


class Open(Reception):
    """A reception for others than the owner, into which a test puts messages by hand."""

    def __init__(self) -> None:
        super().__init__(is_own=False)
        self.waiting: deque[tuple[str, Part]] = deque()
        self.sent: list[tuple[bytes, Sequence[AnyAnswer]]] = []

    def put(self, who: str, *requests: AnyRequest) -> None:
        self.waiting.append((who, Part(encode_batch(requests))))

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        self.sent.append((peer, answers))
        return True

    def _next(self) -> tuple[bytes, list[Any], int] | None:
        if not self.waiting:
            return None
        self._from, frame = self.waiting.popleft()
        return b"\0" + self._from.encode(), [frame], 1

    def _who(self, frame: Any) -> str | None:
        return self._from

    def _fd(self, frame: Any) -> int:
        return len(self._from) + ord(self._from[0])

    def end(self, who: str) -> None:
        self._from = who
        self._peers.ended(self._fd(None))

    def leave(self) -> list[bytes]:
        assert self._backlog is not None
        return self._gone_but_for(self._backlog)


def ask(n: int) -> Ask:
    return Ask(token=str(n), verb="ping")


def heard(batches: list[tuple[bytes, Sequence[AnyRequest]]]) -> list[tuple[str, int]]:
    return [(peer[1:].decode(), len(requests)) for peer, requests in batches]


def test_what_came_together_is_read_over_many_turns() -> None:
    made = Open()
    made.put("eve", *(ask(n) for n in range(3 * FOREIGN_AT_ONCE)))
    made.put("ann", ask(0))
    assert heard(made.receive()) == [("eve", FOREIGN_AT_ONCE)]
    assert heard(made.receive()) == [("ann", 1), ("eve", FOREIGN_AT_ONCE - 1)]


def test_large_requests_count_as_many() -> None:
    made = Open()
    for _ in range(3):
        made.put("eve", Listen(streams=tuple((f"{n:030}", 1) for n in range(REQUEST_BYTES))))
    made.put("ann", ask(0))
    assert heard(made.receive()) == [("eve", 1)]
    assert heard(made.receive()) == [("ann", 1), ("eve", 1)]
    assert heard(made.receive()) == [("eve", 1)]
    assert made.receive() == []


def test_garbage_takes_turns_too_and_is_never_mistaken_for_the_end() -> None:
    made = Open()
    for _ in range(3 * FOREIGN_AT_ONCE):
        made.waiting.append(("eve", Part(b"\xc1")))
    made.put("ann", ask(0))
    assert heard(made.receive()) == [("ann", 1)]
    made.receive()
    assert made.dropped == 3 * FOREIGN_AT_ONCE


def test_the_last_words_of_who_has_gone_are_read_before_it_is_forgotten() -> None:
    made = Open()
    made.put("bob", ask(0))
    made.put("ann", ask(0))
    assert heard(made.receive()) == [("bob", 1), ("ann", 1)]
    for n in range(2 * FOREIGN_AT_ONCE):
        made.put("bob", ask(n))
    assert len(made.receive()) == FOREIGN_AT_ONCE
    made.put("ann", ask(1))  # is in the socket, and not in the backlog, since it was emptied a moment ago
    made.end("ann")
    assert made.leave() == []
    found = [peer for _ in range(3) for peer, _ in heard(made.receive())]
    assert "ann" in found
    assert made.leave() == [b"\0ann"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3 * FOREIGN_AT_ONCE)), max_size=20))
def test_nothing_is_lost_and_each_sender_is_heard_in_order(sent: list[tuple[str, int]]) -> None:
    made, expected, numbers = Open(), dict[str, list[str]](), 0
    for who, count in sent:
        made.put(who, *(ask(n) for n in range(numbers, numbers + count)))
        expected.setdefault(who, []).extend(str(n) for n in range(numbers, numbers + count))
        numbers += count
    found: dict[str, list[str]] = {}
    while batches := made.receive():
        assert sum(len(requests) for _, requests in batches) <= FOREIGN_AT_ONCE
        for peer, requests in batches:
            found.setdefault(peer[1:].decode(), []).extend(one.token for one in requests if isinstance(one, Ask))
    assert found == expected


def test_what_is_put_back_comes_before_what_was_said_later() -> None:
    made = Open()
    made.put("eve", *(ask(n) for n in range(5)))
    made.put("eve", *(ask(n) for n in range(5, 8)))
    (first, one), (second, two) = made.receive()
    assert made.may_wait(first)
    made.put_back(second, two)
    made.put_back(first, one[2:])
    said = [request.token for _, requests in made.receive() for request in requests]  # type: ignore[union-attr]
    assert said == ["2", "3", "4", "5", "6", "7"]


def test_who_took_long_waits_for_who_did_not() -> None:
    made = Open()
    made.put("eve", *(ask(n) for n in range(2 * FOREIGN_AT_ONCE)))
    ((peer, _),) = made.receive()
    made.spend(peer, 10.0)
    for n in range(FOREIGN_AT_ONCE):
        made.put("ann", ask(n))
    made._emptied = 0.0  # as if time had passed
    assert [who for who, _ in heard(made.receive())] == ["ann"] * FOREIGN_AT_ONCE


def test_the_last_words_of_who_has_gone_are_not_put_back() -> None:
    made = Open()
    made.put("eve", *(ask(n) for n in range(3)))
    ((peer, _),) = made.receive()
    made.end("eve")
    assert made.leave() == [peer]
    assert not made.may_wait(peer)
