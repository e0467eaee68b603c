"""The ten checks with which PARK's listing of conditions ends, word for word."""

# ruff: noqa: E701, E702, E712, B018, B904, UP031 - the seed's own lines
# fmt: off
from __future__ import annotations

from typing import Any

import pytest

from trun.conditions import Atom, Condition

true = Atom(); true._ready = True
false = Atom(); false._ready = False
cancelled = Atom(); cancelled._cancelled = True

CHECKS = [
    ((true|false)&true, True, set([true,false])),
    ((cancelled | true), True, set([true,cancelled])),
    ((cancelled | false), False, set([false,cancelled])),
    ((cancelled | cancelled), Exception, set([cancelled])),
    ((cancelled & true), Exception,set([true,cancelled])),
    ((cancelled & false), Exception,set([false,cancelled])),
    ((cancelled & cancelled), Exception, set([cancelled])),
    (~true,False,set([true])),
    (~false,True,set([false])),
    (~cancelled,Exception,set([cancelled])),
]


def _check(expr: Condition, ready: Any, depends: set[Condition]) -> None:
    if ready is Exception:
        try: expr.ready
        except Condition.Cancelled: pass
        else: raise AssertionError(str(expr)+".ready does not raise Cancelled")
        if expr.cancelled != True:
            raise AssertionError(str(expr)+".cancelled expected True")
    else:
        try:
            if expr.ready != ready:
                raise AssertionError(str(expr)+".ready expected "+str(ready))
        except Condition.Cancelled:
            raise AssertionError(str(expr)+".ready raised Cancelled")
        if expr.cancelled != False:
            raise AssertionError(str(expr)+".cancelled expected False")
    assert expr.depends == depends, str(expr)+".depends=[%s], not [%s]"%(
        ",".join(str(s) for s in expr.depends),
        ",".join(str(s) for s in depends))


@pytest.mark.parametrize(("expr", "ready", "depends"), CHECKS, ids=[str(number) for number in range(1, 11)])
def test_the_seed_check_holds(expr: Condition, ready: Any, depends: set[Condition]) -> None:
    _check(expr, ready, depends)
