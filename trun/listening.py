"""Who hears the entries of a stream in this process, and the wire that brings them: Protocols, and a fan-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trun.messages import AnyRequest, Entry, ErrorInfo


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
    """Several listeners to one stream: each takes what it has not seen."""

    def __init__(self, listeners: list[Listener]) -> None:
        self.seq = 0
        self.listeners = listeners

    def take(self, entry: Entry) -> None:
        """Hand an entry to all that have not seen it."""
        self.seq = 0
        for listener in list(self.listeners):
            if entry.seq > listener.seq:
                listener.seq = entry.seq
                listener.take(entry)

    def refuse(self, error: ErrorInfo) -> None:
        """Tell those that were not accepted yet."""
        for listener in self.listeners:
            if not listener.seq:
                listener.refuse(error)
