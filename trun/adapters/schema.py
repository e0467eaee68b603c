"""The tables of the journal, how its file is set up, and how rows are written.

Who may come in: the journal and its salvage. Rule: a change is a new VERSION and a step in MIGRATIONS (``sqlite``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from trun.adapters.seals import JOB, LIFE, seal, seal_of
from trun.core.record import FINAL_STATES

#: The log is moved into the file after so many pages of 4 KiB; sizes are in KiB (negative) and in bytes.
PRAGMAS = (
    *("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"),
    *("cache_size=-16000", "journal_size_limit=67108864"),
)

# Bytes end with a seal (see ``seals``). ``entries.job`` is the number of a job, or the negative number of a stream that
# is no job (``streams``).
SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs(number INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, spec BLOB NOT NULL);
CREATE TABLE lives(number INTEGER PRIMARY KEY, live INTEGER NOT NULL, life BLOB NOT NULL);
CREATE INDEX live_jobs ON lives(number) WHERE live;
CREATE TABLE streams(number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, seal INTEGER NOT NULL);
CREATE TABLE entries(
    job INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, time REAL NOT NULL, event BLOB NOT NULL,
    PRIMARY KEY (job, seq)
) WITHOUT ROWID;
CREATE TABLE groups(uid TEXT PRIMARY KEY, spec BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE definitions(digest TEXT PRIMARY KEY, data BLOB NOT NULL);
"""

#: The first format whose rows are sealed.
SEALED = 2

#: Rows per INSERT, tried in this order: a row of a statement for many costs half of a statement for one.
ROWS = (50, 10, 3, 1)


def seal_of_schema(connection: Any) -> str:
    """Return the seal of what the file says of its own tables; a flipped bit there can make a column another one."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    return str(seal_of("schema", *rows))


def seal_rows(connection: Any) -> None:
    """Bring format 1 to format 2: seal each row."""
    connection.execute("ALTER TABLE streams ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")

    def change(select: str, update: str, made: Callable[..., tuple[Any, ...]]) -> None:
        connection.executemany(update, [made(*row) for row in connection.execute(select).fetchall()])

    for table, key, column, kind in (
        ("jobs", "number", "spec", JOB),
        ("lives", "number", "life", LIFE),
        ("groups", "uid", "spec", "group"),
        ("definitions", "digest", "data", "definition"),
    ):
        change(
            f"SELECT {key}, {column} FROM {table}",
            f"UPDATE {table} SET {column} = ? WHERE {key} = ?",
            lambda one, data, kind=kind: (seal(data, kind, one), one),
        )
    change(
        "SELECT number, name FROM streams",
        "UPDATE streams SET seal = ? WHERE number = ?",
        lambda number, name: (seal_of("stream", number, name), number),
    )
    change(
        "SELECT job, seq, epoch, time, event FROM entries",
        "UPDATE entries SET event = ? WHERE job = ? AND seq = ?",
        lambda job, seq, epoch, when, event: (seal(event, job, seq, epoch, when), job, seq),
    )


def insert_rows(connection: Any, head: str, width: int, values: list[Any]) -> None:
    """Insert rows of ``width`` values each, given flat, by statements of many rows."""
    start, left = 0, len(values) // width
    for count in ROWS:
        if left >= count:
            statement = _statement(head, width, count)
            portion = count * width
            for _ in range(left // count):
                connection.execute(statement, values[start : start + portion])
                start += portion
            left %= count


@functools.cache
def _statement(head: str, width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{head} {', '.join([row] * count)}"


_FINAL = frozenset(state.value for state in FINAL_STATES)


class _Head(msgspec.Struct, array_like=True):
    """The first fields of ``core.record.Life``: enough to know whether the job is over, at a third of the cost."""

    number: int
    state: str = "new"


_head = msgspec.msgpack.Decoder(_Head).decode


def is_live(life: bytes) -> bool:
    """Whether an encoded life is that of a job that is not over."""
    return _head(life).state not in _FINAL
