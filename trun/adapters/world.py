"""What is true of the world right now: is the file there, has it changed, does the address answer.

``Looker.look`` may block and is called by ``watchers`` in its thread. A fault of the look (no permission, no network)
means "not now", never an end: only the condition's own deadline ends the waiting. An address that the service must not
reach is refused: a daemon that others submit to asks for no address that it would not fetch (see ``reach``).

Rule: which files somebody may have looked at is decided where the condition comes in (``engine.surroundings``), because
here nobody knows whose condition it is.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from trun.adapters.reach import Reach
from trun.conditions.atoms import WorldAtom
from trun.conditions.value import HOLDS, TRUE, WAIT, Value

#: Seconds that an address may take to answer.
TIMEOUT_S = 10.0
_WEB = ("http", "https")


class Looker:
    """Looks at world atoms; remembers what a file was at the first look, for ``changed``.

    ``reach`` bounds the addresses that are asked; None: all are.
    """

    def __init__(self, reach: Reach | None = None) -> None:
        self._reach = reach or Reach()
        self._first: dict[str, tuple[int, int, int] | None] = {}

    def look(self, atom: WorldAtom) -> Value:
        """Return what the atom is worth now.

        Raises
        ------
        NotAuthorised
            The service must not ask this address.
        """
        if is_address(atom):
            return HOLDS if self._answers(atom.target) else WAIT
        if atom.what == "exists":
            return HOLDS if _is_there(file_path(atom.target)) else WAIT
        if atom.what == "changed":
            seen = _stamp(file_path(atom.target))
            first = self._first.setdefault(atom.key, seen)
            return TRUE if seen != first else WAIT
        return WAIT

    def forget(self, key: str) -> None:
        """Nobody waits for this atom any more."""
        self._first.pop(key, None)

    def _answers(self, url: str) -> bool:
        if not self._reach.unbounded and urlsplit_scheme(url) not in _WEB:
            raise self._reach.refusal(url, "only http:// and https:// are asked whether they answer")
        from trun.adapters.web import answers  # costs a tenth of a node's start, and few conditions are about URLs

        return answers(url, self._reach, TIMEOUT_S)


def is_address(atom: WorldAtom) -> bool:
    """Whether a server is asked, which may take long."""
    return atom.what == "url" or (atom.what == "exists" and urlsplit_scheme(atom.target) in _WEB)


def urlsplit_scheme(target: str) -> str:
    """Return the scheme of an address, "" for a path."""
    try:
        return urlsplit(target).scheme if "://" in target else ""
    except ValueError:
        return ""


def file_path(target: str) -> Path:
    """Return the file that a path, or an address ``file://``, means on this machine."""
    if urlsplit_scheme(target) == "file":
        target = unquote(urlsplit(target).path)
    try:
        return Path(target).expanduser()
    except RuntimeError:  # there is no such user, and so no such home
        return Path(target)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


__all__ = ["Looker", "file_path", "is_address", "urlsplit_scheme"]
