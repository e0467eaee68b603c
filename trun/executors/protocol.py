"""What an executor and its launchers say to each other on one machine, and the private socket on which they say it.

One datagram is one frame (AF_UNIX, SOCK_SEQPACKET): a frame is received whole or not at all, and by one reader only.
That is what makes blame exact and taking back cheap: orders wait in the launcher's socket; an order that the launcher
has received is begun, and the executor, which keeps the launcher's end open too, can take back all that are not,
without asking the launcher, even where that one is stuck in native code, stopped or dead. Both sides are of one
version: no fields are kept for compatibility here.

A pipe with a shared-memory marker of the begun order was turned down: it needs the launcher's help to give orders
back. Rule: encoding and framing only; what the frames mean is the business of ``launcher`` and ``crew``.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

import msgspec

from trun.messages import Emitted, Ended, Payload, ResourcesLowered

#: A frame above this size (bytes) goes into a file, because a datagram has to fit into the socket's buffer whole.
INLINE_BYTES = 64 * 1024
#: Before each order: its number, then the length of its ticket, then the ticket (see ``Ticket``).
NUMBER_BYTES = 8
_LENGTH_BYTES = 2
#: In the mark: the number that is begun, the last one that has ended, when it began, then length and ticket as in the
#: frame.
_DONE = slice(8, 16)
_BEGAN = 16
_TICKET = 24
_TAIL_LINES, _TAIL_BYTES = 30, 8192


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Base of what travels between an executor and a launcher."""


# -- to the launcher --------------------------------------------------------------------------------------------------


class Envelope(Frame, frozen=True):
    """One attempt to run."""

    uid: str
    epoch: int
    run: int
    attempt: int
    id: str
    session: str
    #: Digest of the pickled function; its bytes, unless this launcher has had them.
    function: str
    function_data: bytes | None
    context: str
    context_data: bytes | None
    arguments: Payload
    inputs: dict[str, Payload] = {}
    resources: dict[str, float] = {}
    #: Bytes that the attempt may use.
    memory: int | None = None
    #: Forget all functions and contexts first.
    forget: bool = False
    #: What stands first in the module path.
    paths: tuple[str, ...] = ()
    #: What is to be installed into the last of these folders first, if it is not there.
    wanted: tuple[str, ...] = ()
    #: Where a job that installs puts what it unpacks.
    target: str = ""
    #: Folder with the packages of its user.
    home: str = ""


class Ticket(Frame, frozen=True):
    """What is written down of an attempt in the memory that a worker shares with those who watch it, so that it is
    known also when whoever gave the order has gone.
    """

    #: ``file_stem`` of its uid: short, whatever a client calls its jobs.
    stem: str
    epoch: int
    #: Seconds that it may run.
    timeout: float | None = None


class Tell(Frame, frozen=True):
    """A text for the inbox of the running attempt."""

    uid: str
    epoch: int
    token: str
    text: str


class Interrupt(Frame, frozen=True):
    """Raise ``Refused(text)`` inside the running attempt (comes with SIGTERM)."""

    uid: str
    epoch: int
    text: str


# -- from the launcher ------------------------------------------------------------------------------------------------


class Ready(Frame, frozen=True):
    """The launcher takes orders."""

    pid: int
    #: Resident bytes of the fresh process.
    rss: int = 0


class Leaving(Frame, frozen=True):
    """The launcher ends after the report that follows: the attempt left processes behind, or was interrupted."""

    reason: str = ""


class Spilled(Frame, frozen=True):
    """The frame is in this file, which the receiver removes."""

    path: str


#: What a launcher sends.
Report = Ended | Emitted | ResourcesLowered | Ready | Leaving

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Envelope | Spilled)
_texts = msgspec.msgpack.Decoder(Tell | Interrupt | Spilled)
_reports = msgspec.msgpack.Decoder(Report | Spilled)
_tickets = msgspec.msgpack.Decoder(Ticket)
_moment = struct.Struct("<d")

encode = _encoder.encode


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a private connection, the executor's (never blocking) first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def spill(data: bytes, folder: Path) -> tuple[bytes, str]:
    """Write a frame that is too big for a datagram into a file; return the frame that names it, and its path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{os.urandom(12).hex()}.frame"
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)
    return encode(Spilled(path=str(path))), str(path)


class Reader:
    """Receives frames into one buffer that is used again and again; spilled ones from ``folder`` alone."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any], folder: Path, *, mark: mmap.mmap | None = None) -> None:
        self._folder = folder
        self._mark = mark
        self._buffer = bytearray(2 * INLINE_BYTES)
        self._view = memoryview(self._buffer)
        self._decoder = decoder

    def receive(self, connection: socket.socket, flags: int = 0) -> Any:
        """Return the next frame; None at the end of the connection. Raises ``BlockingIOError`` where there is none
        yet.
        """
        size = connection.recv_into(self._buffer, 0, flags)
        if not size:
            return None
        frame = self._decoder.decode(self._view[self._skip() : size])
        if type(frame) is Spilled:
            path = self._folder / Path(frame.path).name
            data = path.read_bytes()
            path.unlink(missing_ok=True)
            return self._decoder.decode(data)
        return frame

    def _skip(self) -> int:
        return 0


class OrderReader(Reader):
    """Receives orders; notes the number of each (and its ticket) in the mark before anything else is done with it."""

    def _skip(self) -> int:
        buffer, mark = self._buffer, self._mark
        length = buffer[NUMBER_BYTES] | buffer[NUMBER_BYTES + 1] << 8
        end = NUMBER_BYTES + _LENGTH_BYTES + length
        if mark is not None:
            if length:
                mark[_TICKET : _TICKET + _LENGTH_BYTES + length] = buffer[NUMBER_BYTES:end]
                _moment.pack_into(mark, _BEGAN, time.monotonic())
            mark[:NUMBER_BYTES] = buffer[:NUMBER_BYTES]
        return end


def read_report(data: bytes | memoryview, folder: Path) -> tuple[Report, Path | None]:
    """Return a report, and the file in which it was, where it was spilled; the file stays."""
    frame = _reports.decode(data)
    if type(frame) is not Spilled:
        return frame, None
    path = folder / Path(frame.path).name
    return _reports.decode(path.read_bytes()), path


def number_frame(number: int, data: bytes, ticket: bytes = b"") -> bytes:
    """Return the frame of an order under its number, so that it is known when it is taken back."""
    return b"".join(
        (number.to_bytes(NUMBER_BYTES, "little"), len(ticket).to_bytes(_LENGTH_BYTES, "little"), ticket, data)
    )


def frame_number(data: bytes) -> int:
    """Return the number of an order's frame (or of its beginning)."""
    return int.from_bytes(data[:NUMBER_BYTES], "little")


# -- the mark ---------------------------------------------------------------------------------------------------------


def note_done(mark: mmap.mmap) -> None:
    """Note that the order which was begun last has ended, and its report is sent."""
    mark[_DONE] = mark[:NUMBER_BYTES]


def begun_and_done(mark: mmap.mmap) -> tuple[int, int]:
    """Return the numbers of the order that was begun last and of the one that ended last."""
    return int.from_bytes(mark[:NUMBER_BYTES], "little"), int.from_bytes(mark[_DONE], "little")


def begun_at(mark: mmap.mmap) -> float:
    """Return the monotonic time at which the order that was begun last was received."""
    return float(_moment.unpack_from(mark, _BEGAN)[0])


def ticket_in(data: bytes | mmap.mmap, start: int = NUMBER_BYTES) -> Ticket | None:
    """Return the ticket in the beginning of a frame; None where it has none."""
    length = int.from_bytes(data[start : start + _LENGTH_BYTES], "little")
    first = start + _LENGTH_BYTES
    return _tickets.decode(data[first : first + length]) if length else None


def marked_ticket(mark: mmap.mmap) -> Ticket | None:
    """Return the ticket of the order that was begun last."""
    return ticket_in(mark, _TICKET)


def order_reader(folder: Path, mark: mmap.mmap | None = None) -> Reader:
    """Return the reader of orders."""
    return OrderReader(_orders, folder, mark=mark)


def make_mark() -> tuple[int, mmap.mmap]:
    """Return a descriptor to hand to a launcher, and the memory behind it in which the launcher notes what it
    begins.
    """
    fd = os.memfd_create("trun-mark", os.MFD_CLOEXEC)
    os.ftruncate(fd, mmap.PAGESIZE)
    return fd, mmap.mmap(fd, mmap.PAGESIZE)


def text_reader(folder: Path) -> Reader:
    """Return the reader of texts for a running attempt."""
    return Reader(_texts, folder)


def report_reader(folder: Path) -> Reader:
    """Return the reader of what comes from a launcher."""
    return Reader(_reports, folder)


# -- names of files ---------------------------------------------------------------------------------------------------

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,100}")


def file_stem(uid: str) -> str:
    """Return a uid as part of a file name: itself where it is harmless, else its digest (uids come from clients)."""
    return uid if _SAFE.fullmatch(uid) else hashlib.blake2b(uid.encode(), digest_size=16).hexdigest()


def log_name(uid: str, run: int, attempt: int) -> str:
    """Return the name of the file with what an attempt printed."""
    return f"{file_stem(uid)}.{run}.{attempt}.log"


def current_log_name(worker: str) -> str:
    """Return the name of the file with what a worker's running attempt prints."""
    return f"worker-{worker}.current"


def tail_of(path: str | os.PathLike[str]) -> str:
    """Return the last lines of a file, or nothing."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
