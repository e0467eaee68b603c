"""Floods on a real daemon: who does not stop is not read for a while, who does not read is not written to.

What the daemon holds meanwhile is bounded, bystanders are served, and whoever has calmed down is served again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import psutil
import pytest
import zmq

from tests.attackers import DISTURBED_S, Come, Raw, attacked, comers
from tests.sites import PATIENCE_S, Site, until
from trun.adapters.keys import KeyPair, new_seed
from trun.core.codec import encode_batch
from trun.messages import Answer, AnyRequest, Ask, Credit, Entries, Hello, JobSpec, Listen, Submit

#: What a flooded daemon may need more than before; without bounds it would be gigabytes.
HELD_BYTES = 900_000_000


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A daemon for one test alone: it digests what it got for a while."""
    with attacked(f"flood{abs(hash(request.node.name)) % 10**6}") as made:
        yield made


@pytest.fixture
def come(site: Site) -> Iterator[Come]:
    yield from comers(site)


@pytest.fixture
def bystander(come: Come) -> Raw:
    return come("read", "submit")


def audit(site: Site, word: str, pair: KeyPair) -> list[str]:
    lines = site.log().splitlines()
    return [line for line in lines if f"trun.audit {word}" in line and pair.public in line]


@contextmanager
def flood(raw: Raw, data: list[bytes]) -> Generator[None, None, None]:
    """Send these messages again and again, as fast as they are taken."""
    over = threading.Event()
    raw.socket.setsockopt(zmq.SNDHWM, 1000)

    def run() -> None:
        while not over.is_set():
            for each in data:
                try:
                    raw.socket.send(each, zmq.NOBLOCK)
                except zmq.Again:
                    time.sleep(0.001)
            while raw.socket.poll(0):
                raw.socket.recv_multipart()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def accepts(raw: Raw, uid: str) -> bool:
    raw.say(Submit(specs=(JobSpec(uid=uid, name=uid, hold=True),)))
    found = raw.hear_until(lambda answer: isinstance(answer, Entries))
    return bool(found.entries[0].stream == uid)


PINGS: list[AnyRequest] = [Ask(token="t", verb="ping")] * 100
GOOD = encode_batch(PINGS)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ((), encode_batch([Hello(session="s"), *PINGS])),
        (("read", "submit"), GOOD),
        (("read", "submit"), b"\x91" * 1000),
        (("read", "submit"), b"\xc1" * 1_000_000),
    ],
    ids=["stranger", "requests", "garbage", "large garbage"],
)
def test_who_does_not_stop_is_not_read_for_a_while(
    site: Site, come: Come, bystander: Raw, roles: tuple[str, ...], message: bytes
) -> None:
    process = psutil.Process(site.pid)
    before = process.memory_info().rss
    pair = KeyPair(new_seed())
    eve = come(*roles, pair=pair)
    with flood(eve, [message]):
        until(lambda: audit(site, "muted", pair) != [])
        lines = len(site.log().splitlines())
        assert bystander.slowest(1.0) < DISTURBED_S
        assert accepts(bystander, "quiet")
        assert process.memory_info().rss - before < HELD_BYTES
        assert len(site.log().splitlines()) - lines < 100  # not one for each message
    until(lambda: audit(site, "unmuted", pair) != [])
    assert int(audit(site, "unmuted", pair)[0].rpartition("dropped=")[2]) > 0
    assert bystander.ask("summary").data["dropped"] > 0
    if message[:1] != GOOD[:1]:  # of what can be read a lot may still wait to be read
        until(lambda: _is_heard(eve))


def _is_heard(raw: Raw) -> bool:
    raw.say(Ask(token="again", verb="ping"))
    return any(isinstance(answer, Answer) and answer.token == "again" for answer in raw.hear(0.5))


def test_streams_wait_for_who_does_not_read_and_go_on_once_it_does(site: Site, come: Come, bystander: Raw) -> None:
    eve = come("read", "submit")
    eve.socket.setsockopt(zmq.RCVHWM, 10)
    uids = [f"j{n}" for n in range(4000)]
    for start in range(0, len(uids), 500):
        specs = tuple(JobSpec(uid=uid, name="n" * 2000, hold=True) for uid in uids[start : start + 500])
        eve.say(Submit(specs=specs))
    until(lambda: bystander.ask("summary").data["unfinished"] == len(uids))
    process = psutil.Process(site.pid)
    before, most = process.memory_info().rss, 0
    greedy = Raw(site, eve.pair)
    greedy.say(Hello(session="greedy"), Credit(entries=2**40))
    try:
        for _ in range(50):  # 400 MB and more, if somebody sent them
            greedy.say(Listen(streams=tuple((uid, 1) for uid in uids)))
            assert bystander.ask().error is None
            most = max(most, process.memory_info().rss - before)
        assert bystander.slowest(2.0) < DISTURBED_S
        assert max(most, process.memory_info().rss - before) < HELD_BYTES // 2
        wanted = set(uids)
        while wanted:
            heard = greedy.hear_until(lambda answer: isinstance(answer, Entries))
            wanted.difference_update(entry.stream for entry in heard.entries)
    finally:
        greedy.close()


def test_who_reads_no_answer_is_cut_off_and_may_come_again(site: Site, come: Come, bystander: Raw) -> None:
    pair = KeyPair(new_seed())
    eve = come("read", "submit", pair=pair)
    specs = tuple(JobSpec(uid=f"j{n}", name="n" * 9000, hold=True) for n in range(1000))
    for start in range(0, len(specs), 100):
        eve.say(Submit(specs=specs[start : start + 100]))
    until(lambda: bystander.ask("summary").data["unfinished"] == len(specs))
    process = psutil.Process(site.pid)
    before = process.memory_info().rss
    end = time.monotonic() + 2 * PATIENCE_S
    while not audit(site, "cut off", pair):
        assert time.monotonic() < end
        eve.say(*[Ask(token="t", verb="ps")] * 5)
        assert bystander.ask().error is None
        time.sleep(0.05)
    assert process.memory_info().rss - before < 2 * HELD_BYTES
    assert bystander.ask("summary").data["cut"] >= 1
    assert come("read").ask().error is None
