"""Real daemons for tests: started with the command, stopped for good when the test ends, whatever it did.

``Site`` is one service of the person whose folders the environment names; ``as_person`` is somebody else for a while,
with a key of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: Seconds after which something that should have happened has failed to.
PATIENCE_S = 60.0


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    tick = threading.Event()
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        tick.wait(0.02)


def command(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``trun WORDS`` and look at its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "trun", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Site:
    """A daemon."""

    def __init__(self, name: str, *more: str, listen: str = "tcp://127.0.0.1:0") -> None:
        self.name = name
        self.address = ""
        self.more = ("--workers", "2", *more)
        self.start(listen)

    def start(self, listen: str = "") -> dict[str, Any]:
        """Start it, again at the same address unless another is given."""
        where = ("--listen", listen or self.address) if listen or self.address.startswith("tcp") else ()
        words = ("service", "start", "--name", self.name, *where, *self.more, "--json")
        self.facts: dict[str, Any] = json.loads(command(*words).stdout)
        self.address = str(self.facts["address"])
        self.key: str = self.facts["key"]
        self.folder = Path(self.facts["state"])
        return self.facts

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self.facts["pid"])

    def stop(self, *how: str) -> None:
        """Stop it."""
        command("service", "stop", self.name, *how)

    def log(self) -> str:
        """Return its log."""
        return (self.folder / "node.log").read_text()


@contextlib.contextmanager
def as_person(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[str]:
    """Be somebody else, with a configuration folder and a key of their own; the value is the key."""
    from trun.adapters.keys import user_keys

    folder.mkdir(mode=0o700, exist_ok=True)
    before = os.environ["TRUN_CONFIG_DIR"]
    monkeypatch.setenv("TRUN_CONFIG_DIR", str(folder))
    try:
        yield user_keys().public
    finally:
        monkeypatch.setenv("TRUN_CONFIG_DIR", before)


@contextlib.contextmanager
def daemons() -> Iterator[Callable[..., Site]]:
    """Give what starts daemons (``make(name, *options, listen=...)``); in the end they and our handles are gone."""
    from trun.errors import TrunError
    from trun.remotes import _opened

    sites: list[Site] = []

    def make(name: str, *more: str, listen: str = "tcp://127.0.0.1:0") -> Site:
        sites.append(Site(name, *more, listen=listen))
        return sites[-1]

    try:
        yield make
    finally:
        while _opened:
            made = _opened.pop()
            with contextlib.suppress(TrunError):
                made.leave_quietly()
        for site in sites:
            site.stop("--kill")
