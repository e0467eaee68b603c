"""A daemon that is killed again and again under load: nothing acknowledged is lost, nothing happens twice.

One client submits, a second one reads the same streams; both live through all lives of the daemon. Jobs are shorter and
longer than its lives, so they end before, while and after it is down. What everybody saw is checked offline.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trun
from checker import Notebook, check, read_notes
from nodes import Daemon, QuickDaemon
from trun.messages import Entry, ErrorInfo, Submitted

#: Kills of the daemon. Ten thousand are for a night.
KILLS = int(os.environ.get("TRUN_TEST_KILLS", "300"))
#: How often the keeper of the workers is killed with it.
KEEPER_EVERY = 50
_LONGEST_LIFE_S = 0.08


def begin(path: str) -> None:
    job = trun.current_job()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{job.uid}:{job.epoch}\n".encode())
    os.close(fd)


def double(path: str, number: int) -> int:
    begin(path)
    return 2 * number


def recite(path: str, count: int) -> dict[str, int]:
    begin(path)
    for number in range(count):
        trun.current_job().say("step", number)
        print("line", number)
        time.sleep(0.004)
    return {"said": count}


class Scribe:
    """Writes down what one client hears of one stream."""

    def __init__(self, book: Notebook, uid: str) -> None:
        self.seq = 0
        self._book = book
        self._uid = uid

    def take(self, entry: Entry) -> None:
        if isinstance(entry.event, Submitted):
            self._book.write("acked", self._uid, name=entry.event.id)
        self._book.write("entry", self._uid, entry=entry)

    def refuse(self, error: ErrorInfo) -> None:
        self._book.write("refused", self._uid, name=error.message)


@pytest.fixture
def daemon(trun_folders: Path) -> Iterator[QuickDaemon]:
    made = QuickDaemon(trun_folders / "state" / "d", trun_folders / "run")
    yield made
    made.close()
    made.clear()


class Players:
    """Two clients of a daemon, and what they wrote down."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.paths = [folder / "first.notes", folder / "second.notes"]
        self.books = [Notebook(path, path.stem) for path in self.paths]
        self.services = [trun.remote_service(daemon.address) for _ in self.paths]
        self.begun = str(folder / "begun")
        self.jobs: list[tuple[trun.Job, Any]] = []

    def submit(self, fn: Any, argument: Any, expected: Any) -> trun.Job:
        """Submit a job; both clients write down what they hear of it."""
        job = trun.submit(fn, self.begun, argument, service=self.services[0])
        self.jobs.append((job, expected))
        for service, book in zip(self.services, self.books, strict=True):
            service.listen(job.uid, Scribe(book, job.uid))
        return job

    def play(self, number: int) -> None:
        """Submit some of everything."""
        first = self.submit(double, number, 2 * number)
        self.submit(double, first, 4 * number)
        self.submit(recite, 3 + number % 40, {"said": 3 + number % 40})
        self.submit(double, number + 1, 2 * number + 2)

    def await_all(self) -> None:
        """Wait for the end of everything."""
        for job, expected in self.jobs:
            result = job.result(60.0)
            assert result == expected
            value = result if isinstance(result, int) else None
            self.books[0].write("outcome", job.uid, name="Completed", value=value)
        for service in self.services:
            service.close()
        for book in self.books:
            book.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_or_doubled_by_hundreds_of_kills_under_load(daemon: QuickDaemon, tmp_path: Path) -> None:
    chance = random.Random(20261121)
    daemon.start()
    players = Players(daemon, tmp_path)
    for number in range(KILLS):
        players.play(number)
        if chance.random() < 0.7:  # else at once after the submission
            time.sleep(chance.random() * _LONGEST_LIFE_S)
        keeper = daemon.keeper() if number % KEEPER_EVERY == KEEPER_EVERY - 1 else 0
        daemon.kill()
        if keeper:
            os.kill(keeper, signal.SIGKILL)
        daemon.start()
    players.await_all()
    daemon.end()

    figures = check(daemon.folder, read_notes(players.paths), Path(players.begun).read_text().split())

    assert figures["jobs"] == figures["acknowledged"] == 4 * KILLS
    assert figures["read"] == 2 * figures["entries"]
    daemon.close()
    daemon.await_nobody()
