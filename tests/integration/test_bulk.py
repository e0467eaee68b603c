"""Bulk data over TLS: there and back, going on after a break, files of a service, tickets. Real sockets."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulk_kit import CAP, MB, WAIT_S, Relay, digest_of, relay, secure, serving, until
from trun.adapters import transfer
from trun.adapters.addresses import place
from trun.adapters.bulk import BulkServer
from trun.adapters.export import Exports
from trun.adapters.fetching import fetch_trun
from trun.adapters.parts import is_part
from trun.adapters.transfer import UNCHECKED, client_context, fetch, fetch_bytes, push, split_address
from trun.errors import BadOption, DigestMismatch, NotAuthorised, ServiceUnavailable, TransferRefused


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BulkServer]:
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def content() -> bytes:
    return random.Random(7).randbytes(3 * MB)


@pytest.fixture
def source(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "source.dat"
    path.write_bytes(content)
    return path


# -- there and back


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 3 * MB])
def test_a_file_arrives_whole(server: BulkServer, tmp_path: Path, content: bytes, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content[:size])
    ticket = server.ticket(source)

    found = fetch(server.address, server.fingerprint, ticket, tmp_path / "target", size_cap=CAP)

    assert found == (size, digest_of(content[:size]))
    assert (tmp_path / "target").read_bytes() == content[:size]


@pytest.mark.parametrize("size", [0, 1, 262_145, 3 * MB])
def test_a_value_arrives_whole(server: BulkServer, content: bytes, size: int) -> None:
    data = content[:size]

    for digest in ("", UNCHECKED, digest_of(data)):
        ticket = server.ticket(data, digest=digest)

        assert fetch_bytes(server.address, server.fingerprint, ticket, size_cap=CAP, digest=digest) == data


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 262_145, 3 * MB])
def test_what_is_pushed_arrives_whole(
    server: BulkServer, tmp_path: Path, content: bytes, size: int, checked: bool
) -> None:
    data = content[:size]
    done = threading.Event()
    target = tmp_path / "target"
    ticket = server.accept(target, size, digest_of(data) if checked else UNCHECKED, then=done.set)

    push(server.address, server.fingerprint, ticket, [data[: size // 3], memoryview(data)[size // 3 :]])

    assert target.read_bytes() == data
    assert done.is_set()
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_file_is_pushed_like_a_value(server: BulkServer, tmp_path: Path, source: Path, content: bytes) -> None:
    size, digest = transfer.measure_source(source)
    ticket = server.accept(tmp_path / "target", size, digest)

    push(server.address, server.fingerprint, ticket, source)

    assert (tmp_path / "target").read_bytes() == content


def test_many_at_a_time_do_not_mix(server: BulkServer, tmp_path: Path, content: bytes) -> None:
    faults: list[BaseException] = []

    def one(number: int) -> None:
        try:
            data = content[number * 1000 : number * 1000 + MB]
            ticket = server.ticket(data)
            assert fetch_bytes(server.address, server.fingerprint, ticket, size_cap=CAP, digest="") == data
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []


# -- going on after a break


def test_a_broken_fetch_goes_on_where_it_was(server: BulkServer, tmp_path: Path, source: Path, content: bytes) -> None:
    ticket = server.ticket(source)
    with relay(server, down=[MB, 700_000, 500_000]) as between:
        found = fetch(between.address, server.fingerprint, ticket, tmp_path / "target", size_cap=CAP, key="source")

        assert between.connections == 4
        assert between.passed < 3 * MB + 100_000

    assert found[1] == digest_of(content)
    assert not any(is_part(path.name) for path in tmp_path.iterdir())


def test_a_value_goes_on_after_a_break_too(server: BulkServer, content: bytes) -> None:
    for digest in ("", UNCHECKED, digest_of(content)):
        ticket = server.ticket(content, digest=digest)
        with relay(server, down=[MB, MB]) as between:
            assert fetch_bytes(between.address, server.fingerprint, ticket, size_cap=CAP, digest=digest) == content

            assert between.connections == 3
            assert between.passed < 3 * MB + 100_000


def test_a_busy_server_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.01)
    with serving(tmp_path, transfers=1) as server, secure(server) as sock:
        sock.sendall(b"TRUN1 GET %s 0\n" % server.ticket(bytes(50 * MB)).encode())
        assert sock.recv(2) == b"OK"
        free = threading.Thread(target=lambda: (until(lambda: server.counts["busy"] >= 2), sock.close()))
        free.start()

        found = fetch_bytes(server.address, server.fingerprint, server.ticket(b"abc"), size_cap=CAP)

        free.join()
    assert found == b"abc"


def test_a_fetch_goes_on_in_another_process_with_another_ticket(
    server: BulkServer, tmp_path: Path, source: Path, content: bytes
) -> None:
    target, digest = tmp_path / "target", digest_of(content)
    code = (
        "import sys, pathlib; from trun.adapters.transfer import fetch\n"
        "a, f, t, target, d = sys.argv[1:]; fetch(a, f, t, pathlib.Path(target), size_cap=1 << 30, digest=d)"
    )
    with relay(server, down=[2 * MB], stall=2) as between:
        ticket = server.ticket(source, digest=digest)
        arguments = [between.address, server.fingerprint, ticket, str(target), digest]
        with subprocess.Popen([sys.executable, "-c", code, *arguments]) as first:
            until(lambda: between.connections >= 2)
            first.send_signal(signal.SIGKILL)
            first.wait(WAIT_S)
    parts = [path for path in tmp_path.iterdir() if is_part(path.name)]
    assert len(parts) == 1
    assert MB < parts[0].stat().st_size < len(content)

    with relay(server, down=[]) as between:
        again = server.ticket(source, digest=digest)
        fetch(between.address, server.fingerprint, again, target, size_cap=CAP, digest=digest)

        assert between.passed < 2 * MB
    assert target.read_bytes() == content


def test_a_broken_push_goes_on_where_it_was(server: BulkServer, tmp_path: Path, content: bytes) -> None:
    ticket = server.accept(tmp_path / "target", len(content), digest_of(content))
    with relay(server, down=[], up=[MB, MB, 500_000]) as between:
        push(between.address, server.fingerprint, ticket, [content])

        assert between.connections >= 4
        assert between.passed < 4.5 * MB

    assert (tmp_path / "target").read_bytes() == content


def test_a_push_goes_on_after_a_restart_of_the_service(tmp_path: Path, content: bytes) -> None:
    target, digest = tmp_path / "target", digest_of(content)
    with serving(tmp_path) as server:
        ticket = server.accept(target, len(content), digest)
        with secure(server) as sock:
            sock.sendall(b"TRUN1 PUT %s 0\n" % ticket.encode())
            assert sock.recv(100).startswith(b"OK 0 ")
            sock.sendall(content[: 2 * MB])
        until(lambda: server.counts["broken"] == 1)

    with serving(tmp_path) as server:
        ticket = server.accept(target, len(content), digest)
        with relay(server, down=[]) as between:
            push(between.address, server.fingerprint, ticket, [content])

            assert between.passed < 2 * MB
    assert target.read_bytes() == content


_SERVICE = """
import pathlib, sys
from trun.adapters.bulk import BulkServer
folder, size, digest = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
server = BulkServer("127.0.0.1", folder / "keys")
print(server.address, server.fingerprint, server.accept(folder / "target", size, digest), flush=True)
sys.stdin.read()
"""


def test_a_push_goes_on_after_the_service_was_killed(tmp_path: Path, content: bytes) -> None:
    command = [sys.executable, "-c", _SERVICE, str(tmp_path), str(len(content)), digest_of(content)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start() as service:
        assert service.stdout is not None
        address, first, ticket = service.stdout.readline().split()
        with client_context().wrap_socket(socket.create_connection(split_address(address))) as sock:
            sock.sendall(b"TRUN1 PUT %s 0\n" % ticket.encode())
            assert sock.recv(100).startswith(b"OK 0 ")
            sock.sendall(content[: 2 * MB])
            until(lambda: any(is_part(path.name) and path.stat().st_size > MB for path in tmp_path.iterdir()))
            service.kill()

    with start() as service:
        assert service.stdout is not None
        address, second, ticket = service.stdout.readline().split()
        between = Relay(address, down=[])
        push(between.address, second, ticket, [content])
        between.close()
        service.kill()
    assert first == second
    assert between.passed < 2 * MB
    assert (tmp_path / "target").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "target"]


def test_a_part_that_was_something_else_is_thrown_away(
    server: BulkServer, tmp_path: Path, source: Path, content: bytes
) -> None:
    target = tmp_path / "target"
    ticket = server.ticket(source, uses=1)
    with relay(server, down=[2 * MB]) as between, pytest.raises(TransferRefused, match="used up"):
        fetch(between.address, server.fingerprint, ticket, target, size_cap=CAP, key="the file")
    other = bytes(len(content))
    source.write_bytes(other)

    found = fetch(server.address, server.fingerprint, server.ticket(source), target, size_cap=CAP, key="the file")

    assert found[1] == digest_of(other)
    assert target.read_bytes() == other


def test_a_part_that_cannot_be_checked_is_thrown_away(
    server: BulkServer, tmp_path: Path, source: Path, content: bytes
) -> None:
    target = tmp_path / "target"
    ticket = server.ticket(source, digest=UNCHECKED, uses=1)
    with relay(server, down=[2 * MB]) as between, pytest.raises(TransferRefused, match="used up"):
        fetch(between.address, server.fingerprint, ticket, target, size_cap=CAP, key="the file")
    part = next(path for path in tmp_path.iterdir() if is_part(path.name))
    part.write_bytes(bytes(MB))

    ticket = server.ticket(source, digest=UNCHECKED)
    found = fetch(server.address, server.fingerprint, ticket, target, size_cap=CAP, key="the file")

    assert found == (3 * MB, digest_of(content))


def test_what_never_moves_is_given_up(
    server: BulkServer, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    with relay(server, down=[5000] * 20) as between:
        with pytest.raises(ServiceUnavailable, match="broke off"):
            fetch(between.address, server.fingerprint, server.ticket(source, uses=20), tmp_path / "t", size_cap=CAP)

        assert between.connections <= 2 * transfer.TRIES


# -- what is not what it should be


def test_another_certificate_is_a_hard_stop(tmp_path: Path, server: BulkServer, source: Path) -> None:
    with serving(tmp_path / "other") as impostor:
        ticket = server.ticket(source)

        with pytest.raises(NotAuthorised, match="somebody may be in between"):
            fetch(impostor.address, server.fingerprint, ticket, tmp_path / "t", size_cap=CAP)
        with pytest.raises(NotAuthorised, match=server.fingerprint):
            push(impostor.address, server.fingerprint, ticket, [b"secret"])

        until(lambda: sum(impostor.counts.values()) == 2)
        assert set(impostor.counts) <= {"garbage"}  # the ticket never went out


def test_the_certificate_stays_the_same(tmp_path: Path) -> None:
    with serving(tmp_path) as one:
        first = one.fingerprint
    with serving(tmp_path) as two:
        assert two.fingerprint == first


def test_a_wrong_digest_leaves_nothing(server: BulkServer, tmp_path: Path, source: Path, content: bytes) -> None:
    for claimed in ("", "0" * 64):
        ticket = server.ticket(source, digest=claimed)
        with pytest.raises(DigestMismatch, match="0000"):
            fetch(server.address, server.fingerprint, ticket, tmp_path / "t", size_cap=CAP, digest="0" * 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "source.dat"]

    ticket = server.accept(tmp_path / "t", len(content), "0" * 64)
    with pytest.raises(TransferRefused, match="not what was announced"):
        push(server.address, server.fingerprint, ticket, [content])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "source.dat"]


def test_too_big_is_refused_before_a_byte_is_taken(server: BulkServer, tmp_path: Path, source: Path) -> None:
    with pytest.raises(TransferRefused, match=r"3000000 bytes, and at most 2999999 .*max_size"):
        fetch(server.address, server.fingerprint, server.ticket(source), tmp_path / "t", size_cap=3 * MB - 1)
    with pytest.raises(TransferRefused, match="max_size"):
        fetch_bytes(server.address, server.fingerprint, server.ticket(b"abc"), size_cap=2)


def test_a_file_that_was_replaced_is_not_sent(server: BulkServer, tmp_path: Path, source: Path) -> None:
    ticket = server.ticket(source)
    source.rename(tmp_path / "old")
    source.write_bytes(b"new")

    with pytest.raises(TransferRefused, match="changed"):
        fetch(server.address, server.fingerprint, ticket, tmp_path / "t", size_cap=CAP)


def test_a_file_that_is_gone_is_named(server: BulkServer, tmp_path: Path, source: Path) -> None:
    ticket = server.ticket(source)
    source.unlink()

    with pytest.raises(TransferRefused, match="not there any more"):
        fetch(server.address, server.fingerprint, ticket, tmp_path / "t", size_cap=CAP)


def test_only_regular_files_get_tickets(server: BulkServer, tmp_path: Path, source: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(source)

    for path in (tmp_path / "fifo", tmp_path, tmp_path / "link", tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(OSError, match=r"."):
            server.ticket(path)


def test_a_full_disk_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with serving(tmp_path, reserve=1 << 62) as server, pytest.raises(TransferRefused, match="no room for 10 bytes"):
        server.accept(tmp_path / "target", 10, UNCHECKED)


# -- files of a service


def test_what_a_service_gives_away_is_fetched(server: BulkServer, tmp_path: Path) -> None:
    (tmp_path / "export" / "7").mkdir(parents=True)
    (tmp_path / "export" / "7" / "a b.txt").write_text("published")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("exported")
    exports = Exports(folder=tmp_path, server=server, root=tmp_path / "data")

    for url, text in (("trun://key/jobs/7/files/a%20b.txt", "published"), ("trun://key/export/x", "exported")):
        offer = exports.offer(url, holder="adam")
        assert offer.pop("size") == len(text)
        assert offer.pop("digest") == ""
        fetch(*offer.values(), tmp_path / "t", size_cap=CAP)
        assert (tmp_path / "t").read_text() == text
    for url in ("trun://key/jobs/7/files/x", "trun://key/export/7", "trun://key/export/.x", "trun://key/jobs/8/files/x"):
        with pytest.raises(FileNotFoundError, match="that can be fetched"):
            exports.offer(url)
    with pytest.raises(BadOption, match="leaves the folder"):
        exports.offer("trun://key/export/%2e%2e/export/7/a")
    with pytest.raises(FileNotFoundError, match="that can be fetched"):
        Exports(folder=tmp_path, server=server).offer("trun://key/export/x")


def test_the_digest_of_a_file_is_known_once_it_was_sent(server: BulkServer, tmp_path: Path, source: Path) -> None:
    long_ago = time.time() - 100
    os.utime(source, (long_ago, long_ago))
    ticket = server.ticket(source)
    assert server.known(ticket) == (3 * MB, "")

    _, digest = fetch(server.address, server.fingerprint, ticket, tmp_path / "t", size_cap=CAP)
    until(lambda: server.counts["done"] == 1)

    assert server.known(server.ticket(source)) == (3 * MB, digest)
    source.write_bytes(b"other")
    assert server.known(server.ticket(source)) == (5, "")


def test_a_fetch_that_outlives_its_ticket_gets_another(server: BulkServer, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(content)
    exports = Exports(folder=tmp_path, server=server, root=tmp_path / "data")
    asked = []
    with relay(server, down=[MB]) as between:

        def ask(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
            asked.append((verb, arguments["url"]))
            ticket = server.ticket(lambda: exports.open(place(arguments["url"])), uses=1)
            return {**exports.offer(arguments["url"]), "address": between.address, "ticket": ticket}

        found = fetch_trun("trun://other/export/x", ask, tmp_path / "t", size_cap=CAP)

        assert between.passed < 3 * MB + 100_000
    assert found == (3 * MB, digest_of(content))
    assert asked == [("file", "trun://other/export/x")] * 2


# -- tickets


def test_a_ticket_is_good_for_one_direction_and_file_and_a_few_uses(server: BulkServer, tmp_path: Path) -> None:
    ticket = server.ticket(b"abc", uses=2)

    with pytest.raises(TransferRefused, match="ask the service for another"):
        push(server.address, server.fingerprint, ticket, [b"abc"])
    for _ in range(2):
        assert fetch_bytes(server.address, server.fingerprint, ticket, size_cap=CAP) == b"abc"
    with pytest.raises(TransferRefused, match="used up"):
        fetch_bytes(server.address, server.fingerprint, ticket, size_cap=CAP)


def test_an_expired_ticket_is_refused(server: BulkServer) -> None:
    with pytest.raises(TransferRefused, match="expired"):
        fetch_bytes(server.address, server.fingerprint, server.ticket(b"abc", seconds=0.0), size_cap=CAP)


def test_a_revoked_holder_gets_nothing_any_more(server: BulkServer, tmp_path: Path, source: Path) -> None:
    ticket, other = server.ticket(source, holder="eve"), server.ticket(b"abc", holder="adam")
    with secure(server) as sock:
        sock.sendall(b"TRUN1 GET %s 0\n" % ticket.encode())
        assert sock.recv(2)

        assert server.revoke("eve") == 1

        until(lambda: server.counts["broken"] == 1)  # the one that was running
    with pytest.raises(TransferRefused, match="ticket"):
        fetch(server.address, server.fingerprint, ticket, tmp_path / "t", size_cap=CAP)
    assert fetch_bytes(server.address, server.fingerprint, other, size_cap=CAP) == b"abc"


@pytest.mark.parametrize("text", ["", "a b", "../x", "x" * 200, "ä\n"])
def test_what_is_no_ticket_is_not_sent(server: BulkServer, text: str) -> None:
    with pytest.raises(BadOption, match="no ticket"):
        fetch_bytes(server.address, server.fingerprint, text, size_cap=CAP)


@pytest.mark.parametrize("address", ["", "tcp://h:1", "tls://h", "tls://:1", "tls://h:0", "tls://h:99999", "tls://h:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadOption, match="no address for bulk data"):
        fetch_bytes(address, "00", "ab", size_cap=CAP)
