"""Times and sizes as people write them: ``"10m"``, ``timedelta``, ``"512MB"``, ``"2GiB"``.

Pure text to number; every door uses it, so that the same words mean the same everywhere.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from trun.errors import BadOption

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "": 1,
    "b": 1,
    **{unit: 1000 ** (i + 1) for i, unit in enumerate(("kb", "mb", "gb", "tb"))},
    **{unit: 1024 ** (i + 1) for i, unit in enumerate(("kib", "mib", "gib", "tib"))},
    **{unit: 1024 ** (i + 1) for i, unit in enumerate(("k", "m", "g", "t"))},
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def seconds(value: Any, what: str) -> float:
    """Return a time span in seconds: a number, a timedelta, or text such as ``"1h30m"``, ``"10s"``."""
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str):
        found = _span(value, what)
    else:
        raise BadOption(f'{what} must be seconds, a timedelta or text such as "10m", not {value!r}.')
    if not 0 <= found < float("inf"):
        raise BadOption(f"{what} must be at least 0 s and finite, not {value!r}.")
    return found


def _span(text: str, what: str) -> float:
    plain = text.strip().lower()
    try:
        return float(plain)
    except ValueError:
        pass
    parts = _PART.findall(plain)
    if not parts or _PART.sub("", plain).strip():
        raise BadOption(f'{what} {text!r} is no time span; write "90s", "10m", "1h30m" or "2d".')
    total = 0.0
    for number, unit in parts:
        if unit not in _SECONDS:
            raise BadOption(f"{what} {text!r} has the unit {unit!r}; known are {', '.join(_SECONDS)}.")
        total += float(number) * _SECONDS[unit]
    return total


def memory_bytes(value: Any, what: str) -> int:
    """Return an amount of memory in bytes: a whole number, or text such as ``"512MB"`` (10^6) or ``"2GiB"`` (2^30)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
        if match and match[2] in _BYTES:
            return int(float(match[1]) * _BYTES[match[2]])
    raise BadOption(f'{what} must be a number of bytes or text such as "512MB" or "2GiB", not {value!r}.')
