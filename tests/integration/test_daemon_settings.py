"""What an operator sets for a daemon: read at its start, obeyed by itself and by its workers."""

from __future__ import annotations

import importlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trun
from tests.sites import PATIENCE_S, Site, as_person, command, daemons
from trun.adapters.people import People

#: Daemons start and die here many times; a busy machine takes its time.
pytestmark = pytest.mark.timeout(400)

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons that are gone when the test ends."""
    with daemons() as make:
        yield make


def set_up(text: str) -> None:
    Path(os.environ["TRUN_CONFIG_DIR"], "trun.toml").write_text(text)


def double(x: int) -> int:
    return 2 * x


def wait_for(path: str) -> int:
    trun.current_job().say("began")
    with open(path) as file:
        return len(file.read())


def test_a_slip_in_the_settings_stops_the_start_and_names_the_file() -> None:
    set_up("[fetch]\nalow = []\n")

    done = command("service", "start", "--name", "fans", code=2)

    assert "trun.toml: [fetch] has no setting 'alow'. Did you mean 'allow'?" in done.stderr


def test_conditions_on_private_addresses_are_cancelled_with_the_reason(start: Start) -> None:
    start("fans")
    service = trun.remote_service("fans")

    for address in ("http://127.0.0.1:9/", "https://169.254.169.254/latest/meta-data"):
        job = service.submit(double, 1, when=trun.url_ok(address))
        with pytest.raises(trun.JobCancelled, match=r"does not fetch .*\[fetch\] allow"):
            job.result(PATIENCE_S)


def test_a_submitter_waits_only_for_files_that_the_operator_shows(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    for folder in (shown, hidden):
        folder.mkdir()
        (folder / "run7").touch()
    set_up(f"[fetch]\nallow = ['{shown.as_uri()}']\n")
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("submit",))
        service = trun.remote_service(site.address, expect=site.key)

    with pytest.raises(trun.NotAuthorised, match="does not show to you"):
        service.submit(double, 1, when=trun.exists(hidden / "run7")).result(PATIENCE_S)
    assert service.submit(double, 1, when=trun.exists(shown / "run7", poll=0.1)).result(PATIENCE_S) == 2
    mine = trun.remote_service("fans")
    assert mine.submit(double, 2, when=trun.exists(hidden / "run7", poll=0.1)).result(PATIENCE_S) == 4


def test_a_restart_with_other_settings_holds_for_workers_that_lived_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run7").write_text("data")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    set_up(f"[fetch]\nallow = ['{tmp_path.as_uri()}']\n")
    site = start("fans")
    service = trun.remote_service("fans")
    running = service.submit(wait_for, str(gate))
    assert service.submit(double, 1, when=running.said("began")).result(PATIENCE_S) == 2
    assert trun.fetch_url((tmp_path / "run7").as_uri(), service=service).result(PATIENCE_S).size == 4
    site.stop()
    set_up("[fetch]\nallow = []\n")
    site.start()

    with pytest.raises(trun.NotAuthorised, match="does not fetch"):
        trun.fetch_url((tmp_path / "run7").as_uri(), service=service).result(PATIENCE_S)
    gate.write_text("end")
    assert running.result(PATIENCE_S) == 3


def test_large_data_comes_through_the_port_that_was_chosen(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    set_up(f"[bulk]\nport = {port}\n")
    site = start("fans")
    service = trun.remote_service(site.address, expect=site.key)

    assert service.submit(len, b"x" * 3_000_000).result(PATIENCE_S) == 3_000_000

    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_packages_of_a_user_stay_within_the_quota_and_jobs_say_what_they_took(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, size in (("quotasmall", 10), ("quotalarge", 3_000_000)):
        (tmp_path / f"{name}.py").write_text(f"__version__ = '1.5'\ndef size():\n    return {size}\n# {'x' * size}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    set_up("[install]\nquota = '1MB'\n")
    start("fans")
    service = trun.remote_service("fans")
    with service:
        small = trun.install_service(importlib.import_module("quotasmall"))
        assert small.result(PATIENCE_S)["version"] == "1.5"
        with pytest.raises(trun.TrunError, match=r"quotalarge 1\.5 does not fit: .*\[install\] quota"):
            trun.install_service(importlib.import_module("quotalarge")).result(PATIENCE_S)
        job = service.function("quotasmall.size")()
        assert job.result(PATIENCE_S) == 10

    shown = json.loads(command("ps", "--service", "fans", "--json").stdout)

    rows = {row["id"]: row["packages"] for run in shown["runs"] for row in run["jobs"]}
    assert rows[job.id] == {"quotasmall": "1.5"}
    assert "quotasmall 1.5" in command("ps", "--service", "fans").stdout
    assert command("why", "--service", "fans", job.id).stdout.splitlines()[-1] == "with quotasmall 1.5"
