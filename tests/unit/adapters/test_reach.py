"""What a service may fetch, and from where: requests that somebody would like it to make in his place."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.adapters import reach as room
from trun.adapters.reach import ALLOW, DEFAULT_SIZE, MAX_SIZE, from_environment, reach
from trun.errors import BadOption, NotAuthorised, ServiceUnavailable

#: {name: addresses}: the only names that there are in these tests.
HOSTS = {
    "public.example": ["93.184.216.34"],
    "both.example": ["10.0.0.7", "93.184.216.34"],
    "intranet.example": ["10.1.2.3"],
    "metadata.example": ["169.254.169.254"],
    "six.example": ["fd00::1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look names up in the table; addresses as the system does, in all the forms that it knows."""

    def look_up(host: str, port: int, **options: Any) -> list[Any]:
        if host in HOSTS:
            return [(0, 0, 0, "", (address, port)) for address in HOSTS[host]]
        return real(host, port, flags=socket.AI_NUMERICHOST, **options)

    real = socket.getaddrinfo
    monkeypatch.setattr(room.socket, "getaddrinfo", look_up)


def test_a_daemon_reaches_public_hosts_over_https() -> None:
    assert reach([]).addresses("https://public.example/data") == ["93.184.216.34"]


def test_only_the_public_addresses_of_a_host_are_used() -> None:
    assert reach([]).addresses("https://both.example/data") == ["93.184.216.34"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.example", "intranet.example", "metadata.example", "six.example"),
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "0"),
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fc00::1]"),
        *("[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "[ff02::1]"),
    ],
)
def test_a_daemon_reaches_no_private_address(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOSTS, "localhost.example", ["127.0.0.1", "::1"])

    with pytest.raises(NotAuthorised, match=r"private network.*\[fetch\] allow"):
        reach([]).addresses(f"https://{host}/latest/meta-data")


def test_a_host_that_is_not_there_is_named() -> None:
    with pytest.raises(ServiceUnavailable, match=r"no host 'nowhere\.example'"):
        reach([]).addresses("https://nowhere.example/")


def test_http_needs_to_be_allowed() -> None:
    with pytest.raises(NotAuthorised, match="http:// is neither private"):
        reach([]).addresses("http://public.example/")
    assert reach(["http://public.example"]).addresses("http://public.example/")


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("https://intranet.example", "https://intranet.example/a", True),
        ("https://intranet.example", "https://intranet.example:8443/a", False),
        ("https://intranet.example:8443", "https://intranet.example:8443/a", True),
        ("https://*.example", "https://intranet.example/a", True),
        ("https://*.ample", "https://intranet.example/a", False),
        ("http://intranet.example", "https://intranet.example/a", False),
        ("https://intranet.example", "http://intranet.example/a", False),
        ("https://intranet.example", "https://intranet.example@10.1.2.3/a", False),
        ("https://intranet.example", "https://INTRANET.example./a", True),
        ("10.1.0.0/16", "https://intranet.example/a", True),
        ("10.1.0.0/16", "https://10.2.0.1/a", False),
        ("10.1.0.0/16", "http://intranet.example/a", False),
        ("10.1.0.0/16", "https://[::ffff:10.1.2.3]/a", True),
        ("fd00::/8", "https://six.example/a", True),
        ("*", "http://127.0.0.1/a", True),
    ],
)
def test_what_the_operator_allows_can_be_reached(entry: str, url: str, allowed: bool) -> None:
    if allowed:
        assert reach([entry]).addresses(url.lower())
    else:
        with pytest.raises(NotAuthorised, match="does not fetch"):
            reach([entry]).addresses(url)


def test_the_users_own_service_reaches_everything() -> None:
    own = reach(None)

    assert own.addresses("http://127.0.0.1/a") == ["127.0.0.1"]
    assert own.file_below(Path("/etc/hosts"), "file:///etc/hosts") is None
    own.check_other("s3://bucket/a")


def test_files_need_to_be_allowed() -> None:
    bounded = reach(["file:///data"])

    assert bounded.file_below(Path("/data/a/b"), "file:///data/a/b") == (Path("/data"), "a/b")
    for path in ("/etc/passwd", "/database", "/data", "/"):
        with pytest.raises(NotAuthorised, match="own machine"):
            bounded.file_below(Path(path), f"file://{path}")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/a/b", True),
        ("s3://bucket", True),
        ("s3://bucket2/a", False),
        ("s3://other/a", False),
        ("s3://bucket/../other", False),
        ("s3://bucket/%2e%2e/other", False),
        ("simplecache::s3://bucket/a", False),
        ("s3://bucket/a::file:///etc/passwd", False),
        ("local:///etc/passwd", False),
    ],
)
def test_other_schemes_need_to_be_allowed(url: str, allowed: bool) -> None:
    bounded = reach(["s3://bucket"])

    if allowed:
        bounded.check_other(url)
    else:
        with pytest.raises(NotAuthorised, match="does not fetch"):
            bounded.check_other(url)


@pytest.mark.parametrize("entry", ["", "host", "10.0.0.0/40", "http://", "http://host/path", "file://host/a", "http://h:x"])
def test_an_entry_that_makes_no_sense_is_named(entry: str) -> None:
    with pytest.raises(BadOption, match=r"\[fetch\] allow"):
        reach([entry])


def test_settings_come_from_the_environment() -> None:
    for shared in (False, True):
        bounded = from_environment(shared=shared, environment={ALLOW: "file:///a, 10.0.0.0/8", MAX_SIZE: "2GiB"})
        assert (len(bounded.folders), len(bounded.networks), bounded.max_size) == (1, 1, 2 << 30)
        assert from_environment(shared=shared, environment={ALLOW: "*"}).unbounded
        assert not from_environment(shared=shared, environment={ALLOW: ""}).unbounded
        assert from_environment(shared=shared, environment={}).max_size == DEFAULT_SIZE
        assert from_environment(shared=shared, environment={MAX_SIZE: "1000"}).max_size == 1000
    with pytest.raises(BadOption, match="max_size"):
        from_environment(shared=False, environment={MAX_SIZE: "much"})


def test_only_a_service_without_others_is_unbounded_by_itself() -> None:
    assert from_environment(shared=False, environment={}).unbounded
    assert not from_environment(shared=True, environment={}).unbounded


@given(st.ip_addresses())
def test_whatever_is_reached_is_global(address: Any) -> None:
    bounded = reach([])

    if bounded._may_be_reached(str(address)):
        assert address.is_global
        assert not address.is_loopback
        assert not address.is_private
