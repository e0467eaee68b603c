"""Services as daemons over encrypted connections: started by the command, used by their owner and by others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import trun
from tests.sites import PATIENCE_S, Site, as_person, command, daemons
from trun.adapters.keys import KeyPair, fingerprint, new_seed
from trun.adapters.people import People
from trun.errors import ServiceKeyChanged

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons that are gone when the test ends."""
    with daemons() as make:
        yield make


def double(x: int) -> int:
    return 2 * x


def pass_on(pipe: str) -> str:
    trun.current_job().say("began")
    with open(pipe) as file:
        return file.read()


class Thing:
    """Something that only code can make."""


def await_begin(job: trun.Job, service: trun.Service) -> None:
    """Wait until a job runs: what runs outlives its daemon, what was about to might be begun twice."""
    assert service.submit(double, 1, when=job.said("began")).result(PATIENCE_S) == 2


def fail(text: str) -> None:
    raise ValueError(text)


# -- one service ------------------------------------------------------------------------------------------------------


def test_looking_whether_a_service_is_there_is_no_handshake_that_failed(start: Start) -> None:
    site = start("fans")

    assert "fans" in command("ps").stdout

    assert "handshakes" not in command("service", "status", site.name).stdout


def test_a_started_service_says_where_it_answers_and_takes_jobs(start: Start) -> None:
    site = start("fans")
    assert site.address.startswith("tcp://127.0.0.1:")
    assert len(site.key) == 40
    service = trun.remote_service("fans")
    assert service.key == fingerprint(site.key)
    job = service.submit(double, 4)
    assert job.result(PATIENCE_S) == 8
    assert [one.result(PATIENCE_S) for one in service.map(double, range(20))] == [2 * n for n in range(20)]
    with pytest.raises(ValueError, match="no beam"):
        service.submit(fail, "no beam").result(PATIENCE_S)
    assert job.id in command("service", "status", "fans").stdout or "completed" in command("service", "status").stdout
    assert "fans" in command("service", "list").stdout


def test_a_second_start_exits_with_5_and_names_the_first(start: Start) -> None:
    site = start("fans")
    done = command("service", "start", "--name", "fans", code=5)
    assert str(site.pid) in done.stderr
    assert "fans" in done.stderr
    done = command("service", "start", "--name", "other", "--state", str(site.folder), code=5)
    assert f"service fans runs already: process {site.pid}" in done.stderr


def test_a_job_is_found_again_from_another_process(start: Start) -> None:
    start("fans")
    service = trun.remote_service("fans")
    job = service.submit(double, 21)
    code = f"import trun; print(trun.remote_service('fans').job({job.id!r}).result(60))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.strip() == "42"
    assert [one.id for one in service.jobs()] == [job.id]


def test_a_large_array_goes_there_and_back(start: Start) -> None:
    start("fans")
    service = trun.remote_service("fans")
    data = np.arange(400_000.0)
    np.testing.assert_array_equal(service.submit(np.negative, data).result(PATIENCE_S), -data)


def test_a_client_goes_on_when_its_service_comes_back(start: Start, tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    site = start("fans")
    service = trun.remote_service("fans")
    first = service.submit(pass_on, pipe)
    second = service.submit(len, first)
    await_begin(first, service)
    os.kill(site.pid, signal.SIGKILL)
    site.start()
    late = service.submit(double, 3)
    with open(pipe, "w") as file:
        file.write("four")
    assert late.result(PATIENCE_S) == 6
    assert second.result(PATIENCE_S) == 4


# -- who may do what --------------------------------------------------------------------------------------------------


def test_a_stranger_is_told_which_key_to_hand_to_whom(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "eve") as key, pytest.raises(trun.NotAuthorised) as caught:
        trun.remote_service(site.address, expect=site.key)
    assert key in str(caught.value)
    assert "trun user add" in str(caught.value)


def test_a_stranger_may_ask_to_be_let_in(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "eve") as key:
        command("service", "add", "fans", site.address, "--expect", site.key)
        command("request-access", "fans", "for the beam time")
    assert key in command("user", "list", "--service", "fans").stdout
    command("user", "add", "eve", key, "--roles", "read,submit", "--service", "fans")
    with as_person(monkeypatch, tmp_path / "eve"):
        service = trun.remote_service("fans")
        assert service.submit(double, 1).result(PATIENCE_S) == 2
        assert service.ask("whoami")["name"] == "eve"


def test_a_removed_user_is_cut_off_on_an_open_connection(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("read", "submit"))
        service = trun.remote_service(site.address, expect=site.key)
    assert service.submit(double, 1).result(PATIENCE_S) == 2
    command("user", "remove", "eve", "--service", "fans")
    with pytest.raises(trun.NotAuthorised):
        service.submit(double, 2).result(PATIENCE_S)


def test_jobs_of_others_are_neither_seen_nor_steered_without_a_role(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    mine = trun.remote_service("fans")
    secret = mine.submit(double, 5, name="secret")
    assert secret.result(PATIENCE_S) == 10
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("submit",))
        service = trun.remote_service(site.address, expect=site.key)
    assert service.submit(double, 1).result(PATIENCE_S) == 2
    for ask in (
        lambda: service.jobs(),
        lambda: service.job(secret.id),
        lambda: service.ask("result", uid=secret.uid),
        lambda: service.submit(double, secret).result(PATIENCE_S),
    ):
        with pytest.raises(trun.TrunError) as caught:
            ask()
        assert not isinstance(caught.value, trun.JobFailed)


def test_a_service_that_holds_another_key_is_a_hard_stop(start: Start) -> None:
    site = start("fans")
    other = KeyPair(new_seed()).public
    with pytest.raises(ServiceKeyChanged):
        trun.remote_service(f"tcp://localhost:{site.address.rpartition(':')[2]}", expect=other)
    with pytest.raises(ServiceKeyChanged) as caught:
        trun.remote_service("fans", expect=other)
    assert fingerprint(other) in str(caught.value)
    assert fingerprint(site.key) in str(caught.value)


def test_results_of_a_service_that_is_not_trusted_are_plain_data(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("read", "submit"))
        service = trun.remote_service(site.address, expect=site.key)
    assert service.submit(dict, a=1, b=(2.5, None)).result(PATIENCE_S) == {"a": 1, "b": (2.5, None)}
    np.testing.assert_array_equal(service.submit(np.arange, 3).result(PATIENCE_S), [0, 1, 2])
    with pytest.raises(trun.UntrustedResult, match="--trust-results"):
        service.submit(Thing).result(PATIENCE_S)


def test_an_unknown_service_is_named_with_the_nearest(start: Start) -> None:
    start("compufans")
    with pytest.raises(trun.UnknownName, match="compufans"):
        trun.remote_service("compufan")


def test_an_unknown_resource_is_named_with_the_nearest_and_who_gives_it(start: Start) -> None:
    start("fans", "--resources", "gpu=2")
    service = trun.remote_service("fans")
    with pytest.raises(trun.UnknownName, match=r"--resources gpux=.*'gpu'"):
        service.submit(double, 1, resources={"gpux": 1})
    with pytest.raises(trun.errors.BadOption, match="has 2 in all"):
        service.submit(double, 1, resources={"gpu": 3})
    assert service.submit(double, 1, resources={"gpu": 2}).result(PATIENCE_S) == 2


def test_names_that_a_service_does_not_have_come_with_the_nearest(start: Start) -> None:
    start("fans")
    service = trun.remote_service("fans")
    job = service.submit(double, 1, name="refine")
    assert job.result(PATIENCE_S) == 2
    for ask, near in (
        (lambda: service.job("refyne#1"), (job.id,)),
        (lambda: service.function("math.hypott")(3, 4).result(PATIENCE_S), ("hypot",)),
        (lambda: service.submit(double, 1, resources={"gpu": 1}), ()),
    ):
        with pytest.raises(trun.UnknownName) as caught:
            ask()
        assert caught.value.suggestions == near
        assert all(f"Did you mean '{name}'" in str(caught.value) for name in near)


def test_the_command_speaks_to_services_elsewhere(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    with as_person(monkeypatch, tmp_path / "eve") as key, monkeypatch.context() as there:
        People(site.folder).add("eve", key, ("read", "submit"))
        there.setenv("TRUN_STATE_DIR", str(tmp_path / "elsewhere"))
        there.setenv("TRUN_RUNTIME_DIR", str(tmp_path / "there"))
        command("service", "add", "sns", site.address, "--expect", site.key)
        job = trun.remote_service("sns").submit(double, 4, name="fit")
        assert job.result(PATIENCE_S) == 8
        assert job.id in command("ps", "--service", "sns", "--all").stdout
        assert "completed" in command("why", f"sns/{job.id}").stdout
        command("logs", "--service", "sns", job.id)


# -- several services -------------------------------------------------------------------------------------------------


def test_a_condition_on_another_service_holds_without_the_client(start: Start, tmp_path: Path) -> None:
    start("alpha")
    start("beta")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = f"""
import trun
from tests.integration.test_daemons import double, pass_on
alpha, beta = trun.remote_service("alpha"), trun.remote_service("beta")
reduced = alpha.submit(pass_on, {str(pipe)!r}, name="reduce")
with beta:
    model = trun.submit(double, 3, name="model")
    fit = trun.submit(len, reduced, when=reduced.iscompleted & model.iscompleted, name="fit")
print(fit.id)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    service = trun.remote_service("beta")
    fit = service.job(done.stdout.strip())
    assert "reduce" in str(fit.why())
    pipe.write_text("seven")
    assert fit.result(PATIENCE_S) == 5


def test_large_results_move_between_services(start: Start) -> None:
    start("alpha")
    start("beta")
    alpha, beta = trun.remote_service("alpha"), trun.remote_service("beta")
    made = alpha.submit(np.arange, 500_000.0)
    assert beta.submit(np.sum, made).result(PATIENCE_S) == 499_999 * 250_000


def test_a_service_goes_on_hearing_another_after_both_were_killed(start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    one, two = start("alpha"), start("beta")
    alpha, beta = trun.remote_service("alpha"), trun.remote_service("beta")
    reduced = alpha.submit(pass_on, str(pipe))
    fit = beta.submit(len, reduced)
    await_begin(reduced, beta)
    for site in (two, one):
        os.kill(site.pid, signal.SIGKILL)
    for site in (two, one):
        site.start()
    pipe.write_text("seven")
    assert fit.result(PATIENCE_S) == 5


def test_a_right_that_has_ended_cancels_what_waits_for_it(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    start("alpha")
    start("beta")
    monkeypatch.setattr("trun.delegating.LENT_S", 2.0)
    monkeypatch.setattr("trun.delegating.MARGIN_S", -1.0)
    alpha, beta = trun.remote_service("alpha"), trun.remote_service("beta")
    fit = beta.submit(len, alpha.submit(pass_on, str(pipe)))
    with pytest.raises(trun.errors.JobCancelled, match="credential expired"):
        fit.result(PATIENCE_S)
    pipe.write_text("go")


def test_the_client_passes_on_what_a_service_cannot_hear(start: Start) -> None:
    start("alpha", listen="")
    start("beta")
    alpha = trun.remote_service(f"ipc://{os.environ['TRUN_RUNTIME_DIR']}/service-alpha.sock")
    beta = trun.remote_service("beta")
    made = alpha.submit(double, 4)
    assert beta.submit(double, made, when=made.iscompleted).result(PATIENCE_S) == 16


def test_silence_of_the_network_is_noticed_and_nothing_fails(start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    site = start("fans")
    service = trun.remote_service("fans")
    down = threading.Event()
    service.on_down = down.set
    job = service.submit(pass_on, str(pipe))
    assert job.id
    os.kill(site.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert down.wait(PATIENCE_S)
    finally:
        os.kill(site.pid, signal.SIGCONT)
    assert time.monotonic() - began < PATIENCE_S / 2
    assert not job.done()
    pipe.write_text("four")
    assert job.result(PATIENCE_S) == "four"


def stay(pipe: str) -> None:
    with open(pipe, "w") as file:
        file.write(str(os.getpid()))
    signal.pause()


@pytest.mark.parametrize("needed", [False, True])
def test_a_loser_on_another_service_is_stopped_unless_something_needs_it(
    start: Start, tmp_path: Path, needed: bool
) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    start("alpha")
    start("beta")
    alpha, beta = trun.remote_service("alpha"), trun.remote_service("beta")
    slow = alpha.submit(stay, pipe)
    if needed:
        alpha.submit(double, slow)
    assert Path(pipe).read_text()
    quick = beta.submit(double, 4)
    race = trun.first(quick, slow, service=beta)
    assert race.result(PATIENCE_S) == 8
    if needed:
        assert alpha.submit(double, 1).result(PATIENCE_S) == 2
        assert slow.running()
        slow.cancel()
    with pytest.raises(trun.JobAborted):
        slow.result(PATIENCE_S)
