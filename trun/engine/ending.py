"""How an engine ends when what runs ends with it, because somebody wanted that.

What the workers had reported is still taken, and every job that ran stands in line again, as one that nobody began: a
stop that was wished for is no death of a worker, however often it happens, and makes no job poison. All of it is
committed; nothing is started or said, since the executor is closed and clients hear of it from the next life.

Who may come in: the driver, once, after the executor was closed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from trun.core.machine import Machine
from trun.core.record import Effect, JobState
from trun.errors import TrunError
from trun.messages import AnyReport, Missing
from trun.ports import Clock

_log = logging.getLogger(__name__)


class Ending(Protocol):
    """The engine, as far as it is needed here."""

    machine: Machine
    clock: Clock

    def gather(self, orders: Sequence[Effect]) -> None:
        """Take what the machine ordered."""
        ...

    def commit(self) -> None:
        """Write down what was gathered."""
        ...


def put_down(engine: Ending, reports: Sequence[AnyReport], reason: str) -> None:
    """Take the last reports of an executor that was closed, and let all that still ran stand in line again."""
    machine, now = engine.machine, engine.clock.now()
    for report in reports:
        engine.gather(machine.handle(report, now))
    running = [record for record in machine.records.values() if record.life.state is JobState.RUNNING]
    for record in running:
        gone = Missing(uid=record.spec.uid, epoch=record.life.epoch, reason=reason, begun=False)
        engine.gather(machine.handle(gone, now))
    try:
        engine.commit()
    except TrunError as error:  # the next life finds them running, and nobody who runs them
        _log.error("cannot write down what was stopped jobs=%d reason=%s", len(running), error)
