"""Attacks on a real daemon: who is not let in, what is not taken, who is not disturbed, and what is not kept.

One daemon stands for the whole room; each test comes with keys of its own. A bystander who works at the same time
must be served, whatever the others do.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import zmq

import trun
from tests.attackers import DISTURBED_S, GENEROUS_S, Come, Raw, at_home, attacked, comers
from tests.sites import PATIENCE_S, Site, command
from trun.adapters import tokens, transfer, wire
from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.people import People
from trun.core.codec import encode_batch
from trun.errors import TransferRefused
from trun.messages import Answer, AnyRequest, Ask, Credit, Entries, Hello, JobSpec, Listen, Present, Refuse, Submit

RANDOM = random.Random(5)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A daemon that all attack."""
    with attacked("attacked") as made:
        yield made


@pytest.fixture(scope="module")
def flooded() -> Iterator[Site]:
    """A daemon that digests floods for a while after they have ended."""
    with attacked("flooded") as made:
        yield made


@pytest.fixture
def come(site: Site) -> Iterator[Come]:
    """Let somebody come with new keys and these roles."""
    yield from comers(site)


@pytest.fixture
def bystander(come: Come) -> Raw:
    return come("read", "submit")


# -- who is not let in ------------------------------------------------------------------------------------------------


def test_nobody_gets_in_without_the_secret_of_a_known_key(site: Site, come: Come, bystander: Raw) -> None:
    known = KeyPair(new_seed())
    come("read", "submit", pair=known)
    liars = [
        come(pair=KeyPair(new_seed()), server=KeyPair(new_seed()).public),
        come(pair=KeyPair(new_seed()), public=known.public),
        come(pair=known, routing_id=b"admin"),
        come(pair=known, routing_id=b"\x01\x02\x03\x04\x05"),
    ]
    context = zmq.Context()
    plain: list[zmq.Socket[bytes]] = [context.socket(zmq.DEALER) for _ in range(2)]
    plain[1].setsockopt(zmq.PLAIN_USERNAME, b"root")
    plain[1].setsockopt(zmq.PLAIN_PASSWORD, b"root")
    for each in plain:
        each.setsockopt(zmq.LINGER, 0)
        each.connect(site.address)
    sockets = [*plain, *(liar.socket for liar in liars)]
    for each in sockets:
        each.send(encode_batch([Hello(session="x"), Ask(token="t", verb="ping"), Ask(token="u", verb="ps")]))

    assert bystander.slowest(2.0) < DISTURBED_S
    assert [each.poll(0) for each in sockets] == [0] * len(sockets)

    for each in plain:
        each.close(linger=0)
    context.term()


def test_a_stranger_sees_and_changes_nothing(come: Come, bystander: Raw) -> None:
    eve = come()
    for verb in ("ps", "mint", "upload", "users", "session"):
        error = eve.ask(verb).error
        assert error is not None
        assert "does not know your key" in error.message
    eve.say(Hello(session="s"), Submit(specs=(JobSpec(uid="evil", name="evil"),)), Listen(streams=(("service", 1),)))
    assert eve.hear(0.5) == []  # it was told five times
    assert bystander.ask("job", job="evil").error is not None


# -- what is not taken ------------------------------------------------------------------------------------------------


def test_garbage_before_the_handshake_reaches_nobody(site: Site, bystander: Raw) -> None:
    host, port = site.address.removeprefix("tcp://").rsplit(":", 1)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x00" + bytes(31)
    for n in range(300):
        data = RANDOM.choice([greeting[: RANDOM.randrange(64)], RANDOM.randbytes(RANDOM.randrange(1, 500)), greeting])
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw:
            raw.sendall(data + (RANDOM.randbytes(300) if n % 2 else b"\x04\xc8\x05HELLO" + RANDOM.randbytes(194)))
    assert bystander.slowest(0.5) < DISTURBED_S
    assert psutil.pid_exists(site.pid)
    end = time.monotonic() + PATIENCE_S
    while not bystander.ask("summary").data["refused"]:  # counted, also for `trun service status`
        assert time.monotonic() < end
        time.sleep(0.05)
    with at_home("attacked"):
        assert "handshakes failed" in command("service", "status", site.name).stdout


@pytest.mark.parametrize("frames", [[b"\x91" * 100_000], [b"\xdd\xff\xff\xff\xff"], [b"x"] * 200_000, [b""], [b"\xc1"]])
def test_garbage_of_a_known_user_is_refused_and_said_once(come: Come, bystander: Raw, frames: list[bytes]) -> None:
    eve = come("read", "submit")
    for _ in range(3):
        eve.socket.send_multipart(frames)
    told = eve.hear_until(lambda answer: isinstance(answer, Answer))
    assert "no message of trun" in told.error.message
    assert eve.ask().error is None
    assert bystander.slowest(0.3) < DISTURBED_S


def test_a_giant_frame_ends_its_connection_alone(come: Come, bystander: Raw) -> None:
    eve = come("read", "submit")
    eve.socket.send(bytes(wire.FRAME_BYTES + 1))
    assert bystander.slowest(1.0) < DISTURBED_S
    assert eve.ask().error is None  # it has come back by itself


def test_a_condition_of_a_million_atoms_is_refused(come: Come, bystander: Raw) -> None:
    eve = come("submit")
    atom = b'{"atom":"set","id":"%032x","v":1}'
    for when in (b'{"op":"and","of":[' + b",".join(atom % n for n in range(1_000_000)) + b"]}", b'{"op":' * 100_000):
        eve.say(Submit(specs=(JobSpec(uid="heavy", name="heavy", when=when),)))
        assert isinstance(eve.hear_until(lambda answer: isinstance(answer, Refuse)), Refuse)
    assert bystander.slowest(0.3) < DISTURBED_S


def test_hostile_tokens_are_refused_in_no_time(come: Come, bystander: Raw) -> None:
    eve = come("submit")
    good = eve.ask("mint", res=["job:x"])
    assert good.error is not None  # not a job of its own
    hostile = ["", "x", "A" * 5000, "[" * 4000, "\x00" * 100, "{}.{}", ".".join("AAAA" for _ in range(1000))]
    eve.say(*(Present(tokens=(token,)) for token in hostile * 100), Ask(token="end", verb="ping"))
    refused = 0
    while True:
        for answer in eve.hear():
            if answer.token == "end":
                assert refused == 700
                assert bystander.slowest(0.3) < DISTURBED_S
                return
            refused += answer.error is not None


# -- who is not disturbed ---------------------------------------------------------------------------------------------


def test_silent_connections_keep_nobody_out(site: Site, come: Come) -> None:
    host, port = site.address.removeprefix("tcp://").rsplit(":", 1)
    silent = [socket.create_connection((host, int(port)), timeout=PATIENCE_S) for _ in range(450)]
    code = (
        "import socket, sys\n"
        f"kept = [socket.create_connection(({host!r}, {port})) for _ in range(450)]\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
        assert come("read").slowest(1.0) < DISTURBED_S
    finally:
        for other in others:
            other.communicate()
        for each in silent:
            each.close()


@pytest.mark.parametrize("kind", ["ask", "list", "hello", "listen", "unread", "versions", "unknown"])
def test_a_flood_of_one_key_drowns_nobody(flooded: Site, kind: str) -> None:
    coming = comers(flooded)
    come = next(coming)
    eve, bystander = come("read", "submit"), come("read", "submit")
    made: dict[str, Callable[[int], list[AnyRequest]]] = {
        "ask": lambda n: [Ask(token="t", verb="ping")] * 100,
        "list": lambda n: [Ask(token="t", verb="ps")] * 20,
        "hello": lambda n: [Hello(session=f"h{n}-{m}") for m in range(50)],
        "listen": lambda n: [Listen(streams=tuple((f"unknown{n}-{m}", 1) for m in range(1000)))],
        "unread": lambda n: [Ask(token="t", verb="summary")] * 50,
        "versions": lambda n: [Ask(token="t", verb="versions")] * 20,
        "unknown": lambda n: [Ask(token="t", verb="why", arguments={"job": f"unknown{n}"})] * 20,
    }
    over = threading.Event()

    def flood() -> None:
        n = 0
        while not over.is_set():
            eve.say(*made[kind](n))
            n += 1
            if n % 20 == 0:
                time.sleep(0.005)
            if kind != "unread":
                while eve.socket.poll(0):
                    eve.socket.recv_multipart()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        assert bystander.slowest(2.0) < DISTURBED_S
    finally:
        over.set()
        thread.join()
        coming.close()


# -- rights that end on open connections ------------------------------------------------------------------------------


def test_a_removed_key_hears_nothing_more_within_a_second(site: Site, come: Come) -> None:
    pair = KeyPair(new_seed())
    eve = come("read", pair=pair)
    eve.say(Listen(streams=(("service", 1),)))
    assert eve.ask().error is None
    began = time.monotonic()
    People(site.folder).remove(pair.public)
    told = eve.hear_until(lambda answer: isinstance(answer, Answer) and answer.error is not None)
    assert time.monotonic() - began < GENEROUS_S
    assert "removed" in told.error.message
    assert "does not know your key" in eve.ask("ps").error.message  # type: ignore[union-attr]


def test_a_ticket_for_the_bulk_port_ends_with_the_rights_of_its_holder(site: Site, come: Come, bystander: Raw) -> None:
    pair = KeyPair(new_seed())
    eve = come("submit", pair=pair)
    promised = [each.ask("upload", name=os.urandom(16).hex(), size=10).data for each in (eve, bystander)]
    People(site.folder).remove(pair.public)
    told = eve.hear_until(lambda answer: isinstance(answer, Answer) and answer.error is not None)
    assert "removed" in told.error.message
    where = [(one["address"], one["fingerprint"], one["ticket"]) for one in promised]
    with pytest.raises(TransferRefused):
        transfer.push(*where[0], (bytes(10),))
    transfer.push(*where[1], (bytes(10),))


def test_a_revoked_token_shows_nothing_more_within_a_second(site: Site, come: Come) -> None:
    operator, owner, lent = come("admin"), come("read", "submit"), KeyPair(new_seed())
    owner.say(Submit(specs=(JobSpec(uid="held", name="held", hold=True, kind="call"),)))
    signer = KeyPair(new_seed())
    minted = owner.ask("mint", ops=["read"], res=["job:held"], next=signer.verify, expires=time.time() + 600)
    assert minted.error is None, minted.error

    link = tokens.attenuate(
        minted.data["token"], signer, holder=lent.public, ops=["read"], res=["job:held"], expires=time.time() + 500
    )
    guest = come(pair=lent)
    guest.say(Present(tokens=(link,)), Hello(session="g"), Credit(entries=10), Listen(streams=(("held", 1),)))
    assert guest.hear_until(lambda answer: isinstance(answer, Entries)).entries[0].stream == "held"
    began = time.monotonic()
    assert operator.ask("revoke", id=tokens.inspect(link)[-1]["id"]).error is None
    told = guest.hear_until(lambda answer: isinstance(answer, Refuse))
    assert time.monotonic() - began < GENEROUS_S
    assert told.uids == ("held",)
    assert "revoked" in told.error.message


def test_each_decision_stands_in_the_audit_log(site: Site, come: Come) -> None:
    pair = KeyPair(new_seed())
    eve = come("read", pair=pair)
    assert eve.ask("ps").error is None
    assert eve.ask("users").error is not None
    lines = [line for line in site.log().splitlines() if "trun.audit" in line and pair.public in line]
    assert any(" allowed " in line and "'ps'" in line for line in lines)
    assert any(" denied " in line and "'users'" in line for line in lines)


# -- what is not kept, and silence ------------------------------------------------------------------------------------


def test_peers_that_come_and_go_leave_nothing(site: Site, come: Come, bystander: Raw) -> None:
    process = psutil.Process(site.pid)
    pair = KeyPair(new_seed())
    come("read", "submit", pair=pair).close()

    def rounds(count: int) -> tuple[int, int]:
        for n in range(count):
            each = Raw(site, pair)
            each.say(Hello(session=f"gone{n}"), Listen(streams=((f"x{n}", 1), ("service", 1))), Credit(entries=10))
            assert each.hear()
            each.close()
        end = time.monotonic() + PATIENCE_S
        while True:
            assert bystander.ask().error is None
            found = process.num_fds()
            if found < before + 10 or time.monotonic() > end:
                return process.memory_info().rss, found
            time.sleep(0.05)

    before = process.num_fds()
    settled, _ = rounds(300)
    size, fds = rounds(700)
    assert fds < before + 10
    assert size - settled < 4_000_000


def _down_after(down: threading.Event) -> float:
    began = time.monotonic()
    assert down.wait(PATIENCE_S)
    return time.monotonic() - began


def _connections(site: Site) -> int:
    """Return how many connections over the network a daemon holds."""
    process = psutil.Process(site.pid)
    look = getattr(process, "net_connections", None) or process.connections
    return sum(found.status == psutil.CONN_ESTABLISHED for found in look("tcp"))


@pytest.fixture(scope="module")
def quiet() -> Iterator[Site]:
    """A daemon to which nobody else speaks, so that its connections can be counted."""
    with attacked("quiet") as made:
        yield made


def test_both_sides_notice_silence_in_time(quiet: Site) -> None:
    site = quiet
    pair = KeyPair(new_seed())
    People(site.folder).add("silent", pair.public, ("read",))
    code = (
        "import os, time, zmq\n"
        "from trun.adapters.wire import Curve, Link\n"
        "from trun.messages import Hello\n"
        f"link = Link({site.address!r}, security=Curve({pair.secret!r}, {pair.public!r}, server={site.key!r}))\n"
        "link.on_messages(lambda answers: print('ready', flush=True))\n"
        "link.send([Hello(session='silent')])\n"
        "time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert _connections(site) == 1
        other.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        while _connections(site):
            assert time.monotonic() - began < GENEROUS_S
            time.sleep(0.05)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()  # type: ignore[union-attr]

    from trun.adapters.keys import user_keys

    People(site.folder).add("me", user_keys().public, ("read", "submit"))
    service = trun.remote_service(site.address, expect=site.key)
    down = threading.Event()
    service.on_down = down.set
    os.kill(site.pid, signal.SIGSTOP)
    try:
        assert _down_after(down) < GENEROUS_S
    finally:
        os.kill(site.pid, signal.SIGCONT)
    assert service.ask("ping") == {}
    service.leave_quietly()
