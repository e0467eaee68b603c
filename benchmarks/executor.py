"""The ``processes`` executor alone, beside ``concurrent.futures.ProcessPoolExecutor`` in the same run.

``python benchmarks/executor.py [WORKERS]`` prints a table: no-op jobs per second, warm latency, a 10 MB array there and
back, fresh processes per second. Our figures include pickling the calls; engine, journal and wire are not in them.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import select
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trun.adapters import pickles
from trun.adapters.blobs import BlobFolder
from trun.executors.processes import Processes
from trun.messages import AnyReport, Call, Completed, Ended, JobSpec, Returned
from trun.ports import Order

JOBS, WARM, ARRAYS, FRESH = 30_000, 300, 20, 300


def nothing(value: Any = None) -> None:
    """Do nothing."""


def same(value: Any) -> Any:
    """Give back what was given."""
    return value


class Bench:
    """An executor and the shortest engine that can drive it."""

    def __init__(self, workers: int, folder: Path) -> None:
        self.folder = folder
        self.executor = Processes(workers, folder=folder)
        self.executor.open()
        self.number = 0

    def order(self, fn: Any, *args: Any, **options: Any) -> Order:
        self.number += 1
        uid = f"{self.number:08x}"
        digest, data = pickles.dump_function(fn)
        payload, _ = pickles.dump_call(args, {}, big=pickles.blob_writer(self.folder))
        spec = JobSpec(uid=uid, name="bench", call=Call(digest, payload), **options)
        return Order(uid=uid, epoch=1, run=1, attempt=1, id=uid, spec=spec, function=data, context=b"", inputs={})

    def some(self) -> list[AnyReport]:
        while True:
            found = self.executor.poll(time.time())
            if found:
                return found
            deadline = self.executor.next_deadline()
            wait = 5.0 if deadline is None else max(0.0, deadline - time.time())
            select.select(self.executor.fds(), [], [], wait)

    def run(self, orders: list[Order]) -> float:
        began, done, known = time.perf_counter(), 0, {order.uid: order for order in orders}
        todo = list(reversed(orders))
        while done < len(orders):
            room = self.executor.room()
            count = room.idle + room.ahead
            if count and todo:
                self.executor.submit(todo[: -count - 1 : -1])
                del todo[-count:]
            for report in self.some():
                if isinstance(report, Returned):
                    todo.append(known[report.uid])
                else:
                    assert isinstance(report, Ended), report
                    assert isinstance(report.outcome, Completed), report
                    done += 1
        return time.perf_counter() - began


def ours(workers: int, array: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(workers, Path(folder))
        bench.run([bench.order(nothing, 1) for _ in range(200)])
        began = time.perf_counter()
        orders = [bench.order(nothing, 1) for _ in range(JOBS)]
        pickling = time.perf_counter() - began
        rate = JOBS / (bench.run(orders) + pickling)
        latencies, arrays = [], []
        for _ in range(WARM):
            began = time.perf_counter()
            bench.run([bench.order(nothing, 1)])
            latencies.append(time.perf_counter() - began)
        for _ in range(ARRAYS):
            began = time.perf_counter()
            order = bench.order(same, array)
            bench.executor.submit([order])
            (report,) = bench.some()
            assert isinstance(report, Ended)
            assert isinstance(report.outcome, Completed)
            assert report.outcome.result is not None
            blobs = BlobFolder(bench.folder / "blobs")
            assert pickles.load_result(report.outcome.result, blobs.open).nbytes == array.nbytes
            arrays.append(time.perf_counter() - began)
            for path in blobs.path.iterdir():  # as a service does: disk cache that is new to the machine is slow
                blobs.remove(path.name)
        fresh = FRESH / bench.run([bench.order(nothing, 1, isolation="fresh") for _ in range(FRESH)])
        bench.executor.close()
    return {
        "no-op jobs /s": rate,
        "warm latency, ms": statistics.median(latencies) * 1e3,
        "10 MB array there and back, ms": statistics.median(arrays) * 1e3,
        "fresh processes /s": fresh,
    }


def pool(workers: int, array: Any) -> dict[str, float]:
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as executor:
        list(executor.map(nothing, range(200)))
        began = time.perf_counter()
        for future in [executor.submit(nothing, 1) for _ in range(JOBS)]:
            future.result()
        rate = JOBS / (time.perf_counter() - began)
        latencies, arrays = [], []
        for _ in range(WARM):
            began = time.perf_counter()
            executor.submit(nothing, 1).result()
            latencies.append(time.perf_counter() - began)
        for _ in range(ARRAYS):
            began = time.perf_counter()
            assert executor.submit(same, array).result().nbytes == array.nbytes
            arrays.append(time.perf_counter() - began)
    count = FRESH // 10
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as executor:
        began = time.perf_counter()
        for future in [executor.submit(nothing, 1) for _ in range(count)]:
            future.result()
        fresh = count / (time.perf_counter() - began)
    return {
        "no-op jobs /s": rate,
        "warm latency, ms": statistics.median(latencies) * 1e3,
        "10 MB array there and back, ms": statistics.median(arrays) * 1e3,
        "fresh processes /s": fresh,
    }


def main() -> None:
    """Print the table."""
    import numpy

    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    array = numpy.zeros(10_000_000 // 8) + 1.5
    mine, theirs = ours(workers, array), pool(workers, array)
    print(f"{workers} workers{'':24} {'trun':>12} {'ProcessPool':>12} {'ratio':>7}")
    for name, figure in mine.items():
        better = figure / theirs[name] if "/s" in name else theirs[name] / figure
        print(f"{name:33} {figure:12.2f} {theirs[name]:12.2f} {better:6.1f}x")


if __name__ == "__main__":
    main()
