"""Time that does not jump."""

from __future__ import annotations

import time

import pytest

from trun.adapters.clock import SteadyClock


def test_the_clock_tells_the_time_of_day() -> None:
    assert abs(SteadyClock().now() - time.time()) < 5.0


def test_the_clock_does_not_follow_a_wall_clock_that_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteadyClock()
    before = clock.now()
    wall = time.time

    monkeypatch.setattr(time, "time", lambda: wall() + 86_400.0)

    assert 0.0 <= clock.now() - before < 3_600.0
