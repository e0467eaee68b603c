"""Run this when that is done: jobs gated by conditions, on a laptop, on cluster nodes, or both.

The front hall: names, and nothing else. Each name is loaded from its room at its first use, so that ``import trun``
costs next to nothing. Inside the package nobody comes in this way.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trun.bars import progress
    from trun.conditions import (
        And,
        AtLeast,
        Atom,
        Condition,
        Depends,
        Explanation,
        IsAborted,
        IsCancelled,
        IsCompleted,
        IsEnded,
        IsFailed,
        IsFetched,
        IsFinished,
        IsMessage,
        IsProgress,
        IsResult,
        IsSkipped,
        IsStarted,
        Level,
        Not,
        Or,
        Value,
        after,
        all_of,
        any_of,
        at,
        at_least,
        before,
        changed,
        cron,
        exists,
        free,
        held,
        never,
        parse,
        settled,
        since,
        url_ok,
    )
    from trun.connect import local
    from trun.core.record import JobState
    from trun.errors import (
        BadOption,
        ConditionSyntaxError,
        ConditionWarning,
        CycleError,
        JobAborted,
        JobCancelled,
        JobFailed,
        JobLost,
        JobSkipped,
        JobTimeout,
        MemoryExceeded,
        NeverCondition,
        NotAuthorised,
        NotPicklable,
        ServiceUnavailable,
        StateError,
        TrunError,
        UnknownName,
        UntrustedResult,
        VersionMismatch,
        WorkerDied,
    )
    from trun.executors.context import current_job
    from trun.families import first, map
    from trun.files import File, fetch_url, publish_file
    from trun.groups import Group
    from trun.handles import Job
    from trun.installing import install_service
    from trun.jobs import JobFunction, job, options, submit
    from trun.lending import Credentials, credentials
    from trun.remotes import remote_service
    from trun.service import Service
    from trun.version import __version__

#: Room -> the names that it gives.
_NAMES = {
    "trun.conditions": """
        And AtLeast Atom Condition Depends Explanation IsAborted IsCancelled IsCompleted IsEnded IsFailed IsFetched
        IsFinished IsMessage IsProgress IsResult IsSkipped IsStarted Level Not Or Value after all_of any_of at at_least
        before changed cron exists free held never parse settled since url_ok""",
    "trun.core.record": "JobState",
    "trun.errors": """
        BadOption ConditionSyntaxError ConditionWarning CycleError JobAborted JobCancelled JobFailed JobLost JobSkipped
        JobTimeout MemoryExceeded NeverCondition NotAuthorised NotPicklable ServiceUnavailable StateError TrunError
        UnknownName UntrustedResult VersionMismatch WorkerDied""",
    "trun.executors.context": "current_job",
    "trun.connect": "local",
    "trun.remotes": "remote_service",
    "trun.families": "first map",
    "trun.files": "File fetch_url publish_file",
    "trun.groups": "Group",
    "trun.handles": "Job",
    "trun.installing": "install_service",
    "trun.jobs": "JobFunction job options submit",
    "trun.lending": "Credentials credentials",
    "trun.bars": "progress",
    "trun.service": "Service",
    "trun.version": "__version__",
}
_ROOMS = {name: room for room, names in _NAMES.items() for name in names.split()}

__all__ = [
    "And",
    "AtLeast",
    "Atom",
    "BadOption",
    "Condition",
    "ConditionSyntaxError",
    "ConditionWarning",
    "Credentials",
    "CycleError",
    "Depends",
    "Explanation",
    "File",
    "Group",
    "IsAborted",
    "IsCancelled",
    "IsCompleted",
    "IsEnded",
    "IsFailed",
    "IsFetched",
    "IsFinished",
    "IsMessage",
    "IsProgress",
    "IsResult",
    "IsSkipped",
    "IsStarted",
    "Job",
    "JobAborted",
    "JobCancelled",
    "JobFailed",
    "JobFunction",
    "JobLost",
    "JobSkipped",
    "JobState",
    "JobTimeout",
    "Level",
    "MemoryExceeded",
    "NeverCondition",
    "Not",
    "NotAuthorised",
    "NotPicklable",
    "Or",
    "Service",
    "ServiceUnavailable",
    "StateError",
    "TrunError",
    "UnknownName",
    "UntrustedResult",
    "Value",
    "VersionMismatch",
    "WorkerDied",
    "__version__",
    "after",
    "all_of",
    "any_of",
    "at",
    "at_least",
    "before",
    "changed",
    "credentials",
    "cron",
    "current_job",
    "exists",
    "fetch_url",
    "first",
    "free",
    "held",
    "install_service",
    "job",
    "local",
    "map",
    "never",
    "options",
    "parse",
    "progress",
    "publish_file",
    "remote_service",
    "settled",
    "since",
    "submit",
    "url_ok",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError:
            hint = importlib.import_module("trun.errors").nearest(name, __all__)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}") from None
    if room in _DOORS:
        connect = importlib.import_module("trun.connect")
        if name == "local":
            connect.meanwhile.append(_open_doors)
        else:
            _open_doors()
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def _open_doors() -> None:
    for room in ("families", "installing"):
        importlib.import_module(f"{__name__}.{room}")


#: Rooms that hand out services or jobs: whoever has one may call ``service.submit`` and ``service.map``.
_DOORS = frozenset(
    f"trun.{room}"
    for room in ("connect", "remotes", "families", "service", "handles", "jobs", "groups", "files", "installing")
)


def __dir__() -> list[str]:
    return sorted(__all__)
