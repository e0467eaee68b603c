"""How an engine begins: the journal is read back into the machine, and what was running is looked for.

Each job stands afterwards where it stood at the last commit. An executor whose attempts outlive the service says what
became of those that ran; what nobody knows of is reported missing. Nothing is decided here: the machine says what
follows from each report.

Who may come in: the engine, once, before its first step. Rule: whatever is read here is in memory afterwards once only.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from trun.core.codec import decode_group, decode_life
from trun.core.machine import Machine
from trun.core.record import Effect, JobRecord, JobState
from trun.engine.sessions import Session
from trun.messages import Adopted, AnyReport, Ended, JobSpec, Missing, Returned
from trun.ports import Clock, Executor, Journal, LastingExecutor, Order

#: Seconds of a service's further life after which a job that was given out has certainly begun.
BEGUN_S = 1.0


class Mail(Protocol):
    """What hears other services for our jobs."""

    def want(self, spec: JobSpec) -> None:
        """A job waits for jobs of other services."""
        ...


class Beginner(Protocol):
    """The engine, as far as it is needed here."""

    machine: Machine
    journal: Journal
    executor: Executor
    clock: Clock

    @property
    def mail(self) -> Mail | None:
        """What hears other services, if anything does."""
        ...

    def session(self, name: str) -> Session:
        """Return the session of that name, made where there is none."""
        ...

    def gather(self, orders: Sequence[Effect]) -> None:
        """Take what the machine ordered into the first step."""
        ...


def recover(engine: Beginner, missing: str) -> list[AnyReport]:
    """Restore the machine; return the reports for jobs that ran, ``missing`` being the reason for what nobody knows."""
    with _no_collection():
        return _recovered(engine, missing)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage: all that is read stays, and looking through it again and again takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _recovered(engine: Beginner, missing: str) -> list[AnyReport]:
    machine, journal = engine.machine, engine.journal
    running: list[JobRecord] = []
    last = 0.0
    for _, data in journal.groups():
        machine.restore_group(decode_group(data))
    for stored in journal.jobs():
        life = decode_life(stored.life)
        machine.restore(stored.spec, life)
        last = max(last, life.changed)
        if not life.state.is_final:
            engine.session(stored.spec.session).unfinished += 1
            if stored.spec.origins and engine.mail is not None:
                engine.mail.want(stored.spec)
            if life.state is JobState.RUNNING:
                running.append(machine.records[stored.spec.uid])
    for stream in ("condition", "service", *machine.groups):
        machine.restore_stream(stream, journal.last(stream))
    engine.gather(machine.resume_all(engine.clock.now()))
    reports = _attach(engine, running)
    found = Adopted | Ended | Returned | Missing
    known = {(report.uid, report.epoch) for report in reports if isinstance(report, found)}
    # One that was given out a moment before the end may never have begun: that is no death under it.
    lost = [
        Missing(
            uid=record.spec.uid,
            epoch=record.life.epoch,
            reason=missing,
            begun=bool(record.life.heard) or last - record.life.changed > BEGUN_S,
        )
        for record in running
        if (record.spec.uid, record.life.epoch) not in known
    ]
    return [*reports, *lost]


def _attach(engine: Beginner, running: list[JobRecord]) -> list[AnyReport]:
    """Ask an executor whose attempts outlive us what became of them."""
    executor = engine.executor
    if "attach" not in executor.capabilities:
        return []
    orders = [
        Order(
            uid=record.spec.uid,
            epoch=record.life.epoch,
            run=record.life.run,
            attempt=record.life.attempt,
            id=record.id,
            spec=record.spec,
            function=b"",
            context=b"",
            inputs={},
        )
        for record in running
        if record.spec.isolation != "inline"
    ]
    reports = cast(LastingExecutor, executor).attach(orders)
    for record in running:
        if record.life.suspended:
            executor.suspend(record.spec.uid, record.life.epoch)
    return reports
