"""Who is let in over TCP: who proves a key by CURVE, by a handler that is asked and a domain that is enforced."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import zmq

from trun.adapters.keys import KeyPair, from_z85
from trun.adapters.wire import Curve, RouterEndpoint, _answer_zap
from trun.errors import MissingExtra

SERVER, CLIENT = (KeyPair(bytes([number]) * 32) for number in (1, 2))


class Asker:
    """libzmq, as it asks the handler about a connection."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        handler = self.context.socket(zmq.REP)
        handler.bind("inproc://zap")
        self.thread = threading.Thread(target=_answer_zap, args=(handler,), daemon=True)
        self.thread.start()
        self.socket = self.context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect("inproc://zap")

    def ask(self, *parts: bytes) -> list[bytes]:
        self.socket.send_multipart(parts)
        assert self.socket.poll(60_000)
        return self.socket.recv_multipart()

    def close(self) -> None:
        self.socket.close()
        self.context.term()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def asker() -> Iterator[Asker]:
    made = Asker()
    yield made
    made.close()


def request(mechanism: bytes, *credentials: bytes, version: bytes = b"1.0") -> tuple[bytes, ...]:
    return (version, b"17", b"trun", b"203.0.113.5", b"admin", mechanism, *credentials)


def test_who_proves_a_key_is_let_in_under_its_name(asker: Asker) -> None:
    key = from_z85(CLIENT.public)

    assert asker.ask(*request(b"CURVE", key)) == [b"1.0", b"17", b"200", b"OK", CLIENT.public.encode(), b""]


@pytest.mark.parametrize(
    "parts",
    [
        request(b"NULL"),
        request(b"PLAIN", b"admin", b"secret"),
        request(b"GSSAPI", b"admin"),
        request(b"NULL", bytes(32)),
        request(b"CURVE"),
        request(b"CURVE", bytes(31)),
        request(b"CURVE", bytes(33)),
        request(b"CURVE", bytes(32), b"more"),
        request(b"CURVE", bytes(32), version=b"2.0"),
        (b"1.0", b"17"),
        (b"",),
    ],
)
def test_who_proves_no_key_is_refused_and_the_handler_lives_on(asker: Asker, parts: tuple[bytes, ...]) -> None:
    _, _, code, _, user, _ = asker.ask(*parts)
    assert (code, user) == (b"400", b"")

    assert asker.ask(*request(b"CURVE", from_z85(CLIENT.public)))[2] == b"200"


def test_a_listener_on_tcp_is_guarded_before_anybody_can_come() -> None:
    endpoint = RouterEndpoint("tcp://127.0.0.1:0", security=Curve(SERVER.secret, SERVER.public))
    with contextlib.closing(endpoint):
        socket = endpoint._socket
        assert socket.getsockopt(zmq.MECHANISM) == zmq.CURVE
        assert socket.getsockopt(zmq.CURVE_SERVER) == 1
        assert socket.getsockopt(zmq.ZAP_DOMAIN).rstrip(b"\0") == b"trun"
        assert socket.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
        assert 0 < socket.getsockopt(zmq.HANDSHAKE_IVL) <= 5_000


def test_a_library_that_cannot_encrypt_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda what: what != "curve")

    with pytest.raises(MissingExtra, match=r"cannot encrypt.*pip install.*pyzmq"):
        Curve(SERVER.secret, SERVER.public)


def test_the_secret_is_not_shown() -> None:
    assert SERVER.secret not in repr(Curve(SERVER.secret, SERVER.public))
