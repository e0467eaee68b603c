"""Which part of a value cannot be pickled: searched only after pickling has failed, so it may take its time.

The search asks each part whether it can be pickled alone and goes down into the first that cannot, so the answer
names the innermost culprit: ``argument model.lock (args[0].lock) is a _thread.lock``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_DEPTH = 25

#: What to do instead, by the beginning of the type's name.
_ADVICE = (
    ("generator", "pass list(...) of it"),
    ("coroutine", "pass the async function itself and its arguments; the worker awaits it"),
    ("_io.", "pass the path and open the file inside the job"),
    ("socket.", "open the connection inside the job"),
    ("sqlite3.", "open the connection inside the job"),
    ("_thread.", "make it inside the job"),
    ("threading.", "make it inside the job"),
    ("module", "import it inside the function"),
)


def culprit(value: Any, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return where in ``value`` the innermost part lies that cannot be pickled, and that part."""
    path, seen = "", {id(value)}
    for _ in range(_DEPTH):
        for step, part in _parts(value):
            if id(part) not in seen and fails(part):
                seen.add(id(part))
                path, value = path + step, part
                break
        else:
            break
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in list(value.items()):
            yield f"[{key!r:.60}]", part
            yield f" key {key!r:.60}", key
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", None)
        for position, part in enumerate(value):
            yield (f".{names[position]}" if names else f"[{position}]"), part
    elif isinstance(value, set | frozenset):
        for part in value:
            yield "{...}", part
    elif type(value) is types.FunctionType:
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    else:
        yield from _parts_of_object(value)


def _parts_of_function(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            yield f" variable {name}", cell.cell_contents
        except ValueError:
            pass
    for name in fn.__code__.co_names:
        if name in fn.__globals__:
            yield f" global {name}", fn.__globals__[name]
    for position, part in enumerate(fn.__defaults__ or ()):
        yield f" default {position}", part


def _parts_of_object(value: Any) -> Iterator[tuple[str, Any]]:
    """Go through what the object would be pickled as: its state, its items, its constructor's arguments."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:
        return
    if not isinstance(reduced, tuple):
        return
    state = reduced[2] if len(reduced) > 2 else None
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, Mapping):
            for name, item in list(part.items()):
                yield f".{name}", item
    for position, part in enumerate(reduced[1] or ()):
        if part is not type(value):
            yield f".__reduce__()[1][{position}]", part


def kind_of(value: Any) -> str:
    """Return the full name of a value's type, as people know it."""
    found = type(value)
    return found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"


def advice(value: Any) -> str:
    """Return what to do instead of sending ``value``."""
    kind = kind_of(value)
    return next(
        (text for start, text in _ADVICE if kind.startswith(start)),
        "pass what it is made from, and make it inside the job",
    )
