"""Errors of SQLite about a journal become ours, which say what to do.

Who may come in: the journal. Rule: each kind of fault has one text, and names the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import trun.adapters.database as database
from trun.adapters.space import is_out_of_space
from trun.errors import InvariantError, StateDamaged, StateError, StateFull, TrunError


def translate(error: database.Error, path: Path) -> TrunError:
    """Return our error for one of SQLite's about the file ``path``."""
    code = getattr(error, "sqlite_errorcode", database.SQLITE_ERROR)
    kind = code & 0xFF
    facts = {"path": str(path)}
    if kind == database.SQLITE_FULL or (
        kind == database.SQLITE_IOERR and code != database.SQLITE_IOERR_FSYNC and is_out_of_space(path.parent)
    ):
        return StateFull(f"no space is left for the state folder {path.parent}; free some, then go on.", **facts)
    if kind in (database.SQLITE_CORRUPT, database.SQLITE_NOTADB):
        return damaged(path, str(error))
    if kind in (database.SQLITE_READONLY, database.SQLITE_CANTOPEN, database.SQLITE_PERM):
        return StateError(f"the journal {path} cannot be written ({error}); make its folder writable.", **facts)
    if kind == database.SQLITE_CONSTRAINT:
        return InvariantError(f"the journal {path} was given what it has already: {error}")
    return StateError(
        f"the journal {path} cannot be written ({error}); look after the disk, then start the service again.", **facts
    )


def damaged(path: Path, why: str) -> StateDamaged:
    """Return the error for a journal that is not whole."""
    return StateDamaged(
        f"the journal {path} is damaged ({why}). Nothing was changed; "
        f"`trun recover --state {path.parent}` copies what can be read to a new file and lists what cannot.",
        path=str(path),
    )


@contextlib.contextmanager
def our_errors(path: Path) -> Iterator[None]:
    """Let errors of SQLite leave as ours."""
    try:
        yield
    except database.Error as error:
        raise translate(error, path) from error
    except UnicodeDecodeError as error:  # a text of the file, or SQLite's own about one
        raise damaged(path, f"a text of it cannot be read: {error}") from error


__all__ = ["damaged", "our_errors", "translate"]
