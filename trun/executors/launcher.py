"""Runs one payload, identically on every executor: where it stands, what it is given, what becomes of it.

``launch`` takes an envelope and a channel; it applies the client's folder and module path, sets the current job,
loads the call, calls it (and awaits what a coroutine function gives), pickles the result in this process, and returns
the report. Whatever a payload raises is a failure with a report, ``SystemExit`` and ``KeyboardInterrupt`` included;
no error of it can break the launcher. Processes, signals, logs and kills are the business of ``worker``.

Rule: no executor has a second way to run a payload.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trun.adapters import pickles, places
from trun.adapters.blobs import BlobFolder
from trun.errors import MemoryExceeded
from trun.executors.context import Channel, CurrentJob, Place, set_current_job
from trun.executors.endings import size_text
from trun.executors.protocol import Envelope
from trun.messages import Aborted, Blob, Completed, Ended, ErrorInfo, Failed

#: Frames of ours at the top of a payload's traceback.
_OUR_FRAMES = 1
_KNOWN = 512


class Stopped(BaseException):
    """Raised inside a payload that is stopped on purpose, so that it can clean up."""


class Launcher:
    """Runs payloads one after the other in this process."""

    def __init__(self, place: Place, channel: Channel, *, tail: Callable[[], str] | None = None) -> None:
        self._place = place
        self._channel = channel
        self._blobs = BlobFolder(os.path.join(place.folder, "blobs"))
        self._write_blob = self._write if place.folder else None
        self._tail = tail or (lambda: "")
        self._functions: dict[str, bytes] = {}
        self._contexts: dict[str, tuple[str, list[str]]] = {}
        self._peak = Peak()
        self._own = _own_folder(), list(sys.path)
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        #: Whether the payload itself is running: the only time at which it may be interrupted.
        self.inside = False
        #: The running attempt's job, and whether somebody has interrupted it.
        self.job: CurrentJob | None = None
        self.interrupted = False

    def _write(self, view: memoryview) -> Any:
        return self._blobs.write((view,))

    def launch(self, envelope: Envelope) -> Ended:
        """Run one attempt to its end and return what became of it."""
        if envelope.forget:
            self._functions.clear()
            self._contexts.clear()
        if envelope.function_data is not None:
            self._functions[envelope.function] = envelope.function_data
        self.job = CurrentJob(envelope, self._channel, self._place)
        self.interrupted = False
        set_current_job(self.job)
        began = time.perf_counter()
        outcome: Completed | Failed | Aborted
        try:
            outcome = self._outcome(envelope, began)
        finally:
            self.inside = False
            self.job.end()
            set_current_job(None)
        if type(outcome) is Completed:  # it is not run again
            for part in (envelope.arguments.blob, *envelope.arguments.buffers):
                if type(part) is Blob:
                    self._blobs.put_away(part)
        return Ended(uid=envelope.uid, epoch=envelope.epoch, outcome=outcome)

    def _outcome(self, envelope: Envelope, began: float) -> Completed | Failed | Aborted:
        value: Any = None
        try:
            value = self._run(envelope)
            if self.interrupted:
                return Aborted(reason="stopped")
            payload, values = pickles.dump_result(value, big=self._write_blob)
        except Stopped:
            return Aborted(reason="stopped")
        except BaseException as error:
            self.inside = False
            if self.interrupted:  # whatever it made of the interruption
                return Aborted(reason="stopped")
            return self._failure(error, envelope, began)
        seconds = time.perf_counter() - began
        return Completed(result=payload, values=values, seconds=seconds, peak_rss=self._peak.of(seconds))

    def _run(self, envelope: Envelope) -> Any:
        self._stand(envelope)
        data = self._functions[envelope.function]
        fn, args, kwargs = pickles.load_call(data, envelope.arguments, envelope.inputs, self._blobs.open)
        if self.interrupted:
            raise Stopped
        before = limit_memory(envelope.memory) if envelope.memory is not None else None
        self.inside = True
        try:
            value = fn(*args, **kwargs)
            if type(value) is types.CoroutineType:
                value = _await(value)
        finally:
            self.inside = False
            if before is not None:
                resource.setrlimit(resource.RLIMIT_DATA, before)
        return value

    def _stand(self, envelope: Envelope) -> None:
        """Go where the client stands, as far as that place exists here, whatever the last payload did."""
        if envelope.context_data is not None:
            folder, path = pickles.load_context(envelope.context_data)
            self._contexts[envelope.context] = folder or self._own[0], places.join(path, self._own[1])
        folder, wanted = self._contexts.get(envelope.context, self._own)
        if envelope.wanted:
            self._provide(envelope)
        if envelope.paths:
            wanted = [*envelope.paths, *wanted]
        os.umask(self._umask)
        try:
            os.chdir(folder)
        except OSError:
            os.chdir(self._own[0])
        if sys.path != wanted:
            sys.path[:] = wanted

    def _provide(self, envelope: Envelope) -> None:
        """Install what the job needs and the service has not; the versions that were taken stand in its stream."""
        from trun.adapters.ondemand import provide
        from trun.adapters.settings import of_service

        assert self.job is not None
        settings = of_service(Path(self.job.export_folder).parent)
        found = provide(Path(envelope.paths[-1]), envelope.wanted, home=Path(envelope.home), environment=settings)
        self.job.say("installed", found)

    def _failure(self, error: BaseException, envelope: Envelope, began: float) -> Failed:
        kind = "raised"
        info = pickles.dump_error(error, skip=_OUR_FRAMES + 1, tail=self._tail())
        seconds = time.perf_counter() - began
        if envelope.memory is not None and isinstance(error, MemoryError) and not isinstance(error, MemoryExceeded):
            kind, info = "memory", memory_error(envelope, self._peak.of(seconds), info)
        return Failed(kind=kind, error=info, seconds=seconds, peak_rss=self._peak.of(seconds))


def _own_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # whoever started the service stood in a folder that has gone
        return os.sep


def memory_error(envelope: Envelope, peak: int, info: ErrorInfo) -> ErrorInfo:
    """Return what to report of an attempt that asked for more memory than it may have."""
    return ErrorInfo(
        type="trun.errors.MemoryExceeded",
        message=f"{envelope.id} asked for more than its {size_text(envelope.memory or 0)} of memory "
        f"(its peak was {size_text(peak)}): {info.message or 'MemoryError'}",
        traceback=info.traceback,
        tail=info.tail,
    )


class Peak:
    """The largest resident size of attempts, in bytes."""

    #: Growth after which the kernel's mark is set back, so that the next attempt reports its own; and the time below
    #: which an attempt is not worth the 2 microseconds of asking.
    STEP, SHORT_S = 16 << 20, 0.001

    def __init__(self) -> None:
        self._last = self._base = _max_rss(resource.RUSAGE_SELF)
        self._children = 0

    def of(self, seconds: float) -> int:
        """Return the peak of the attempt that ends now, children that have ended included."""
        if seconds < self.SHORT_S:
            return self._last
        peak = self._last = _max_rss(resource.RUSAGE_SELF)
        children = _max_rss(resource.RUSAGE_CHILDREN)
        if peak > self._base + self.STEP:
            self._set_back()
        if children > self._children:
            self._children = children
            return max(peak, children)
        return peak

    def _set_back(self) -> None:
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass
        self._base = _max_rss(resource.RUSAGE_SELF)


def _max_rss(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * 1024


def limit_memory(limit: int) -> tuple[int, int]:
    """Let the data segment grow by ``limit`` bytes from here on; returns the limit before, to be set again."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/statm", "rb") as file:
        data = int(file.read().split()[5]) * resource.getpagesize()
    wanted = data + limit
    if before[1] != resource.RLIM_INFINITY:
        wanted = min(wanted, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    return before


def _await(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)
