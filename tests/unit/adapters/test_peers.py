"""How much lies unread on the way in and out, by what the kernel counts; and who is cut for it."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from trun.adapters import peers
from trun.adapters.peers import Peers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what went over a connection")

PATIENCE_S = 60.0
PEER, WHO = b"\0\0\0\0\1", "w" * 40


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at each call."""
    monkeypatch.setattr(peers, "LOOK_S", 0.0)
    monkeypatch.setattr(peers, "EACH_S", 0.0)
    for limit in ("PART_BYTES", "IN_BYTES", "OUT_BYTES"):
        monkeypatch.setattr(peers, limit, 100_000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    for each in (here, there):
        each.sendall(b"hello")  # counts of nothing are none
        each.settimeout(PATIENCE_S)
    with here, there:
        yield here, there


def until(wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.002)


def entered(fd: int) -> Peers:
    made = Peers("")
    made.accepted(fd)
    made.enter(PEER, WHO, fd)
    return made


def test_what_comes_and_is_not_read_ends_the_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    made = entered(here.fileno())
    there.sendall(bytes(50_000))
    made.look()
    assert made.cut == 0
    there.sendall(bytes(60_000))
    until(lambda: made.look() == [PEER])
    assert made.cut == 1
    while there.recv(1000):  # to its end
        pass


def test_what_is_read_counts_no_more(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    here.settimeout(None)
    made = entered(here.fileno())
    assert here.recv(5, socket.MSG_WAITALL) == b"hello"
    for _ in range(20):
        there.sendall(bytes(50_000))
        assert len(here.recv(50_000, socket.MSG_WAITALL)) == 50_000
        made.read(PEER, 49_000)  # what encryption adds is not known
        made.look()
    assert made.cut == 0


def test_who_never_says_anything_whole_is_cut_sooner(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    monkeypatch.setattr(peers, "IN_BYTES", 10**9)
    made = Peers("")
    made.accepted(here.fileno())
    there.sendall(bytes(150_000))
    until(lambda: made.look() == [] and made.cut == 1)


def test_the_largest_is_cut_when_all_together_are_too_much(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    made = entered(here.fileno())
    monkeypatch.setattr(peers, "ALL_IN_BYTES", 10_000)
    there.sendall(bytes(50_000))
    until(lambda: made.look() == [PEER])


def test_what_a_peer_leaves_unread_is_known_and_too_much_of_it_ends_the_connection(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    made = entered(here.fileno())
    made.sent(PEER, 90_000)  # handed to the transport, which could not send it
    made.look()
    assert 0 < made.unread(PEER) <= 90_000
    assert made.cut == 0
    here.sendall(bytes(100_000))
    until(lambda: made.look() == [] and made.unread(PEER) == 0)
    made.sent(PEER, 150_000)
    assert made.unread(PEER) == 150_000
    until(lambda: made.look() == [PEER])
    assert there.recv(1)


def test_a_descriptor_that_is_no_connection_is_left_alone() -> None:
    made = Peers("")
    made.accepted(2**20)
    with open("/dev/null") as file:
        made.accepted(file.fileno())
        assert made.look() == []
    assert made.cut == 0
    made.ended(2**20)
    assert len(made) == 1


def test_who_has_gone_is_told_once_nothing_of_it_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    made = entered(pair[0].fileno())
    made.ended(pair[0].fileno())
    assert made.gone(lambda peer: True) == []
    assert made.gone(lambda peer: False) == [PEER]
    assert made.who(PEER) == WHO
    made.forget_gone()
    assert made.who(PEER) == ""
    assert made.gone(lambda peer: False) == []
