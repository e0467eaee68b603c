"""How long a daemon takes to be ready again when its journal holds many jobs.

Writes a journal with jobs of which one in ten still waits for another (they are registered again), one in a thousand
runs; then starts the real node on it, several times. Prints a table: reading the journal, restoring the machine,
letting all go on, and from exec to ready. ``python benchmarks/restart.py [JOBS]``.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trun.adapters.sqlite import SqliteJournal
from trun.conditions import wire
from trun.conditions.atoms import IsCompleted
from trun.core.codec import decode_life, encode
from trun.core.machine import Machine
from trun.core.record import JobState, Life, Publish
from trun.messages import Call, Completed, Ended, JobSpec, Payload, Submit
from trun.ports import Batch, Room

JOBS = 100_000
ROUNDS = 3
#: What the design promises, in seconds.
BAR_S = 3.0


def write_journal(folder: Path, jobs: int) -> None:
    """Write a journal as a service would have left it."""
    machine = Machine()
    journal = SqliteJournal(folder)
    call = Call("f" * 32, Payload(data=b"x" * 60), "c" * 32)
    for first in range(0, jobs, 1000):
        specs = []
        for number in range(first, min(first + 1000, jobs)):
            when = wire.dumps(IsCompleted("job-5")) if number % 10 == 3 else b""
            specs.append(JobSpec(uid=f"job-{number}", name="fit", session="me", call=call, when=when))
        batch = Batch()
        effects = machine.handle(Submit(specs=tuple(specs)), float(first))
        effects += machine.dispatch(Room(idle=2000), float(first))
        for spec in specs:
            life = machine.records[spec.uid].life
            if life.state is JobState.RUNNING and int(spec.uid[4:]) % 1000 != 5:
                outcome = Completed(result=Payload(data=b"y" * 40), values={"result": 1})
                effects += machine.handle(Ended(uid=spec.uid, epoch=life.epoch, outcome=outcome), float(first))
        for spec in specs:
            record = machine.records[spec.uid]
            batch.specs.append((record.life.number, spec))
            batch.lives.append((record.life.number, encode(record.life)))
        for effect in effects:
            if isinstance(effect, Publish):
                record_of = machine.records.get(effect.entry.stream)
                batch.entries.append((record_of.life.number if record_of is not None else 0, effect.entry))
        journal.commit(batch)
    journal.close()


def time_parts(folder: Path) -> dict[str, float]:
    """Return the seconds of the parts, in this process."""
    found = {}
    began = time.perf_counter()
    journal = SqliteJournal(folder)
    found["open journal"] = time.perf_counter() - began
    began = time.perf_counter()
    stored: list[tuple[JobSpec, Life]] = [(job.spec, decode_life(job.life)) for job in journal.jobs()]
    found["read jobs"] = time.perf_counter() - began
    machine = Machine()
    began = time.perf_counter()
    for spec, life in stored:
        machine.restore(spec, life)
    found["restore"] = time.perf_counter() - began
    began = time.perf_counter()
    machine.resume_all(1e6)
    found["go on"] = time.perf_counter() - began
    journal.close()
    return found


def time_start(folder: Path, runtime: Path) -> float:
    """Return the seconds from the start of the node's process until it is ready."""
    ours, theirs = os.pipe()
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trun.daemons.node", "--folder", str(folder)),
            *("--address", f"ipc://{runtime}/n.sock", "--workers", "2", "--ready-fd", str(theirs)),
        ],
        pass_fds=(theirs,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    line = os.read(ours, 65536)
    seconds = time.perf_counter() - began
    os.close(ours)
    process.send_signal(signal.SIGUSR1)
    process.wait()
    if b'"pid"' not in line:
        raise SystemExit(f"the node did not start: {line!r}")
    return seconds


def main() -> None:
    """Measure and print."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    with tempfile.TemporaryDirectory(prefix="trun-", dir="/tmp") as place:
        root = Path(place)
        for variable in ("STATE", "RUNTIME", "CONFIG"):
            (root / variable).mkdir(mode=0o700)
            os.environ[f"TRUN_{variable}_DIR"] = str(root / variable)
        folder = root / "STATE" / "d"
        folder.mkdir(mode=0o700)
        write_journal(folder, jobs)
        parts = [time_parts(folder) for _ in range(ROUNDS)]
        starts = [time_start(folder, root / "RUNTIME") for _ in range(ROUNDS)]
        print(f"| restart with {jobs:,} jobs | s |\n|---|---|")
        for name in parts[0]:
            print(f"| {name} | {statistics.median(part[name] for part in parts):.2f} |")
        print(f"| from exec to ready | {statistics.median(starts):.2f} (at most {BAR_S:g}) |")


if __name__ == "__main__":
    main()
