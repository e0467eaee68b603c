"""Does whoever answers at an address hold the key that we expect? Asked where connections fail before they begin.

ZeroMQ says of a handshake that failed no more than that it did: a service with another key looks like a network that
takes connections and cuts them at once. One must stop everything, the other must fail nothing. So we say the first
words of a connection ourselves (ZMTP 3.1, RFC 23 and 26): a greeting, and a HELLO that only the holder of the key can
open. Who sends a whole greeting and hangs up at our HELLO could not open it.

Knows one exchange of CURVE and no more; nothing secret is sent. Rule: every wait is bounded, and a doubt is no verdict.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Literal

from trun.adapters.keys import HELLO_NUMBER, sealed_hello

Verdict = Literal["fits", "other", "silent"]

#: Seconds for the whole exchange.
PROBE_S = 5.0
GREETING_BYTES = 64
_SIGNATURE_END = 9
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


def probe(address: str, key: str, *, timeout: float = PROBE_S) -> Verdict:
    """Return whether who answers at ``tcp://host:port`` holds ``key`` (Z85), holds another, or does not say."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    deadline = time.monotonic() + timeout
    try:
        link = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
    except OSError:
        return "silent"
    with link, contextlib.suppress(OSError):
        link.sendall(_GREETING)
        heard = _read(link, GREETING_BYTES, deadline)
        if len(heard) < GREETING_BYTES:
            return "silent"
        if heard[0] != 0xFF or heard[_SIGNATURE_END] != 0x7F or heard[12:32].rstrip(b"\0") != b"CURVE":
            return "other"
        try:
            link.sendall(_hello(key))
            answer = _read(link, 10, deadline)
        except TimeoutError:
            return "silent"
        except OSError:  # it was reset: as good as a farewell
            return "other"
        return "fits" if answer[2:] == b"\x07WELCOME" else "other"
    return "silent"


def _read(link: socket.socket, count: int, deadline: float) -> bytes:
    """Read so many bytes, fewer where the other side hangs up."""
    found = b""
    while len(found) < count:
        link.settimeout(max(0.001, deadline - time.monotonic()))
        piece = link.recv(count - len(found))
        if not piece:
            break
        found += piece
    return found


def _hello(server: str) -> bytes:
    """Return the command with which a client of CURVE begins, under a key of the moment."""
    public, box = sealed_hello(server)
    body = b"\x05HELLO\x01\x00" + bytes(72) + public + HELLO_NUMBER + box
    return bytes((4, len(body))) + body


__all__ = ["PROBE_S", "Verdict", "probe"]
