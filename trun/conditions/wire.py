"""A condition to plain data and back, so that it can travel to the service that must wait.

Canonical JSON: gates as ``{"op": ..., "of": [...]}``, atoms as ``{"atom": kind, ...}``, a version at the top. Jobs
are named by uid and services by key, never by an alias. What comes from outside is checked completely (types, depth
at most 64, at most 10,000 atoms) and every fault is one ``ConditionSyntaxError``. Both directions are iterative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from trun.conditions import timing
from trun.conditions.algebra import And, AtLeast, Condition, Leaf, Never, Not, Or, Settled, faces, postorder
from trun.conditions.atoms import JOB_ATOMS, Atom, JobAtom, Level, WorldAtom, live
from trun.errors import ConditionSyntaxError, TrunError, nearest

VERSION = 1
MAX_DEPTH = 64
MAX_ATOMS = 10_000
#: Atoms and gates together: gates need no atoms to be many.
MAX_PARTS = 4 * MAX_ATOMS
TOO_MANY = f"a condition may have {MAX_ATOMS} atoms at most; a group (trun.map) is one atom whatever its size"

#: The name of a job, from its uid and the key of its service.
Name = Callable[[str, str], str]

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


def to_dict(condition: Condition) -> dict[str, Any]:
    """Return the wire form as plain data."""
    done: dict[int, dict[str, Any]] = {}
    for node in postorder(condition):
        done[id(node)] = _leaf(node) if isinstance(node, Leaf) else _gate(node, [done[id(c)] for c in node.of])
    found = dict(done[id(condition)])
    found["v"] = VERSION
    return found


def _leaf(node: Leaf) -> dict[str, Any]:
    if isinstance(node, JobAtom):
        found: dict[str, Any] = {"atom": "job", "is": node.what, "uid": node.subject}
        if node.service_key:
            found["service"] = node.service_key
        if node.argument is not None:
            found["arg"] = node.argument
        if node.label:
            found["name"] = node.label
        return found
    if isinstance(node, WorldAtom):
        return {"atom": "world", "is": node.what, "target": node.target, "poll": node.poll_s, "amount": node.amount}
    if isinstance(node, Atom):
        return {"atom": "bare", "id": node.id, "name": node.name or ""}
    if isinstance(node, Level):
        return {"atom": "level", "id": node.id, "name": node.name or ""}
    if isinstance(node, timing.After):
        return {"atom": "deadline" if isinstance(node, timing.Deadline) else "after", "s": node.span_s}
    if isinstance(node, timing.At):
        return {"atom": "before" if isinstance(node, timing.Before) else "at", "t": node.instant}
    if isinstance(node, timing.Cron):
        return {"atom": "cron", "expression": node.expression, "tz": node.tz or ""}
    raise TypeError(f"a condition with {type(node).__name__} cannot travel")


def _gate(node: Condition, of: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(node, And):
        return {"op": "and", "of": of}
    if isinstance(node, Or):
        return {"op": "or", "of": of}
    if isinstance(node, AtLeast):
        return {"op": "atleast", "k": node.k, "of": of}
    if isinstance(node, timing.Held):
        return {"op": "held", "s": node.span_s, "of": of}
    if isinstance(node, Not | Never | Settled | timing.Since):
        return {"op": node.op, "of": of}
    raise TypeError(f"a condition with {type(node).__name__} cannot travel")


def dumps(condition: Condition) -> bytes:
    """Return the wire form as canonical JSON."""
    if type(condition).__base__ is JobAtom:
        return _encode({**_leaf(condition), "v": VERSION})  # type: ignore[arg-type]
    try:
        return _encode(to_dict(condition))
    except RecursionError:
        raise ConditionSyntaxError(f"a condition that travels may be {MAX_DEPTH} deep at most") from None


def loads(data: bytes, name: Name | None = None) -> Condition:
    """Return the condition of canonical JSON from outside; bad data raises ``ConditionSyntaxError``.

    ``name`` says under which name the reader knows a job, given its uid and the key of its service.
    """
    try:
        found = _decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ConditionSyntaxError(f"not a condition: {error}") from None
    return from_dict(found, name)


def from_dict(data: Mapping[str, Any], name: Name | None = None) -> Condition:
    """Return the condition of plain data from outside."""
    if not isinstance(data, Mapping):
        raise ConditionSyntaxError(f"a condition is a map, not {type(data).__name__}")
    if data.get("v", VERSION) != VERSION:
        raise ConditionSyntaxError(f"a condition of version {data.get('v')!r}; this trun reads version {VERSION}")
    made: dict[int, Condition] = {}
    for node in reversed(_checked(data)):
        try:
            made[id(node)] = _make_leaf(node, name) if "atom" in node else _make_gate(node, made)
        except ConditionSyntaxError:
            raise
        except (TrunError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConditionSyntaxError(f"bad part of a condition: {error}") from None
    return made[id(data)]


def _checked(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all nodes, parents first, once shape, depth and number are known to be in bounds."""
    order: list[Mapping[str, Any]] = []
    stack: list[tuple[Any, int]] = [(data, 1)]
    atoms = 0
    while stack:
        node, depth = stack.pop()
        if not isinstance(node, Mapping):
            raise ConditionSyntaxError(f"a part of a condition is a map, not {type(node).__name__}")
        if depth > MAX_DEPTH:
            raise ConditionSyntaxError(f"a condition may be {MAX_DEPTH} deep at most")
        order.append(node)
        if len(order) + len(stack) > MAX_PARTS:
            raise ConditionSyntaxError(TOO_MANY)
        if "atom" in node:
            atoms += 1
            if atoms > MAX_ATOMS:
                raise ConditionSyntaxError(TOO_MANY)
            continue
        of = node.get("of")
        if not isinstance(of, list | tuple):
            raise ConditionSyntaxError(f"the gate {node.get('op')!r} has no list 'of'")
        if len(of) > MAX_ATOMS:
            raise ConditionSyntaxError(TOO_MANY)
        stack.extend((child, depth + 1) for child in of)
    return order


def _make_gate(node: Mapping[str, Any], made: dict[int, Condition]) -> Condition:
    children = [made[id(child)] for child in node["of"]]
    op = node.get("op")
    if op == "and":
        return And(*children)
    if op == "or":
        return Or(*children)
    if op == "atleast":
        k = node.get("k")
        if not isinstance(k, int) or isinstance(k, bool):
            raise ConditionSyntaxError(f"atleast has a whole number k, not {k!r}")
        return AtLeast(k, *children)
    if op == "since":
        if len(children) != 2:
            raise ConditionSyntaxError("since has a trigger and a reset")
        return timing.Since(*children)
    unary: dict[Any, Callable[[Condition], Condition]] = {
        "not": Not,
        "never": Never,
        "settled": Settled,
        "held": lambda child: timing.Held(child, timing.span_seconds(node.get("s"), "held")),
    }
    if op not in unary:
        names = ("and", "or", "atleast", "since", *unary)
        raise ConditionSyntaxError(f"there is no gate {op!r}.{nearest(str(op), names)}")
    if len(children) != 1:
        raise ConditionSyntaxError(f"the gate {op!r} has one child, not {len(children)}")
    return unary[op](children[0])


def _text(node: Mapping[str, Any], field: str, *, needed: bool = True) -> str:
    found = node.get(field, "")
    if not isinstance(found, str) or (needed and not found) or len(found) > 10_000:
        raise ConditionSyntaxError(f"the atom {node.get('atom')!r} needs a text {field!r}, not {found!r:.80}")
    return found


def _number(node: Mapping[str, Any], field: str) -> float:
    found = node.get(field)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not abs(found) < float("inf"):
        raise ConditionSyntaxError(f"the atom {node.get('atom')!r} needs a number {field!r}, not {found!r:.80}")
    return float(found)


def _make_leaf(node: Mapping[str, Any], name: Name | None) -> Leaf:
    kind = node["atom"]
    if kind == "job":
        return _make_job_atom(node, name)
    if kind in ("bare", "level"):
        return _make_owned(node, kind)
    if kind == "world":
        poll_s, amount = max(0.01, _number(node, "poll")), _number(node, "amount")
        found = WorldAtom(_text(node, "is"), _text(node, "target"), poll_s=poll_s, amount=amount)
        if found.what not in ("exists", "changed", "url", "free"):
            raise ConditionSyntaxError(f"there is no world atom {found.what!r}")
        return found
    if kind == "after":
        return timing.After(timing.span_seconds(_number(node, "s"), "after"))
    if kind == "deadline":
        return timing.Deadline(timing.span_seconds(_number(node, "s"), "within"))
    if kind == "at":
        return timing.At(_number(node, "t"))
    if kind == "before":
        return timing.Before(_number(node, "t"))
    if kind == "cron":
        return timing.Cron(_text(node, "expression"), _text(node, "tz", needed=False) or None)
    names = ("job", "bare", "level", "world", "after", "deadline", "at", "before", "cron")
    raise ConditionSyntaxError(f"there is no atom {kind!r:.80}.{nearest(str(kind)[:80], names)}")


def _make_job_atom(node: Mapping[str, Any], name: Name | None) -> Leaf:
    what = _text(node, "is")
    uid = _text(node, "uid")
    argument = node.get("arg")
    if what not in JOB_ATOMS:
        raise ConditionSyntaxError(f"a job has no condition {what!r:.80}.{nearest(what[:80], JOB_ATOMS)}")
    if argument is not None and not isinstance(argument, (str, int, float)):
        raise ConditionSyntaxError(f"the argument of {what!r} is a text or a number, not {argument!r:.80}")
    more = {"service_key": _text(node, "service", needed=False), "label": _text(node, "name", needed=False)}
    if name is not None:
        more["label"] = more["label"] or uid
        uid = name(uid, more["service_key"])
    cls = JOB_ATOMS[what]
    made: Leaf
    if argument is None:
        made = cls(uid, **more)
    else:
        made = JobAtom.__new__(cls)
        JobAtom.__init__(made, uid, argument=argument, **more)
    return live.get(made.key, made)


def _make_owned(node: Mapping[str, Any], kind: str) -> Leaf:
    """Return the atom of this process, or one that stands for another process' atom."""
    owned = _text(node, "id")
    known = live.get(f"{'atom' if kind == 'bare' else 'level'}:{owned}")
    if known is not None:
        return known
    name = _text(node, "name", needed=False) or None
    made = Atom(name) if kind == "bare" else Level(name)
    live.pop(made.key, None)
    made.id = owned
    made._key = f"{'atom' if kind == 'bare' else 'level'}:{owned}"
    live[made._key] = made
    return made


faces["to_dict"] = to_dict
faces["from_dict"] = from_dict
