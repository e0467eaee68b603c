"""Polls of the world that may block: files, folders, addresses. Each watched atom has its own period.

One daemon thread, started with the first atom and ended with the last; what it sees comes out of ``take`` as
``AtomMoved`` reports, and ``fd`` becomes readable. It decides nothing: it says whether the thing is there now.
Who may come in: the engine's driver, and ``conditions.depends`` through its owner.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from trun.adapters.world import Looker
from trun.conditions.value import CANCELLED
from trun.errors import TrunError
from trun.messages import AtomMoved


class Watchers:
    """Watches world atoms: each has ``key`` and ``poll_s``; ``look`` says what value it has now (0 to 4).

    An atom at which ``look`` refuses to look, with an error of ours, is cancelled with its words. Nothing is looked at
    again before ten times as long has passed as the last look took, however short its period is.
    """

    def __init__(self, look: Callable[[Any], int] | None = None) -> None:
        self._look_at: Callable[[Any], int] = look if look is not None else Looker().look
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._moved: deque[AtomMoved] = deque()
        self._atoms: dict[str, Any] = {}
        self._last: dict[str, int] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def fd(self) -> int:
        """Return a descriptor that is readable when ``take`` has something."""
        return self._read

    def change(self, start: Iterable[Any], stop: Iterable[str]) -> None:
        """Begin to watch some atoms, and stop watching others by key."""
        with self._changed:
            for key in stop:
                self._atoms.pop(key, None)
                self._last.pop(key, None)
            for atom in start:
                self._atoms[atom.key] = atom
            if self._atoms and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trun-watchers", daemon=True)
                self._thread.start()
            self._changed.notify()

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

    def _run(self) -> None:
        due: dict[str, float] = {}
        while True:
            with self._changed:
                if self._closed or not self._atoms:
                    self._thread = None
                    return
                now = time.monotonic()
                due = {key: due.get(key, 0.0) for key in self._atoms}
                atoms = [atom for key, atom in self._atoms.items() if due[key] <= now]
            for atom in atoms:
                begin = time.monotonic()
                self._look(atom)
                now = time.monotonic()
                due[atom.key] = now + max(float(atom.poll_s), 10 * (now - begin))
            with self._changed:
                soonest = min((due.get(key, 0.0) for key in self._atoms), default=0.0)
                if not self._closed and self._atoms:
                    self._changed.wait(max(0.0, soonest - time.monotonic()))

    def _look(self, atom: Any) -> None:
        reason = ""
        try:
            value = int(self._look_at(atom))
        except TrunError as error:
            value, reason = int(CANCELLED), str(error)
        if self._last.get(atom.key) == value:
            return
        self._last[atom.key] = value
        self._moved.append(AtomMoved(key=atom.key, value=value, reason=reason))
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write, b"x")

    def close(self) -> None:
        """Stop watching; the thread ends by itself."""
        with self._changed:
            self._closed = True
            self._atoms = {}
            self._changed.notify()
        for fd in (self._read, self._write):
            os.close(fd)
