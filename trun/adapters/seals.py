"""Seals: four bytes behind each row of the journal, by which a flipped bit is noticed when the row is read.

SQLite checks how its pages hang together, and what its log holds, but not what stands in a row of the file: one bit of
a worn disk would change a result, or the state of a job, in silence. A seal is the CRC-32 of the row and of its place,
so that a row in the wrong place is noticed too. It is no defence against people: who can write the file can seal it.

Who may come in: the journal and its salvage. Rule: the form of a seal is part of the file's format.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

_SIZE = 4
#: The place of an entry is (job, seq, epoch, time), that of the two rows of a job (JOB or LIFE, number); all others are
#: texts and begin with the kind of the row.
JOB, LIFE = 0, 1
#: What the CRC-32 of anything with its own CRC-32 behind it comes to.
_WHOLE = zlib.crc32(b"x" + zlib.crc32(b"x").to_bytes(_SIZE, "little"))
_entry_place = struct.Struct("<qqqd").pack


class BrokenSeal(ValueError):
    """A row is not what was written."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not what was written")


def seal(data: bytes, *place: object) -> bytes:
    """Return the bytes to write for ``data`` at a place."""
    return data + zlib.crc32(data, _start(place)).to_bytes(_SIZE, "little")


def unseal(data: bytes, *place: object) -> bytes:
    """Return what was sealed; raise ``BrokenSeal`` where it is not what was written there."""
    try:
        whole = zlib.crc32(data, _start(place)) == _WHOLE
    except (struct.error, TypeError):  # a number that is none any more
        whole = False
    if not whole:
        raise BrokenSeal(" ".join(map(str, place)))
    return data[:-_SIZE]


def seal_of(*words: object) -> int:
    """Return the seal of a row without bytes of its own."""
    return _start(words)


def seal_of_facts(facts: Mapping[str, str]) -> str:
    """Return the seal of the table of facts."""
    return str(_start(("facts", *(item for item in sorted(facts.items()) if item[0] != "seal"))))


def _start(place: tuple[object, ...]) -> int:
    if len(place) == 4:
        return zlib.crc32(_entry_place(*place))
    if type(place[0]) is int:
        return (place[1] << 1 | place[0]) & 0xFFFFFFFF  # type: ignore[operator]
    return zlib.crc32("\0".join(map(str, place)).encode())


__all__ = ["JOB", "LIFE", "BrokenSeal", "seal", "seal_of", "seal_of_facts", "unseal"]
