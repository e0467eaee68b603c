"""What a capability token may speak of: a fixed vocabulary of operations and resources, and what covers what.

An operation is one of ``OPERATIONS``. A resource is a short line of text: ``job:UID`` (with its stream and its files),
``stream:NAME``, ``file:JOB/NAME``, ``export:PATH`` (a file, or a folder with all below it), or ``*``: all that the user
may read. Names are percent-encoded as in URLs, in one way only, so that equal resources are equal texts.

Pure: no keys, no signatures (``trun.adapters.tokens``), no roles (``trun.core.rights``). Everybody may come in.
Rule: there are no wildcards inside a name, no rules, and nothing to evaluate: whoever adds a word says here what it
covers, and ``covers`` stays a comparison of two texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from urllib.parse import quote, unquote

from trun.errors import BadOption, nearest

#: Everything that a token may allow, in their fixed order; ``cancel-loser``: stop a job that lost a race, no other.
OPERATIONS = ("read", "fetch", "cancel-loser", "submit")
#: All that the user may read.
ALL = "*"
#: Characters of one resource, and resources of one link, at most.
RESOURCE_CHARS = 1000
RESOURCES = 32

_KINDS = ("job", "stream", "file", "export")
_SAFE = "-._~"
_BYTES = "surrogateescape"  # names of files that are no text
_UID = re.compile(r"[A-Za-z0-9._~-]{1,100}", re.ASCII)


def for_job(uid: str) -> str:
    """Return the resource of a job: its outcome, its stream, and its files."""
    return _checked(f"job:{uid}")


def for_stream(name: str) -> str:
    """Return the resource of a stream."""
    return _checked(f"stream:{_quoted(name)}")


def for_file(job: str, name: str) -> str:
    """Return the resource of a file that a job publishes."""
    return _checked(f"file:{job}/{_quoted(name, _SAFE + '/')}")


def for_export(path: str) -> str:
    """Return the resource of a file or folder below the export folder of a service."""
    return _checked(f"export:{_quoted(path, _SAFE + '/')}")


def _checked(resource: str) -> str:
    if not is_resource(resource):
        raise BadOption(f"{resource!r} cannot be named in a token: an id, or a relative path without '..', is needed.")
    return resource


def is_resource(text: str) -> bool:
    """Whether a text is a resource, written in the one valid way."""
    if text == ALL:
        return True
    kind, colon, name = text.partition(":")
    if not colon or kind not in _KINDS or not name or len(text) > RESOURCE_CHARS or not text.isascii():
        return False
    if kind == "job":
        return _is_uid(name)
    if kind == "stream":
        return _is_piece(name)
    pieces = name.split("/")
    if kind == "file":
        job, *pieces = pieces
        if not _is_uid(job):
            return False
    return bool(pieces) and all(_is_piece(piece) for piece in pieces)


def _is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None and text not in (".", "..")


def _is_piece(text: str) -> bool:
    """Whether this is one piece of a path, percent-encoded in the one valid way."""
    if text in ("", ".", ".."):
        return False
    plain = unquote(text, errors=_BYTES)
    return _quoted(plain) == text and "/" not in plain and "\0" not in plain


def _quoted(text: str, safe: str = _SAFE) -> str:
    try:
        return quote(text, safe=safe, errors=_BYTES)
    except UnicodeEncodeError:
        return ""


def covers(granted: str, wanted: str) -> bool:
    """Whether who may use the resource ``granted`` may use ``wanted``.

    Examples
    --------
    >>> covers("job:4f", "file:4f/fit.dat"), covers("export:run7", "export:run7/raw/a.h5")
    (True, True)
    >>> covers("job:4f", "job:4f0"), covers("export:run7", "export:run71")
    (False, False)
    """
    if granted in (ALL, wanted):
        return True
    kind, _, name = granted.partition(":")
    if kind == "job":
        return wanted == f"stream:{name}" or wanted.startswith(f"file:{name}/")
    return kind == "export" and wanted.startswith(f"{granted}/")


def allows(granted: Iterable[str], wanted: str) -> bool:
    """Whether one of several resources covers ``wanted``."""
    return any(covers(one, wanted) for one in granted)


def narrows(granted: Collection[str], wanted: Iterable[str]) -> bool:
    """Whether every resource of ``wanted`` is covered by one of ``granted``."""
    return all(one in granted or allows(granted, one) for one in wanted)


def operations(names: Iterable[str]) -> tuple[str, ...]:
    """Return operations in their fixed order, each once.

    Raises
    ------
    BadOption
        One is not in the vocabulary, or there is none.
    """
    wanted = set(_texts(names))
    for name in sorted(wanted - set(OPERATIONS)):
        known = ", ".join(OPERATIONS)
        raise BadOption(f"{name!r} is no operation of a token; there are {known}.{nearest(name, OPERATIONS)}")
    if not wanted:
        raise BadOption(f"a token needs at least one operation: {', '.join(OPERATIONS)}.")
    return tuple(name for name in OPERATIONS if name in wanted)


def resources(names: Iterable[str]) -> tuple[str, ...]:
    """Return resources in order, each once.

    Raises
    ------
    BadOption
        One is not written in the valid way, there is none, or there are more than ``RESOURCES``.
    """
    wanted = sorted(set(_texts(names)))
    for name in wanted:
        if not is_resource(name):
            raise BadOption(f"{name!r} is no resource: job:UID, stream:NAME, file:JOB/NAME, export:PATH or *.")
    if not 1 <= len(wanted) <= RESOURCES:
        raise BadOption(f"a token speaks of 1 to {RESOURCES} resources, not {len(wanted)}.")
    return tuple(wanted)


def _texts(names: Iterable[str]) -> list[str]:
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        if not isinstance(name, str):
            raise BadOption(f"what a token speaks of is written as text, not as {type(name).__name__}.")
    return found
