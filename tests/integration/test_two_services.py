"""Conditions, arguments and races over two local services: the client passes on what one must know of the other."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trun
from trun.adapters import folders

WAIT_S = 60.0


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[trun.Service, trun.Service]]:
    """Two services for the tests of this file: they must not disturb one another."""
    with tempfile.TemporaryDirectory(prefix="trun-") as folder, pytest.MonkeyPatch.context() as patch:
        for kind in ("STATE", "RUNTIME", "CONFIG"):
            patch.setenv(f"TRUN_{kind}_DIR", f"{folder}/{kind.lower()}")
        made = trun.local(workers=1), trun.local(workers=2)
        yield made
        for service in made:
            service.close(cancel=True, timeout=30.0)


@pytest.fixture
def near(services: tuple[trun.Service, trun.Service]) -> trun.Service:
    return services[0]


@pytest.fixture
def far(services: tuple[trun.Service, trun.Service]) -> trun.Service:
    return services[1]


def give(value: Any) -> Any:
    return value


def add(a: int, b: int) -> int:
    return a + b


def fail() -> None:
    raise ValueError("boom")


def wait_for_file(path: str) -> str:
    """Poll in the payload: the test decides when it goes on."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return Path(path).read_text()


def improve_until(path: str) -> float:
    job = trun.current_job()
    assert job is not None
    job.improved(chisq=1.5)
    wait_for_file(path)
    return 1.0


def test_with_selects_the_service(near: trun.Service, far: trun.Service) -> None:
    with near:
        a = trun.submit(give, 1)
        with far:
            b = trun.submit(give, 2)
        c = trun.submit(give, 3)

    assert [job.service for job in (a, b, c)] == [near, far, near]
    assert [job.result(WAIT_S) for job in (a, b, c)] == [1, 2, 3]


def test_a_condition_waits_for_a_job_of_another_service(near: trun.Service, far: trun.Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    a = trun.submit(wait_for_file, str(gate), service=near)
    b = trun.submit(give, 2, when=a.iscompleted, service=far)
    assert b.id
    assert b.state is trun.JobState.WAITING

    gate.write_text("open")

    assert b.result(WAIT_S) == 2
    assert a.ended is not None
    assert b.started is not None
    assert b.started >= a.ended


def test_a_condition_over_what_has_long_ended_elsewhere_holds_at_once(near: trun.Service, far: trun.Service) -> None:
    a = trun.submit(give, 1, service=near)
    a.result(WAIT_S)

    assert trun.submit(give, 2, when=a.iscompleted, service=far).result(WAIT_S) == 2


def test_a_condition_outlives_the_name_of_its_job(near: trun.Service, far: trun.Service) -> None:
    condition = trun.submit(give, 1, service=near).iscompleted

    assert trun.submit(give, 2, when=condition, service=far).result(WAIT_S) == 2


def test_a_fallback_runs_when_a_job_of_another_service_fails(near: trun.Service, far: trun.Service) -> None:
    bad = trun.submit(fail, service=near)

    assert trun.submit(give, "fallback", when=bad.isfailed, service=far).result(WAIT_S) == "fallback"


def test_the_failure_of_a_job_of_another_service_is_named(near: trun.Service, far: trun.Service) -> None:
    bad = trun.submit(fail, service=near)
    never = trun.submit(give, bad, service=far)

    with pytest.raises(trun.JobCancelled, match="fail#") as caught:
        never.result(WAIT_S)
    assert isinstance(caught.value.__cause__, ValueError)


def test_improvements_of_a_job_that_runs_elsewhere_fire(near: trun.Service, far: trun.Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    fit = trun.submit(improve_until, str(gate), service=near)

    report = trun.submit(give, "good", when=fit.improved("chisq < 2"), service=far)

    assert report.result(WAIT_S) == "good"
    assert not fit.done()
    gate.write_text("open")
    assert fit.result(WAIT_S) == 1.0


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_results_cross_as_arguments(near: trun.Service, far: trun.Service, size: int) -> None:
    np = pytest.importorskip("numpy")
    data = trun.submit(np.arange, size, dtype="f8", service=near)

    there = trun.submit(np.sum, data, service=far)
    back = trun.submit(add, there, 1, service=near)

    assert back.result(WAIT_S) == size * (size - 1) / 2 + 1


def test_pieces_cross_inside_containers(near: trun.Service, far: trun.Service) -> None:
    a = trun.submit(give, {"x": [1, 2]}, service=near)
    b = trun.submit(give, 5, service=far)

    assert trun.submit(give, [a["x"][1], {"b": b}], service=far).result(WAIT_S) == [2, {"b": 5}]


def test_a_group_of_another_service_is_one_atom(near: trun.Service, far: trun.Service) -> None:
    group = trun.map(give, range(20), service=near)

    assert trun.submit(give, "all", when=group.iscompleted, service=far).result(WAIT_S) == "all"
    assert trun.submit(sum, list(group), service=far).result(WAIT_S) == 190


def test_a_race_of_another_service_gives_its_result(near: trun.Service, far: trun.Service) -> None:
    race = trun.first(trun.submit(give, 4, service=near))

    assert trun.submit(add, race, 1, service=far).result(WAIT_S) == 5


def test_jobs_of_two_services_race(near: trun.Service, far: trun.Service, tmp_path: Path) -> None:
    slow = trun.submit(wait_for_file, str(tmp_path / "never"), service=near)
    quick = trun.submit(give, "quick", service=far)

    race = trun.first(slow, quick)

    assert race.result(WAIT_S) == "quick"
    assert race.winner is quick
    slow.cancel()


def test_jobs_that_wait_for_a_service_that_dies_are_cancelled(far: trun.Service, tmp_path: Path) -> None:
    doomed = trun.local(workers=1)
    job = trun.submit(wait_for_file, str(tmp_path / "never"), service=doomed)
    waiting = trun.submit(give, 3, when=job.isended, service=far)
    assert job.id
    assert waiting.id

    holder = folders.holder(Path(doomed.wait_ready().folder))
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)

    with pytest.raises(trun.JobCancelled, match="resume"):
        waiting.result(WAIT_S)
    with pytest.raises(trun.ServiceUnavailable):
        job.result(WAIT_S)
    doomed.close()


def test_what_a_service_was_asked_for_arrives_although_it_is_closed(far: trun.Service) -> None:
    brief = trun.local(workers=1)
    race = trun.first(trun.submit(give, 4, service=brief))
    after = trun.submit(add, race, 1, service=far)

    brief.close()

    assert after.result(WAIT_S) == 5
