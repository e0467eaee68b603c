"""Small batches and entries for tests of journals, wires and streams."""

from __future__ import annotations

from typing import Any

from trun.core.codec import encode
from trun.core.record import JobState, Life
from trun.messages import AnyEvent, Call, Entry, JobSpec, Payload, Said
from trun.ports import Batch


def spec(uid: str, **changes: Any) -> JobSpec:
    """Return what a client would send."""
    return JobSpec(uid=uid, name="fit", call=Call("f" * 32, Payload(data=b"args")), **changes)


def life(number: int, state: JobState = JobState.WAITING, **changes: Any) -> bytes:
    """Return an encoded life."""
    return encode(Life(number=number, state=state, **changes))


def entry(stream: str, seq: int, event: AnyEvent | None = None, *, epoch: int = 1, time: float = 1.5) -> Entry:
    """Return an entry that says its own number."""
    return Entry(stream, seq, epoch, time, event if event is not None else Said(name="n", value=seq))


def accepted(number: int, uid: str) -> Batch:
    """Return the batch that accepts one job."""
    return Batch(specs=[(number, spec(uid))], lives=[(number, life(number))], entries=[(number, entry(uid, 1))])
