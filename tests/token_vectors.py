"""The test vectors of docs/tokens.md: made here, printed as JSON, compared by a test.

``python tests/token_vectors.py`` writes them into the page anew, which is right only where the format has changed.
Ed25519 signatures are deterministic, so everybody who has the seeds gets the same bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from token_mutations import blob_of, joined, links_of, text_of
from trun.adapters import tokens
from trun.adapters.keys import KeyPair

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tokens.md"
BLOCK = re.compile(r"^```json\n(.*?)^```\n", re.MULTILINE | re.DOTALL)

SEEDS = {"root 1": 1, "root 2": 2, "user": 3, "service B": 4, "service C": 5}
KEYS = {name: KeyPair(bytes([number]) * 32) for name, number in SEEDS.items()}
NOW = 1_800_000_000


def good_tokens() -> dict[str, str]:
    """Return the tokens that are to be accepted, by name."""
    user, b, c = KEYS["user"], KEYS["service B"], KEYS["service C"]
    minted = tokens.mint(
        KEYS["root 2"], generation=2, user="pk", holder=user.public, next_key=user.verify,
        ops=["read", "fetch", "cancel-loser"], res=["*"], expires=NOW + 7200,
    )  # fmt: skip
    read = tokens.attenuate(minted, user, holder=b.public, ops=["read"], res=["job:4f"], expires=NOW + 3600)
    onward = tokens.attenuate(
        minted, user, holder=b.public, ops=["read", "fetch"], res=["export:run%207/raw", "job:4f"], expires=NOW + 3600,
        next_key=b.verify,
    )  # fmt: skip
    third = tokens.attenuate(
        onward, b, holder=b.public, ops=["read", "fetch"], res=["file:4f/fit.dat", "stream:4f"], expires=NOW + 600,
        next_key=b.verify,
    )  # fmt: skip
    fourth = tokens.attenuate(third, b, holder=c.public, ops=["fetch"], res=["file:4f/fit.dat"], expires=NOW + 60)
    old = tokens.mint(
        KEYS["root 1"], generation=1, user="uid:1000", holder=user.public, next_key=None, ops=["read"],
        res=["stream:4f"], expires=NOW,
    )  # fmt: skip
    return {
        "minted": minted, "lent to B": read, "lent to B, who may lend on": onward, "B's own share": third,
        "lent on to C": fourth, "sealed, of the root before": old,
    }  # fmt: skip


def bad_tokens() -> dict[str, tuple[str, str]]:
    """Return {what is wrong: (token, reason)}; each is one change away from "lent to B"."""
    good = good_tokens()
    minted, read = links_of(blob_of(good["minted"])), links_of(blob_of(good["lent to B"]))
    user, b = KEYS["user"], KEYS["service B"]

    def second(old: bytes, new: bytes, signer: KeyPair = user) -> str:
        raw = read[1][0].replace(old, new)
        return text_of(joined([minted[0], (raw, signer.sign(tokens.TAG + raw))]))

    flipped = read[1][1][:-1] + bytes([read[1][1][-1] ^ 1])
    return {
        "a bit of the signature": (text_of(joined([read[0], (read[1][0], flipped)])), "signature"),
        "signed by the holder, not by the key that is named": (second(b"", b"", b), "signature"),
        "the second link widens the operations": (second(b'["read"]', b'["read","submit"]'), "signature"),
        "the second link ends later": (second(b"1800003600", b"1800007201"), "signature"),
        "another link before": (second(tokens.ids(good["minted"])[0].encode(), b"0" * 64), "signature"),
        "the links changed places": (text_of(joined(read[::-1])), "malformed"),
        "a space in the JSON": (second(b'"exp":', b'"exp": '), "malformed"),
        "a key twice": (second(b'"ops":', b'"ops":["read"],"ops":'), "malformed"),
        "a number that is not whole": (second(b"1800003600", b"1800003600.0"), "malformed"),
        "operations in another order": (second(b'["read"]', b'["fetch","read"]'), "malformed"),
        "a path with ..": (second(b"job:4f", b"export:raw/../.."), "malformed"),
        "nested 500 deep": (second(b'"read"', b"[" * 500), "malformed"),
        "five links": (text_of(joined([minted[0], *[read[1]] * 4])), "malformed"),
        "padding": (good["lent to B"] + "=", "malformed"),
        "another prefix": ("trun2." + good["lent to B"][6:], "malformed"),
    }


CHECKS: tuple[tuple[str, str, str, str, int, str], ...] = (
    ("minted", "user", "fetch", "export:a.h5", NOW, "good"),
    ("minted", "service B", "fetch", "export:a.h5", NOW, "bearer"),
    ("minted", "user", "submit", "*", NOW, "scope"),
    ("lent to B", "service B", "read", "job:4f", NOW, "good"),
    ("lent to B", "service B", "read", "stream:4f", NOW + 3660, "good"),
    ("lent to B", "service B", "read", "stream:4f", NOW + 3661, "expired"),
    ("lent to B", "service B", "read", "job:4f0", NOW, "scope"),
    ("lent to B", "service B", "fetch", "job:4f", NOW, "scope"),
    ("lent to B", "service C", "read", "job:4f", NOW, "bearer"),
    ("lent to B, who may lend on", "service B", "fetch", "export:run%207/raw/a.h5", NOW, "good"),
    ("lent to B, who may lend on", "service B", "fetch", "export:run%207/rawest", NOW, "scope"),
    ("B's own share", "service B", "read", "stream:4f", NOW, "good"),
    ("B's own share", "service B", "read", "job:4f", NOW, "scope"),
    ("lent on to C", "service C", "fetch", "file:4f/fit.dat", NOW, "good"),
    ("lent on to C", "service C", "fetch", "file:4f/fit.dat", NOW + 121, "expired"),
    ("sealed, of the root before", "user", "read", "stream:4f", NOW, "good"),
)


def vectors() -> dict[str, Any]:
    """Return all vectors as plain data."""
    return {
        "now": NOW,
        "keys": {
            name: {"seed": f"{SEEDS[name]:02x}" * 32, "curve": keys.public, "ed25519": keys.verify}
            for name, keys in KEYS.items()
        },
        "tokens": {
            name: {
                "token": token,
                "links": [raw.decode() for raw, _ in links_of(blob_of(token))],
                "ids": list(tokens.ids(token)),
            }
            for name, token in good_tokens().items()
        },
        "checks": [
            dict(zip(("token", "bearer", "op", "resource", "now", "answer"), check, strict=True)) for check in CHECKS
        ],
        "refused": {what: {"token": token, "reason": reason} for what, (token, reason) in bad_tokens().items()},
    }


def published() -> Any:
    """Return the vectors that stand in the page."""
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no json block"
    return json.loads(found[1])


if __name__ == "__main__":
    text = json.dumps(vectors(), indent=1, ensure_ascii=True)
    page = BLOCK.sub(lambda _: f"```json\n{text}\n```\n", PAGE.read_text(encoding="utf-8"), count=1)
    PAGE.write_text(page, encoding="utf-8")
