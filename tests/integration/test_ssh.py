"""Services behind a real sshd: found, reached, reached again, and each refusal in words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import trun
from tests.sites import PATIENCE_S, Site, daemons, until
from tests.sshd import Sshd, make_key, missing
from trun.errors import ServiceKeyChanged

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a server")

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons that are gone when the test ends."""
    with daemons() as make:
        yield make


@pytest.fixture
def sshd(trun_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """Let ssh in to the machine where the daemons of this test are; it is found by TRUN_SSH."""
    there = {name: value for name, value in os.environ.items() if name.startswith(("TRUN_", "PYTHON"))}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with Sshd(trun_folders / "sshd", {**there, "PATH": path}) as server:
        monkeypatch.setenv("TRUN_SSH", server.command)
        yield server


@contextlib.contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Be on another machine for a while: with folders of its own."""
    with monkeypatch.context() as here:
        for variable, name in (("TRUN_STATE_DIR", "s"), ("TRUN_RUNTIME_DIR", "r"), ("TRUN_CONFIG_DIR", "c")):
            (folder / "away" / name).mkdir(parents=True, mode=0o700, exist_ok=True)
            here.setenv(variable, str(folder / "away" / name))
        yield


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, trun_folders: Path) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what takes us to another machine."""
    return lambda: elsewhere(monkeypatch, trun_folders)


Away = Callable[[], contextlib.AbstractContextManager[None]]


def double(x: int) -> int:
    return 2 * x


def pass_on(pipe: str) -> str:
    with open(pipe) as file:
        return file.read()


# -- the way there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["", "tcp://127.0.0.1:0"])
def test_a_service_is_reached_through_ssh(start: Start, sshd: Sshd, away: Away, listen: str) -> None:
    site = start("fans", listen=listen)
    with away():
        service = trun.remote_service(f"ssh://{sshd.host}/fans", expect=site.key)
        assert service.name == "fans"
        assert service.address == f"ssh://{sshd.host}/fans"
        assert service.submit(double, 4).result(PATIENCE_S) == 8
        data = np.arange(400_000.0)
        np.testing.assert_array_equal(service.submit(np.negative, data).result(PATIENCE_S), -data)
        service.close()


def test_the_only_service_there_needs_no_name(start: Start, sshd: Sshd, away: Away) -> None:
    start("fans", listen="")
    with away():
        service = trun.remote_service(f"ssh://{sshd.host}")
        assert service.submit(double, 1).result(PATIENCE_S) == 2
        service.close()


def test_jobs_go_on_when_ssh_is_killed(start: Start, sshd: Sshd, away: Away, tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    start("fans", listen="")
    with away():
        service = trun.remote_service(f"ssh://{sshd.host}/fans")
        job = service.submit(pass_on, pipe)
        after = service.submit(len, job)
        until(job.running)
        (first,) = service.tunnel.pids
        os.kill(first, signal.SIGKILL)
        until(lambda: service.tunnel.pids != [first])
        late = service.submit(double, 3)
        with open(pipe, "w") as file:
            file.write("four")
        assert after.result(PATIENCE_S) == 4
        assert late.result(PATIENCE_S) == 6
        service.close()
        with pytest.raises(trun.ServiceUnavailable, match="closed"):
            service.submit(double, 1)


def test_ssh_ends_with_the_script_however_that_ends(start: Start, sshd: Sshd, away: Away) -> None:
    start("fans", listen="")
    code = f"""
import sys, trun
service = trun.remote_service("ssh://{sshd.host}/fans")
print(*service.tunnel.pids, flush=True)
sys.stdin.read()
"""
    with away():
        script = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with script:
            assert script.stdout is not None
            pid = int(script.stdout.readline())
            assert Path(f"/proc/{pid}").exists()
            script.kill()
            script.wait()
            until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_changed_host_key_is_a_hard_stop(sshd: Sshd, tmp_path: Path) -> None:
    sshd.know(make_key(tmp_path / "other"))
    with pytest.raises(ServiceKeyChanged, match=r"host key of 127.0.0.1 is not the one that ssh knows.*ssh-keygen -R"):
        trun.remote_service(f"ssh://{sshd.host}/fans")


def test_an_unknown_host_key_is_for_the_person_to_compare(sshd: Sshd) -> None:
    sshd.know("")
    with pytest.raises(trun.NotAuthorised, match=r"does not know the host key.*by hand"):
        trun.remote_service(f"ssh://{sshd.host}/fans")


def test_a_key_that_ssh_does_not_let_in_is_said(sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    sshd.identify(tmp_path / "stranger")
    with pytest.raises(trun.NotAuthorised, match=r"Permission denied.*ssh-agent"):
        trun.remote_service(f"ssh://{sshd.host}/fans")


def test_no_trun_on_the_other_side_is_said(trun_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sshd(trun_folders / "bare", {"PATH": "/usr/bin:/bin"}) as server:
        monkeypatch.setenv("TRUN_SSH", server.command)
        with pytest.raises(trun.ServiceUnavailable, match=r"there is no trun on 127.0.0.1.*install it"):
            trun.remote_service(f"ssh://{server.host}/fans")


def test_no_ssh_on_this_side_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUN_SSH", "/nowhere/ssh")
    with pytest.raises(trun.ServiceUnavailable, match=r"no command '/nowhere/ssh'.*TRUN_SSH"):
        trun.remote_service("ssh://localhost/fans")


def test_a_host_that_does_not_listen_is_said(sshd: Sshd) -> None:
    with sshd:
        pass
    with pytest.raises(trun.ServiceUnavailable, match=r"ssh cannot reach 127.0.0.1.*refused"):
        trun.remote_service(f"ssh://{sshd.host}/fans")


def test_an_unknown_service_there_is_named_with_the_nearest(start: Start, sshd: Sshd, away: Away) -> None:
    start("compufans", listen="")
    with away(), pytest.raises(trun.UnknownName, match=r"compufan'.*compufans"):
        trun.remote_service(f"ssh://{sshd.host}/compufan")


def test_a_service_that_does_not_run_there_is_said_with_how_to_start_it(start: Start, sshd: Sshd, away: Away) -> None:
    start("fans", listen="").stop("--kill")
    with away(), pytest.raises(trun.ServiceUnavailable, match=r"does not run there.*trun service start --name fans"):
        trun.remote_service(f"ssh://{sshd.host}/fans")


def test_another_key_than_expected_is_a_hard_stop(start: Start, sshd: Sshd, away: Away) -> None:
    from trun.adapters.keys import KeyPair, fingerprint, new_seed

    site = start("fans", listen="")
    other = KeyPair(new_seed()).public
    with away(), pytest.raises(ServiceKeyChanged) as caught:
        trun.remote_service(f"ssh://{sshd.host}/fans", expect=other)
    assert fingerprint(other) in str(caught.value)
    assert fingerprint(site.key) in str(caught.value)


@pytest.mark.parametrize("address", ["ssh://", "ssh:///fans", "ssh://-oProxyCommand=x/fans", "ssh://host:x/fans", "ssh://host/-x"])
def test_what_is_no_address_is_refused_before_ssh_sees_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUN_SSH", "/nowhere/ssh")
    with pytest.raises(trun.errors.BadOption, match="is no ssh://"):
        trun.remote_service(address)
