"""Whose word it is that something happened on another service: each user's jobs believe what was said to that user.

News of a foreign stream comes from a client that passes it on, or from what the service hears with the right that a
user lent it. Either may be made up for the jobs of somebody else, so it is filed under a name of its own for each user
(``uid@voice``), and the conditions of that user's jobs wait for that name. What the owner of the service says, and the
owner's jobs, go by the plain uid.

Pure. Rule: a name with a voice never leaves the service: people and clients see the plain uid.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

_VOICE = re.compile(r"@[0-9a-f]{32}\Z")
_VOICE_IN_KEY = re.compile(r"@[0-9a-f]{32}(?=:)")


@lru_cache(maxsize=10_000)
def _voice(owner: str) -> str:
    return blake2b(owner.encode(), digest_size=16, person=b"trun voice").hexdigest()


def voiced(uid: str, owner: str) -> str:
    """Return the name under which a foreign stream is known to the jobs of this owner."""
    return f"{uid}@{_voice(owner)}" if owner else uid


def plain(name: str) -> str:
    """Return the uid behind such a name."""
    return _VOICE.sub("", name)


def plain_keys(keys: tuple[str, ...], owner: str) -> tuple[str, ...]:
    """Return keys of atoms as clients know them."""
    return tuple(_VOICE_IN_KEY.sub("", key, count=1) for key in keys) if owner else keys


def namer(owner: str, here: str) -> Callable[[str, str], str] | None:
    """Return what names the subject of an atom from its uid and its service; None where nothing has another name."""
    if not owner:
        return None

    def name(uid: str, service: str) -> str:
        return uid if service in ("", here) else voiced(uid, owner)

    return name


__all__ = ["namer", "plain", "plain_keys", "voiced"]
