"""The receiving half of a node's endpoint: what has come is taken in at once, and read when it is its turn.

What comes from elsewhere goes through a backlog of bounded size, where senders take turns and whoever floods is muted;
the owner's own messages wait in the socket. Garbage is dropped and counted, told once to each connection, and mutes
who goes on with it.

Knows no transport (``adapters.wire`` brings it). Who may come in: ``adapters.wire``. Rule: nothing that a peer can
send may end the service, or keep it from hearing the others.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

from trun.adapters.backlog import LONGEST_S, Backlog
from trun.adapters.keys import KEY_CHARS
from trun.adapters.peers import Peers
from trun.adapters.sockets import Wake
from trun.core.codec import decode_requests
from trun.errors import BadOption
from trun.messages import Answer, AnyAnswer, AnyRequest, ErrorInfo
from trun.ports import SLICE

_log = logging.getLogger(__name__)

#: Most frames of one message.
MESSAGE_FRAMES = 1024
#: Batches, and about how many requests, ``receive`` returns in one call: what is left waits, and its senders with it.
#: Where strangers flood, the others wait for as long as these take.
BATCHES_AT_ONCE, REQUESTS_AT_ONCE, FOREIGN_AT_ONCE = 512, 2_000, SLICE
#: Bytes of what comes from elsewhere that count as one request: a single one may be as much work as a thousand.
REQUEST_BYTES = 512
#: Seconds for which the socket is emptied in one call, or as many as what was read last took to be carried out.
EMPTYING_S, LONGEST_EMPTYING_S = 0.05, 1.0
#: Messages of garbage on one connection after which its user is muted.
GARBAGE = 100


class Frame(Protocol):
    """A part of a message, wherever its bytes lie."""

    @property
    def bytes(self) -> bytes:
        """What it says."""
        ...

    def __len__(self) -> int: ...


class Reception:
    """What both kinds of endpoint have in common. A transport says how messages come and go."""

    def __init__(self, *, is_own: bool) -> None:
        self._garbage = 0
        #: Connections that ended before anybody was known to be there.
        self.refused = 0
        self._told: OrderedDict[bytes, int] = OrderedDict()
        self._peers = Peers("" if is_own else "0" * KEY_CHARS)  # never the owner
        self._backlog = None if is_own else Backlog()
        self._wake = Wake()
        self._is_behind = False
        self._emptied = 0.0

    # -- what a transport brings

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Send a batch; False when the peer is gone."""
        raise NotImplementedError

    def _next(self) -> tuple[bytes, list[Any], int] | None:
        """Return the next message: who sent it, its frames, and how many they were."""
        raise NotImplementedError

    def _who(self, frame: Any) -> str | None:
        """Return who sent a frame: a public key, "" for the owner of the service, None for nobody we know."""
        raise NotImplementedError

    def _fd(self, frame: Any) -> int:
        """Return the descriptor of the connection by which a frame came."""
        raise NotImplementedError

    # -- what is known of peers

    @property
    def dropped(self) -> int:
        """Messages that were dropped: garbage, from a user who is not admitted, or from one who is muted."""
        return self._garbage + (self._backlog.dropped if self._backlog is not None else 0)

    def facts(self) -> dict[str, int]:
        """Return how many connections and muted users there are, and how many connections were refused and cut."""
        muted = self._backlog.muted if self._backlog is not None else 0
        return {"connections": len(self._peers), "muted": muted, "refused": self.refused, "cut": self._peers.cut}

    def who(self, peer: bytes) -> str:
        """Return the public key of a peer that was heard, or "" for the owner of the service."""
        return self._peers.who(peer)

    def unread(self, peer: bytes) -> int:
        """Return about how many bytes a peer has not taken yet; 0 where nobody knows."""
        return self._peers.unread(peer)

    def mute(self, who: str, reason: str, longest_s: float) -> None:
        """Listen no more to a user for a while, twice as long as the last time; the owner is always heard."""
        if who and self._backlog is not None:
            self._backlog.mute(who, reason, longest_s)

    def spend(self, peer: bytes, seconds: float) -> None:
        """So long it took to carry out what a peer asked: whoever took less has its turn before."""
        if self._backlog is not None and (who := self.who(peer)):
            self._backlog.spend(who, seconds)

    def may_wait(self, peer: bytes) -> bool:
        """Whether what was received of a peer can be put back: not of the owner, nor of one that has gone."""
        return self._backlog is not None and not self._peers.is_leaving(peer)

    def put_back(self, peer: bytes, requests: Sequence[AnyRequest]) -> None:
        """Keep requests that were received for the next turn of their sender, before what it said later."""
        backlog, who = self._backlog, self.who(peer)
        if backlog is not None and backlog.hears(who):
            backlog.put_back(who, peer, list(requests), 0)

    @property
    def is_open(self) -> bool:
        """Whether somebody from elsewhere is connected, so that ``gone`` must be asked now and then."""
        return self._backlog is not None and len(self._peers) > 0

    # -- what comes

    def receive(self) -> list[tuple[bytes, Sequence[AnyRequest]]]:
        """Return what has arrived, as (peer, requests); empty only when nothing is left. Never blocks."""
        batches: list[tuple[bytes, Sequence[AnyRequest]]] = []
        self._peers.forget_gone()
        backlog = self._backlog
        if backlog is not None:
            return self._receive_by_turns(backlog)
        room = REQUESTS_AT_ONCE
        while len(batches) < BATCHES_AT_ONCE and room > 0 and (found := self._take()) is not None:
            peer, who, (frames, count) = found
            requests = self._read(peer, who, frames, count)
            if requests:
                batches.append((peer, requests))
                room -= len(requests)
        return batches

    def _receive_by_turns(self, backlog: Backlog) -> list[tuple[bytes, Sequence[AnyRequest]]]:
        batches: list[tuple[bytes, Sequence[AnyRequest]]] = []
        if backlog.is_empty or time.monotonic() - self._emptied > EMPTYING_S:
            self._empty(backlog)
        room = FOREIGN_AT_ONCE
        while (found := backlog.take()) is not None:
            peer, who, message, size = found
            requests = message if isinstance(message, list) else self._read(peer, who, *message)
            if len(requests) > room:  # the rest of what came together waits for the next turn of its sender
                backlog.put_back(who, peer, requests[room:], size)
                requests, size = requests[:room], 0
            if requests:
                batches.append((peer, requests))
            room -= max(len(requests), size // REQUEST_BYTES, 1)
            if room <= 0 and batches:
                break
            room = room if room > 0 else FOREIGN_AT_ONCE  # nothing but garbage so far: whoever hears nothing may sleep
        return batches

    def _take(self) -> tuple[bytes, str, tuple[list[Frame], int]] | None:
        """Return the next message of somebody whom we know, with who it is."""
        while (found := self._next()) is not None:
            peer, frames, count = found
            who = self._who(frames[0])
            # An id that the peer has picked may be another's tomorrow: those that we give begin with a zero byte.
            if who is None or (who and peer[:1] != b"\0"):
                self._garbage += 1
                continue
            if not self._peers.is_known(peer, who):
                self._peers.enter(peer, who, self._fd(frames[0]))
            return peer, who, (frames, count)
        return None

    def _gone_but_for(self, backlog: Backlog) -> list[bytes]:
        """Return, once, the peers whose connections have ended and whose last words were read."""
        if self._peers.have_ended:
            self._empty(backlog)  # their last words are in the socket by now
            if not backlog.is_empty and not self._is_behind:
                self._is_behind = True
                self._wake.set()
        return self._peers.gone(backlog.waits)

    def _empty(self, backlog: Backlog) -> None:
        """Take all that has come out of the socket, which would keep any amount of it."""
        if self._is_behind:
            self._wake.clear()
            self._is_behind = False
        now = time.monotonic()
        end = now + min(max(now - self._emptied, EMPTYING_S), LONGEST_EMPTYING_S)
        while (found := self._take()) is not None:
            peer, who, message = found
            size = sum(map(len, message[0]))
            self._peers.read(peer, size)
            if backlog.hears(who):
                backlog.put(who, peer, message, size)
            else:
                self._tell_muted(backlog, who, peer)
            if time.monotonic() > end:
                self._is_behind = True
                self._wake.set()  # there may be more, of which nothing else tells
                break
        self._emptied = time.monotonic()

    def _tell_muted(self, backlog: Backlog, who: str, peer: bytes) -> None:
        seconds = backlog.must_tell(who, peer)
        if seconds:
            text = f"too much has come from your key: nothing more of it is read for {seconds:.3g} s. Ask less often."
            self.send(peer, [Answer(token="", error=ErrorInfo(type="trun.errors.NotAuthorised", message=text))])

    def _read(self, peer: bytes, who: str, frames: list[Frame], count: int) -> list[AnyRequest]:
        """Return the requests of one message; none where it is garbage."""
        try:
            if count > MESSAGE_FRAMES:
                raise BadOption(f"a message of {count} frames; at most {MESSAGE_FRAMES} are taken")
            requests = decode_requests(frames[0].bytes)
            for frame in frames[1:]:
                requests += decode_requests(frame.bytes)
        except Exception as error:  # nothing that a peer can send may end the service
            self._drop(peer, who, error)
            return []
        return requests

    def _drop(self, peer: bytes, who: str, error: Exception) -> None:
        self._garbage += 1
        told = self._told[peer] = self._told.get(peer, 0) + 1
        if told % GARBAGE == 0:
            self.mute(who, "it sends garbage", LONGEST_S)
        if told > 1:
            return
        if len(self._told) > 10_000:
            self._told.popitem(last=False)
        _log.warning("garbage on the socket was dropped peer=%s reason=%.200s", peer.hex(), error)
        info = ErrorInfo(type="trun.errors.ProtocolError", message=f"this is no message of trun: {error}"[:500])
        self.send(peer, [Answer(token="", error=info)])


__all__ = ["MESSAGE_FRAMES", "Frame", "Reception"]
