"""Clients on macOS and Windows: they import trun and use services over tcp; what needs Linux says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sites import PATIENCE_S, Site, daemons

Start = Callable[..., Site]
ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = pytest.mark.parametrize("platform", ["darwin", "win32"])

SUBMIT = """
import os, sys
import trun

assert sys.platform == "{platform}"
service = trun.remote_service("{address}", expect={key!r})
service.trusted = True
job = service.submit(len, "four")
assert job.result({patience}) == 4, job
after = service.submit(pow, 2, 5, when=job.iscompleted)
assert after.result({patience}) == 32
assert [one.result({patience}) for one in service.map(abs, [-1, -2, -3])] == [1, 2, 3]
big = service.submit(bytes, 3_000_000).result({patience})
assert len(big) == 3_000_000
assert service.submit(len, big).result({patience}) == 3_000_000
assert service.job(job.id).result({patience}) == 4
assert "complete" in str(job.why())
service.close()
print("used")
"""

NEEDS = """
import trun
from trun.cli import main

for begin in (trun.local, lambda: trun.submit(len, "four").result(5)):
    try:
        begin()
    except trun.errors.UsageError as error:
        assert "a service on this machine needs Linux, and this is {platform}" in str(error), error
        assert "remote_service" in str(error)
    else:
        raise AssertionError("it was not refused")
assert main(["service", "start", "--name", "fans"]) == 2
assert main(["agent", "start"]) == 2
assert main(["service", "list"]) == 0
assert main(["keygen"]) == 0
print("said")
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons that are gone when the test ends."""
    with daemons() as make:
        yield make


def run_there(platform: str, folder: Path, code: str) -> str:
    """Run a script on another system; return what it printed."""
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "tests.foreign", platform, str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@PLATFORMS
def test_a_client_there_uses_a_service_over_tcp(start: Start, platform: str, tmp_path: Path) -> None:
    site = start("fans")
    code = SUBMIT.format(platform=platform, address=site.address, key=site.key, patience=PATIENCE_S / 2)
    assert "used" in run_there(platform, tmp_path, code)


@PLATFORMS
def test_what_needs_linux_says_so_there(platform: str, tmp_path: Path) -> None:
    said = run_there(platform, tmp_path, NEEDS.format(platform=platform))
    assert "said" in said
    assert "the agent needs Linux" in said


@PLATFORMS
def test_every_public_name_can_be_imported_there(platform: str, tmp_path: Path) -> None:
    code = "import trun\nfor name in trun.__all__:\n    getattr(trun, name)\nprint(len(trun.__all__))\n"
    assert int(run_there(platform, tmp_path, code)) > 50
