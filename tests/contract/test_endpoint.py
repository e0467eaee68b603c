"""What every endpoint promises (``ports.Endpoint``), run on each implementation."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from samples import spec
from trun.adapters.wire import RouterEndpoint
from trun.messages import Answer, AnyAnswer, AnyRequest, Credit, Hello, Submit
from trun.ports import Endpoint
from trun.testing import RecordingEndpoint
from wires import WAIT_S, Client, receive, receive_until


class Peer(Protocol):
    """A client, however it reaches the endpoint."""

    def say(self, *requests: AnyRequest) -> None: ...

    def hear(self, count: int) -> list[AnyAnswer]: ...

    def leave(self) -> None: ...


class Played:
    """A client that a fake endpoint plays."""

    def __init__(self, endpoint: RecordingEndpoint, name: str) -> None:
        self.endpoint = endpoint
        self.name = name.encode()

    def say(self, *requests: AnyRequest) -> None:
        self.endpoint.put(self.name, *requests)

    def hear(self, count: int) -> list[AnyAnswer]:
        return self.endpoint.take(self.name)

    def leave(self) -> None:
        self.endpoint.disconnect(self.name)


class Linked(Client):
    """A client over a real socket."""

    def hear(self, count: int) -> list[AnyAnswer]:
        return self.wait_for(count)

    def leave(self) -> None:
        self.link.close()


Wire = tuple[Endpoint, Callable[[str], Peer]]


@pytest.fixture(params=["recording", "zeromq"])
def wire(request: pytest.FixtureRequest, trun_folders: Path) -> Iterator[Wire]:
    with ExitStack() as stack:
        if request.param == "recording":
            fake = RecordingEndpoint()
            stack.callback(fake.close)
            yield fake, lambda name: Played(fake, name)
        else:
            endpoint = RouterEndpoint(f"ipc://{trun_folders}/run/x.sock")
            stack.callback(endpoint.close)

            def connect(name: str) -> Peer:
                client = Linked(endpoint.address)
                stack.callback(client.link.close)
                return client

            yield endpoint, connect


def test_nothing_has_arrived_at_first(wire: Wire) -> None:
    endpoint, _ = wire

    assert endpoint.receive() == []
    assert endpoint.address.startswith("ipc://")


def test_requests_of_one_peer_come_in_order(wire: Wire) -> None:
    endpoint, connect = wire
    ann = connect("ann")
    ann.say(Hello(session="ann"), Credit(entries=1))
    for number in range(2, 300):
        ann.say(Credit(entries=number))

    found = receive(endpoint, 300)

    assert found[0][1] == Hello(session="ann")
    assert [request.entries for _, request in found[1:] if isinstance(request, Credit)] == list(range(1, 300))
    assert len({peer for peer, _ in found}) == 1


def test_answers_go_to_the_peer_that_they_are_for(wire: Wire) -> None:
    endpoint, connect = wire
    ann, bob = connect("ann"), connect("bob")
    ann.say(Hello(session="ann"))
    bob.say(Hello(session="bob"))
    peers = {request.session: peer for peer, request in receive(endpoint, 2) if isinstance(request, Hello)}

    assert endpoint.send(peers["ann"], [Answer(token="1"), Answer(token="2")])
    assert endpoint.send(peers["bob"], [Answer(token="3")])

    assert ann.hear(2) == [Answer(token="1"), Answer(token="2")]
    assert bob.hear(1) == [Answer(token="3")]


def test_a_request_arrives_as_it_was_sent(wire: Wire) -> None:
    endpoint, connect = wire
    request = Submit(specs=(spec("a", when=b'{"and":[]}', resources={"gpu": 1.0}), spec("b", inputs=("a",))))

    connect("ann").say(request)

    ((_, found),) = receive(endpoint, 1)
    assert found == request


def test_the_descriptor_wakes_whoever_waits(wire: Wire) -> None:
    endpoint, connect = wire
    while endpoint.receive():
        pass

    connect("ann").say(Hello(session="ann"))

    assert select.select(endpoint.fds(), [], [], WAIT_S)[0]
    assert receive(endpoint, 1)


def test_sending_to_a_peer_that_has_gone_says_so(wire: Wire) -> None:
    endpoint, connect = wire
    ann = connect("ann")
    ann.say(Hello(session="ann"))
    ((peer, _),) = receive(endpoint, 1)

    ann.leave()

    receive_until(endpoint, lambda: not endpoint.send(peer, [Answer(token="1")]))


def test_sending_to_a_peer_that_never_was_says_so(wire: Wire) -> None:
    endpoint, _ = wire

    assert not endpoint.send(b"nobody", [Answer(token="1")])


def test_closing_twice_is_closing_once(wire: Wire) -> None:
    endpoint, _ = wire

    endpoint.close()
    endpoint.close()
