"""Well-formed requests that make no sense: none of them ends the service, and others are served meanwhile."""

from __future__ import annotations

import random

import pytest

from fuzzed_requests import draw_request
from tests.unit.engine.gates import House, job
from trun.messages import Entries, Hello, Said, Submit, Submitted

FUZZER, BYSTANDER = b"fuzzer", b"bystander"


def live(house: House, chance: random.Random) -> None:
    """Let time and jobs go on a little."""
    house.clock.advance(chance.choice((0.0, 0.1, 3600.0)))
    for uid in list(house.executor.running):
        deed = chance.random()
        if deed < 0.3:
            house.executor.complete(uid, 1)
        elif deed < 0.4:
            house.executor.fail(uid)
        elif deed < 0.5:
            house.executor.emit(uid, Said(name="note", value=1))
    house.engine.step([(b"", report) for report in house.executor.poll(house.clock.now())])


@pytest.mark.parametrize("roles", [(), ("read",), ("submit",), ("upload", "submit", "read"), ("admin",), None])
def test_no_request_ends_the_service(roles: tuple[str, ...] | None) -> None:
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    house = House()
    if roles is not None:
        house.let_in(FUZZER, "f" * 40, *roles)
    else:
        house.say(FUZZER, Hello(session="mine"))
    house.let_in(BYSTANDER, "b" * 40, "submit")
    house.say(FUZZER, Submit(specs=(job("a"), job("b"), job("c"))))
    for number in range(1500):
        request = draw_request(chance)
        try:
            house.say(FUZZER, request)
            live(house, chance)
        except Exception as error:
            raise AssertionError(f"seed {seed}, request {number}: {request!r}") from error
        house.engine.stopping = False
        if number % 100 == 0:
            heard = house.say(BYSTANDER, Submit(specs=(job(f"good{number}"),)))
            entries = [entry for answer in heard if isinstance(answer, Entries) for entry in answer.entries]
            assert any(isinstance(entry.event, Submitted) for entry in entries), f"seed {seed}: {heard}"
    house.endpoint.close()
    house.executor.close()
