"""Conditions on the world: what a service looks at, and which addresses it does not ask on behalf of others."""

from __future__ import annotations

import http.server
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trun.adapters.reach import reach
from trun.adapters.watchers import Watchers
from trun.adapters.world import Looker
from trun.conditions.atoms import WorldAtom, changed, exists, url_ok
from trun.conditions.value import CANCELLED, HOLDS, TRUE, WAIT, Value
from trun.errors import NotAuthorised
from trun.messages import AtomMoved


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = int(self.path.strip("/").partition("/")[0] or 200)
        self.server.asked.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        self.send_response(code)
        if code == 302:
            self.send_header("Location", self.server.leads_to)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        if self.path == "/200/get":
            self.send_response(405)
            self.end_headers()
        else:
            self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def website() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.asked, server.leads_to = [], ""  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server: Any, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_an_address_holds_while_it_answers_well(website: Any) -> None:
    looker = Looker()

    assert looker.look(url_ok(url(website, "200"))) == HOLDS
    assert looker.look(url_ok(url(website, "200/get"))) == HOLDS
    assert looker.look(exists(url(website, "200"))) == HOLDS
    for code in (404, 500, 403):
        assert looker.look(url_ok(url(website, str(code)))) == WAIT
    assert looker.look(url_ok("http://127.0.0.1:1/")) == WAIT
    assert looker.look(url_ok("nothing://at all")) == WAIT


def test_a_file_is_there_by_path_or_address(tmp_path: Path) -> None:
    (tmp_path / "a b").touch()
    looker = Looker(reach([]))

    assert looker.look(exists(tmp_path / "a b")) == HOLDS
    assert looker.look(exists((tmp_path / "a b").as_uri())) == HOLDS
    for absent in (str(tmp_path / "c"), "bad\0name", "~nobody-of-this-name/x"):
        assert looker.look(WorldAtom("exists", absent)) == WAIT


def test_a_file_has_changed_when_it_is_other_than_at_first(tmp_path: Path) -> None:
    looker, atom = Looker(), changed(tmp_path / "a")
    assert looker.look(atom) == WAIT
    (tmp_path / "a").touch()
    assert looker.look(atom) == TRUE


@pytest.mark.parametrize("make", [url_ok, exists])
@pytest.mark.parametrize(
    "address",
    [
        *("https://127.0.0.1/", "https://169.254.169.254/latest/meta-data", "https://[::1]/", "https://2130706433/"),
        *("http://93.184.216.34/", "https://10.0.0.1:8443/x"),
    ],
)
def test_a_bounded_service_asks_no_private_or_plain_address(make: Any, address: str) -> None:
    with pytest.raises(NotAuthorised, match=r"\[fetch\] allow"):
        Looker(reach([])).look(make(address))


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/", "s3://bucket/x", "gopher://127.0.0.1/"])
def test_a_bounded_service_asks_the_web_alone(address: str) -> None:
    with pytest.raises(NotAuthorised, match="only http:// and https://"):
        Looker(reach([])).look(url_ok(address))


def test_what_the_operator_allows_is_asked(website: Any) -> None:
    looker = Looker(reach([url(website, "")]))

    assert looker.look(url_ok(url(website, "200"))) == HOLDS
    assert looker.look(url_ok(url(website, "404"))) == WAIT


def test_an_allowed_address_does_not_lead_to_one_that_is_not(website: Any) -> None:
    website.leads_to = "http://127.0.0.1:9/secret"
    with pytest.raises(NotAuthorised, match="leads on to another host"):
        Looker(reach([url(website, "")])).look(url_ok(url(website, "302")))
    website.leads_to = "/200"
    assert Looker(reach([url(website, "")])).look(url_ok(url(website, "302"))) == HOLDS


def test_an_atom_that_is_refused_is_cancelled_with_the_reason() -> None:
    watchers = Watchers(Looker(reach([])))
    atom = url_ok("https://169.254.169.254/")
    try:
        watchers.change([atom], [])
        assert select.select([watchers.fd()], [], [], 30)[0]
        (moved,) = watchers.take()
    finally:
        watchers.close()

    assert (moved.key, moved.value) == (atom.key, CANCELLED)
    assert isinstance(moved, AtomMoved)
    assert "private network (169.254.169.254)" in moved.reason


def test_a_wait_can_be_ended_although_nothing_was_seen() -> None:
    watchers = Watchers()
    watchers.wake()
    assert select.select([watchers.fd()], [], [], 30)[0]
    assert watchers.take() == []
    watchers.close()
    watchers.wake()  # by a signal that comes late


def heard(watchers: Watchers) -> list[AtomMoved]:
    """Wait until something was seen."""
    while not (found := watchers.take()):
        assert select.select([watchers.fd()], [], [], 30)[0]
    return found


def test_servers_that_do_not_answer_hold_up_no_file(tmp_path: Path) -> None:
    answered = threading.Event()

    class Patient(Looker):
        def look(self, atom: WorldAtom) -> Value:
            if atom.what == "url":
                answered.wait(60)
            return HOLDS

    watchers = Watchers(Patient())
    silent = [url_ok(f"https://silent{n}.example/") for n in range(20)]
    watchers.change(silent, [])
    watchers.change([exists(tmp_path)], [])
    try:
        assert [moved.key for moved in heard(watchers)] == [exists(tmp_path).key]
        answered.set()
        seen: set[str] = set()
        while len(seen) < len(silent):
            seen.update(moved.key for moved in heard(watchers))
        assert seen == {atom.key for atom in silent}
    finally:
        answered.set()
        watchers.close()


def test_an_atom_that_is_watched_again_is_told_again(tmp_path: Path) -> None:
    watchers = Watchers()
    atom = exists(tmp_path, poll=0.01)
    try:
        for _ in range(3):
            watchers.change([atom], [])
            assert [moved.value for moved in heard(watchers)] == [HOLDS]
            watchers.change([], [atom.key])
    finally:
        watchers.close()


def test_threads_end_with_the_last_atom(tmp_path: Path) -> None:
    watchers = Watchers()
    atoms = [exists(tmp_path / str(n), poll=0.01) for n in range(3)]
    watchers.change(atoms, [])
    heard(watchers)
    watchers.change([], [atom.key for atom in atoms])
    watchers.close()
    for thread in threading.enumerate():
        if thread.name == "trun-watchers":
            thread.join(30)
            assert not thread.is_alive()


def test_a_change_counts_from_when_it_is_waited_for_however_often(tmp_path: Path) -> None:
    watchers, path = Watchers(), tmp_path / "a"
    atom = changed(path, poll=0.01)
    try:
        for number in range(3):
            watchers.change([atom], [])
            assert heard(watchers)[0].value == WAIT
            path.write_text("x" * (number + 1))
            assert heard(watchers)[0].value == TRUE
            watchers.change([], [atom.key])
    finally:
        watchers.close()
