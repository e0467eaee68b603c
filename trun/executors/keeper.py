"""The mother of a daemon's workers: a zygote that outlives its executor, so that running jobs outlive the daemon.

It holds a copy of each worker's sockets and mark. While an executor is connected it does what a zygote does. When the
executor is gone, however that came, it reads in its place: reports go to a file per worker, ends and deaths are synced
to disk before anything else, timeouts are enforced. The next executor of the folder connects to the socket and is given
all of it; what was kept stays until that one says that it is written down.

It ends by itself when nothing runs and nobody came for a long time; it never kills what runs, except at its timeout.
Rule: single thread, no locks; nothing is known only here that is not also in a file once nobody listens.
"""

from __future__ import annotations

import gc
import logging
import mmap
import os
import select
import signal
import socket
import time
from pathlib import Path

import msgspec

from trun.adapters.logline import begin_log
from trun.executors import heritage, processtree, zygote
from trun.executors.context import Place
from trun.executors.heritage import Bury, Fate, Finish, Greeting, Kept, Record, Stopping
from trun.executors.protocol import begun_and_done, begun_at, encode, marked_ticket, read_report
from trun.executors.zygote import Exited, Fork, Signal, Zygote
from trun.messages import Ended
from trun.version import __version__

_log = logging.getLogger(__name__)

#: Bytes of reports that are kept for a worker; when there are more it waits with the next.
KEPT_BYTES = 64 << 20
#: Seconds between looks at limits while nobody else looks.
_LOOK_S = 0.25
#: Seconds within which the end of an executor shows.
_PATIENCE_S = 5.0
_BUFFER = 256 * 1024


class Charge:
    """A worker as its keeper sees it."""

    def __init__(self, folder: Path, name: str, number: int, pid: int, fds: list[int]) -> None:
        self.number = number
        self.pid = pid
        self.start = heritage.start_of(pid)
        #: The executor's end of orders and reports, the worker's end of it, the executor's end of texts, the mark.
        self.fds = fds
        self.jobs = socket.socket(fileno=fds[0])
        self.waiting = socket.socket(fileno=fds[1])
        self.mark = mmap.mmap(fds[3], mmap.PAGESIZE)
        self.dead: Exited | None = None
        self.stopping: Stopping | None = None
        self.record = Record(folder, f"{name}-{number}")
        self.fate_is_kept = False

    @property
    def runs(self) -> bool:
        """Whether it is at work, or will be."""
        if self.dead is not None:
            return False
        begun, done = begun_and_done(self.mark)
        if begun != done:
            return True
        try:
            self.waiting.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Forget it."""
        self.jobs.close()
        self.waiting.close()
        self.mark.close()
        for fd in self.fds[2:]:
            os.close(fd)
        self.record.close()


class Keeper(Zygote):
    """Forks, reaps, and keeps."""

    def __init__(
        self,
        executor: socket.socket,
        listener: socket.socket,
        name: str,
        place: Place,
        *,
        grace: float,
        linger: float,
    ) -> None:
        super().__init__(executor, 0, name, place)
        self._mine.remove(executor.fileno())  # there will be others
        self._listener = listener
        self._folder = Path(place.folder)
        self._spill = self._folder / "spill"
        self._grace = grace
        self._linger = linger
        self._charges: dict[int, Charge] = {}
        self._finished = False
        self._alone_since = self._busy_at = 0.0
        self._buffer = bytearray(_BUFFER)
        listener.listen(8)  # from here on the kernel names us to who connects

    # -- the loop -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Do as the executor says; keep what it would have heard while there is none."""
        while not self._finished:
            waiting = select.poll()
            waiting.register(self._wake, select.POLLIN)
            waiting.register(self._listener, select.POLLIN)
            speaking = {}
            if self._executor is not None:
                waiting.register(self._executor, select.POLLIN)
            else:
                for charge in self._charges.values():
                    if charge.record.size < KEPT_BYTES and charge.dead is None:
                        waiting.register(charge.jobs, select.POLLIN)
                        speaking[charge.jobs.fileno()] = charge
            ready = {fd for fd, _ in waiting.poll(None if self._executor is not None else _LOOK_S * 1000)}
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._executor is not None and self._executor.fileno() in ready:
                self._hear(self._executor)
            if self._listener.fileno() in ready:
                self._meet()
            if self._executor is None:
                for fd in ready & speaking.keys():
                    self._keep_reports(speaking[fd])
            self._reap()
            if self._executor is None:
                self._stand_in()
        self._leave()

    def _hear(self, executor: socket.socket) -> None:
        """Do what the executor says; where it is gone, stand in for it."""
        try:
            if self._obey(executor):
                return
        except ConnectionError:
            pass
        executor.close()
        self._executor = None
        self._alone_since = self._busy_at = time.monotonic()
        for charge in self._charges.values():
            self._keep_reports(charge)
            self._keep_fate(charge)

    def _take(self, data: bytes, fds: list[int]) -> None:
        order = heritage.keeper_orders.decode(data)
        kind = type(order)
        if kind is Fork:
            self._fork(order.number, fds)
            if order.number in self._pids:
                kept = [fds[3], fds[0], fds[4], fds[2]]
                self._charges[order.number] = Charge(
                    self._folder, self._name, order.number, self._pids[order.number], kept
                )
                fds = [fds[1]]
            for fd in fds:
                os.close(fd)
        elif kind is Signal:
            self._signal(order.number, order.signum, order.group)
        elif kind is Stopping:
            if order.number in self._charges:
                self._charges[order.number].stopping = order
        elif kind is Bury:
            for number in order.numbers:
                charge = self._charges.pop(number, None)
                if charge is not None:
                    charge.close()
        elif kind is Finish:
            self._finished = True

    def _not_for_workers(self) -> list[int]:
        fds = [*self._mine, self._listener.fileno()]
        if self._executor is not None:
            fds.append(self._executor.fileno())
        for charge in self._charges.values():
            fds.extend(charge.fds)
        return fds

    def _died(self, exited: Exited) -> None:
        charge = self._charges.get(exited.number)
        if charge is not None:
            charge.dead = exited
            if self._executor is None:
                self._keep_reports(charge)
                self._keep_fate(charge)
        self._report(exited)

    # -- while nobody listens -----------------------------------------------------------------------------------------

    def _keep_reports(self, charge: Charge) -> None:
        """Write down what a worker has said; its end is synced."""
        while charge.record.size < KEPT_BYTES or charge.dead is not None:
            try:
                size = charge.jobs.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return
            if not size:
                return
            data = bytes(self._buffer[:size])
            self._write(charge, data, sync=self._is_end(data))

    def _is_end(self, data: bytes) -> bool:
        try:
            report, path = read_report(data, self._spill)
        except (msgspec.MsgspecError, OSError):
            return False
        if path is not None:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        return type(report) is Ended

    def _keep_fate(self, charge: Charge) -> None:
        """Write down how a worker died."""
        dead = charge.dead
        if dead is None or charge.fate_is_kept:
            return
        begun, done = begun_and_done(charge.mark)
        fate = Fate(
            ticket=marked_ticket(charge.mark) if begun != done else None,
            status=dead.status,
            seconds=time.monotonic() - begun_at(charge.mark),
            peak=dead.peak_rss,
            stopping=charge.stopping,
        )
        charge.fate_is_kept = self._write(charge, encode(fate), sync=True)

    def _write(self, charge: Charge, data: bytes, *, sync: bool) -> bool:
        while True:
            try:
                charge.record.append(data, sync=sync)
                return True
            except OSError as error:  # a full disk: space may come, or somebody who listens
                _log.error("cannot keep a report path=%s reason=%s", charge.record.path, error)
                time.sleep(_LOOK_S)

    def _stand_in(self) -> None:
        """Enforce timeouts, and end when there is nothing to do."""
        now = time.monotonic()
        for charge in self._charges.values():
            if charge.dead is not None:
                self._keep_fate(charge)
                continue
            if charge.runs:
                self._busy_at = now
            self._look(charge, now)
        if now - max(self._busy_at, self._alone_since) > self._linger:
            self._finished = True

    def _look(self, charge: Charge, now: float) -> None:
        stopping = charge.stopping
        if stopping is None:
            begun, done = begun_and_done(charge.mark)
            ticket = marked_ticket(charge.mark) if begun != done else None
            if ticket is None or ticket.timeout is None or now < begun_at(charge.mark) + ticket.timeout:
                return
            charge.stopping = Stopping(number=charge.number, cause="timeout", reason="", kill_at=now + self._grace)
            self._signal(charge.number, signal.SIGTERM, True)
        elif now >= stopping.kill_at:
            if not stopping.killed:
                charge.stopping = msgspec.structs.replace(stopping, killed=True)
            processtree.kill([charge.pid])

    # -- who comes next -----------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Let in the next executor of this folder. The one before is dead: it held the folder's lock."""
        connection, _ = self._listener.accept()
        if heritage.peer(connection)[1] != os.getuid():
            connection.close()
            return
        while self._executor is not None:
            if not select.select([self._executor], [], [], _PATIENCE_S)[0]:  # it lives: somebody took its lock away
                connection.close()
                return
            self._hear(self._executor)
        for charge in self._charges.values():
            charge.record.close()
        greeting = Greeting(
            protocol=heritage.PROTOCOL,
            version=__version__,
            name=self._name,
            pid=os.getpid(),
            workers=len(self._charges),
        )
        self._executor = connection
        try:
            connection.send(encode(greeting))
            for charge in self._charges.values():
                socket.send_fds(connection, [encode(self._kept(charge))], charge.fds)
        except OSError:  # gone already, which the next read shows
            pass

    def _kept(self, charge: Charge) -> Kept:
        dead = charge.dead
        return Kept(
            number=charge.number,
            pid=charge.pid,
            start=charge.start,
            alive=dead is None,
            status=0 if dead is None else dead.status,
            peak=0 if dead is None else dead.peak_rss,
            stopping=charge.stopping,
        )

    def _leave(self) -> None:
        """End all that is left: idle workers, or whatever the executor wanted ended."""
        heritage.socket_path(self._folder, self._name).unlink(missing_ok=True)
        self._listener.close()
        self._end()


def main() -> None:
    """Be a keeper; the argument holds fd, listener, name, folder, service_key, grace, linger."""
    facts = zygote.settle()
    begin_log()
    executor, listener = socket.socket(fileno=facts["fd"]), socket.socket(fileno=facts["listener"])
    for end in (executor, listener):
        end.set_inheritable(False)
    place = Place(facts["folder"], facts["service_key"])
    keeper = Keeper(executor, listener, facts["name"], place, grace=facts["grace"], linger=facts["linger"])
    gc.collect()
    gc.freeze()
    keeper.serve()


__all__ = ["Charge", "Keeper", "main"]
