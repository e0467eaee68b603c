"""Conditions: expressions that say when a job may run. Pure, except for ``depends``.

``value`` the chain of five, ``algebra`` the tree, ``atoms`` (``outcomes``) and ``timing`` its leaves, ``predicate``
expressions over results; ``resolver`` (``graph``, ``propagation``, ``waiting``, ``clocks``, ``decisions``) who waits
for what; ``text`` (``writing``, ``naming``) and ``wire`` the two written forms; ``explain`` (``causes``, ``phrases``,
``tree``) why; ``check`` what can be known beforehand; ``depends`` the resolver with callbacks for a process of its
own. Everybody above may come in; we know only messages and errors.
"""

import trun.conditions.wire  # noqa: F401 - gives every condition its to_dict and from_dict
from trun.conditions.algebra import (
    And,
    AtLeast,
    Condition,
    Never,
    Not,
    Or,
    Settled,
    all_of,
    any_of,
    at_least,
    never,
    settled,
)
from trun.conditions.atoms import (
    Atom,
    IsAborted,
    IsCancelled,
    IsCompleted,
    IsEnded,
    IsFailed,
    IsFetched,
    IsFinished,
    IsMessage,
    IsOk,
    IsProgress,
    IsQueued,
    IsReached,
    IsResult,
    IsSkipped,
    IsStarted,
    JobAtom,
    Level,
    changed,
    exists,
    free,
    url_ok,
)
from trun.conditions.depends import Depends
from trun.conditions.explain import Explanation
from trun.conditions.text import parse
from trun.conditions.timing import after, at, before, cron, held, since
from trun.conditions.value import Value

__all__ = [
    "And",
    "AtLeast",
    "Atom",
    "Condition",
    "Depends",
    "Explanation",
    "IsAborted",
    "IsCancelled",
    "IsCompleted",
    "IsEnded",
    "IsFailed",
    "IsFetched",
    "IsFinished",
    "IsMessage",
    "IsOk",
    "IsProgress",
    "IsQueued",
    "IsReached",
    "IsResult",
    "IsSkipped",
    "IsStarted",
    "JobAtom",
    "Level",
    "Never",
    "Not",
    "Or",
    "Settled",
    "Value",
    "after",
    "all_of",
    "any_of",
    "at",
    "at_least",
    "before",
    "changed",
    "cron",
    "exists",
    "free",
    "held",
    "never",
    "parse",
    "settled",
    "since",
    "url_ok",
]
