"""Requests that are well formed and make no sense: everything that a peer can get through the wire's decoder.

Each field is drawn from its type, or left as it is: names of jobs that exist and of those that do not, numbers that are
huge, negative or none at all, conditions that are valid, broken or deep, and every kind of message. What comes out went
through the codec, so that a peer could have sent just that.

Who may come in: tests of whoever takes requests. Rule: a run is decided by its seed alone.
"""

from __future__ import annotations

import functools
import math
import random
import types
import typing
from typing import Any

import msgspec

from trun.conditions import wire
from trun.conditions.algebra import And, Condition, Or
from trun.conditions.atoms import IsCompleted, IsFailed, IsMessage, IsResult
from trun.conditions.timing import After, Deadline
from trun.core.codec import decode_requests, encode_batch
from trun.errors import ProtocolError
from trun.messages import AnyRequest, Request

UIDS = ("a", "b", "c", "race", "g", "far", "nobody", "", "a b", "condition", "service", "\0", "ü" * 50, "x" * 3000)
WORDS = (
    *UIDS,
    *("call", "first", "fetch", "install", "cancel", "hold", "skip", "run", "worker", "fresh", "inline", "all"),
    *(
        "none",
        "unneeded",
        "f",
        "s",
        "chisq < 1",
        "chisq <",
        "tcp://127.0.0.1:1",
        "ipc:///x",
        "job:a:completed",
        "==1.0",
    ),
    *("ps", "why", "job", "graph", "logs", "whoami", "mint", "revoke", "session", "upload", "blob", "file", "versions"),
)
NUMBERS = (0, 1, 2, 3, -1, 17, 2**31, 2**62, -(2**62))
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-300, 1e308, math.inf, -math.inf, math.nan)
CONDITIONS: tuple[Condition, ...] = (
    IsCompleted("a"),
    IsCompleted("far"),
    And(IsCompleted("a"), IsFailed("b")),
    Or(IsCompleted("a"), IsCompleted("b")),
    IsMessage("a", "note"),
    IsResult("a", "chisq < 1"),
    And(After(1.0), Deadline(2.0)),
    IsCompleted("g"),
)
BYTES = (
    b"",
    b"x",
    b"\0" * 100,
    b"{",
    b"[]",
    b'{"v":1}',
    b'{"v":9,"atom":"job","is":"completed","uid":"a"}',
    b'{"of":[],"op":"and","v":1}',
    b'{"of":' * 2000,
    b'{"atom":"job","is":"\xff","uid":"a","v":1}',
    b'{"atom":"path","v":1}',
    *(wire.dumps(condition) for condition in CONDITIONS),
)
VALUES = (None, True, 0, -1, 1.5, math.nan, "a", ["a"], {"a": 1}, {"uid": "a"}, [[[[]]]], b"x", "x" * 2000)
KINDS: tuple[type[Request], ...] = typing.get_args(AnyRequest)
#: Submissions have so many fields that they are drawn more often.
WEIGHTS = [6 if kind.__name__ == "Submit" else 2 if kind.__name__ in ("Do", "Ask", "Relay") else 1 for kind in KINDS]


def draw_request(chance: random.Random) -> AnyRequest:
    """Return a request that the wire would let through."""
    while True:
        (kind,) = chance.choices(KINDS, WEIGHTS)
        try:
            (request,) = decode_requests(encode_batch([_struct(kind, chance)]))
        except (ProtocolError, OverflowError, UnicodeError):
            continue  # the wire lets it not through
        return request


_hints = functools.cache(typing.get_type_hints)


def _struct(kind: type[Any], chance: random.Random) -> Any:
    hints = _hints(kind)
    given = {}
    for field in msgspec.structs.fields(kind):
        if field.required or chance.random() < 0.35:
            given[field.name] = _value(hints[field.name], chance)
    return kind(**given)


def _value(hint: Any, chance: random.Random) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return chance.choice(VALUES)
    if origin in (types.UnionType, typing.Union):
        return _value(chance.choice(inner), chance)
    if hint is types.NoneType:
        return None
    if origin in (tuple, list):
        found = [_value(inner[0], chance) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
        if len(inner) == 2 and inner[1] is not Ellipsis:
            return tuple(_value(one, chance) for one in inner)
        return tuple(found) if origin is tuple else found
    if origin is dict:
        return {_value(inner[0], chance): _value(inner[1], chance) for _ in range(chance.choice((0, 1, 2)))}
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint, chance)
    return chance.choice({str: WORDS, int: NUMBERS, float: FLOATS, bytes: BYTES, bool: (True, False)}[hint])
