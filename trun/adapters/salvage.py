"""Saves what can be read of a damaged journal: ``trun recover``.

Works on a copy of the file, into which the whole log is put first. Each row is looked up by itself, so that a page that
cannot be read costs its own rows only; a row that cannot be decoded is left out. What was saved becomes the journal
of the folder, the damaged one stays beside it under another name, and everything that is missing is listed.

A job without a readable spec is lost. One whose state cannot be read, or is older than its stream, is taken from its
last outcome, and is held where it has none: nobody runs it again without being told. Knows no SQL beyond looking up
and inserting rows. Who may come in: the verb. Rule: the damaged file is never written, and nothing is left out unsaid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from trun.adapters.folders import FolderLock
from trun.adapters.logtail import apply_all, index_of, log_of
from trun.adapters.schema import SEALED
from trun.adapters.seals import JOB, LIFE, unseal
from trun.adapters.space import sync
from trun.adapters.sqlite import FILE, SqliteJournal, check, reading
from trun.core.codec import decode_event, decode_group, decode_life, decode_spec, encode
from trun.core.record import JobState, Life
from trun.errors import StateDamaged, StateError
from trun.messages import Entry, JobSpec, Retried
from trun.ports import Batch

#: Rows per commit into the new file.
PORTION = 1000
#: Keys that are tried behind the last one that was found.
BEYOND = 64
UNREADABLE = "recovered: what became of it could not be read"
#: The state that each final event leads to.
_ENDS = {
    **{"Completed": JobState.COMPLETED, "Failed": JobState.FAILED, "Aborted": JobState.ABORTED},
    **{"Cancelled": JobState.CANCELLED, "Skipped": JobState.SKIPPED},
}

Rows = list[tuple[Any, ...]]
Ask = Callable[..., Iterator[tuple[Any, ...]]]


class Report(msgspec.Struct, kw_only=True):
    """What became of a journal."""

    folder: str
    #: Nothing was wrong, and nothing was changed.
    sound: bool = False
    #: Why the journal was refused.
    fault: str = ""
    #: Where the damaged file lies now.
    kept: str = ""
    #: How much was saved, by kind: jobs, entries, groups, definitions.
    saved: dict[str, int] = msgspec.field(default_factory=dict)
    #: What was not, a line each.
    lost: list[str] = msgspec.field(default_factory=list)


def salvage(folder: Path) -> Report:
    """Make a new journal of what can be read of a folder's, and keep the damaged one aside.

    Raises
    ------
    StateError
        There is no journal, another process holds it, a newer trun wrote it, or the new one cannot be written.
    """
    path = folder / FILE
    if not path.exists():
        raise StateError(f"there is no journal in the folder {folder}.", path=str(path))
    lock = FolderLock(folder)
    try:
        work = folder / "recover"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        try:
            return _salvage(folder, path, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def _salvage(folder: Path, path: Path, work: Path) -> Report:
    report = Report(folder=str(folder))
    fault = _fault(path)
    copy = work / "copy.sqlite"
    shutil.copyfile(path, copy)
    if log_of(path).exists():
        shutil.copyfile(log_of(path), log_of(copy))
        apply_all(copy)
    journal = SqliteJournal(work / "new")
    try:
        with reading(copy) as ask:
            _Copy(ask, journal, report).run()
    finally:
        journal.close()
    report.fault = fault or "some of its rows cannot be decoded"
    if not fault and not report.lost:
        report.sound, report.fault = True, ""
        return report
    _put_in_place(path, work / "new" / FILE, report)
    return report


def _fault(path: Path) -> str:
    try:
        check(path)
    except StateDamaged as error:
        _, _, why = str(error).partition(" is damaged (")
        return why.partition("). Nothing was changed")[0] or str(error)
    return ""


def _put_in_place(path: Path, made: Path, report: Report) -> None:
    """Give the damaged journal another name and the new one its own."""
    stamp = time.strftime("%y%m%d-%H%M%S")
    aside = path.with_name(f"{FILE}.damaged-{stamp}")
    sync(made)
    # The log first: without it the file would be taken for whole, but it is not looked at before the file is there.
    for old, new in ((log_of(path), log_of(aside)), (path, aside)):
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, new)
    index_of(path).unlink(missing_ok=True)
    os.rename(made, path)
    sync(path.parent)
    report.kept = str(aside)


class _Copy:
    """Carries the rows of one journal over to another."""

    def __init__(self, ask: Ask, journal: SqliteJournal, report: Report) -> None:
        self._ask = ask
        self._journal = journal
        self._report = report
        self._batch = Batch()
        self._size = 0
        self._uids: set[str] = set()
        self._is_sealed = True

    def run(self) -> None:
        """Carry over all that can be read."""
        saved = self._report.saved
        saved.update(jobs=0, entries=0, groups=0, definitions=0)
        with contextlib.suppress(StateError):
            self._is_sealed = next(self._ask("PRAGMA user_version"))[0] >= SEALED
        self._meta()
        for digest, data in self._keyed("definitions", "digest", "data"):
            found = self._decoded(bytes, data, "definition", digest, what=f"definition {digest}")
            if found is not None:
                self._batch.definitions.append((digest, found))
                self._wrote("definitions")
        for uid, data in self._keyed("groups", "uid", "spec"):
            group = self._decoded(decode_group, data, "group", uid, what=f"group {uid}")
            if group is not None:
                self._batch.groups.append((uid, encode(group)))
                self._wrote("groups")
        lives = dict(self._numbered("lives", "life"))
        specs = dict(self._numbered("jobs", "spec"))
        for number in sorted({*lives, *specs}):
            self._job(number, specs.get(number), lives.get(number))
        for number, name in self._keyed("streams", "number", "name"):
            for entry in self._entries(int(number), str(name)):
                self._batch.entries.append((0, entry))
                self._wrote("entries")
        self._commit()

    def _meta(self) -> None:
        known = {str(name): str(value) for name, value in self._keyed("meta", "name", "value")}
        for name in ("service_key", "epoch"):
            if name not in known:
                self._lose(f"{name} of the service: a new one was made")
        self._journal.adopt({name: known[name] for name in ("service_key", "epoch", "created") if name in known})

    def _job(self, number: int, spec_data: bytes | None, life_data: bytes | None) -> None:
        spec = None if spec_data is None else self._decoded(decode_spec, spec_data, JOB, number)
        if spec is None or spec.uid in self._uids:
            self._lose(f"job {number}: what was to be run cannot be read")
            return
        self._uids.add(spec.uid)
        life = None if life_data is None else self._decoded(decode_life, life_data, LIFE, number)
        if life is not None and life.number != number:
            life = None
        entries = list(self._entries(number, spec.uid, f"{spec.name}#{number}"))
        if life is None or (entries and entries[-1].seq > life.seq):
            life = _rebuilt(number, entries)
            words = "it is held" if life.state is JobState.HELD else f"by its stream it {_past(life.state)}"
            self._lose(f"state of {spec.name}#{number}: {words}")
        elif (entries[-1].seq if entries else 0) < life.seq:
            last = entries[-1].seq if entries else 0
            self._lose(f"{_several(last + 1, life.seq)} of {spec.name}#{number}")
        self._add(number, spec, life, entries)

    def _add(self, number: int, spec: JobSpec, life: Life, entries: Iterable[Entry]) -> None:
        self._batch.specs.append((number, spec))
        self._batch.lives.append((number, encode(life)))
        self._wrote("jobs")
        for entry in entries:
            self._batch.entries.append((number, entry))
            self._wrote("entries")

    def _entries(self, number: int, stream: str, label: str = "") -> Iterator[Entry]:
        """Yield the entries of one stream that can be read, in order."""
        found: Rows = []
        with contextlib.suppress(StateError):
            found = list(self._ask("SELECT seq, epoch, time, event FROM entries WHERE job = ? ORDER BY seq", number))
        last = 0
        for seq, epoch, when, data in found or self._one_by_one(number):
            event = self._decoded(decode_event, data, number, seq, epoch, when)
            if event is None:
                continue
            if seq > last + 1 and number > 0:
                self._lose(f"{_several(last + 1, seq - 1)} of {label or stream}")
            last = seq
            yield Entry(stream, seq, epoch, when, event)

    def _one_by_one(self, number: int) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a stream, each looked up by itself; pages that cannot be read are passed over."""
        missed, seq = 0, 1
        while missed < BEYOND:
            rows: Rows = []
            with contextlib.suppress(StateError):
                query = "SELECT seq, epoch, time, event FROM entries WHERE job = ? AND seq = ?"
                rows = list(self._ask(query, number, seq))
            yield from rows
            missed = 0 if rows else missed + 1
            seq += 1

    def _numbered(self, table: str, column: str) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of a table of jobs; where a page cannot be read, number by number."""
        whole: Rows = []
        highest = 0
        with contextlib.suppress(StateError):
            for row in self._ask(f"SELECT number, {column} FROM {table} ORDER BY number"):
                whole.append(row)
            highest = -1
        if highest < 0:
            yield from ((number, data) for number, data in whole)
            return
        for other in ("jobs", "lives"):
            for order in ("DESC", "ASC"):
                with contextlib.suppress(StateError):
                    for (number,) in self._ask(f"SELECT number FROM {other} ORDER BY number {order}"):
                        highest = max(highest, number)
        number, missed = 1, 0
        while number <= highest or missed < BEYOND * 16:
            rows: Rows = []
            with contextlib.suppress(StateError):
                rows = list(self._ask(f"SELECT number, {column} FROM {table} WHERE number = ?", number))
            yield from ((found, data) for found, data in rows)
            missed = 0 if rows else missed + 1
            number += 1

    def _keyed(self, table: str, key: str, value: str) -> Iterator[tuple[Any, Any]]:
        """Yield the rows of a small table from both ends, up to where a page cannot be read."""
        seen: set[Any] = set()
        whole = False
        for order in ("ASC", "DESC"):
            rows: list[tuple[Any, Any]] = []
            try:
                for one, other in self._ask(f"SELECT {key}, {value} FROM {table} ORDER BY {key} {order}"):
                    rows.append((one, other))
                whole = True
            except StateError:
                pass
            for row in rows:
                if row[0] not in seen:
                    seen.add(row[0])
                    yield row
            if whole:
                return
        self._lose(f"some of the {table}: a part of the table cannot be read")

    def _decoded(self, decode: Callable[[bytes], Any], data: Any, *place: object, what: str = "") -> Any:
        try:
            return decode(unseal(data, *place) if self._is_sealed else data)
        except (msgspec.MsgspecError, RecursionError, TypeError, ValueError):
            if what:
                self._lose(what)
            return None

    def _lose(self, what: str) -> None:
        self._report.lost.append(what)

    def _wrote(self, kind: str) -> None:
        self._report.saved[kind] += 1
        self._size += 1
        if self._size >= PORTION:
            self._commit()

    def _commit(self) -> None:
        self._journal.commit(self._batch)
        self._batch, self._size = Batch(), 0


def _rebuilt(number: int, entries: list[Entry]) -> Life:
    """Return what the stream of a job tells of its state; held where it does not tell the end."""
    life = Life(number=number, state=JobState.HELD, reason=UNREADABLE)
    for entry in entries:
        life.seq, life.epoch = entry.seq, max(life.epoch, entry.epoch)
        life.created = life.created or entry.time
        life.changed = entry.time
        state = _ENDS.get(type(entry.event).__name__)
        if isinstance(entry.event, Retried):
            life.run, life.run_seq = entry.event.run, entry.seq
            life.state, life.reason, life.final_seq, life.ended = JobState.HELD, UNREADABLE, 0, 0.0
        elif state is not None:
            life.state, life.final_seq, life.ended = state, entry.seq, entry.time
            life.reason = str(getattr(entry.event, "reason", ""))
            life.root = str(getattr(entry.event, "root", ""))
            life.kind = str(getattr(entry.event, "kind", ""))
            life.error = getattr(entry.event, "error", None)
            life.values = dict(getattr(entry.event, "values", {}))
    return life


def _past(state: JobState) -> str:
    return {JobState.COMPLETED: "has completed", JobState.FAILED: "failed"}.get(state, f"was {state.value}")


def _several(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first} to {last}"
