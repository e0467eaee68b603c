"""A step of the driver ends in the middle of a message where one request alone took long: others have their turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.unit.engine.gates import FakeWire, House
from trun.engine import driver
from trun.engine.driver import Driver
from trun.messages import AnyRequest, Ask

EVE, ANN, OWNER = b"\0eve", b"\0ann", b"owner"


class Wire(FakeWire):
    """What was put back, and how long who took."""

    def __init__(self) -> None:
        super().__init__()
        self.back: list[tuple[bytes, Sequence[AnyRequest]]] = []
        self.spent: dict[bytes, float] = {}

    def may_wait(self, peer: bytes) -> bool:
        return peer != OWNER

    def put_back(self, peer: bytes, requests: Sequence[AnyRequest]) -> None:
        self.back.append((peer, requests))

    def spend(self, peer: bytes, seconds: float) -> None:
        self.spent[peer] = seconds


@pytest.fixture
def wire(house: House) -> Wire:
    house.engine.gate.wire = found = Wire()  # type: ignore[union-attr]
    return found


@pytest.fixture
def made(house: House, wire: Wire) -> Iterator[Driver]:
    found = Driver(house.engine)
    yield found
    found.watchers.close()


def asks(*names: str) -> list[Any]:
    return [Ask(token=name, verb="ping") for name in names]


def said(pairs: Any) -> list[tuple[bytes, str]]:
    return [(peer, request.token) for peer, request in pairs]


def test_what_one_step_has_no_time_for_is_put_back_in_order(
    made: Driver, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "STEP_S", -1.0)
    batches = [(EVE, asks("1", "2", "3")), (OWNER, asks("a", "b")), (ANN, asks("x")), (EVE, asks("4", "5"))]
    assert said(made._requests(batches)) == [(EVE, "1"), (OWNER, "a"), (OWNER, "b")]
    assert [(peer, [each.token for each in some]) for peer, some in wire.back] == [  # type: ignore[union-attr]
        (EVE, ["4", "5"]),
        (ANN, ["x"]),
        (EVE, ["2", "3"]),
    ]


def test_a_step_with_time_takes_all(made: Driver, wire: Wire) -> None:
    batches = [(EVE, asks("1", "2")), (ANN, asks("x"))]
    assert said(made._requests(batches)) == [(EVE, "1"), (EVE, "2"), (ANN, "x")]
    assert wire.back == []


def test_a_step_is_counted_for_whose_requests_it_carried_out(house: House, made: Driver, wire: Wire) -> None:
    made._step(made._requests([(OWNER, asks("1", "2"))]))
    assert wire.spent[OWNER] > 0


def test_a_step_takes_in_many_requests_of_others_that_come_one_by_one_for_their_size(
    house: House, made: Driver, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [[(EVE, asks("2"))], [(ANN, asks("x"))], []]
    monkeypatch.setattr(house.endpoint, "receive", lambda: slices.pop(0))
    assert said(made._requests([(EVE, asks("1"))])) == [(EVE, "1"), (EVE, "2"), (ANN, "x")]
    assert slices == []
