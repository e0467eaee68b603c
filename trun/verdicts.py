"""From what a stream says to what a caller gets: the exceptions of a job's end, the reply to a message, and
how a payload waits.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import trun.errors as errors
import trun.service as services
from trun.adapters import pickles
from trun.conditions.explain import Explanation
from trun.core.record import JobState
from trun.errors import JobFailed, ServiceUnavailable
from trun.executors.context import current_job
from trun.listening import remote_error
from trun.messages import FINAL, ErrorInfo, Event, Failed, Replied, Resume, Suspend
from trun.silence import seconds

#: Seconds that an answer may take of a service that is heard.
ANSWER_S = 30.0


class Reply:
    """Waits for the reply to one message."""

    key = ""

    def __init__(self, job: Any, token: str, answer: concurrent.futures.Future[str | None]) -> None:
        self.token = token
        self.answer = answer

    def see(self, event: Event, rise: int = 0) -> None:
        """Look at one event of the job's stream."""
        if self.answer.done():
            return
        if isinstance(event, Replied) and event.token == self.token:
            self.answer.set_result(event.text)
        elif isinstance(event, FINAL):
            self.answer.set_result(None)

    def reset(self) -> None:
        """Nothing to forget: a reply belongs to one message."""


def described(job: Any) -> str:
    """Return a job as ``repr`` shows it."""
    state, since = job.state, job.service.silence.since
    text = f"{job._label} {state.value}"
    if state is JobState.RUNNING and job._progress is not None:
        text += f" {job._progress.fraction:.0%}"
    text += f" on {job.service.name}"
    if state is JobState.UNKNOWN:
        text += f" — not heard for {seconds(time.time() - since)}; its last word: {job.last_state.value}"
    elif job._reason and state not in (JobState.RUNNING, JobState.COMPLETED):
        text += f" — {job._reason}"
    return f"<job {text}>"


def explanation(job: Any) -> Explanation:
    """Return why a job is where it is, from its service; or, if that is silent, that nobody knows.

    Raises what ended the service where it is gone for good.
    """
    service = job.service
    if service.gone is not None:
        raise service.gone
    if not service.silence.since:
        _ = job.id
        asked = service.begin_ask("why", job=job.uid, atoms=True)
        if service.await_heard(asked, ANSWER_S):
            answer = asked.result()
            if answer.error is not None:
                raise remote_error(answer.error)
            return Explanation.from_dict(answer.data)
    found = Explanation.from_dict({"summary": f"{service.silence_text}; its last word: {job.last_state.value}"})
    if job.last_state.is_final:
        return found
    found.extra.append("nothing fails by that: what waits for it waits on, and its stream goes on once it is heard")
    return found


def failure(label: str, final: Failed, *, trusted: bool = True) -> BaseException:
    """Return the exception of a failed job, in its own type where that can be had."""
    if final.error is None:
        return JobFailed(f"{label} failed: {final.kind}", job_id=label)
    error = pickles.load_error(final.error, trusted=trusted)
    if isinstance(error, errors.JobError):
        error.job_id = label
    return error


def refusal(info: ErrorInfo) -> Exception:
    """Return the exception for a job that was not accepted."""
    from_name = info.type.rpartition(".")[2]
    if from_name == "ServiceUnavailable":
        return ServiceUnavailable(info.message)
    return remote_error(info)


class Bell:
    """Rings when a future is done: what ``concurrent.futures`` calls a waiter, for one, at a quarter of the cost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def _ring(self, future: Any) -> None:
        with contextlib.suppress(RuntimeError):  # it has rung before: the job was retried and is done again
            self._lock.release()

    add_result = add_exception = add_cancelled = _ring

    def wait(self, timeout: float | None) -> bool:
        """Wait until it rings; False where that takes longer than ``timeout`` seconds."""
        longest = -1.0 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        return self._lock.acquire(timeout=longest)


def is_done(job: Any, timeout: float | None) -> bool:
    """Wait until a future of ours is done; False where that takes longer than ``timeout`` seconds."""
    bell = Bell()
    with job._condition:
        if concurrent.futures.Future.done(job):
            return True
        job._waiters.append(bell)
    try:
        return bell.wait(timeout)
    finally:
        with job._condition, contextlib.suppress(ValueError):
            job._waiters.remove(bell)


@contextlib.contextmanager
def slot_given_back() -> Iterator[None]:
    """While a payload waits for other jobs, its slot is free for them; it goes on when it has a slot again."""
    job = current_job()
    if job is None:
        yield
        return
    home = services.default()
    home.post(Suspend(uid=job.uid, epoch=job.epoch))
    try:
        yield
    finally:
        home.do(Resume(uid=job.uid, epoch=job.epoch), timeout=None)


@contextlib.contextmanager
def told_on_failure(what: str) -> Iterator[None]:
    """Add to whatever is raised inside what it means."""
    try:
        yield
    except Exception as error:
        error.add_note(f"trun: {what}")
        raise


def whole_log(service: Any, uid: str) -> str:
    """Return what the last attempt of a job printed so far, in as many answers as it takes."""
    answer = service.ask("log", job=uid)
    text, more = [answer["text"]], answer
    while more["text"]:
        more = service.ask("log", job=uid, run=answer["run"], attempt=answer["attempt"], offset=more["offset"])
        text.append(more["text"])
    return "".join(text)
