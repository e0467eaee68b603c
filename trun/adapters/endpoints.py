"""Several endpoints of a node as one: the owner's own socket, and what others are let in by.

Knows nothing of sockets. Who may come in: the node. Rule: a peer's id says which endpoint it came by.
"""

from __future__ import annotations

from collections.abc import Sequence

from trun.messages import AnyAnswer, AnyRequest
from trun.ports import Endpoint


class Endpoints:
    """Several endpoints as one: the owner's socket, and what others are let in by. Implements ``ports.Endpoint``.

    Peers are told apart by the number of their endpoint in front of their id.
    """

    def __init__(self, *endpoints: Endpoint) -> None:
        self._all = endpoints
        self.address = endpoints[0].address

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the endpoints listen."""
        return tuple(each.address for each in self._all)

    @property
    def dropped(self) -> int:
        """Messages that were dropped."""
        return sum(each.dropped for each in self._all)

    def who(self, peer: bytes) -> str:
        """Return the public key of a peer, or "" for the owner of the service."""
        return self._all[peer[0]].who(peer[1:]) if peer else ""

    def gone(self) -> list[bytes]:
        """Return, once, the peers whose connections have ended."""
        return [bytes((number,)) + peer for number, each in enumerate(self._all) for peer in each.gone()]

    def fds(self) -> list[int]:
        """Return the descriptors that become readable when something may have come."""
        return [fd for each in self._all for fd in each.fds()]

    def receive(self) -> list[tuple[bytes, Sequence[AnyRequest]]]:
        """Return what has arrived anywhere."""
        found: list[tuple[bytes, Sequence[AnyRequest]]] = []
        for number, each in enumerate(self._all):
            mark = bytes((number,))
            found += [(mark + peer, requests) for peer, requests in each.receive()]
        return found

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Send a batch; False when the peer is gone."""
        return self._all[peer[0]].send(peer[1:], answers)

    def close(self) -> None:
        """Close all."""
        for each in self._all:
            each.close()
