"""Histories of a simulated service (see ``simulation.py``): new seeds in each run, and those that once failed."""

from __future__ import annotations

import random

import pytest

from tests.machine import simulation


@pytest.mark.parametrize("part", range(4))
def test_histories_with_power_cuts_and_lost_connections_hold(part: int) -> None:
    first = random.randrange(10**9)
    for seed in range(first, first + 60):
        try:
            simulation.run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_seed_is_one_history() -> None:
    one, other = simulation.run(7), simulation.run(7)

    assert one.counts == other.counts
    assert one.executor.outcomes == other.executor.outcomes
    assert one.counts["power cuts"]
