"""What a node hears of another service: for each user by the right that this user lent, and for nobody else's jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.wire import Curve, RouterEndpoint
from trun.core.voices import voiced
from trun.correspondence import Correspondence
from trun.errors import NotAuthorised
from trun.messages import (
    Answer,
    Answered,
    AnyRequest,
    Ask,
    Completed,
    Entries,
    Entry,
    ErrorInfo,
    Hello,
    JobSpec,
    Listen,
    Origin,
    Present,
    Relay,
    Unheard,
    Unneeded,
    Welcome,
)

PATIENCE_S = 60.0
ME, OTHER = "m" * 40, "o" * 40


class Elsewhere:
    """Another service, played by the test."""

    def __init__(self) -> None:
        self.pair = KeyPair(new_seed())
        self.endpoint = RouterEndpoint("tcp://127.0.0.1:0", security=Curve(self.pair.secret, self.pair.public))
        #: What is said to who has shown no token.
        self.refusal: ErrorInfo | None = None
        #: {peer: what it said}
        self.heard: dict[bytes, list[AnyRequest]] = {}

    def origin(self, token: str) -> Origin:
        return Origin(self.pair.fingerprint, self.endpoint.address, self.pair.public, token, ("far",))

    def hear_until(self, wanted: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not wanted():
            assert time.monotonic() < end
            for peer, requests in self.endpoint.receive():
                self.heard.setdefault(peer, []).extend(requests)
                is_stranger = self.refusal is not None and not self.tokens(peer)
                if is_stranger:
                    self.endpoint.send(peer, [Answer(token="", error=self.refusal)])
                elif any(isinstance(one, Hello) for one in requests):
                    self.endpoint.send(peer, [Welcome(service_key=self.pair.fingerprint, name="far", epoch=1)])
            time.sleep(0.005)

    def listeners(self) -> list[bytes]:
        return [peer for peer, said in self.heard.items() if any(isinstance(one, Listen) for one in said)]

    def tokens(self, peer: bytes) -> set[str]:
        return {token for one in self.heard[peer] if isinstance(one, Present) for token in one.tokens}


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    made.endpoint.close()


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[Correspondence]:
    pair = KeyPair(new_seed())
    made = Correspondence(str(tmp_path), secret=pair.secret, public=pair.public, name="here")
    yield made
    made.close()


def job(uid: str, owner: str, origin: Origin) -> JobSpec:
    return JobSpec(uid=uid, name=uid, owner=owner, session=f"{owner}/s", origins=(origin,))


def take(mail: Correspondence, wanted: type) -> Relay | Unheard | Answered:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for one in mail.take():
            if isinstance(one, wanted):
                return one
        time.sleep(0.005)
    raise AssertionError(f"no {wanted.__name__} has come")


def test_nobody_hears_by_the_token_of_somebody_else(elsewhere: Elsewhere, mail: Correspondence) -> None:
    mail.want(job("mine", ME, elsewhere.origin("right")))
    mail.want(job("theirs", OTHER, elsewhere.origin("")))
    elsewhere.hear_until(lambda: len(elsewhere.listeners()) == 2)
    elsewhere.hear_until(lambda: any(elsewhere.tokens(peer) for peer in elsewhere.heard))

    assert sorted(sorted(elsewhere.tokens(peer)) for peer in elsewhere.listeners()) == [[], ["right"]]

    (by_right,) = [peer for peer in elsewhere.listeners() if elsewhere.tokens(peer)]
    entry = Entry("far", 1, 1, 0.0, Completed())
    elsewhere.endpoint.send(by_right, [Entries(entries=(entry,))])
    found = take(mail, Relay)
    assert isinstance(found, Relay)
    assert [one.stream for one in found.entries] == [voiced("far", ME)]


def test_who_still_waits_is_heard_for_when_another_users_job_has_ended(
    elsewhere: Elsewhere, mail: Correspondence
) -> None:
    mine, theirs = job("mine", ME, elsewhere.origin("a")), job("theirs", OTHER, elsewhere.origin("b"))
    mail.want(mine)
    mail.want(theirs)
    elsewhere.hear_until(lambda: len(elsewhere.listeners()) == 2)
    mail.release(theirs)
    (left,) = [peer for peer in elsewhere.listeners() if "a" in elsewhere.tokens(peer)]
    elsewhere.endpoint.send(left, [Entries(entries=(Entry("far", 1, 1, 0.0, Completed()),))])

    found = take(mail, Relay)
    assert isinstance(found, Relay)
    assert [one.stream for one in found.entries] == [voiced("far", ME)]
    assert not mail.dismiss(theirs, "far", "lost")
    assert mail.dismiss(mine, "far", "lost")
    elsewhere.hear_until(lambda: any(isinstance(one, Unneeded) for one in elsewhere.heard[left]))


def test_a_question_comes_after_the_token_that_allows_it(elsewhere: Elsewhere, mail: Correspondence) -> None:
    elsewhere.refusal = ErrorInfo("NotAuthorised", "who are you?")
    asked = mail.ask(job("mine", ME, elsewhere.origin("")), elsewhere.pair.fingerprint, "right", "file", {})
    elsewhere.hear_until(lambda: any(isinstance(one, Ask) for said in elsewhere.heard.values() for one in said))
    ((_, said),) = elsewhere.heard.items()
    kinds = [type(one) for one in said]
    assert kinds.index(Present) < kinds.index(Hello) < kinds.index(Ask)
    assert not asked.done()


def test_who_was_refused_without_a_token_may_ask_again_with_one(elsewhere: Elsewhere, mail: Correspondence) -> None:
    elsewhere.refusal = ErrorInfo("NotAuthorised", "who are you?")
    mine = job("mine", ME, elsewhere.origin(""))
    first = mail.ask(mine, elsewhere.pair.fingerprint, "", "file", {})
    elsewhere.hear_until(first.done)
    with pytest.raises(NotAuthorised, match="credentials"):
        first.result()

    mail.ask(mine, elsewhere.pair.fingerprint, "right", "file", {})
    elsewhere.hear_until(lambda: any(isinstance(one, Ask) for said in elsewhere.heard.values() for one in said))
