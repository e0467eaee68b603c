"""What lies in a write-ahead log behind the point at which SQLite stopped reading it, and how to read it all the same.

SQLite reads a log up to the first frame whose checksum does not fit and takes the rest for what a power cut left of an
unfinished commit. Each commit here is synchronised before the next one begins, so an unfinished one can only be the
last: where two or more commits lie behind that point, a frame was damaged later, and acknowledged work is behind it.
``lost_commits`` counts them; ``apply_all`` puts every page of the log into a copy of the file, for ``trun recover``.

Knows the documented format of the log and of its index, and nothing of what the pages mean; it does not know
``sqlite3``. Who may come in: the journal, before it trusts a log, and its salvage. Rule: looking changes nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEADER, FRAME_HEADER = 32, 24
MAGIC = (0x377F0682, 0x377F0683)
#: Commits behind the readable part that prove damage: one may have been cut off by a loss of power.
PROOF = 2
#: Where the index of the log (in native order) keeps the number of readable frames.
FRAMES_AT = 16


class Frame(NamedTuple):
    """The header of one page in the log."""

    #: Place of the page's bytes in the log.
    at: int
    page: int
    #: Pages of the file after the commit that this frame ends; 0: it ends none.
    size: int


def log_of(path: Path) -> Path:
    """Return the log of a file."""
    return Path(f"{path}-wal")


def index_of(path: Path) -> Path:
    """Return the index of the log of a file, which can be made again from the log."""
    return Path(f"{path}-shm")


def lost_commits(path: Path) -> int:
    """Return how many commits lie behind the readable part of the log; only ``PROOF`` or more mean anything.

    To be asked while a connection is open that has read something, so that the index of the log is up to date, and
    while nobody writes.
    """
    try:
        with open(index_of(path), "rb") as index:
            index.seek(FRAMES_AT)
            (readable,) = struct.unpack("=I", index.read(4))
    except (OSError, struct.error):
        return 0
    with _opened(log_of(path)) as log:
        if log is None:
            return 0
        return sum(1 for frame in _frames(log, readable) if frame.size)


def apply_all(path: Path) -> int:
    """Write all commits of the log into the file, whatever their checksums, and remove the log; returns how many.

    Only for a copy: a page that was damaged is damaged in the file then, and whoever reads it must look.
    """
    with _opened(log_of(path)) as log:
        frames = [] if log is None else list(_frames(log, 0))
        last = max((number for number, frame in enumerate(frames, 1) if frame.size), default=0)
        if log is not None and last:
            size = _page_size(log)
            with open(path, "r+b") as file:
                for frame in frames[:last]:
                    file.seek((frame.page - 1) * size)
                    file.write(log[frame.at : frame.at + size])
                file.truncate(frames[last - 1].size * size)
    for old in (log_of(path), index_of(path)):
        old.unlink(missing_ok=True)
    return sum(1 for frame in frames[:last] if frame.size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[mmap.mmap | None]:
    """Open a log; None where there is none, or it holds no page."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            if os.fstat(file.fileno()).st_size <= HEADER + FRAME_HEADER:
                raise ValueError
            log = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):
            yield None
            return
        yield log


def _page_size(log: mmap.mmap) -> int:
    (size,) = struct.unpack_from(">I", log, 8)
    return int(size) if 512 <= size <= 65536 and not size & (size - 1) else 4096


def _frames(log: mmap.mmap, since: int) -> Iterator[Frame]:
    """Yield the frames of the present use of the log, from number ``since`` on (from 0)."""
    size = _page_size(log)
    step = size + FRAME_HEADER
    count = (len(log) - HEADER) // step
    if since >= count:
        return
    salts = _salts(log, count, step)
    most = count + 2**20  # a page number beyond this is no page number
    for number in range(since, count):
        at = HEADER + number * step
        page, commit, *found = struct.unpack_from(">4I", log, at)
        if tuple(found) == salts and 0 < page < most and commit < 2**31:
            yield Frame(at + FRAME_HEADER, page, commit)


def _salts(log: mmap.mmap, count: int, step: int) -> tuple[int, int]:
    """Return the two numbers that mark the frames of the present use: those of the header, if it is whole."""
    magic, *_ = struct.unpack_from(">I", log, 0)
    first, second = struct.unpack_from(">2I", log, 16)
    if magic in MAGIC and _checksum(log[:24], magic & 1) == struct.unpack_from(">2I", log, 24):
        return first, second
    # The first frames are always of the present use.
    near = Counter(struct.unpack_from(">2I", log, HEADER + number * step + 8) for number in range(min(count, 3)))
    one, two = near.most_common(1)[0][0]
    return one, two


def _checksum(data: bytes, big: int) -> tuple[int, int]:
    """Return the checksum of a whole number of eight bytes."""
    one = two = 0
    numbers = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    for left, right in zip(numbers[::2], numbers[1::2], strict=True):
        one = (one + left + two) & 0xFFFFFFFF
        two = (two + right + one) & 0xFFFFFFFF
    return one, two
