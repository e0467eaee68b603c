"""Power cuts in the middle of a journal's commits: what was acknowledged is there, and what was not is there or not.

``python tests/powercuts.py --count 3000`` commits, looks at the files before and after each commit, and makes of each
pair what a disk may hold when the power goes in between: any part of what was written since the last synchronisation,
sector by sector, in any order. It prints how many journals ended before and after the commit that was cut, and each
that was refused or gave another answer. The exit code is the number of those.

SQLite synchronises the head of a log before its pages, and the log before the file, so a cut strikes one of the three.

Rule: a run is decided by its seed alone.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import flips
from samples import accepted, entry, life
from trun.adapters.logtail import log_of
from trun.adapters.sqlite import FILE, SqliteJournal
from trun.core.codec import encode
from trun.core.record import JobState
from trun.errors import StateError
from trun.messages import GroupSpec, Said
from trun.ports import Batch

SECTOR, HEAD = 512, 32

#: What the disk holds of a journal: its file and its log.
Disk = tuple[bytes, bytes]


def batches(chance: random.Random) -> list[Batch]:
    """Return commits small and large."""
    found = [Batch(groups=[("g", encode(GroupSpec("g", "g", 3)))], definitions=[("f", b"function" * 20)])]
    for number in range(1, flips.JOBS + 1):
        uid = f"job{number}"
        text = "x" * chance.choice([1, 100, 9000])
        said = [(number, entry(uid, seq, Said(name="note", value=text))) for seq in range(2, chance.choice([3, 6, 40]))]
        found.append(accepted(number, uid))
        found.append(Batch(lives=[(number, life(number, JobState.COMPLETED, seq=5))], entries=said))
        found.append(Batch(entries=[(0, entry("condition", number))]))
    return found


def disk(folder: Path) -> Disk:
    """Return what the disk holds now."""
    log = log_of(folder / FILE)
    return (folder / FILE).read_bytes(), log.read_bytes() if log.exists() else b""


def restored(folder: Path, files: Disk) -> dict[str, Any]:
    """Return all that a service reads which starts on these files."""
    folder.mkdir(mode=0o700)
    try:
        (folder / FILE).write_bytes(files[0])
        log_of(folder / FILE).write_bytes(files[1])
        return flips.read(folder)
    finally:
        shutil.rmtree(folder)


def mixed(chance: random.Random, old: bytes, new: bytes, start: int = 0) -> bytes:
    """Return the old bytes with some of the sectors that differ replaced by the new ones, from ``start`` on."""
    share = chance.choice([0.1, 0.5, 0.9])
    size = chance.choice([len(old), len(new), max(len(old), len(new))])
    made = bytearray(old.ljust(size, b"\0")[:size])
    first = start - start % SECTOR
    for at in range(first, size, SECTOR):
        if chance.random() < share:
            begin = max(at, start)
            made[begin : at + SECTOR] = new[begin : at + SECTOR].ljust(min(at + SECTOR, size) - begin, b"\0")
    return bytes(made)


def cut(chance: random.Random, before: Disk, after: Disk) -> tuple[str, Disk]:
    """Return where the power went, and what the disk holds then."""
    (old_file, old_log), (new_file, new_log) = before, after
    phases = ["pages"]
    if old_log[:HEAD] != new_log[:HEAD]:
        phases.append("head")
    if old_file != new_file:
        phases.append("file")
    phase = chance.choice(phases)
    if phase == "head":
        log = chance.choice([old_log, new_log[:HEAD] + old_log[HEAD:]])
    elif phase == "pages":
        log = mixed(chance, new_log[:HEAD] + old_log[HEAD:], new_log, HEAD)
    else:
        return phase, (mixed(chance, old_file, new_file), new_log)
    if chance.random() < 0.3:
        log = log.rstrip(b"\0")  # room that was added and never synchronised
    return phase, (old_file, log)


def run(count: int, seed: int, place: Path) -> tuple[Counter[str], list[str]]:
    """Cut the power ``count`` times; return how it went, and what went wrong."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    journal = SqliteJournal(place / "journal")
    journal._connection.execute("PRAGMA wal_autocheckpoint=40").close()  # as often as a long life would
    todo = batches(chance)
    each = -(-count // len(todo))
    before, truth = disk(place / "journal"), restored(place / "copy", disk(place / "journal"))
    for number, batch in enumerate(todo):
        journal.commit(batch)
        after = disk(place / "journal")
        wanted = restored(place / "copy", after)
        for _ in range(min(each, count)):
            count -= 1
            phase, files = cut(chance, before, after)
            what = f"commit {number}, cut in the {phase}"
            try:
                found = restored(place / "copy", files)
            except StateError as error:
                wrong.append(f"{what}: {type(error).__name__}: {error}")
                continue
            if found == wanted and phase != "head":
                counts[f"{phase}: after"] += 1
            elif found == truth and phase != "file":
                counts[f"{phase}: before"] += 1
            else:
                wrong.append(f"{what}: neither what was before nor what was committed")
        before, truth = after, wanted
    journal.close()
    return counts, wrong


def main() -> int:
    """Cut the power and say what came of it."""
    parser = argparse.ArgumentParser(description="Cut the power in the middle of commits and read what is left.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = run(options.count, options.seed, Path(folder))
    print(f"{sum(counts.values()) + len(wrong)} power cuts: {dict(counts)}; wrong: {len(wrong)}")
    print("\n".join(wrong[:20]))
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
