"""All workers of an executor: hires them, listens to them on one descriptor, lets them go.

It passes on what it hears, in order; what follows from that is decided in ``processes``.
"""

from __future__ import annotations

import logging
import secrets
import select
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trun.executors import zygote
from trun.executors.hand import Hand
from trun.executors.nursery import Nursery
from trun.executors.protocol import Report
from trun.messages import Ended

_log = logging.getLogger(__name__)

_REPORTS_PER_POLL = 2000


class Crew:
    """The workers, by number."""

    def __init__(self, folder: Path, service_key: str, threads: int) -> None:
        self._folder = folder
        self._service_key = service_key
        self._threads = threads
        self._name = secrets.token_hex(6)
        self._epoll = select.epoll()
        self._by_fd: dict[int, Hand] = {}
        self._number = 0
        self.nursery: Nursery | None = None
        self.hands: dict[int, Hand] = {}

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when one of them has something to say."""
        return self._epoll.fileno()

    def hire(self) -> Hand:
        """Start a worker; orders may be given to it before it is up."""
        if self.nursery is None:
            self.nursery = self._start_nursery()
            self._epoll.register(self.nursery.connection, select.EPOLLIN)
        self._number += 1
        hand = self._make_hand(self._number, f"{self._name}-{self._number}")
        self._add(hand)
        self.nursery.fork(hand)
        return hand

    def _start_nursery(self) -> Nursery:
        return Nursery.start(self._folder, self._name, self._service_key, self._threads)

    def _make_hand(self, number: int, name: str) -> Hand:
        return Hand(number, name, self._folder)

    def _add(self, hand: Hand) -> None:
        self.hands[hand.number] = hand
        self._by_fd[hand.jobs.fileno()] = hand
        self._epoll.register(hand.jobs, select.EPOLLIN)

    def signal(self, hand: Hand, signum: int, *, group: bool) -> None:
        """Send a signal to the worker's process group or to its process alone."""
        if self.nursery is not None:
            self.nursery.signal(hand, signum, group=group)

    def speaking(self) -> tuple[list[Hand], bool]:
        """Return the workers that have something to say now, and whether the zygote has."""
        if self.nursery is not None and self.nursery.is_full:
            self.nursery.flush()
        hands, nursery = [], False
        for fd, _ in self._epoll.poll(0):
            hand = self._by_fd.get(fd)
            if hand is None:
                nursery = True
            else:
                hands.append(hand)
        return hands, nursery

    def reports(self, hand: Hand) -> Iterator[Report]:
        """Yield what the worker has to say now."""
        for _ in range(_REPORTS_PER_POLL):
            try:
                report = hand.receive()
            except (msgspec.MsgspecError, OSError) as error:
                _log.warning("a worker sent what is no report pid=%d reason=%s", hand.pid, error)
                continue
            if report is None:
                break
            yield report
            if type(report) is Ended and not hand.queue:
                break  # nothing more can come of it, and hearing that would cost as much as the report
        if hand.unsent or hand.untold:
            hand.flush()

    def news(self) -> list[zygote.Exited | zygote.NotForked] | None:
        """Return which workers have ended, with all that they left; None when the zygote is dead."""
        assert self.nursery is not None
        self.nursery.flush()
        found = self.nursery.receive()
        if found is None:
            return None
        ends: list[zygote.Exited | zygote.NotForked] = []
        for one in found:
            if isinstance(one, zygote.Forked):
                if one.number in self.hands:
                    self.hands[one.number].is_forked(one.pid)
            else:
                ends.append(one)
        return ends

    def remove(self, hand: Hand) -> None:
        """Forget a worker that is dead."""
        if self.hands.pop(hand.number, None) is not None:
            del self._by_fd[hand.jobs.fileno()]
            self._epoll.unregister(hand.jobs)
            hand.close()

    def bury_nursery(self) -> None:
        """Clean up after a zygote that died; its workers died with it, their descendants are killed here."""
        nursery, self.nursery = self.nursery, None
        if nursery is not None:
            self._epoll.unregister(nursery.connection)
            for hand in self.hands.values():
                hand.kill()
            nursery.close(0.0)
            nursery.kill_marked()

    def close(self) -> list[Hand]:
        """End all workers and what they started; returns the workers when they are dead."""
        hands, self.hands = list(self.hands.values()), {}
        for hand in hands:
            hand.close()
        if self.nursery is not None:
            self.nursery.close()
        self._epoll.close()
        return hands
