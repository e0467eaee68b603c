"""Files from the web: broken connections, servers that lie, and bounds. Real sockets."""

from __future__ import annotations

import hashlib
import http.server
import random
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trun.adapters import fetching, reach, web
from trun.adapters.certificate import make
from trun.adapters.fetching import bring
from trun.adapters.parts import is_part
from trun.adapters.reach import Reach
from trun.errors import (
    BadOption,
    DigestMismatch,
    MissingExtra,
    NotAuthorised,
    ProtocolError,
    ServiceUnavailable,
    TransferRefused,
)

CONTENT = random.Random(3).randbytes(1_000_000)
DIGEST = hashlib.blake2b(CONTENT, digest_size=32).hexdigest()


class Site:
    """A web server that cuts answers short, as it is told."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.tag = '"one"'
        #: Bytes after which each answer is cut.
        self.cuts: list[int] = []
        #: Ranges that were asked for.
        self.asked: list[str] = []
        self.has_ranges = True
        self.says_length = True
        self.redirect = ""
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                site.answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/data.bin"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, to: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(to.headers.get("Range", ""))
        if self.redirect and to.path == "/data.bin":
            to.send_response(302)
            to.send_header("Location", self.redirect)
            to.send_header("Content-Length", "0")
            to.end_headers()
            return
        start = 0
        found = re.fullmatch(r"bytes=(\d+)-", to.headers.get("Range", ""))
        if found and self.has_ranges and to.headers.get("If-Range") == self.tag:
            start = int(found[1])
            to.send_response(206)
            to.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            to.send_response(200)
        if self.tag:
            to.send_header("ETag", self.tag)
        if self.says_length:
            to.send_header("Content-Length", str(len(self.content) - start))
        to.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(self.content)
        to.wfile.write(self.content[start : start + cut])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(web, "PAUSE_S", 0.001)
    made = Site()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    assert bring(site.url, tmp_path) == (tmp_path / "data.bin", len(CONTENT), DIGEST)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]


def test_a_broken_answer_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.cuts = [300_000, 300_000]

    assert bring(site.url, tmp_path)[2] == DIGEST
    assert site.asked == ["", "bytes=300000-", "bytes=600000-"]


def test_a_later_attempt_goes_on(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TRIES", 1)
    site.cuts = [700_000]
    with pytest.raises(ServiceUnavailable, match="broke off after 700000 of 1000000 bytes"):
        bring(site.url, tmp_path)
    assert len([name for name in names(tmp_path) if is_part(name)]) == 1

    assert bring(site.url, tmp_path)[2] == DIGEST
    assert site.asked[-1] == "bytes=700000-"
    assert names(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("change", ["tag", "ranges"])
def test_a_server_that_cannot_go_on_begins_anew(site: Site, tmp_path: Path, change: str) -> None:
    site.cuts = [300_000]
    if change == "ranges":
        site.has_ranges = False
        expected = CONTENT
    else:
        expected = site.content = CONTENT
        answer = site.answer

        def changing(to: http.server.BaseHTTPRequestHandler) -> None:
            if to.headers.get("Range"):
                site.content, site.tag = bytes(500), '"two"'
            answer(to)

        site.answer = changing  # type: ignore[method-assign]
        expected = bytes(500)

    bring(site.url, tmp_path)

    assert (tmp_path / "data.bin").read_bytes() == expected


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_what_cannot_be_recognised_is_not_continued(site: Site, tmp_path: Path, tag: str) -> None:
    site.tag = tag
    site.cuts = [300_000]

    with pytest.raises(ServiceUnavailable, match="broke off after 300000 of 1000000 bytes"):
        bring(site.url, tmp_path)

    assert names(tmp_path) == []


def test_what_never_comes_is_given_up(site: Site, tmp_path: Path) -> None:
    site.cuts = [0] * 100

    with pytest.raises(ServiceUnavailable, match="broke off"):
        bring(site.url, tmp_path)
    assert len(site.asked) <= web.TRIES + 1


@pytest.mark.parametrize("says_length", [True, False])
def test_too_much_is_refused(site: Site, tmp_path: Path, says_length: bool) -> None:
    site.says_length = says_length

    with pytest.raises(TransferRefused, match=r"999999 are taken \(\[fetch\] max_size\)"):
        bring(site.url, tmp_path, reach=Reach(max_size=999_999))
    assert names(tmp_path) == []
    bring(site.url, tmp_path, reach=Reach(max_size=1_000_000))


def test_the_digest_at_the_end_of_an_address_counts(site: Site, tmp_path: Path) -> None:
    sha = hashlib.sha256(CONTENT).hexdigest()

    for digest in (f"sha256={sha}", f"blake2b={DIGEST}", f"sha256={sha.upper()}"):
        assert bring(f"{site.url}#{digest}", tmp_path)[2] == DIGEST
    for digest in ("sha256=" + "0" * 64, "blake2b=" + "0" * 64):
        (tmp_path / "data.bin").unlink(missing_ok=True)
        with pytest.raises(DigestMismatch, match="0000"):
            bring(f"{site.url}#{digest}", tmp_path)
        assert names(tmp_path) == []


# -- bounds


def test_a_bounded_service_fetches_no_http(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotAuthorised, match=r"\[fetch\] allow"):
        bring(site.url, tmp_path, reach=reach.reach([]))
    with pytest.raises(NotAuthorised, match="private network"):
        bring(site.url.replace("http:", "https:"), tmp_path, reach=reach.reach([]))
    assert site.asked == []

    bring(site.url, tmp_path, reach=reach.reach([f"http://127.0.0.1:{site.port}"]))


def test_a_bounded_service_asks_no_proxy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    bring(site.url, tmp_path, reach=reach.reach([f"http://127.0.0.1:{site.port}"]))

    assert site.asked == [""]


def test_a_name_is_looked_up_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = reach.socket.getaddrinfo

    def look_up(host: str, *arguments: object, **options: object) -> object:
        looked.append(host)
        return real("127.0.0.1" if host == "rebind.example" else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reach.socket, "getaddrinfo", look_up)
    site.cuts = [300_000]  # also the second connection goes there

    bring(
        f"http://rebind.example:{site.port}/data.bin", tmp_path, reach=reach.reach([f"http://rebind.example:{site.port}"])
    )

    assert looked.count("rebind.example") == 1
    assert len(site.asked) == 2


def test_a_bounded_service_follows_no_one_to_another_host(site: Site, other: Site, tmp_path: Path) -> None:
    bounded = reach.reach([f"http://127.0.0.1:{site.port}", f"http://127.0.0.1:{other.port}"])
    for target in (other.url, f"https://127.0.0.1:{site.port}/x", "file:///etc/passwd", f"//127.0.0.1:{other.port}/x"):
        site.redirect = target
        with pytest.raises((NotAuthorised, ServiceUnavailable)):
            bring(site.url, tmp_path, reach=bounded)
    assert other.asked == []

    site.redirect = "/elsewhere"
    assert bring(site.url, tmp_path, reach=bounded)[2] == DIGEST


def test_the_users_own_service_follows(site: Site, other: Site, tmp_path: Path) -> None:
    site.redirect = other.url

    assert bring(site.url, tmp_path)[2] == DIGEST


def test_a_pinned_host_must_show_its_certificate(tmp_path: Path) -> None:
    (tmp_path / "pem").write_bytes(make())
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    url = f"https://127.0.0.1:{server.server_port}/a"

    with pytest.raises(ServiceUnavailable, match="certificate"):
        bring(url, tmp_path / "to", reach=reach.reach([f"https://127.0.0.1:{server.server_port}"]))

    thread.join()
    server.server_close()


# -- files and other schemes


def test_a_bounded_service_fetches_files_of_allowed_folders_only(tmp_path: Path) -> None:
    data, secret = tmp_path / "data", tmp_path / "secret"
    data.mkdir()
    (data / "a").write_text("fine")
    secret.write_text("secret")
    (data / "link").symlink_to(secret)
    bounded = reach.reach([data.as_uri()])

    assert bring((data / "a").as_uri(), tmp_path / "to", reach=bounded)[0].read_text() == "fine"
    below = data.as_uri()
    for url in (secret.as_uri(), f"{below}/../secret", f"{below}/%2e%2e/secret", f"{below}/link", below):
        with pytest.raises((NotAuthorised, FileNotFoundError, BadOption)):
            bring(url, tmp_path / "to", reach=bounded)


def test_files_without_an_end_are_refused(tmp_path: Path) -> None:
    for path in ("/dev/zero", "/proc/self/fd"):
        with pytest.raises(FileNotFoundError, match="no file"):
            bring(f"file://{path}", tmp_path)
    (tmp_path / "big").write_bytes(bytes(11))
    with pytest.raises(TransferRefused, match="more than the 10 bytes"):
        bring((tmp_path / "big").as_uri(), tmp_path / "to", reach=Reach(max_size=10))


def test_other_schemes_come_through_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "a").write_text("text")
    url = f"local://{tmp_path}/a"

    assert bring(url, tmp_path / "to")[0].read_text() == "text"
    with pytest.raises(NotAuthorised, match="local://"):
        bring(url, tmp_path / "to", reach=reach.reach([]))
    with pytest.raises(BadOption, match="cannot be fetched"):
        bring("nonsense://a/b", tmp_path / "to")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"pip install 'trun\[remote\]'"):
        bring(url, tmp_path / "to")


def test_what_comes_through_fsspec_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "a").write_bytes(CONTENT)
    url = f"local://{tmp_path}/a"
    positions: list[int] = []
    real = fsspec.get_filesystem_class("local").open

    class Breaking:
        """Breaks off in the middle, the first time."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

        def read(self, size: int) -> bytes:
            positions.append(self._file.tell())
            if len(positions) == 3:
                raise ConnectionResetError("gone")
            return bytes(self._file.read(size))

    monkeypatch.setattr(fsspec.get_filesystem_class("local"), "open", lambda *a, **k: Breaking(real(*a, **k)))

    with pytest.raises(ConnectionResetError):
        bring(url, tmp_path / "to")
    assert bring(url, tmp_path / "to")[2] == DIGEST
    assert positions[:4] == [0, 1 << 18, 1 << 19, 1 << 19]


# -- services


def offering(**offer: object) -> Callable[[str, dict[str, object]], dict[str, object]]:
    return lambda verb, arguments: offer


def test_what_a_service_offers_is_not_believed(tmp_path: Path) -> None:
    good = {"address": "tls://127.0.0.1:1", "fingerprint": "00", "ticket": "ab", "size": 3, "digest": ""}
    for name in good:
        with pytest.raises(ProtocolError, match="did not say"):
            bring("trun://key/jobs/1/files/a", tmp_path, ask=offering(**{**good, name: None}))
    with pytest.raises(ProtocolError, match="how big"):
        bring("trun://key/jobs/1/files/a", tmp_path, ask=offering(**{**good, "size": -1}))
    with pytest.raises(TransferRefused, match="at most 2 are taken"):
        bring("trun://key/jobs/1/files/a", tmp_path, ask=offering(**good), reach=Reach(max_size=2))
    with pytest.raises(DigestMismatch, match="something else now"):
        bring("trun://key/jobs/1/files/a", tmp_path, ask=offering(**{**good, "digest": "11"}), digest="22")


def test_the_token_goes_to_the_service_that_is_asked(tmp_path: Path) -> None:
    asked: list[tuple[str, object]] = []

    def ask(verb: str, arguments: dict[str, object]) -> dict[str, object]:
        asked.append((verb, arguments))
        raise NotAuthorised("no")

    url = "trun://key/export/a/b"
    with pytest.raises(NotAuthorised, match="no"):
        fetching.bring(url, tmp_path, ask=ask, token="secret")

    assert asked == [("file", {"url": url, "token": "secret"})]
