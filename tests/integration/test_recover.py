"""A damaged journal: it is noticed, nothing is changed, and ``trun recover`` saves what can be read."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path

import pytest

from samples import accepted, entry, life
from trun.adapters.salvage import salvage
from trun.adapters.sqlite import FILE, SqliteJournal, read_only
from trun.cli import main
from trun.core.codec import decode_life
from trun.core.record import JobState
from trun.errors import StateDamaged, StateError, StateHeld
from trun.messages import Completed, Entry
from trun.ports import Batch

JOBS = 60
LOG = f"{FILE}-wal"


def ended(number: int) -> Batch:
    uid = f"job{number}"
    return Batch(
        lives=[(number, life(number, JobState.COMPLETED, seq=2))],
        entries=[(number, Entry(uid, 2, 1, 5.0, Completed()))],
    )


def killed(tmp_path: Path, *, jobs: int = JOBS) -> Path:
    """Return the folder of a service that was killed outright: file and log as they lay there."""
    journal = SqliteJournal(tmp_path / "first")
    for number in range(1, jobs + 1):
        journal.commit(accepted(number, f"job{number}"))
        journal.commit(ended(number))
    folder = tmp_path / "state"
    folder.mkdir()
    for name in (FILE, LOG):
        shutil.copy(tmp_path / "first" / name, folder / name)
    journal.close()
    return folder


def closed(tmp_path: Path, *, jobs: int = JOBS) -> Path:
    """Return the folder of a service that ended in order: no log is left."""
    folder = killed(tmp_path, jobs=jobs)
    SqliteJournal(folder).close()
    return folder


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (FILE, LOG) if (folder / name).exists()}


def frame(number: int) -> int:
    """Return where the header of a frame of the log begins (from 0)."""
    return 32 + number * (4096 + 24)


def test_a_log_that_is_whole_is_read_to_its_end(tmp_path: Path) -> None:
    journal = SqliteJournal(killed(tmp_path))

    assert len(list(journal.jobs())) == JOBS
    journal.close()


@pytest.mark.parametrize("at", [4, 17, 25, frame(40) + 1, frame(40) + 9, frame(40) + 18, frame(40) + 2000])
def test_a_flipped_bit_inside_the_log_is_noticed_and_nothing_is_changed(tmp_path: Path, at: int) -> None:
    folder = killed(tmp_path)
    flip(folder / LOG, at)
    before = content(folder)

    with pytest.raises(StateDamaged, match=r"log breaks off before \d+ commits .*trun recover --state"):
        SqliteJournal(folder)
    with pytest.raises(StateDamaged, match="log breaks off"):
        read_only(folder)

    assert content(folder) == before


def test_a_commit_that_a_power_cut_left_half_written_is_no_damage(tmp_path: Path) -> None:
    folder = killed(tmp_path)
    log = (folder / LOG).read_bytes()
    sizes = [struct.unpack_from(">I", log, at + 4)[0] for at in range(32, len(log) - 24, 4120)]
    commits = [number for number, size in enumerate(sizes) if size]
    # Any frame of the last commit, the others of it being there.
    flip(folder / LOG, frame(random.Random(3).randint(commits[-2] + 1, commits[-1])) + 100)

    journal = SqliteJournal(folder)

    assert len(list(journal.jobs())) == JOBS
    journal.close()


def test_what_lies_behind_a_flipped_bit_of_the_log_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = killed(tmp_path)
    reader = read_only(folder)
    key = reader.meta()["service_key"]
    reader.close()
    flip(folder / LOG, frame(40) + 3000)
    before = content(folder)

    code = main(["recover", "--state", str(folder)])

    out = capsys.readouterr().out
    assert f"saved: {JOBS} jobs, {2 * JOBS} entries" in out
    assert (code, "lost: nothing" in out) in ((0, True), (1, False))
    journal = SqliteJournal(folder)
    states = {decode_life(job.life).state for job in journal.jobs()}
    assert states == {JobState.COMPLETED}
    assert journal.meta()["service_key"] == key
    journal.close()
    (aside,) = folder.glob(f"{FILE}.damaged-*[0-9]")
    assert aside.read_bytes() == before[FILE]
    assert Path(f"{aside}-wal").read_bytes() == before[LOG]


@pytest.mark.parametrize("seed", range(6))
def test_pages_that_cannot_be_read_cost_only_what_was_on_them(tmp_path: Path, seed: int) -> None:
    folder = closed(tmp_path, jobs=400)
    path = folder / FILE
    data = bytearray(path.read_bytes())
    page = random.Random(seed).randrange(10, len(data) // 4096)
    data[page * 4096 : page * 4096 + 256] = random.Random(seed).randbytes(256)
    path.write_bytes(data)

    report = salvage(folder)

    assert report.sound or (report.lost and report.fault)
    journal = SqliteJournal(folder)
    jobs = list(journal.jobs())
    assert len(jobs) >= 300
    assert len(jobs) + len([one for one in report.lost if one.startswith("job ")]) >= 400 or any(
        "jobs" in one for one in report.lost
    )
    for job in jobs:
        journal.entries(job.spec.uid)
    journal.close()


def test_a_state_that_cannot_be_read_is_taken_from_the_stream_or_held(tmp_path: Path) -> None:
    import sqlite3

    folder = closed(tmp_path, jobs=3)
    journal = SqliteJournal(folder)
    journal.commit(accepted(4, "job4"))
    journal.close()
    connection = sqlite3.connect(folder / FILE)
    connection.execute("UPDATE lives SET life = x'c1' WHERE number IN (2, 4)")
    connection.execute("UPDATE jobs SET spec = x'c1' WHERE number = 3")
    connection.execute("UPDATE entries SET event = x'c1' WHERE job = 1 AND seq = 1")
    connection.commit()
    connection.close()

    report = salvage(folder)

    assert report.lost == [
        "entry 1 of fit#1",
        "state of fit#2: by its stream it has completed",
        "job 3: what was to be run cannot be read",
        "state of fit#4: it is held",
    ]
    journal = SqliteJournal(folder)
    states = {job.number: decode_life(job.life).state for job in journal.jobs()}
    assert states == {1: JobState.COMPLETED, 2: JobState.COMPLETED, 4: JobState.HELD}
    journal.commit(Batch(entries=[(4, entry("job4", 3))]))
    journal.close()


def test_a_sound_journal_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = closed(tmp_path)
    before = content(folder)

    assert main(["recover", "--state", str(folder)]) == 0

    assert "is sound; nothing was changed" in capsys.readouterr().out
    assert content(folder)[FILE] == before[FILE]
    assert not (folder / "recover").exists()


def test_a_file_that_is_no_journal_at_all_gives_an_empty_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / FILE).write_bytes(b"this is no database, it is a poem about one\n" * 200)

    assert main(["recover", "--state", str(folder)]) == 1

    assert "saved: nothing" in capsys.readouterr().out
    SqliteJournal(folder).close()


def test_a_journal_that_is_in_use_or_is_not_there_is_refused(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "state")

    with pytest.raises(StateHeld):
        salvage(tmp_path / "state")
    journal.close()
    with pytest.raises(StateError, match="no journal"):
        salvage(tmp_path)
    assert main(["recover"]) == 2
