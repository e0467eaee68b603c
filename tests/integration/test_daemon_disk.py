"""Daemons whose disk is full, broken, damaged, or was written by another version: each says so, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import faulty
import trun
from nodes import Daemon, await_
from tests.sites import PATIENCE_S, Site, as_person, command
from trun.adapters.people import People
from trun.adapters.sqlite import FILE
from trun.errors import StateFull
from trun.messages import Said

#: Daemons start and die here many times; a busy machine takes its time.
pytestmark = pytest.mark.timeout(400)

#: Exit code of a start that is refused because of its state folder.
START_REFUSED = 4


def double(x: int) -> int:
    return 2 * x


def wait_for(path: str) -> int:
    """Say so, and end when somebody writes to the pipe."""
    trun.current_job().say("began")
    with open(path) as file:
        return len(file.read())


def has_begun(job: trun.Job) -> bool:
    return any(isinstance(entry.event, Said) for entry in job.messages())


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def close(service: trun.Service) -> None:
    if not service.closed:
        service.give_up(trun.ServiceUnavailable("the test is over"))
        service.close()


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB, of which the reserve of a service takes 16."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs the right to mount a file system")
    words = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(b"x" * 65536):
            pass


def submit_until_refused(service: trun.Service) -> StateFull:
    """Submit until nothing is accepted any more: what lies in the log already still has room."""
    for _ in range(500):
        error = service.submit(len, b"x" * 60_000).exception(PATIENCE_S)
        if isinstance(error, StateFull):
            return error
        assert error is None
    raise AssertionError("the disk is never full")


def submit_until_accepted(service: trun.Service) -> int:
    """Submit until it is accepted again: a service looks for space now and then."""
    found: list[int] = []

    def accepted() -> bool:
        with contextlib.suppress(StateFull):
            found.append(service.submit(double, 4).result(PATIENCE_S))
        return bool(found)

    await_(accepted, "space to be found", PATIENCE_S)
    return found[0]


def test_on_a_full_disk_a_remote_client_is_refused_and_what_runs_keeps_its_outcome(
    disk: Path, gate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = Site("small", "--state", str(disk / "state"))
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("submit",))
        service = trun.remote_service(site.address, expect=site.key)
    try:
        running = service.submit(wait_for, str(gate))
        await_(lambda: has_begun(running), "the job", PATIENCE_S)
        fill(disk / "other")

        error = submit_until_refused(service)

        assert "o space is left for the state folder" in str(error)
        gate.write_text("end")
        assert running.result(PATIENCE_S) == 3
        site.stop()
        site.start()
        assert service.job(running.id).result(PATIENCE_S) == 3
        (disk / "other").unlink()
        assert submit_until_accepted(service) == 8
    finally:
        close(service)
        site.stop("--kill")


# -- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(trun_folders: Path) -> Iterator[Daemon]:
    made = Daemon(trun_folders / "state" / "d", trun_folders / "run")
    yield made
    made.clear()


def test_a_daemon_whose_disk_fails_stops_and_says_so_and_the_next_goes_on(
    daemon: Daemon, gate: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    daemon.program = faulty.program(broken_disk=str(flag))
    daemon.start()
    service = trun.remote_service(daemon.address)
    try:
        running = service.submit(wait_for, str(gate))
        await_(lambda: has_begun(running), "the job")
        flag.touch()
        late = service.submit(double, 3)
        assert daemon.process is not None

        assert daemon.process.wait(PATIENCE_S) != 0

        assert "look after the disk, then start the service again" in daemon.log()
        assert str(daemon.folder / FILE) in daemon.log()
        flag.unlink()
        daemon.start()
        gate.write_text("end")
        assert running.result(PATIENCE_S) == 3
        assert running.attempts == 1
        assert late.result(PATIENCE_S) == 6  # it was not accepted, so the client has said it again
    finally:
        close(service)
    daemon.end()


# -- damage and versions ----------------------------------------------------------------------------------------------


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture
def ended() -> Iterator[tuple[Site, str]]:
    """A service that has done a job and was stopped, and the job's id."""
    site = Site("fans")
    service = trun.remote_service("fans")
    job = service.submit(double, 4)
    assert job.result(PATIENCE_S) == 8
    close(service)
    site.stop()
    yield site, job.id
    command("service", "stop", "fans", "--kill")


def test_a_damaged_journal_is_refused_by_name_and_recovered(ended: tuple[Site, str]) -> None:
    site, job = ended
    path = site.folder / FILE
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 4096)

    done = command("service", "start", "--name", "fans", code=START_REFUSED)

    assert f"the journal {path} is damaged" in done.stderr
    assert f"trun recover --state {site.folder}" in done.stderr
    recovered = [sys.executable, "-m", "trun", "recover", "--state", str(site.folder)]
    assert subprocess.run(recovered, capture_output=True, timeout=PATIENCE_S).returncode in (0, 1)
    site.start()
    service = trun.remote_service("fans")
    try:
        assert service.submit(double, 5).result(PATIENCE_S) == 10
        assert job
    finally:
        close(service)


def test_a_newer_journal_is_refused_with_both_versions(ended: tuple[Site, str]) -> None:
    site, _ = ended
    change(site.folder / FILE, "PRAGMA user_version=99")

    done = command("service", "start", "--name", "fans", code=START_REFUSED)

    assert f"the journal {site.folder / FILE} has format 99" in done.stderr
    assert "Upgrade trun" in done.stderr


def test_an_older_journal_is_brought_forward_after_a_backup(daemon: Daemon) -> None:
    daemon.start()
    service = trun.remote_service(daemon.address)
    try:
        job = service.submit(double, 4)
        assert job.result(PATIENCE_S) == 8
        daemon.stop()
        daemon.program = faulty.program(newer=True)

        daemon.start()

        assert service.job(job.id).result(PATIENCE_S) == 8
        assert service.submit(double, 5).result(PATIENCE_S) == 10
        (backup,) = daemon.folder.glob(f"{FILE}.v*.backup")
        with contextlib.closing(sqlite3.connect(backup)) as connection:
            assert connection.execute("SELECT uid FROM jobs").fetchall() == [(job.uid,)]
    finally:
        close(service)
    daemon.end()
