"""Polls of the world that may block: files, folders, addresses. Each watched atom has its own period.

One daemon thread looks at files and a few ask addresses, so that a server that never answers holds up no file; they
are started with the first atom and end with the last. What they see comes out of ``take`` as ``AtomMoved`` reports, and
``fd`` becomes readable. It decides nothing: it says whether the thing is there now.
Who may come in: the engine's driver, and ``conditions.depends`` through its owner.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from trun.adapters.world import Looker, is_address
from trun.conditions.value import CANCELLED
from trun.errors import TrunError
from trun.messages import AtomMoved

#: Addresses that are asked at a time.
ASKING = 4


class Looks(Protocol):
    """What looks at an atom (see ``world.Looker``)."""

    def look(self, atom: Any) -> int:
        """Return what it is worth now; may block, and may be called by several threads."""
        ...

    def forget(self, key: str) -> None:
        """Nobody waits for it any more, or somebody begins to."""
        ...


class _Lane:
    """Atoms of one kind, and the threads that look at them."""

    def __init__(self, look: Callable[[Any], None], *, threads: int) -> None:
        self._look = look
        self._most = threads
        self._atoms: dict[str, Any] = {}
        #: When those are looked at again that nobody looks at just now.
        self._due: dict[str, float] = {}
        self._changed = threading.Condition()
        self._threads = 0
        self._closed = False

    def change(self, start: Iterable[Any], stop: Iterable[str]) -> None:
        with self._changed:
            for key in stop:
                self._atoms.pop(key, None)
                self._due.pop(key, None)
            for atom in start:
                self._atoms[atom.key] = atom
                self._due[atom.key] = 0.0
            while self._threads < min(self._most, len(self._atoms)):
                self._threads += 1
                threading.Thread(target=self._run, name="trun-watchers", daemon=True).start()
            self._changed.notify_all()

    def _run(self) -> None:
        while (atom := self._next()) is not None:
            begin = time.monotonic()
            self._look(atom)
            now = time.monotonic()
            with self._changed:
                if atom.key in self._atoms:
                    self._due[atom.key] = now + max(float(atom.poll_s), 10 * (now - begin))

    def _next(self) -> Any:
        """Wait until an atom is due and return it; None where this thread is not needed any more."""
        with self._changed:
            while not self._closed and self._threads <= len(self._atoms):
                key = min(self._due, key=self._due.__getitem__, default="")
                pause = self._due[key] - time.monotonic() if key else None
                if pause is not None and pause <= 0:
                    del self._due[key]
                    return self._atoms[key]
                self._changed.wait(pause)
            self._threads -= 1
            return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Watchers:
    """Watches world atoms: each has ``key`` and ``poll_s``; ``looker`` says what value it has now (0 to 4).

    An atom at which it refuses to look, with an error of ours, is cancelled with its words. Nothing is looked at
    again before ten times as long has passed as the last look took, however short its period is.
    """

    def __init__(self, looker: Looks | None = None) -> None:
        self._looker = looker or Looker()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._moved: deque[AtomMoved] = deque()
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._files, self._addresses = _Lane(self._look, threads=1), _Lane(self._look, threads=ASKING)

    def fd(self) -> int:
        """Return a descriptor that is readable when ``take`` has something."""
        return self._read

    def change(self, start: Iterable[Any], stop: Iterable[str]) -> None:
        """Begin to watch some atoms, and stop watching others by key."""
        start, stop = list(start), list(stop)
        with self._lock:
            for key in (*stop, *(atom.key for atom in start)):
                self._last.pop(key, None)
                self._looker.forget(key)
        addresses = [atom for atom in start if is_address(atom)]
        self._addresses.change(addresses, stop)
        self._files.change([atom for atom in start if atom not in addresses], stop)

    def wake(self) -> None:
        """Let the descriptor be readable although nothing was seen; safe in a signal handler."""
        if not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._write, b"x")

    def take(self) -> list[AtomMoved]:
        """Return what was seen since the last call."""
        if not self._moved:
            return []
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        found = []
        while self._moved:
            found.append(self._moved.popleft())
        return found

    def _look(self, atom: Any) -> None:
        reason = ""
        try:
            value = int(self._looker.look(atom))
        except TrunError as error:
            value, reason = int(CANCELLED), str(error)
        with self._lock:
            if self._closed or self._last.get(atom.key) == value:
                return
            self._last[atom.key] = value
            self._moved.append(AtomMoved(key=atom.key, value=value, reason=reason))
            with contextlib.suppress(BlockingIOError):
                os.write(self._write, b"x")

    def close(self) -> None:
        """Stop watching; the threads end by themselves."""
        self._files.close()
        self._addresses.close()
        with self._lock:
            self._closed = True
            for fd in (self._read, self._write):
                os.close(fd)
