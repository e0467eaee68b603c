"""Which files of the service's machine a person's conditions may be about."""

from __future__ import annotations

from pathlib import Path

import pytest

from trun.adapters.reach import Reach, reach
from trun.conditions import wire
from trun.conditions.algebra import Condition
from trun.conditions.atoms import changed, exists, free, url_ok
from trun.conditions.timing import after
from trun.engine.surroundings import bounds
from trun.errors import NotAuthorised
from trun.messages import Call, JobSpec, Payload


def spec(when: Condition | None) -> JobSpec:
    call = Call(function="f", context="", arguments=Payload(data=b""))
    return JobSpec(uid="u1", name="fit", kind="call", call=call, when=wire.dumps(when) if when is not None else b"")


@pytest.mark.parametrize(
    "when",
    [
        exists("/etc/shadow"),
        exists("file:///etc/shadow"),
        changed("/home/me/x"),
        exists("/data/../etc/shadow"),
        exists("data/x"),
        exists("~/x"),
        exists("/database"),
        after("1s") & (exists("/data/a") | ~exists("/elsewhere/x")),
    ],
)
def test_a_file_outside_of_what_is_allowed_is_refused(when: Condition) -> None:
    with pytest.raises(NotAuthorised, match=r"fit waits for .*\[fetch\] allow"):
        bounds(reach(["file:///data"]))(spec(when))


@pytest.mark.parametrize(
    "when",
    [
        None,
        exists("/data/run7"),
        exists("file:///data/run7"),
        changed("/exported/x") & exists("/data"),
        url_ok("https://host/") & exists("https://host/x"),
        free("gpu", 1) & after("1s"),
    ],
)
def test_what_is_allowed_or_exported_may_be_waited_for(when: Condition | None) -> None:
    bounds(reach(["file:///data"]), [Path("/exported")])(spec(when))


def test_without_bounds_everything_may_be_waited_for() -> None:
    bounds(Reach())(spec(exists("/etc/shadow")))
