"""What is said over a wire: who hears the entries of a stream here, what is said again, and what an error means."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

import trun.errors as errors
from trun.errors import RemoteError
from trun.messages import (
    PROTOCOL,
    SPOKEN,
    AnyRequest,
    Ask,
    Cancel,
    Do,
    Entry,
    ErrorInfo,
    Hold,
    Release,
    Resume,
    Retry,
    SetAtom,
    Tell,
    Welcome,
)
from trun.version import __version__

Steering = Cancel | Hold | Release | Retry | Tell | SetAtom | Resume
Order = Cancel | Hold | Release | Retry | Tell
#: Verbs that change something: whether they were carried out before the connection broke, the caller must find out.
ASKED_ONCE = frozenset({"upload", "install", "session"})


class Listener(Protocol):
    """Whoever wants the entries of one stream."""

    #: Last sequence number seen.
    seq: int

    def take(self, entry: Entry) -> None:
        """Take one entry (in the link's thread)."""
        ...

    def refuse(self, error: ErrorInfo) -> None:
        """Hear that the job was not accepted, or that the service has gone."""
        ...


class Wire(Protocol):
    """The client's side of the wire, as ``adapters.wire.Link`` offers it."""

    def send(self, messages: Sequence[AnyRequest]) -> None:
        """Send a batch, from any thread; never blocks."""
        ...

    def close(self, *, flush: bool = True) -> None:
        """End the thread; ``flush`` waits a bounded time for what was not sent."""
        ...


class Several:
    """Several listeners to one stream: each takes what it has not seen, and nothing before what came earlier."""

    def __init__(self, listeners: list[Listener]) -> None:
        self.seq = 0
        self.listeners = listeners

    def take(self, entry: Entry) -> None:
        """Hand an entry to those whose next one it is; who joined late gets the stream again from its begin."""
        self.seq = 0
        for listener in list(self.listeners):
            if entry.seq == listener.seq + 1:
                listener.seq = entry.seq
                listener.take(entry)

    def skip(self, seq: int) -> None:
        """Count the entries up to this number as seen: they are on record no more."""
        for listener in self.listeners:
            listener.seq = max(listener.seq, seq)

    def refuse(self, error: ErrorInfo) -> None:
        """Tell those that were not accepted yet, and let them go."""
        refused = [listener for listener in self.listeners if not listener.seq]
        self.listeners = [listener for listener in self.listeners if listener.seq]
        for listener in refused:
            listener.refuse(error)


def marked(request: Any) -> Any:
    """Return an order with a token, by which the service recognises it when it is given again."""
    if not isinstance(request, Order) or request.token:
        return request
    return msgspec.structs.replace(request, token=uuid.uuid4().hex)


def is_said_again(request: AnyRequest) -> bool:
    """Whether what has no answer when the connection breaks is said over the next one: it is carried out once."""
    if isinstance(request, Ask):
        return request.verb not in ASKED_ONCE
    return isinstance(request, Do)


def is_kept(request: AnyRequest | None) -> bool:
    """Whether it is said again also after nobody waits for its answer any more: what a user has ordered."""
    return isinstance(request, Do) and isinstance(request.request, Order)


def remote_error(info: ErrorInfo) -> Exception:
    """Return the error that a node described, as an exception of its own type where that is one of ours."""
    name = info.type.rpartition(".")[2]
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.TrunError):
        found = kind(info.message)
        if isinstance(found, errors.UnknownName):
            found.suggestions = info.suggestions
        return found
    return RemoteError(f"{info.type}: {info.message}")


def rejection(info: ErrorInfo, name: str, *, is_greeted: bool) -> Exception | None:
    """Return the error that ends a handle, where a service says no to all that it might ask; else None."""
    kind = info.type.rpartition(".")[2]
    if kind in ("NotAuthorised", "VersionMismatch"):
        return remote_error(info)
    if kind == "ProtocolError" and not is_greeted:
        return errors.VersionMismatch(
            f"service {name} does not understand this client, which speaks protocol {PROTOCOL} (trun {__version__}); "
            f"it says: {info.message} Install a release of trun that both sides understand."
        )
    return None


def unspoken(welcome: Welcome, name: str) -> Exception | None:
    """Return the error for a service whose version of the protocol we do not speak; else None."""
    if welcome.protocol in SPOKEN:
        return None
    return errors.VersionMismatch(
        f"service {name} speaks protocol {welcome.protocol} (trun {welcome.version}), this client protocol {PROTOCOL} "
        f"(trun {__version__}). Install a release of trun that both sides understand: trun {welcome.version} here."
    )
