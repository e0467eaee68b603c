"""A network that breaks: cut, silent, late; daemons that stop and go on. Nothing fails by it, and it is said."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trun
import trun.messages
from tests.proxies import Relay
from tests.sites import PATIENCE_S, Site, command, daemons, until
from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.probe import probe
from trun.errors import ServiceKeyChanged

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons that are gone when the test ends."""
    with daemons() as make:
        yield make


def pass_on(pipe: str) -> str:
    with open(pipe) as file:
        return file.read()


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    """Return a pipe that a job reads until the test writes."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    return path


def let_go(pipe: str, text: str) -> None:
    """Let the job that reads the pipe return."""
    with open(pipe, "w") as file:
        file.write(text)


# -- whose key it is --------------------------------------------------------------------------------------------------


def test_another_key_is_told_from_a_network_that_cuts(start: Start) -> None:
    site = start("fans")
    other = KeyPair(new_seed()).public
    assert probe(site.address, site.key) == "fits"
    assert probe(site.address, other) == "other"
    with Relay(site.address) as relay:
        assert probe(relay.address, site.key) == "fits"
        assert probe(relay.address, other) == "other"
        relay.refuse()
        assert probe(relay.address, other) == "silent"
        relay.heal()
        relay.silence()
        assert probe(relay.address, other, timeout=0.2) == "silent"
    assert probe(relay.address, site.key) == "silent"


def test_a_network_that_takes_connections_and_cuts_them_ends_nothing(start: Start, pipe: str) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        service = trun.remote_service(relay.address, expect=site.key)
        service.trusted = True
        job = service.submit(pass_on, pipe)
        assert job.id
        relay.refuse()
        seen = relay.made
        tick = threading.Event()
        while relay.made < seen + 12:
            tick.wait(0.05)
        assert service.gone is None
        assert not job.done()
        relay.heal()
        let_go(pipe, "four")
        assert job.result(PATIENCE_S) == "four"


def test_a_service_that_comes_back_with_another_key_is_a_hard_stop(start: Start, pipe: str) -> None:
    site, other = start("fans"), start("other")
    with Relay(site.address) as relay:
        service = trun.remote_service(relay.address, expect=site.key)
        job = service.submit(pass_on, pipe)
        assert job.id
        relay.redirect(other.address)
        with pytest.raises(ServiceKeyChanged, match="does not hold the key"):
            job.result(PATIENCE_S)
    let_go(pipe, "")


# -- silence ----------------------------------------------------------------------------------------------------------


def known(site: Site, address: str) -> trun.Service:
    """Return the owner's handle of a service, through a relay."""
    service = trun.remote_service(address, expect=site.key)
    service.trusted = True
    return service


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", ""])
def test_a_job_of_a_silent_service_is_unknown_and_goes_on_when_it_is_heard(
    start: Start, pipe: str, listen: str
) -> None:
    site = start("fans", listen=listen)
    service = trun.remote_service("fans")
    job = service.submit(pass_on, pipe, name="fit")
    after = service.submit(len, job, when=job.iscompleted)
    until(job.running)
    assert service.silent_since is None
    os.kill(site.pid, signal.SIGSTOP)
    try:
        until(lambda: job.state is trun.JobState.UNKNOWN)
        assert job.state == "unknown"
        assert job.last_state is trun.JobState.RUNNING
        assert service.silent_since is not None
        assert service.silent_since <= time.time()
        assert not job.running()
        assert not job.done()
        assert not job.cancelled()
        assert "unknown on fans" in repr(job)
        assert "its last word: running" in repr(job)
        assert after.state is trun.JobState.UNKNOWN
        said = str(job.why())
        assert "the service fans has not been heard for" in said
        assert service.address in said
        assert "its last word: running" in said
        with pytest.raises(TimeoutError, match=r"not been heard.*last word: running"):
            job.result(timeout=0.05)
        assert job.iscompleted.value is trun.Value.WAIT
        assert job.isfailed.value is trun.Value.WAIT
    finally:
        os.kill(site.pid, signal.SIGCONT)
    until(job.running)
    assert service.silent_since is None
    let_go(pipe, "four")
    assert after.result(PATIENCE_S) == 4
    assert [entry.seq for entry in job.messages()] == list(range(1, len(job.messages()) + 1))


def test_a_job_of_a_killed_daemon_is_unknown_until_the_next_one_answers(start: Start, pipe: str) -> None:
    site = start("fans")
    service = trun.remote_service("fans")
    job = service.submit(pass_on, pipe)
    until(job.running)
    os.kill(site.pid, signal.SIGKILL)
    until(lambda: job.state is trun.JobState.UNKNOWN)
    late = service.submit(double, 2)
    assert late.state is trun.JobState.UNKNOWN
    assert "unknown" in repr(late)
    assert "not been heard" in str(late.why())
    site.start()
    until(lambda: service.silent_since is None)
    let_go(pipe, "four")
    assert job.result(PATIENCE_S) == "four"
    assert late.result(PATIENCE_S) == 4


def count(number: int, pipe: str) -> int:
    job = trun.current_job()
    for each in range(number):
        job.say("step", each)
        if each == number // 2:
            with open(pipe) as file:
                file.read()
    return number


@pytest.mark.parametrize("how", ["refuse", "silence", "reset"])
def test_streams_go_on_without_gap_or_double_when_the_network_does(start: Start, pipe: str, how: str) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        service = known(site, relay.address)
        seen: list[int] = []
        job = service.submit(count, 40, pipe)
        take = job.take

        def watch(entry: trun.messages.Entry) -> None:
            seen.append(entry.seq)
            take(entry)

        job.take = watch  # type: ignore[method-assign]
        middle = job.said("step")
        until(lambda: middle.value is trun.Value.TRUE)
        relay.delay_s = 0.05
        getattr(relay, how)()
        if how == "reset":
            until(lambda: relay.made > 1)
        else:
            until(lambda: job.state is trun.JobState.UNKNOWN)
        let_go(pipe, "")
        relay.heal()
        assert job.result(PATIENCE_S) == 40
        assert seen == sorted(set(seen))
        assert seen[-1] - seen[0] == len(seen) - 1
        assert len([entry for entry in job.messages() if getattr(entry.event, "name", "") == "step"]) == 40


def test_a_question_that_a_cut_has_swallowed_is_asked_again(start: Start) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        service = known(site, relay.address)
        assert service.submit(double, 1).result(PATIENCE_S) == 2
        relay.silence()
        asked = service.begin_ask("summary")
        until(lambda: service.silent_since is not None)
        relay.refuse()
        relay.heal()
        assert asked.result(PATIENCE_S).data["counts"] == {"completed": 1}


# -- parting ----------------------------------------------------------------------------------------------------------


def test_closing_says_what_a_silent_service_has_not_acknowledged_and_does_not_wait(start: Start) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        service = known(site, relay.address)
        accepted = service.submit(double, 1, name="accepted")
        assert accepted.result(PATIENCE_S) == 2
        relay.silence()
        until(lambda: service.silent_since is not None or not service.submit(double, 2, name="probe").done())
        with pytest.raises(trun.ServiceUnavailable) as caught:
            service.close()
        assert "not acknowledged: probe" in str(caught.value)
        assert "accepted" in str(caught.value)
        assert service.closed
    again = trun.remote_service("fans")
    assert again.job(accepted.id).result(PATIENCE_S) == 2


def test_closing_a_silent_service_that_has_acknowledged_everything_is_quiet(start: Start, pipe: str) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        service = known(site, relay.address)
        job = service.submit(pass_on, pipe)
        assert job.id
        relay.refuse()
        until(lambda: service.silent_since is not None)
        service.close()
    let_go(pipe, "four")
    assert trun.remote_service("fans").job(job.id).result(PATIENCE_S) == "four"


SCRIPT = """
import sys, threading, trun
service = trun.remote_service(sys.argv[1], expect=sys.argv[2])
accepted = service.submit(len, "four", name="accepted")
print(accepted.id, flush=True)
sys.stdin.readline()
while service.silent_since is None:
    late = service.submit(len, "late", name="late")
    threading.Event().wait(0.2)
print("silent", flush=True)
{end}
"""


def run_script(end: str, address: str, key: str) -> subprocess.Popen[str]:
    """Start a script that submits, and submits again until its service is silent."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(end=end), address, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [("", 4, "not acknowledged: late"), ("raise ValueError('mine')", 1, "mine"), ("late.result()", -2, "Interrupt")],
)
def test_a_script_whose_service_has_vanished_ends_soon_and_says_what_is_lost(
    start: Start, end: str, code: int, said: str
) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        script = run_script(end, relay.address, site.key)
        with script:
            assert script.stdin is not None
            assert script.stdout is not None
            job_id = script.stdout.readline().strip()
            relay.silence()
            script.stdin.write("go\n")
            script.stdin.flush()
            assert script.stdout.readline() == "silent\n"
            if code == -2:
                script.send_signal(signal.SIGINT)
            _, errors = script.communicate(timeout=PATIENCE_S)
        assert script.returncode == code, errors
        assert said in errors
        assert "not acknowledged" in errors
        assert "has not been heard for" in errors
    assert trun.remote_service("fans").job(job_id).result(PATIENCE_S) == 4


# -- a service that another one waits for -----------------------------------------------------------------------------


def test_a_job_that_waits_for_a_silent_service_says_so_and_waits_on(start: Start, pipe: str) -> None:
    one = start("alpha")
    start("beta")
    alpha, beta = trun.remote_service("alpha"), trun.remote_service("beta")
    reduced = alpha.submit(pass_on, pipe, name="reduce")
    fit = beta.submit(len, reduced, when=reduced.iscompleted, name="fit")
    either = beta.submit(double, 2, when=reduced.iscompleted | reduced.isfailed)
    until(reduced.running)
    until(lambda: fit.state is trun.JobState.WAITING)
    os.kill(one.pid, signal.SIGSTOP)
    try:
        until(lambda: "the service alpha has not been heard for" in str(fit.why()))
        assert one.address in str(fit.why())
        assert "alpha" in command("ps", "--service", "beta").stdout
        assert "has not been heard for" in command("why", f"beta/{fit.id}").stdout
        assert fit.state is trun.JobState.WAITING
        assert either.state is trun.JobState.WAITING
    finally:
        os.kill(one.pid, signal.SIGCONT)
    until(lambda: "has not been heard" not in str(fit.why()))
    let_go(pipe, "four")
    assert fit.result(PATIENCE_S) == 4
    assert either.result(PATIENCE_S) == 4


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_client_of_another_version_is_named_on_both_sides(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    site = start("fans")
    monkeypatch.setattr("trun.service.Hello", functools.partial(trun.messages.Hello, protocol=99))
    with pytest.raises(trun.VersionMismatch) as caught:
        trun.remote_service("fans")
    for text in (str(caught.value), site.log()):
        assert "protocol 99" in text
        assert "protocol 1" in text
        assert trun.__version__ in text
        assert "Install a release of trun that both sides understand" in text


def test_a_service_of_another_version_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start("fans")
    monkeypatch.setattr("trun.listening.SPOKEN", (7,))
    with pytest.raises(trun.VersionMismatch, match=r"service fans speaks protocol 1.*this client protocol.*Install"):
        trun.remote_service("fans")


def test_a_service_that_cannot_read_us_is_of_another_version(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start("fans")

    def hello(**facts: object) -> trun.messages.Unlisten:
        return trun.messages.Unlisten(streams=(7,))  # type: ignore[arg-type]

    monkeypatch.setattr("trun.service.Hello", hello)
    with pytest.raises(trun.VersionMismatch, match=r"service fans does not understand this client.*protocol 1"):
        trun.remote_service("fans")


# -- clients that vanish ----------------------------------------------------------------------------------------------

OWNER = """
import sys, threading, trun
service = trun.remote_service(sys.argv[1], expect=sys.argv[2])
mine = trun.Atom("mine")
gated = service.submit(len, "four", when=mine, name="gated")
other = service.submit(len, "four", when=trun.after("1s"), name="other")
print(gated.id, other.id, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["kill", "end", "silence"])
def test_what_only_a_vanished_client_could_decide_is_cancelled_and_the_rest_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("TRUN_CLIENT__GRACE", "1s")
    site = start("fans")
    with Relay(site.address) as relay:
        words = [sys.executable, "-c", OWNER, relay.address, site.key]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
            assert script.stdout is not None
            assert script.stdin is not None
            gated_id, other_id = script.stdout.readline().split()
            service = trun.remote_service("fans")
            gated, other = service.job(gated_id), service.job(other_id)
            assert gated.state is trun.JobState.WAITING
            if how == "kill":
                script.kill()
            elif how == "end":
                script.stdin.close()
            else:
                relay.silence()
            with pytest.raises(trun.JobCancelled, match="owner left"):
                gated.result(PATIENCE_S)
            assert other.result(PATIENCE_S) == 4
            script.kill()


def test_a_client_that_comes_back_within_the_grace_is_not_taken_for_gone(start: Start) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        service = known(site, relay.address)
        mine = trun.Atom("mine")
        gated = service.submit(double, 2, when=mine)
        until(lambda: gated.state is trun.JobState.WAITING)
        relay.silence()
        until(lambda: gated.state is trun.JobState.UNKNOWN)
        mine.set_ready()
        relay.heal()
        assert gated.result(PATIENCE_S) == 4


# -- the command ------------------------------------------------------------------------------------------------------


def test_ps_shows_the_jobs_of_a_silent_service_as_unknown_with_their_last_word(start: Start, pipe: str) -> None:
    site = start("fans", listen="")
    service = trun.remote_service("fans")
    job = service.submit(pass_on, pipe, name="fit")
    done = service.submit(double, 1, name="done")
    assert done.result(PATIENCE_S) == 2
    until(job.running)
    os.kill(site.pid, signal.SIGSTOP)
    try:
        shown = command("ps", "--service", "fans", code=4)
        assert "silent" in shown.stdout
        assert "unknown" in shown.stdout
        assert "its last word: running" in shown.stdout
        assert "does not answer" in shown.stderr
        (run,) = json.loads(command("ps", "--service", "fans", "--json", code=4).stdout)["runs"]
        assert run["counts"] == {"unknown": 1, "completed": 1}
        assert {one["name"]: one["state"] for one in run["jobs"]} == {"fit": "unknown", "done": "completed"}
    finally:
        os.kill(site.pid, signal.SIGCONT)
    let_go(pipe, "four")
    assert job.result(PATIENCE_S) == "four"


def test_a_service_elsewhere_that_does_not_answer_is_unreachable(start: Start) -> None:
    site = start("fans")
    with Relay(site.address) as relay:
        command("service", "add", "sns", relay.address, "--expect", site.key)
        relay.refuse()
        assert "does not answer" in command("ps", "--service", "sns", code=4).stderr
