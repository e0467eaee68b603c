"""The clients of a service as its node knows them, and who must be waited for before a private node may end.

Holds facts only; the engine brings them about. Who may come in: the engine and its driver. Rule: a job counts for the
session that submitted it, also after that session has gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from trun.core.record import JobRecord, JobState
from trun.errors import BadOption, TrunError, UnknownName, VersionMismatch
from trun.messages import SPOKEN, AnyAnswer, ErrorInfo, Hello, Welcome

_log = logging.getLogger(__name__)

#: Questions after the end of its jobs that one session has open, and letters of their tokens.
DRAINS, LONGEST_TOKEN = 100, 200
#: States of a job that will end, whatever anybody does.
_MOVING = frozenset({JobState.NEW, JobState.QUEUED, JobState.RUNNING, JobState.LOST})


class Session:
    """One client as the node knows it: the transport peer of the moment, and how many of its jobs are unfinished."""

    __slots__ = ("cancelled", "closing", "detach", "drains", "name", "peer", "pid", "unfinished")

    def __init__(self, name: str) -> None:
        self.name = name
        self.peer: bytes | None = None
        self.pid = 0
        self.detach = False
        self.unfinished = 0
        self.drains: list[str] = []
        self.closing = False
        #: Whether its jobs were cancelled all together: then it waits for nobody else's.
        self.cancelled = False

    def drain(self, token: str) -> None:
        """Somebody wants to know when nothing is unfinished: who asks for ever is answered some times."""
        self.drains = [*self.drains[1 - DRAINS :], token[:LONGEST_TOKEN]]


def is_idle(session: Session) -> bool:
    """Whether nothing would be lost if the session of a guest (they have a user before a slash) were forgotten."""
    return "/" in session.name and session.peer is None and session.unfinished <= 0 and not session.drains


def left_moving(sessions: Mapping[str, Session], records: Mapping[str, JobRecord]) -> bool:
    """Whether a job that an earlier script left here runs or will: its session never came back.

    What waits for a person, or for an atom of that script, does not move and is waited for by nobody.
    """
    left = {session.name for session in sessions.values() if session.unfinished > 0 and not session.pid}
    return bool(left) and any(
        record.life.state in _MOVING or (record.life.state is JobState.WAITING and record.life.until)
        for record in records.values()
        if record.spec.session in left
    )


def by_peer(answers: Iterable[tuple[bytes, AnyAnswer]]) -> Iterator[tuple[bytes, list[AnyAnswer]]]:
    """Join what follows each other for the same peer, so that it goes out at once."""
    for peer, some in groupby(answers, key=lambda pair: pair[0]):
        yield peer, [answer for _, answer in some]


def skew(message: Hello, welcome: Welcome) -> ErrorInfo | None:
    """Return why a client cannot be talked to: it speaks another version; None where it does not."""
    if message.protocol in SPOKEN:
        return None
    text = (
        f"this client speaks protocol {message.protocol} (trun {message.version[:40] or 'of unknown version'}), "
        f"service {welcome.name} speaks protocol {welcome.protocol} (trun {welcome.version}). Install a release of "
        f"trun that both sides understand: trun {welcome.version} at the client, or a newer one at the service."
    )
    _log.warning("a client of another version was refused session=%.80s reason=%s", message.session, text)
    return describe(VersionMismatch(text))


def describe(error: BaseException) -> ErrorInfo:
    """Return an exception as plain data, without its traceback."""
    text = str(error).encode(errors="replace").decode()  # names of files need not be text
    near = error.suggestions if isinstance(error, UnknownName) else ()
    return ErrorInfo(type=f"{type(error).__module__}.{type(error).__qualname__}", message=text, suggestions=near)


def fault(verb: str, error: Exception) -> ErrorInfo:
    """Return why a question was not answered; what nobody foresaw is logged, and was most likely asked wrongly."""
    if isinstance(error, TrunError):
        return describe(error)
    _log.warning("a question could not be answered verb=%.40s reason=%.200r", verb, error)
    return describe(BadOption(f"{verb:.40s} cannot be answered for these arguments: {error!r:.200s}"))
