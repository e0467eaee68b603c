"""Drives an engine from one thread: waits for sockets, workers, watchers and processes, and calls ``step``.

The rule that keeps it from sleeping through a message: drain the endpoint and the executor *after* the last send and
before each wait, because a ZeroMQ descriptor tells of changes only. No asyncio, no second thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from trun.adapters.watchers import Looks, Watchers
from trun.engine.absence import GRACE_S, Absence
from trun.engine.ending import put_down
from trun.engine.loop import Engine, Session
from trun.engine.streams import KEPT_S
from trun.messages import AnyReport, AnyRequest
from trun.ports import SLICE

_log = logging.getLogger(__name__)

Batches = list[tuple[bytes, Sequence[AnyRequest]]]

#: Seconds after which, and requests after which, a step takes no more in: all of it waits for the commit.
STEP_S, STEP_REQUESTS = 0.1, 500
#: Most times what a request took that its commit, and what follows it, is counted for.
MOST_SHARE = 4.0
#: Longest wait, in seconds; everything urgent has a descriptor or a deadline.
IDLE_S = 5.0
#: Seconds between looks for space while the disk is full.
SPACE_S = 1.0


class Driver:
    """Runs an engine until it is told to stop.

    ``owner_pid`` is the process that a private node belongs to: when it dies without a word, the node stops what runs,
    keeps the record, and ends. Where the executor can, running jobs of other nodes live on when the node ends, and the
    next one of the same folder finds them again; ``stop(kill=True)`` ends them. ``looker`` is
    who looks at the world for conditions (see ``Watchers``).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        owner_pid: int | None = None,
        outlive: bool = False,
        looker: Looks | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.engine = engine
        self.watchers = Watchers(looker)
        self.owner_left = False
        self._owner_pid = owner_pid or 0
        self._outlive = outlive
        #: Misses clients of others; a private node's have a process here.
        self._absence = Absence(engine, grace_s) if engine.gate is not None else None
        self._pidfds: dict[int, Callable[[], None]] = {}
        self._signalled = False
        self._stop_read, self._stop_write = os.pipe()
        self._leaves_jobs = "attach" in engine.executor.capabilities
        self._looked = 0.0
        #: {peer: seconds that what it asked has taken} in the present step.
        self._work: dict[bytes, float] = {}
        engine.on_session = self._watch_session
        if owner_pid:
            self._watch_process(owner_pid, self._owner_died)

    # -- processes that matter ----------------------------------------------------------------------------------------

    def _watch_process(self, pid: int, gone: Callable[[], None]) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            gone()
        except (AttributeError, OSError):  # not Linux: the heartbeat has to do
            _log.debug("cannot watch process pid=%d", pid)
        else:
            self._pidfds[fd] = gone

    def _watch_session(self, session: Session) -> None:
        if self._absence is not None:
            self._absence.seen(session)
        if session.pid:
            self._watch_process(session.pid, lambda: self._session_died(session, session.pid))

    def _session_died(self, session: Session, pid: int) -> None:
        if pid == self._owner_pid:  # not a client that left its jobs: a script that was killed; the record is kept
            self._owner_died()
        elif session.pid == pid and not self.owner_left:
            self.engine.leave(session)

    def _owner_died(self) -> None:
        if not self.owner_left:
            _log.warning("owner process has gone")
        self.owner_left = True

    def stop(self, *, kill: bool = False) -> None:
        """Ask the loop to end after the present step (safe in a signal handler); ``kill`` ends running jobs too."""
        self._signalled = True
        self._leaves_jobs = self._leaves_jobs and not kill
        self.watchers.wake()  # a signal alone does not end a wait
        with contextlib.suppress(OSError):  # a poll goes on after a signal
            os.write(self._stop_write, b"x")

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until a client of a private node says stop, the owner dies, or ``stop()``."""
        engine = self.engine
        engine.keeps = True
        while not self._is_over():
            inputs = self._drain()
            gone = engine.endpoint.gone() if engine.endpoint is not None else ()
            start, stop = engine.machine.watch_changes()
            if start or stop:
                self.watchers.change(start, stop)
            if inputs is not None or self._due():
                self._step(inputs or ())
            elif not gone:
                self._wait()
            for peer in gone:  # after what they said last
                engine.forget(peer)
            if self._absence is not None:
                self._absence.look()
        engine.speak()

    def _step(self, inputs: Iterable[tuple[bytes, AnyRequest | AnyReport]]) -> None:
        """Let the engine take a step, and note whose work it was: its commit too."""
        began = time.monotonic()
        self.engine.step(inputs)
        work, self._work = self._work, {}
        wire, took = self.engine.gate.wire if self.engine.gate is not None else None, sum(work.values())
        if wire is not None and took > 0:
            share = min((time.monotonic() - began) / took, MOST_SHARE)
            for peer, seconds in work.items():
                wire.spend(peer, seconds * share)

    def _is_over(self) -> bool:
        if self._signalled or self.engine.stopping:
            return True
        if not self.owner_left:
            return False
        return not self._outlive or not any(session.unfinished for session in self.engine.sessions.values())

    def _drain(self) -> Iterable[tuple[bytes, AnyRequest | AnyReport]] | None:
        """Return what a step is to handle; None where nothing has come."""
        engine = self.engine
        batches = engine.endpoint.receive() if engine.endpoint is not None else []
        reports: list[tuple[bytes, AnyRequest | AnyReport]] = []
        reports.extend((b"", report) for report in engine.executor.poll(engine.clock.now()))
        reports.extend((b"", report) for report in self.watchers.take())
        if engine.mail is not None:
            reports.extend((b"", letter) for letter in engine.mail.take())
        return chain(self._requests(batches), reports) if batches or reports else None

    def _requests(self, batches: Batches) -> Iterator[tuple[bytes, AnyRequest]]:
        """Give requests, and more of those that wait, until the step has enough or has lasted long enough."""
        endpoint, end, room = self.engine.endpoint, time.monotonic() + STEP_S, STEP_REQUESTS
        wire = self.engine.gate.wire if self.engine.gate is not None else None
        while batches and endpoint is not None:
            count, late = 0, Batches()
            for peer, requests in batches:
                began = time.monotonic()
                if wire is not None and count and began > end and wire.may_wait(peer):
                    late.append((peer, requests))
                    continue
                for place, request in enumerate(requests, 1):
                    yield peer, request
                    if wire is not None and time.monotonic() > end and place < len(requests) and wire.may_wait(peer):
                        late.append((peer, requests[place:]))
                        break
                self._work[peer] = self._work.get(peer, 0.0) + time.monotonic() - began
                count += len(requests)
            for peer, requests in reversed(late):  # one alone may have been as much work as a thousand
                wire.put_back(peer, requests)  # type: ignore[union-attr]
            room -= count
            # Of others' requests a few may be as much as a slice, by their size; of our own few are all.
            if (wire is None and count < SLICE) or room <= 0 or time.monotonic() > end:
                break
            batches = endpoint.receive()

    def _deadline(self) -> float | None:
        both = (self.engine.machine.next_deadline(), self.engine.executor.next_deadline())
        return min((deadline for deadline in both if deadline is not None), default=None)

    def _due(self) -> bool:
        now = self.engine.clock.now()
        deadline, gate = self.engine.machine.next_deadline(), self.engine.gate
        if self.engine.is_short_of_space and now - self._looked >= SPACE_S:
            self._looked = now
            return True
        if gate is not None and gate.is_due(now):
            return True
        return (deadline is not None and deadline <= now) or self.engine.pending

    def _wait(self) -> None:
        poll = select.poll()
        if self.engine.endpoint is not None:
            for fd in self.engine.endpoint.fds():
                poll.register(fd, select.POLLIN)
        for fd in self.engine.executor.fds():
            poll.register(fd, select.POLLIN)
        poll.register(self.watchers.fd(), select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        for fd in self._pidfds:
            poll.register(fd, select.POLLIN)
        deadline = self._deadline()
        longest = SPACE_S if self.engine.is_short_of_space else IDLE_S
        if self.engine.gate is not None and self.engine.gate.next_look is not None:
            longest = min(longest, self.engine.gate.next_look)
        if self.engine.mail is not None:
            poll.register(self.engine.mail.fd(), select.POLLIN)
            longest = min(longest, self.engine.mail.next_look() or longest)
        wait = longest if deadline is None else min(longest, max(0.0, deadline - self.engine.clock.now()))
        if self.engine.streams.are_kept:
            wait = min(wait, KEPT_S / 4)
        found = poll.poll(wait * 1000 + 0.5 if wait else 0)
        if not found:
            self.engine.speak()
        for fd, _ in found:
            gone = self._pidfds.pop(fd, None)
            if gone is not None:
                os.close(fd)
                gone()

    def close(self) -> None:
        """Stop the workers (unless they outlive us) and close what was opened."""
        self.watchers.close()
        if self.engine.mail is not None:
            self.engine.mail.close()
        ends = (self._stop_read, self._stop_write)
        self._stop_read = self._stop_write = -1  # a late signal shall not write into what is opened next
        for fd in (*self._pidfds, *ends):
            os.close(fd)
        self._pidfds = {}
        executor = self.engine.executor
        is_wished = "attach" in executor.capabilities and not self._leaves_jobs
        reports = executor.poll(self.engine.clock.now()) if is_wished else []
        executor.close(detach=self._leaves_jobs)
        if is_wished:
            put_down(self.engine, reports, "the service was stopped")
        if self.engine.endpoint is not None:
            self.engine.endpoint.close()
        self.engine.journal.close()
