"""A small engine for tests of executors: gives orders, waits for reports, resubmits what comes back.

``Rig(executor)`` waits on the executor's descriptors with a deadline, never by sleeping. At the end it checks the
port's promise: no more ends than orders. The suites run on each factory in ``FACTORIES``:
``(workers, folder, **options) -> Executor``.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from trun.adapters import pickles
from trun.adapters.blobs import BlobFolder
from trun.executors.context import current_job
from trun.executors.lasting import Lasting
from trun.executors.processes import Processes
from trun.messages import Aborted, Call, Completed, Emitted, Ended, Failed, JobSpec, Missing, Payload, Returned
from trun.ports import Executor, Order

PATIENCE_S = 30.0

Factory = Callable[..., Any]
FACTORIES: dict[str, Factory] = {
    "processes": lambda workers, folder, **options: Processes(workers, folder=folder, **options),
    "lasting": lambda workers, folder, **options: Lasting(workers, folder=folder, **options),
}


class Rig:
    def __init__(self, executor: Executor, folder: Path) -> None:
        self.executor = executor
        self.folder = folder
        self.orders: dict[str, Order] = {}
        self.outcomes: dict[str, Completed | Failed | Aborted] = {}
        self.events: dict[str, list[Any]] = {}
        self.reports: list[Any] = []
        self.returned: Counter[str] = Counter()
        self._given = 0
        self._over = 0

    # -- giving orders ------------------------------------------------------------------------------------------------

    def order(
        self, fn: Callable[..., Any], *args: Any, inputs: dict[str, Payload] | None = None, **options: Any
    ) -> Order:
        digest, function = pickles.dump_function(fn)
        kwargs = options.pop("kwargs", {})
        payload, uids = pickles.dump_call(args, kwargs, big=pickles.blob_writer(self.folder))
        cwd = options.pop("cwd", os.getcwd())
        place, context = pickles.dump_context(str(cwd), [path or os.getcwd() for path in sys.path])
        uid = options.pop("uid", f"job{len(self.orders) + 1}")
        spec = JobSpec(uid=uid, name="fit", call=Call(digest, payload, place), inputs=uids, **options)
        order = Order(
            uid=uid,
            epoch=1,
            run=1,
            attempt=1,
            id=f"fit#{len(self.orders) + 1}",
            spec=spec,
            function=function,
            context=context,
            inputs=inputs or {},
        )
        self.orders[uid] = order
        return order

    def submit(self, fn: Callable[..., Any], *args: Any, **options: Any) -> str:
        order = self.order(fn, *args, **options)
        self.give([order])
        return order.uid

    def give(self, orders: list[Order]) -> None:
        self._given += len(orders)
        self.executor.submit(orders)

    def run(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Completed | Failed | Aborted:
        """Run a call to its end."""
        return self.outcome(self.submit(fn, *args, **options))

    def value(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a call to its end and return its result."""
        return self.result(self.run(fn, *args, **options))

    def result(self, outcome: Any) -> Any:
        assert isinstance(outcome, Completed), outcome
        assert outcome.result is not None
        return pickles.load_result(outcome.result, BlobFolder(self.folder / "blobs").open)

    def cancel(self, uid: str, *, grace: float = 5.0, reason: str = "because") -> None:
        self.executor.cancel(uid, self.orders[uid].epoch, grace=grace, reason=reason)

    def tell(self, uid: str, text: str, token: str = "t1") -> None:
        self.executor.tell(uid, self.orders[uid].epoch, token, text)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def until(self, true: Callable[[], Any], what: str = "what was expected") -> None:
        """Poll the executor until something is true."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, f"waited in vain for {what}; reports: {self.reports[-5:]}"
            if not self.poll():
                deadline = self.executor.next_deadline()
                wait = end - time.monotonic() if deadline is None else deadline - time.time()
                select.select(self.executor.fds(), [], [], max(0.0, min(wait, end - time.monotonic())))

    def poll(self) -> bool:
        reports = self.executor.poll(time.time())
        for report in reports:
            self._take(report)
        if isinstance(self.executor, Lasting):
            self.executor.committed()
        return bool(reports)

    def _take(self, report: Any) -> None:
        self.reports.append(report)
        if isinstance(report, Ended):
            assert report.uid not in self.outcomes, f"two ends: {report}"
            self.outcomes[report.uid] = report.outcome
            self._over += 1
        elif isinstance(report, Emitted):
            events = self.events.setdefault(report.uid, [])
            assert report.first == len(events) + 1, "events are numbered without gaps"
            events.extend(report.events)
        elif isinstance(report, Returned):
            self._over += 1
            self.returned[report.uid] += 1
            order = msgspec.structs.replace(self.orders[report.uid], epoch=report.epoch + 1)
            self.orders[report.uid] = order
            self.give([order])
        elif isinstance(report, Missing):
            self._over += 1

    def outcome(self, uid: str) -> Completed | Failed | Aborted:
        self.until(lambda: uid in self.outcomes, f"the end of {uid}")
        return self.outcomes[uid]

    def failure(self, uid: str) -> Failed:
        found = self.outcome(uid)
        assert isinstance(found, Failed), found
        return found

    def said(self, uid: str, name: str = "ready") -> Any:
        """Wait until the job has said something under this name; return it."""

        def found() -> list[Any]:
            return [event for event in self.events.get(uid, []) if getattr(event, "name", "") == name]

        self.until(found, f"{uid} to say {name!r} ({self.outcomes.get(uid)})")
        return found()[0].value

    def log(self, uid: str) -> str:
        path = self.executor.log_path(uid, 1, 1)
        return Path(path).read_text() if path else ""

    def close(self) -> None:
        self.executor.close()
        assert self._over <= self._given


def is_alive(pid: int) -> bool:
    """Whether a process is there, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def await_death(pids: list[int]) -> None:
    """Wait until processes that are not ours are dead; a zombie that nobody reaps counts as dead."""
    end = time.monotonic() + PATIENCE_S
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([fd], [], [], max(0.0, end - time.monotonic()))[0], f"process {pid} lives"
        finally:
            os.close(fd)


# -- payloads that several suites use ---


def add(a: int, b: int = 1) -> int:
    return a + b


def ready(*values: Any) -> None:
    job = current_job()
    assert job is not None
    job.say("ready", [os.getpid(), *values])


def wait_for_text() -> str:
    job = current_job()
    assert job is not None
    ready()
    return job.inbox.get().content


class Picky(Exception):
    """Cannot be unpickled: its constructor wants more than its args."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def raise_picky() -> None:
    raise Picky(1, 2)
