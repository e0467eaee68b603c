"""Addresses of files: what ``trun://``, ``file://``, ``http(s)://`` and other schemes name, taken apart and checked.

    trun://SERVICE/jobs/UID/files/NAME    a file that a job of a service has published
    trun://SERVICE/export/PATH            a file below the folder that the operator of a service exports

SERVICE is the key of a service in a form that can stand in an address. ``#sha256=HEX`` or ``#blake2b=HEX`` at the end
of an address of another scheme says what the content must be.

Pure: nothing is opened here. Who may come in: the door above, the payloads, the node. Rule: an address is decoded
exactly once, here; what is still encoded afterwards is a part of the name.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from trun.errors import BadOption

#: Longest name that a fetched file gets, in bytes; file systems take 255.
NAME_BYTES = 150

_DIGEST = re.compile(r"(sha256|blake2b)=([0-9a-fA-F]{64})")
_SERVICE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LONGEST_NAME, _LONGEST_PATH = 255, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a ``trun://`` address points to."""

    #: Key of the service, as it stands in the address.
    service: str
    #: Uid of the job; empty for what the operator exports.
    uid: str
    #: Parts of the path below the folder of the job or of the operator.
    parts: tuple[str, ...]

    @property
    def relative(self) -> str:
        """The parts, joined."""
        return "/".join(self.parts)


def check_url(url: str) -> str:
    """Return the scheme of an address; raise ``BadOption`` where it is none that could ever be fetched."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise BadOption(f"{url!r} is no address: {error}.") from error
    if not parts.scheme:
        raise BadOption(f"{url!r} is no address; for a file of this machine write {Path(url).absolute().as_uri()!r}.")
    if parts.scheme == "trun":
        place(url)
    elif parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise BadOption(f"{url!r} names the machine {parts.netloc!r}; file:// reaches this machine only.")
    elif parts.scheme in ("http", "https") and not parts.hostname:
        raise BadOption(f"{url!r} names no machine.")
    return parts.scheme


def place(url: str) -> Place:
    """Take a ``trun://`` address apart; raise ``BadOption`` where it leaves the folders that can be fetched from."""
    parts = urllib.parse.urlsplit(url)
    pieces = tuple(urllib.parse.unquote(piece, errors="surrogateescape") for piece in parts.path.split("/")[1:])
    if parts.scheme == "trun" and parts.netloc and not parts.query and not parts.fragment:
        if len(pieces) == 4 and (pieces[0], pieces[2]) == ("jobs", "files") and pieces[1]:
            check_parts(pieces[1:2] + pieces[3:], url)
            return Place(service=parts.netloc, uid=pieces[1], parts=pieces[3:])
        if len(pieces) > 1 and pieces[0] == "export":
            check_parts(pieces[1:], url)
            return Place(service=parts.netloc, uid="", parts=pieces[1:])
    if parts.scheme == "trun" and parts.fragment:
        raise BadOption(f"{url!r}: leave out #{parts.fragment}; files of services always come with a digest.")
    raise BadOption(
        f"{url!r} is no address of a file of a service: trun://SERVICE/jobs/ID/files/NAME or trun://SERVICE/export/PATH."
    )


def check_parts(parts: tuple[str, ...], shown: str) -> None:
    """Refuse names that lead elsewhere, or that no file has."""
    for part in parts:
        if part in ("", ".", "..") or "/" in part or any(ord(char) < 32 or ord(char) == 127 for char in part):
            raise BadOption(f"{shown!r} is no address of a file: {part!r} in it leaves the folder, or is no name.")
        if len(os.fsencode(part)) > _LONGEST_NAME:
            raise BadOption(f"{shown[:80]!r}... is no address of a file: names have at most {_LONGEST_NAME} bytes.")
    if sum(len(os.fsencode(part)) + 1 for part in parts) > _LONGEST_PATH:
        raise BadOption(f"{shown[:80]!r}... is no address of a file: paths have at most {_LONGEST_PATH} bytes.")


def published_url(service: str, uid: str, name: str) -> str:
    """Return the address of a file that a job has published."""
    return f"trun://{service}/jobs/{uid}/files/{urllib.parse.quote(name, safe='', errors='surrogateescape')}"


def with_service(url: str, service: str) -> str:
    """Return a ``trun://`` address with another name for its service."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(netloc=service))


def is_service(text: str) -> bool:
    """Whether a text can stand for a service in an address."""
    return _SERVICE.fullmatch(text) is not None


def expected_digest(url: str) -> tuple[str, str] | None:
    """Return kind and hexadecimal digest that an address of another scheme asks for, or None."""
    found = _DIGEST.fullmatch(urllib.parse.urlsplit(url).fragment)
    return (found[1], found[2].lower()) if found else None


def safe_name(url: str) -> str:
    """Return the last part of an address as a name that is harmless in any folder."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
    kept = "".join(char if char.isalnum() or char in "._-" else "_" for char in name).lstrip(".")
    stem, dot, suffix = kept.rpartition(".")
    while len(os.fsencode(kept)) > NAME_BYTES:
        stem, suffix = (stem[:-1], suffix) if stem else (stem, suffix[:-1])
        kept = stem + dot + suffix if stem else suffix
    return kept or "file"
