"""What the tests of bulk data share: a server, bare and encrypted connections to it, and a relay that cuts them."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trun.adapters.bulk import BulkServer, Limits
from trun.adapters.transfer import client_context, split_address

WAIT_S = 20.0
CAP = 1 << 30
MB = 1_000_000


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


@contextlib.contextmanager
def serving(folder: Path, **limits: float) -> Iterator[BulkServer]:
    server = BulkServer("127.0.0.1", folder / "keys", limits=Limits(**limits))  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


def bare(server: BulkServer) -> socket.socket:
    return socket.create_connection(split_address(server.address), WAIT_S)


def secure(server: BulkServer) -> ssl.SSLSocket:
    return client_context().wrap_socket(bare(server))


def ask(server: BulkServer, line: bytes) -> bytes:
    with secure(server) as sock:
        sock.sendall(line)
        return sock.recv(1000)


def until(holds: Callable[[], bool]) -> None:
    """Wait until something happens in the server's threads."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


class Relay:
    """Stands between client and server, and cuts each connection after so many bytes to the client or the server.

    From connection number ``stall`` on, nothing is passed on at all.
    """

    def __init__(self, address: str, *, down: list[int], up: list[int] | None = None, stall: int = 1000) -> None:
        self._target = split_address(address)
        self._down, self._up = down, up or []
        self._stall = stall
        self._stalled: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tls://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.passed = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self.connections >= self._stall:
                    self._stalled.append(client)
                    continue
                server = socket.create_connection(self._target)
                limits = [one.pop(0) if one else 1 << 60 for one in (self._down, self._up)]
                other = threading.Thread(target=self._pass_on, args=(client, server, limits[1]), daemon=True)
                other.start()
                self._pass_on(server, client, limits[0])
                other.join()
                client.close()
                server.close()

    def _pass_on(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        with contextlib.suppress(OSError):
            while limit > 0 and (piece := source.recv(min(65536, limit))):
                target.sendall(piece)
                limit -= len(piece)
                self.passed += len(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT_S)
        for one in (self._listener, *self._stalled):
            one.close()


@contextlib.contextmanager
def relay(
    server: BulkServer, *, down: list[int], up: list[int] | None = None, stall: int = 1000
) -> Iterator[Relay]:
    made = Relay(server.address, down=down, up=up, stall=stall)
    try:
        yield made
    finally:
        made.close()
