"""Every exception of trun, one tree.

The class says whose fault it was: ``UsageError`` the caller's, ``JobError`` the job's own, ``RemoteError`` the other
side's, ``InvariantError`` ours. Each class also derives from the builtin that a caller would expect. The docstring is
the default message. Facts travel as attributes (``error.job_id``), so that nobody has to read them out of the text.

Everybody may come in. Rule: a message says what happened, where, the nearest valid name if there is one, and what to
do.
"""

from __future__ import annotations

import concurrent.futures
import difflib
from collections.abc import Iterable
from typing import Any


class TrunError(Exception):
    """Something in trun went wrong."""

    #: Stable code of the error class, shown by ``trun explain CODE``.
    code: str = "T000"

    def __init__(self, message: str | None = None, **facts: Any) -> None:
        doc = type(self).__doc__ or type(self).__name__
        super().__init__(message if message is not None else doc.strip().splitlines()[0])
        for name, value in facts.items():
            setattr(self, name, value)


#: Letters of names, and how many, among which the nearest is looked for: it takes the square of them.
LONGEST_NAME, MOST_NAMES = 50, 500


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for the valid name nearest to ``name``, or an empty string."""
    found = _near(name, names, 1)
    return f" Did you mean {found[0]!r}?" if found else ""


def _near(name: str, names: Iterable[str], most: int) -> list[str]:
    """Return the names most like ``name``, the best first; capitals count for little."""
    if len(name) > LONGEST_NAME:
        return []
    known = [one for one in map(str, names) if len(one) <= LONGEST_NAME][-MOST_NAMES:]
    found = difflib.get_close_matches(name, known, n=most)
    lower = name.lower()
    same = [one for one in known if one.lower() == lower and one not in found]
    return [*same, *found][:most]


# -- the caller's fault -----------------------------------------------------------------------------------------------


class UsageError(TrunError):
    """The call cannot be carried out as it was written."""

    code = "T100"


class UnknownName(UsageError, LookupError):
    """There is nothing of that name."""

    code = "T101"
    suggestions: tuple[str, ...] = ()

    def __init__(self, message: str | None = None, *, name: str = "", known: Iterable[str] = (), **facts: Any) -> None:
        known = list(known)
        self.name = name
        self.suggestions = tuple(_near(name, known, 3)) if name else ()
        text = message if message is not None else f"unknown name {name!r}."
        super().__init__(text + nearest(name, known), **facts)


class NeverCondition(UsageError, ValueError):
    """The condition can never hold, so the job would never run."""

    code = "T102"


class ConditionSyntaxError(UsageError, ValueError):
    """The text is no condition."""

    code = "T103"
    position: int = 0


class ConditionTypeError(UsageError, TypeError):
    """A condition has no truth value; use & | ~."""

    code = "T104"


class CycleError(UsageError, ValueError):
    """The jobs wait for one another in a circle."""

    code = "T105"


class NotPicklable(UsageError, TypeError):
    """A value cannot be sent to another process."""

    code = "T106"
    path: str = ""


class NotInstallable(UsageError):
    """The module cannot be packed for a service."""

    code = "T112"


class KeyConflict(UsageError, ValueError):
    """The same idempotency key was used before with other content."""

    code = "T107"


class BadOption(UsageError, ValueError):
    """An option has a value that makes no sense."""

    code = "T108"


class MissingExtra(UsageError, ImportError):
    """An optional package is not installed."""

    code = "T109"


class UnknownInCondition(ConditionSyntaxError, UnknownName):
    """The text of a condition speaks of something that has no such name."""

    code = "T111"


class ConditionWarning(UserWarning):
    """A condition that is legal, but probably not what was meant."""


# -- the state folder -------------------------------------------------------------------------------------------------


class StateError(TrunError, OSError):
    """The state folder cannot be used."""

    code = "T200"


class StateHeld(StateError):
    """The state folder is held by another process."""

    code = "T201"
    pid: int = 0
    since: float = 0.0


class StateVersion(StateError):
    """The state folder was written by a newer version of trun."""

    code = "T202"


class StateDamaged(StateError):
    """The journal in the state folder is damaged."""

    code = "T203"


class StateFull(StateError):
    """No space is left for the state folder; nothing new is accepted until there is."""

    code = "T204"


# -- the job's own end ------------------------------------------------------------------------------------------------


class JobError(TrunError):
    """A job did not end well."""

    code = "T300"
    job_id: str = ""


class JobFailed(JobError):
    """The job failed."""

    code = "T301"


class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled before it started."""

    code = "T302"


class JobAborted(JobCancelled):
    """The job was stopped on purpose while it ran."""

    code = "T303"


class JobTimeout(JobFailed, TimeoutError):
    """The job ran longer than its timeout allows and was killed."""

    code = "T304"


class JobLost(JobFailed):
    """Nobody can say what became of the job."""

    code = "T305"


class JobSkipped(JobError):
    """The job was skipped, so it has no result."""

    code = "T306"


class WorkerDied(JobFailed):
    """The process that ran the job died."""

    code = "T307"
    exitcode: int | None = None
    signal: int | None = None


class MemoryExceeded(JobFailed, MemoryError):
    """The job used more memory than its limit allows and was killed."""

    code = "T308"


class RemoteTraceback(Exception):
    """The traceback of the worker, attached as the cause of an error that is raised again here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text


# -- the other side's fault -------------------------------------------------------------------------------------------


class RemoteError(TrunError):
    """The service answered with an error."""

    code = "T400"


class ServiceUnavailable(RemoteError, ConnectionError):
    """The service cannot be reached."""

    code = "T401"


class NotAuthorised(RemoteError, PermissionError):
    """The service does not allow this to you."""

    code = "T402"


class UntrustedResult(RemoteError):
    """The service is not trusted to send pickled results."""

    code = "T403"


class VersionMismatch(RemoteError):
    """The two sides run versions that do not fit."""

    code = "T404"


class ProtocolError(RemoteError, ValueError):
    """What came over the wire is no message of trun."""

    code = "T405"


class Refused(RemoteError):
    """The service refused the request."""

    code = "T406"


class ServiceKeyChanged(NotAuthorised):
    """The service does not hold the key that was written down for it."""

    code = "T407"


class TokenRefused(NotAuthorised):
    """The capability token was refused."""

    code = "T408"
    #: malformed, signature, bearer, revoked, expired or scope.
    reason: str = ""


class PackageRefused(Refused):
    """The wheel has something in it that is not installed."""

    code = "T411"


class TransferRefused(Refused):
    """A transfer of bulk data was refused."""

    code = "T409"
    #: ticket, busy, words, offset, changed, missing, digest, full, size or failed.
    reason: str = ""


class DigestMismatch(RemoteError, ValueError):
    """What arrived is not what was announced."""

    code = "T410"


# -- our own fault ----------------------------------------------------------------------------------------------------


class InvariantError(TrunError, RuntimeError):
    """A fault of trun itself: please report it."""

    code = "T900"
