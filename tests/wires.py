"""Clients for tests of the wire: they wait for what must come, with a deadline and without sleeping."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Sequence

from trun.adapters.wire import Link
from trun.messages import AnyAnswer, AnyRequest
from trun.ports import Endpoint

WAIT_S = 20.0


class Client:
    """A link that collects what it hears."""

    def __init__(self, address: str) -> None:
        self.link = Link(address)
        self.heard: list[AnyAnswer] = []
        self.states: list[str] = []
        #: Called in the link's thread with each state, before the state is seen here.
        self.greet: Callable[[str], None] = lambda state: None
        self._changed = threading.Condition()
        self.link.on_messages(self._take)
        self.link.on_state(self._tell)

    def _take(self, answers: list[AnyAnswer]) -> None:
        with self._changed:
            self.heard += answers
            self._changed.notify_all()

    def _tell(self, state: str) -> None:
        self.greet(state)
        with self._changed:
            self.states.append(state)
            self._changed.notify_all()

    def say(self, *requests: AnyRequest) -> None:
        """Send a batch."""
        self.link.send(requests)

    def wait_for(self, count: int) -> list[AnyAnswer]:
        """Return what was heard when there are ``count`` answers."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= count, WAIT_S), self.heard
            return list(self.heard)

    def wait_for_state(self, *states: str) -> None:
        """Return when the states that were told end with these."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.states[-len(states) :] == list(states), WAIT_S), self.states


def receive(endpoint: Endpoint, count: int) -> list[tuple[bytes, AnyRequest]]:
    """Return (peer, request) of each request when there are ``count``."""
    found: list[tuple[bytes, AnyRequest]] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        batches: Sequence[tuple[bytes, Sequence[AnyRequest]]] = endpoint.receive()
        found += [(peer, request) for peer, requests in batches for request in requests]
        if not batches:
            assert select.select(endpoint.fds(), [], [], deadline - time.monotonic())[0], found
    return found


def receive_until(endpoint: Endpoint, condition: Callable[[], bool]) -> list[tuple[bytes, AnyRequest]]:
    """Receive until something is true, and return what came."""
    found: list[tuple[bytes, AnyRequest]] = []
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, found
        batches = endpoint.receive()
        found += [(peer, request) for peer, requests in batches for request in requests]
        if not batches:
            select.select(endpoint.fds(), [], [], 0.05)
    return found
