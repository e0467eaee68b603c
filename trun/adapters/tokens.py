"""Capability tokens: what a user lends to another service, signed link by link, each link narrower than the one before.

A token is a chain of one to four links. A link says who holds it (a CURVE key), what it allows (operations, resources,
until when) and which Ed25519 key may sign the next link, if any. The service's root signs the first link; every holder
narrows it further offline. ``check`` is all that a service needs: it does a bounded number of bounded steps, caps
before signatures, and never re-encodes what was signed. docs/tokens.md holds the format and test vectors.

Knows neither people nor roles nor sockets; counting and rates are the caller's. Who may come in: whoever has keys.
Rule: there is nothing to evaluate in a token, and nothing is accepted that could be written in two ways. Whoever
changes the format changes the prefix and the tag, and makes new vectors.
Source: design paper on reliability and security, C2 (which also says why not Biscuit, macaroons or JWT).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from trun.adapters.keys import verified
from trun.core.scopes import OPERATIONS, RESOURCES, allows, is_resource, narrows, operations, resources
from trun.errors import BadOption, TokenRefused, UsageError

#: First characters of every token.
PREFIX = "trun1."
#: What stands before the bytes of a link when they are signed, so that a signature means nothing elsewhere.
TAG = b"trun capability link 1\n"
#: Characters of a token, links of a token, and seconds by which clocks may differ.
TOKEN_CHARS = 4096
LINKS = 4
SKEW_S = 60
#: Longest life of a link that a service should mint, in seconds.
LONGEST_S = 12 * 3600

_SIGNATURE_BYTES = 64
_MAX_TIME = 2**40
_KEY = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_USER = re.compile(r"[!#-\[\]-~]{1,64}", re.ASCII)
_TEXT = re.compile(rb"[!#-\[\]-~\"]*")  # printable ASCII without a backslash: JSON in which nothing is escaped


class Signer(Protocol):
    """What signs: ``trun.adapters.keys.KeyPair`` is one."""

    @property
    def verify(self) -> str:
        """The Ed25519 public key in hexadecimal."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of a signature."""
        ...


class Link(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """One link, in the order in which its fields are written."""

    #: Seconds since the epoch, UTC.
    exp: int
    #: Generation of the root that signed; first link only.
    gen: int = 0
    #: CURVE key (Z85) of who may present the token as far as here.
    holder: str
    #: Ed25519 key (hexadecimal) that signs the next link; absent: sealed.
    next: str = ""
    #: Operations, in the order of the vocabulary.
    ops: tuple[str, ...]
    #: SHA-256 (hexadecimal) of the bytes of the link before; absent in the first.
    prev: str = ""
    #: Resources, sorted.
    res: tuple[str, ...]
    #: Whose rights these are; first link only.
    user: str = ""


class Part(NamedTuple):
    """A link as it was received."""

    raw: bytes
    signature: bytes
    link: Link

    @property
    def id(self) -> str:
        """The revocation id."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a good token allows."""

    #: Whose rights these are, as the service named them when it minted.
    user: str
    #: CURVE key of the user to whom the first link was given.
    key: str
    #: Revocation ids, first link first.
    ids: tuple[str, ...]
    #: Seconds since the epoch, UTC.
    expires: int
    #: Operations that all links allow.
    ops: tuple[str, ...]
    #: Resources that all links allow.
    res: tuple[str, ...]


# -- making -----------------------------------------------------------------------------------------------------------


def mint(
    root: Signer,
    *,
    generation: int,
    user: str,
    holder: str,
    next_key: str | None,
    ops: Iterable[str],
    res: Iterable[str],
    expires: float,
) -> str:
    """Return a token of one link, signed by a service's root.

    Parameters
    ----------
    root
        The keys of the root.
    generation
        Its number, at least 1.
    user
        Whose rights the token carries.
    holder
        CURVE key of that user.
    next_key
        Ed25519 key that may attenuate; None seals the token.
    ops, res
        Operations and resources of ``trun.core.scopes``.
    expires
        Seconds since the epoch, UTC.

    Raises
    ------
    BadOption
        An argument makes no sense.
    """
    if _USER.fullmatch(user) is None:
        raise BadOption(f"the user {user!r} of a token must be 1 to 64 printable ASCII characters without spaces.")
    if not isinstance(generation, int) or not 1 <= generation < 2**31:
        raise BadOption(f"a generation is a whole number of at least 1, not {generation!r}.")
    link = _link(holder, next_key, ops, res, expires, gen=generation, user=user)
    return _written([_signed(link, root)])


def attenuate(
    token: str,
    signer: Signer,
    *,
    holder: str,
    ops: Iterable[str],
    res: Iterable[str],
    expires: float,
    next_key: str | None = None,
) -> str:
    """Return the token with one more link, which is bound to ``holder`` and allows no more than the links before.

    Needs no service. ``expires`` beyond the token's own end is cut to it; without ``next_key`` the new link is sealed.

    Raises
    ------
    BadOption
        The new link would allow more than the token does, the token is full or sealed, or ``signer`` may not sign.
    """
    parts = _opened(token)
    last = parts[-1].link
    if not last.next:
        raise BadOption("the token is sealed: nothing can be added to it; ask its issuer for one that is not.")
    if signer.verify != last.next:
        raise BadOption("the token names another key as the one that may narrow it; use the keys that asked for it.")
    if len(parts) == LINKS:
        raise BadOption(f"a token has at most {LINKS} links, and this one has them.")
    link = _link(holder, next_key, ops, res, min(expires, last.exp), prev=parts[-1].id)
    if not set(link.ops) <= set(last.ops):
        raise BadOption(f"the token allows {', '.join(last.ops)}; a new link cannot allow {', '.join(link.ops)}.")
    if not narrows(last.res, link.res):
        raise BadOption(f"the token speaks of {', '.join(last.res)}; a new link cannot go beyond that.")
    return _written([*parts, _signed(link, signer)])


def _link(
    holder: str, next_key: str | None, ops: Iterable[str], res: Iterable[str], expires: float, **more: Any
) -> Link:
    if not isinstance(holder, str) or _KEY.fullmatch(holder) is None:
        raise BadOption(f"the holder of a token is a key of 40 characters, not {holder!r}.")
    if next_key is not None and (not isinstance(next_key, str) or _HEX.fullmatch(next_key) is None):
        raise BadOption("the key that may narrow a token is written as 64 hexadecimal digits.")
    if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not 0 < expires < _MAX_TIME:
        raise BadOption(f"a token ends at a number of seconds since the epoch, not at {expires!r}.")
    exp = max(int(expires), 1)
    return Link(exp=exp, holder=holder, next=next_key or "", ops=operations(ops), res=resources(res), **more)


def _signed(link: Link, signer: Signer) -> Part:
    raw = msgspec.json.encode(link)
    return Part(raw, signer.sign(TAG + raw), link)


def _written(parts: Iterable[Part]) -> str:
    blob = b"".join(len(part.raw).to_bytes(2, "big") + part.raw + part.signature for part in parts)
    text = PREFIX + base64.urlsafe_b64encode(blob).decode().rstrip("=")
    if len(text) > TOKEN_CHARS:
        raise BadOption(f"the token would be longer than {TOKEN_CHARS} characters; name fewer resources.")
    return text


# -- checking ---------------------------------------------------------------------------------------------------------


def check(
    token: str,
    *,
    roots: Mapping[int, str],
    bearer: str,
    now: float,
    op: str,
    resource: str,
    revoked: Callable[[str], bool],
) -> Grant:
    """Return what a token grants, if it allows its bearer this operation on this resource now.

    At most four signatures of at most 3 kB in all are verified, and nothing is verified of what is malformed. Whether
    the user still has these rights is the caller's to see.

    Parameters
    ----------
    token
        As it was received.
    roots
        {generation: Ed25519 key of the root in hexadecimal}: those that are still honoured.
    bearer
        CURVE key of the connection over which the token came, never one that a message names.
    now
        Seconds since the epoch, UTC; clocks may differ by ``SKEW_S``.
    op, resource
        What is wanted.
    revoked
        Whether a revocation id was revoked.

    Raises
    ------
    TokenRefused
        With one word as its ``reason``. Anything but ``malformed`` and ``signature`` is said only to the true bearer.
    """
    parts = _opened(token)
    _check_signatures(parts, roots)
    if parts[-1].link.holder != bearer:
        raise _refusal("bearer")
    ids = tuple(part.id for part in parts)
    if any(revoked(one) for one in ids):
        raise _refusal("revoked")
    for part in parts:
        link = part.link
        if not now <= link.exp + SKEW_S:  # refuses a NaN too
            raise _refusal("expired")
        if op not in link.ops or not allows(link.res, resource):
            raise _refusal("scope")
    first, last = parts[0].link, parts[-1].link
    return Grant(user=first.user, key=first.holder, ids=ids, expires=last.exp, ops=last.ops, res=last.res)


def _check_signatures(parts: list[Part], roots: Mapping[int, str]) -> None:
    """Refuse links that were not signed by the key that the link before names, or allow more than it does."""
    key = roots.get(parts[0].link.gen, "")
    before: Part | None = None
    for part in parts:
        link = part.link
        if not key or not verified(key, TAG + part.raw, part.signature):
            raise _refusal("signature")
        if before is not None:
            wider = set(link.ops) - set(before.link.ops) or not narrows(before.link.res, link.res)
            if link.prev != before.id or wider or link.exp > before.link.exp:
                raise _refusal("signature")
        key, before = link.next, part


def _opened(token: str) -> list[Part]:
    """Return the links of a token, which are then well formed but by no means true."""
    if not isinstance(token, str) or len(token) > TOKEN_CHARS or not token.startswith(PREFIX):
        raise _refusal("malformed")
    text = token[len(PREFIX) :]
    try:
        blob = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _refusal("malformed") from None
    if base64.urlsafe_b64encode(blob).decode().rstrip("=") != text:
        raise _refusal("malformed")
    pieces: list[tuple[bytes, bytes]] = []
    start = 0
    while start < len(blob):
        end = start + 2 + int.from_bytes(blob[start : start + 2], "big")
        if len(pieces) == LINKS or end + _SIGNATURE_BYTES > len(blob):
            raise _refusal("malformed")
        pieces.append((blob[start + 2 : end], blob[end : end + _SIGNATURE_BYTES]))
        start = end + _SIGNATURE_BYTES
    if not pieces:
        raise _refusal("malformed")
    return [Part(raw, signature, _read(raw, number)) for number, (raw, signature) in enumerate(pieces)]


_decoder = msgspec.json.Decoder(Link)


def _read(raw: bytes, number: int) -> Link:
    """Return a link that is written in the one valid way; ``number`` is its place in the chain."""
    if _TEXT.fullmatch(raw) is None:
        raise _refusal("malformed")
    try:
        link = _decoder.decode(raw)
        good = msgspec.json.encode(link) == raw and _is_good(link, first=number == 0)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        good = False
    if not good:
        raise _refusal("malformed")
    return link


def _is_good(link: Link, *, first: bool) -> bool:
    if first:
        place = _USER.fullmatch(link.user) is not None and 1 <= link.gen < 2**31 and not link.prev
    else:
        place = not link.user and not link.gen and _HEX.fullmatch(link.prev) is not None
    return (
        place
        and 0 < link.exp < _MAX_TIME
        and _KEY.fullmatch(link.holder) is not None
        and (not link.next or _HEX.fullmatch(link.next) is not None)
        and 0 < len(link.ops) <= len(OPERATIONS)
        and link.ops == tuple(name for name in OPERATIONS if name in link.ops)
        and 0 < len(link.res) <= RESOURCES
        and all(is_resource(one) for one in link.res)
        and all(one < other for one, other in zip(link.res, link.res[1:], strict=False))
    )


def _refusal(reason: str) -> TokenRefused:
    return TokenRefused(f"the token was refused: {reason}.", reason=reason)


# -- looking ----------------------------------------------------------------------------------------------------------


def ids(token: str) -> tuple[str, ...]:
    """Return the revocation id of each link: SHA-256 (hexadecimal) of its bytes. Nothing is verified.

    Raises
    ------
    UsageError
        The text is no token.
    """
    return tuple(part.id for part in _shown(token))


def inspect(token: str) -> list[dict[str, Any]]:
    """Return the links of a token as plain data, for display; nothing is verified. Each has its ``id`` too.

    Raises
    ------
    UsageError
        The text is no token.
    """
    return [{"id": part.id, **msgspec.json.decode(part.raw)} for part in _shown(token)]


def _shown(token: str) -> list[Part]:
    try:
        return _opened(token)
    except TokenRefused:
        raise UsageError("this is no token of trun, or it is damaged.") from None
