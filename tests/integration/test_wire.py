"""The wire with real sockets: strangers, garbage, broken connections, forks, ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trun.adapters import wire
from trun.adapters.wire import Link, RouterEndpoint
from trun.core.codec import encode_batch
from trun.errors import BadOption, NotAuthorised, ServiceUnavailable, StateError, StateHeld, UsageError
from trun.messages import Answer, Bye, Credit, Define, Hello
from wires import WAIT_S, Client, receive, receive_until


@pytest.fixture
def address(trun_folders: Path) -> str:
    return f"ipc://{trun_folders}/run/x.sock"


@pytest.fixture
def endpoint(address: str) -> Iterator[RouterEndpoint]:
    endpoint = RouterEndpoint(address)
    yield endpoint
    endpoint.close()


@pytest.fixture
def client(endpoint: RouterEndpoint) -> Iterator[Client]:
    client = Client(endpoint.address)
    yield client
    client.link.close(flush=False)


@pytest.fixture
def stranger(endpoint: RouterEndpoint) -> Iterator[zmq.Socket[bytes]]:
    """A socket that speaks ZeroMQ, but may say anything."""
    context = zmq.Context()
    raw: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    raw.setsockopt(zmq.SNDHWM, 0)
    raw.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
    raw.connect(endpoint.address)
    yield raw
    raw.close(linger=0)
    context.term()


def assert_lives(endpoint: RouterEndpoint) -> None:
    """The service still serves somebody who behaves."""
    client = Client(endpoint.address)
    client.say(Hello(session="still there"))
    peer = b""
    while not peer:
        peer = next((peer for peer, request in receive(endpoint, 1) if request == Hello(session="still there")), b"")
    assert endpoint.send(peer, [Answer(token="yes")])
    assert client.wait_for(1) == [Answer(token="yes")]
    client.link.close()


# -- where it listens -------------------------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_alone_and_goes_with_the_endpoint(trun_folders: Path) -> None:
    path = trun_folders / "run" / "new" / "x.sock"
    endpoint = RouterEndpoint(f"ipc://{path}")

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    endpoint.close()
    assert not path.exists()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(StateError, match=r"others may write to the folder .*chmod go-w"):
        RouterEndpoint(f"ipc://{tmp_path}/x.sock")


def test_a_path_that_is_too_long_for_a_socket_is_refused_on_both_sides(trun_folders: Path) -> None:
    path = f"{trun_folders}/run/{'x' * 100}.sock"

    for side in (RouterEndpoint, Link):
        with pytest.raises(BadOption, match=r"has 1\d\d bytes; a Unix socket takes at most 107.*TRUN_RUNTIME_DIR"):
            side(f"ipc://{path}")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "inproc://x", "nonsense"])
def test_other_transports_need_keys(address: str) -> None:
    for side in (RouterEndpoint, Link):
        with pytest.raises(BadOption, match="needs keys"):
            side(address)


@pytest.mark.parametrize("address", ["ipc://@abstract", "ipc://relative/x.sock", "ipc://"])
def test_an_address_without_an_absolute_path_is_refused(address: str) -> None:
    with pytest.raises(BadOption, match="absolute path"):
        RouterEndpoint(address)


def test_a_living_socket_is_not_taken_away(endpoint: RouterEndpoint) -> None:
    with pytest.raises(StateHeld, match=f"is held by process {os.getpid()} since"):
        RouterEndpoint(endpoint.address)

    assert_lives(endpoint)


def test_a_socket_that_nobody_listens_at_is_replaced(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.removeprefix("ipc://"))

    endpoint = RouterEndpoint(address)

    assert_lives(endpoint)
    endpoint.close()


def test_a_file_that_is_no_socket_is_not_replaced(address: str) -> None:
    path = Path(address.removeprefix("ipc://"))
    path.write_text("precious")

    with pytest.raises(BadOption, match="exists and is no socket"):
        RouterEndpoint(address)

    assert path.read_text() == "precious"


# -- who may speak ----------------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to be somebody else")
NOBODY = 65534


def open_to_all(endpoint: RouterEndpoint, trun_folders: Path) -> None:
    """Take away all that file modes do."""
    for path in (trun_folders.parent, trun_folders, trun_folders / "run"):
        path.chmod(0o711)
    Path(endpoint.address.removeprefix("ipc://")).chmod(0o777)


def fork(function: Callable[[], str], *, uid: int | None = None) -> tuple[int, int]:
    """Call the function in a child, as another user; return its pid and a descriptor with what it returned."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads of ours sleep in ZeroMQ
        pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            os.write(write, function().encode())
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def said_by(child: tuple[int, int]) -> str:
    """Wait for the end of a child and return what it said."""
    pid, read = child
    with open(read, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return said


def speak(address: str) -> str:
    """Say hello and tell how the connection went."""
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    events = raw.get_monitor_socket()
    events.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
    raw.connect(address)
    raw.send(encode_batch([Hello(session="me")]))
    for _ in range(20):
        event = int.from_bytes(events.recv_multipart()[0][:2], "little")
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return "succeeded"
        if event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            return "refused"
    return "nothing happened"


@needs_root
def test_another_user_is_refused_even_where_the_file_lets_him_in(endpoint: RouterEndpoint, trun_folders: Path) -> None:
    open_to_all(endpoint, trun_folders)

    assert said_by(fork(lambda: speak(endpoint.address), uid=NOBODY)) == "refused"
    assert endpoint.receive() == []
    assert said_by(fork(lambda: speak(endpoint.address))) == "succeeded"
    assert_lives(endpoint)


@needs_root
def test_the_user_is_looked_at_for_each_message_too(trun_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.SameUser, "guard", lambda self, socket: None)
    endpoint = RouterEndpoint(f"ipc://{trun_folders}/run/x.sock")
    open_to_all(endpoint, trun_folders)

    def stay() -> str:
        said = speak(endpoint.address)
        signal.pause()
        return said

    child, read = fork(stay, uid=NOBODY)
    found = receive_until(endpoint, lambda: endpoint.dropped > 0)

    assert found == []
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    assert_lives(endpoint)
    endpoint.close()


@needs_root
def test_a_client_does_not_speak_to_a_socket_of_another_user(endpoint: RouterEndpoint) -> None:
    os.chown(endpoint.address.removeprefix("ipc://"), NOBODY, NOBODY)

    with pytest.raises(NotAuthorised, match="belongs to the user with uid 65534"):
        Link(endpoint.address)


def test_nobody_takes_over_the_name_of_another_connection(endpoint: RouterEndpoint) -> None:
    context = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []
    for number in range(2):
        raw: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        raw.setsockopt(zmq.ROUTING_ID, b"the same")
        raw.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        raw.connect(endpoint.address)
        sockets.append(raw)
        raw.send(encode_batch([Hello(session=f"number {number}")]))
        if number == 0:
            assert receive(endpoint, 1) == [(b"the same", Hello(session="number 0"))]

    assert_lives(endpoint)
    endpoint.send(b"the same", [Answer(token="for number 0")])

    assert sockets[0].recv() == encode_batch([Answer(token="for number 0")])
    for raw in sockets:
        raw.close(linger=0)
    context.term()


# -- garbage ----------------------------------------------------------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "no array": msgspec.msgpack.encode({"Hello": 1}),
    "wrong tag": msgspec.msgpack.encode([["Nonsense", 1]]),
    "an answer": encode_batch([Answer(token="x")]),
    "wrong types": msgspec.msgpack.encode([["Hello", 1, 2, 3, 4]]),
    "too few fields": msgspec.msgpack.encode([["Hello"]]),
    "a bare message": msgspec.msgpack.encode(["Hello", "me"]),
    "cut off": encode_batch([Hello(session="me")])[:-3],
    "more after the end": encode_batch([Hello(session="me")]) + b"\xc0",
    "a huge array": b"\xdd\xff\xff\xff\xff",
    "a huge map": b"\xdf\xff\xff\xff\xff",
    "a huge text": b"\xdb\xff\xff\xff\xff",
    "deep arrays": b"\x91" * 200_000,
    "deep arguments": b"\x91\x94\xa3Ask\xa1t\xa1v\x81\xa1a" + b"\x91" * 200_000 + b"\xc0",
    "deep maps": b"\x91\x94\xa3Ask\xa1t\xa1v" + b"\x81\xa1a" * 200_000 + b"\xc0",
    "no utf-8": b"\x91\x92\xa5Hello\xa2\xff\xfe",
    "a bad opcode": b"\xc1",
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_dropped_and_counted_and_answered_once(
    endpoint: RouterEndpoint, stranger: zmq.Socket[bytes], kind: str
) -> None:
    for _ in range(3):
        stranger.send(GARBAGE[kind])
    stranger.send(encode_batch([Hello(session="me")]))

    ((peer, request),) = receive(endpoint, 1)

    assert request == Hello(session="me")
    assert endpoint.dropped == 3
    (told,) = msgspec.msgpack.decode(stranger.recv(), type=list[Answer])
    assert told.error is not None
    assert told.error.message.startswith("this is no message of trun")
    endpoint.send(peer, [Answer(token="end")])
    assert stranger.recv() == encode_batch([Answer(token="end")])


def test_a_message_of_200_000_frames_is_dropped(endpoint: RouterEndpoint, stranger: zmq.Socket[bytes]) -> None:
    stranger.send_multipart([encode_batch([Hello(session="me")])] * 200_000)

    found = receive_until(endpoint, lambda: endpoint.dropped > 0)

    assert found == []
    assert endpoint.dropped == 1
    assert_lives(endpoint)


def test_one_bad_frame_spoils_its_message_and_no_other(endpoint: RouterEndpoint, stranger: zmq.Socket[bytes]) -> None:
    good = encode_batch([Hello(session="me")])
    stranger.send_multipart([good, b"\xc1", good])
    stranger.send_multipart([good, encode_batch([Bye()])])

    found = receive(endpoint, 2)

    assert [request for _, request in found] == [Hello(session="me"), Bye()]
    assert endpoint.dropped == 1


def test_a_giant_frame_ends_the_connection_and_not_the_service(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FRAME_BYTES", 100_000)
    endpoint = RouterEndpoint(address)
    client = Client(address)
    client.say(Hello(session="me"))
    receive(endpoint, 1)

    client.say(Define(digest="d", data=b"x" * 200_000))
    client.wait_for_state("down", "up")
    client.say(Hello(session="again"))

    assert [request for _, request in receive(endpoint, 1)] == [Hello(session="again")]
    assert_lives(endpoint)
    client.link.close()
    endpoint.close()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_random_frames_never_end_the_service(
    endpoint: RouterEndpoint, stranger: zmq.Socket[bytes], data: bytes
) -> None:
    stranger.send(data)
    stranger.send(encode_batch([Bye()]))

    found = [request for _, request in receive(endpoint, 1)]

    assert found[-1:] == [Bye()]


def test_random_bytes_on_raw_connections_never_reach_the_service(endpoint: RouterEndpoint) -> None:
    chance = random.Random(1)
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(endpoint.address.removeprefix("ipc://"))
            greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" if chance.random() < 0.5 else b""
            try:
                raw.sendall(greeting + chance.randbytes(chance.randrange(200)))
            except OSError:
                continue  # it was thrown out, which is right

    assert endpoint.receive() == []
    assert_lives(endpoint)


def test_a_service_that_talks_garbage_does_not_end_the_link(address: str) -> None:
    context = zmq.Context()
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    router.bind(address)
    client = Client(address)
    client.say(Hello(session="me"))
    peer, _ = router.recv_multipart()

    router.send_multipart([peer, b"\xc1", encode_batch([Hello(session="a request")])])
    router.send_multipart([peer, encode_batch([Answer(token="1")])])

    assert client.wait_for(1) == [Answer(token="1")]
    assert client.link.dropped == 2
    client.link.close()
    router.close(linger=0)
    context.term()


# -- connections that break -------------------------------------------------------------------------------------------


def test_a_link_comes_up_when_the_service_comes_later(address: str) -> None:
    client = Client(address)
    client.say(Hello(session="early"))

    endpoint = RouterEndpoint(address)

    assert [request for _, request in receive(endpoint, 1)] == [Hello(session="early")]
    client.link.close()
    endpoint.close()


def test_after_a_broken_connection_the_greeting_comes_before_what_was_held(address: str) -> None:
    endpoint = RouterEndpoint(address)
    client = Client(address)
    client.greet = lambda state: client.say(Hello(session=state)) if state == "up" else None
    client.say(Credit(entries=1))
    first = receive(endpoint, 2)
    endpoint.close()
    client.wait_for_state("up", "down")
    client.say(Credit(entries=2))
    client.say(Credit(entries=3))

    endpoint = RouterEndpoint(address)
    second = receive(endpoint, 3)

    assert [request for _, request in first] == [Hello(session="up"), Credit(entries=1)]
    assert [request for _, request in second] == [Hello(session="up"), Credit(entries=2), Credit(entries=3)]
    client.wait_for_state("up", "down", "up")
    client.link.close()
    endpoint.close()


def test_what_the_service_said_before_it_went_is_heard(address: str) -> None:
    endpoint = RouterEndpoint(address)
    client = Client(address)
    client.say(Hello(session="me"))
    ((peer, _),) = receive(endpoint, 1)

    for number in range(1000):
        endpoint.send(peer, [Answer(token=str(number))])
    endpoint.close()

    assert [answer.token for answer in client.wait_for(1000) if isinstance(answer, Answer)] == [
        str(number) for number in range(1000)
    ]
    client.link.close(flush=False)


def test_a_callback_that_fails_does_not_end_the_link(
    endpoint: RouterEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link(endpoint.address)
    heard = threading.Event()

    def take(answers: object) -> None:
        if not heard.is_set():
            heard.set()
            raise RuntimeError("my own fault")

    link.on_messages(take)
    link.send([Hello(session="me")])
    ((peer, _),) = receive(endpoint, 1)
    endpoint.send(peer, [Answer(token="1")])
    assert heard.wait(WAIT_S)

    link.send([Credit(entries=1)])

    assert receive(endpoint, 1) == [(peer, Credit(entries=1))]
    assert "my own fault" in caplog.text
    link.close()


# -- sending ----------------------------------------------------------------------------------------------------------


def test_many_threads_may_send_and_each_is_heard_in_its_order(endpoint: RouterEndpoint, client: Client) -> None:
    def speak(me: int) -> None:
        for number in range(500):
            client.say(Define(digest=f"{me}", data=number.to_bytes(2, "big")))

    threads = [threading.Thread(target=speak, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    found = [request for _, request in receive(endpoint, 2000)]
    for thread in threads:
        thread.join()

    for me in range(4):
        mine = [int.from_bytes(r.data, "big") for r in found if isinstance(r, Define) and r.digest == str(me)]
        assert mine == list(range(500))


def test_a_batch_of_many_megabytes_arrives_whole(endpoint: RouterEndpoint, client: Client) -> None:
    batch = [Define(digest=str(number), data=bytes([number]) * 1_000_000) for number in range(40)]

    client.say(*batch)

    assert [request for _, request in receive(endpoint, 40)] == batch


def test_one_thread_is_enough_and_starts_at_the_first_word(endpoint: RouterEndpoint) -> None:
    before = threading.active_count()

    link = Link(endpoint.address)
    assert threading.active_count() == before
    link.send([Bye()])
    link.send([Bye()])

    assert threading.active_count() == before + 1
    receive(endpoint, 2)
    link.close()
    assert threading.active_count() == before


# -- ends -------------------------------------------------------------------------------------------------------------


def test_closing_sends_what_was_said(endpoint: RouterEndpoint) -> None:
    client = Client(endpoint.address)
    for number in range(5000):
        client.say(Credit(entries=number))

    client.link.close()
    client.link.close()

    found = receive(endpoint, 5000)
    assert [request.entries for _, request in found if isinstance(request, Credit)] == list(range(5000))


def test_closing_without_a_service_waits_a_bounded_time(address: str) -> None:
    link = Link(address)
    link.send([Bye()])
    start = time.monotonic()

    link.close(timeout=0.2)

    assert time.monotonic() - start < WAIT_S


def test_closing_without_flush_waits_for_nothing(address: str) -> None:
    link = Link(address)
    link.send([Bye()])
    start = time.monotonic()

    link.close(flush=False, timeout=3 * WAIT_S)

    assert time.monotonic() - start < WAIT_S


def test_a_closed_link_and_one_that_never_spoke_can_be_closed_and_do_not_send(endpoint: RouterEndpoint) -> None:
    silent, spoken = Link(endpoint.address), Link(endpoint.address)
    spoken.send([Bye()])
    for link in (silent, spoken):
        link.close()
        with pytest.raises(ServiceUnavailable, match="is closed"):
            link.send([Bye()])


def test_the_callback_may_close_the_link(endpoint: RouterEndpoint) -> None:
    link = Link(endpoint.address)
    done = threading.Event()

    def end(answers: object) -> None:
        link.close()
        done.set()

    link.on_messages(end)
    link.send([Hello(session="me")])
    ((peer, _),) = receive(endpoint, 1)
    endpoint.send(peer, [Answer(token="1")])

    assert done.wait(WAIT_S)


def test_a_child_made_by_fork_is_told_to_open_its_own(endpoint: RouterEndpoint, client: Client) -> None:
    client.say(Hello(session="me"))
    receive(endpoint, 1)

    def try_it() -> str:
        try:
            client.say(Bye())
        except UsageError as error:
            client.link.close()
            return str(error)
        return "it was sent"

    assert "before a fork" in said_by(fork(try_it))
    client.say(Credit(entries=1))
    assert [request for _, request in receive(endpoint, 1)] == [Credit(entries=1)]


def test_an_interpreter_ends_although_a_link_is_open(endpoint: RouterEndpoint) -> None:
    code = (
        "import sys; from trun.adapters.wire import Link; from trun.messages import Hello\n"
        "link = Link(sys.argv[1]); link.send([Hello(session='me')])"
    )

    done = subprocess.run([sys.executable, "-c", code, endpoint.address], capture_output=True, timeout=WAIT_S)

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_service_that_stands_still_does_not_hold_up_the_client(endpoint: RouterEndpoint) -> None:
    code = (
        "import sys, os; from trun.adapters.wire import RouterEndpoint\n"
        "endpoint = RouterEndpoint(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    )
    address = endpoint.address.replace("x.sock", "y.sock")
    process = subprocess.Popen(
        [sys.executable, "-c", code, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    link = Link(address)
    start = time.monotonic()

    for _ in range(1000):
        link.send([Define(digest="d", data=b"x" * 1000)])
    link.close(timeout=0.2)

    assert time.monotonic() - start < WAIT_S
    process.kill()
    process.communicate()
