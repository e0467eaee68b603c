"""The receiving and the pushing end of bulk data: files and large values that are too big for the control channel.

The other end is ``bulk.BulkServer``. One TLS 1.3 connection is one transfer; words are lines of ASCII:

    -> ``TRUN1 GET TICKET OFFSET``                 <- ``OK SIZE DIGEST``, bytes from OFFSET on, ``END DIGEST``
    -> ``TRUN1 PUT TICKET 0``    <- ``OK OFFSET DIGEST``    -> bytes from OFFSET on    <- ``END DIGEST``

and ``NO REASON`` in place of any answer. Ticket and fingerprint of the certificate came over the encrypted control
channel: the fingerprint says that the server is the one that was meant, the ticket says that we may. No name in the
certificate and no authority counts. DIGEST is hexadecimal BLAKE2b-256; ``-`` says that nobody asked for one.

Why not through the control channel: everything behind the bytes would wait for them, and nothing there can go on
after a break.
Who may come in: workers, clients, ``fetching``. Rule: what the other side says about sizes is checked before it counts.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from trun.adapters.parts import PIECE, new_digest, receiving
from trun.errors import BadOption, DigestMismatch, NotAuthorised, ProtocolError, ServiceUnavailable, TransferRefused

GREETING = b"TRUN1"
#: Longest line of the protocol, in bytes.
LINE_BYTES = 256
#: In place of a digest: nobody asked for one.
UNCHECKED = "-"
#: Seconds to connect and shake hands, and without a byte in the middle of a transfer.
CONNECT_S, SILENCE_S = 10.0, 60.0
#: Broken connections in a row, without a byte between them, after which it is given up.
TRIES = 4
#: Seconds before the first connection is made again; each further one waits four times as long.
PAUSE_S = 0.2
#: Seconds to wait for a place where the server has too much to do.
BUSY_S = 60.0

REASONS = {
    "ticket": "the ticket is unknown, used up or expired; ask the service for another",
    "busy": "it has too many transfers at the moment; try again later",
    "words": "it did not understand the request; the two sides may run different versions",
    "offset": "less is there than was asked for",
    "changed": "the file was changed while it was sent; fetch it again",
    "missing": "the file is not there any more",
    "digest": "what arrived is not what was announced",
    "full": "its disk is full",
    "failed": "it failed; its log says why",
}

Way = Literal["GET", "PUT"]
Source = Path | Sequence[memoryview | bytes | bytearray]


# -- the doors --------------------------------------------------------------------------------------------------------


def fetch(
    address: str,
    fingerprint: str,
    ticket: str,
    target: Path,
    *,
    size_cap: int,
    digest: str = "",
    key: str = "",
) -> tuple[int, str]:
    """Bring what a ticket stands for into the file ``target``, and return its size and digest.

    What arrived of an earlier attempt with the same digest (or ``key``) is not sent again. Broken connections are made
    again as long as anything arrives between two breaks.

    Parameters
    ----------
    address, fingerprint, ticket
        As the service said: ``tls://host:port``, SHA-256 of its certificate, the ticket.
    target
        Where to; its folder exists. Nothing shows there before all is well.
    size_cap
        More bytes than this are refused before the first is taken.
    digest
        What the content must be; empty: what the service says at the end, if it does.
    key
        What an earlier attempt is recognised by where the digest is not known.

    Raises
    ------
    DigestMismatch, TransferRefused, ServiceUnavailable, ProtocolError
    """
    with receiving(target, digest or key) as part:
        found = _bring((address, fingerprint, ticket), part, size_cap, digest)
        part.finish()
        return part.size, found


def fetch_bytes(
    address: str, fingerprint: str, ticket: str, *, size_cap: int, digest: str = UNCHECKED
) -> bytearray:
    """Return what a ticket stands for; for values that go into memory and are not kept.

    ``digest`` empty: compared with what the service says; ``UNCHECKED``: TLS alone guards the bytes, which is twice
    as fast and enough for what never lay in a file that others may write to. Raises as ``fetch`` does.
    """
    value = _Value(checked=digest != UNCHECKED)
    _bring((address, fingerprint, ticket), value, size_cap, digest)
    return value.content


def push(address: str, fingerprint: str, ticket: str, source: Source) -> None:
    """Send a file, or buffers one after the other, to where the ticket says.

    What arrived there of an earlier attempt is not sent again, where the ticket was given for a digest.

    Raises
    ------
    TransferRefused, ServiceUnavailable, ProtocolError
    """
    breaks, furthest = 0, -1
    until = time.monotonic() + BUSY_S
    while True:
        try:
            with _connected(address, fingerprint) as link:
                offset, _ = _header(link, "PUT", ticket, 0)
                breaks, furthest = (0, offset) if offset > furthest else (breaks, furthest)
                for piece in _pieces(source, offset):
                    link.write(piece)
                link.answer("END")
                return
        except ServiceUnavailable:
            breaks += 1
            if breaks >= TRIES:
                raise
            time.sleep(PAUSE_S * 4 ** (breaks - 1))
        except TransferRefused as error:
            if error.reason != "busy" or time.monotonic() > until:
                raise
            time.sleep(PAUSE_S)


# -- one transfer -----------------------------------------------------------------------------------------------------


class _Sink(Protocol):
    """Where bytes go: a ``Part`` of a file, or a value in memory."""

    size: int

    def begin(self, total: int) -> None:
        """So many bytes will have arrived in the end."""

    def room(self, count: int) -> memoryview:
        """Return where up to ``count`` further bytes may be put."""

    def filled(self, count: int) -> None:
        """So many bytes were put there."""

    def restart(self) -> None:
        """Forget what has arrived."""

    def digest(self) -> str:
        """Return the digest of what has arrived, or an empty text where none is wanted."""

    def drop(self) -> None:
        """Keep nothing for a later attempt."""


class _Value:
    """Bytes that arrive in memory."""

    def __init__(self, *, checked: bool) -> None:
        self.content = bytearray()
        self.size = 0
        self._checked = checked

    def begin(self, total: int) -> None:
        if len(self.content) != total:
            self.content = bytearray(total)

    def room(self, count: int) -> memoryview:
        return memoryview(self.content)[self.size : self.size + count]

    def filled(self, count: int) -> None:
        self.size += count

    def restart(self) -> None:
        self.size = 0

    def digest(self) -> str:
        if not self._checked:
            return ""
        found = new_digest()
        found.update(self.content)
        return found.hexdigest()

    def drop(self) -> None:
        self.content = bytearray()


def _bring(where: tuple[str, str, str], sink: _Sink, size_cap: int, digest: str) -> str:
    """Take all that a sink lacks, over as many connections as it needs, and return the digest of the whole."""
    resumed = sink.size > 0
    breaks = 0
    until = time.monotonic() + BUSY_S
    while True:
        before = sink.size
        try:
            return _get(where, sink, size_cap, digest, resumed)
        except ServiceUnavailable:
            breaks = 1 if sink.size > before else breaks + 1
            if breaks >= TRIES:
                raise
            time.sleep(PAUSE_S * 4 ** (breaks - 1))
        except TransferRefused as error:
            if error.reason == "offset" and resumed:
                resumed = False
                sink.restart()
            elif error.reason != "busy" or time.monotonic() > until:
                raise
            else:
                time.sleep(PAUSE_S)
        except DigestMismatch:
            if not resumed:
                sink.drop()
                raise
            resumed = False  # what was there before was something else
            sink.restart()


def _get(where: tuple[str, str, str], sink: _Sink, size_cap: int, digest: str, resumed: bool) -> str:
    """Take what a sink lacks over one connection, and return the digest of the whole."""
    address, fingerprint, ticket = where
    with _connected(address, fingerprint) as link:
        size, announced = _header(link, "GET", ticket, sink.size)
        _check_size(size, size_cap)
        sink.begin(size)
        while sink.size < size:
            room = sink.room(size - sink.size)
            count = 0
            try:
                while count < len(room):
                    count += link.read_some(room[count:])
            finally:
                sink.filled(count)
        told = link.answer("END")[0]
    _check_told(digest, announced, told)
    found = sink.digest()
    wanted = digest or (told if told != UNCHECKED else announced)
    if not found:
        return found
    if wanted != UNCHECKED:
        _compare(wanted, found, address)
    elif resumed:
        raise DigestMismatch(f"{address} names no digest, so what came at an earlier attempt cannot be checked.")
    return found


def _header(link: _Link, way: Way, ticket: str, offset: int) -> tuple[int, str]:
    if not ticket.isalnum() or len(ticket) > LINE_BYTES // 2:
        raise BadOption(f"{ticket[:80]!r} is no ticket.")
    link.write(b"%s %s %s %d\n" % (GREETING, way.encode(), ticket.encode(), offset))
    first, digest = link.answer("OK")
    if not first.isascii() or not first.isdigit():
        raise ProtocolError(f"{link.address} names {first!r} as a size.")
    return int(first), digest


def _check_size(size: int, cap: int) -> None:
    if size > cap:
        raise TransferRefused(f"it has {size} bytes, and at most {cap} are taken ([fetch] max_size).", reason="size")


def _check_told(wanted: str, announced: str, told: str) -> None:
    for one in (announced, told):
        if wanted not in ("", UNCHECKED) and one not in (wanted, UNCHECKED):
            raise DigestMismatch(f"the service has something else there: {one} in place of {wanted}.")


def _compare(wanted: str, found: str, address: str) -> None:
    if wanted != found:
        raise DigestMismatch(f"what came from {address} has the digest {found} in place of {wanted}.")


def _pieces(source: Source, offset: int) -> Iterator[memoryview]:
    if isinstance(source, Path):
        buffer = memoryview(bytearray(PIECE))
        with source.open("rb", buffering=0) as file:
            file.seek(offset)
            while count := file.readinto(buffer):
                yield buffer[:count]
        return
    for one in source:
        view = memoryview(one).cast("B")
        skipped = min(offset, view.nbytes)
        offset -= skipped
        for start in range(skipped, view.nbytes, PIECE):
            yield view[start : start + PIECE]


def measure_source(source: Source) -> tuple[int, str]:
    """Return size and digest of what is to be pushed, for asking for a ticket with which a later attempt can go on."""
    digest, size = new_digest(), 0
    for piece in _pieces(source, 0):
        digest.update(piece)
        size += piece.nbytes
    return size, digest.hexdigest()


# -- the connection ---------------------------------------------------------------------------------------------------


class _Link:
    """A connection to a server that has shown the right certificate."""

    def __init__(self, address: str, sock: ssl.SSLSocket) -> None:
        self.address = address
        self._sock = sock

    def write(self, piece: bytes | memoryview) -> None:
        try:
            self._sock.sendall(piece)
        except (ConnectionError, ssl.SSLError):
            self._reply()  # it has said no while we were still sending
            raise

    def _reply(self) -> None:
        try:
            self.answer("")
        except (OSError, ProtocolError):
            return

    def read_some(self, view: memoryview) -> int:
        """Read what is there, at least a byte."""
        count = self._sock.recv_into(view)
        if not count:
            raise ConnectionResetError("the other side hung up")
        return count

    def answer(self, expected: str) -> tuple[str, str]:
        """Read a line and return its two words after the expected one; raise what a refusal says."""
        line = bytearray()
        one = memoryview(bytearray(1))
        while not line.endswith(b"\n"):
            if len(line) > LINE_BYTES:
                raise ProtocolError(f"{self.address} does not speak the language of bulk data.")
            self.read_some(one)
            line += one
        words = line.decode("ascii", "replace").split()
        if len(words) == 2 and words[0] == "NO":
            text = REASONS.get(words[1], words[1])
            raise TransferRefused(f"the service at {self.address} refused the transfer: {text}.", reason=words[1])
        if not expected or words[:1] != [expected] or not 2 <= len(words) <= 3:
            raise ProtocolError(f"{self.address} answered {words[:3]!r} where {expected!r} was due.")
        return words[1], words[-1]


@contextmanager
def _connected(address: str, fingerprint: str) -> Iterator[_Link]:
    """Give a connection to the server with this certificate; what breaks in it is ``ServiceUnavailable``."""
    host, port = split_address(address)
    try:
        with closing(socket.create_connection((host, port), CONNECT_S)) as bare:
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with client_context().wrap_socket(bare, suppress_ragged_eofs=True) as sock:
                shown = sock.getpeercert(binary_form=True) or b""
                if not hmac.compare_digest(hashlib.sha256(shown).hexdigest().encode(), fingerprint.lower().encode()):
                    raise NotAuthorised(
                        f"the certificate at {address} is not the one that the service named: somebody may be in "
                        f"between. Expected SHA-256 {fingerprint}, found {hashlib.sha256(shown).hexdigest()}."
                    )
                sock.settimeout(SILENCE_S)
                yield _Link(address, sock)
    except (ConnectionError, TimeoutError, ssl.SSLError, socket.gaierror) as error:
        if isinstance(error, ServiceUnavailable):
            raise
        text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ServiceUnavailable(f"the transfer with {address} broke off: {text}.") from error


def client_context() -> ssl.SSLContext:
    """Return the settings of our end: TLS 1.3 and nothing older; the certificate is compared, not verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``tls://host:port``."""
    host, _, port = address.removeprefix("tls://").rpartition(":")
    if not address.startswith("tls://") or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadOption(f"{address!r} is no address for bulk data, such as tls://host:8790.")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return ``tls://host:port``."""
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"


__all__ = [
    "UNCHECKED",
    "fetch",
    "fetch_bytes",
    "measure_source",
    "push",
    "split_address",
]
