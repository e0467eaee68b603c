"""Several endpoints of a node as one: the owner's own socket, and what others are let in by.

Knows nothing of sockets. Who may come in: the node. Rule: a peer's id says which endpoint it came by.
"""

from __future__ import annotations

from collections import Counter
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

    @property
    def is_open(self) -> bool:
        """Whether somebody from elsewhere is connected."""
        return any(getattr(each, "is_open", False) for each in self._all)

    def facts(self) -> dict[str, int]:
        """Return the sums of what the endpoints count."""
        found: Counter[str] = Counter()
        for each in self._all:
            found.update(each.facts() if hasattr(each, "facts") else {})
        return dict(found)

    def unread(self, peer: bytes) -> int:
        """Return about how many bytes a peer has not taken yet."""
        return int(self._all[peer[0]].unread(peer[1:])) if peer else 0  # type: ignore[attr-defined]

    def mute(self, who: str, reason: str, longest_s: float) -> None:
        """Listen no more to a user for a while."""
        for each in self._all:
            each.mute(who, reason, longest_s)  # type: ignore[attr-defined]

    def spend(self, peer: bytes, seconds: float) -> None:
        """So long it took to carry out what a peer asked."""
        self._all[peer[0]].spend(peer[1:], seconds)  # type: ignore[attr-defined]

    def may_wait(self, peer: bytes) -> bool:
        """Whether what was received of a peer can be put back."""
        return bool(self._all[peer[0]].may_wait(peer[1:]))  # type: ignore[attr-defined]

    def put_back(self, peer: bytes, requests: Sequence[AnyRequest]) -> None:
        """Keep requests that were received for the next turn of their sender."""
        self._all[peer[0]].put_back(peer[1:], requests)  # type: ignore[attr-defined]

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
