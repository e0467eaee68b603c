"""The wire, the journal and the streams alone, beside bare ZeroMQ and bare SQLite in the same run.

``python benchmarks/stream.py`` prints a table of medians over interleaved rounds. The other end of the wire is a
process of its own; messages are ``Credit`` (16 bytes), one call of ``send`` each. The bare peers send and store bytes
that are ready made: what we cost more is encoding, checking who speaks, waking the thread, and finding things again.
"""

from __future__ import annotations

import os
import select
import sqlite3
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import zmq

from trun.adapters.sqlite import SqliteJournal
from trun.adapters.wire import Link, RouterEndpoint
from trun.core.codec import decode_life, encode
from trun.core.record import JobState, Life
from trun.engine.streams import Subscriptions
from trun.messages import Answer, Bye, Call, Completed, Credit, Entry, JobSpec, Payload, Submitted
from trun.ports import Batch

MESSAGES, ROUND_TRIPS, ROUNDS = 100_000, 1_000, 5
COMMITS, ROWS, JOBS = 40, 1_000, 100_000


# -- the wire ---------------------------------------------------------------------------------------------------------


def in_child(function: Callable[[], None]) -> int:
    """Call the function in a process of its own and return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def count_and_echo(address: str) -> None:
    """Take MESSAGES and say so, then answer each message, until the peer says goodbye."""
    endpoint = RouterEndpoint(address)
    taken = 0
    while True:
        batches = endpoint.receive()
        if not batches:
            select.select(endpoint.fds(), [], [])
        for peer, requests in batches:
            if type(requests[-1]) is Bye:
                endpoint.close()
                return
            taken += len(requests)
            if taken >= MESSAGES:
                endpoint.send(peer, [Answer(token="")])


def our_wire(folder: Path) -> dict[str, float]:
    """Measure Link and RouterEndpoint."""
    address = f"ipc://{folder}/ours"
    child = in_child(lambda: count_and_echo(address))
    heard = threading.Semaphore(0)
    link = Link(address)
    link.on_messages(lambda answers: heard.release(len(answers)))
    began = time.perf_counter()
    for _ in range(MESSAGES):
        link.send((Credit(entries=1),))
    sent = time.perf_counter() - began
    heard.acquire()
    rate = MESSAGES / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        link.send((Credit(entries=1),))
        heard.acquire()
    trip = (time.perf_counter() - began) / ROUND_TRIPS
    link.send([Bye()])
    link.close()
    os.waitpid(child, 0)
    return {"messages /s": rate, "send, us": sent / MESSAGES * 1e6, "round trip, us": trip * 1e6}


def bare_echo(address: str) -> None:
    """Do the same without trun."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVHWM, 0)
    router.bind(address)
    taken = 0
    while True:
        peer, data = router.recv_multipart()
        if data == b"bye":
            return
        taken += 1
        if taken >= MESSAGES:
            router.send_multipart((peer, b"x"))


def bare_wire(folder: Path) -> dict[str, float]:
    """Measure DEALER and ROUTER, one frame for each message, in the caller's thread."""
    address = f"ipc://{folder}/bare"
    child = in_child(lambda: bare_echo(address))
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDHWM, 0)
    dealer.connect(address)
    data = encode([Credit(entries=1)])
    began = time.perf_counter()
    for _ in range(MESSAGES):
        dealer.send(data)
    sent = time.perf_counter() - began
    dealer.recv()
    rate = MESSAGES / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        dealer.send(data)
        dealer.recv()
    trip = (time.perf_counter() - began) / ROUND_TRIPS
    dealer.send(b"bye")
    dealer.close()
    context.term()
    os.waitpid(child, 0)
    return {"messages /s": rate, "send, us": sent / MESSAGES * 1e6, "round trip, us": trip * 1e6}


# -- the journal ------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1e3


def accepting(start: int, *, in_order: bool) -> Batch:
    """Return a batch that accepts ROWS jobs."""
    numbers = range(start, start + ROWS)
    uids = [f"{number:012x}{uuid.uuid4().hex[:20]}" if in_order else uuid.uuid4().hex for number in numbers]
    call = Call("d" * 32, Payload(data=b"x" * 100))
    return Batch(
        specs=[
            (n, JobSpec(uid=u, name="fit", call=call, session="s" * 32)) for n, u in zip(numbers, uids, strict=True)
        ],
        lives=[(n, encode(Life(number=n, state=JobState.WAITING, created=1e9))) for n in numbers],
        entries=[(n, Entry(u, 1, 1, 1e9, Submitted(id=f"fit#{n}"))) for n, u in zip(numbers, uids, strict=True)],
    )


def completing(batch: Batch) -> Batch:
    """Return the batch that completes what another has accepted: ROWS lives and ROWS entries."""
    event = Completed(result=Payload(data=b"x" * 20), seconds=0.1)
    life = Life(number=0, state=JobState.COMPLETED, seq=2, created=1e9, changed=1e9, started=1e9, ended=1e9)
    return Batch(
        lives=[(number, encode(life)) for number, _ in batch.specs],
        entries=[(number, Entry(spec.uid, 2, 1, 1e9, event)) for number, spec in batch.specs],
    )


def our_journal(folder: Path) -> dict[str, float]:
    """Measure SqliteJournal, growing from nothing to 2 x COMMITS x ROWS jobs."""
    found: dict[str, list[float]] = {}
    journal = SqliteJournal(folder / "state")
    for number in range(COMMITS):
        for in_order in (False, True):
            batch = accepting((2 * number + in_order) * ROWS + 1, in_order=in_order)
            kind = "accept 1,000 jobs, uids in order, ms" if in_order else "accept 1,000 jobs, random uids, ms"
            found.setdefault(kind, []).append(timed(lambda batch=batch: journal.commit(batch)))  # type: ignore[misc]
            done = completing(batch)
            found.setdefault("1,000 entries + 1,000 lives, ms", []).append(
                timed(lambda done=done: journal.commit(done))  # type: ignore[misc]
            )
    for number in range(200):
        one = Batch(entries=[(0, Entry("condition", number + 1, 1, 1e9, Submitted(id="x")))])
        found.setdefault("1 entry, ms", []).append(timed(lambda one=one: journal.commit(one)))  # type: ignore[misc]
    journal.close()
    journal = SqliteJournal(folder / "state")
    jobs = 2 * COMMITS * ROWS
    whole = timed(lambda: [decode_life(stored.life) for stored in journal.jobs()])
    found["read 100,000 jobs, ms"] = [whole / jobs * JOBS]
    journal.close()
    return {name: statistics.median(figures) for name, figures in found.items()}


def bare_journal(folder: Path) -> dict[str, float]:
    """Measure a table each for entries and lives, ready-made bytes, one executemany each, WAL and FULL like ours."""
    connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE lives(number INTEGER PRIMARY KEY, life BLOB)")
    connection.execute(
        "CREATE TABLE entries(job INTEGER, seq INTEGER, event BLOB, PRIMARY KEY(job, seq)) WITHOUT ROWID"
    )

    def commit(numbers: range, seq: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", [(n, seq, b"x" * 60) for n in numbers])
        connection.executemany("INSERT OR REPLACE INTO lives VALUES (?, ?)", [(n, b"x" * 100) for n in numbers])
        connection.execute("COMMIT")

    found = []
    for number in range(2 * COMMITS):
        numbers = range(number * ROWS, (number + 1) * ROWS)
        commit(numbers, 1)
        found.append(timed(lambda numbers=numbers: commit(numbers, 2)))  # type: ignore[misc]
    single = [timed(lambda n=n: commit(range(n, n + 1), 3)) for n in range(200)]  # type: ignore[misc]
    connection.close()
    return {"1,000 entries + 1,000 lives, ms": statistics.median(found), "1 entry, ms": statistics.median(single)}


# -- streams ----------------------------------------------------------------------------------------------------------


def our_streams(folder: Path) -> dict[str, float]:
    """Measure Subscriptions: a peer with JOBS streams of its own, live, then after a reconnect."""
    journal = SqliteJournal(folder / "streams")
    streams = Subscriptions(journal)
    began = time.perf_counter()
    for number in range(JOBS):
        streams.listen(b"peer", f"job{number}", 1)
    listened = time.perf_counter() - began
    streams.credit(b"peer", JOBS)
    entries = [Entry(f"job{number}", 1, 1, 1e9, Submitted(id="x")) for number in range(JOBS)]
    live = timed(lambda: streams.publish(entries))
    journal.commit(Batch(entries=[(0, Entry("condition", seq, 1, 1e9, Submitted(id="x"))) for seq in range(1, JOBS)]))
    streams.credit(b"other", JOBS)
    streams.listen(b"other", "condition", 1)
    began = time.perf_counter()
    while streams.pending:
        streams.publish([])
    replay = time.perf_counter() - began
    journal.close()
    return {
        "listen, us": listened / JOBS * 1e6,
        "live entries /s": JOBS / live * 1e3,
        "replayed entries /s": JOBS / replay,
    }


def main() -> None:
    """Print the table."""
    measured: list[tuple[dict[str, float], dict[str, float]]] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ours = our_wire(folder) | our_journal(folder) | our_streams(folder)
            measured.append((ours, bare_wire(folder) | bare_journal(folder)))
    print(f"{'median of ' + str(ROUNDS) + ' rounds':40} {'trun':>12} {'bare':>12} {'ratio':>7}")
    for name in measured[0][0]:
        figure = statistics.median(ours[name] for ours, _ in measured)
        line = f"{name:40} {figure:12,.2f}"
        if name in measured[0][1]:
            bare = statistics.median(other[name] for _, other in measured)
            line += f" {bare:12,.2f} {(figure / bare if '/s' in name else bare / figure):6.2f}x"
        print(line)


if __name__ == "__main__":
    main()
