"""Services whose address and key an operator publishes on a real web server: believed once, and pinned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trun
from tests.sites import PATIENCE_S, Site, as_person, command, daemons
from tests.webserver import WebServer, certificate, missing
from trun.adapters.keys import KeyPair, fingerprint, new_seed
from trun.adapters.people import People
from trun.errors import ServiceKeyChanged

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is openssl")

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start daemons that are gone when the test ends."""
    with daemons() as make:
        yield make


@pytest.fixture
def web(trun_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """Serve pages over TLS, with a certificate that this process believes."""
    cert, key = certificate(trun_folders / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with WebServer(cert, key) as server:
        yield server


def page(address: str, key: str, **more: object) -> bytes:
    return json.dumps({"address": address, "key": key, **more}).encode()


def some_key() -> str:
    return KeyPair(new_seed()).public


def double(x: int) -> int:
    return 2 * x


def test_a_published_service_is_reached_and_pinned(
    start: Start, web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    web.pages["/fans"] = page(site.address, site.key, name="sns")
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("read", "submit"))
        service = trun.remote_service(f"{web.address}/fans")
        assert service.name == "sns"
        assert service.submit(double, 4).result(PATIENCE_S) == 8
        assert not service.trusted
        assert site.key in command("service", "list", "--json").stdout
        assert trun.remote_service("sns").submit(double, 1).result(PATIENCE_S) == 2
        other = some_key()
        web.pages["/fans"] = page(site.address, other)
        for name in (f"{web.address}/fans", "sns"):
            with pytest.raises(ServiceKeyChanged) as caught:
                trun.remote_service(name)
            assert fingerprint(site.key) in str(caught.value)
            assert fingerprint(other) in str(caught.value)


def test_a_service_that_was_added_without_its_key_is_pinned_at_the_first_contact(
    start: Start, web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = start("fans")
    web.pages["/fans"] = page(site.address, site.key, name="other")
    with as_person(monkeypatch, tmp_path / "eve") as key:
        People(site.folder).add("eve", key, ("read", "submit"))
        command("service", "add", "sns", f"{web.address}/fans", "--trust-results")
        service = trun.remote_service("sns")
        assert (service.name, service.trusted) == ("sns", True)
        web.pages["/fans"] = page(site.address, some_key())
        with pytest.raises(ServiceKeyChanged):
            trun.remote_service("sns")


def test_another_key_than_expected_is_a_hard_stop(web: WebServer) -> None:
    published, expected = some_key(), some_key()
    web.pages["/fans"] = page("tcp://127.0.0.1:1", published)
    with pytest.raises(ServiceKeyChanged) as caught:
        trun.remote_service(f"{web.address}/fans", expect=expected)
    assert fingerprint(published) in str(caught.value)
    assert fingerprint(expected) in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_not_believed(
    web: WebServer, trun_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = certificate(trun_folders / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with pytest.raises(trun.ServiceUnavailable, match=r"certificate of https.*is not accepted"):
        trun.remote_service(f"{web.address}/fans")


def test_an_expired_certificate_is_not_believed(trun_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(trun_folders / "old", expired=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with WebServer(cert, key) as web:
        web.pages["/fans"] = page("tcp://127.0.0.1:1", some_key())
        with pytest.raises(trun.ServiceUnavailable, match=r"is not accepted: certificate has expired"):
            trun.remote_service(f"{web.address}/fans")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not here</html>",
        b"[]",
        b"null",
        b'{"address": "tcp://127.0.0.1:1"}',
        page("tcp://127.0.0.1:1", "short"),
        page("ipc:///tmp/x.sock", some_key()),
        page("ssh://-oProxyCommand=x", some_key()),
        page("https://127.0.0.1/again", some_key()),
        page("tcp://127.0.0.1", some_key()),
        page("tcp://127.0.0.1:99999", some_key()),
        b"[" * 60_000,
        b"\xff\xfe",
    ],
    ids=range(13),
)
def test_a_page_that_publishes_something_else_is_refused(web: WebServer, content: bytes) -> None:
    web.pages["/fans"] = content
    with pytest.raises(trun.ServiceUnavailable, match="does not publish a service as"):
        trun.remote_service(f"{web.address}/fans")


def test_an_oversized_page_is_refused(web: WebServer) -> None:
    web.pages["/fans"] = page("tcp://127.0.0.1:1", some_key(), more="x" * 65536)
    with pytest.raises(trun.ServiceUnavailable, match="is larger than 65,536 bytes"):
        trun.remote_service(f"{web.address}/fans")


def test_a_page_that_is_not_there_is_said(web: WebServer) -> None:
    with pytest.raises(trun.ServiceUnavailable, match="404"):
        trun.remote_service(f"{web.address}/fans")


@pytest.mark.parametrize("there", ["http://127.0.0.1:1/fans", "ftp://127.0.0.1/fans"])
def test_a_redirection_to_what_is_not_encrypted_is_not_followed(web: WebServer, there: str) -> None:
    web.pages["/fans"] = there
    with pytest.raises(trun.ServiceUnavailable, match="not encrypted; it is not followed"):
        trun.remote_service(f"{web.address}/fans")


def test_a_redirection_to_another_encrypted_page_is_followed(web: WebServer) -> None:
    web.pages["/old"] = f"{web.address}/new"
    web.pages["/new"] = b"[]"
    with pytest.raises(trun.ServiceUnavailable, match="does not publish"):
        trun.remote_service(f"{web.address}/old")


def test_a_web_server_that_is_not_there_is_said() -> None:
    with pytest.raises(trun.ServiceUnavailable, match="cannot be read"):
        trun.remote_service("https://127.0.0.1:1/fans")


def test_a_redirection_to_a_file_is_not_followed(web: WebServer) -> None:
    web.pages["/fans"] = "file:///etc/passwd"
    with pytest.raises(trun.ServiceUnavailable, match="not allowed"):
        trun.remote_service(f"{web.address}/fans")
