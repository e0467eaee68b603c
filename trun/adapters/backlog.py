"""What has come over the network and is still to be read, by sender; and who is not listened to for a while.

A transport that cannot hold a sender back is emptied at once, into this backlog, so that what each sender has waiting
is known and bounded. Whoever has too much waiting is muted: what waits is dropped, and what comes is dropped unread,
for a time that doubles with each repetition. The audit log gets one line when somebody is muted and one, with the
number of messages, when not any more. The senders take turns, so that nobody waits behind the heap of another, and
those who have made less work lately have theirs first.

Knows no transport: frames are anything. Who may come in: ``adapters.wire``. Rule: a message of a muted sender costs
a look into a set, and no memory.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

_audit = logging.getLogger("trun.audit")

#: Bytes and messages of one sender that may wait; bytes of all.
BYTES, MESSAGES, ALL_BYTES = 256 * 1024 * 1024, 50_000, 1024 * 1024 * 1024
#: Seconds for which somebody is muted the first time, and at most; and of calm after which it is the first time again.
FIRST_S, LONGEST_S, CALM_S = 1.0, 300.0, 60.0
#: Seconds of work of one sender that make a difference for its turns, and after which half of them are forgotten.
WORK_S, FORGET_S = 0.25, 10.0
#: Senders whose past is remembered.
SENDERS = 10_000


class _Mute:
    __slots__ = ("dropped", "seconds", "told", "until")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.until = 0.0
        self.dropped = 0
        #: Connections that were told.
        self.told: set[bytes] = set()


class _Sender:
    __slots__ = ("bytes", "items")

    def __init__(self) -> None:
        self.items: deque[tuple[bytes, Any, int]] = deque()
        self.bytes = 0


class Backlog:
    """The messages of all senders. ``clock`` does not jump."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Those with messages, in the order of their turns.
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self._bytes = 0
        #: {connection: its messages}
        self._by_peer: Counter[bytes] = Counter()
        self._muted: dict[str, _Mute] = {}
        self._past: OrderedDict[str, _Mute] = OrderedDict()
        #: Messages that were dropped because their sender was muted.
        self.dropped = 0
        #: {sender: seconds of work that it has made lately}, and when that was halved last.
        self._work: dict[str, float] = {}
        self._halved = clock()

    def __len__(self) -> int:
        return sum(len(sender.items) for sender in self._senders.values())

    @property
    def muted(self) -> int:
        """How many senders are muted."""
        return len(self._muted)

    def hears(self, who: str) -> bool:
        """Whether a message of this sender is read; if not, it is counted and must be dropped."""
        found = self._muted.get(who)
        if found is None:
            return True
        if found.until <= self._clock():
            self._unmute(who, found)
            return True
        found.dropped += 1
        self.dropped += 1
        return False

    def put(self, who: str, peer: bytes, item: Any, size: int) -> None:
        """Keep a message until it is its turn."""
        sender = self._senders.get(who)
        if sender is None:
            sender = self._senders[who] = _Sender()
        sender.items.append((peer, item, size))
        self._by_peer[peer] += 1
        sender.bytes += size
        self._bytes += size
        if sender.bytes > BYTES or len(sender.items) > MESSAGES:
            self.mute(who, "it sends more than can be read")
        elif self._bytes > ALL_BYTES:
            self.mute(max(self._senders, key=lambda one: self._senders[one].bytes), "too much waits to be read")

    def put_back(self, who: str, peer: bytes, item: Any, size: int) -> None:
        """Keep what is left of a message that was taken: it is the first of the next turn of its sender."""
        sender = self._senders.setdefault(who, _Sender())
        sender.items.appendleft((peer, item, size))
        self._by_peer[peer] += 1
        sender.bytes += size
        self._bytes += size

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._senders

    def waits(self, peer: bytes) -> bool:
        """Whether something of a connection is still to be read."""
        return peer in self._by_peer

    def take(self) -> tuple[bytes, str, Any, int] | None:
        """Return the next message as (peer, who, item, its size); None when nothing waits."""
        if not self._senders:
            return None
        who = next(iter(self._senders)) if len(self._senders) == 1 else min(self._senders, key=self._worked)
        sender = self._senders[who]
        peer, item, size = sender.items.popleft()
        sender.bytes -= size
        self._bytes -= size
        self._less(peer)
        if sender.items:
            self._senders.move_to_end(who)
        else:
            del self._senders[who]
        return peer, who, item, size

    def _worked(self, who: str) -> int:
        return int(self._work.get(who, 0.0) / WORK_S)

    def spend(self, who: str, seconds: float) -> None:
        """Note how long it took to carry out what a sender asked."""
        passed = self._clock() - self._halved
        if passed > FORGET_S or len(self._work) > SENDERS:
            self._halved += passed
            rest = 0.5 ** (passed / FORGET_S)
            self._work = {one: work * rest for one, work in self._work.items() if work * rest >= WORK_S / 10}
        self._work[who] = self._work.get(who, 0.0) + seconds

    def _less(self, peer: bytes) -> None:
        if self._by_peer[peer] > 1:
            self._by_peer[peer] -= 1
        else:
            del self._by_peer[peer]

    # -- who is not listened to

    def mute(self, who: str, reason: str, longest: float = LONGEST_S) -> None:
        """Listen no more to a sender for a while, twice as long as the last time."""
        if who in self._muted:
            return
        now = self._clock()
        found = self._past.pop(who, None)
        if found is None or now - found.until > CALM_S + found.seconds:
            found = _Mute()
        found.seconds = min(max(2 * found.seconds, FIRST_S), longest)
        found.until = now + found.seconds
        found.dropped = 0
        found.told.clear()
        waiting = self._senders.pop(who, None)
        if waiting is not None:
            found.dropped = len(waiting.items)
            self.dropped += len(waiting.items)
            self._bytes -= waiting.bytes
            for peer, _, _ in waiting.items:
                self._less(peer)
        self._muted[who] = found
        _audit.warning("muted key=%s seconds=%g reason=%s", who, found.seconds, reason)

    def must_tell(self, who: str, peer: bytes) -> float:
        """Return, once for each connection, for how many seconds more a sender is muted; else 0."""
        found = self._muted.get(who)
        if found is None or peer in found.told or len(found.told) >= 100:
            return 0.0
        found.told.add(peer)
        return max(found.until - self._clock(), 0.1)

    def look(self) -> None:
        """Listen again to those whose time is over."""
        if self._muted:
            now = self._clock()
            for who, found in [(who, one) for who, one in self._muted.items() if one.until <= now]:
                self._unmute(who, found)

    def _unmute(self, who: str, found: _Mute) -> None:
        del self._muted[who]
        self._past[who] = found
        if len(self._past) > SENDERS:
            self._past.popitem(last=False)
        _audit.warning("unmuted key=%s dropped=%d", who, found.dropped)


__all__ = ["Backlog"]
