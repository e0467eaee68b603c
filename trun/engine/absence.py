"""Clients that vanish: for how long they are missed, and what becomes of what only they could decide.

A client that says goodbye, or whose process ended on this machine, has left. One whose connection broke may be asleep,
behind a lost network, or dead; nobody here can tell. Its jobs run and wait on as they were. After a grace it counts as
gone: its jobs are cancelled unless it had detached them (``remote_service`` always does), and conditions on atoms that
live in its process are cancelled with the reason "owner left", so that nobody waits for ever.

Who may come in: the driver of a daemon. Rule: time counts by the service's own clock, and a service that has slept
itself begins to count anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from trun.conditions.timing import span_seconds
from trun.engine.loop import Engine
from trun.engine.sessions import Session

_log = logging.getLogger(__name__)

#: Seconds for which a client is missed: as long as a right lasts that it has lent.
GRACE_S = 12 * 3600.0
#: Seconds between looks; after a longer pause the service itself was away.
LOOK_S, AWAY_S = 1.0, 60.0
#: The setting ``[client] grace``.
VARIABLE = "TRUN_CLIENT__GRACE"


def grace_of(settings: Mapping[str, str]) -> float:
    """Return the grace that the operator has set, in seconds."""
    text = settings.get(VARIABLE, "")
    return span_seconds(text, "[client] grace") if text else GRACE_S


class Absence:
    """Misses the clients of an engine."""

    def __init__(self, engine: Engine, grace_s: float = GRACE_S) -> None:
        self._engine = engine
        self._grace_s = grace_s
        #: {session: since when it is missed}
        self._since: dict[str, float] = {}
        #: Sessions that were here since the service began.
        self._seen: set[str] = set()
        self._looked = 0.0

    def seen(self, session: Session) -> None:
        """A client has come, or come back."""
        self._seen.add(session.name)
        self._since.pop(session.name, None)

    def look(self) -> None:
        """Let those leave that are missed for too long (outside of a step)."""
        now = self._engine.clock.now()
        if now - self._looked < LOOK_S:
            return
        if self._looked and now - self._looked > AWAY_S:
            self._since.clear()
        self._looked = now
        sessions = self._engine.sessions
        self._seen &= sessions.keys()
        missed = [each for each in sessions.values() if each.peer is None and not each.closing and each.unfinished > 0]
        self._since = {each.name: self._since.get(each.name, now) for each in missed}
        for session in missed:
            if now - self._since[session.name] >= self._grace_s and self._may_leave(session):
                _log.warning("a client did not come back and counts as gone session=%.80s", session.name)
                self._engine.leave(session, now)

    def _may_leave(self, session: Session) -> bool:
        """Whether this is ours to end: what an earlier script left here undetached waits for its next one."""
        if session.name in self._seen:
            return True
        return all(record.spec.detach for record in self._engine.machine.book.unfinished(session.name))


__all__ = ["GRACE_S", "VARIABLE", "Absence", "grace_of"]
