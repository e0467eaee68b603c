"""Executor ``processes`` of a daemon: its running attempts outlive it, and the next one finds them again.

The workers belong to a ``keeper``, which lives on. Reports are only looked at in a worker's socket (``MSG_PEEK``); they
are taken out when the engine says that they are committed, so what a killed service had read but not written down is
there for the next. Who is found again: an attempt by its epoch, a worker by its sockets and the start time of its
process, never by a process id alone.

For a private node use ``Processes``: there the death of the node is the end of all it runs. Rule: whether an attempt is
still wanted is for the journal to say: what runs and is not among the orders of ``attach`` is ended.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trun.executors import endings, heritage
from trun.executors.context import scratch_path
from trun.executors.hand import Hand, Sent, Stop
from trun.executors.heritage import Fate, Kept, Stopping
from trun.executors.lastingcrew import LastingCrew
from trun.executors.lastinghand import LastingHand
from trun.executors.processes import Processes
from trun.executors.protocol import current_log_name, file_stem, log_name, tail_of
from trun.messages import Aborted, Adopted, AnyReport, Emitted, Ended, Failed, Missing, ResourcesLowered, Returned
from trun.ports import Order

_log = logging.getLogger(__name__)

#: Seconds that a keeper stays when nothing runs and no service comes.
LINGER_S = 60.0


class Lasting(Processes):
    """Runs payloads in worker processes that outlive this one; takes the parameters of ``Processes``, and ``linger``:
    seconds that idle workers wait for the next.
    """

    capabilities = Processes.capabilities | {"attach"}
    _crew: LastingCrew

    def __init__(self, workers: int, *, linger: float = LINGER_S, **options: Any) -> None:
        self._linger = linger
        super().__init__(workers, **options)
        self._found: list[tuple[LastingHand, Kept]] = []
        self._uncommitted = False

    def _make_crew(self, service_key: str, threads: int) -> LastingCrew:
        return LastingCrew(self._folder, service_key, threads, grace=self._grace, linger=self._linger)

    # -- the port -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Find the workers of the service that was here before, or start the first."""
        for part in ("logs", "scratch", "spill", "blobs", "left"):
            (self._folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._found = self._crew.take_over()
        living = {hand.log for hand, _ in self._found}
        for left in self._logs.glob("worker-*.current"):
            if left not in living and left.stat().st_size == 0:
                left.unlink(missing_ok=True)
        if not any(kept.alive and not hand.closing for hand, kept in self._found):
            self._crew.hire()

    def attach(self, orders: Sequence[Order]) -> list[AnyReport]:
        """Return what became of attempts that an earlier life of the service gave out."""
        waiting = {(file_stem(order.uid), order.epoch): order for order in orders}
        for hand, kept in self._found:
            self._claim(hand, kept, waiting)
        reports: list[AnyReport] = [Adopted(uid=uid, epoch=epoch) for uid, epoch in self._where]
        for hand, kept in self._found:
            self._catch_up(hand, kept)
        self._found = []
        self._read_files(waiting)
        if self._crew.knows_all:
            self._out.extend(Returned(uid=order.uid, epoch=order.epoch) for order in waiting.values())
        reports.extend(self._out)
        self._out = []
        self._tidy()
        self._uncommitted = True
        self._crew.have_returned()
        return reports

    def poll(self, now: float) -> list[AnyReport]:
        """Return what has happened; what is returned is kept until ``committed``."""
        reports = super().poll(now)
        self._crew.have_returned()
        if reports:
            self._uncommitted = True
        elif not self._uncommitted:  # what was said needs no commit
            self._crew.settle()
        return reports

    def committed(self) -> None:
        """What was returned is durable: take it out of the sockets, remove its files, bury the dead."""
        if self._uncommitted:
            self._uncommitted = False
            self._crew.settle()

    def fds(self) -> list[int]:
        """Return the one descriptor that stands for all workers; none while a commit is overdue."""
        return [] if self._crew.is_unsettled else super().fds()

    def close(self, *, detach: bool = False) -> None:
        """End all workers and what they started; ``detach`` leaves them to their keeper if one runs something."""
        if detach and not self._closed and any(hand.queue or hand.held for hand in self._crew.hands.values()):
            self._closed = True
            self._crew.leave()
        else:
            super().close()

    # -- taking over --------------------------------------------------------------------------------------------------

    def _claim(self, hand: LastingHand, kept: Kept, waiting: dict[tuple[str, int], Order]) -> None:
        """Find out which of the orders a worker has: those not begun, those that have ended, the one that runs."""
        for ticket in hand.take_tickets():
            order = waiting.pop((ticket.stem, ticket.epoch), None)
            if order is not None:
                self._out.append(Returned(uid=order.uid, epoch=order.epoch))
        begun = hand.look(kept)
        hand.fetch()
        last = (begun.ticket.stem, begun.ticket.epoch) if begun.ticket is not None else None
        for report in hand.early_reports():
            if isinstance(report, Ended):
                key = (file_stem(report.uid), report.epoch)
                if key != last and key in waiting:
                    self._assign(hand, waiting.pop(key), 0)
        order = waiting.pop(last, None) if last is not None else None
        if order is not None:
            self._assign(hand, order, begun.number)
        hand.forget_reports_but({sent.key for sent in hand.queue})
        if kept.stopping is not None:
            stop = kept.stopping
            hand.stop = Stop(stop.cause, stop.reason, stop.kill_at)
            hand.stop.killed, hand.stop.peak = stop.killed, stop.peak
        elif order is None and begun.runs and kept.alive:
            _log.warning("ended an attempt whose epoch is over pid=%d ticket=%s", hand.pid, begun.ticket)
            super()._stop(hand, Stop("cancel", "its epoch is over", 0.0))

    def _assign(self, hand: LastingHand, order: Order, number: int) -> None:
        sent = Sent(order)
        sent.number = number
        hand.queue.append(sent)
        self._where[sent.key] = hand

    def _catch_up(self, hand: LastingHand, kept: Kept) -> None:
        """Hear what a worker said while nobody listened, and see whether it lives."""
        begun = hand.begun
        hand.began = begun.at
        self._hear(hand)
        hand.began = begun.at
        if not kept.alive:
            self._exited(hand, kept.status, kept.peak)
        elif not begun.runs and hand.held is None:
            for sent in hand.queue:  # it has ended, but its report is gone: a file was removed by hand
                if self._where.pop(sent.key, None) is not None:
                    reason = "its report was lost"
                    self._out.append(Missing(uid=sent.order.uid, epoch=sent.order.epoch, reason=reason))
            hand.queue.clear()

    def _read_files(self, waiting: dict[tuple[str, int], Order]) -> None:
        """Take what workers left whose keeper has gone too."""
        taken = {hand.left for hand in self._crew.hands.values() if isinstance(hand, LastingHand)}
        for path in sorted((self._folder / "left").glob("*.reports")):
            if path not in taken:
                self._read_file(path, waiting)
                self._crew.settle_later(path)

    def _read_file(self, path: Path, waiting: dict[tuple[str, int], Order]) -> None:
        stopped: Order | None = None
        for data in heritage.read_records(path):
            try:
                report, _ = heritage.decode_record(data, self._folder / "spill")
            except (msgspec.MsgspecError, OSError) as error:
                _log.warning("skipped a damaged report file=%s reason=%s", path, error)
                continue
            if isinstance(report, Fate):
                order = stopped
                if order is None and report.ticket is not None:
                    order = waiting.pop((report.ticket.stem, report.ticket.epoch), None)
                if order is not None:
                    self._out.append(
                        Ended(uid=order.uid, epoch=order.epoch, outcome=self._fate(order, report, path.stem))
                    )
                stopped = None
            elif isinstance(report, Ended | Emitted | ResourcesLowered):
                key = (file_stem(report.uid), report.epoch)
                if key not in waiting:
                    continue
                if not isinstance(report, Ended):
                    self._out.append(report)
                elif isinstance(report.outcome, Aborted):
                    stopped = waiting.pop(key)
                else:
                    del waiting[key]
                    self._out.append(report)
        if stopped is not None:
            waiting[file_stem(stopped.uid), stopped.epoch] = stopped

    def _fate(self, order: Order, fate: Fate, worker: str) -> Aborted | Failed:
        """Return the outcome of an attempt that died while nobody looked."""
        name = self._logs / log_name(order.uid, order.run, order.attempt)
        current = self._logs / current_log_name(worker)
        if not name.exists() and current.exists():
            current.rename(name)
        stop = None
        if fate.stopping is not None:
            stop = Stop(fate.stopping.cause, fate.stopping.reason, fate.stopping.kill_at)
            stop.killed, stop.peak = fate.stopping.killed, fate.stopping.peak
        return endings.stopped(order, stop, fate.status, fate.seconds, fate.peak, tail_of(name))

    def _tidy(self) -> None:
        """Remove the scratch folders of attempts that are over, and what nobody will read."""
        living = {Path(scratch_path(str(self._folder), *key)) for key in self._where}
        for scratch in (self._folder / "scratch").iterdir():
            if scratch not in living:
                shutil.rmtree(scratch, ignore_errors=True)
        if not any((self._folder / "left").iterdir()) and not self._where:
            for left in (self._folder / "spill").glob("*.part"):
                left.unlink(missing_ok=True)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _stop(self, hand: Hand, stop: Stop) -> None:
        fresh = hand.stop is None
        if fresh and isinstance(hand, LastingHand):  # first: once the signal is out it may be too late to say why
            why = Stopping(
                number=hand.zygote_number, cause=stop.cause, reason=stop.reason, kill_at=stop.kill_at, peak=stop.peak
            )
            hand.keeping.stopping(why)
        super()._stop(hand, stop)


__all__ = ["LINGER_S", "Lasting"]
