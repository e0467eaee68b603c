"""A daemon that is killed wherever it commits, gives an order, hears of one or answers: one life per point.

One script is played each time: retries, a race, conditions on what a job says, scarce resources, a resource given back
early, jobs within jobs, cancelling, holding, a timeout, a text to a running job. The daemon kills itself at one point
of its first life and at another one of its second; the third plays to the end. What the client was told is then
compared with the journal, offline. In CI a sample of the points; ``TRUN_TEST_KILL_POINTS=all`` takes every one.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trun
from checker import Notebook, check, read_notes
from nodes import PATIENCE_S, QuickDaemon, await_
from trun.errors import UsageError
from trun.messages import Cancel, Entry, ErrorInfo, Hold, Release, Said, Submitted

#: Points of the first life that are tried: a number, or ``all``.
SAMPLE = os.environ.get("TRUN_TEST_KILL_POINTS", "25")
#: Points of the second life; prime, so that it is another one each time.
_SECOND = 37
_LONG_S = 90.0
#: The script has five jobs that wait for others.
_WORKERS = 7
_STOPPED = (trun.JobCancelled, trun.JobAborted)


# -- payloads ---------------------------------------------------------------------------------------------------------


def begin(path: str) -> None:
    job = trun.current_job()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{job.uid}:{job.epoch}\n".encode())
    os.close(fd)


def double(begun: str, number: int) -> int:
    begin(begun)
    return 2 * number


def flaky(begun: str, marker: str) -> int:
    begin(begun)
    if not os.path.exists(marker):
        Path(marker).touch()
        raise ValueError("the first time")
    return 7


def recite(begun: str, count: int) -> dict[str, int]:
    begin(begun)
    for number in range(count):
        trun.current_job().say("step", number)
        time.sleep(0.01)
    return {"said": count}


def stuck(begun: str) -> None:
    begin(begun)
    trun.current_job().say("ready")
    while True:
        time.sleep(0.05)


def shrink(begun: str, gate: str) -> int:
    """Give one of two back, and end when somebody else has run with it."""
    begin(begun)
    trun.current_job().lower_resources(sim=1)
    while not os.path.exists(gate):
        time.sleep(0.01)
    return 2


def open_gate(begun: str, gate: str) -> int:
    begin(begun)
    Path(gate).touch()
    return 3


def parent(begun: str) -> int:
    begin(begun)
    return int(trun.submit(double, begun, 20).result()) + 2


def listen(begun: str) -> str:
    begin(begun)
    job = trun.current_job()
    while True:
        message = job.inbox.get()
        message.respond(message.content.upper())
        if message.content == "end":
            return "heard"


# -- the daemon -------------------------------------------------------------------------------------------------------


class Phoenix(QuickDaemon):
    """A daemon that dies where it is told to, and is started again by a thread."""

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--resources", '{"sim": 2}']

    def play(self, folder: Path, runtime: Path, *faults: dict[str, Any]) -> None:
        """Begin to live in a new folder; each further life has the next of the faults."""
        folder.mkdir(mode=0o700, parents=True)
        (folder / "node.log").touch()
        self.folder = folder
        self.address = f"ipc://{runtime}/{folder.name}.sock"
        self.deaths = 0
        self._faults = list(faults)
        self._over, self._tell_over = os.pipe()
        self._error: BaseException | None = None
        self._live()
        self._thread = threading.Thread(target=self._live_on)
        self._thread.start()

    def _live(self) -> None:
        while True:
            self.fault = self._faults.pop(0) if self._faults else {}
            try:
                self.start()
                return
            except AssertionError:
                if not self.fault:
                    raise
                self.deaths += 1  # it died before it was ready

    def _live_on(self) -> None:
        try:
            while True:
                pidfd = os.pidfd_open(self.pid)
                try:
                    ready, _, _ = select.select([pidfd, self._over], [], [])
                finally:
                    os.close(pidfd)
                if self._over in ready:
                    return
                self.deaths += 1
                self._live()
        except ProcessLookupError:  # it died in this very moment
            self.deaths += 1
            self._live()
            self._live_on()
        except BaseException as error:
            self._error = error

    def stop_playing(self) -> None:
        """Let it live, until the test ends it."""
        os.write(self._tell_over, b"x")
        self._thread.join(PATIENCE_S)
        os.close(self._over)
        os.close(self._tell_over)
        if self._error is not None:
            raise self._error


@pytest.fixture
def daemon(trun_folders: Path) -> Iterator[Phoenix]:
    made = Phoenix(trun_folders / "state" / "d", trun_folders / "run", workers=_WORKERS)
    yield made
    made.close()
    made.clear()


# -- the script -------------------------------------------------------------------------------------------------------


class Scribe:
    """Writes down what the client hears of one stream."""

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


def insist(call: Callable[[], Any]) -> Any:
    """Call until the service is there to answer."""
    end = time.monotonic() + _LONG_S
    while True:
        try:
            return call()
        except (trun.ServiceUnavailable, TimeoutError):
            if time.monotonic() > end:
                raise


class Play:
    """The script: what is submitted, what is done meanwhile, and what must come of it."""

    def __init__(self, folder: Path, address: str) -> None:
        folder.mkdir()
        self.notes = folder / "notes"
        self.begun = folder / "begun"
        self.begun.touch()
        self._folder = folder
        self._book = Notebook(self.notes, "client")
        self.service = trun.remote_service(address)
        self._wanted: list[tuple[trun.Job, Any]] = []

    def submit(self, wanted: Any, fn: Any, *arguments: Any, **options: Any) -> trun.Job:
        job = trun.submit(fn, str(self.begun), *arguments, service=self.service, **options)
        return self._expect(wanted, job)

    def _expect(self, wanted: Any, job: trun.Job) -> trun.Job:
        self._wanted.append((job, wanted))
        self.service.listen(job.uid, Scribe(self._book, job.uid))
        return job

    def run(self) -> None:
        """Submit everything, and steer what wants to be steered."""
        file = lambda name: str(self._folder / name)  # noqa: E731
        first = self.submit(2, double, 1)
        self.submit(4, double, first)
        self.submit(7, flaky, file("once"), retries=2)
        self.submit(7, flaky, file("late"), retries=1, retry_delay="0.05s")
        reciting = self.submit({"said": 12}, recite, 12)
        self.submit(10, double, 5, when=reciting.said("step"))
        never = trun.Atom()
        unwanted = self.submit(_STOPPED, double, 6, when=never)
        go = trun.Atom()
        held = self.submit(16, double, 8, when=go)
        loser, winner = self.submit(_STOPPED, stuck), self.submit(18, double, 9)
        self._expect(18, trun.first(winner, loser, service=self.service))
        self.submit(2, shrink, file("gate"), resources={"sim": 2})
        self.submit(3, open_gate, file("gate"), resources={"sim": 1})
        self.submit(42, parent)
        self.submit(trun.JobTimeout, stuck, timeout=0.5)
        stopped = self.submit(_STOPPED, stuck)
        hearing = self.submit("heard", listen)
        self._do(Hold(uids=(held.uid,)))
        self._do(Cancel(uids=(unwanted.uid,)))
        await_(lambda: self._has_said(stopped, "ready"), "the job that is stopped", _LONG_S)
        self._do(Cancel(uids=(stopped.uid,)))
        for text in ("a", "end"):
            assert insist(lambda text=text: self._send(hearing, text)) in (text.upper(), None)
        go.set_ready()
        self._do(Release(uids=(held.uid,)))

    def _do(self, request: Any) -> None:
        """Send an order until it is answered; it may have been carried out before."""
        tries: list[None] = []

        def once() -> None:
            tries.append(None)
            try:
                self.service.do(request, timeout=3.0)
            except UsageError:
                if len(tries) == 1:
                    raise

        insist(once)

    def _has_said(self, job: trun.Job, name: str) -> bool:
        said = insist(job.messages)
        return any(isinstance(entry.event, Said) and entry.event.name == name for entry in said)

    def _send(self, job: trun.Job, text: str) -> Any:
        """Send a text, again where the job does not run at this moment; None where it has ended."""
        try:
            return job.send(text, timeout=5.0)
        except UsageError as error:
            if job.done():
                return None
            raise TimeoutError from error

    def await_all(self) -> None:
        """Wait for everything, and write down what came of it."""
        for job, wanted in self._wanted:
            error = insist(lambda job=job: job.exception(10.0))
            if isinstance(wanted, type | tuple):
                assert isinstance(error, wanted), (job.id, error)
                continue
            assert error is None, (job.id, error)
            found = job.result(10.0)
            assert found == wanted, job.id
            value = found if isinstance(found, int) else None
            self._book.write("outcome", job.uid, name="Completed", value=value)
        used = insist(self.service.resources)["sim"]["used"]
        assert used == 0
        self.service.close()
        self._book.close()


def play(daemon: Phoenix, folder: Path, runtime: Path, *faults: dict[str, Any]) -> int:
    """Play the script with these faults, check what came of it, and return how often the daemon died."""
    daemon.play(daemon.folder.parent / folder.name, runtime, *faults)
    actors = Play(folder, daemon.address)
    try:
        actors.run()
        actors.await_all()
    finally:
        daemon.stop_playing()
        if not actors.service.closed:
            actors.service.give_up(trun.ServiceUnavailable("the test is over"))
            actors.service.close()
    daemon.end()
    lines = actors.begun.read_text().split()
    figures = check(daemon.folder, read_notes([actors.notes]), lines)
    assert figures["acknowledged"] >= 17
    return daemon.deaths


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_or_doubled_wherever_the_daemon_is_killed(
    daemon: Phoenix, trun_folders: Path, tmp_path: Path
) -> None:
    runtime, trace = trun_folders / "run", tmp_path / "trace"
    assert play(daemon, tmp_path / "rehearsal", runtime, {"trace": str(trace)}) == 0
    points = trace.read_text().split("\n")[:-1]
    kinds = Counter(points)
    assert kinds.keys() >= {
        *("before commit", "after commit", "before send", "after send", "before submit", "after submit"),
        *("before _give", "after _give", "before settle", "after settle", "heard", "before cancel", "after cancel"),
    }
    count = len(points) if SAMPLE == "all" else int(SAMPLE)
    step = len(points) / count
    dead = 0
    for number in range(count):
        at = 1 + int(number * step + step / 2) if count < len(points) else number + 1
        faults = {"at": at}, {"at": 1 + (number * 7) % _SECOND}
        with note(f"killed at point {at} ({points[at - 1]}), then at {faults[1]['at']}"):
            dead += play(daemon, tmp_path / f"p{at}", runtime, *faults) > 0
    assert dead >= count * 0.3  # a busy machine does more at once, and has fewer points
    daemon.close()
    daemon.await_nobody()


@contextlib.contextmanager
def note(text: str) -> Iterator[None]:
    """Say where it was that something failed."""
    try:
        yield
    except BaseException as error:
        error.add_note(text)
        raise
