"""The audit log: a line for each decision about somebody else's request, and one for many that are alike.

The first of its kind is said at once; what the same key repeats within a second is counted and said once, with
``times=N``, when the second is over. So a flood makes two lines a second and not ten thousand.

Decides nothing. Who may come in: the gate. Rule: what is kept is bounded, and nothing that was counted goes unsaid.
"""

from __future__ import annotations

import logging

from trun.engine.guests import Guest
from trun.messages import AnyRequest, Ask

_audit = logging.getLogger("trun.audit")

#: Seconds for which decisions that are alike are counted.
TOGETHER_S = 1.0
#: Kinds of decisions that are counted at a time.
KINDS = 10_000


class Audit:
    """Writes the lines. ``now`` is any clock that does not jump."""

    def __init__(self) -> None:
        #: {(words of the line): [said last at, times since]}
        self._recent: dict[tuple[str, str, str, str, str], list[float]] = {}

    def say(self, verdict: str, peer: Guest, message: AnyRequest, now: float) -> None:
        """Note one decision."""
        what = type(message).__name__
        if isinstance(message, Ask):
            what += f" {message.verb[:40]!r}"
        newest = next(reversed(peer.grants.values()), None)
        ids = newest.ids[-1][:16] if newest is not None else "-"
        words = (verdict, peer.name, peer.user, what, ids)
        found = self._recent.get(words)
        if found is not None and now - found[0] < TOGETHER_S:
            found[1] += 1
            return
        if found is not None:
            self._tell(words, found)
            del self._recent[words]
        elif len(self._recent) >= KINDS:
            self.flush(float("inf"))
        _audit.info("%s user=%s key=%s operation=%s tokens=%s", *words)
        self._recent[words] = [now, 0]

    def flush(self, now: float) -> None:
        """Say what was counted and is a second old."""
        for words, found in list(self._recent.items()):
            if now - found[0] >= TOGETHER_S:
                self._tell(words, found)
                del self._recent[words]

    @staticmethod
    def _tell(words: tuple[str, ...], found: list[float]) -> None:
        if found[1]:
            _audit.info("%s user=%s key=%s operation=%s tokens=%s times=%d", *words, int(found[1]))


__all__ = ["Audit"]
