"""The mother of the workers: a slim process with one thread that forks them, reaps them, and lets nothing of them
live on.

It holds the imports that every worker needs and no user code ever, so a new worker costs 2 to 3 ms instead of 60. It
is a "subreaper": when a worker is dead, whatever processes it leaves, however deep, in sessions of their own or
forked twice, become children of the zygote, which kills until none is left and only then reports the death. When the
executor's process dies, even by SIGKILL, the zygote ends all workers in this way and then itself; when the zygote
dies, the workers do. (The one of a daemon is a ``keeper``, which lives on.)

``python -P -c "..." JSON``, started by ``nursery``. Rule: single thread, no locks, nothing that must not be forked.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import msgspec

from trun.adapters import pickles
from trun.executors import processtree, worker
from trun.executors.context import Place
from trun.executors.protocol import Frame

_PR_SET_CHILD_SUBREAPER = 36
#: Descriptors that come with one message.
MAX_FDS = 5
#: Longest time that we spend on killing what a worker left, in seconds, before going on (and trying again later).
_STRAYS_S = 5.0


class Fork(Frame, frozen=True):
    """Fork worker ``number``; its two sockets and its mark come along."""

    number: int


class Signal(Frame, frozen=True):
    """Send a signal to the process group of worker ``number``, or to its process alone."""

    number: int
    signum: int
    group: bool = True


class Forked(Frame, frozen=True):
    """The worker lives."""

    number: int
    pid: int


class NotForked(Frame, frozen=True):
    """The worker could not be made."""

    number: int
    reason: str


class Exited(Frame, frozen=True):
    """The worker and all that it left are dead. ``status`` as of waitpid; peak in bytes."""

    number: int
    status: int
    peak_rss: int


_orders = msgspec.msgpack.Decoder(Fork | Signal)
reports = msgspec.msgpack.Decoder(Forked | NotForked | Exited)
encode = msgspec.msgpack.Encoder().encode


class Zygote:
    """Forks and reaps."""

    def __init__(self, executor: socket.socket, parent: int, name: str, place: Place) -> None:
        self._executor: socket.socket | None = executor
        self._name = name
        self._place = place
        self._pids: dict[int, int] = {}  # number -> pid
        self._numbers: dict[int, int] = {}
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._mine = [executor.fileno(), self._wake, wake]
        self._parent_fd = _watch(parent) if parent else -1
        if self._parent_fd >= 0:
            self._mine.append(self._parent_fd)

    def serve(self) -> None:
        """Do as the executor says until it is gone; then leave nothing alive."""
        assert self._executor is not None
        waiting = select.poll()
        for fd in (self._executor.fileno(), self._wake, self._parent_fd):
            if fd >= 0:
                waiting.register(fd, select.POLLIN)
        while True:
            for fd, _ in waiting.poll():
                if fd == self._parent_fd:
                    return self._end()
                if fd == self._wake:
                    os.read(self._wake, 4096)
                elif not self._obey(self._executor):
                    return self._end()
            self._reap()

    def _obey(self, executor: socket.socket) -> bool:
        data, fds, _, _ = socket.recv_fds(executor, 4096, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        self._take(data, fds)
        return True

    def _take(self, data: bytes, fds: list[int]) -> None:
        """Do what the executor asks for."""
        order = _orders.decode(data)
        if type(order) is Fork:
            self._fork(order.number, fds)
            for fd in fds:
                os.close(fd)
        elif type(order) is Signal:
            self._signal(order.number, order.signum, order.group)

    def _signal(self, number: int, signum: int, group: bool) -> None:
        pid = self._pids.get(number)
        if pid is None:
            return
        try:
            (os.killpg if group else os.kill)(pid, signum)
        except ProcessLookupError:  # not yet leader of its group, or dead and not yet reaped
            processtree.kill([pid], signum)

    def _fork(self, number: int, fds: list[int]) -> None:
        here = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._report(NotForked(number=number, reason=str(error)))
            return
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (*self._not_for_workers(), *fds[worker.FDS :]):
                    os.close(fd)
            except BaseException:
                os._exit(70)
            worker.run(fds, name=f"{self._name}-{number}", place=self._place, parent=here)
        self._pids[number] = pid
        self._numbers[pid] = number
        self._report(Forked(number=number, pid=pid))

    def _not_for_workers(self) -> list[int]:
        """Return the descriptors that a worker must not hold."""
        return self._mine

    def _report(self, report: Frame) -> None:
        if self._executor is None:
            return
        try:
            self._executor.send(encode(report))
        except OSError:  # the executor is gone; its end is noticed by poll
            pass

    # -- the dead -----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            number = self._numbers.get(dead.si_pid)
            if number is None:
                os.waitpid(dead.si_pid, os.WNOHANG)
                continue
            if not (dead.si_code == os.CLD_EXITED and dead.si_status == worker.CLEAN):
                try:  # while it is not reaped, its number cannot belong to another group
                    os.killpg(dead.si_pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
                self._kill_strays()
            _, status, usage = os.wait4(dead.si_pid, 0)
            del self._numbers[dead.si_pid], self._pids[number]
            self._died(Exited(number=number, status=status, peak_rss=usage.ru_maxrss * 1024))

    def _died(self, exited: Exited) -> None:
        """A worker and all that it left are dead."""
        self._report(exited)

    def _kill_strays(self) -> None:
        """Kill our children that are no workers, and all below them, until there is none."""
        deadline = time.monotonic() + _STRAYS_S
        while time.monotonic() < deadline:
            known = processtree.parents()
            here = os.getpid()
            strays = [pid for pid, parent in known.items() if parent == here and pid not in self._numbers]
            if not strays:
                return
            processtree.kill([*strays, *processtree.descendants(strays, known)])
            for pid in strays:
                self._await(pid, deadline)

    def _await(self, pid: int, deadline: float) -> None:
        pause = 0.0005
        while time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _end(self) -> None:
        processtree.kill(list(self._numbers))
        deadline = time.monotonic() + _STRAYS_S
        for pid in list(self._numbers):
            self._await(pid, deadline)
            del self._numbers[pid]
        self._kill_strays()


def _watch(pid: int) -> int:
    """Return a descriptor that becomes readable when the process dies; -1 where there are none, or it is not our
    parent.
    """
    if os.getppid() != pid:
        raise SystemExit(0)
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def settle() -> dict[str, Any]:
    """Prepare this process to be the mother of workers; return what it was started with, the one argument as JSON."""
    worker.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pickles.warm()
    import traceback  # noqa: F401  (every failing payload needs it)

    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def main() -> None:
    """Be a zygote; the argument holds fd, parent, name, folder, service_key."""
    facts = settle()
    executor = socket.socket(fileno=facts["fd"])
    executor.set_inheritable(False)
    zygote = Zygote(executor, facts["parent"], facts["name"], Place(facts["folder"], facts["service_key"]))
    gc.collect()
    gc.freeze()
    zygote.serve()
