"""What a job costs in the machine alone: submit, dispatch, end; no pickle, no socket, no disk, no process.

Run ``python benchmarks/machine.py`` (``--quick`` for a tenth of the jobs). Times are of the processor, in microseconds
per job: the median of several rounds, with the fastest and the slowest. Peers have no counterpart of this part alone,
so the table stands by itself; the whole way is in ``benchmarks/jobs.py``.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

from trun.conditions import wire
from trun.conditions.algebra import And, Condition
from trun.conditions.atoms import IsCompleted
from trun.core.machine import Machine
from trun.messages import Completed, Ended, Failed, JobSpec, Submit
from trun.ports import Room

ROUNDS = 5
ONE = Room(1)


def slip(uid: str, when: Condition | None = None, **options: object) -> JobSpec:
    return JobSpec(uid=uid, name="f", when=b"" if when is None else wire.dumps(when), **options)  # type: ignore[arg-type]


def submit(*specs: JobSpec) -> Submit:
    return Submit(specs=specs)


def ended(uid: str) -> Ended:
    return Ended(uid=uid, epoch=1, outcome=Completed())


def no_op(count: int) -> Callable[[], None]:
    submits = [submit(slip(f"u{n}")) for n in range(count)]
    ends = [ended(f"u{n}") for n in range(count)]

    def run() -> None:
        machine = Machine()
        for one, end in zip(submits, ends, strict=True):
            machine.handle(one, 1.0)
            machine.dispatch(ONE, 1.0)
            machine.handle(end, 1.0)

    return run


def no_op_beside_waiting(count: int) -> Callable[[], None]:
    submits = [submit(slip(f"u{n}")) for n in range(count)]
    ends = [ended(f"u{n}") for n in range(count)]
    waiting = submit(slip("hub", hold=True), *[slip(f"w{n}", IsCompleted("hub")) for n in range(1000)])

    def run() -> None:
        machine = Machine()
        machine.handle(waiting, 1.0)
        for one, end in zip(submits, ends, strict=True):
            machine.handle(one, 1.0)
            machine.dispatch(ONE, 1.0)
            machine.handle(end, 1.0)

    return run


def with_resources(count: int) -> Callable[[], None]:
    submits = [submit(slip(f"u{n}", resources={"gpu": 1 + n % 3}, priority=n % 5)) for n in range(count)]

    def run() -> None:
        machine = Machine(resources={"gpu": 4})
        for one in submits:
            machine.handle(one, 1.0)
        left = count
        while left:
            machine.dispatch(Room(4), 1.0)
            for uid in machine.ledger.holders("gpu"):
                machine.handle(ended(uid), 1.0)
                left -= 1

    return run


def chain(count: int) -> Callable[[], None]:
    submits = [submit(slip("u0")), *[submit(slip(f"u{n}", IsCompleted(f"u{n - 1}"))) for n in range(1, count)]]
    ends = [ended(f"u{n}") for n in range(count)]

    def run() -> None:
        machine = Machine()
        for one in submits:
            machine.handle(one, 1.0)
        for end in ends:
            machine.dispatch(ONE, 1.0)
            machine.handle(end, 1.0)

    return run


def fan_in(count: int) -> Callable[[], None]:
    roots = submit(*[slip(f"r{n}") for n in range(10)])
    submits = [submit(slip(f"u{n}", And(*[IsCompleted(f"r{k}") for k in range(10)]))) for n in range(count)]

    def run() -> None:
        machine = Machine()
        machine.handle(roots, 1.0)
        for one in submits:
            machine.handle(one, 1.0)
        machine.dispatch(Room(10), 1.0)
        for n in range(10):
            machine.handle(ended(f"r{n}"), 1.0)

    return run


def fall(count: int) -> Callable[[], None]:
    specs = [slip("u0"), *[slip(f"u{n}", IsCompleted(f"u{n - 1}")) for n in range(1, count)]]
    batch = submit(*specs)
    end = Ended(uid="u0", epoch=1, outcome=Failed(kind="raised"))

    def run() -> None:
        machine = Machine()
        machine.handle(batch, 1.0)
        machine.dispatch(ONE, 1.0)
        machine.handle(end, 1.0)

    return run


ROWS: dict[str, Callable[[int], Callable[[], None]]] = {
    "no-op job: submit, start, end": no_op,
    "the same beside 1,000 waiting jobs": no_op_beside_waiting,
    "job with a counted resource and a priority": with_resources,
    "chain: submit, then run link by link": chain,
    "fan-in of 10: submit and fire": fan_in,
    "chain that falls at its first link": fall,
}


def measure(run: Callable[[], None], count: int, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        run()
        found.append((time.process_time() - began) / count * 1e6)
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="time the machine alone")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs, fewer rounds")
    options = parser.parse_args()
    count, rounds = (2_000, 3) if options.quick else (20_000, ROUNDS)
    print(f"microseconds of processor time per job, {count:,} jobs, median [min-max] of {rounds} rounds\n")
    print("| what | µs per job | jobs per second |")
    print("|---|---|---|")
    for name, make in ROWS.items():
        found = measure(make(count), count, rounds)
        median = statistics.median(found)
        print(f"| {name} | {median:.1f} [{found[0]:.1f}-{found[-1]:.1f}] | {1e6 / median:,.0f} |")


if __name__ == "__main__":
    main()
