"""Files as values, published by a job of one service and fetched by another; addresses of other kinds."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import trun
from trun.errors import BadOption, DigestMismatch, NotAuthorised, ServiceUnavailable, UsageError

WAIT_S = 60.0


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[trun.Service, trun.Service]]:
    """Two services for the tests of this file: they must not disturb one another."""
    with tempfile.TemporaryDirectory(prefix="trun-") as folder, pytest.MonkeyPatch.context() as patch:
        for kind in ("STATE", "RUNTIME", "CONFIG"):
            patch.setenv(f"TRUN_{kind}_DIR", f"{folder}/{kind.lower()}")
        made = trun.local(workers=1), trun.local(workers=1)
        yield made
        for service in made:
            service.close(cancel=True, timeout=30.0)


@pytest.fixture(autouse=True)
def far(services: tuple[trun.Service, trun.Service]) -> Iterator[trun.Service]:
    """The service that is selected: the one that fetches."""
    with services[1]:
        yield services[1]


@pytest.fixture
def near(services: tuple[trun.Service, trun.Service]) -> trun.Service:
    return services[0]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
        elif self.path == "/busy":
            self.send_error(503, "Try later")
        else:
            super().do_GET()


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "data.txt").write_text("from the web")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def publish(name: str, text: str) -> trun.File:
    job = trun.current_job()
    assert job is not None
    path = job.scratch / name
    path.write_text(text)
    published = trun.publish_file(path)
    path.write_text("changed afterwards")
    return published


def read(path: str) -> str:
    return Path(path).read_text()


# -- files as values


def test_files_are_equal_where_their_content_is(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)

    a, b, c = (trun.File(tmp_path / name) for name in "abc")

    assert a == b
    assert hash(a) == hash(b)
    assert a != c
    assert a != "same"
    assert {a, b, c} == {a, c}


def test_a_file_knows_its_size_digest_and_address(tmp_path: Path) -> None:
    path = tmp_path / "with blank.txt"
    path.write_text("content")

    file = trun.File(path)

    assert (file.filename, file.size) == (str(path), 7)
    assert file.digest == hashlib.blake2b(b"content", digest_size=32).hexdigest()
    assert file.url == path.as_uri()
    assert pickle.loads(pickle.dumps(file)) == file
    assert os.fspath(file) == str(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="no file"):
            trun.File(path)


# -- from one service to the other


def test_a_published_file_is_fetched_by_another_service(near: trun.Service, far: trun.Service) -> None:
    reduction = trun.submit(publish, "wafer.refl", "Q R dR", service=near)
    fetch = trun.fetch_url(reduction.url, when=reduction.iscompleted)

    assert trun.submit(read, fetch.filename).result(WAIT_S) == "Q R dR"
    published, fetched = reduction.result(WAIT_S), fetch.result(WAIT_S)
    assert published == fetched
    assert published.url == f"trun://{near.key}/jobs/{reduction.uid}/files/wafer.refl"
    assert fetched.url == f"trun://{far.key}/jobs/{fetch.uid}/files/wafer.refl"
    assert fetched.path.is_relative_to(far.wait_ready().folder)
    assert fetch.id.startswith("fetch#")


def test_a_fetched_file_can_be_fetched_again(near: trun.Service) -> None:
    published = trun.submit(publish, "a.txt", "text", service=near)

    again = trun.fetch_url(trun.fetch_url(published), service=near)

    assert again.result(WAIT_S).read_text() == "text"


def test_a_file_is_an_address_too(near: trun.Service, tmp_path: Path) -> None:
    published = trun.submit(publish, "a.txt", "text", service=near).result(WAIT_S)
    (tmp_path / "b.txt").write_text("here")

    assert trun.fetch_url(published).result(WAIT_S).read_bytes() == b"text"
    assert trun.fetch_url(trun.File(tmp_path / "b.txt")).result(WAIT_S).read_text() == "here"


def test_a_file_that_has_changed_is_not_taken_for_the_same(near: trun.Service, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("then")
    file = trun.File(tmp_path / "b.txt")
    published = trun.submit(publish, "a.txt", "text", service=near).result(WAIT_S)
    for path in (file.path, published.path):
        path.write_text("now")

    for one in (file, published):
        with pytest.raises(DigestMismatch, match=one.digest):
            trun.fetch_url(one).result(WAIT_S)


def test_an_address_may_say_what_must_arrive(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("text")
    url = (tmp_path / "b.txt").as_uri()
    sha = hashlib.sha256(b"text").hexdigest()

    assert trun.fetch_url(f"{url}#sha256={sha}").result(WAIT_S).filename.endswith("b.txt")
    with pytest.raises(DigestMismatch, match="sha256"):
        trun.fetch_url(f"{url}#sha256={sha[::-1]}").result(WAIT_S)


@pytest.mark.parametrize("name", ["with blank.txt", "ümläut.dat", ".hidden", "a%2Fb", "#1?x=2", "x" * 250])
def test_odd_names_arrive(near: trun.Service, name: str) -> None:
    fetch = trun.fetch_url(trun.submit(publish, name, name, service=near))

    fetched = fetch.result(WAIT_S)

    assert fetched.read_text() == name
    assert fetched.path.parent.name == fetch.uid
    assert not fetched.path.name.startswith(".")


def test_a_file_that_was_not_published_is_not_found(near: trun.Service) -> None:
    published = trun.submit(publish, "a.txt", "text", service=near).result(WAIT_S)

    with pytest.raises(FileNotFoundError, match="published no file"):
        trun.fetch_url(published.url.replace("a.txt", "b.txt")).result(WAIT_S)


def test_a_link_among_published_files_is_not_followed(near: trun.Service, tmp_path: Path) -> None:
    published = trun.submit(publish, "a.txt", "text", service=near).result(WAIT_S)
    (tmp_path / "secret").write_text("secret")
    (published.path.parent / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(FileNotFoundError, match="published no file"):
        trun.fetch_url(published.url.replace("a.txt", "link")).result(WAIT_S)


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(ServiceUnavailable, match="nobody"):
        trun.fetch_url("trun://nobody/jobs/1/files/a").result(WAIT_S)


@pytest.mark.parametrize(
    "path",
    [
        "jobs/../files/journal.sqlite",
        "jobs/%2e%2e/files/lock",
        "jobs/1/files/..%2F..%2Flock",
        "jobs/1/files/%2Fetc%2Fpasswd",
        "jobs/1/files/a%00",
        "jobs/1/files/a/b",
        "jobs//files/a",
        "export/../lock",
        "",
    ],
)
def test_addresses_that_lead_elsewhere_are_refused_at_once(near: trun.Service, path: str) -> None:
    with pytest.raises(BadOption, match=r"no address|leaves the folder"):
        trun.fetch_url(f"trun://{near.key}/{path}")


def test_a_key_is_no_path() -> None:
    with pytest.raises(BadOption, match="no key of a service"):
        trun.fetch_url("trun://../jobs/1/files/a").result(WAIT_S)


# -- other addresses


def test_a_file_of_this_machine_is_fetched(far: trun.Service, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("here")

    fetched = trun.fetch_url(path.as_uri()).result(WAIT_S)

    assert fetched.read_text() == "here"
    assert fetched == trun.File(path)
    assert fetched.path != path


def test_a_service_with_other_people_fetches_no_file_of_its_machine(far: trun.Service, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("here")
    key = Path(far.wait_ready().folder, "keys", "curve")  # what `trun service start --listen` makes
    key.parent.mkdir(mode=0o700)
    key.touch()

    try:
        with pytest.raises(NotAuthorised, match=r"own machine.*\[fetch\] allow"):
            trun.fetch_url((tmp_path / "data.txt").as_uri()).result(WAIT_S)
        with pytest.raises(NotAuthorised, match="http://"):
            trun.fetch_url("http://127.0.0.1/").result(WAIT_S)
    finally:
        key.unlink()
        key.parent.rmdir()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        trun.fetch_url((tmp_path / "missing.txt").as_uri()).result(WAIT_S)


def test_a_file_is_fetched_over_http(website: str) -> None:
    assert trun.fetch_url(f"{website}/data.txt?version=1").result(WAIT_S).read_text() == "from the web"


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("missing.txt", FileNotFoundError, "there is nothing at .*404"),
        ("busy", ServiceUnavailable, "answered 503 Try later"),
        ("broken", ServiceUnavailable, "broke off after 4 of 100 bytes"),
    ],
)
def test_a_website_that_does_not_give_is_named(website: str, path: str, error: type[Exception], text: str) -> None:
    job = trun.fetch_url(f"{website}/{path}")

    with pytest.raises(error, match=text):
        job.result(WAIT_S)


def test_a_website_that_is_not_there_is_named() -> None:
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        trun.fetch_url("http://127.0.0.1:1/data.txt").result(WAIT_S)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data.txt", r"write 'file:///.*data\.txt'"),
        (7, "must be an address"),
        ("file://elsewhere/data.txt", "this machine only"),
        ("http:///data.txt", "names no machine"),
        ("http://[1/data.txt", "no address"),
    ],
)
def test_what_is_no_address_is_refused_at_once(url: object, text: str) -> None:
    with pytest.raises(BadOption, match=text):
        trun.fetch_url(url)


def test_credentials_are_for_services_only() -> None:
    with pytest.raises(BadOption, match="auth="):
        trun.fetch_url("https://host/data.txt", auth="token")


def test_a_result_that_is_no_address_is_refused() -> None:
    with pytest.raises(BadOption, match="must be a text or a File, not int"):
        trun.fetch_url(trun.submit(len, "abc")).result(WAIT_S)


def test_nothing_is_published_outside_of_a_job(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inside a job only"):
        trun.publish_file(tmp_path / "a.txt")


def test_a_job_cannot_publish_what_is_not_there(near: trun.Service) -> None:
    with pytest.raises(FileNotFoundError, match=r"publish_file#\d+ cannot publish it"):
        trun.submit(trun.publish_file, "missing", service=near).result(WAIT_S)
