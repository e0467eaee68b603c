"""From what a stream says to what a caller gets: the exceptions of a job's end, the reply to a message, and
how a payload waits.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from typing import Any

import trun.errors as errors
import trun.service as services
from trun.adapters import pickles
from trun.errors import JobFailed, ServiceUnavailable
from trun.executors.context import current_job
from trun.messages import FINAL, ErrorInfo, Event, Failed, Replied, Resume, Suspend


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
    return services.remote_error(info)


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
