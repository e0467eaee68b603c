"""Scripts, nodes and workers that are killed: nothing accepted is lost, nobody is left, nothing hangs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import trun
from trun.errors import ServiceUnavailable
from trun.messages import FINAL

if TYPE_CHECKING:
    from conftest import Stage

SCENE = """
a = trun.submit(wait_for, "gate", 20)
b = trun.submit(add, a, 1, name="plus")
busy = trun.submit(stubborn, "busy")
c = trun.submit(add, b, a, name="sum")
c.id
await_file("began-gate")
await_file("began-busy")
note("ready")
"""


def listed(stage: Stage) -> list[dict[str, Any]]:
    """Return what ``trun ps`` knows of all runs."""
    return [job for run in json.loads(stage.trun("ps", "--json", "--all").out)["runs"] for job in run["jobs"]]


# -- the script -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_is_killed_leaves_its_record_and_nobody(stage: Stage, number: int) -> None:
    script = stage.start(SCENE + "c.result()")
    stage.await_file("ready", script)

    script.process.send_signal(number)
    assert script.end() == -number
    stage.await_nobody(20.0)

    (run,) = stage.runs()
    jobs = {job["name"]: job for job in listed(stage)}
    assert {name: job["final"] for name, job in jobs.items()} == dict.fromkeys(
        ("wait_for", "plus", "stubborn", "sum"), False
    )
    why = stage.trun("why", "sum").out
    assert "plus#2" in why, why
    assert f"trun resume {run.name}" in why


def test_resume_completes_what_a_killed_script_had_submitted(stage: Stage) -> None:
    script = stage.start(SCENE.replace("stubborn", "wait_for") + "c.result()")
    stage.await_file("ready", script)
    script.process.kill()
    script.end()
    stage.await_nobody(20.0)
    (run,) = stage.runs()
    stage.note("gate")
    stage.note("busy")

    resumed = stage.trun("resume", run.name)

    assert resumed.process.returncode == 0, resumed.out + resumed.err
    stage.await_nobody(20.0)
    with trun.local(state=run) as service:
        assert service.job("sum#4").result(30.0) == 41
        service.close()


def test_detached_jobs_go_on_and_the_node_ends_when_nothing_is_left(stage: Stage) -> None:
    script = stage.start(
        """
with trun.local(detach=True):
    a = trun.submit(wait_for, "gate", 20)
    b = trun.submit(add, a, 1, name="plus")
    b.id
    await_file("began-gate")
"""
    )
    assert script.end() == 0
    assert script.err == "trun: 2 jobs on local go on; trun ps\n"
    assert any("--detach" in words for words in stage.living().values())

    stage.note("gate")
    stage.await_nobody()

    (run,) = stage.runs()
    states = {job["id"]: job["state"] for job in listed(stage)}
    assert states == {"wait_for#1": "completed", "plus#2": "completed"}, run


def test_detached_jobs_outlive_a_script_that_is_killed(stage: Stage) -> None:
    script = stage.start(
        """
with trun.local(detach=True):
    a = trun.submit(wait_for, "gate", 20)
    b = trun.submit(add, a, 1, name="plus")
    b.id
    await_file("began-gate")
note("ready")
time.sleep(1000)
"""
    )
    stage.await_file("ready", script)
    script.process.kill()
    script.end()

    stage.note("gate")
    stage.await_nobody()

    assert [job["state"] for job in listed(stage)] == ["completed", "completed"]


# -- the node ---------------------------------------------------------------------------------------------------------


def node_of(service: trun.Service) -> int:
    return service.wait_ready().pid


def double(x: int) -> int:
    return 2 * x


def test_the_death_of_the_node_is_told_to_whoever_waits(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    service = trun.local(state=folder, workers=1)
    job = trun.submit(signal.pause, service=service)
    behind = trun.submit(double, job, service=service)
    assert behind.id

    os.kill(node_of(service), signal.SIGKILL)

    for ask in (job.result, behind.result, behind.why, lambda: trun.submit(double, 1, service=service).result(30)):
        with pytest.raises(ServiceUnavailable) as caught:
            ask()
        assert str(folder) in str(caught.value)
        assert f"trun resume {folder}" in str(caught.value)
        assert "killed by SIGKILL" in str(caught.value)
    service.close()


def check_stream(job: trun.Job) -> None:
    """See that the stream of a job has each number once, and one outcome, which is the last."""
    entries = job.messages()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    ends = [isinstance(entry.event, FINAL) for entry in entries]
    assert ends == [False] * (len(entries) - 1) + [True], entries


def test_nothing_accepted_is_lost_by_twenty_kills_under_load(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    folder = tmp_path / "state"
    accepted: dict[str, int] = {}
    for _ in range(20):
        service = trun.local(state=folder, workers=2)
        jobs: list[tuple[trun.Job, int]] = []
        kill_at = chance.randrange(1, 60)
        previous = None
        try:
            for number in range(60):
                job = trun.submit(double, number if previous is None or number % 3 else previous, service=service)
                expected = 2 * (number if previous is None or number % 3 else jobs[-1][1])
                jobs.append((job, expected))
                previous = job
                if number == kill_at:
                    jobs[chance.randrange(len(jobs))][0].exception(60.0)
                    os.kill(node_of(service), signal.SIGKILL)
            for job, _ in jobs:
                job.exception(60.0)
        except ServiceUnavailable:
            pass
        for job, expected in jobs:
            try:
                accepted[job.id] = expected
            except ServiceUnavailable:
                continue
            if job.exception(60.0) is None:
                assert job.result() == expected
        with contextlib.suppress(ServiceUnavailable):  # where all jobs had ended, this is the first to hear of the kill
            service.close()

    with trun.local(state=folder, workers=2) as service:
        results = {name: service.job(name) for name in accepted}
        for name, expected in accepted.items():
            assert results[name].result(60.0) == expected
            check_stream(results[name])
        ids = Counter(job.id for job in service.jobs())
        assert max(ids.values()) == 1
        assert set(accepted) <= set(ids)
        service.close()


# -- workers ----------------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def worker_of(service: trun.Service) -> int:
    return trun.submit(os.getpid, service=service).result(60.0)


def zygote_of(service: trun.Service) -> int:
    """Return the parent of the worker; a worker may outlive a zygote until the service notices."""
    while (parent := trun.submit(os.getppid, service=service).result(60.0)) not in children(node_of(service)):
        pass
    return parent


def test_a_killed_zygote_or_worker_hangs_nothing_idle_or_busy(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    service = trun.local(workers=1)
    assert trun.submit(double, 1, service=service).result(60.0) == 2

    for _ in range(3):
        os.kill(worker_of(service), signal.SIGKILL)  # an idle worker
        assert trun.submit(double, 2, service=service).result(60.0) == 4
        os.kill(zygote_of(service), signal.SIGKILL)  # an idle zygote
        assert trun.submit(double, 3, service=service).result(60.0) == 6

    def open_and_wait(path: str) -> None:
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        signal.pause()

    busy = trun.submit(open_and_wait, gate, service=service)
    os.kill(int(Path(gate).read_text()), signal.SIGKILL)
    with pytest.raises(trun.WorkerDied) as caught:
        busy.result(60.0)
    assert caught.value.signal == signal.SIGKILL

    def once(path: str, marker: str) -> str:
        if os.path.exists(marker):
            return "again"
        open(marker, "w").close()
        open_and_wait(path)
        return "never"

    zygote = zygote_of(service)
    busy = trun.submit(once, gate, str(tmp_path / "marker"), service=service)
    Path(gate).read_text()
    os.kill(zygote, signal.SIGKILL)
    assert busy.exception(60.0) is None or isinstance(busy.exception(), trun.JobFailed)
    assert trun.submit(double, 4, service=service).result(60.0) == 8
    service.close()
