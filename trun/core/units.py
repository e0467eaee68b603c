"""Sizes as people write them: ``"512MB"``, ``"2GiB"`` (times: ``conditions.timing.span_seconds``).

Pure text to number; every door uses it, so that the same words mean the same everywhere.
"""

from __future__ import annotations

import re
from typing import Any

from trun.errors import BadOption

_BYTES = {
    "": 1,
    "b": 1,
    **{unit: 1000 ** (i + 1) for i, unit in enumerate(("kb", "mb", "gb", "tb"))},
    **{unit: 1024 ** (i + 1) for i, unit in enumerate(("kib", "mib", "gib", "tib"))},
    **{unit: 1024 ** (i + 1) for i, unit in enumerate(("k", "m", "g", "t"))},
}

def memory_bytes(value: Any, what: str) -> int:
    """Return an amount of memory in bytes: a whole number, or text such as ``"512MB"`` (10^6) or ``"2GiB"`` (2^30)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
        if match and match[2] in _BYTES:
            return int(float(match[1]) * _BYTES[match[2]])
    raise BadOption(f'{what} must be a number of bytes or text such as "512MB" or "2GiB", not {value!r}.')
