"""A daemon that is stopped, upgraded or killed: its running jobs live on, and the next life of it goes on with them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import faulty
import trun
from nodes import Daemon, await_
from trun.messages import FINAL, Lost, Said, Started

#: Daemons start and die here many times; a busy machine takes its time.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def daemon(trun_folders: Path) -> Iterator[Daemon]:
    made = Daemon(trun_folders / "state" / "d", trun_folders / "run")
    made.start()
    yield made
    made.clear()


@pytest.fixture
def service(daemon: Daemon) -> Iterator[trun.Service]:
    made = trun.remote_service(daemon.address)
    yield made
    if not made.closed:  # the test failed: perhaps there is nobody to say goodbye to
        made.give_up(trun.ServiceUnavailable("the test is over"))
        made.close()


def recite(gate: str) -> dict[str, Any]:
    """Say numbers until there is a file."""
    number = 0
    while not os.path.exists(gate):
        trun.current_job().say("step", number)
        print("line", number)
        number += 1
        time.sleep(0.01)
    return {"pid": os.getpid(), "said": number, "fence": trun.current_job().fence}


def end_all(daemon: Daemon, service: trun.Service) -> None:
    service.close()
    daemon.end()
    daemon.await_nobody()


def events(job: trun.Job, kind: type) -> list[Any]:
    return [entry.event for entry in job.messages() if isinstance(entry.event, kind)]


def check_stream(job: trun.Job) -> None:
    entries = job.messages()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [isinstance(entry.event, FINAL) for entry in entries] == [False] * (len(entries) - 1) + [True]


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_running_jobs_go_on_in_the_same_process(
    daemon: Daemon, service: trun.Service, tmp_path: Path, way: str
) -> None:
    gate = tmp_path / "gate"
    job = trun.submit(recite, str(gate), service=service)
    behind = trun.submit(len, job, service=service)
    await_(lambda: len(events(job, Said)) > 3, "some progress")
    for _ in range(2):
        getattr(daemon, way)()
        daemon.start()

    gate.touch()
    result = job.result(60.0)

    assert behind.result(60.0) == 3
    assert [event.value for event in events(job, Said)] == list(range(result["said"]))
    assert len(events(job, Started)) == 1
    assert result["fence"] == f"{job.uid}:1"
    assert job.log.splitlines() == [f"line {number}" for number in range(result["said"])]
    check_stream(job)
    end_all(daemon, service)


def test_what_ended_while_it_was_down_is_applied_once(daemon: Daemon, service: trun.Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = trun.submit(recite, str(gate), service=service)
    await_(lambda: events(job, Said), "some progress")
    daemon.kill()
    gate.touch()
    left = daemon.folder / "left"
    await_(lambda: any(b"Completed" in path.read_bytes() for path in left.iterdir()), "its end")

    daemon.start()

    result = job.result(60.0)
    assert [event.value for event in events(job, Said)] == list(range(result["said"]))
    assert len(events(job, Started)) == 1
    check_stream(job)
    daemon.kill()
    daemon.start()
    assert job.result(60.0) == result
    check_stream(job)
    end_all(daemon, service)


def test_when_the_workers_die_with_it_jobs_are_lost_and_run_again(
    daemon: Daemon, service: trun.Service, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = trun.submit(recite, str(gate), service=service)
    await_(lambda: events(job, Said), "some progress")
    keeper = daemon.keeper()
    daemon.kill()
    os.kill(keeper, signal.SIGKILL)

    daemon.start()

    await_(lambda: len(events(job, Started)) == 2, "the second attempt")
    assert len(events(job, Lost)) == 1
    gate.touch()
    assert job.result(60.0)["fence"] == f"{job.uid}:2"
    check_stream(job)
    end_all(daemon, service)


def test_a_job_under_which_three_workers_died_is_poison_across_restarts(
    daemon: Daemon, service: trun.Service, tmp_path: Path
) -> None:
    job = trun.submit(recite, str(tmp_path / "gate"), service=service)
    for attempt in range(1, 4):
        await_(lambda attempt=attempt: len(events(job, Started)) == attempt, "the next attempt")
        epochs = [place for place, entry in enumerate(job.messages()) if isinstance(entry.event, Started)]
        await_(lambda last=epochs[-1]: len(job.messages()) > last + 1, "some progress")
        keeper = daemon.keeper()
        daemon.kill()
        os.kill(keeper, signal.SIGKILL)
        daemon.start()

    error = job.exception(60.0)

    assert "3 workers died" in str(error), error
    check_stream(job)
    end_all(daemon, service)


def test_a_stop_that_was_wished_for_is_no_death_however_often_it_happens(
    daemon: Daemon, service: trun.Service, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = trun.submit(recite, str(gate), service=service)
    for attempt in range(1, 5):
        await_(lambda attempt=attempt: len(events(job, Started)) == attempt, "the next attempt")
        begin = [place for place, entry in enumerate(job.messages()) if isinstance(entry.event, Started)][-1]
        await_(lambda last=begin: len(job.messages()) > last + 1, "some progress")
        daemon.end()
        daemon.start()

    gate.touch()

    assert job.result(60.0)["fence"].endswith(f":{len(events(job, Started))}")
    assert [event.reason for event in events(job, Lost)] == ["the service was stopped"] * 4
    check_stream(job)
    end_all(daemon, service)


def greedy(gate: str) -> int:
    """Say so, wait for the file, then take 300 MB."""
    trun.current_job().say("ready", 0)
    while not os.path.exists(gate):
        time.sleep(0.01)
    hoard = [bytearray(b"x" * (1 << 20)) for _ in range(300)]
    time.sleep(60)
    return len(hoard)


def test_the_limits_of_a_job_hold_after_a_restart(daemon: Daemon, service: trun.Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    big = trun.submit(greedy, str(gate), memory="150MB", service=service)
    late = trun.submit(recite, str(tmp_path / "never"), timeout=8.0, service=service)
    await_(lambda: events(big, Said) and events(late, Said), "both to run")
    daemon.kill()
    daemon.start()

    gate.touch()

    assert isinstance(big.exception(60.0), trun.MemoryExceeded)
    assert isinstance(late.exception(60.0), trun.JobTimeout)
    for job in (big, late):
        assert len(events(job, Started)) == 1
        check_stream(job)
    end_all(daemon, service)


def test_a_job_can_be_cancelled_after_a_restart_and_before_one(
    daemon: Daemon, service: trun.Service, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    after, before = trun.submit(recite, gate, service=service), trun.submit(stubborn, service=service)
    await_(lambda: events(after, Said) and events(before, Said), "both to run")
    before.cancel()
    assert before.messages()  # the answer comes after what was asked before
    daemon.kill()
    daemon.start()

    after.cancel()

    for job in (after, before):
        assert isinstance(job.exception(60.0), trun.JobAborted)
        check_stream(job)
    end_all(daemon, service)


def test_what_is_cancelled_while_the_daemon_dies_is_cancelled_by_the_next(
    daemon: Daemon, service: trun.Service, tmp_path: Path
) -> None:
    job = trun.submit(recite, str(tmp_path / "gate"), service=service)
    await_(lambda: events(job, Said), "some progress")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)  # from here on it hears nothing more
    job.cancel()
    daemon.kill()
    daemon.start()

    assert isinstance(job.exception(60.0), trun.JobAborted)

    check_stream(job)
    end_all(daemon, service)


def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trun.current_job().say("ready", 0)
    while True:
        time.sleep(1)


def parent(gate: str) -> Any:
    return trun.submit(recite, gate).result()


def test_a_job_that_waits_for_one_of_its_own_goes_on(daemon: Daemon, service: trun.Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = trun.submit(parent, str(gate), service=service)
    await_(lambda: any(other.name == "recite" and events(other, Said) for other in service.jobs()), "the inner job")
    daemon.kill()
    daemon.start()
    gate.touch()

    assert set(job.result(60.0)) == {"pid", "said", "fence"}
    check_stream(job)
    end_all(daemon, service)


def test_a_stop_with_nothing_running_leaves_nobody(daemon: Daemon, service: trun.Service) -> None:
    assert trun.submit(len, "abc", service=service).result(60.0) == 3
    service.close()
    daemon.stop()
    daemon.await_nobody()


@pytest.mark.parametrize("jump", [86_400, -86_400])
def test_a_jump_of_the_wall_clock_ends_and_begins_nothing(
    trun_folders: Path, tmp_path: Path, jump: int
) -> None:
    clock, gate = tmp_path / "clock", tmp_path / "gate"
    clock.write_text("0")
    daemon = Daemon(trun_folders / "state" / "d", trun_folders / "run")
    daemon.program = faulty.program(clock=str(clock))
    daemon.start()
    service = trun.remote_service(daemon.address)
    try:
        running = trun.submit(recite, str(gate), timeout="1h", service=service)
        far = trun.submit(len, "abc", when=trun.after("2h"), service=service)
        soon = trun.submit(len, "abcd", when=trun.Atom().within("2h"), service=service)
        await_(lambda: events(running, Said), "some progress")
        clock.with_suffix(".new").write_text(str(jump))
        clock.with_suffix(".new").replace(clock)

        assert trun.submit(len, "ab", when=trun.after("0.1s"), service=service).result(60.0) == 2

        assert (running.state, far.state, soon.state) == ("running", "waiting", "waiting")
        gate.touch()
        assert running.result(60.0)["fence"].endswith(":1")
        for job in (far, soon):
            job.cancel()
            assert isinstance(job.exception(60.0), trun.JobCancelled)
        end_all(daemon, service)
    finally:
        if not service.closed:
            service.give_up(trun.ServiceUnavailable("the test is over"))
            service.close()
        daemon.clear()
