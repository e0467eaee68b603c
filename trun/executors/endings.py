"""What to say of attempts that did not end by themselves: stopped, killed, or dead. Texts and figures only."""

from __future__ import annotations

import os
import signal

from trun.executors.hand import Stop
from trun.messages import Aborted, ErrorInfo, Failed
from trun.ports import Order

_MEANINGS = {
    signal.SIGSEGV: "it touched memory that is not its own, mostly a fault in native code",
    signal.SIGBUS: "it touched memory that is not there, mostly a mapped file that was cut short or a full disk",
    signal.SIGABRT: "native code gave up (abort), mostly after an error message in the log",
    signal.SIGFPE: "native code divided by zero",
    signal.SIGILL: "native code was built for another processor",
    signal.SIGXCPU: "it used up its processor time limit",
}


def size_text(size: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def span_text(seconds: float) -> str:
    """Return a time span as people read it."""
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"


def stopped(
    order: Order, stop: Stop | None, status: int | None, seconds: float, peak: int, tail: str
) -> Aborted | Failed:
    """Return the outcome of an attempt that was interrupted, or whose process died with this ``status``."""
    if stop is None and status is not None:
        return died(order, status, seconds, peak, tail)
    if stop is None:
        return terminated(order, seconds, peak, tail)
    if stop.cause == "timeout":
        return timed_out(order, stop.killed, seconds, peak, tail)
    if stop.cause == "memory":
        return out_of_memory(order, seconds, stop.peak, tail)
    return Aborted(reason=stop.reason)


def timed_out(order: Order, killed: bool, seconds: float, peak: int, tail: str) -> Failed:
    """Return the outcome of an attempt that ran longer than it may."""
    limit = span_text(order.spec.timeout or 0.0)
    how = "was killed, since it did not end on SIGTERM" if killed else "was stopped"
    error = ErrorInfo(
        type="trun.errors.JobTimeout", message=f"{order.id} ran longer than its timeout of {limit} and {how}", tail=tail
    )
    return Failed(kind="timeout", error=error, seconds=seconds, peak_rss=peak)


def out_of_memory(order: Order, seconds: float, peak: int, tail: str) -> Failed:
    """Return the outcome of an attempt whose processes held more memory than they may."""
    error = ErrorInfo(
        type="trun.errors.MemoryExceeded",
        message=f"{order.id} and its processes held {size_text(peak)}, more than its limit of "
        f"{size_text(order.spec.memory or 0)}, and were killed",
        tail=tail,
    )
    return Failed(kind="memory", error=error, seconds=seconds, peak_rss=peak)


def died(order: Order, status: int, seconds: float, peak: int, tail: str) -> Failed:
    """Return the outcome of an attempt whose process died under it; ``status`` as of waitpid."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        text = f"the process that ran {order.id} ended itself with exit code {code} (os._exit or the like)"
        return _death(text, code, None, seconds, peak, tail)
    number = -code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = _MEANINGS.get(number, "")  # type: ignore[call-overload]
    if number == signal.SIGKILL:
        limits = [
            f"its timeout of {span_text(order.spec.timeout)}" if order.spec.timeout is not None else "",
            f"its memory limit of {size_text(order.spec.memory)}" if order.spec.memory is not None else "",
        ]
        known = " nor ".join(part for part in limits if part)
        meaning = (
            f"by neither trun{' (neither ' + known + ')' if known else ''} nor itself: the kernel, short of memory "
            f"(its peak was {size_text(peak)}), or somebody by hand"
        )
    text = f"the process that ran {order.id} was killed by {name}" + (f": {meaning}" if meaning else "")
    return _death(text, None, number, seconds, peak, tail)


def terminated(order: Order, seconds: float, peak: int, tail: str) -> Failed:
    """Return the outcome of an attempt that somebody else stopped with SIGTERM."""
    text = f"the process that ran {order.id} was stopped by SIGTERM from outside, not by trun"
    return _death(text, None, int(signal.SIGTERM), seconds, peak, tail)


def unstartable(order: Order, reason: str) -> Failed:
    """Return the outcome of an attempt for which no worker could be had."""
    return _death(f"no worker could be started for {order.id}: {reason}", None, None, 0.0, 0, "")


def _death(text: str, exitcode: int | None, signum: int | None, seconds: float, peak: int, tail: str) -> Failed:
    error = ErrorInfo(type="trun.errors.WorkerDied", message=text, exitcode=exitcode, signal=signum, tail=tail)
    return Failed(kind="died", error=error, seconds=seconds, peak_rss=peak)


def refused(order: Order, text: str) -> Failed:
    """Return the outcome of an order that cannot be run."""
    return Failed(kind="raised", error=ErrorInfo(type="trun.errors.Refused", message=f"{order.id}: {text}"))


def too_many(suspended: int) -> str:
    """Return what to tell a job that waits for jobs of its own when too many do so already."""
    return (
        f"more than {suspended} jobs already wait for jobs of their own ([workers] suspended); "
        "wait outside of jobs, or use conditions (when=...) instead of .result()."
    )
