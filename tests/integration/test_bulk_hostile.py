"""The port for bulk data and those who mean no good: strangers, crowds, garbage, greedy holders, lying servers."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_kit import CAP, MB, WAIT_S, ask, bare, digest_of, secure, serving, until
from trun.adapters.bulk import BulkServer, Limits
from trun.adapters.certificate import certificate
from trun.adapters.parts import is_part
from trun.adapters.transfer import UNCHECKED, client_context, fetch, fetch_bytes, split_address
from trun.errors import ProtocolError, ServiceUnavailable, TransferRefused


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BulkServer]:
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def content() -> bytes:
    return random.Random(7).randbytes(3 * MB)


def test_strangers_hear_no_more_than_no(server: BulkServer) -> None:
    ticket = server.ticket(b"abc").encode()

    assert ask(server, b"TRUN1 GET %s 0\n" % (b"0" * 64)) == b"NO ticket\n"
    for line in (
        *(b"\n", b"GET / HTTP/1.1\r\n", b"TRUN1 GET\n", b"TRUN2 GET %s 0\n" % ticket, b"TRUN1 DEL %s 0\n" % ticket),
        *(b"TRUN1 GET %s -1\n" % ticket, b"TRUN1 GET %s 1e3\n" % ticket, b"TRUN1 GET %s %s\n" % (ticket, b"9" * 50)),
        b"\xff\xfe\x00 GET \xb2 0\n",
    ):
        assert ask(server, line) == b"NO words\n"
    assert ask(server, b"TRUN1 GET %s 4\n" % ticket) == b"NO offset\n"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BulkServer]:
    with serving(tmp_path_factory.mktemp("fuzzed"), handshake_s=1.0) as made:
        yield made


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.tuples(st.sampled_from([b"GET", b"PUT", b"get"]), st.binary(max_size=70), st.integers(-5, 10**20)).map(
            lambda words: b"TRUN1 %s %s %d" % words
        ),
    )
)
def test_whatever_is_said_without_a_ticket_gets_nothing(fuzzed: BulkServer, line: bytes) -> None:
    with contextlib.suppress(OSError):
        assert ask(fuzzed, line + b"\n") in (b"NO words\n", b"NO ticket\n", b"")
    assert fetch_bytes(fuzzed.address, fuzzed.fingerprint, fuzzed.ticket(b"abc"), size_cap=CAP) == b"abc"


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=600))
def test_whatever_comes_before_the_handshake_gets_nothing(fuzzed: BulkServer, garbage: bytes) -> None:
    with bare(fuzzed) as sock, contextlib.suppress(OSError):
        sock.sendall(garbage)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1000):  # alerts of TLS
            pass
    assert fetch_bytes(fuzzed.address, fuzzed.fingerprint, fuzzed.ticket(b"abc"), size_cap=CAP) == b"abc"


def test_an_endless_line_is_cut(server: BulkServer) -> None:
    with secure(server) as sock, contextlib.suppress(OSError):
        sock.sendall(b"x" * 100_000)
        assert sock.recv(10) == b""
    until(lambda: server.counts["garbage"] == 1)


def test_what_is_not_tls_is_cut(server: BulkServer) -> None:
    for garbage in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(4000), b"\x16\x03\x01\xff\xff" + bytes(3000)):
        with bare(server) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(garbage)
            while sock.recv(1000):
                pass
    until(lambda: server.counts["garbage"] == 3)

    assert fetch_bytes(server.address, server.fingerprint, server.ticket(b"abc"), size_cap=CAP) == b"abc"


def test_older_tls_is_refused(server: BulkServer) -> None:
    context = client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with bare(server) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)


def test_who_says_nothing_is_thrown_out(tmp_path: Path) -> None:
    with serving(tmp_path, handshake_s=0.2) as server, bare(server) as silent, secure(server) as shaken:
        assert silent.recv(10) == b""
        assert shaken.recv(10) == b""

        assert server.counts["silent"] == 2


def test_a_crowd_of_silent_strangers_harms_nobody(server: BulkServer, content: bytes) -> None:
    with contextlib.ExitStack() as crowd:
        for _ in range(400):
            crowd.enter_context(bare(server))
        begin = time.monotonic()

        for _ in range(10):
            ticket = server.ticket(content)
            assert fetch_bytes(server.address, server.fingerprint, ticket, size_cap=CAP) == content

        assert time.monotonic() - begin < WAIT_S
        assert server.counts["crowded out"] >= 400 - Limits().strangers


def test_a_transfer_that_stands_still_is_cut(tmp_path: Path) -> None:
    with serving(tmp_path, silence_s=0.2) as server, secure(server) as sock, secure(server) as other:
        sock.sendall(b"TRUN1 GET %s 0\n" % server.ticket(bytes(50 * MB)).encode())
        other.sendall(b"TRUN1 PUT %s 0\n" % server.accept(tmp_path / "t", MB, UNCHECKED).encode())

        until(lambda: server.counts["broken"] == 2)
    assert not (tmp_path / "t").exists()
    assert not any(is_part(path.name) for path in tmp_path.iterdir())


def test_one_holder_cannot_take_all_places(tmp_path: Path) -> None:
    with serving(tmp_path, transfers=4, per_holder=2) as server, contextlib.ExitStack() as stack:
        big = server.ticket(bytes(50 * MB), holder="greedy").encode()
        for _ in range(2):
            sock = stack.enter_context(secure(server))
            sock.sendall(b"TRUN1 GET %s 0\n" % big)
            assert sock.recv(2) == b"OK"

        assert ask(server, b"TRUN1 GET %s 0\n" % big) == b"NO busy\n"
        ticket = server.ticket(b"abc", holder="modest")
        assert fetch_bytes(server.address, server.fingerprint, ticket, size_cap=CAP) == b"abc"


def test_more_than_was_announced_is_not_taken(server: BulkServer, tmp_path: Path) -> None:
    ticket = server.accept(tmp_path / "t", 10, UNCHECKED)
    with secure(server) as sock:
        sock.sendall(b"TRUN1 PUT %s 0\n" % ticket.encode())
        sock.sendall(bytes(5 * 1000))
        assert b"OK" in sock.recv(1000)
        with contextlib.suppress(OSError):
            sock.recv(1000)

    until(lambda: server.counts["done"] + server.counts["broken"] == 1)
    assert (tmp_path / "t").stat().st_size == 10


def test_two_pushes_of_the_same_do_not_mix(server: BulkServer, tmp_path: Path, content: bytes) -> None:
    tickets = [server.accept(tmp_path / "t", len(content), digest_of(content)) for _ in range(2)]
    with secure(server) as sock:
        sock.sendall(b"TRUN1 PUT %s 0\n" % tickets[0].encode())
        assert sock.recv(100).startswith(b"OK")

        assert ask(server, b"TRUN1 PUT %s 0\n" % tickets[1].encode()) == b"NO busy\n"

        sock.sendall(content)
        assert sock.recv(100).startswith(b"END")
    assert (tmp_path / "t").read_bytes() == content


def test_a_hostile_server_is_believed_nothing(tmp_path: Path, server: BulkServer) -> None:
    for answer in (b"OK -1 -\n", b"OK 99999999999999999999 -\n", b"OK\n", b"\n", b"x" * 5000, b"OK 1e9 -\n", b"NO\n"):
        with _answering(tmp_path, answer) as (address, fingerprint), pytest.raises((ProtocolError, TransferRefused)):
            fetch(address, fingerprint, "ab", tmp_path / "t", size_cap=CAP)
    assert not (tmp_path / "t").exists()


@contextlib.contextmanager
def _answering(folder: Path, answer: bytes) -> Iterator[tuple[str, str]]:
    """A server that answers whatever is asked with the same bytes."""
    shown = certificate(folder / "keys")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.path)
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, context.wrap_socket(client, server_side=True) as sock:
                    sock.recv(1000)
                    sock.sendall(answer)
                    sock.settimeout(1.0)
                    sock.recv(1000)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield f"tls://127.0.0.1:{listener.getsockname()[1]}", shown.fingerprint
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(WAIT_S)
    listener.close()


def test_closing_twice_is_as_good_as_once(tmp_path: Path) -> None:
    with serving(tmp_path) as server, secure(server) as sock:
        sock.sendall(b"TRUN1 GET %s 0\n" % server.ticket(bytes(50 * MB)).encode())
        assert sock.recv(2) == b"OK"
        server.close()
    server.close()
    with pytest.raises(ServiceUnavailable, match="broke off"):
        fetch_bytes(server.address, server.fingerprint, "ab", size_cap=CAP)


def test_a_port_that_is_taken_is_named(tmp_path: Path, server: BulkServer) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot listen for bulk data"):
        BulkServer("127.0.0.1", tmp_path / "keys", port=split_address(server.address)[1])
