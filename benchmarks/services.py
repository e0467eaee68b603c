"""Daemons beside Dask, Parsl and IPyParallel in the same run: rates, chains, arrays, many clients, restart, memory.

    python benchmarks/services.py [--quick] [--rounds N] [--only ipc,tcp,dask,parsl,ipyparallel]

Two workers everywhere, one round in a fresh process each, medians. ``ipc`` is a daemon of trun at its owner's socket,
``tcp`` the same over an encrypted connection on loopback; both keep the durable store (SQLite, WAL, synchronous FULL).
Dask, Parsl and IPyParallel run without encryption and keep nothing (IPyParallel chains by ``after``). ``two``
chains jobs alternately over two daemons that hear each other directly. What is not installed is left out with its name.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

WORKERS = 2
CLIENTS = 100


def nothing() -> None:
    """Return at once."""


def same(value: Any) -> Any:
    """Return the argument."""
    return value


def trun_command(*words: str) -> str:
    """Run the command and return what it printed."""
    return subprocess.run([sys.executable, "-m", "trun", *words], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def daemon(name: str, *more: str) -> Iterator[dict[str, Any]]:
    """Run a daemon; the value is what ``service start --json`` says."""
    facts = json.loads(trun_command("service", "start", "--name", name, "--workers", str(WORKERS), *more, "--json"))
    try:
        yield facts
    finally:
        trun_command("service", "stop", name, "--kill")


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process that is its own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def array_ms(there_and_back: Callable[[Any], Any], rounds: int = 15) -> float:
    """Return the median of 10 MB there and back."""
    import numpy

    data = numpy.arange(1_250_000, dtype=float)
    there_and_back(data)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = there_and_back(data)
        times.append(time.perf_counter() - began)
        assert float(result[-1]) == float(data[-1])
    return statistics.median(times) * 1e3


def measure_daemon(listen: bool, jobs: int, links: int) -> dict[str, float]:
    """Measure one daemon, by its socket or over an encrypted connection."""
    import trun

    found: dict[str, float] = {}
    with daemon("bench", *(("--listen", "tcp://127.0.0.1:0") if listen else ())) as facts:
        found["idle_mb"] = memory_mb(facts["pid"])
        service = trun.remote_service("bench")
        wait([service.submit(same, number) for number in range(200)])
        began = time.perf_counter()
        made = [service.submit(nothing) for _ in range(jobs)]
        wait(made)
        found["jobs_per_s"] = jobs / (time.perf_counter() - began)
        began = time.perf_counter()
        with service:
            job = trun.submit(nothing)
            for _ in range(links - 1):
                job = trun.submit(nothing, when=job.iscompleted)
            job.result()
        found["chain_ms"] = (time.perf_counter() - began) / links * 1e3
        found["array_ms"] = array_ms(lambda data: service.submit(same, data).result())
        found.update(many_clients(service.address))
        service.close()
    return found


def many_clients(address: str) -> dict[str, float]:
    """Let 100 clients submit at once, each waiting for its acknowledgement before the next."""
    from trun.remotes import remote_service

    clients = [remote_service(address) for _ in range(CLIENTS)]
    times: list[float] = []
    each = 20

    def submit(client: Any) -> None:
        for _ in range(each):
            began = time.perf_counter()
            assert client.submit(nothing).id
            times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=submit, args=(client,)) for client in clients]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - began
    for client in clients:
        client.leave_quietly()
    times.sort()
    return {"acknowledged_per_s": len(times) / spent, "acknowledged_p99_ms": times[len(times) * 99 // 100] * 1e3}


def measure_two(jobs: int, links: int) -> dict[str, float]:
    """Chain jobs alternately over two daemons."""
    import trun

    links = min(links, 200)
    with daemon("one", "--listen", "tcp://127.0.0.1:0"), daemon("two", "--listen", "tcp://127.0.0.1:0"):
        services = [trun.remote_service(name) for name in ("one", "two")]
        wait([service.submit(same, 1) for service in services])
        first = job = services[0].submit(time.sleep, 3.0)  # until all others wait
        for number in range(1, links):
            job = services[number % 2].submit(nothing, when=job.iscompleted)
        assert job.id
        assert not first.done()
        first.result()
        began = time.perf_counter()
        job.result()
        found = {"chain_ms": (time.perf_counter() - began) / links * 1e3}
        for service in services:
            service.close()
    return found


def measure_dask(jobs: int, links: int) -> dict[str, float]:
    """Measure Dask's local cluster."""
    from distributed import Client, LocalCluster

    jobs, links = min(jobs, 4000), min(links, 300)
    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.gather(client.map(same, range(200)))
        began = time.perf_counter()
        client.gather([client.submit(nothing, pure=False) for _ in range(jobs)])
        found = {"jobs_per_s": jobs / (time.perf_counter() - began)}
        began = time.perf_counter()
        last = client.submit(same, 0, pure=False)
        for _ in range(links - 1):
            last = client.submit(same, last, pure=False)
        last.result()
        found["chain_ms"] = (time.perf_counter() - began) / links * 1e3
        found["array_ms"] = array_ms(lambda data: client.submit(same, data, pure=False).result())
    return found


def measure_ipyparallel(jobs: int, links: int) -> dict[str, float]:
    """Measure IPyParallel's local cluster with its task scheduler."""
    import ipyparallel

    jobs, links = min(jobs, 4000), min(links, 300)
    with ipyparallel.Cluster(n=WORKERS, log_level=40) as client:
        view = client.load_balanced_view()
        view.map_sync(same, range(200))
        began = time.perf_counter()
        client.wait([view.apply_async(nothing) for _ in range(jobs)])
        found = {"jobs_per_s": jobs / (time.perf_counter() - began)}
        began = time.perf_counter()
        last = view.apply_async(nothing)
        for _ in range(links - 1):
            with view.temp_flags(after=[last]):
                last = view.apply_async(nothing)
        last.get()
        found["chain_ms"] = (time.perf_counter() - began) / links * 1e3
        found["array_ms"] = array_ms(lambda data: view.apply_sync(same, data))
    return found


def measure_parsl(jobs: int, links: int) -> dict[str, float]:
    """Measure Parsl's high-throughput executor, unencrypted."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    jobs, links = min(jobs, 4000), min(links, 300)
    # Its own processes are scripts beside the interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    executor = HighThroughputExecutor(
        address="127.0.0.1",
        cores_per_worker=0.5,
        max_workers_per_node=WORKERS,
        encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Config(executors=[executor], run_dir=folder, usage_tracking=0, initialize_logging=False)
        with parsl.load(config):
            empty, echo = parsl.python_app(nothing), parsl.python_app(same)
            for future in [echo(number) for number in range(200)]:
                future.result()
            began = time.perf_counter()
            for future in [empty() for _ in range(jobs)]:
                future.result()
            found = {"jobs_per_s": jobs / (time.perf_counter() - began)}
            began = time.perf_counter()
            last = echo(0)
            for _ in range(links - 1):
                last = echo(last)
            last.result()
            found["chain_ms"] = (time.perf_counter() - began) / links * 1e3
            found["array_ms"] = array_ms(lambda data: echo(data).result())
    return found


ENGINES: dict[str, tuple[str, Callable[[int, int], dict[str, float]]]] = {
    "ipc": ("trun", lambda jobs, links: measure_daemon(False, jobs, links)),
    "tcp": ("trun", lambda jobs, links: measure_daemon(True, jobs, links)),
    "two": ("trun", measure_two),
    "dask": ("distributed", measure_dask),
    "parsl": ("parsl", measure_parsl),
    "ipyparallel": ("ipyparallel", measure_ipyparallel),
}
COLUMNS = {
    "jobs_per_s": ("jobs/s", "{:,.0f}"),
    "chain_ms": ("chain ms/link", "{:.2f}"),
    "array_ms": ("10 MB ms", "{:.1f}"),
    "acknowledged_per_s": ("100 clients: acknowledged/s", "{:,.0f}"),
    "acknowledged_p99_ms": ("p99 ms", "{:.1f}"),
    "idle_mb": ("idle MB", "{:.0f}"),
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
        print(json.dumps(ENGINES[options.measure][1](jobs, links)))
        return
    names = []
    for name in options.only.split(","):
        if importlib.util.find_spec(ENGINES[name][0]) is None:
            print(f"{name} left out: {ENGINES[name][0]} is not installed (pip install 'trun[bench]')")
        else:
            names.append(name)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(one_round(name, options.quick))
    medians = {
        name: {key: statistics.median(one[key] for one in rounds if key in one) for key in rounds[0]}
        for name, rounds in found.items()
        if rounds and rounds[0]
    }
    show(medians)


def one_round(name: str, quick: bool) -> dict[str, float]:
    """Measure one engine in a process and folders of its own."""
    with tempfile.TemporaryDirectory(prefix="trun-", dir="/tmp") as folder:
        places = {f"TRUN_{place}_DIR": f"{folder}/{place[0].lower()}" for place in ("STATE", "RUNTIME", "CONFIG")}
        command = [sys.executable, __file__, "--measure", name, *(["--quick"] if quick else [])]
        done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(medians: dict[str, dict[str, float]]) -> None:
    """Print the table, with the rate as a multiple of Dask's."""
    base = medians.get("dask", {}).get("jobs_per_s")
    print("| engine |" + "".join(f" {head} |" for head, _ in COLUMNS.values()) + " jobs/s against Dask |")
    print("|---|" + "---|" * (len(COLUMNS) + 1))
    for name, values in medians.items():
        cells = [shape.format(values[key]) if key in values else "" for key, (_, shape) in COLUMNS.items()]
        ratio = f"{values['jobs_per_s'] / base:.1f}" if base and "jobs_per_s" in values else ""
        print(f"| {name} | " + " | ".join([*cells, ratio]) + " |")


if __name__ == "__main__":
    main()
