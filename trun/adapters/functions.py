"""Which functions travel by name and which by value, and when the bytes of a function are still good.

A function that can be imported by name travels as that name. One of a script, a notebook, a closure or a lambda
travels by value, and with it what it uses: then its bytes are good only as long as every global, cell and default
that it uses is the very same object, and none of them can change inside. ``watch`` lists those objects once; asking
again costs about 50 ns each.

It pickles nothing (see ``pickles``). Rule: in doubt a function is not kept, since stale bytes are the one
unforgivable fault.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_MISSING: Any = object()
_SCALARS = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis), range)
_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_WRITING_OPS = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_WRAPPERS_DEEP = 8


class Watch:
    """The objects that the bytes of one function stand for."""

    __slots__ = ("cells", "functions", "modules", "names")

    def __init__(self) -> None:
        #: (namespace, name, object), (cell, object), (function, code, defaults, keyword defaults, attributes)
        self.names: list[tuple[dict[str, Any], str, Any]] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.functions: list[tuple[types.FunctionType, Any, Any, tuple[Any, ...], tuple[Any, ...]]] = []
        #: Number of loaded modules, where the function uses modules (it may name their submodules); 0: it uses none.
        self.modules = 0

    def holds(self) -> bool:
        """Whether all of them are still the same."""
        for namespace, name, known in self.names:
            if namespace.get(name, _MISSING) is not known:
                return False
        for cell, known in self.cells:
            if _content(cell) is not known:
                return False
        for fn, code, defaults, keyword_defaults, attributes in self.functions:
            if fn.__code__ is not code or fn.__defaults__ is not defaults:
                return False
            if (fn.__kwdefaults__ or keyword_defaults) and not _same(fn.__kwdefaults__, keyword_defaults):
                return False
            if (fn.__dict__ or attributes) and not _same(fn.__dict__, attributes):
                return False
        return not self.modules or self.modules == len(sys.modules)


class _Changeable(Exception):
    """The function uses something that may change inside."""


def watch(fn: Any) -> Watch | None:
    """Return what must stay the same for the bytes of ``fn`` to stay good; None: make them anew each time."""
    found = Watch()
    try:
        if not _watch_reference(fn, found):
            if type(fn) is not types.FunctionType:
                return None
            _watch_function(fn, found, set())
    except _Changeable:
        return None
    return found


def _watch_reference(value: Any, found: Watch) -> bool:
    """Watch the name under which ``value`` can be imported, directly or below decorators."""
    where = importable(value)
    if where is None:
        return False
    module, qualname, _ = where
    name = qualname.partition(".")[0]
    namespace = vars(sys.modules[module])
    found.names.append((namespace, name, namespace.get(name, _MISSING)))
    return True


def _watch_function(fn: types.FunctionType, found: Watch, seen: set[int]) -> None:
    if id(fn) in seen:
        return
    seen.add(id(fn))
    read, written = global_names(fn.__code__)
    if written:
        raise _Changeable
    kept = tuple((fn.__kwdefaults__ or {}).values())
    found.functions.append((fn, fn.__code__, fn.__defaults__, kept, tuple(fn.__dict__.values())))
    for value in (*(fn.__defaults__ or ()), *kept, *fn.__dict__.values()):
        _watch_value(value, found, seen)
    for cell in fn.__closure__ or ():
        value = _content(cell)
        found.cells.append((cell, value))
        _watch_value(value, found, seen)
    for name in read:
        value = fn.__globals__.get(name, _MISSING)
        found.names.append((fn.__globals__, name, value))
        _watch_value(value, found, seen)


def _watch_value(value: Any, found: Watch, seen: set[int]) -> None:
    if value is _MISSING or _is_constant(value):
        return
    if isinstance(value, types.ModuleType):
        if sys.modules.get(value.__name__) is not value or is_by_value(value.__name__):
            raise _Changeable
        found.modules = len(sys.modules)
        return
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type) and _watch_reference(value, found):
        return
    if type(value) is types.FunctionType:
        _watch_function(value, found, seen)
        return
    raise _Changeable


def _is_constant(value: Any, depth: int = 0) -> bool:
    if type(value) in _SCALARS:
        return True
    if type(value) in (tuple, frozenset) and depth < 5 and len(value) <= 100:
        return all(_is_constant(item, depth + 1) for item in value)
    return False


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _same(named: dict[str, Any] | None, known: tuple[Any, ...]) -> bool:
    now = tuple((named or {}).values())
    return len(now) == len(known) and all(a is b for a, b in zip(now, known, strict=True))


def global_names(code: types.CodeType) -> tuple[set[str], bool]:
    """Return the global names that a function's code reads, and whether it writes any; nested functions included."""
    read: set[str] = set()
    written = False
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPS:
            read.add(instruction.argval)
        elif instruction.opname in _WRITING_OPS:
            written = True
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            below, also = global_names(constant)
            read |= below
            written = written or also
    return read, written


# -- names under which things can be imported -------------------------------------------------------------------------


def is_by_value(module: str) -> bool:
    """Whether what this module defines travels by value: scripts, notebooks, and modules registered with
    cloudpickle.
    """
    if module == "__main__":
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    return bool(registered) and any(module == name or module.startswith(name + ".") for name in registered)


def importable(value: Any) -> tuple[str, str, int] | None:
    """Return (module, qualified name, number of decorators to look below) under which a process can import
    ``value``.
    """
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or "<locals>" in qualname or is_by_value(module):
        return None
    found = _look_up(module, qualname)
    for depth, inner in enumerate(_unwrapped(found)):
        if inner is value:
            return module, qualname, depth
    return None


def find(module: str, qualname: str, depth: int) -> Any:
    """Import what ``importable`` named."""
    __import__(module)
    found: Any = sys.modules[module]
    for name in qualname.split("."):
        found = getattr(found, name)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def _look_up(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module, _MISSING)
    for name in qualname.split("."):
        found = getattr(found, name, _MISSING)
    return found


def _unwrapped(value: Any) -> Iterator[Any]:
    for _ in range(_WRAPPERS_DEEP):
        if value is _MISSING:
            return
        yield value
        value = getattr(value, "__wrapped__", _MISSING)


def parameter_name(fn: Callable[..., Any] | None, position: int) -> str:
    """Return the name of a positional parameter, or its number where that cannot be known."""
    code = getattr(fn, "__code__", None)
    if code is None or position >= code.co_argcount:
        return str(position)
    return str(code.co_varnames[position + (1 if isinstance(fn, types.MethodType) else 0)])
