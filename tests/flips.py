"""Flipped bits in a journal: each is noticed, or changes nothing that anybody can read.

``python tests/flips.py --count 10000`` makes a journal, flips one bit in a copy of it (of the file, or of its log) and
reads everything; it prints how many were noticed, how many change nothing, and each that gave another answer. The exit
code is the number of those. In a log that a kill has left, a bit of the last commit cannot be told from a write that a
power cut broke off: the journal then ends before that commit, and that counts as "like a power cut".

Rule: a run is decided by its seed alone.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from samples import accepted, entry, life
from trun.adapters.sqlite import FILE, SqliteJournal
from trun.core.codec import encode
from trun.core.record import JobState
from trun.errors import StateError
from trun.messages import GroupSpec, Said
from trun.ports import Batch

TESTS = Path(__file__).resolve().parent
JOBS = 40


def make(folder: Path, *, killed: bool) -> None:
    """Make a journal of finished jobs; ``killed`` leaves its log as a kill would."""
    paths = [str(TESTS.parent), str(TESTS)]
    code = f"import os, sys; sys.path[:0] = {paths!r}; import flips; journal = flips.write({str(folder)!r})"
    subprocess.run([sys.executable, "-c", f"{code}; {'os._exit(0)' if killed else 'journal.close()'}"], check=True)


def write(folder: str) -> SqliteJournal:
    """Write jobs, a group, a definition, and a stream of another service."""
    journal = SqliteJournal(folder)
    journal.commit(Batch(groups=[("g", encode(GroupSpec("g", "g", 3)))], definitions=[("f", b"function" * 20)]))
    for number in range(1, JOBS + 1):
        uid = f"job{number}"
        journal.commit(accepted(number, uid))
        said = [(number, entry(uid, seq, Said(name="note", value=seq * 1000))) for seq in range(2, 6)]
        journal.commit(Batch(lives=[(number, life(number, JobState.COMPLETED, seq=5))], entries=said))
        journal.commit(Batch(entries=[(0, entry("condition", number))]))
    return journal


def read(folder: Path) -> dict[str, Any]:
    """Return all that a journal holds, as its owner reads it."""
    journal = SqliteJournal(folder)
    try:
        jobs = list(journal.jobs())
        found: dict[str, Any] = {f"job {one.number}": (one.spec, one.life) for one in jobs}
        found["meta"] = {name: value for name, value in journal.meta().items() if name != "epoch"}
        found["groups"] = dict(journal.groups())
        found["definition"] = journal.definition("f")
        for stream in [f"job{number}" for number in range(1, JOBS + 1)] + ["condition"]:
            found[f"stream {stream}"] = journal.entries(stream)
            found[f"last {stream}"] = journal.last(stream)
        return found
    finally:
        journal.close()


def is_cut_short(found: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Whether a journal ends just before its last commit, which wrote one entry of one stream."""
    last = {"stream condition": truth["stream condition"][:-1], "last condition": truth["last condition"] - 1}
    return found == {**truth, **last}


def run(count: int, seed: int, place: Path) -> tuple[Counter[str], list[str]]:
    """Flip ``count`` bits, one at a time; return how it went, and what went wrong."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    sources = []
    for killed in (False, True):
        source = place / f"source-{killed}"
        make(source, killed=killed)
        pristine = place / "pristine"
        shutil.copytree(source, pristine)
        sources.append((source, read(pristine)))
        shutil.rmtree(pristine)
    for number in range(count):
        source, truth = chance.choice(sources)
        folder = place / "flipped"
        shutil.copytree(source, folder)
        files = [path for path in folder.iterdir() if path.name.startswith(FILE) and not path.name.endswith("-shm")]
        (path,) = chance.choices(files, [one.stat().st_size for one in files])
        data = bytearray(path.read_bytes())
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        try:
            found = read(folder)
        except StateError as error:
            counts[f"noticed: {type(error).__name__}"] += 1
        except Exception as error:
            wrong.append(f"flip {number}: bit {bit} of byte {at} of {path.name}: {type(error).__name__}: {error}")
        else:
            if found == truth:
                counts["nothing changed"] += 1
            else:
                what = [name for name in truth if found.get(name) != truth[name]] + [n for n in found if n not in truth]
                if path.name.endswith("-wal") and is_cut_short(found, truth):
                    counts["like a power cut"] += 1
                else:
                    where = f"bit {bit} of byte {at} of {path.name}"
                    wrong.append(f"flip {number}: {where}: another answer about {what[:3]}")
        shutil.rmtree(folder)
    return counts, wrong


def main() -> int:
    """Flip bits and say what came of it."""
    parser = argparse.ArgumentParser(description="Flip bits of a journal and read it.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = run(options.count, options.seed, Path(folder))
    print(f"{options.count} flipped bits: {dict(counts)}; another answer: {len(wrong)}")
    print("\n".join(wrong[:20]))
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
