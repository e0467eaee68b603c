"""Orders over a network that breaks: whether they are lost or their answers are, each is carried out once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import trun
from tests.proxies import Relay
from tests.sites import PATIENCE_S, Site, daemons, until


@pytest.fixture
def site() -> Iterator[Site]:
    """Return a daemon."""
    with daemons() as make:
        yield make("fans")


@pytest.fixture
def relay(site: Site) -> Iterator[Relay]:
    """Return the network on the way there."""
    with Relay(site.address) as relay:
        yield relay


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Call something that waits."""
    with ThreadPoolExecutor(2) as threads:
        yield threads.submit


class Pair:
    """A job as two handles have it: ``far`` through the network that breaks, ``near`` beside it."""

    def __init__(self, site: Site, relay: Relay, fn: Any, *args: Any, **options: Any) -> None:
        far, near = trun.remote_service(relay.address, expect=site.key), trun.remote_service("fans")
        far.trusted = near.trusted = True
        self.far = far.submit(fn, *args, **options)
        self.near = near.job(self.far.id)

    def said(self) -> Counter[str]:
        """Count the entries of the job's stream."""
        return Counter(type(entry.event).__name__ for entry in self.near.messages())


def note(path: str) -> int:
    with open(path, "a") as file:
        file.write("run\n")
    with open(path) as file:
        return len(file.readlines())


def collect(pipe: str) -> list[str]:
    heard: list[str] = []
    while not heard or heard[-1] != "end":
        message = trun.current_job().inbox.get()
        heard.append(message.content)
        message.respond(f"heard {message.content}")
    return heard


# -- the order itself is lost -----------------------------------------------------------------------------------------


def lost(relay: Relay, job: Any) -> None:
    """Let the network lose what is said now, and be whole again."""
    until(lambda: job.service.silent_since is not None)
    relay.refuse()
    relay.heal()


def test_an_order_that_a_cut_has_swallowed_is_given_again(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]]
) -> None:
    go = trun.Atom("go")
    job = Pair(site, relay, len, "four", when=go)
    for order, state in ((job.far.hold, "held"), (job.far.release, "waiting")):
        relay.silence()
        given = aside(order)
        lost(relay, job.far)
        given.result(PATIENCE_S)
        until(lambda state=state: job.near.state == state)  # type: ignore[misc]
    go.set_ready()
    assert job.far.result(PATIENCE_S) == 4
    assert job.said()["Held"] == job.said()["Released"] == 1


def test_a_retry_that_a_cut_has_swallowed_begins_one_run(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]], tmp_path: Path
) -> None:
    job = Pair(site, relay, note, str(tmp_path / "runs"))
    assert job.far.result(PATIENCE_S) == 1
    relay.silence()
    given = aside(job.far.retry)
    lost(relay, job.far)
    given.result(PATIENCE_S)
    until(lambda: job.far.done() and job.far.result() == 2)
    assert job.said()["Retried"] == 1


def test_a_text_that_a_cut_has_swallowed_reaches_the_job_once(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]], tmp_path: Path
) -> None:
    job = Pair(site, relay, collect, str(tmp_path))
    until(job.near.running)
    relay.silence()
    reply = aside(job.far.send, "one")
    lost(relay, job.far)
    assert reply.result(PATIENCE_S) == "heard one"
    assert job.far.send("end", timeout=PATIENCE_S) == "heard end"
    assert job.far.result(PATIENCE_S) == ["one", "end"]


# -- the answer is lost -----------------------------------------------------------------------------------------------


def restart(site: Site) -> None:
    """Kill the daemon, and start it again."""
    os.kill(site.pid, signal.SIGKILL)
    site.start()


def nothing(site: Site) -> None:
    """Leave the daemon alone."""


AFTER = pytest.mark.parametrize("meanwhile", [nothing, restart])
Meanwhile = Callable[[Site], None]


@AFTER
def test_a_retry_whose_answer_is_lost_is_not_carried_out_twice(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]], tmp_path: Path, meanwhile: Meanwhile
) -> None:
    job = Pair(site, relay, note, str(tmp_path / "runs"))
    assert job.far.result(PATIENCE_S) == 1
    relay.swallow_answers()
    given = aside(job.far.retry)
    until(lambda: job.near.messages() and job.said()["Completed"] == 2)  # it could be retried once more
    meanwhile(site)
    redirect(site, relay)
    given.result(PATIENCE_S)
    until(lambda: job.far.done() and job.far.result() == 2)
    assert job.said()["Retried"] == 1


def redirect(site: Site, relay: Relay) -> None:
    """Let the network be whole again, wherever the daemon listens by now."""
    relay.heal()
    relay.redirect(site.address)


@AFTER
def test_a_release_whose_answer_is_lost_does_not_release_what_somebody_else_holds_since(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]], meanwhile: Meanwhile
) -> None:
    job = Pair(site, relay, len, "four", when=trun.after("1d"))
    job.near.hold()
    until(lambda: job.near.state == "held")
    relay.swallow_answers()
    given = aside(job.far.release)
    until(lambda: job.said()["Released"])
    job.near.hold()
    meanwhile(site)
    redirect(site, relay)
    given.result(PATIENCE_S)
    assert job.said()["Released"] == 1
    until(lambda: job.near.state == job.far.state == "held")


@AFTER
def test_a_hold_whose_answer_is_lost_does_not_hold_what_somebody_else_has_released_since(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]], meanwhile: Meanwhile
) -> None:
    job = Pair(site, relay, len, "four", when=trun.after("1d"))
    until(lambda: job.near.state == "waiting")
    relay.swallow_answers()
    given = aside(job.far.hold)
    until(lambda: job.said()["Held"])
    job.near.release()
    meanwhile(site)
    redirect(site, relay)
    given.result(PATIENCE_S)
    assert job.said()["Held"] == 1
    until(lambda: job.near.state == job.far.state == "waiting")


@AFTER
def test_a_cancellation_whose_answer_is_lost_does_not_end_a_later_run(
    site: Site, relay: Relay, tmp_path: Path, meanwhile: Meanwhile
) -> None:
    job = Pair(site, relay, len, "four", when=trun.after("1d"))
    until(lambda: job.near.state == "waiting")
    relay.swallow_answers()
    assert job.far.cancel()
    until(lambda: job.said()["Cancelled"])
    job.near.retry()
    meanwhile(site)
    redirect(site, relay)
    assert job.far.service.ask("summary", wait=PATIENCE_S)  # what was said before it has been heard
    assert job.said()["Cancelled"] == 1
    until(lambda: job.near.state == "waiting")


@AFTER
def test_a_text_whose_answer_is_lost_reaches_the_job_once(
    site: Site, relay: Relay, aside: Callable[..., Future[Any]], tmp_path: Path, meanwhile: Meanwhile
) -> None:
    job = Pair(site, relay, collect, str(tmp_path))
    until(job.near.running)
    relay.swallow_answers()
    reply = aside(job.far.send, "one")
    until(lambda: job.said()["Replied"])
    meanwhile(site)
    redirect(site, relay)
    assert reply.result(PATIENCE_S) == "heard one"
    assert job.far.send("end", timeout=PATIENCE_S) == "heard end"
    assert job.far.result(PATIENCE_S) == ["one", "end"]
    assert job.said()["Told"] == 2
