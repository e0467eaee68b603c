"""The journal on a real disk: one owner, damage, versions, a full disk, a failing disk, kill -9."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samples import accepted, entry, life, spec
from trun.adapters import folders, space, sqlite
from trun.adapters.faults import translate
from trun.adapters.salvage import salvage
from trun.adapters.sqlite import FILE, SqliteJournal, read_only
from trun.core.codec import decode_life, encode
from trun.core.record import JobState
from trun.errors import StateDamaged, StateError, StateFull, StateHeld, StateVersion
from trun.messages import GroupSpec, Said
from trun.ports import Batch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def start_writer(folder: Path, *, count: int = 1) -> subprocess.Popen[bytes]:
    """Start a process that commits until it is killed, and wait until it has opened the journal."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "integration" / "journal_writer.py"), str(folder), str(count)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT.parent}:{ROOT}"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> list[str]:
    """Kill it, and return the lines that it said and nobody read."""
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    return [line for line in said.decode().split("\n")[:-1] if line]


# -- one owner --------------------------------------------------------------------------------------------------------


def test_a_folder_has_one_owner_and_the_second_hears_who_and_since_when(folder: Path) -> None:
    process = start_writer(folder)

    with pytest.raises(StateHeld, match=f"held by process {process.pid} since 20") as caught:
        SqliteJournal(folder)

    assert caught.value.pid == process.pid
    assert caught.value.since > 1_700_000_000
    assert folders.holder(folder) == folders.Holder(process.pid, caught.value.since)
    kill(process)
    assert folders.holder(folder) is None
    SqliteJournal(folder).close()


def test_a_journal_that_is_closed_leaves_the_folder_free_and_tidy(folder: Path) -> None:
    journal = SqliteJournal(folder)
    journal.commit(accepted(1, "a"))

    journal.close()
    journal.close()

    assert sorted(path.name for path in folder.iterdir()) == [FILE, "lock"]
    SqliteJournal(folder).close()


def test_the_journal_can_be_read_while_another_process_holds_it_and_after_it_was_killed(folder: Path) -> None:
    process = start_writer(folder)
    assert process.stdout is not None
    while process.stdout.readline() != b"ended 3 3\n":
        pass

    reader = read_only(folder)
    lively = {stored.spec.uid for stored in reader.jobs()}
    reader.close()
    kill(process)
    reader = read_only(folder)
    dead = {stored.spec.uid for stored in reader.jobs()}

    assert {"job1", "job2", "job3"} <= lively <= dead
    assert [found.seq for found in reader.entries("job1")] == [1, 2]
    assert reader.meta()["epoch"] == "1"
    reader.close()


def test_a_folder_without_a_journal_cannot_be_read(folder: Path) -> None:
    with pytest.raises(StateError, match="there is no journal in the folder"):
        read_only(folder)


# -- folders that cannot be used --------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StateError, match=r"the state folder .*file/state cannot be made .*TRUN_STATE_DIR"):
        SqliteJournal(tmp_path / "file" / "state")


def test_a_network_file_system_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "file_system", lambda folder: "nfs4")

    with pytest.raises(StateError, match=r"network file system \(nfs4\).*local disk"):
        SqliteJournal(folder)


def test_a_read_only_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = mount(tmp_path / "disk", "size=1m,ro")
    try:
        with pytest.raises(StateError, match="Read-only file system"):
            SqliteJournal(folder)
    finally:
        unmount(folder)


# -- versions and damage ----------------------------------------------------------------------------------------------


def test_a_file_of_a_newer_format_is_refused_with_both_versions(folder: Path) -> None:
    SqliteJournal(folder).close()
    change(folder, "PRAGMA user_version=7")

    with pytest.raises(StateVersion, match="has format 7; this trun knows formats up to 2"):
        SqliteJournal(folder)
    with pytest.raises(StateVersion, match="format 7"):
        read_only(folder)
    assert folders.holder(folder) is None


def test_a_file_of_an_older_format_is_brought_forward_after_a_backup(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = SqliteJournal(folder)
    old.commit(accepted(1, "a"))
    old.close()
    monkeypatch.setattr(sqlite, "VERSION", 3)
    monkeypatch.setitem(sqlite.MIGRATIONS, 2, lambda connection: connection.execute("ALTER TABLE jobs ADD COLUMN x"))

    journal = SqliteJournal(folder)

    assert journal.meta()["version"] == "3"
    assert [stored.spec.uid for stored in journal.jobs()] == ["a"]
    journal.close()
    assert query(folder, "SELECT x FROM jobs") == [(None,)]
    backup = sqlite3.connect(folder / f"{FILE}.v2.backup")
    assert backup.execute("PRAGMA user_version").fetchone() == (2,)
    assert backup.execute("SELECT uid FROM jobs").fetchall() == [("a",)]
    backup.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SqliteJournal(folder).close()

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE jobs ADD COLUMN x")
        connection.execute("no sense")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "VERSION", 3)
        patch.setitem(sqlite.MIGRATIONS, 2, fail)
        with pytest.raises(StateError):
            SqliteJournal(folder)

    journal = SqliteJournal(folder)
    assert journal.meta()["version"] == "2"
    journal.close()


def unsealed(folder: Path) -> None:
    """Make a journal of format 1, which had no seals."""
    journal = SqliteJournal(folder)
    journal.commit(accepted(1, "a"))
    journal.commit(Batch(lives=[(1, life(1, seq=1))]))
    journal.commit(Batch(entries=[(0, entry("condition", 1))], groups=[("g", encode(GroupSpec("g", "g")))]))
    journal.commit(Batch(definitions=[("f", b"function")]))
    journal.close()
    for table, column in (("jobs", "spec"), ("lives", "life"), ("entries", "event"), ("groups", "spec")):
        change(folder, f"UPDATE {table} SET {column} = substr({column}, 1, length({column}) - 4)")
    change(folder, "UPDATE definitions SET data = substr(data, 1, length(data) - 4)")
    change(folder, "ALTER TABLE streams DROP COLUMN seal")
    change(folder, "DELETE FROM meta WHERE name = 'seal'")
    change(folder, "UPDATE meta SET value = '1' WHERE name = 'version'")
    change(folder, "PRAGMA user_version = 1")


def test_a_journal_without_seals_is_read_and_brought_forward(folder: Path) -> None:
    unsealed(folder)
    looking = read_only(folder)
    before = (list(looking.jobs()), looking.entries("a"), looking.groups(), looking.definition("f"))
    looking.close()

    journal = SqliteJournal(folder)

    assert journal.meta()["version"] == "2"
    assert (list(journal.jobs()), journal.entries("a"), journal.groups(), journal.definition("f")) == before
    assert [stored.spec.uid for stored in before[0]] == ["a"]
    assert journal.last("condition") == 1
    journal.close()
    SqliteJournal(folder).close()


def test_a_journal_without_seals_is_saved_too(folder: Path) -> None:
    unsealed(folder)

    report = salvage(folder)

    assert report.lost == []
    assert report.saved["jobs"] == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"this is no database, it is a poem about one\n" * 100],
    ids=["empty", "zeros", "text"],
)
def test_a_file_that_is_no_journal_is_damage_and_is_left_alone(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(content)

    with pytest.raises(StateDamaged, match=rf"{FILE} is damaged .*trun recover --state"):
        SqliteJournal(folder)

    assert (folder / FILE).read_bytes() == content


def test_a_file_with_overwritten_pages_is_damage(folder: Path) -> None:
    journal = SqliteJournal(folder)
    for number in range(1, 400):
        journal.commit(accepted(number, f"job{number}"))
    journal.close()
    path = folder / FILE
    data = bytearray(path.read_bytes())
    for page in range(3, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = random.Random(page).randbytes(64)
    path.write_bytes(data)

    with pytest.raises(StateDamaged, match="is damaged"):
        SqliteJournal(folder)


def test_a_row_that_cannot_be_decoded_is_damage(folder: Path) -> None:
    journal = SqliteJournal(folder)
    journal.commit(accepted(1, "a"))
    journal.close()
    change(folder, "UPDATE entries SET event = x'c1'")
    change(folder, "UPDATE jobs SET spec = x'00'")

    journal = SqliteJournal(folder)

    with pytest.raises(StateDamaged, match="cannot be decoded"):
        journal.entries("a")
    with pytest.raises(StateDamaged, match="cannot be decoded"):
        list(journal.jobs())
    journal.close()


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / FILE)
    connection.execute(statement)
    connection.commit()
    connection.close()


def query(folder: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(folder / FILE)
    found = connection.execute(statement).fetchall()
    connection.close()
    return found


# -- first creation ---------------------------------------------------------------------------------------------------


def test_a_first_start_that_was_killed_leaves_nothing_that_hinders_the_next(folder: Path) -> None:
    folder.mkdir()
    (folder / f".{FILE}.123").write_bytes(b"half")
    (folder / f".{FILE}.123-wal").write_bytes(b"half")

    SqliteJournal(folder).close()

    assert sorted(path.name for path in folder.iterdir()) == [FILE, "lock"]


def test_the_journal_is_for_its_owner_alone(folder: Path) -> None:
    journal = SqliteJournal(folder)
    journal.commit(accepted(1, "a"))

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077} == set()
    journal.close()


# -- a full disk ------------------------------------------------------------------------------------------------------


def mount(folder: Path, options: str) -> Path:
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs the right to mount a file system")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    return folder


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, of which the reserve takes 16."""
    disk = mount(tmp_path / "disk", "size=24m")
    yield disk
    unmount(disk)


def big(number: int) -> Batch:
    """A batch with a job and 256 KiB."""
    data = "x" * 262_144
    return Batch(
        specs=[(number, spec(f"job{number}"))],
        lives=[(number, life(number))],
        entries=[(number, entry(f"job{number}", 1, Said(name="data", value=data)))],
    )


def fill(journal: SqliteJournal, *, first: int = 1) -> int:
    """Accept jobs, numbered from ``first``, until no more are; return how many were accepted."""
    for count in range(1000):
        try:
            journal.commit(big(first + count))
        except StateFull:
            return count
    raise AssertionError("the disk never was full")


def test_on_a_full_disk_new_jobs_are_refused_and_outcomes_are_still_written(small_disk: Path) -> None:
    journal = SqliteJournal(small_disk / "state")
    assert (small_disk / "state" / "ballast").stat().st_blocks * 512 >= 16 * 1024 * 1024

    count = fill(journal)

    assert count >= 4
    assert journal.full
    with pytest.raises(StateFull, match=f"no space is left for the state folder {small_disk / 'state'}"):
        journal.commit(big(count + 1))
    for number in range(1, count + 1):
        outcome = entry(f"job{number}", 2, Said(name="outcome", value="x" * 50_000))
        journal.commit(Batch(lives=[(number, life(number, JobState.COMPLETED))], entries=[(number, outcome)]))
    assert [stored.number for stored in journal.jobs()] == list(range(1, count + 1))
    assert list(journal.jobs(live_only=True)) == []
    journal.close()


def test_a_journal_is_usable_again_when_there_is_space(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "LOOK_AGAIN_S", 0.0)
    other = small_disk / "other"
    other.write_bytes(b"x" * (4 << 20))
    journal = SqliteJournal(small_disk / "state")
    count = fill(journal)
    other.unlink()

    journal.commit(big(count + 1))

    assert not journal.full
    assert (small_disk / "state" / "ballast").exists()
    assert journal.entry(f"job{count + 1}", 1) is not None
    journal.close()
    again = SqliteJournal(small_disk / "state")
    assert len(list(again.jobs())) == count + 1
    again.close()


def test_a_full_disk_at_the_first_start_is_said(small_disk: Path) -> None:
    with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as other:
        while other.write(b"x" * 65536):
            pass

    with pytest.raises(StateFull, match=r"[Nn]o space"):
        SqliteJournal(small_disk / "state")


def test_a_service_that_was_killed_can_start_on_a_full_disk(small_disk: Path) -> None:
    process = start_writer(small_disk / "state")
    kill(process)
    with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as other:
        while other.write(b"x" * 4096):
            pass

    journal = SqliteJournal(small_disk / "state")  # full at once, or when the room in the log is used up

    assert journal.meta()["epoch"] == "2"
    fill(journal, first=1_000_000)
    assert journal.full
    journal.commit(Batch(entries=[(0, entry("service", 1))]))
    journal.close()


# -- a failing disk ---------------------------------------------------------------------------------------------------


class Faulty(sqlite3.Connection):
    """A connection whose commits fail as told."""

    code: int | None = None

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement == "COMMIT" and self.code is not None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            error.sqlite_errorname = "FAULT"
            raise error
        return super().execute(statement, *arguments)


@pytest.fixture
def faulty(folder: Path) -> Iterator[tuple[SqliteJournal, Faulty]]:
    class FaultyJournal(SqliteJournal):
        factory = Faulty

    journal = FaultyJournal(folder)
    connection = journal._connection
    assert isinstance(connection, Faulty)
    yield journal, connection
    journal.close()


def test_after_an_error_of_a_sync_nothing_more_is_written(faulty: tuple[SqliteJournal, Faulty]) -> None:
    journal, connection = faulty
    journal.commit(accepted(1, "a"))
    connection.code = sqlite3.SQLITE_IOERR_FSYNC

    with pytest.raises(StateError, match=r"look after the disk, then start the service again") as caught:
        journal.commit(accepted(2, "b"))
    connection.code = None
    with pytest.raises(StateError) as again:
        journal.commit(accepted(2, "b"))

    assert not isinstance(caught.value, StateFull)
    assert again.value is caught.value
    assert [stored.spec.uid for stored in journal.jobs()] == ["a"]


def test_a_commit_that_found_the_disk_full_can_be_said_again(faulty: tuple[SqliteJournal, Faulty]) -> None:
    journal, connection = faulty
    connection.code = sqlite3.SQLITE_FULL
    batch = Batch(lives=[(1, life(1))], entries=[(0, entry("condition", 1))])

    with pytest.raises(StateFull):
        journal.commit(batch)
    assert journal.full
    connection.code = None
    journal.commit(batch)

    assert journal.entries("condition") == [entry("condition", 1)]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StateFull),
        (sqlite3.SQLITE_IOERR_WRITE, StateError),
        (sqlite3.SQLITE_CORRUPT, StateDamaged),
        (sqlite3.SQLITE_NOTADB, StateDamaged),
        (sqlite3.SQLITE_READONLY, StateError),
        (sqlite3.SQLITE_CANTOPEN, StateError),
        (sqlite3.SQLITE_BUSY, StateError),
    ],
)
def test_every_error_of_the_disk_names_the_file(tmp_path: Path, code: int, kind: type[StateError]) -> None:
    error = sqlite3.OperationalError("what it says")
    error.sqlite_errorcode = code

    found = translate(error, tmp_path / FILE)

    assert type(found) is kind
    assert str(tmp_path) in str(found)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_real_error_of_fdatasync_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    command = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=20"]
    script = [sys.executable, str(ROOT / "integration" / "journal_writer.py"), str(folder), "1"]

    done = subprocess.run(
        [*command, *script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{ROOT.parent}:{ROOT}"}
    )

    if "ready" not in done.stdout:
        pytest.skip("tracing is not allowed here")
    assert "StateError" in done.stderr
    assert_all_is_there(folder, done.stdout.split("\n"))


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def assert_all_is_there(folder: Path, said: list[str]) -> None:
    """Compare the journal with what the writer acknowledged: all of it, and nothing by halves."""
    acknowledged: dict[str, set[int]] = {"accepted": set(), "ended": set()}
    for line in said:
        word, *numbers = line.split(" ")
        if word in acknowledged and len(numbers) == 2:
            acknowledged[word] |= set(range(int(numbers[0]), int(numbers[1]) + 1))
    journal = SqliteJournal(folder)
    jobs = list(journal.jobs())
    assert [stored.number for stored in jobs] == list(range(1, len(jobs) + 1))
    assert len(jobs) >= max(acknowledged["accepted"], default=0)
    for stored in jobs:
        state = decode_life(stored.life).state
        entries = journal.entries(stored.spec.uid)
        assert [found.seq for found in entries] == ([1, 2] if state is JobState.COMPLETED else [1])
        if stored.number in acknowledged["ended"]:
            assert state is JobState.COMPLETED
    journal.close()


def test_no_acknowledged_commit_is_lost_by_kill_9(folder: Path) -> None:
    chance = random.Random(9)
    for _ in range(30):
        process = start_writer(folder, count=chance.choice([1, 3, 40]))
        assert process.stdout is not None
        said = [process.stdout.readline().decode().strip() for _ in range(chance.randrange(12))]
        said += kill(process)
        assert_all_is_there(folder, said)

    journal = SqliteJournal(folder)
    assert journal.meta()["epoch"] == "61"
    assert len(list(journal.jobs())) > 30
    journal.close()
