"""Changed capability tokens by the million: none may be accepted, none may raise anything but TokenRefused.

``python tests/token_mutations.py --count 10000000`` prints how many were refused for which reason, the slowest check,
and every token that was accepted although no service ever signed it; the exit code is the number of those. The tests
run a smaller number. Bearer is *everybody*, so that only the signatures stand between a forger and the service.

Rule: a run is decided by its seed alone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from trun.adapters import tokens
from trun.adapters.keys import KeyPair
from trun.adapters.tokens import PREFIX
from trun.errors import TokenRefused

ROOT, OLD_ROOT, USER, B, C = (KeyPair(bytes([number]) * 32) for number in range(1, 6))
NOW = 1_800_000_000
ROOTS = {2: ROOT.verify, 1: OLD_ROOT.verify}


class Everybody(str):
    """A bearer who is whoever the token says."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


EVERYBODY = Everybody()


@dataclass(slots=True)
class Outcome:
    """What became of the changed tokens."""

    #: {reason: how many}
    refused: Counter[str] = field(default_factory=Counter)
    #: Tokens that were accepted and that nobody had signed.
    accepted: list[str] = field(default_factory=list)
    #: Tokens that the change left genuine (a chain with a link less is); they are not checked.
    genuine: int = 0
    #: CPU seconds of the slowest check.
    slowest_s: float = 0.0


def genuine_tokens() -> list[str]:
    """Return good tokens of one to four links, of two roots and several scopes."""
    found = []
    for generation, root in ((2, ROOT), (1, OLD_ROOT)):
        token = tokens.mint(
            root, generation=generation, user="pk", holder=USER.public, next_key=USER.verify,
            ops=["read", "fetch", "cancel-loser"], res=["*"], expires=NOW + 7200,
        )  # fmt: skip
        found.append(token)
        for number, res in enumerate((["job:4f", "job:5f"], ["job:4f"], ["file:4f/fit.dat"])):
            token = tokens.attenuate(
                token, USER, holder=(B if number == 2 else USER).public, ops=["read", "fetch"][: 3 - number], res=res,
                expires=NOW + 3600 - number, next_key=USER.verify,
            )  # fmt: skip
            found.append(token)
        found.append(
            tokens.attenuate(found[-4], USER, holder=C.public, ops=["fetch"], res=["export:raw"], expires=NOW + 60)
        )
    return found


def blob_of(token: str) -> bytes:
    """Return the bytes of a token."""
    text = token[len(PREFIX) :]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(blob: bytes) -> str:
    """Return bytes as a token."""
    return PREFIX + base64.urlsafe_b64encode(blob).decode().rstrip("=")


def links_of(blob: bytes) -> list[tuple[bytes, bytes]]:
    """Return (link, signature) of each link of a well-formed token."""
    found = []
    while blob:
        size = int.from_bytes(blob[:2], "big")
        found.append((blob[2 : 2 + size], blob[2 + size : 66 + size]))
        blob = blob[66 + size :]
    return found


def joined(links: list[tuple[bytes, bytes]]) -> bytes:
    """Return links as the bytes of a token."""
    return b"".join(len(raw).to_bytes(2, "big") + raw + signature for raw, signature in links)


def flip(chance: random.Random, blob: bytes) -> bytes:
    """Change one to three bits."""
    changed = bytearray(blob)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(chance: random.Random, blob: bytes) -> bytes:
    """Leave some bytes out."""
    start = chance.randrange(len(blob))
    return blob[:start] + blob[start + chance.randrange(1, 80) :]


def insert(chance: random.Random, blob: bytes) -> bytes:
    """Put some bytes in, new ones or a copy of others."""
    start, other = chance.randrange(len(blob)), chance.randrange(len(blob))
    piece = chance.randbytes(chance.randrange(1, 40)) if chance.random() < 0.5 else blob[other : other + 40]
    return blob[:start] + piece + blob[start:]


def resize(chance: random.Random, blob: bytes) -> bytes:
    """Move the end of a link."""
    start = chance.randrange(2)
    return blob[:start] + bytes([chance.randrange(256)]) + blob[start + 1 :]


_WORDS = (
    (b'"read"', b'"submit"'), (b'["read"]', b'["read","fetch"]'), (b"job:4f", b"job:5f"), (b'["job:4f"]', b'["*"]'),
    (b'"pk"', b'"root"'), (b'"gen":2', b'"gen":1'), (b'"gen":1', b'"gen":2'), (b'"exp":18', b'"exp":19'),
    (B.public.encode(), C.public.encode()), (USER.public.encode(), C.public.encode()),
    (USER.verify.encode(), C.verify.encode()), (b'"next":"' + USER.verify.encode() + b'",', b""),
    (b'["*"]', b'["job:4f"]'),
)  # fmt: skip


def reword(chance: random.Random, blob: bytes) -> bytes:
    """Change what a link says, in well-formed JSON, and keep its signature (or sign it as a thief would)."""
    links = links_of(blob)
    number = chance.randrange(len(links))
    raw, signature = links[number]
    old, new = chance.choice(_WORDS)
    raw = raw.replace(old, new, 1)
    if chance.random() < 0.2:
        signature = C.sign(tokens.TAG + raw)
    links[number] = (raw, signature)
    return joined(links)


def splice(chance: random.Random, blob: bytes) -> bytes:
    """Put links together that do not belong together."""
    links = [*links_of(blob), *links_of(chance.choice(_BLOBS))]
    chance.shuffle(links)
    return joined(links[: chance.randrange(1, 5)])


_BLOBS = [blob_of(token) for token in genuine_tokens()]
_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (flip, flip, cut, insert, resize, reword, splice)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Verify the same signature of the same bytes by the same key once: most changes leave the first link whole."""
    verified = tokens.verified
    tokens.verified = functools.lru_cache(maxsize=1000)(verified)
    try:
        yield
    finally:
        tokens.verified = verified


def answered(token: str) -> tuple[str, float]:
    """Return why a token is refused (empty: it is not), and the CPU seconds that this took."""
    begin = time.thread_time()
    try:
        tokens.check(
            token, roots=ROOTS, bearer=EVERYBODY, now=NOW, op="read", resource="job:4f", revoked=lambda _id: False
        )
    except TokenRefused as refused:
        return refused.reason, time.thread_time() - begin
    return "", time.thread_time() - begin


def afresh(token: str) -> float:
    """Return the CPU seconds of a check for which no signature is remembered."""
    tokens.verified.cache_clear()  # type: ignore[attr-defined]
    return answered(token)[1]


@remembered()
def run(count: int, seed: int) -> Outcome:
    """Check so many changed tokens."""
    chance = random.Random(seed)
    outcome = Outcome()
    genuine = {text_of(joined(links_of(blob)[:number])) for blob in _BLOBS for number in range(1, 5)}
    for _ in range(count):
        token = text_of(chance.choice(_CHANGES)(chance, chance.choice(_BLOBS)))
        if chance.random() < 0.05:
            place = chance.randrange(len(token))
            token = token[:place] + chance.choice("=+/ \n.AZaz_-é\0") + token[place + chance.randrange(2) :]
        if token in genuine:
            outcome.genuine += 1
            continue
        reason, took_s = answered(token)
        if took_s > outcome.slowest_s:  # measured again: other work on the machine is no property of the token
            outcome.slowest_s = max(outcome.slowest_s, min(took_s, *(afresh(token) for _ in range(4))))
        if reason in ("malformed", "signature"):
            outcome.refused[reason] += 1
        else:
            outcome.accepted.append(token)
    return outcome


def main() -> int:
    """Run, print, and return how many were accepted (at most 100)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = time.perf_counter()
    outcome = run(options.count, options.seed)
    took = time.perf_counter() - begin
    print(f"{options.count} changed tokens in {took:.1f} s, slowest check {outcome.slowest_s * 1000:.2f} ms of CPU")
    print(f"refused: {dict(outcome.refused)}; genuine: {outcome.genuine}; accepted: {len(outcome.accepted)}")
    for token in outcome.accepted[:10]:
        print(token)
    return min(len(outcome.accepted), 100)


if __name__ == "__main__":
    sys.exit(main())
