"""A connection over a line that the test plays: what is sent when, and that nobody sleeps through a message."""

from __future__ import annotations

import queue
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trun.adapters import link
from trun.adapters.link import Connection, encode_frames
from trun.core.codec import decode_requests, encode_batch
from trun.errors import NotAuthorised
from trun.messages import Answer, AnyRequest, Credit, Define, Hello

WAIT_S = 20.0


class PlayedLine:
    """A line whose other end is the test."""

    def __init__(self) -> None:
        self.sent: queue.Queue[AnyRequest] = queue.Queue()
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.happened: queue.Queue[str] = queue.Queue()
        self.reopened = 0
        self.closed = threading.Event()
        self.waits = 0

    def changes(self) -> list[str]:
        return _drain(self.happened)

    def receive(self) -> list[bytes]:
        return _drain(self.arrived)

    def send(self, frames: list[bytes]) -> None:
        for frame in frames:
            for request in decode_requests(frame):
                self.sent.put(request)

    def wait(self, wake_fd: int, wait_s: float) -> bool:
        # What the test plays wakes nobody, so look for it often; what threads send must wake us by the descriptor.
        self.waits += 1
        return bool(select.select([wake_fd], [], [], min(wait_s, 0.01))[0])

    def reopen(self) -> None:
        self.reopened += 1

    def close(self, *, linger_s: float) -> None:
        self.closed.set()


def _drain(source: queue.Queue[Any]) -> list[Any]:
    found = []
    while True:
        try:
            found.append(source.get_nowait())
        except queue.Empty:
            return found


class Played(Connection):
    """A connection over that line."""

    def __init__(self) -> None:
        super().__init__("played")
        self.line = PlayedLine()
        self.stranger = False

    def open_line(self) -> PlayedLine:
        return self.line

    def check_peer(self) -> None:
        if self.stranger:
            raise NotAuthorised("somebody else sits there")


@pytest.fixture
def connection() -> Iterator[Played]:
    connection = Played()
    yield connection
    connection.close(flush=False)


def next_request(connection: Played) -> AnyRequest:
    return connection.line.sent.get(timeout=WAIT_S)


def test_nothing_is_sent_before_the_line_is_up(connection: Played) -> None:
    connection.send([Credit(entries=1)])
    asked = threading.Event()
    connection.on_messages(lambda answers: asked.set())
    connection.line.arrived.put(encode_batch([Answer(token="so the thread has turned")]))
    assert asked.wait(WAIT_S)
    assert connection.line.sent.empty()

    connection.line.happened.put("up")

    assert next_request(connection) == Credit(entries=1)


def test_what_the_callback_says_at_up_comes_before_what_was_held(connection: Played) -> None:
    connection.on_state(lambda state: connection.send([Hello(session=state)]) if state == "up" else None)
    connection.send([Credit(entries=1)])

    connection.line.happened.put("up")

    assert [next_request(connection) for _ in range(2)] == [Hello(session="up"), Credit(entries=1)]


def test_a_broken_line_is_opened_anew_after_what_had_come_was_read(connection: Played) -> None:
    heard: queue.Queue[object] = queue.Queue()
    connection.on_messages(heard.put)
    connection.on_state(heard.put)
    connection.send([Credit(entries=1)])
    connection.line.happened.put("up")
    assert heard.get(timeout=WAIT_S) == "up"

    connection.line.arrived.put(encode_batch([Answer(token="last words")]))
    connection.line.happened.put("down")

    assert heard.get(timeout=WAIT_S) == [Answer(token="last words")]
    assert heard.get(timeout=WAIT_S) == "down"
    assert connection.line.reopened == 1


def test_a_line_that_never_was_up_does_not_go_down(connection: Played) -> None:
    states: queue.Queue[str] = queue.Queue()
    connection.on_state(states.put)
    connection.send([Credit(entries=1)])

    connection.line.happened.put("down")
    connection.line.happened.put("up")

    assert states.get(timeout=WAIT_S) == "up"
    assert connection.line.reopened == 0


def test_a_stranger_at_the_other_end_gets_nothing(connection: Played, caplog: pytest.LogCaptureFixture) -> None:
    connection.stranger = True
    connection.send([Credit(entries=1)])
    connection.line.happened.put("up")
    asked = threading.Event()
    connection.on_messages(lambda answers: asked.set())
    connection.line.arrived.put(encode_batch([Answer(token="so the thread has turned")]))

    assert asked.wait(WAIT_S)

    assert connection.line.sent.empty()
    assert "somebody else sits there" in caplog.text


def test_a_line_that_fails_ends_the_connection_and_says_so(
    connection: Played, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: queue.Queue[str] = queue.Queue()
    connection.on_state(states.put)
    monkeypatch.setattr(connection.line, "changes", lambda: 1 / 0)

    connection.send([Credit(entries=1)])

    assert states.get(timeout=WAIT_S) == "down"
    assert connection.line.closed.wait(WAIT_S)
    assert "ZeroDivisionError" in caplog.text


def test_no_message_is_slept_through(connection: Played) -> None:
    connection.line.happened.put("up")
    count = 5000

    def speak() -> None:
        for number in range(count):
            connection.send([Credit(entries=number)])

    threads = [threading.Thread(target=speak) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for _ in range(2 * count):
        next_request(connection)
    assert connection.line.sent.empty()


def test_a_loop_of_sends_wakes_the_link_now_and_then_only(
    connection: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "BURST_S", 60.0)
    wakes: list[None] = []
    wake = link.Wake.set
    monkeypatch.setattr(link.Wake, "set", lambda self: (wakes.append(None), wake(self))[1])
    connection.line.happened.put("up")

    for number in range(5000):
        connection.send([Credit(entries=number)])

    assert [next_request(connection) for _ in range(5000)] == [Credit(entries=number) for number in range(5000)]
    assert len(wakes) < 1000


def test_a_large_batch_is_cut_into_frames_and_stays_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "BATCH_BYTES", 1000)
    batch = [Define(digest=str(number), data=b"x" * 300) for number in range(10)]

    frames = encode_frames(batch)

    assert all(len(frame) <= 1000 for frame in frames)
    assert [request for frame in frames for request in decode_requests(frame)] == batch


def test_a_message_that_is_too_large_for_a_frame_of_its_own_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "BATCH_BYTES", 1000)

    frames = encode_frames([Define(digest="d", data=b"x" * 5000), Credit(entries=1)])

    assert [len(frame) > 1000 for frame in frames] == [True, False]


def test_a_message_that_cannot_be_encoded_is_the_callers_error(connection: Played) -> None:
    with pytest.raises(TypeError):
        connection.send([Define(digest="d", data=object())])  # type: ignore[arg-type]
