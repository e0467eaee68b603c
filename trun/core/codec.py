"""Messages to bytes and back: the only room that knows the encoding (MessagePack by msgspec).

A batch of messages is one MessagePack array. Whatever does not decode to the expected union raises ``ProtocolError``;
nothing here touches a socket. Deep or wrong input ends in that one error, never in another.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trun.core.record import Life
from trun.errors import ProtocolError
from trun.messages import AnyAnswer, AnyEvent, AnyRequest, GroupSpec, JobSpec, Message

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(list[AnyRequest])
_answers = msgspec.msgpack.Decoder(list[AnyAnswer])
_event = msgspec.msgpack.Decoder(AnyEvent)
_life = msgspec.msgpack.Decoder(Life)
_spec = msgspec.msgpack.Decoder(JobSpec)
_group = msgspec.msgpack.Decoder(GroupSpec)

encode = _encoder.encode


def encode_batch(messages: Sequence[Message]) -> bytes:
    """Encode messages that travel together."""
    return _encoder.encode(messages)


def decode_requests(data: bytes) -> list[AnyRequest]:
    """Decode what a client sent; anything else is a ``ProtocolError``."""
    try:
        return _requests.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ProtocolError(f"not a batch of requests: {error}") from error


def decode_answers(data: bytes) -> list[AnyAnswer]:
    """Decode what a node sent; anything else is a ``ProtocolError``."""
    try:
        return _answers.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ProtocolError(f"not a batch of answers: {error}") from error


def decode_event(data: bytes) -> AnyEvent:
    """Decode one event of the journal."""
    found: AnyEvent = _event.decode(data)
    return found


def decode_life(data: bytes) -> Life:
    """Decode the changing half of a record."""
    return _life.decode(data)


def decode_spec(data: bytes) -> JobSpec:
    """Decode a spec of the journal."""
    return _spec.decode(data)


def decode_group(data: bytes) -> GroupSpec:
    """Decode a group of the journal."""
    return _group.decode(data)
