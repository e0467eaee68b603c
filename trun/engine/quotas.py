"""How much one user may ask of a service: generous, and said plainly where it ends.

Buckets fill with time and are emptied by what is asked, so that nobody is ever made to wait: what is too much is
refused at once, with what to do. Counted for each user, over all of their connections; the service's owner is not.

Knows no job and no socket. Who may come in: the gate. Rule: what is kept here is bounded, whoever comes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from trun.errors import NotAuthorised
from trun.messages import AnyRequest, Ask, Define, Listen, Present, Relay, SetAtom, Submit

#: Requests at once and in a second, where an ordinary one counts 1.
REQUESTS, REQUESTS_S = 100_000.0, 10_000.0
#: Bytes of functions and arguments at once and in a second.
BYTES, BYTES_S = 16e9, 100e6
#: Entries of other services' streams that no job waits for yet, at once and in a second.
AHEAD, AHEAD_S = 20_000.0, 20.0
#: Unfinished jobs.
JOBS = 500_000
#: Seconds for which a count of them is good.
COUNTED_S = 0.5
#: Streams that one connection may listen to.
STREAMS = 300_000
#: Users whose buckets are remembered; a forgotten one is full again.
USERS = 10_000
#: What verbs cost at least, and for each job that they show or count: lists of all jobs five times what they take,
#: since nobody else is answered meanwhile; but never more than ``HEAVIEST``, so that whoever waits can ask.
HEAVY = {"ps": 20.0, "jobs": 20.0, "which": 9.0, "graph": 50.0, "summary": 9.0, "changes": 5.0}
HEAVY |= {"downstream": 5.0, "request-access": 100.0}
HEAVY_JOB = {"ps": 1.25, "jobs": 1.0, "graph": 0.75, "summary": 0.01, "changes": 0.02, "downstream": 0.02}
HEAVIEST = REQUESTS / 4


#: Refusals in a row of which one user is told before nothing of it is read for a while.
HEEDED = 1_000


class _Buckets:
    __slots__ = ("ahead", "bytes", "refused", "requests", "seen")

    def __init__(self, now: float) -> None:
        self.requests, self.bytes, self.ahead, self.seen = REQUESTS, BYTES, AHEAD, now
        #: Requests that were too much since one was taken.
        self.refused = 0


class Quotas:
    """The buckets of all users. ``now`` is any clock that does not jump."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, _Buckets] = OrderedDict()
        #: {user: (unfinished jobs, when they were counted)}
        self._unfinished: dict[str, tuple[int, float]] = {}

    def take_jobs(self, user: str, more: int, count: Callable[[str], int], now: float) -> None:
        """Refuse more unfinished jobs than one user may have; ``count`` counts those of all sessions of a prefix."""
        have, at = self._unfinished.get(user, (0, float("-inf")))
        if now - at > COUNTED_S:
            have, at = count(f"{user}/"), now
            if len(self._unfinished) > USERS:
                self._unfinished.clear()
        if have + more > JOBS:
            raise NotAuthorised(
                f"you have {have:,} unfinished jobs here, and {JOBS:,} of one user are taken. Wait until some have "
                "ended, or cancel some."
            )
        self._unfinished[user] = (have + more, at)

    def take_ahead(self, user: str, entries: int, now: float) -> None:
        """Refuse to keep more news of other services than somebody's coming jobs can need."""
        found = self._filled(user, now)
        if entries > found.ahead:
            raise NotAuthorised(
                f"too much news that no job of yours waits for, of other services or atoms: {AHEAD:,.0f} entries at "
                f"once and {AHEAD_S:,.0f} in a second are kept. Submit the job first."
            )
        found.ahead -= entries

    def __len__(self) -> int:
        return len(self._users)

    def _filled(self, user: str, now: float) -> _Buckets:
        found = self._users.get(user)
        if found is None:
            found = self._users[user] = _Buckets(now)
            while len(self._users) > USERS:
                self._users.popitem(last=False)
        elif now > found.seen:
            passed, found.seen = now - found.seen, now
            found.requests = min(REQUESTS, found.requests + passed * REQUESTS_S)
            found.bytes = min(BYTES, found.bytes + passed * BYTES_S)
            found.ahead = min(AHEAD, found.ahead + passed * AHEAD_S)
        return found

    def take(self, user: str, message: AnyRequest, now: float, jobs: int = 0) -> None:
        """Count a request to a service of so many jobs; raise ``NotAuthorised`` where it is too much."""
        found = self._filled(user, now)
        cost, size = price(message, jobs)
        found.refused += 1
        if cost > found.requests:
            raise NotAuthorised(
                f"too many requests: {REQUESTS:,.0f} at once and {REQUESTS_S:,.0f} in a second are taken. Ask again "
                "in some seconds, and listen instead of asking."
            )
        if size > found.bytes:
            raise NotAuthorised(
                f"too many bytes: {BYTES / 1e9:,.0f} GB of arguments and {BYTES_S / 1e6:,.0f} MB in a second are "
                "taken. Wait some minutes, or leave the data in files (trun.fetch_url)."
            )
        found.refused = 0
        found.requests -= cost
        found.bytes -= size

    def is_deaf(self, user: str) -> bool:
        """Whether somebody goes on although they were told often that it is too much; they are told anew then."""
        found = self._users.get(user)
        if found is None or found.refused < HEEDED:
            return False
        found.refused = 0
        return True


def price(message: AnyRequest, jobs: int = 0) -> tuple[float, int]:
    """Return what a request to a service of so many jobs costs: in requests, and in bytes."""
    kind = type(message)
    if kind is Submit:
        calls = (spec.call for spec in message.specs)  # type: ignore[union-attr]
        size = sum(len(call.arguments.data or b"") for call in calls if call is not None)
        return 1.0 + 5 * len(message.groups), size  # type: ignore[union-attr]
    if kind is Define:
        return 1.0, len(message.data)  # type: ignore[union-attr]
    if kind is Ask:
        verb, limit = message.verb, message.arguments.get("limit")  # type: ignore[union-attr]
        shown = min(limit, jobs) if type(limit) is int and limit > 0 else jobs
        return min(HEAVY.get(verb, 1.0) + HEAVY_JOB.get(verb, 0.0) * shown, HEAVIEST), 0
    if kind is Listen:
        return 1.0 + len(message.streams) / 10, 0  # type: ignore[union-attr]
    if kind is Relay:
        payloads = (getattr(entry.event, "result", None) for entry in message.entries)  # type: ignore[union-attr]
        size = sum(len(payload.data or b"") for payload in payloads if payload is not None)
        return 1.0 + len(message.entries) / 10, size  # type: ignore[union-attr, arg-type]
    if kind is Present:
        return 1.0 + len(message.tokens), 0  # type: ignore[union-attr]
    return (5.0 if kind is SetAtom else 1.0), 0
