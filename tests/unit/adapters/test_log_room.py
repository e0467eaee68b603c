"""Room at the end of the journal's log: commits go into it, readers and restarts do not mind it."""

from __future__ import annotations

from pathlib import Path

from trun.adapters.logtail import log_of
from trun.adapters.space import LogRoom
from trun.adapters.sqlite import FILE, SqliteJournal, read_only
from trun.ports import Batch


def test_commits_go_into_the_room_without_changing_the_size_of_the_log(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    log = log_of(tmp_path / FILE)
    journal.commit(Batch(definitions=[("a", b"1")]))
    size = log.stat().st_size
    assert size > LogRoom.STEP
    for number in range(20):
        journal.commit(Batch(definitions=[(f"b{number}", b"2")]))
    assert log.stat().st_size == size
    with_room = read_only(tmp_path)
    assert with_room.definition("b19") == b"2"
    with_room.close()
    journal.close()
    again = SqliteJournal(tmp_path)
    assert again.definition("a") == b"1"
    again.close()


def test_what_was_left_with_room_at_its_end_is_read_to_its_last_commit(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "one")
    journal.commit(Batch(definitions=[("a", b"1")]))
    journal.commit(Batch(definitions=[("b", b"2")]))
    (tmp_path / "two").mkdir()
    for name in (FILE, f"{FILE}-wal"):  # as a process that was killed leaves them
        (tmp_path / "two" / name).write_bytes((tmp_path / "one" / name).read_bytes())
    journal.close()
    found = SqliteJournal(tmp_path / "two")
    assert [found.definition(name) for name in "ab"] == [b"1", b"2"]
    found.close()


def test_a_log_that_cannot_be_extended_is_left_alone(tmp_path: Path) -> None:
    room = LogRoom(tmp_path / "nothing" / "there")
    room.extend()
    room.extend()
    assert not list(tmp_path.iterdir())


def test_a_log_is_extended_when_its_room_is_used_up_and_never_beyond_the_most(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x")
    room = LogRoom(log)
    room.extend()
    room.extend()
    assert log.stat().st_size == 1 + LogRoom.STEP
    with log.open("ab") as file:
        file.write(b"x")
    room.extend()
    assert log.stat().st_size == 2 + 2 * LogRoom.STEP
    with log.open("ab") as file:
        file.truncate(LogRoom.MOST)
    room.extend()
    assert log.stat().st_size == LogRoom.MOST


def test_after_a_large_commit_no_room_is_made_before_a_small_one_follows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x")
    room = LogRoom(log)
    room.extend()
    large = log.stat().st_size + 2 * LogRoom.LARGE
    with log.open("ab") as file:
        file.truncate(large)
    room.extend()
    assert log.stat().st_size == large
    with log.open("ab") as file:
        file.write(b"x")
    room.extend()
    assert log.stat().st_size == large + 1 + LogRoom.STEP
