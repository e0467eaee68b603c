"""Commits as fast as it can and says each commit on stdout after it returned; started and killed by test_sqlite.py.

Arguments: the folder, and how many jobs each batch brings.
"""

from __future__ import annotations

import os
import sys

from samples import entry, life, spec
from trun.adapters.sqlite import SqliteJournal
from trun.core.record import JobState
from trun.ports import Batch


def main(folder: str, count: int) -> None:
    journal = SqliteJournal(folder)
    number = max((stored.number for stored in journal.jobs()), default=0)
    os.write(1, b"ready\n")
    while True:
        numbers = range(number + 1, number + count + 1)
        journal.commit(
            Batch(
                specs=[(n, spec(f"job{n}")) for n in numbers],
                lives=[(n, life(n)) for n in numbers],
                entries=[(n, entry(f"job{n}", 1)) for n in numbers],
            )
        )
        os.write(1, f"accepted {numbers[0]} {numbers[-1]}\n".encode())
        journal.commit(
            Batch(
                lives=[(n, life(n, JobState.COMPLETED, seq=2)) for n in numbers],
                entries=[(n, entry(f"job{n}", 2)) for n in numbers],
            )
        )
        number = numbers[-1]
        os.write(1, f"ended {numbers[0]} {number}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
