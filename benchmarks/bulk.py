"""Bulk data over TLS beside the control channel (CURVE) and bare TCP: megabytes per second, and 10 MB there and back.

``python benchmarks/bulk.py [--quick]`` prints a table. Server and client are two processes on this machine; figures are
the best and the median of the repetitions, all variants one after the other in each repetition, so that a busy moment
meets all of them. The last two columns are megabytes per second of processor time at either end: what a core can do,
also where other work keeps it from doing so.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import zmq

from trun.adapters import transfer
from trun.adapters.bulk import BulkServer

MB = 1_000_000
USES = 1000


def serve(folder: Path, size: int) -> None:
    """Offer everything that is measured until standard input ends."""
    data = os.urandom(size)
    (folder / "file").write_bytes(data)
    server = BulkServer("127.0.0.1", folder / "keys")
    keys = zmq.curve_keypair()
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.curve_secretkey, router.curve_publickey, router.curve_server = keys[1], keys[0], True
    port = router.bind_to_random_port("tcp://127.0.0.1")
    listener = socket.create_server(("127.0.0.1", 0))
    told = {
        "address": server.address,
        "fingerprint": server.fingerprint,
        "value": server.ticket(data, digest=transfer.UNCHECKED, uses=USES),
        "file": server.ticket(folder / "file", uses=USES),
        "ten": server.ticket(data[: 10 * MB], digest=transfer.UNCHECKED, uses=USES),
        "put": server.accept(folder / "put", size, transfer.UNCHECKED, uses=USES),
        "put_ten": server.accept(folder / "ten", 10 * MB, transfer.UNCHECKED, uses=USES),
        "curve": f"tcp://127.0.0.1:{port}",
        "key": keys[0].decode(),
        "tcp": listener.getsockname()[1],
    }
    print(json.dumps(told), flush=True)
    poller = zmq.Poller()
    for one in (router, listener, sys.stdin):
        poller.register(one, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if sys.stdin.fileno() in ready or sys.stdin in ready:
            break
        if router in ready:
            who, question = router.recv_multipart()
            for start in range(0, int(question), MB):
                router.send_multipart([who, data[start : start + MB]])
        if listener.fileno() in ready or listener in ready:
            with listener.accept()[0] as sock:
                sock.sendall(data)
    server.close()
    router.close(linger=0)


def curve(told: dict[str, str], size: int) -> None:
    """Bring the data through the kind of socket that the control channel is."""
    mine = zmq.curve_keypair()
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.curve_publickey, dealer.curve_secretkey = mine
        dealer.curve_serverkey = told["key"].encode()
        dealer.connect(told["curve"])
        dealer.send(str(size).encode())
        got = 0
        while got < size:
            got += len(dealer.recv())


def bare(port: int, size: int) -> None:
    """Bring the data over TCP, in the clear."""
    view = memoryview(bytearray(size))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while view.nbytes:
            view = view[sock.recv_into(view) :]


def variants(told: dict[str, str], folder: Path, size: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return {name: (bytes moved, what moves them)}."""
    where = told["address"], told["fingerprint"]
    data, ten = bytes(size), bytes(10 * MB)

    def there_and_back() -> None:
        transfer.push(*where, told["put_ten"], [ten])
        transfer.fetch_bytes(*where, told["ten"], size_cap=size)

    return {
        "TCP, in the clear": (size, lambda: bare(int(told["tcp"]), size)),
        "CURVE": (size, lambda: curve(told, size)),
        "value, TLS": (size, lambda: transfer.fetch_bytes(*where, told["value"], size_cap=size)),
        "push to disk, TLS": (size, lambda: transfer.push(*where, told["put"], [data])),
        "file to disk, checked, TLS": (
            size,
            lambda: transfer.fetch(*where, told["file"], folder / "got", size_cap=size),
        ),
        "10 MB there and back, TLS": (20 * MB, there_and_back),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "BYTES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), int(options.serve[1]))
        return
    size, times = (50 * MB, 5) if options.quick else (200 * MB, 9)
    with tempfile.TemporaryDirectory(prefix="trun-bulk-") as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--serve", name, str(size)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            all_of_them = variants(told, folder, size)
            taken: dict[str, list[float]] = {variant: [] for variant in all_of_them}
            spent: dict[str, list[float]] = {variant: [0.0, 0.0] for variant in all_of_them}
            ends = psutil.Process(), psutil.Process(server.pid)
            for _ in range(times):
                for variant, (_, move) in all_of_them.items():
                    before = [sum(end.cpu_times()[:2]) for end in ends]
                    begin = time.perf_counter()
                    move()
                    taken[variant].append(time.perf_counter() - begin)
                    for i, end in enumerate(ends):
                        spent[variant][i] += sum(end.cpu_times()[:2]) - before[i]
            server.communicate("\n")
    load = os.getloadavg()[0]
    print(f"{size // MB} MB, {times} repetitions, {os.cpu_count()} cores, load {load:.1f}\n")
    print("| variant | best MB/s | median MB/s | best ms | median ms | MB per CPU s, client | server |")
    print("|---|---|---|---|---|---|---|")
    for variant, (moved, _) in all_of_them.items():
        best, median = min(taken[variant]), statistics.median(taken[variant])
        rates = f"{moved / best / MB:.0f} | {moved / median / MB:.0f}"
        cpu = " | ".join(f"{moved * times / seconds / MB:.0f}" if seconds else "-" for seconds in spent[variant])
        print(f"| {variant} | {rates} | {best * 1000:.0f} | {median * 1000:.0f} | {cpu} |")


if __name__ == "__main__":
    main()
