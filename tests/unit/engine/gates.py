"""A service of fakes with a gate before it, for tests that say what comes through.

``House`` is an engine between fakes; ``two`` (in conftest) has somebody else's job in it. A peer is one of the bytes
below, a user one of the keys. It decides nothing about what is right; the tests do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from trun.core.machine import Machine
from trun.engine.gate import Gate
from trun.engine.loop import Engine
from trun.engine.verbs import remote_verbs
from trun.engine.views import VIEWS
from trun.errors import NotAuthorised
from trun.messages import AnyRequest, Call, Credit, Hello, JobSpec, Payload, Welcome
from trun.testing import ManualClock, RecordingEndpoint, RecordingJournal, ScriptedExecutor

ME, OTHER, LENDER = "m" * 40, "o" * 40, "l" * 40
HERE, THERE = b"\0here", b"\0there"


class FakeGrant:
    """What a token allows."""

    def __init__(self, ops: Iterable[str], resource: str, *, expires: float = 0.0) -> None:
        self.user = LENDER
        self.ids = (f"{resource}-id",)
        self.expires = expires or time.time() + 3600
        self.resources = (resource,)
        self._ops = frozenset(ops)

    def allows(self, op: str, resource: str) -> bool:
        return op in self._ops and resource in self.resources


class FakePowers:
    """People and tokens of a service, as a test wants them."""

    def __init__(self) -> None:
        self.people: dict[str, frozenset[str]] = {LENDER: frozenset({"read", "submit"})}
        self.sessions: dict[str, str] = {}
        self.tokens: dict[str, FakeGrant] = {}
        self.revoked: set[str] = set()

    def roles(self, key: str) -> frozenset[str]:
        return self.people.get(key, frozenset())

    def user(self, key: str) -> str:
        return self.sessions.get(key, key)

    def name(self, key: str) -> str:
        return key[:4]

    def check(self, token: str, bearer: str, now: float) -> FakeGrant:
        if token not in self.tokens:
            raise NotAuthorised("this is no token.")
        return self.tokens[token]

    def is_revoked(self, ids: Iterable[str]) -> bool:
        return any(one in self.revoked for one in ids)

    def mint(self, holder: str, *, next_key: str, ops: Iterable[str], res: Iterable[str], seconds: float) -> str:
        return "token"

    def register(self, key: str, user: str, expires: float) -> float:
        return expires

    def revoke(self, one: str, reason: str = "") -> None:
        self.revoked.add(one)


def job(uid: str, **more: Any) -> JobSpec:
    return JobSpec(**{"uid": uid, "name": uid, "call": Call("f", Payload(b"x")), **more})


class FakeWire:
    """What knows how much peers leave unread, and who is muted, as a test wants it."""

    def __init__(self) -> None:
        self.is_open = True
        #: {peer: bytes}
        self.left: dict[bytes, int] = {}
        self.muted: list[str] = []

    def unread(self, peer: bytes) -> int:
        return self.left.get(peer, 0)

    def mute(self, who: str, reason: str, longest_s: float) -> None:
        self.muted.append(who)

    def spend(self, peer: bytes, seconds: float) -> None:
        """Nobody asks."""

    def may_wait(self, peer: bytes) -> bool:
        return False

    def put_back(self, peer: bytes, requests: Sequence[AnyRequest]) -> None:
        raise AssertionError(peer)


class House:
    """An engine with a gate between fakes."""

    def __init__(self) -> None:
        self.powers = FakePowers()
        self.executor = ScriptedExecutor(slots=4)
        self.endpoint = RecordingEndpoint()
        self.clock = ManualClock()
        machine = Machine(service_key="here")
        self.gate = Gate(machine, self.powers, service="house")
        self.wire = self.gate.wire = FakeWire()
        self.engine = Engine(
            machine=machine,
            journal=RecordingJournal(),
            executor=self.executor,
            endpoint=self.endpoint,
            clock=self.clock,
            welcome=Welcome(service_key="here", name="house", epoch=1, key="h" * 40),
            views=dict(VIEWS),
            gate=self.gate,
        )
        self.engine.views.update(remote_verbs(self.engine, self.powers))

    def let_in(self, peer: bytes, user: str, *roles: str) -> None:
        self.powers.people[user] = frozenset(roles)
        self.endpoint.users[peer] = user
        self.say(peer, Hello(session="s"), Credit(entries=1000))
        self.endpoint.take(peer)

    def say(self, peer: bytes, *requests: AnyRequest) -> list[Any]:
        """Let a peer speak, and return what it hears."""
        self.endpoint.put(peer, *requests)
        self.engine.step([(who, one) for who, batch in self.endpoint.receive() for one in batch])
        return self.endpoint.take(peer)

    def pass_time(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.engine.step([])

    @property
    def records(self) -> Any:
        return self.engine.machine.records


def errors(answers: list[Any]) -> str:
    return " ".join(answer.error.message for answer in answers if getattr(answer, "error", None) is not None)
