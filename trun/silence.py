"""Whether a service is heard. Silence is noticed, said, and never taken for an end.

A service that should answer and does not is asked; where nothing comes back within the limit it is *silent*, and its
jobs are ``unknown`` until it is heard again: nothing fails, fires or is cancelled by that. The question travels where
everything else does, so it finds out about a daemon that hangs as well as about a network that does.

``Hearing`` is the half of a service's handle that knows it, and how to part from a service that may be silent.
Threads: ``heard``, ``lost`` and ``beat`` belong to the link's thread. Rule: the clock counts only while this process
runs; whoever wakes from a sleep asks before it judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from trun.core.words import span
from trun.errors import ServiceUnavailable
from trun.front import Front
from trun.listening import is_kept
from trun.messages import AnyRequest, Ask, JobSpec, Welcome

#: Seconds between beats, and how many of them may pass unanswered: 5 beats after the last word at the latest.
BEAT_S = 0.75
MISSES = 3
#: Seconds for which a silent service is waited for at the end, and between looks whether it is.
PATIENCE_S = 5.0
LOOK_S = 0.1
#: Jobs that are named where a service has not acknowledged them.
NAMED = 5


class Silence:
    """When a service was heard last."""

    __slots__ = ("_is_fresh", "_missed", "heard_at", "since")

    def __init__(self) -> None:
        #: Seconds since the epoch; 0.0: never.
        self.heard_at = 0.0
        #: Since when it is silent, in seconds since the epoch; 0.0: it is not.
        self.since = 0.0
        self._is_fresh = False
        self._missed = 0

    def heard(self) -> None:
        """Something has come."""
        self.heard_at = time.time()
        self._is_fresh = True
        self.since = 0.0

    def lost(self) -> None:
        """The connection has broken."""
        self.since = self.since or self.heard_at or time.time()

    def beat(self, *, expects: bool) -> bool:
        """Count a beat; True where the service should be asked whether it is there."""
        if self._is_fresh or not expects:
            self._is_fresh, self._missed = False, 0
            return False
        self._missed += 1
        if self._missed > MISSES:
            self.lost()
        return self._missed == 1


def seconds(passed: float) -> str:
    """Return a time without word, as people write it."""
    return f"{max(0.0, passed):.0f} s" if passed < 600 else span(passed)


class Hearing(Front):
    """The half of a service's handle that knows whether it is heard."""

    name: str
    address: str
    welcome: Welcome | None
    _answers: dict[str, Future[Any]]
    _asked: dict[str, AnyRequest]
    _unacknowledged: dict[str, JobSpec]
    _gone: Exception | None

    def __init__(self) -> None:
        self.silence = Silence()
        #: Where an address of its machine can be reached here, if that is elsewhere (through a tunnel).
        self.reach: Callable[[str], str] = lambda address: address
        #: The tunnel that leads there, if one does.
        self.tunnel: Any = None

    def begin_ask(self, verb: str, /, **arguments: Any) -> Future[Any]:
        """Ask a reading verb and do not wait."""
        raise NotImplementedError

    def post(self, request: AnyRequest) -> None:
        """Send a request and do not wait."""
        raise NotImplementedError

    @property
    def gone(self) -> Exception | None:
        """Why the service will never answer again; None while it may."""
        return self._gone

    @property
    def folder(self) -> str:
        """State folder of the service, for clients on the same machine; empty before the greeting."""
        return self.welcome.folder if self.welcome is not None else ""

    @property
    def silent_since(self) -> float | None:
        """Since when nothing has been heard of the service, in seconds since the epoch; None while it is heard."""
        return self.silence.since or None

    @property
    def silence_text(self) -> str:
        """What is to be said of the silence; empty while the service is heard."""
        since = self.silence.since
        if not since:
            return ""
        return f"the service {self.name} has not been heard for {seconds(time.time() - since)} ({self.address})"

    def beat(self) -> None:
        """Ask whether the service is there, if it should have been heard (in the link's thread)."""
        if self._gone is None and self.silence.beat(expects=self._expects()):
            self.post(Ask(token="beat", verb="ping"))

    def _expects(self) -> bool:
        """Whether something is to be heard at all."""
        return bool(self._answers or self._unacknowledged)

    def await_heard(self, asked: Future[Any], timeout: float | None = None) -> bool:
        """Wait for an answer as long as the service is heard; False where it fell silent."""
        began = time.monotonic()
        while not self.silence.since:
            left = LOOK_S if timeout is None else min(LOOK_S, began + timeout - time.monotonic())
            if wait([asked], max(0.0, left)).done:
                return True
            if left <= 0:
                self.drop(asked)
                raise ServiceUnavailable(f"service {self.name} at {self.address} did not answer within {timeout:g} s.")
        if not asked.done():
            self.drop(asked)
        return asked.done()

    def await_acknowledgement(self, timeout: float | None, patience: float = PATIENCE_S) -> None:
        """Wait until everything is acknowledged, as long as the service is heard, or for so many seconds if it is not.

        Raises
        ------
        ServiceUnavailable
            Something was not acknowledged; the text says what.
        """
        if self.silence.since and not self.waits_for_word:
            return
        asked = self.begin_ask("ping")
        began = time.monotonic()
        while not wait([asked], LOOK_S).done:
            spent = time.monotonic() - began
            limit = patience if self.silence.since or not self.silence.heard_at else timeout
            if limit is not None and spent >= limit:
                self.drop(asked)
                if self.waits_for_word or not self.silence.since:
                    raise ServiceUnavailable(self.unacknowledged_text())
                return

    @property
    def waits_for_word(self) -> bool:
        """Whether something that was sent was not acknowledged or answered yet."""
        return bool(self._unacknowledged or self._answers)

    def drop(self, asked: Future[Any]) -> bool:
        """Nobody waits for this answer any more; False for an order, which is given until it is heard."""
        tokens = [token for token, each in list(self._answers.items()) if each is asked]
        if any(is_kept(self._asked.get(token)) for token in tokens):
            return False
        for token in tokens:
            self._answers.pop(token, None)
            self._asked.pop(token, None)
        return True

    def unacknowledged_text(self) -> str:
        """Say what is not known to be accepted, and what can be done."""
        lead = self.silence_text or f"the service {self.name} ({self.address}) has not acknowledged everything"
        jobs = [spec.name for spec in list(self._unacknowledged.values())]
        if not jobs:
            return f"{lead}; {_number(len(self._answers), 'request')} to it may not have been carried out."
        more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
        them = "it" if len(jobs) == 1 else "them"
        return (
            f"{lead}; {_number(len(jobs), 'job')} not acknowledged: {', '.join(jobs[:NAMED])}{more}. Submit {them} "
            "again when it answers (with key=, what it has accepted all the same is not run twice); "
            f"what was accepted goes on there: trun ps --service {self.name}"
        )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def late(label: str, timeout: float | None, service: Any, last: str) -> TimeoutError:
    """Return the error for a job that has not ended in time; of one that cannot be heard of nobody says more."""
    silence = getattr(service, "silence_text", "")
    if silence:
        return TimeoutError(f"nobody knows whether {label} has ended: {silence}; its last word: {last}.")
    return TimeoutError(f"{label} has not ended within {timeout:g} s; it goes on.")


__all__ = ["BEAT_S", "Hearing", "Silence", "late", "seconds"]
