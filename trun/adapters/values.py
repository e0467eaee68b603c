"""Plain data: what may stand in messages and what predicates may look at (numbers, text, yes or no, nothing, lists,
maps).

Numbers of numpy are turned into Python's own. Nothing here imports numpy: an object is known by what it can do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from trun.errors import BadOption
from trun.messages import AnyEvent, Entry, Payload

_SCALARS = (bool, int, float, str, type(None))
#: Entries of a result that predicates may look at, and characters of a text among them.
_ENTRIES, _TEXT_CHARS = 256, 1000
_DEPTH = 20
_NO = object()


def plain_part(value: Any) -> dict[str, Any]:
    """Return the plain scalars in a result, by name: entries of a dict, fields of an object; a lone scalar as
    ``result``.
    """
    if value is None or type(value) in (list, tuple, set, bytes):
        return {}
    scalar = as_scalar(value)
    if scalar is not _NO:
        return {"result": scalar}
    if isinstance(value, Mapping):
        found: Any = value
    elif hasattr(value, "_asdict"):
        found = value._asdict()
    else:
        found = getattr(value, "__dict__", None)
        if found is None and dataclasses.is_dataclass(value):
            found = {field.name: getattr(value, field.name, _NO) for field in dataclasses.fields(value)}
    if not isinstance(found, Mapping):
        return {}
    kept: dict[str, Any] = {}
    for name, part in found.items():
        if type(name) is str:
            scalar = as_scalar(part)
            if scalar is not _NO:
                kept[name] = scalar
                if len(kept) == _ENTRIES:
                    break
    return kept


def as_scalar(value: Any) -> Any:
    """Return a number, text, bool or None as Python's own type; ``_NO`` for anything else, and for what is too
    long.
    """
    kind = type(value)
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else _NO
    if kind is str:
        return value if len(value) <= _TEXT_CHARS else _NO
    if kind in _SCALARS:
        return value
    if getattr(value, "shape", _NO) == () and callable(getattr(value, "item", None)):
        try:
            inner = value.item()
        except Exception:
            return _NO
        return as_scalar(inner) if type(inner) in _SCALARS else _NO
    return _NO


def plain(value: Any, what: str, *, depth: int = 0) -> Any:
    """Return a value as plain data; raises ``BadOption`` that names the part which is not (``what`` is its name so
    far).
    """
    kind = type(value)
    if kind is str or kind is float or kind is bool or value is None:
        return value
    if kind is int:
        if -(1 << 63) <= value < 1 << 64:
            return value
        raise BadOption(f"{what} is a whole number of more than 64 bits; send it as text.")
    if depth > _DEPTH:
        raise BadOption(f"{what} is nested too deeply; send a flat value.")
    if isinstance(value, list | tuple):
        return [plain(part, f"{what}[{i}]", depth=depth + 1) for i, part in enumerate(value)]
    if isinstance(value, Mapping):
        return _plain_mapping(value, what, depth)
    scalar = as_scalar(value)
    if scalar is not _NO:
        return scalar
    if isinstance(value, int | float | str):
        return plain((int if isinstance(value, int) else float if isinstance(value, float) else str)(value), what)
    raise BadOption(
        f"{what} must be plain data (a number, text, bool, None, or lists and maps of these), "
        f"not {kind.__module__}.{kind.__qualname__}; return big values as the job's result instead."
    )


def _plain_mapping(value: Mapping[Any, Any], what: str, depth: int) -> dict[str, Any]:
    found = {}
    for name, part in value.items():
        if not isinstance(name, str):
            raise BadOption(f"{what} has the key {name!r}; keys must be text.")
        found[name] = plain(part, f"{what}[{name!r}]", depth=depth + 1)
    return found


# -- messages that came back as plain data ----------------------------------------------------------------------------


def payload_from(data: Any) -> Payload | None:
    """Return the payload in an answer; None where there is none."""
    return None if data is None else msgspec.convert(data, Payload)


def event_from(data: Any) -> AnyEvent | None:
    """Return the event in an answer; None where there is none."""
    return None if data is None else msgspec.convert(data, AnyEvent)


def entry_from(data: Any) -> Entry:
    """Return the stream entry in an answer."""
    return msgspec.convert(data, Entry)
