"""The options of a job: their names, defaults, units and bounds.

One place for ``submit``, ``@job``, ``options`` and ``map``. Every fault is one error at the caller's line.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from trun.conditions.timing import span_seconds
from trun.core.record import JobState
from trun.core.units import memory_bytes
from trun.errors import BadOption, UnknownName
from trun.service import Service

ON_NEVER = ("cancel", "hold", "skip", "run")
ISOLATION = ("worker", "fresh", "inline")

#: Names of the keyword options of ``submit``, in its order.
OPTIONS = (
    "when",
    "service",
    "name",
    "resources",
    "priority",
    "retries",
    "retry_delay",
    "timeout",
    "memory",
    "on_never",
    "memo",
    "isolation",
    "key",
)

#: Options that only mean something where results are remembered.
MEMO_OPTIONS = ("on", "packages", "ignore", "env", "files", "salt", "cache_errors")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a job, checked."""

    when: Any = None
    service: Any = None
    name: str | None = None
    resources: dict[str, float] = {}
    priority: float = 0
    retries: int = 0
    retry_delay: float = 0.0
    timeout: float | None = None
    memory: int | None = None
    on_never: str = "cancel"
    memo: Any = None
    isolation: str = "worker"
    key: str | None = None


PLAIN = Options()
#: Default values of ``submit``'s options, in the order of ``OPTIONS``.
UNSET = (None, None, None, None, 0, 0, "0s", None, None, "cancel", None, "worker", None)


def make_options(given: dict[str, Any]) -> Options:
    """Check the options of a job and bring them into their units; each fault is one ``BadOption``."""
    for name in given:
        if name in MEMO_OPTIONS:
            raise BadOption(f"{name} belongs to memo, which is not there yet in this version of trun; leave it out.")
        if name not in OPTIONS:
            raise UnknownName(f"a job has no option {name!r}.", name=name, known=OPTIONS)
    checked = dict(given)
    _check_words(checked)
    if "retry_delay" in checked:
        checked["retry_delay"] = span_seconds(checked["retry_delay"], "retry_delay")
    if checked.get("timeout") is not None:
        checked["timeout"] = span_seconds(checked["timeout"], "timeout")
        if checked["timeout"] <= 0:
            raise BadOption(f"timeout must be more than 0 s, not {given['timeout']!r}.")
    if checked.get("memory") is not None:
        checked["memory"] = memory_bytes(checked["memory"], "memory")
    checked["resources"] = _resources(checked.get("resources"))
    return Options(**checked)


def _check_words(checked: dict[str, Any]) -> None:
    """Check the options that are taken as they are."""
    for name, allowed in (("on_never", ON_NEVER), ("isolation", ISOLATION)):
        if checked.get(name, allowed[0]) not in allowed:
            choice = ", ".join(repr(a) for a in allowed)
            raise BadOption(f"{name} must be one of {choice}, not {checked[name]!r}.")
    if "retries" in checked and (
        not isinstance(checked["retries"], int) or isinstance(checked["retries"], bool) or checked["retries"] < 0
    ):
        raise BadOption(f"retries must be a whole number of at least 0, not {checked['retries']!r}.")
    if not isinstance(checked.get("priority", 0), (int, float)):
        raise BadOption(f"priority must be a number, not {checked['priority']!r}.")
    if checked.get("name") is not None and (not isinstance(checked["name"], str) or not checked["name"].strip()):
        raise BadOption(f"name must be a text, not {checked['name']!r}.")
    if not isinstance(checked.get("service"), Service | None):
        given = checked["service"]
        raise BadOption(
            f"service must be a service, such as trun.local() and trun.remote_service(NAME) give, not {given!r}."
        )
    if checked.get("memo"):
        raise BadOption("memo is not there yet in this version of trun; leave it out, and every submission runs.")


def _resources(given: Any) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadOption(f'resources must be a dictionary such as {{"gpu": 1}}, not {given!r}.')
    for name, amount in given.items():
        if not isinstance(amount, (int, float)) or isinstance(amount, bool) or amount < 0:
            raise BadOption(f"resource {name!r} must be an amount of at least 0, not {amount!r}.")
    return {name: amount for name, amount in given.items() if amount}


def make_filter(state: Any, name: Any, since: Any) -> dict[str, Any]:
    """Check by what jobs are to be found, and bring it into the form in which services take it."""
    states: Any = None
    if state is not None:
        several = state.split(",") if isinstance(state, str) else [state] if not isinstance(state, Iterable) else state
        states = ",".join(_state(one) for one in several)
    if name is not None and not isinstance(name, str):
        raise BadOption(f"name must be a text such as 'fit' or 'fit*', not {name!r}.")
    if isinstance(since, datetime):
        since = since.timestamp()
    elif isinstance(since, str | timedelta):
        since = time.time() - span_seconds(since, "since")
    elif since is not None and (not isinstance(since, int | float) or isinstance(since, bool)):
        raise BadOption(f'since must be a datetime, seconds since the epoch, or a span such as "2d", not {since!r}.')
    return {"state": states, "name": name, "since": since}


def _state(given: Any) -> str:
    known = [state.value for state in JobState]
    word = given.value if isinstance(given, JobState) else str(given).strip().lower()
    if word not in known:
        raise UnknownName(f"there is no state {word!r}; states are {', '.join(known)}.", name=word, known=known)
    return word


def giving(name: str, *, is_ours: bool) -> str:
    """Return how a service gets a resource: one of this script, or a daemon."""
    return f"local(resources={{{name!r}: ...}})" if is_ours else f"`trun service start --resources {name}=...`"
