"""Attackers of a real daemon: clients that may say anything, with keys of their own.

``attacked`` runs a daemon below a folder of its own, ``comers`` gives what lets somebody come to it with new keys and
these roles, ``Raw`` is such a client. Nothing is judged here; the tests do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import zmq

from tests.conftest import _ROOT
from tests.sites import PATIENCE_S, Site
from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.people import People
from trun.core.codec import decode_answers, encode_batch
from trun.messages import Answer, AnyRequest, Ask, Credit, Hello

#: Seconds within which what should take one or four has happened, however busy the machine is.
GENEROUS_S = 20.0
#: Seconds that a bystander may wait on a loaded machine; alone it waits milliseconds.
DISTURBED_S = 5.0


@contextlib.contextmanager
def attacked(place: str) -> Iterator[Site]:
    """Run a daemon below a folder of its own."""
    with at_home(place):
        made = Site("fans")
    yield made
    with at_home(place):
        made.stop("--kill")


@contextlib.contextmanager
def at_home(place: str) -> Iterator[None]:
    """Be the owner of the daemon there for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("state", "runtime", "config"):
            folder = _ROOT / place / name
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            patch.setenv(f"TRUN_{name.upper()}_DIR", str(folder))
        yield


class Raw:
    """A client that may say anything."""

    def __init__(
        self, site: Site, pair: KeyPair, *, server: str = "", public: str = "", routing_id: bytes = b""
    ) -> None:
        self.context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.CURVE_SERVERKEY, (server or site.key).encode())
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
        self.socket.setsockopt(zmq.CURVE_PUBLICKEY, (public or pair.public).encode())
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.connect(site.address)
        self.numbers = 0
        self.pair = pair

    def say(self, *requests: AnyRequest) -> None:
        self.socket.send(encode_batch(requests))

    def hear(self, wait_s: float = PATIENCE_S) -> list[Any]:
        """Return the next batch, or nothing."""
        if not self.socket.poll(int(wait_s * 1000)):
            return []
        return [answer for frame in self.socket.recv_multipart() for answer in decode_answers(frame)]

    def hear_until(self, wanted: Callable[[Any], bool]) -> Any:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for answer in self.hear(end - time.monotonic()):
                if wanted(answer):
                    return answer
        raise AssertionError("nothing of that kind has come")

    def ask(self, verb: str = "ping", **arguments: Any) -> Answer:
        self.numbers += 1
        token = f"q{self.numbers}"
        self.say(Ask(token=token, verb=verb, arguments=arguments))
        found: Answer = self.hear_until(lambda answer: isinstance(answer, Answer) and answer.token == token)
        return found

    def slowest(self, seconds: float) -> float:
        """Ask one question after the other and return the 99th percentile of the answers' times."""
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            assert self.ask().error is None
            times.append(time.monotonic() - began)
            time.sleep(0.002)
        return sorted(times)[int(len(times) * 0.99)]

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


Come = Callable[..., Raw]


def comers(site: Site) -> Generator[Come, None, None]:
    """Give what lets somebody come to a daemon; at the end all of them leave."""
    made: list[Raw] = []

    def one(*roles: str, **how: Any) -> Raw:
        pair = how.pop("pair", None) or KeyPair(new_seed())
        if roles:
            People(site.folder).add(f"u{pair.public.encode().hex()[:20]}", pair.public, roles)
        raw = Raw(site, pair, **how)
        made.append(raw)
        if roles:
            raw.say(Hello(session=f"s{len(made)}"), Credit(entries=1000))
            assert raw.hear()
        return raw

    try:
        yield one
    finally:
        for raw in made:
            raw.close()
