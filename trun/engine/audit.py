"""The audit log: a line for each decision about somebody else's request, and one for many that are alike.

The first of its kind is said at once; what the same key repeats within a second is counted and said once, with
``times=N``, when the second is over. So a flood makes two lines a second and not ten thousand.

Decides nothing. Who may come in: the gate. Rule: what is kept is bounded, and nothing that was counted goes unsaid.
"""

from __future__ import annotations

import logging
from typing import Any

from trun.engine.guests import Guest
from trun.messages import AnyRequest, Ask

_audit = logging.getLogger("trun.audit")

#: Seconds for which decisions that are alike are counted.
TOGETHER_S = 1.0
#: Kinds of decisions that are counted at a time.
KINDS = 10_000


#: Longest name of an object in a line.
NAME_CHARS = 80
#: Fields of requests that name what they are about, the first that is there counts.
FIELDS = ("specs", "streams", "uid", "uids", "entries", "groups", "key", "digest")
#: Arguments of verbs likewise.
ARGUMENTS = ("uid", "job", "url", "stream", "id", "key", "res", "name")
NOTHING, SEVERAL = "-", "several"


class Audit:
    """Writes the lines. ``now`` is any clock that does not jump."""

    def __init__(self) -> None:
        #: {(words of the line): [said last at, times since, objects]}
        self._recent: dict[tuple[str, str, str, str], list[Any]] = {}

    def say(self, verdict: str, peer: Guest, message: AnyRequest, now: float) -> None:
        """Note one decision."""
        what = type(message).__name__
        if isinstance(message, Ask):
            what += f" {message.verb[:40]!r}"
        words = (verdict, peer.name, peer.key, what)
        found = self._recent.get(words)
        if found is not None and now - found[0] < TOGETHER_S:
            thing, ids = _about(message, peer)
            found[1] += 1
            found[2] = thing if found[2] in (thing, None) else SEVERAL
            found[3] = ids if found[3] in (ids, None) else SEVERAL
            return
        if found is not None:
            self._tell(words, found)
            del self._recent[words]
        elif len(self._recent) >= KINDS:
            self.flush(float("inf"))
        _audit.info("%s user=%s key=%s operation=%s object=%s tokens=%s", *words, *_about(message, peer))
        self._recent[words] = [now, 0, None, None]

    def flush(self, now: float) -> None:
        """Say what was counted and is a second old."""
        for words, found in list(self._recent.items()):
            if now - found[0] >= TOGETHER_S:
                self._tell(words, found)
                del self._recent[words]

    @staticmethod
    def _tell(words: tuple[str, ...], found: list[Any]) -> None:
        if found[1]:
            line = "%s user=%s key=%s operation=%s object=%s tokens=%s times=%d"
            _audit.info(line, *words, found[2], found[3], int(found[1]))


def _about(message: AnyRequest, peer: Guest) -> tuple[str, str]:
    """Return what a request is about, harmless to print, and the id of the token that speaks of it."""
    inner = getattr(message, "request", message)
    if isinstance(inner, Ask):
        named = next((inner.arguments[name] for name in ARGUMENTS if inner.arguments.get(name)), None)
    else:
        named = next((one for name in FIELDS if (one := getattr(inner, name, None))), None)
    count = len(named) if isinstance(named, (tuple, list)) else 1
    first = named[0] if isinstance(named, (tuple, list)) else named
    first = first[0] if isinstance(first, tuple) and first else first
    found = first if isinstance(first, str) else getattr(first, "uid", "") or getattr(first, "stream", "")
    name = found if isinstance(found, str) else ""
    grant = peer.grants and (peer.grants.get(f"job:{name}") or next(reversed(peer.grants.values())))
    ids = grant.ids[-1][:16] if grant else NOTHING
    more = f"+{count - 1}" if count > 1 else ""
    return (repr(name[:NAME_CHARS]) + more if name else NOTHING), ids


__all__ = ["Audit"]
