"""The resolver beside ``graphlib.TopologicalSorter`` and the seed's shape, in the same run.

``python benchmarks/resolver.py [--quick] [--repeats N]`` prints three tables: kinds of work over 100,000 waiting
registrations (also with callbacks, through ``Depends``), the bars, and how the cost grows with their number; with
``--million`` the last one alone, up to 1,000,000, which takes some minutes more and 2 GB. Each figure is the median of
the runs, each in a fresh process with a seed of its own and the cyclic collector off. Times are those of the processor,
so that a busy machine disturbs them less; p50 and p99 are of the clock on the wall.

``and``: each registration waits for 10 of as many atoms as there are registrations; ``tree``: any of 5 and any of 5;
``hot``: one barrier shared by all and 9 of the atoms. Atoms settle in random order until every registration has fired.
Memory is the growth of the resident set while registering; atoms and the owners' names exist before, the conditions do
not (the bars show it also with conditions that the caller keeps). The seed's shape is PARK's ``Depends``, typed anew
with its thirty faults mended: sets of jobs per atom, trees of two, the whole condition asked again at each settlement.
"""

from __future__ import annotations

import argparse
import gc
import graphlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from trun.conditions.algebra import And, Condition, Or
from trun.conditions.atoms import IsCompleted
from trun.conditions.depends import Depends
from trun.conditions.resolver import Resolver
from trun.messages import Completed, Entry

FAN_IN = 10
DONE = Completed()


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def picks(work: str, count: int, seed: int) -> Iterator[list[int]]:
    """Yield for each registration the numbers of its atoms; atom 0 is the barrier of ``hot``."""
    rng = random.Random(seed)
    for _ in range(count):
        chosen = rng.sample(range(1, count), FAN_IN)
        if work == "hot":
            chosen[0] = 0
        yield chosen


def order(count: int, seed: int) -> list[int]:
    found = list(range(count))
    random.Random(seed + 1).shuffle(found)
    return found


class Trun:
    """Our resolver; ``notify`` returns how many fired."""

    def __init__(self, work: str, count: int) -> None:
        self.work = work
        self.atoms = [IsCompleted(f"{number:032x}") for number in range(count)]
        self.owners = [f"{number:032x}" for number in range(count)]
        self.resolver = Resolver()
        self.kept: list[Condition] | None = None

    def condition(self, chosen: list[int]) -> Condition:
        atoms = [self.atoms[number] for number in chosen]
        found: Condition = Or(*atoms[:5]) & Or(*atoms[5:]) if self.work == "tree" else And(*atoms)
        if self.kept is not None:
            self.kept.append(found)
        return found

    def register(self, number: int, chosen: list[int]) -> None:
        self.resolver.register(self.owners[number], self.condition(chosen))

    def settler(self) -> Callable[[int], int]:
        hear, subjects = self.resolver.hear, [atom.subject for atom in self.atoms]
        return lambda number: len(hear(subjects[number], DONE))


class TrunKept(Trun):
    """The same, with conditions that the caller made before and keeps."""

    def __init__(self, work: str, count: int) -> None:
        super().__init__(work, count)
        self.ready: list[Condition] = []

    def prepare(self, chosen: list[int]) -> None:
        self.ready.append(self.condition(chosen))

    def register(self, number: int, chosen: list[int]) -> None:
        self.resolver.register(self.owners[number], self.ready[number])


class Callbacks(Trun):
    """Depends: entries of streams come in, callbacks count."""

    def __init__(self, work: str, count: int) -> None:
        super().__init__(work, count)
        self.depends = Depends()
        self.fired = 0

    def ready(self) -> None:
        self.fired += 1

    def register(self, number: int, chosen: list[int]) -> None:
        self.depends.register(self.condition(chosen), self.ready, self.ready)

    def settler(self) -> Callable[[int], int]:
        entries = [Entry(stream=atom.subject, seq=1, epoch=1, time=0.0, event=DONE) for atom in self.atoms]
        put = self.depends.put

        def settle(number: int) -> int:
            before = self.fired
            put(entries[number])
            return self.fired - before

        return settle


class Graphlib:
    """graphlib.TopologicalSorter: conjunctions only, no early end, no memory of reasons."""

    def __init__(self, work: str, count: int) -> None:
        self.count = count
        self.sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
        for number in range(count):
            self.sorter.add(number)
        self.names = list(range(count, 2 * count))

    def register(self, number: int, chosen: list[int]) -> None:
        self.sorter.add(self.names[number], *chosen)

    def settler(self) -> Callable[[int], int]:
        sorter = self.sorter
        sorter.prepare()
        sorter.get_ready()
        done, ready = sorter.done, sorter.get_ready

        def settle(number: int) -> int:
            done(number)
            return len(ready())

        return settle


class Cancelled(Exception):
    """The seed's way to say that a condition was cancelled."""


class Flag:
    """An atom in the seed's shape."""

    __slots__ = ("id", "is_ready")

    def __init__(self, id: int) -> None:
        self.id = id
        self.is_ready = False

    @property
    def ready(self) -> bool:
        return self.is_ready

    @property
    def cancelled(self) -> bool:
        return False

    @property
    def depends(self) -> set[Any]:
        return {self}


class Pair:
    """A gate of two in the seed's shape."""

    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    @property
    def depends(self) -> set[Any]:
        found: set[Any] = self.left.depends | self.right.depends
        return found


class Both(Pair):
    @property
    def ready(self) -> bool:
        if self.cancelled:
            raise Cancelled
        return bool(self.left.ready and self.right.ready)

    @property
    def cancelled(self) -> bool:
        return bool(self.left.cancelled or self.right.cancelled)


class Either(Pair):
    @property
    def ready(self) -> bool:
        try:
            if self.left.ready:
                return True
        except Cancelled:
            pass
        return bool(self.right.ready)

    @property
    def cancelled(self) -> bool:
        return bool(self.left.cancelled and self.right.cancelled)


def chain(pair: type[Pair], parts: list[Any]) -> Any:
    found = parts[0]
    for part in parts[1:]:
        found = pair(found, part)
    return found


class Seed:
    """PARK's Depends with its faults mended and its shape kept."""

    def __init__(self, work: str, count: int) -> None:
        self.work = work
        self.flags = [Flag(number) for number in range(count)]
        self.jobs: dict[int, Any] = {}
        self.dependencies: dict[int, set[int]] = {}

    def register(self, number: int, chosen: list[int]) -> None:
        flags = [self.flags[one] for one in chosen]
        if self.work == "tree":
            condition = Both(chain(Either, flags[:5]), chain(Either, flags[5:]))
        else:
            condition = chain(Both, flags)
        self.jobs[number] = condition
        for flag in condition.depends:
            self.dependencies.setdefault(flag.id, set()).add(number)

    def settler(self) -> Callable[[int], int]:
        jobs, dependencies, flags = self.jobs, self.dependencies, self.flags

        def settle(number: int) -> int:
            flags[number].is_ready = True
            fired = 0
            for job in dependencies.pop(number, ()):
                condition = jobs.get(job)
                if condition is None:
                    continue
                if condition.cancelled:
                    del jobs[job]
                elif condition.ready:
                    del jobs[job]
                    fired += 1
            return fired

        return settle


ENGINES: dict[str, type[Any]] = {
    "trun": Trun,
    "trun, kept": TrunKept,
    "Depends": Callbacks,
    "graphlib": Graphlib,
    "seed's shape": Seed,
}


def measure(engine: str, work: str, count: int, seed: int) -> dict[str, float]:
    """Register, settle everything, and say what it cost."""
    gc.disable()
    chosen = list(picks(work, count, seed))
    numbers = order(count, seed)
    subject = ENGINES[engine](work, count)
    if engine == "trun, kept":
        for one in chosen:
            subject.prepare(one)
    processor, clock = time.process_time, time.perf_counter
    memory, began = resident(), processor()
    for number, one in enumerate(chosen):
        subject.register(number, one)
    build, memory = processor() - began, resident() - memory
    settle = subject.settler()
    fired, barrier, to_fire = 0, 0.0, []
    for number in numbers:
        if number == 0:
            began = processor()
            fired += settle(number)
            barrier = processor() - began
            continue
        before = clock()
        found = settle(number)
        spent = clock() - before
        if found:
            fired += found
            to_fire.append(spent)
    assert fired == count, (engine, work, fired)
    # Once more without the clock in between, for the cost of one notification.
    del subject, settle, found
    subject = ENGINES[engine](work, count)
    for number, one in enumerate(chosen):
        if engine == "trun, kept":
            subject.prepare(one)
        subject.register(number, one)
    settle = subject.settler()
    began = processor()
    for number in numbers:
        settle(number)
    spent = processor() - began
    to_fire.sort()
    return {
        "notify_us": spent / count * 1e6,
        "edge_ns": spent / count / FAN_IN * 1e9,
        "p50_us": to_fire[len(to_fire) // 2] * 1e6,
        "p99_us": to_fire[len(to_fire) * 99 // 100] * 1e6,
        "build_us": build / count * 1e6,
        "bytes": memory / count,
        "barrier_ms": barrier * 1e3,
    }


def run(engine: str, work: str, count: int, repeats: int) -> dict[str, float]:
    """Return the medians of some runs, each in a process of its own."""
    found: list[dict[str, float]] = []
    for seed in range(repeats):
        arguments = [sys.executable, __file__, "--one", engine, work, str(count), str(seed)]
        found.append(json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}\n")
    for row in (head, ["-" * width for width in widths], *rows):
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join([first.strip().ljust(widths[0]), *others]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The resolver beside graphlib and the seed's shape.")
    parser.add_argument("--quick", action="store_true", help="10,000 registrations instead of 100,000, one run each")
    parser.add_argument("--million", action="store_true", help="only how the cost grows, up to 1,000,000")
    parser.add_argument("--repeats", type=int, default=1, help="runs for each figure")
    parser.add_argument("--one", nargs=4, metavar=("ENGINE", "WORK", "COUNT", "SEED"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        engine, work, count, seed = chosen.one
        print(json.dumps(measure(engine, work, int(count), int(seed))))
        return
    if chosen.million:
        grow([1_000, 100_000, 1_000_000], chosen.repeats)
        return
    compare(10_000 if chosen.quick else 100_000, chosen.repeats)
    grow([1_000, 10_000] if chosen.quick else [1_000, 100_000], chosen.repeats)


def compare(count: int, repeats: int) -> None:
    """Print the kinds of work, engine by engine, and the bars."""
    rows, all_found = [], {}
    names = ("notify_us", "p50_us", "p99_us", "build_us", "bytes", "barrier_ms")
    for work in ("and", "tree", "hot"):
        for engine in ("trun", "Depends", "graphlib", "seed's shape"):
            if (engine, work) == ("graphlib", "tree"):
                continue
            found = run(engine, work, count, 1 if engine == "seed's shape" else repeats)
            all_found[engine, work] = found
            ratio = found["notify_us"] / all_found["trun", work]["notify_us"]
            rows.append([work, engine, *[f"{found[name]:.1f}" for name in names], f"{ratio:.1f}"])
    head = ["work", "engine", "µs/notification", "fire p50 µs", "p99 µs", "build µs", "bytes", "barrier ms", "ratio"]
    table(f"{count:,} waiting registrations; ratio of µs per notification to trun's", head, rows)
    ours, seed = all_found["trun", "and"], all_found["seed's shape", "and"]
    kept = run("trun, kept", "and", count, repeats)
    bars = [
        ["µs per notification (and)", "<= 4", f"{ours['notify_us']:.1f}"],
        ["notify to fire (and), p50 µs", "<= 3", f"{ours['p50_us']:.1f}"],
        ["times the seed's shape (and)", ">= 25", f"{seed['notify_us'] / ours['notify_us']:.0f}"],
        ["bytes per registration, condition kept by the caller", "<= 450", f"{kept['bytes']:.0f}"],
        ["bytes per registration, condition counted too", "<= 450", f"{ours['bytes']:.0f}"],
        [
            "a tree against a conjunction, times",
            "<= 1.6",
            f"{all_found['trun', 'tree']['notify_us'] / ours['notify_us']:.1f}",
        ],
        ["bytes per tree, condition counted too", "<= 600", f"{all_found['trun', 'tree']['bytes']:.0f}"],
        ["barrier over all (hot), ms", "<= 15", f"{all_found['trun', 'hot']['barrier_ms']:.1f}"],
    ]
    table("Bars", ["what", "bar", "found"], bars)


def grow(counts: list[int], repeats: int) -> None:
    """Print how the cost depends on how many wait."""
    base = counts[1]
    found = {count: run("trun", "and", count, repeats if count <= base else 1) for count in counts}
    peers = {count: run("graphlib", "and", count, repeats if count <= base else 1) for count in counts}
    rows = [
        [
            f"{count:,}",
            *[f"{found[count][name]:.2f}" for name in ("notify_us", "p50_us")],
            f"{found[count]['bytes']:.0f}",
            f"{found[count]['bytes'] * count / 1e6:.0f}",
            f"{found[count]['notify_us'] / found[base]['notify_us']:.2f}",
            f"{peers[count]['notify_us']:.2f}",
        ]
        for count in counts
    ]
    head = ["registrations", "µs/notification", "fire p50 µs", "bytes", "MB", f"times {base:,}", "graphlib µs"]
    table("How the cost grows (and)", head, rows)


if __name__ == "__main__":
    main()
