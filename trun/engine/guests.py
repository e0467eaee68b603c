"""A peer that is not the owner of the service, as the gate knows it: one for each connection.

Holds facts only. Who may come in: the gate. Rule: what a peer can make grow has a bound where it grows.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from trun.errors import NotAuthorised, ProtocolError, TrunError
from trun.messages import Answer, AnyAnswer, ErrorInfo, Refuse, Submit
from trun.ports import Grant

_log = logging.getLogger(__name__)


class Guest:
    """One connection of somebody."""

    __slots__ = ("address", "atoms", "grants", "key", "name", "roles", "session", "streams", "told", "user")

    def __init__(self, address: bytes, user: str, name: str, key: str) -> None:
        #: How the endpoint names it.
        self.address = address
        self.user = user
        #: The key that it spoke with, which may be that of a session of the user.
        self.key = key
        self.name = name
        self.session = ""
        self.told = 0
        #: {resource: the newest token that speaks of it}
        self.grants: OrderedDict[str, Grant] = OrderedDict()
        #: What the key could do at the last look, or has been able to since.
        self.roles: frozenset[str] = frozenset()
        #: Atoms that it has told: they are its own.
        self.atoms: OrderedDict[str, None] = OrderedDict()
        #: Streams that it listens to by a token.
        self.streams: dict[str, Grant] = {}


class Refusal(Exception):
    """A request is not allowed; ``error`` says so to the peer, or nothing does."""

    def __init__(self, error: TrunError | None) -> None:
        super().__init__(str(error))
        self.error = error


def as_refusal(error: Exception) -> Refusal:
    """Return why a request is not carried out; what nobody foresaw is most likely the fault of the request."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TrunError):
        return Refusal(error)
    _log.warning("a request could not be looked at reason=%.200r", error)
    return Refusal(ProtocolError(f"this request cannot be understood: {error!r:.200s}"))


def denial(message: Any, error: ErrorInfo) -> AnyAnswer:
    """Return the answer to a request that is refused."""
    if isinstance(message, Submit):
        return Refuse(uids=tuple(spec.uid for spec in message.specs), error=error)
    return Answer(token=str(getattr(message, "token", "")), error=error)


def stranger(service: str, peer: Guest) -> NotAuthorised:
    """Return what a key is told that has no rights at all."""
    return NotAuthorised(
        f"service {service} does not know your key. Hand it to the operator, who lets you in with "
        f"`trun user add YOURNAME '{peer.user}' --roles read,submit --service {service}`; "
        f"or ask with `trun request-access {service} REASON` (under the name that you have for the service)."
    )


def refused(service: str, peer: Guest, needed: str, more: str = "") -> NotAuthorised:
    """Return what somebody is told who lacks a role; ``more`` says what can be done without it."""
    return NotAuthorised(
        f"service {service} does not allow this to {peer.name}: it needs the role {needed}. The operator "
        f"gives it with `trun user add {peer.name} '{peer.user}' --roles ...,{needed} --service {service}`."
        + (f" {more}" if more else "")
    )
