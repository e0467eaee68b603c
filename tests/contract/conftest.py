"""Fixtures of the executor suites: ``make(workers, **options)`` and ``rig``, on each executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executor_kit import FACTORIES, Rig


@pytest.fixture(params=sorted(FACTORIES))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Return a maker of rigs: ``make(workers, **options)``."""
    rigs: list[Rig] = []

    def made(workers: int = 2, **options: Any) -> Rig:
        folder = tmp_path / f"state{len(rigs)}"
        executor = FACTORIES[request.param](workers, folder, **options)
        executor.open()
        rigs.append(Rig(executor, folder))
        return rigs[-1]

    yield made
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    return make(2)
