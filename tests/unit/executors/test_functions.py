"""Functions as bytes: by name, by value, and never stale."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trun.adapters import functions, pickles


def round_trip(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    payload, _ = pickles.dump_call(args, kwargs)
    _, data = pickles.dump_function(print)
    _, found, named = pickles.load_call(data, payload, {})
    return found, named


def made_in_main(source: str) -> dict[str, Any]:
    """Return the names of a script of that source."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(source, scope)
    return scope


def fit(model: int) -> int:
    return model


@dataclasses.dataclass
class Model:
    name: str


def load(data: bytes) -> Any:
    return pickles.load_call(data, pickles.dump_call((), {})[0], {})[0]


def test_what_can_be_imported_travels_by_name() -> None:
    for fn in (math.sin, len, fit, Model, functools.reduce, Path.exists, dict.fromkeys):
        _, data = pickles.dump_function(fn)
        assert load(data) == fn
        assert len(data) < 150


def decorated(fn: Callable[..., Any]) -> Any:
    class Wrapper:
        def __call__(self, *args: Any) -> Any:
            return fn(*args)

    wrapper = Wrapper()
    functools.update_wrapper(wrapper, fn)
    return wrapper


_a_lock = threading.Lock()


@decorated
def guarded(x: int) -> int:
    with _a_lock:
        return x


def test_a_decorated_function_of_a_module_travels_by_name_below_its_decorator() -> None:
    inner = guarded.__wrapped__

    _, data = pickles.dump_function(inner)
    ((argument,), _) = round_trip([inner])

    assert load(data) is inner
    assert argument[0] is inner


def test_the_same_function_is_dumped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = made_in_main("import math\nK = 3\ndef g(x): return K * x\ndef f(x, y=(1, 'a')): return math.sin(g(x))\n")
    first = pickles.dump_function(scope["f"])
    monkeypatch.setattr(pickles, "_by_value", lambda *_: pytest.fail("dumped again"))

    assert pickles.dump_function(scope["f"]) == first


@pytest.mark.parametrize(
    ("source", "change", "before", "after"),
    [
        ("K = 1\ndef f(): return K", "K = 2", 1, 2),
        ("K = [1]\ndef f(): return K[0]", "K[0] = 2", 1, 2),
        ("def g(): return 1\ndef f(): return g()", "def g(): return 2", 1, 2),
        ("K = 1\ndef g(): return K\ndef f(): return g()", "K = 2", 1, 2),
        ("def f(x=1): return x", "f.__defaults__ = (2,)", 1, 2),
        ("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2", 1, 2),
        ("def f(x=[1]): return x[0]", "f.__defaults__[0][0] = 2", 1, 2),
        ("def f(): return 1", "def g(): return 2\nf.__code__ = g.__code__", 1, 2),
        ("class C: x = 1\ndef f(): return C.x", "C.x = 2", 1, 2),
        ("class C: x = 1\nc = C()\ndef f(): return c.x", "c.x = 2", 1, 2),
        ("def f(): return f.k\nf.k = 1", "f.k = 2", 1, 2),
        ("def f(): return len([1])", "len = lambda x: 2", 1, 2),
        (
            "def h():\n x = 1\n def f(): return x\n def s(v):\n  nonlocal x\n  x = v\n return f, s\nf, s = h()",
            "s(2)",
            1,
            2,
        ),
        ("import math\ndef f(): return math.floor(1.5)", "math = type('m', (), {'floor': lambda x: 2})", 1, 2),
        ("K = (1, [1])\ndef f(): return K[1][0]", "K[1][0] = 2", 1, 2),
        ("def f(): return [K for _ in (0,)][0]\nK = 1", "K = 2", 1, 2),
    ],
)
def test_no_stale_bytes_are_served(source: str, change: str, before: int, after: int) -> None:
    scope = made_in_main(source)
    first = load(pickles.dump_function(scope["f"])[1])()

    exec(change, scope)

    assert (first, load(pickles.dump_function(scope["f"])[1])()) == (before, after)


def once(x: int) -> int:
    return x + 1


def test_a_function_of_a_module_that_is_replaced_travels_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    old = once
    pickles.dump_function(old)
    monkeypatch.setattr(sys.modules[__name__], "once", None)

    _, data = pickles.dump_function(old)

    assert load(data)(1) == 2


def test_a_loaded_function_that_carries_what_may_change_is_loaded_anew() -> None:
    scope = made_in_main(
        "seen = []\ndef f(): seen.append(1); return len(seen)\nn = 0\ndef g():\n global n\n n += 1\n return n"
    )

    for name in "fg":
        _, data = pickles.dump_function(scope[name])
        assert [load(data)(), load(data)()] == [1, 1]


def test_a_fixed_function_is_loaded_once() -> None:
    _, data = pickles.dump_function(made_in_main("K = 2\ndef f(): return K")["f"])

    assert load(data) is load(data)


def test_the_cache_of_functions_is_bounded() -> None:
    for i in range(pickles._KNOWN_FUNCTIONS + 50):
        pickles.dump_function(lambda i=i: i)

    assert len(pickles._known) <= pickles._KNOWN_FUNCTIONS


def test_names_that_cannot_be_found_are_no_names() -> None:
    fake = types.FunctionType(fit.__code__, {}, "fit")
    fake.__module__ = "no_such_module"

    assert functions.importable(fake) is None
    assert functions.importable(lambda: None) is None
