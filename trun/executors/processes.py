"""Executor ``processes``: payloads run in warm worker processes of this machine, one at a time in each.

Only the culprit is ever affected: each worker has a socket of its own, so it is known exactly which order it had
begun when it died; the others go back. Whole process trees die with their attempt. Short jobs wait a few deep in a
worker's socket; if the first of them turns out long, those behind are taken back for workers that are free.

Driven by one engine thread through ``fds`` and ``poll``; it has no thread of its own and never blocks, except in
``close``. Who may come in: the composition (``services.node``), engines through ``ports.Executor``. Rule: nothing
here knows conditions, states or retries; every order ends in exactly one ``Ended``, ``Returned`` or ``Missing``.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from trun.executors import endings, limits, processtree, zygote
from trun.executors.context import scratch_path
from trun.executors.crew import Crew
from trun.executors.hand import Hand, Sent, Stop
from trun.executors.limits import LONG_S, SHORT_S
from trun.executors.openings import Openings, is_plain
from trun.executors.protocol import Interrupt, Leaving, Ready, Tell, log_name, tail_of
from trun.messages import Aborted, AnyReport, Emitted, Ended, Failed, Missing, ResourcesLowered, Returned
from trun.ports import Order, Room

_log = logging.getLogger(__name__)

#: Weight of the newest job in the running mean of durations.
_WEIGHT = 1 / 8
#: Workers that end before they are ready, in a row, after which orders fail instead of waiting for the next.
_FALSE_STARTS = 3


class Processes:
    """Runs payloads in worker processes.

    Parameters
    ----------
    workers
        How many attempts run at once.
    folder
        State folder of the service: ``blobs``, ``logs``, ``scratch``, ``spill`` lie below it.
    service_key
        Key of the service, as payloads are told.
    grace
        Seconds from SIGTERM to SIGKILL when an attempt runs out of time.
    recycle_after
        A worker is replaced after so many attempts; 0: never for that reason.
    recycle_growth
        A worker is replaced when it has grown by so many bytes since its first attempt; 0: never.
    depth
        How many short jobs may wait in one worker, the running one included.
    suspended
        How many attempts may wait for jobs of their own without taking up a slot.
    """

    capabilities = frozenset({"kill", "push", "resources", "tail", "memory", "tell"})

    def __init__(
        self,
        workers: int,
        *,
        folder: str | os.PathLike[str],
        service_key: str = "",
        grace: float = 2.0,
        recycle_after: int = 0,
        recycle_growth: int = 1 << 30,
        depth: int = 32,
        suspended: int = 32,
    ) -> None:
        self._workers = max(1, workers)
        self._folder = Path(folder).absolute()
        self._logs = self._folder / "logs"
        self._grace = grace
        self._recycle_after = recycle_after
        self._recycle_growth = recycle_growth
        self._depth = max(1, depth)
        self._may_suspend = suspended
        self._crew = self._make_crew(service_key, max(1, len(os.sched_getaffinity(0)) // self._workers))
        self._where: dict[tuple[str, int], Hand | None] = {}
        self._backlog: deque[Sent] = deque()
        self._out: list[AnyReport] = []
        self._false_starts = 0
        self._mean: float | None = None
        #: Clock of the engine minus our own.
        self._offset = time.time() - time.monotonic()
        self._closed = False

    def _make_crew(self, service_key: str, threads: int) -> Crew:
        return Crew(self._folder, service_key, threads)

    # -- the port -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the zygote and the first worker; returns before they are ready."""
        for part in ("scratch", "spill"):  # left by a process that was killed: nobody else works in this folder
            shutil.rmtree(self._folder / part, ignore_errors=True)
        for part in ("logs", "scratch", "spill", "blobs"):
            (self._folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._logs.glob("worker-*.current"):
            if left.stat().st_size == 0:
                left.unlink(missing_ok=True)
        self._crew.hire()

    def room(self) -> Room:
        """Return how many jobs would begin at once, and how many short ones could wait behind others."""
        depth = self._present_depth()
        busy = ahead = 0
        for hand in self._crew.hands.values():
            busy += hand.is_busy
            if depth > 1 and hand.may_queue:
                ahead += max(0, depth - max(1, len(hand.queue)))
        return Room(idle=max(0, self._workers - busy - len(self._backlog)), ahead=ahead)

    def _present_depth(self) -> int:
        if self._mean is None or self._mean >= SHORT_S:
            return 1
        return max(1, min(self._depth, int(LONG_S / 2 / max(self._mean, 1e-5))))

    def submit(self, orders: Sequence[Order]) -> None:
        """Take these attempts; each goes to a worker at once if there is one."""
        free = Openings(self._crew.hands.values(), self._workers, self._present_depth())
        for order in orders:
            key = (order.uid, order.epoch)
            if key in self._where:
                continue
            if order.spec.call is None:
                failed = endings.refused(order, f"a job of kind {order.spec.kind!r} has nothing to call")
                self._out.append(Ended(uid=order.uid, epoch=order.epoch, outcome=failed))
                continue
            sent = Sent(order)
            if not self._place(sent, free):
                self._where[key] = None
                self._backlog.append(sent)

    def cancel(self, uid: str, epoch: int, *, grace: float, reason: str) -> None:
        """Stop an attempt and all its processes: TERM, ``grace`` seconds, KILL."""
        key = (uid, epoch)
        if key not in self._where:
            return
        hand = self._where[key]
        if hand is None:
            self._backlog = deque(sent for sent in self._backlog if sent.key != key)
            self._finish(Ended(uid=uid, epoch=epoch, outcome=Aborted(reason=reason)))
            return
        # After this no order can begin in that worker: whatever it has begun is ours to kill, or has reported its end.
        taken = hand.take_back()
        self._hear(hand)
        for sent in taken:
            if sent.key == key:
                self._finish(Ended(uid=uid, epoch=epoch, outcome=Aborted(reason=reason)))
        taken = [sent for sent in taken if sent.key != key]
        if key in self._where and hand.queue:
            self._give_back(taken)
            self._stop(hand, Stop("cancel", reason, time.monotonic() + grace))
        elif hand.takes_orders:
            for sent in taken:
                self._give(hand, sent)
        else:  # it goes, or was told to go just now
            self._put_back(taken)
            self._work_off()

    def tell(self, uid: str, epoch: int, token: str, text: str) -> None:
        """Put a text into the inbox of an attempt; one that is not here any more is ignored."""
        hand = self._where.get((uid, epoch))
        frame = Tell(uid=uid, epoch=epoch, token=token, text=text)
        if hand is not None and hand.queue and hand.queue[0].key == (uid, epoch):
            hand.tell(frame)
            return
        for sent in self._backlog if hand is None else hand.queue:
            if sent.key == (uid, epoch):
                sent.texts.append(frame)

    def suspend(self, uid: str, epoch: int) -> None:
        """Count the slot of an attempt that waits for jobs of its own as free; too many of them are interrupted."""
        hand = self._where.get((uid, epoch))
        if hand is None or not hand.queue or hand.suspended:
            return
        too_many = sum(other.suspended for other in self._crew.hands.values()) >= self._may_suspend
        self._give_back(hand.take_back())
        hand.suspended = True
        if too_many:  # its slot is free all the same: it needs one to go on and hear of it
            hand.tell(Interrupt(uid=uid, epoch=epoch, text=endings.too_many(self._may_suspend)))
            self._signal(hand, signal.SIGTERM, group=False)
        self._work_off()

    def resume(self, uid: str, epoch: int) -> None:
        """Count the slot of an attempt as taken again."""
        hand = self._where.get((uid, epoch))
        if hand is not None:
            hand.suspended = False

    def fds(self) -> list[int]:
        """Return the one descriptor that stands for all workers."""
        return [self._crew.fileno()]

    def poll(self, now: float) -> list[AnyReport]:
        """Return what has happened; look at deadlines and limits. Never blocks."""
        mono = time.monotonic()
        self._offset = now - mono
        hands, nursery = self._crew.speaking()
        for hand in hands:
            self._hear(hand)
        if nursery:
            self._hear_nursery()
        self._look(mono)
        if self._backlog:
            self._work_off()
        out, self._out = self._out, []
        return out

    def next_deadline(self) -> float | None:
        """Return when ``poll`` wants to be called at the latest, on the engine's clock."""
        if self._out:
            return self._offset + time.monotonic()
        found = [at for at in map(limits.due, self._crew.hands.values()) if at is not None]
        if self._crew.nursery is not None and self._crew.nursery.is_full:
            found.append(time.monotonic() + SHORT_S)
        return self._offset + min(found) if found else None

    def log_path(self, uid: str, run: int, attempt: int) -> str | None:
        """Return the file with what an attempt printed, also while it runs."""
        path = self._logs / log_name(uid, run, attempt)
        if path.exists():
            return str(path)
        for hand in self._crew.hands.values():
            if hand.queue:
                order = hand.queue[0].order
                if (order.uid, order.run, order.attempt) == (uid, run, attempt):
                    return str(hand.log)
        return None

    def close(self, *, detach: bool = False) -> None:
        """End all workers and what they started; returns when they are dead."""
        if self._closed:
            return
        self._closed = True
        hands = self._crew.close()
        for hand in hands:
            if hand.queue:
                hand.keep_log(hand.queue[0].order)
            hand.drop_log()
            for sent in hand.queue:
                self._clean_up(sent)
        shutil.rmtree(self._folder / "spill", ignore_errors=True)

    # -- giving orders ------------------------------------------------------------------------------------------------

    def _place(self, sent: Sent, free: Openings) -> bool:
        """Give an order to a free worker, a new one, or (if it is short and plain) one that is nearly done."""
        fresh = sent.order.spec.isolation == "fresh"
        if free.slots > 0:
            hand = free.best(fresh, sent.order.paths) or self._crew.hire()
            free.slots -= 1
            hand.closing = fresh
        elif is_plain(sent.order):
            shortest = free.shortest()
            if shortest is None:
                return False
            hand = shortest
        else:
            return False
        self._give(hand, sent)
        return True

    def _give(self, hand: Hand, sent: Sent) -> None:
        self._where[sent.key] = hand
        if not hand.queue:
            self._begin(hand, sent, time.monotonic())
        hand.give(sent)

    def _begin(self, hand: Hand, sent: Sent, mono: float) -> None:
        hand.began = mono if hand.ready else 0.0
        hand.weighed_at = mono
        hand.peak = 0
        for frame in sent.texts:
            hand.tell(frame)
        sent.texts.clear()

    def _put_back(self, taken: Sequence[Sent]) -> None:
        """Keep orders that were not begun for the next worker that is free: nobody else need hear of it."""
        for sent in reversed(taken):
            self._where[sent.key] = None
            self._backlog.appendleft(sent)

    def _work_off(self) -> None:
        free = Openings(self._crew.hands.values(), self._workers, self._present_depth())
        while self._backlog and self._place(self._backlog[0], free):
            self._backlog.popleft()

    def _give_back(self, taken: Sequence[Sent]) -> None:
        for sent in taken:
            if self._where.pop(sent.key, None) is not None:
                self._out.append(Returned(uid=sent.order.uid, epoch=sent.order.epoch))

    # -- hearing of workers -------------------------------------------------------------------------------------------

    def _hear(self, hand: Hand) -> None:
        for report in self._crew.reports(hand):
            kind = type(report)
            if kind is Ended:
                self._ended(hand, report)  # type: ignore[arg-type]
            elif kind is Emitted or kind is ResourcesLowered:
                if hand.queue and (report.uid, report.epoch) == hand.queue[0].key:  # type: ignore[union-attr]
                    self._out.append(report)  # type: ignore[arg-type]
            elif kind is Ready:
                self._false_starts = 0
                hand.ready = True
                hand.began = time.monotonic()
            elif kind is Leaving:
                hand.leaving = hand.closing = True

    def _ended(self, hand: Hand, ended: Ended) -> None:
        if not hand.queue or (ended.uid, ended.epoch) != hand.queue[0].key:
            _log.warning("a worker reported the end of what it does not run pid=%d uid=%s", hand.pid, ended.uid)
            return
        sent = hand.queue.popleft()
        mono = time.monotonic()
        outcome = ended.outcome
        if isinstance(outcome, Aborted):
            ended = Ended(uid=ended.uid, epoch=ended.epoch, outcome=self._stopped(hand, sent.order, None))
        else:
            seconds = outcome.seconds
            self._mean = seconds if self._mean is None else self._mean + (seconds - self._mean) * _WEIGHT
        hand.done += 1
        hand.suspended = False
        if hand.queue:
            self._begin(hand, hand.queue[0], mono)
        if hand.leaving:
            hand.held = ended  # until all that the attempt left is dead
            self._give_back(hand.take_back())
            return
        self._finish(ended)
        self._recycle(hand, 0 if isinstance(outcome, Aborted) else outcome.peak_rss)

    def _recycle(self, hand: Hand, peak: int) -> None:
        """Let a worker go that has done its share, or has grown too much."""
        if hand.done == 1:
            hand.base_rss = peak
        grown = self._recycle_growth and peak > hand.base_rss + self._recycle_growth
        if grown and processtree.rss(hand.pid) <= hand.base_rss + self._recycle_growth:
            grown = False
        if hand.closing or grown or self._has_too_many() or (self._recycle_after and hand.done >= self._recycle_after):
            self._give_back(hand.take_back())
            if not hand.queue:
                hand.go()
            else:
                hand.closing = True

    def _has_too_many(self) -> bool:
        """Whether there are more workers than slots, since some that waited for jobs of their own go on again."""
        hands = self._crew.hands
        if len(hands) <= self._workers:
            return False
        return sum(not (hand.suspended or hand.closing) for hand in hands.values()) > self._workers

    def _finish(self, ended: Ended) -> None:
        key = (ended.uid, ended.epoch)
        if key in self._where:
            del self._where[key]
            self._out.append(ended)

    def _stopped(self, hand: Hand, order: Order, status: int | None) -> Aborted | Failed:
        """Return the outcome of an attempt that was interrupted, or whose process died with this ``status``."""
        seconds = time.monotonic() - hand.began if hand.began else 0.0
        return endings.stopped(order, hand.stop, status, seconds, hand.peak, hand.tail(order))

    # -- hearing of deaths --------------------------------------------------------------------------------------------

    def _hear_nursery(self) -> None:
        news = self._crew.news()
        if news is None:
            self._orphaned()
            return
        for one in news:
            hand = self._crew.hands.get(one.number)
            if hand is None:
                continue
            if isinstance(one, zygote.Exited):
                self._exited(hand, one.status, one.peak_rss)
            else:
                self._never_began(hand, one.reason)
                self._crew.remove(hand)

    def _exited(self, hand: Hand, status: int, peak: int) -> None:
        """A worker is dead, and everything that it left."""
        self._hear(hand)
        if not hand.ready:
            self._never_began(hand, f"it ended with status {status}; {tail_of(hand.log)}")
        self._put_back(hand.take_back())
        if hand.held is not None:
            self._finish(hand.held)
        for sent in list(hand.queue):
            if hand.stop is None and not hand.has_begun(sent):
                self._put_back([sent])
                continue
            hand.keep_log(sent.order)
            hand.peak = max(hand.peak, peak)
            outcome = self._stopped(hand, sent.order, status)
            self._finish(Ended(uid=sent.order.uid, epoch=sent.order.epoch, outcome=outcome))
            self._clean_up(sent)
        hand.drop_log()
        self._crew.remove(hand)

    def _never_began(self, hand: Hand, reason: str) -> None:
        """A worker ended before it was up: its orders go back, or fail where that happens again and again."""
        self._false_starts += 1
        _log.warning("a worker did not start pid=%d reason=%s", hand.pid, reason)
        taken = hand.take_back()
        if self._false_starts < _FALSE_STARTS:
            self._give_back(taken)
            return
        for sent in taken:
            order = sent.order
            self._finish(Ended(uid=order.uid, epoch=order.epoch, outcome=endings.unstartable(order, reason)))

    def _orphaned(self) -> None:
        """The zygote is dead, and all workers with it: nobody can say what became of what they ran."""
        nursery = self._crew.nursery
        reason = f"the process that starts workers died; {tail_of(nursery.log) if nursery is not None else ''}"
        _log.error("zygote died")
        self._crew.bury_nursery()
        for hand in list(self._crew.hands.values()):
            self._hear(hand)
            if hand.ready:
                self._give_back(hand.take_back())
            else:
                self._never_began(hand, reason)
            if hand.held is not None:
                self._finish(hand.held)
            elif hand.queue:
                sent = hand.queue.popleft()
                hand.keep_log(sent.order)
                self._clean_up(sent)
                if not hand.has_begun(sent):
                    self._give_back([sent])
                elif self._where.pop(sent.key, None) is not None:
                    self._out.append(Missing(uid=sent.order.uid, epoch=sent.order.epoch, reason=reason))
            self._crew.remove(hand)

    def _clean_up(self, sent: Sent) -> None:
        """Remove what an attempt left in our folders that its worker would have removed."""
        shutil.rmtree(scratch_path(str(self._folder), *sent.key), ignore_errors=True)
        if sent.spilled:
            Path(sent.spilled).unlink(missing_ok=True)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _stop(self, hand: Hand, stop: Stop) -> None:
        """Begin to stop the attempt that a worker runs; what it was stopped for first counts."""
        if hand.stop is not None:
            hand.stop.kill_at = min(hand.stop.kill_at, stop.kill_at)
            return
        hand.stop = stop
        if stop.kill_at <= time.monotonic():
            self._kill(hand)
        else:
            self._signal(hand, signal.SIGTERM, group=True)

    def _kill(self, hand: Hand) -> None:
        if hand.stop is not None:
            hand.stop.killed = True
        if not hand.kill():  # the zygote knows it before we do
            self._signal(hand, signal.SIGKILL, group=False)

    def _signal(self, hand: Hand, signum: int, *, group: bool) -> None:
        self._crew.signal(hand, signum, group=group)

    def _look(self, mono: float) -> None:
        """See to limits and to orders that wait behind a long one."""
        known: dict[int, int] | None = None
        for hand in self._crew.hands.values():
            if hand.stop is not None:
                if not hand.stop.killed and mono >= hand.stop.kill_at:
                    self._kill(hand)
                continue
            if hand.untold or hand.unsent:
                hand.flush()
            if not hand.queue or not hand.ready:
                continue
            stop, known = limits.exceeded(hand, mono, known, self._grace)
            if stop is not None:
                self._stop(hand, stop)
            elif len(hand.queue) > 1 and mono - hand.began >= LONG_S:
                self._mean = max(self._mean or 0.0, LONG_S)
                self._give_back(hand.take_back())
