"""The journal of a service in one SQLite file: a write-ahead log, synchronised at each commit, one writing process.

When ``commit`` returns, the batch survives kill -9 and power loss. The file is made under another name and renamed
when it is whole, carries its format in ``user_version``, is checked at each opening, and belongs to the process
that holds the folder's lock. It does not know what the bytes mean that it
keeps (see ``core.codec``), except whether a job is over. ``SYNCHRONOUS=NORMAL`` was turned down: it lost
acknowledged commits at 49 of 50 power cuts and is no faster for batches; a log format of our own was turned down
because batching gives back what SQLite costs.

Who may come in: whoever composes a node (``SqliteJournal``), and reading verbs without a node (``read_only``).
Rule: the schema changes by a new VERSION and a step in MIGRATIONS, never in place; damage is reported, never dropped.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import trun.adapters.database as database
from trun.adapters.database import FILE
from trun.adapters.faults import damaged, our_errors, translate
from trun.adapters.folders import FolderLock, holder
from trun.adapters.logtail import PROOF, log_of, lost_commits
from trun.adapters.schema import PRAGMAS, SCHEMA, SEALED, insert_rows, is_live, seal_of_schema, seal_rows
from trun.adapters.seals import JOB, LIFE, BrokenSeal, seal, seal_of, seal_of_facts, unseal
from trun.adapters.space import Ballast, LogRoom, make_state_folder, sync
from trun.core.codec import decode_event, decode_spec, encode
from trun.errors import StateError, StateFull, StateVersion
from trun.messages import Entry
from trun.ports import Batch, StoredJob

_log = logging.getLogger(__name__)

#: Format of the file (``user_version``); ``application_id`` says that it is ours.
VERSION = 2
APPLICATION_ID = 0x7472756E
#: Steps from each format to the next, run in one transaction after a backup.
MIGRATIONS: dict[int, Callable[[database.Connection], None]] = {1: seal_rows}


# -- reading ----------------------------------------------------------------------------------------------------------


class ReadOnlyJournal:
    """Reads the journal of a folder, also while another process holds it. Made by ``read_only``."""

    def __init__(self, connection: database.Connection, path: Path, version: int = VERSION) -> None:
        self.path = path
        self._connection = connection
        self._unseal = unseal if version >= SEALED else _as_it_is

    @contextlib.contextmanager
    def _reading(self) -> Iterator[database.Connection]:
        try:
            with our_errors(self.path):
                yield self._connection
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise damaged(self.path, f"a row cannot be decoded: {error}") from error

    def _rows(self, query: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reading() as connection:
            return connection.execute(query, arguments).fetchall()

    def meta(self) -> dict[str, str]:
        """Return ``service_key``, ``epoch``, ``version`` (format of the file) and ``created``."""
        with self._reading():
            facts = dict(self._rows("SELECT name, value FROM meta"))
            if facts.pop("seal", "") != seal_of_facts(facts) and self._unseal is unseal:
                raise BrokenSeal("the table of facts")
            if facts.get("schema", "") not in ("", seal_of_schema(self._connection)):
                raise BrokenSeal("the description of its tables")
        return facts

    def jobs(self, *, live_only: bool = False) -> Iterator[StoredJob]:
        """Yield the jobs in order of number; ``live_only`` leaves out those that are over, at no cost for them."""
        # By portions, so that no read transaction stays open and keeps the log from being moved into the file.
        query = (
            "SELECT l.number, j.uid, j.spec, l.life FROM lives AS l JOIN jobs AS j ON j.number = l.number "
            f"WHERE l.number > ? {'AND l.live' if live_only else ''} ORDER BY l.number LIMIT 1000"
        )
        last = -1
        while rows := self._rows(query, (last,)):
            last = rows[-1][0]
            with self._reading():
                portion = [self._stored(*row) for row in rows]
            yield from portion

    def _stored(self, number: int, uid: str, spec_data: bytes, life: bytes) -> StoredJob:
        spec = decode_spec(self._unseal(spec_data, JOB, number))
        if spec.uid != uid:
            raise BrokenSeal(f"the uid of job {number}")
        return StoredJob(number, spec, self._unseal(life, LIFE, number))

    def groups(self) -> list[tuple[str, bytes]]:
        """Return (uid, encoded group) of each group."""
        with self._reading():
            return [(uid, self._unseal(spec, "group", uid)) for uid, spec in self._rows("SELECT uid, spec FROM groups")]

    def definition(self, digest: str) -> bytes | None:
        """Return the bytes that were defined under ``digest``."""
        rows = self._rows("SELECT data FROM definitions WHERE digest = ?", (digest,))
        with self._reading():
            return self._unseal(rows[0][0], "definition", digest) if rows else None

    def _number(self, stream: str) -> int | None:
        """Return the number under which the entries of ``stream`` are filed."""
        for query in ("SELECT number FROM jobs WHERE uid = ?", "SELECT number FROM streams WHERE name = ?"):
            for (number,) in self._rows(query, (stream,)):
                found: int = number
                return found
        return None

    def entries(self, stream: str, since: int = 1, limit: int = 1000) -> list[Entry]:
        """Return entries of one stream with seq >= since, in order, at most ``limit``."""
        number = self._number(stream)
        if number is None:
            return []
        rows = self._rows(
            "SELECT seq, epoch, time, event FROM entries WHERE job = ? AND seq >= ? ORDER BY seq LIMIT ?",
            (number, since, limit),
        )
        with self._reading():
            return [
                Entry(stream, seq, epoch, when, decode_event(self._unseal(event, number, seq, epoch, when)))
                for seq, epoch, when, event in rows
            ]

    def last(self, stream: str) -> int:
        """Return the highest sequence number of a stream, 0 where it has no entry."""
        number = self._number(stream)
        rows = self._rows("SELECT max(seq) FROM entries WHERE job = ?", (number,)) if number is not None else []
        return int(rows[0][0] or 0) if rows else 0

    def entry(self, stream: str, seq: int) -> Entry | None:
        """Return one entry, or None where there is none."""
        for found in self.entries(stream, seq, 1):
            if found.seq == seq:
                return found
        return None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _as_it_is(data: bytes, *place: object) -> bytes:
    """Return a row of a format without seals."""
    return data


def read_only(folder: Path | str) -> ReadOnlyJournal:
    """Open the journal of a folder for reading, whoever holds it.

    Raises
    ------
    StateError
        There is no journal, or it cannot be read; ``StateVersion`` where a newer trun wrote it.
    """
    path = Path(folder).expanduser().absolute() / FILE
    if not path.exists():
        raise StateError(f"there is no journal in the folder {path.parent}.", path=str(path))
    with our_errors(path), contextlib.ExitStack() as stack:
        connection = database.looking(path)
        stack.callback(connection.close)
        connection.isolation_level = None
        version = _check_version(connection, path)
        # Where somebody writes, a commit may arrive just now.
        if lost_commits(path) >= PROOF and holder(path.parent) is None:
            _check_log(path)
        stack.pop_all()
    return ReadOnlyJournal(connection, path, version)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Callable[..., Iterator[tuple[Any, ...]]]]:
    """Give a function that asks a copy of a journal, which may be damaged, row by row; for salvage."""
    with contextlib.closing(database.connect(path, timeout=10.0)) as connection:
        connection.text_factory = lambda data: data.decode(errors="replace")

        def ask(query: str, *arguments: Any) -> Iterator[tuple[Any, ...]]:
            with our_errors(path):
                yield from connection.execute(query, arguments)

        yield ask


def _check_version(connection: database.Connection, path: Path) -> int:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if owner != APPLICATION_ID or found < 1:
        raise damaged(path, "it is not a journal of trun")
    if found > VERSION:
        raise StateVersion(
            f"the journal {path} has format {found}; this trun knows formats up to {VERSION}. "
            "Upgrade trun, or choose another state folder.",
            path=str(path),
            found=found,
            known=VERSION,
        )
    return int(found)


# -- writing ----------------------------------------------------------------------------------------------------------


class SqliteJournal(ReadOnlyJournal):
    """The journal of the one process that owns ``folder``. Implements ``ports.Journal``.

    Parameters
    ----------
    folder
        The state folder; made where it is missing. Held until ``close`` or the end of the process.

    Raises
    ------
    StateHeld, StateVersion, StateDamaged, StateFull, StateError
        The folder cannot be used; the text says which, why, and what to do.
    """

    #: What opens the file; tests put a faulty one here.
    factory: type[database.Connection] = database.Connection

    def __init__(self, folder: Path | str) -> None:
        place = Path(folder).expanduser().absolute()
        make_state_folder(place)
        self._lock = FolderLock(place)
        self._broken: StateError | None = None
        #: True from the first time that space ran out until there is enough again: accept no new jobs meanwhile.
        self.full = False
        try:
            connection = _open(place / FILE, self.factory)
        except BaseException:
            self._lock.release()
            raise
        super().__init__(connection, place / FILE)
        self._ballast = Ballast(place)
        self._log_room = LogRoom(log_of(place / FILE))
        self._closed = False
        try:
            self._meta = self._begin_epoch()
            self._named = self._streams()
            if not self.full and not self._ballast.load():
                _log.warning("state folder has no space for its reserve folder=%s", place)
        except BaseException:
            self.close()
            raise

    def _streams(self) -> dict[str, int]:
        rows = self._rows("SELECT number, name, seal FROM streams")
        with self._reading():
            for number, name, found in rows:
                if found != seal_of("stream", number, name):
                    raise BrokenSeal(f"the name of stream {number}")
        return {name: number for number, name, _ in rows}

    def _begin_epoch(self) -> dict[str, str]:
        facts = super().meta()
        facts["epoch"] = str(int(facts["epoch"]) + 1)
        try:
            _write_facts(self._connection, facts)
        except database.Error as error:
            ours = translate(error, self.path)
            if not (isinstance(ours, StateFull) and self._ballast.drop()):
                raise ours from error
            self.full = True
            with our_errors(self.path):
                _write_facts(self._connection, facts)
        return facts

    def meta(self) -> dict[str, str]:
        """Return ``service_key``, ``epoch``, ``version`` (format of the file) and ``created``."""
        return dict(self._meta)

    # -- commit -------------------------------------------------------------------------------------------------------

    def commit(self, batch: Batch) -> None:
        """Write the batch, all of it or nothing; when this returns it survives kill -9 and power loss.

        Where space runs out, the reserve is freed so that the batch, and outcomes after it, can still be written;
        batches with new jobs are refused from then on until there is space again (see ``full``).

        Raises
        ------
        StateFull
            Nothing of the batch was written for want of space; the same batch can be committed later.
        StateError
            The disk failed. Nothing can be trusted any more: the service must stop and start again.
        """
        if self._broken is not None:
            raise self._broken
        if self.full and self._ballast.try_again():
            self.full = False
        if self.full and batch.specs:
            raise StateFull(
                f"no space is left for the state folder {self.path.parent}; no new jobs are accepted until there is.",
                path=str(self.path),
            )
        try:
            self._write(batch)
        except StateFull:
            if not self._ballast.drop():
                raise
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        connection = self._connection
        named: dict[str, int] = {}
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._insert(batch, named)
            connection.execute("COMMIT")
            self._log_room.extend()
        except BaseException as error:
            with contextlib.suppress(database.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if not isinstance(error, database.Error):
                raise
            ours = translate(error, self.path)
            if isinstance(ours, StateFull):
                self.full = True
            elif isinstance(ours, StateError):
                self._broken = ours
            raise ours from error
        self._named.update(named)

    def _insert(self, batch: Batch, named: dict[str, int]) -> None:
        connection = self._connection
        if batch.definitions:
            sealed = [(digest, seal(data, "definition", digest)) for digest, data in batch.definitions]
            connection.executemany("INSERT OR IGNORE INTO definitions VALUES (?, ?)", sealed)
        if batch.groups:
            sealed = [(uid, seal(spec, "group", uid)) for uid, spec in batch.groups]
            connection.executemany("INSERT OR REPLACE INTO groups VALUES (?, ?)", sealed)
        if batch.specs:
            values: list[Any] = []
            for number, spec in batch.specs:
                values += (number, spec.uid, seal(encode(spec), JOB, number))
            insert_rows(connection, "INSERT INTO jobs VALUES", 3, values)
        if batch.lives:
            values = []
            for number, life in batch.lives:
                values += (number, 1 if is_live(life) else 0, seal(life, LIFE, number))  # a bool takes sqlite3 long
            insert_rows(connection, "INSERT OR REPLACE INTO lives VALUES", 3, values)
        if batch.entries:
            values = []
            others: list[Any] = []
            for number, entry in batch.entries:
                place = (number or self._name(entry.stream, named), entry.seq, entry.epoch, entry.time)
                rows = values if number else others
                rows += (*place, seal(encode(entry.event), *place))
            insert_rows(connection, "INSERT INTO entries VALUES", 5, values)
            # Entries of other services may come to us more than once.
            insert_rows(connection, "INSERT OR IGNORE INTO entries VALUES", 5, others)

    def _name(self, stream: str, named: dict[str, int]) -> int:
        """Return the negative number of a stream that is no job; a new one is entered."""
        number = self._named.get(stream) or named.get(stream)
        if number is None:
            number = named[stream] = -1 - len(self._named) - len(named)
            row = (number, stream, seal_of("stream", number, stream))
            self._connection.execute("INSERT INTO streams VALUES (?, ?, ?)", row)
        return number

    def adopt(self, meta: Mapping[str, str]) -> None:
        """Become the journal that had these facts (``trun recover`` makes a new file for an old service)."""
        self._meta |= meta
        with our_errors(self.path):
            _write_facts(self._connection, self._meta)

    def close(self) -> None:
        """Move the log into the file, give back the reserve and the folder; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(database.Error):
            self._connection.close()
        self._ballast.drop()
        self._lock.release()


# -- opening ----------------------------------------------------------------------------------------------------------


def _open(path: Path, factory: type[database.Connection]) -> database.Connection:
    if path.exists():
        check(path)
    else:
        _create(path)
    with our_errors(path), contextlib.ExitStack() as stack:
        connection = database.connect(path, check_same_thread=False, timeout=10.0, factory=factory)
        stack.callback(connection.close)
        version = _check_version(connection, path)
        _configure(connection)
        if version < VERSION:
            _migrate(connection, path, version)
        stack.pop_all()
    return connection


def check(path: Path) -> None:
    """Refuse a damaged file or log; for the owner of the folder. Changes nothing, as the connection cannot write."""
    with (
        our_errors(path),
        contextlib.closing(database.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10.0)) as looking,
    ):
        _check_version(looking, path)
        _check_log(path)
        (found,) = looking.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise damaged(path, found)


def _check_log(path: Path) -> None:
    lost = lost_commits(path)
    if lost >= PROOF:
        raise damaged(path, f"its log breaks off before {lost} commits that were acknowledged")


def _configure(connection: database.Connection) -> None:
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _create(path: Path) -> None:
    """Make a whole journal under another name, then give it its own."""
    for old in path.parent.glob(f".{FILE}.*"):
        old.unlink()
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    facts = {
        "service_key": secrets.token_hex(16),
        "epoch": "0",
        "version": str(VERSION),
        "created": f"{time.time():.3f}",
    }
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(database.connect(temporary)) as connection:
            _configure(connection)
            marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION};"
            connection.executescript(f"BEGIN; {SCHEMA} {marks}")
            _write_facts(connection, {**facts, "schema": seal_of_schema(connection)})
            connection.execute("COMMIT")
        sync(temporary)
        os.rename(temporary, path)
        sync(path.parent)
    except database.Error as error:
        raise translate(error, path) from error
    except OSError as error:
        if isinstance(error, StateError):
            raise
        kind = StateFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateError
        raise kind(
            f"the state folder {path.parent} cannot be written ({error.strerror}); "
            "choose another with state= or TRUN_STATE_DIR.",
            path=str(path.parent),
        ) from error


def _write_facts(connection: database.Connection, facts: Mapping[str, str]) -> None:
    rows = [*facts.items(), ("seal", seal_of_facts(facts))]
    values = [value for row in rows for value in row]
    connection.execute(f"INSERT OR REPLACE INTO meta VALUES {', '.join(['(?, ?)'] * len(rows))}", values)


def _migrate(connection: database.Connection, path: Path, version: int) -> None:
    """Bring a file of an older format to ours, after a backup beside it."""
    backup = path.with_name(f"{FILE}.v{version}.backup")
    with contextlib.closing(database.connect(backup)) as copy:
        connection.backup(copy)
    sync(backup)
    _log.warning("journal is brought to a newer format from=%d to=%d backup=%s", version, VERSION, backup)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, VERSION):
            MIGRATIONS[step](connection)
        facts = dict(connection.execute("SELECT name, value FROM meta WHERE name != 'seal'").fetchall())
        _write_facts(connection, {**facts, "version": str(VERSION), "schema": seal_of_schema(connection)})
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


__all__ = ["FILE", "ReadOnlyJournal", "SqliteJournal", "check", "read_only", "reading"]
