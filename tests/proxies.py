"""A network that can be broken: a relay between a client and a service, over real sockets.

``Relay`` listens at an address of its own and passes bytes on, both ways. It can refuse everybody, end all connections,
fall silent while they stay open (half-open: nothing is passed on and nothing is closed), swallow what the service says,
and deliver late. It knows nothing of what it carries.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType

#: Bytes that are read at once, and seconds between looks at what is late.
PIECE, LOOK_S = 65536, 0.02


class _Pair:
    """One connection through the relay."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.ends = (near, far)
        #: What has been read and not been written, for each end: (not before, bytes).
        self.late: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
        near.setblocking(False)
        far.setblocking(False)


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


class Relay:
    """Passes bytes between whoever connects and ``target`` (``tcp://host:port``), unless it is told not to."""

    def __init__(self, target: str) -> None:
        self._target = _place(target)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        #: Connections that were made, also those that were refused.
        self.made = 0
        self.delay_s = 0.0
        self._refuses = self._is_silent = self._swallows = self._over = False
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._thread.join()
        self._end_all()
        self._server.close()

    # -- how it is broken

    def refuse(self) -> None:
        """End all connections, and each new one as soon as it is made."""
        with self._lock:
            self._refuses = True
            self._end_all()

    def reset(self) -> None:
        """End all connections with a reset; new ones are welcome."""
        with self._lock:
            self._end_all(reset=True)

    def redirect(self, target: str) -> None:
        """End all connections; new ones lead to ``target``."""
        with self._lock:
            self._target = _place(target)
            self._end_all()

    def silence(self) -> None:
        """Pass nothing on, and close nothing: who is connected hears no more."""
        with self._lock:
            self._is_silent = True

    def swallow_answers(self) -> None:
        """Pass on what clients say, and lose whatever they are answered from now on."""
        with self._lock:
            self._swallows = True

    def heal(self) -> None:
        """Pass everything on again; connections that have lost something end, as they would."""
        with self._lock:
            if self._swallows:
                self._end_all(reset=True)
            self._refuses = self._is_silent = self._swallows = False

    # -- the thread

    def _end_all(self, *, reset: bool = False) -> None:
        for pair in self._pairs:
            self._end(pair, reset=reset)
        self._pairs = []

    def _end(self, pair: _Pair, *, reset: bool = False) -> None:
        for end in pair.ends:
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()

    def _run(self) -> None:
        while not self._over:
            with self._lock:
                watched = [] if self._is_silent else [end for pair in self._pairs for end in pair.ends]
            readable: list[socket.socket] = []
            with contextlib.suppress(OSError, ValueError):  # an end that was closed meanwhile
                readable, _, _ = select.select([self._server, *watched], [], [], LOOK_S)
            with self._lock:
                if self._server in readable:
                    self._accept()
                if not self._is_silent:
                    for pair in list(self._pairs):
                        if not self._move(pair, readable):
                            self._end(pair)
                            self._pairs.remove(pair)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            near, _ = self._server.accept()
            self.made += 1
            if self._refuses:
                near.close()
                return
            try:
                far = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                near.close()
                return
            self._pairs.append(_Pair(near, far))

    def _move(self, pair: _Pair, readable: list[socket.socket]) -> bool:
        """Read and write what can be; False where an end has gone."""
        now = time.monotonic()
        for end, other, late in zip(pair.ends, reversed(pair.ends), pair.late, strict=True):
            try:
                if end in readable:
                    piece = end.recv(PIECE)
                    if not piece:
                        return False
                    if not (self._swallows and end is pair.ends[1]):
                        late.append((now + self.delay_s, piece))
                while late and late[0][0] <= now:
                    _, piece = late.popleft()
                    sent = other.send(piece)
                    if sent < len(piece):
                        late.appendleft((now, piece[sent:]))
                        break
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True
