"""Jobs through a local service beside ProcessPoolExecutor, loky and Dask, in the same run, as medians and ratios.

    python benchmarks/jobs.py [--quick] [--rounds N] [--only trun,pool]

Each engine runs in a fresh process per round, rounds are interleaved. Two workers everywhere. The service keeps its
durable store (SQLite, WAL, synchronous FULL). Rates are no-op jobs from the first submit to the last result; chains are
gated by conditions submitted beforehand (trun) or by a done-callback that submits the next link (the others).
``CPU us/job`` is the processor time of all processes together, which says more than the clock where others work too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import Any

WORKERS = 2


def nothing() -> None:
    """Return at once."""


def same(value: Any) -> Any:
    """Return the argument."""
    return value


def processor_s() -> float:
    """Return the processor time of this process and all below it so far: neighbours on the machine change it little."""
    ticks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            ticks[int(entry.name)] = sum(int(task.read_text().split()[0]) for task in entry.glob("task/*/schedstat"))
        except (OSError, ValueError):
            continue  # it has ended, or this is not Linux
    spent, wanted = 0, [os.getpid()]
    while wanted:
        pid = wanted.pop()
        spent += ticks.get(pid, 0)
        wanted += [child for child, parent in parents.items() if parent == pid]
    return spent / 1e9


def measure_trun(jobs: int, links: int) -> dict[str, float]:
    """Measure a local service with its durable store."""
    import trun

    found: dict[str, float] = {}
    began = time.perf_counter()
    with trun.local(workers=WORKERS) as service:
        trun.submit(nothing).result()
        found["start_s"] = time.perf_counter() - began
        for group in (trun.map(same, range(200)),):
            group.results()
        spent = processor_s()
        began = time.perf_counter()
        cpu = time.thread_time()
        made = [trun.submit(nothing) for _ in range(jobs)]
        found["submit_cpu_us"] = (time.thread_time() - cpu) / jobs * 1e6
        submitted = time.perf_counter()
        wait(made)
        ended = time.perf_counter()
        found["cpu_us"] = (processor_s() - spent) / jobs * 1e6
        found["jobs_per_s"] = jobs / (ended - began)
        found["submit_us"] = (submitted - began) / jobs * 1e6
        del made
        trips = []
        for _ in range(100):
            began = time.perf_counter()
            trun.submit(nothing).result()
            trips.append(time.perf_counter() - began)
        found["round_trip_ms"] = statistics.median(trips) * 1e3
        began = time.perf_counter()
        job = trun.submit(nothing)
        for _ in range(links - 1):
            job = trun.submit(nothing, when=job.iscompleted)
        job.result()
        found["chain_ms"] = (time.perf_counter() - began) / links * 1e3
        found["array_ms"] = _array(lambda data: trun.submit(same, data).result())
        began = time.perf_counter()
        service.close()
        found["close_s"] = time.perf_counter() - began
    return found


def _array(there_and_back: Callable[[Any], Any]) -> float:
    import numpy

    data = numpy.arange(1_250_000, dtype=float)
    there_and_back(data)
    times = []
    for _ in range(15):
        began = time.perf_counter()
        result = there_and_back(data)
        times.append(time.perf_counter() - began)
        assert float(result[-1]) == float(data[-1])
    return statistics.median(times) * 1e3


def measure_executor(make: Callable[[], Executor], jobs: int, links: int) -> dict[str, float]:
    """Measure anything that is a ``concurrent.futures.Executor``."""
    found: dict[str, float] = {}
    began = time.perf_counter()
    pool = make()
    pool.submit(nothing).result()
    found["start_s"] = time.perf_counter() - began
    wait([pool.submit(same, i) for i in range(200)])
    spent = processor_s()
    began = time.perf_counter()
    cpu = time.thread_time()
    futures = [pool.submit(nothing) for _ in range(jobs)]
    found["submit_cpu_us"] = (time.thread_time() - cpu) / jobs * 1e6
    submitted = time.perf_counter()
    wait(futures)
    found["jobs_per_s"] = jobs / (time.perf_counter() - began)
    found["cpu_us"] = (processor_s() - spent) / jobs * 1e6
    found["submit_us"] = (submitted - began) / jobs * 1e6
    trips = []
    for _ in range(100):
        began = time.perf_counter()
        pool.submit(nothing).result()
        trips.append(time.perf_counter() - began)
    found["round_trip_ms"] = statistics.median(trips) * 1e3
    found["chain_ms"] = _chain(pool, links)
    found["array_ms"] = _array(lambda data: pool.submit(same, data).result())
    began = time.perf_counter()
    pool.shutdown()
    found["close_s"] = time.perf_counter() - began
    return found


def _chain(pool: Executor, links: int) -> float:
    last: Future[None] = Future()
    left = links

    def following(_: Any) -> None:
        nonlocal left
        left -= 1
        if left:
            pool.submit(nothing).add_done_callback(following)
        else:
            last.set_result(None)

    began = time.perf_counter()
    pool.submit(nothing).add_done_callback(following)
    last.result()
    return (time.perf_counter() - began) / links * 1e3


def measure_pool(jobs: int, links: int) -> dict[str, float]:
    """Measure the standard library's pool of processes."""
    from concurrent.futures import ProcessPoolExecutor

    return measure_executor(lambda: ProcessPoolExecutor(WORKERS), jobs, links)


def measure_loky(jobs: int, links: int) -> dict[str, float]:
    """Measure loky."""
    import loky

    return measure_executor(lambda: loky.ProcessPoolExecutor(WORKERS), jobs, links)


def measure_dask(jobs: int, links: int) -> dict[str, float]:
    """Measure Dask's local cluster with its own futures; ``pure=False``, so that every job runs."""
    from distributed import Client, LocalCluster

    class Dask(Executor):
        def __init__(self) -> None:
            self.cluster = LocalCluster(
                n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
            )
            self.client = Client(self.cluster)
            self.pool = self.client.get_executor(pure=False)

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            made: Future[Any] = self.pool.submit(fn, *args, **kwargs)
            return made

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            self.client.close()
            self.cluster.close()

    return measure_executor(Dask, min(jobs, 4000), min(links, 300))


ENGINES = {"trun": measure_trun, "pool": measure_pool, "loky": measure_loky, "dask": measure_dask}
COLUMNS = {
    "jobs_per_s": ("jobs/s", "{:,.0f}"),
    "submit_us": ("submit us", "{:.1f}"),
    "submit_cpu_us": ("its CPU us", "{:.1f}"),
    "cpu_us": ("CPU us/job", "{:.0f}"),
    "round_trip_ms": ("round trip ms", "{:.2f}"),
    "chain_ms": ("chain ms/link", "{:.2f}"),
    "array_ms": ("10 MB ms", "{:.1f}"),
    "start_s": ("start s", "{:.2f}"),
    "close_s": ("close s", "{:.2f}"),
}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ENGINES))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jobs, links = (2000, 200) if options.quick else (20_000, 1000)
    if options.measure:
        print(json.dumps(ENGINES[options.measure](jobs, links)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.only.split(",")}
    for _ in range(1 if options.quick else options.rounds):
        for name, rounds in found.items():
            measured = _measure(name, options.quick)
            if measured:
                rounds.append(measured)
    _print({name: rounds for name, rounds in found.items() if rounds})


def _measure(name: str, quick: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="trun-") as folder:
        own = {f"TRUN_{kind}_DIR": f"{folder}/{kind.lower()}" for kind in ("STATE", "RUNTIME", "CONFIG")}
        env = {**os.environ, **own}
        command = [sys.executable, __file__, "--measure", name, *(["--quick"] if quick else [])]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        print(f"{name}: not measured ({last[0]})")
        return {}
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def _print(found: dict[str, list[dict[str, float]]]) -> None:
    print("| engine | " + " | ".join(title for title, _ in COLUMNS.values()) + " | jobs/s against pool |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    medians = {
        name: {key: statistics.median(r[key] for r in rounds) for key in COLUMNS} for name, rounds in found.items()
    }
    base = medians.get("pool", {}).get("jobs_per_s")
    for name, row in medians.items():
        cells = [form.format(row[key]) for key, (_, form) in COLUMNS.items()]
        ratio = f"{row['jobs_per_s'] / base:.2f}" if base else "-"
        print(f"| {name} | " + " | ".join(cells) + f" | {ratio} |")


if __name__ == "__main__":
    main()
