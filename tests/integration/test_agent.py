"""The agent as a process: who may speak to it, what it makes of garbage, and what it does for jobs of two services."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import trun
import trun.cli as cli
from trun.adapters import agency, keys, tokens
from trun.adapters.agency import Attenuate, List, Lock, Renewal, Session, Where
from trun.adapters.known import Known, find, remember
from trun.adapters.wire import Curve, Link
from trun.errors import NotAuthorised, ServiceUnavailable, TrunError
from trun.service import Service

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the agent runs on Linux")

WAIT_S = 30.0


def command(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trun", *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not become so"
        threading.Event().wait(0.02)


@pytest.fixture
def agent(trun_folders: Path) -> Iterator[agency.Agent]:
    """An agent, stopped at the end."""
    read, write = os.pipe()
    words = [sys.executable, "-m", "trun.daemons.agent", "--ready-fd", str(write)]
    with subprocess.Popen(words, pass_fds=(write,), stderr=subprocess.DEVNULL) as process, os.fdopen(read) as ready:
        os.close(write)
        try:
            assert json.loads(ready.readline())["pid"] == process.pid
            found = agency.running()
            assert found is not None
            assert found.pid == process.pid
            yield found
        finally:
            process.terminate()
            assert process.wait(WAIT_S) == 0


@pytest.fixture
def no_agent(trun_folders: Path) -> Iterator[None]:
    """Stops whatever agent the test has started."""
    yield
    command("agent", "stop")


# -- its life


def test_one_agent_runs_for_a_user_and_leaves_nothing_behind(no_agent: None) -> None:
    assert command("agent", "list").returncode == 4
    assert command("agent", "stop").stdout == "no agent runs\n"

    first, second = command("agent", "start"), command("agent", "start")

    found = agency.running()
    assert found is not None
    assert first.stdout == f"agent started: process {found.pid}, key {keys.user_keys().public}\n"
    assert second.stdout == f"agent runs already: process {found.pid}, key {keys.user_keys().public}\n"
    third = subprocess.run(
        [sys.executable, "-m", "trun.daemons.agent"], capture_output=True, text=True, timeout=60, check=False
    )
    assert third.returncode == 5
    assert f"process {found.pid}" in third.stderr
    assert command("agent", "stop").returncode == 0
    assert agency.running() is None
    assert not agency.socket_path().exists()


def test_a_socket_that_a_killed_agent_left_is_no_agent(no_agent: None) -> None:
    command("agent", "start")
    first = agency.running()
    assert first is not None

    os.kill(first.pid, 9)
    wait_until(lambda: agency.running() is None)

    assert agency.socket_path().exists()
    assert command("agent", "start").returncode == 0
    second = agency.running()
    assert second is not None
    assert second.pid != first.pid


def test_nobody_else_can_reach_it_or_look_into_it(agent: agency.Agent) -> None:
    path = agency.socket_path()

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    limits = Path(f"/proc/{agent.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
    if os.getuid() == 0:
        other = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c",
             f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert other.returncode != 0


def test_an_agent_of_somebody_else_is_told_nothing(trun_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(str(agency.socket_path()))
        listener.listen()
        monkeypatch.setattr(agency, "peer", lambda connection: (1, os.getuid() + 1))

        with pytest.raises(NotAuthorised, match="nothing was said"):
            agency.running()
        with pytest.raises(NotAuthorised):
            agency.Agent(agency.socket_path(), 1).ask(Lock(passphrase="secret"))

        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b""


def test_it_brings_nothing_that_could_run_what_a_request_holds() -> None:
    code = "import sys, trun.daemons.agent; print([n for n in ('cloudpickle', 'trun.jobs') if n in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    assert loaded == "[]\n"


def test_without_an_agent_the_key_file_is_read(trun_folders: Path) -> None:
    assert agency.running() is None
    assert agency.keys_for(Where("facility")).public == keys.user_keys().public


def test_a_key_that_the_agent_cannot_use_is_read_from_its_file(agent: agency.Agent) -> None:
    agent.ask(Lock())

    assert agency.keys_for(Where("facility")).public == keys.user_keys().public


# -- what it makes of garbage


HOSTILE = [
    b"\n", b"{}\n", b"[]\n", b"null\n", b'"list"\n', b"\xff\xfe\n", b"\x80\x04\x95.\n", b"GET / HTTP/1.1\r\n\r\n",
    b'{"verb":"exec","code":"1"}\n', b'{"verb":"list","more":1}\n', b'{"verb":["list"]}\n', b'{"verb":"list"}{}\n',
    b'{"verb":"session","service":"a"}\n', b'{"verb":"session","service":{"name":1}}\n', b'{"verb":"session"}\n',
    b'{"verb":"attenuate","service":{"name":"a"},"holder":"b","ops":"read","res":[],"expires":"1"}\n',
    b'{"verb":"lock","locked":"no"}\n', b"[" * 60_000 + b"\n", b'{"a":' * 10_000 + b"\n", b"x" * 200_000,
    b'{"verb":"forget","service":"' + b"x" * 70_000 + b'"}\n',
]  # fmt: skip


def test_whoever_sends_no_request_is_cut_off_without_an_answer(agent: agency.Agent) -> None:
    for data in HOSTILE:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(agent.path))
            try:
                connection.sendall(data)
                assert connection.recv(1000) == b"", data[:60]
            except (ConnectionResetError, BrokenPipeError):
                pass

    assert agent.ask(List())["pid"] == agent.pid


def test_several_requests_may_come_over_one_connection_in_any_pieces(agent: agency.Agent) -> None:
    line = agency.written(List())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(agent.path))
        for piece in (line[:3], line[3:] + line + line[:5], line[5:]):
            connection.sendall(piece)
        found = b""
        while found.count(b"\n") < 3:
            found += connection.recv(65536)

    assert [json.loads(each)["data"]["pid"] for each in found.splitlines()] == [agent.pid] * 3


def test_silent_clients_take_nothing_from_others(agent: agency.Agent) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for connection in silent:
            connection.connect(str(agent.path))

        assert agent.ask(List())["pid"] == agent.pid
    finally:
        for connection in silent:
            connection.close()


def test_a_hundred_scripts_may_ask_at_the_same_time(agent: agency.Agent) -> None:
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda _: agent.ask(List())["pid"], range(300)))

    assert set(found) == {agent.pid}


def test_an_error_keeps_its_type_and_its_words(agent: agency.Agent) -> None:
    remember(Known(name="facility", address="tcp://127.0.0.1:1", key=keys.KeyPair(b"1" * 32).public))

    with pytest.raises(trun.UnknownName, match="facilty"):
        agent.ask(Session(Where("facilty")))
    with pytest.raises(trun.BadOption, match="no operation"):
        agent.ask(Attenuate(Where("facility"), "me", ("all",), ("*",), time.time() + 60))


# -- passphrases


def test_a_passphrase_opens_the_key_once_for_all_scripts(no_agent: None) -> None:
    mine = keys.user_keys().public
    assert command("agent", "lock", "--set", stdin="quiet river\nloud river\n").returncode == 2
    assert command("agent", "lock", "--set", stdin="quiet river\nquiet river\n").returncode == 0

    wrong = command("agent", "start", stdin="loud river\n")
    assert wrong.returncode == 4
    assert "not the passphrase" in wrong.stderr
    found = agency.running()
    assert found is not None
    assert found.ask(List())["locked"]
    with pytest.raises(NotAuthorised, match="locked"):
        found.ask(Session(Where("facility")))

    right = command("agent", "start", stdin="quiet river\n")
    assert right.stdout == f"agent runs already, unlocked: process {found.pid}, key {mine}\n"

    assert command("agent", "lock").returncode == 0
    assert found.ask(List())["locked"]
    with pytest.raises(NotAuthorised, match="needs its passphrase"):
        found.ask(Lock(locked=False))
    with pytest.raises(TrunError, match="locked"):
        agency.keys_for(Where("facility", "tcp://127.0.0.1:1", mine))


@pytest.mark.parametrize("words", [["forget"], ["start", "x"], ["open"], ["list", "--what"]])
def test_words_that_make_no_sense_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["agent", *words]) == 2

    assert "trun agent" in capsys.readouterr().err


# -- what it does for jobs of two services


def start(name: str) -> subprocess.CompletedProcess[str]:
    return command("service", "start", "--name", name, "--listen", "tcp://127.0.0.1:0", "--workers", "1")


@pytest.fixture
def services(trun_folders: Path) -> Iterator[tuple[Known, Known]]:
    """Two services with keys, one that lends and one that borrows."""
    names = ("facility", "cluster")
    keys.user_keys()
    with ThreadPoolExecutor(2) as pool:
        try:
            for begun in pool.map(start, names):
                assert begun.returncode == 0, begun.stderr
            yield find("facility"), find("cluster")
        finally:
            list(pool.map(lambda name: command("service", "stop", name, "--kill"), names))


def asking(where: Known, mine: keys.KeyPair) -> Service:
    """Speak to a service with these keys."""
    made = Service(name=where.name, address=where.address, detach=True)
    link = Link(where.address, security=Curve(mine.secret, mine.public, server=where.key))
    link.on_messages(made.heard)
    link.on_state(made.link_state)
    made.attach(link)
    made.wait_ready(WAIT_S)
    return made


def test_sessions_and_credentials_come_from_the_agent_and_end_when_they_are_forgotten_or_revoked(
    services: tuple[Known, Known], agent: agency.Agent
) -> None:
    facility, cluster = services

    session = agency.keys_for(Where("facility"))

    assert session.public != keys.user_keys().public
    made = asking(facility, session)
    assert made.ask("whoami")["key"] == keys.user_keys().public
    made.close()
    assert [each["key"] for each in agent.ask(List())["sessions"]] == [session.public]
    assert command("agent", "forget", "facility").stdout == "1 thing of facility forgotten\n"
    assert agent.ask(List())["sessions"] == []

    there = trun.remote_service("facility")

    made = trun.credentials(there, for_="cluster", expires="10m")

    links = tokens.inspect(str(made))
    assert links[-1]["holder"] == cluster.key
    listed = command("agent", "list")
    assert made.ids[-1] in listed.stdout
    assert str(made)[6:60] not in listed.stdout
    assert command("revoke", made.ids[-1], "--service", "facility").stdout == f"revoked at facility: {made.ids[-1]}\n"
    assert made.ids[-1] in (Path(facility.folder) / "revoked").read_text()
    assert command("revoke", str(made)[:-4], "--service", "facility").returncode == 2
    assert command("revoke", "abc", "--service", "facility").returncode == 2
    there.close()


def test_the_token_of_a_waiting_job_is_renewed_until_the_job_needs_it_no_more(
    services: tuple[Known, Known], agent: agency.Agent
) -> None:
    _, cluster = services
    here, there = trun.remote_service("facility"), trun.remote_service("cluster")
    gate = trun.Atom("gate")
    before = here.submit(int, 6, when=gate)
    job = there.submit(int, 7, when=before.iscompleted)
    assert job.id
    wanted = Attenuate(
        Where("facility"), cluster.key, ("read",), (f"job:{before.uid}",), time.time() + 10,
        Renewal(Where("cluster"), job.uid),
    )  # fmt: skip
    first = agent.ask(wanted)["expires"]

    wait_until(lambda: agent.ask(List())["renewing"][0]["expires"] > first + 2)
    gate.set_ready()
    assert job.result(timeout=WAIT_S) == 7

    wait_until(lambda: agent.ask(List())["renewing"] == [])
    assert len(agent.ask(List())["lent"]) >= 2
    for service in (here, there):
        service.close()


def test_a_service_that_does_not_answer_is_named_and_the_rest_goes_on(agent: agency.Agent) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        where = Where("deaf", f"tcp://127.0.0.1:{deaf.getsockname()[1]}", keys.KeyPair(b"1" * 32).public)
        heard: list[BaseException] = []

        def ask() -> None:
            try:
                agent.ask(Session(where))
            except TrunError as error:
                heard.append(error)

        asking_thread = threading.Thread(target=ask)
        asking_thread.start()
        begin = time.monotonic()
        assert agent.ask(List())["pid"] == agent.pid
        assert time.monotonic() - begin < 30
        asking_thread.join(WAIT_S)

    assert isinstance(heard[0], ServiceUnavailable)
    assert "deaf" in str(heard[0])
