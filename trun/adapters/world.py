"""What is true of the world right now: is the file there, has it changed, does the address answer.

One function, ``look``, that may block and is called by ``watchers`` in its thread. A fault of the look (no
permission, no network) means "not now", never an end: only the condition's own deadline ends the waiting.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from trun.conditions.atoms import WorldAtom
from trun.conditions.value import HOLDS, TRUE, WAIT, Value

#: Seconds that an address may take to answer.
TIMEOUT_S = 10.0


class Looker:
    """Looks at world atoms; remembers what a file was at the first look, for ``changed``."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, int, int] | None] = {}

    def look(self, atom: WorldAtom) -> Value:
        """Return what the atom is worth now."""
        if atom.what == "exists":
            return HOLDS if _is_there(atom.target) else WAIT
        if atom.what == "url":
            return HOLDS if _answers(atom.target) else WAIT
        if atom.what == "changed":
            seen = _stamp(Path(atom.target).expanduser())
            first = self._first.setdefault(atom.key, seen)
            return TRUE if seen != first else WAIT
        return WAIT

    def forget(self, key: str) -> None:
        """Nobody waits for this atom any more."""
        self._first.pop(key, None)


def _is_there(target: str) -> bool:
    parts = urlsplit(target)
    if parts.scheme in ("http", "https"):
        return _answers(target)
    path = unquote(parts.path) if parts.scheme == "file" else target
    try:
        return Path(path).expanduser().exists()
    except OSError:
        return False


def _answers(url: str) -> bool:
    import urllib.error  # costs a tenth of a node's start, and few conditions are about URLs
    import urllib.request

    for method in ("HEAD", "GET"):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=TIMEOUT_S):
                return True
        except urllib.error.HTTPError as error:
            if method == "HEAD" and error.code in (405, 501):
                continue
            return False
        except (OSError, ValueError):
            return False
    return False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
