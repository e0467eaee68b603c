"""Files from one service to another that shares neither folder nor keys with it: over the wire, with a lent right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import trun
from tests.attackers import at_home
from tests.conftest import _ROOT
from tests.sites import PATIENCE_S, Site, command
from trun.adapters.keys import KeyPair, new_seed, user_keys
from trun.adapters.people import People
from trun.remotes import _opened

Pair = tuple[trun.Service, trun.Service]


def publish(text: str) -> trun.File:
    path = Path(trun.current_job().scratch) / "wafer.dat"
    path.write_text(text)
    return trun.publish_file(path)


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[Site, Site]]:
    """Run two services of different people; neither knows where the other is."""
    export = _ROOT / "between-export" / "run7"
    export.mkdir(parents=True)
    (export / "a.dat").write_text("exported")
    made: dict[str, Site] = {}
    try:
        with at_home("between-alpha"):
            made["alpha"] = Site("alpha", "--export", str(export.parent))
        with at_home("between-beta"):
            made["beta"] = Site("beta")
        yield made["alpha"], made["beta"]
    finally:
        for name, site in made.items():
            with at_home(f"between-{name}"):
                site.stop("--kill")


@pytest.fixture
def services(sites: tuple[Site, Site]) -> Iterator[Pair]:
    """Be somebody new who may read and submit on both."""
    key = user_keys().public
    found = []
    for site in sites:
        People(site.folder).add(f"u{key.encode().hex()[:20]}", key, ("read", "submit"))
        found.append(trun.remote_service(site.address, expect=site.key))
    yield found[0], found[1]
    for service in found:
        service.leave_quietly()
        _opened.remove(service)


def brought(beta: trun.Service, fetch: trun.Job) -> str:
    """Return the content of what was fetched, as a job there reads it."""
    return beta.submit(Path.read_text, fetch.path).result(PATIENCE_S)


EXPORTED = "trun://{key}/export/run7/a.dat"


def test_a_file_that_a_job_gives_is_fetched_without_further_words(services: Pair) -> None:
    alpha, beta = services
    assert brought(beta, trun.fetch_url(alpha.submit(publish, "published"), service=beta)) == "published"


def test_a_file_of_a_service_that_is_open_here_is_fetched_without_further_words(services: Pair) -> None:
    alpha, beta = services
    made = alpha.submit(publish, "published")
    url = f"trun://{alpha.key}/jobs/{made.uid}/files/wafer.dat"
    assert made.exception(PATIENCE_S) is None
    assert brought(beta, trun.fetch_url(url, service=beta)) == "published"
    assert brought(beta, trun.fetch_url(EXPORTED.format(key=alpha.key), service=beta)) == "exported"


def test_a_token_opens_what_it_was_lent_for_and_nothing_else(services: Pair) -> None:
    alpha, beta = services
    made = alpha.submit(publish, "published")
    assert made.exception(PATIENCE_S) is None
    url = f"trun://{alpha.key}/jobs/{made.uid}/files/wafer.dat"
    mine = trun.credentials(alpha, scope=made)
    assert brought(beta, trun.fetch_url(url, auth=mine, service=beta)) == "published"
    with pytest.raises(trun.NotAuthorised):
        trun.fetch_url(EXPORTED.format(key=alpha.key), auth=mine, service=beta).result(PATIENCE_S)


def test_credentials_for_everything_open_the_export_folder_too(services: Pair) -> None:
    alpha, beta = services
    fetch = trun.fetch_url(EXPORTED.format(key=alpha.key), auth=trun.credentials(alpha), service=beta)
    assert brought(beta, fetch) == "exported"


def test_a_file_that_is_not_there_is_named(services: Pair) -> None:
    alpha, beta = services
    with pytest.raises(trun.UnknownName, match=r"b\.dat"):
        trun.fetch_url(f"trun://{alpha.key}/export/run7/b.dat", service=beta).result(PATIENCE_S)


def test_an_unknown_service_in_an_address_is_named_with_the_nearest(services: Pair) -> None:
    _, beta = services
    command("service", "add", "compufans", "tcp://192.0.2.1:7711", "--expect", KeyPair(new_seed()).public)
    with pytest.raises(trun.UnknownName, match="compufans"):
        trun.fetch_url("trun://compufan/export/a", service=beta)
