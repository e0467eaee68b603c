"""Conditions as text: what ``str`` writes. Reading is in ``text``.

``a.iscompleted & (b.iscompleted | after("30m"))``: the words are those of Python, so that a text from a program can be
pasted into a command line or a configuration file and back. Names that are no plain words, or that two different
things share, stand in quotes; a thing without a name is written by its uid.

Iterative, and one list of pieces: wide and deep conditions cost time proportional to what is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Any

from trun.conditions.algebra import And, AtLeast, Condition, Leaf, Not, Or, Unary, faces, postorder
from trun.conditions.atoms import Atom, JobAtom, Level, WorldAtom
from trun.conditions.timing import After, At, Before, Cron, Deadline, Held, Since, span_seconds

#: Longest text that is written, in pieces: sub-expressions that are shared many times over are written each time.
LIMIT = 2_000_000

#: What may stand as a name without quotes.
PLAIN_NAME = re.compile(r"[^\W\d][\w#/]*(?:\[\w+\])?\Z")
#: Words of the language, which are names only in quotes.
WORDS = frozenset({"and", "or", "not"})
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write(condition: Condition) -> str:
    """Return the text of a condition; ``parse`` reads it back."""
    if isinstance(condition, Leaf):
        return leaf_text(condition)
    names = shared_names(condition)
    pieces: list[str] = []
    stack: list[str | tuple[Condition, bool]] = [(condition, False)]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        node, inside = item
        if isinstance(node, Leaf):
            pieces.append(leaf_text(node, names))
        else:
            stack.extend(reversed(_gate(node, inside)))
        if len(pieces) > LIMIT:
            pieces.append(" ...")
            break
    return "".join(pieces)


def _gate(node: Condition, inside: bool) -> list[str | tuple[Condition, bool]]:
    """Return a gate in pieces: text, and children with whether brackets are needed around And and Or."""
    of = node.of
    if isinstance(node, And | Or):
        if not of:
            return ["all()" if isinstance(node, And) else "any()"]
        if len(of) == 1:
            return [(of[0], inside)]
        found = _joined(of, " & " if isinstance(node, And) else " | ", inside=True)
        return ["(", *found, ")"] if inside else found
    if isinstance(node, Not):
        return ["~", (node.child, True)]
    if isinstance(node, AtLeast):
        return [f"at_least({node.k}", *(piece for child in of for piece in (", ", (child, False))), ")"]
    if isinstance(node, Held):
        return ["held(", (node.child, False), f", {span_text(node.span_s)})"]
    if isinstance(node, Since):
        return ["since(", (node.trigger, False), ", ", (node.reset, False), ")"]
    assert isinstance(node, Unary)
    return [f"{node.op}(", (node.child, False), ")"]


def _joined(of: tuple[Condition, ...], mark: str, *, inside: bool) -> list[str | tuple[Condition, bool]]:
    found: list[str | tuple[Condition, bool]] = [(of[0], inside)]
    for child in of[1:]:
        found += (mark, (child, inside))
    return found


# -- names


def shared_names(condition: Condition) -> set[str]:
    """Return the names that stand for more than one thing in a condition: those are not used."""
    owners: dict[str, str] = {}
    shared: set[str] = set()
    for node in postorder(condition):
        if isinstance(node, JobAtom | Atom | Level):
            name = name_of(node)
            owner = node.subject if isinstance(node, JobAtom) else node.key
            if name and owners.setdefault(name, owner) != owner:
                shared.add(name)
    return shared


def name_of(leaf: Leaf) -> str:
    """Return the name by which people know what a leaf is about; empty if it has none."""
    if isinstance(leaf, JobAtom):
        return leaf.label
    if isinstance(leaf, Atom | Level):
        return leaf.name or ""
    return ""


def subject_text(leaf: Leaf, shared: Container[str] = ()) -> str:
    """Return the name of what a leaf is about, in quotes where needed; its uid or key where the name is not unique."""
    name = name_of(leaf)
    if not name or name in shared:
        name = leaf.subject if isinstance(leaf, JobAtom) else leaf.key
    return name if PLAIN_NAME.match(name) and name not in WORDS else quoted(name)


def quoted(text: str) -> str:
    """Return a text in double quotes."""
    return '"' + re.sub(r'[\\"\n\r\t]', lambda found: _ESCAPES[found[0]], text) + '"'


# -- leaves


def leaf_text(leaf: Leaf, shared: Container[str] = (), subject: str = "") -> str:
    """Return the text of a leaf; ``subject`` replaces the name of what it is about."""
    if isinstance(leaf, JobAtom):
        return (subject or subject_text(leaf, shared)) + _about_job(leaf)
    if isinstance(leaf, Atom | Level):
        return subject or subject_text(leaf, shared)
    if isinstance(leaf, WorldAtom):
        return _about_world(leaf)
    if isinstance(leaf, Deadline):
        return f"within({span_text(leaf.span_s)})"
    if isinstance(leaf, After):
        return f"after({span_text(leaf.span_s)})"
    if isinstance(leaf, Before):
        return f"before({instant_text(leaf.instant)})"
    if isinstance(leaf, At):
        return f"at({instant_text(leaf.instant)})"
    if isinstance(leaf, Cron):
        return f"cron({quoted(leaf.expression)}" + (f", tz={quoted(leaf.tz)})" if leaf.tz else ")")
    return f"<{type(leaf).__name__}>"


def _about_job(atom: JobAtom) -> str:
    special: dict[str, Callable[[Any], str]] = {
        "message": lambda name: f".said({quoted(name)})",
        "result": lambda expression: f".improved({quoted(expression)})",
        "progress": lambda fraction: f".progress >= {fraction!r}",
        "reached": lambda share: f".reaches({quoted(share) if isinstance(share, str) else share})",
    }
    return special[atom.what](atom.argument) if atom.what in special else f".is{atom.what}"


def _about_world(atom: WorldAtom) -> str:
    if atom.what == "free":
        return f"free({quoted(atom.target)}, {number_text(atom.amount)})"
    call = "url_ok" if atom.what == "url" else atom.what
    poll = "" if atom.poll_s == 5.0 else f", poll={span_text(atom.poll_s)}"
    return f"{call}({quoted(atom.target)}{poll})"


def number_text(number: float) -> str:
    """Return a number without a needless ``.0``."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def span_text(span_s: float) -> str:
    """Return a time span as one would write it: ``"10m"`` in quotes, or plain seconds where that is not exact."""
    for unit, seconds in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)):
        count = round(span_s / seconds)
        text = f"{count}{unit}"
        if count and count < 1e6 and span_seconds(text, "span") == span_s:
            return f'"{text}"'
    return number_text(span_s)


def instant_text(instant: float) -> str:
    """Return an instant as date and time in UTC, in quotes, or as seconds since the epoch where that is not exact."""
    try:
        moment = datetime.fromtimestamp(instant, UTC)
    except (ValueError, OverflowError, OSError):
        return repr(instant)
    return f'"{moment.isoformat(" ")}"' if moment.timestamp() == instant else repr(instant)


faces["write"] = write
