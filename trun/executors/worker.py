"""A warm worker: a process that runs one attempt after the other, forked from the zygote.

Its main thread takes orders from its private socket and runs them; there is no second thread (texts for the inbox
wait in a socket of their own until the payload asks for them). It leads its own session, adopts its orphaned
descendants, and dies with the zygote. File descriptors 1 and 2 are a file: silent attempts cost one ``fstat``, others
get the file under their name.

An attempt that leaves processes behind, or that was interrupted, ends the worker too: the zygote then kills what is
left, before the attempt counts as ended. Never imports the user's script. Rule: nothing here may depend on what a
payload did to ``sys``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import select
import signal
import socket
import sys
import types
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

from trun.errors import Refused
from trun.executors.context import Place
from trun.executors.launcher import Launcher, Stopped
from trun.executors.protocol import (
    INLINE_BYTES,
    Envelope,
    Interrupt,
    Leaving,
    Ready,
    Tell,
    current_log_name,
    encode,
    log_name,
    note_done,
    order_reader,
    spill,
    tail_of,
    text_reader,
)
from trun.executors.surroundings import Surroundings
from trun.messages import Aborted, Completed, Emitted, Failed, ResourcesLowered

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_IOLBF = 1
#: Exit code of a worker that ended by itself and left nothing behind.
CLEAN = 113
#: Texts for one attempt by whose tokens a repetition is recognised.
HEARD = 1000
#: Descriptors that a worker needs.
FDS = 3

libc = ctypes.CDLL(None, use_errno=True)
_ANY_END = os.WEXITED | os.WNOHANG | os.WNOWAIT


def run(fds: list[int], *, name: str, place: Place, parent: int) -> NoReturn:
    """Be a worker until the executor closes the connection; called in the freshly forked process.

    ``fds``: socket of orders and reports, socket of texts, mark.
    """
    code = 70
    try:
        _settle(parent)
        jobs, control = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
        worker = Worker(jobs, control, mmap.mmap(fds[2], mmap.PAGESIZE), name, place)
        os.close(fds[2])
        code = worker.serve()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # into the log
    finally:
        os._exit(code)


def _settle(parent: int) -> None:
    os.setsid()
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    # Payloads and what they pickle must not meet our own main module.
    sys.modules["__main__"] = types.ModuleType("__main__")


class Worker:
    """The process's one worker; also the channel of its launcher."""

    def __init__(self, jobs: socket.socket, control: socket.socket, mark: mmap.mmap, name: str, place: Place) -> None:
        self._jobs = jobs
        self._control = control
        self._spill = Path(place.folder) / "spill"
        self._orders = order_reader(self._spill, mark)
        self._mark = mark
        self._texts = text_reader(self._spill)
        self._told: deque[Tell] = deque()
        #: What the running attempt has been told: a service that was restarted may pass a text on once more.
        self._heard: deque[str] = deque(maxlen=HEARD)
        self._logs = Path(place.folder) / "logs"
        self._log = str(self._logs / current_log_name(name))
        self._open_log()
        self._stdout, self._stderr = _streams()
        self._launcher = Launcher(place, self, tail=self._tail)
        self._busy = False
        self._pid = os.getpid()
        self._interrupt: Interrupt | None = None
        faulthandler.enable(file=2)
        self._term = self._on_term
        signal.signal(signal.SIGTERM, self._term)
        self._surroundings = Surroundings()

    def serve(self) -> int:
        """Run orders until the connection ends or an attempt makes it necessary to go; return the exit code."""
        self._write(encode(Ready(pid=os.getpid())))
        while True:
            envelope = self._orders.receive(self._jobs)
            if envelope is None:
                return CLEAN
            if not self._run(envelope):
                return 0

    def _run(self, envelope: Envelope) -> bool:
        """Run one order and report it; whether this worker is still good for another."""
        self._busy = True
        self._told.clear()
        self._heard.clear()
        ended = self._launcher.launch(envelope)
        if os.getpid() != self._pid:
            self._leave_fork(ended.outcome)
        leaving = "interrupted" if self._launcher.interrupted else ""
        if _has_children():
            leaving = leaving or "it left processes behind"
        self._end_log(log_name(envelope.uid, envelope.run, envelope.attempt))
        if self._stdout is not sys.stdout or self._stderr is not sys.stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr
        self._surroundings.restore()
        if leaving:
            self._write(encode(Leaving(reason=leaving)))
        self._write(encode(ended))
        note_done(self._mark)
        self._busy = False
        return not leaving

    def _leave_fork(self, outcome: Completed | Failed | Aborted) -> NoReturn:
        """End a child that the payload forked and that came back here: the job's end is its parent's to report."""
        if type(outcome) is Failed and outcome.error is not None:
            print(outcome.error.traceback, file=self._stderr)
        self._flush()
        os._exit(0 if type(outcome) is Completed else 1)

    # -- the launcher's channel ---------------------------------------------------------------------------------------

    def send(self, report: Emitted | ResourcesLowered) -> None:
        """Send what the running attempt says."""
        self._write(encode(report))

    def receive(self, timeout: float | None) -> Tell | None:
        """Return the next text for the running attempt."""
        while True:
            if self._told:
                tell = self._told.popleft()
                job = self._launcher.job
                is_ours = job is not None and (tell.uid, tell.epoch) == (job.uid, job.epoch)
                if is_ours and not (tell.token and tell.token in self._heard):
                    self._heard.append(tell.token)
                    return tell
                continue
            if not select.select([self._control], [], [], timeout)[0]:
                return None
            if not self._drain_control():
                return None

    def _drain_control(self) -> bool:
        """Take in all texts that have arrived; False at the end of the connection."""
        while True:
            try:
                frame = self._texts.receive(self._control, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            if frame is None:
                return False
            if type(frame) is Tell:
                self._told.append(frame)
            elif type(frame) is Interrupt:
                self._interrupt = frame

    def _on_term(self, signum: int, frame: Any) -> None:
        launcher = self._launcher
        job = launcher.job
        if job is None or not self._busy:
            os._exit(CLEAN)
        self._drain_control()
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None and (interrupt.uid, interrupt.epoch) == (job.uid, job.epoch):
            if launcher.inside:
                raise Refused(interrupt.text)
            return
        once, launcher.interrupted = not launcher.interrupted, True
        if launcher.inside and once:
            raise Stopped

    def _write(self, data: bytes) -> None:
        if len(data) > INLINE_BYTES:
            data, _ = spill(data, self._spill)
        self._jobs.send(data)

    # -- what it prints -----------------------------------------------------------------------------------------------

    def _open_log(self) -> None:
        flags = os.O_CREAT | os.O_APPEND | os.O_RDWR
        try:
            fd = os.open(self._log, flags, 0o600)
        except FileNotFoundError:
            self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._log, flags, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        if fd > 2:
            os.close(fd)

    def _flush(self) -> None:
        streams = [self._stdout, self._stderr]
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            streams += [sys.stdout, sys.stderr]
        for stream in streams:
            try:
                stream.flush()
            except Exception:  # a payload may have put anything there
                pass
        libc.fflush(None)

    def _end_log(self, name: str) -> None:
        """Give what the attempt printed its lasting name, if it printed anything."""
        self._flush()
        try:
            printed = _size(1) or _size(2)
        except OSError:  # closed by the payload
            printed = 1
        if printed:
            try:
                os.rename(self._log, self._logs / name)
            except FileNotFoundError:
                pass
            self._open_log()

    def _tail(self) -> str:
        """Return the last lines that the running attempt has printed."""
        self._flush()
        return tail_of(self._log)


def _streams() -> tuple[Any, Any]:
    """Make stdout and stderr write whole lines at once, in C too."""
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    return sys.stdout, sys.stderr


def _size(fd: int) -> int:
    """Return the size of a file, which has no other place to write at than its end; a tenth of what ``fstat`` costs."""
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:  # a pipe that a payload has put there
        return os.fstat(fd).st_size


def _has_children() -> bool:
    """Whether this process has a child, living or dead; by C, since the error for "no child" would cost more than all
    else here.
    """
    return bool(libc.waitid(os.P_ALL, 0, None, _ANY_END) == 0)
