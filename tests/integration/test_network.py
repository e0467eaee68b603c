"""A network that breaks: cut, silent, late; daemons that stop and go on. Nothing fails by it, and it is said."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trun
from tests.proxies import Relay
from tests.sites import PATIENCE_S, Site, daemons
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
