"""Distributions that a job needs and a service has not: installed on demand, where the operator allows it.

The operator names a folder of wheels (``[install] wheels``, ``TRUN_INSTALL__WHEELS`` in the daemon's environment) or
a package index (``[install] index``, ``TRUN_INSTALL__INDEX``); without either nothing is installed. What is wanted
together gets a folder of its own, under the digest of what is wanted, and never changes afterwards. Only wheels are
taken, so nothing is built; pip runs in the worker of the job, not in the daemon. What a job is the first to want counts
towards the quota of its user (``[install] quota``).

Rule: what is wanted comes from clients and is checked before it becomes a word of a command.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trun.adapters.packages import charge, quota_of, room_for, size_of, sweep, too_much
from trun.errors import BadOption, PackageRefused
from trun.messages import Need

WHEELS, INDEX = "TRUN_INSTALL__WHEELS", "TRUN_INSTALL__INDEX"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_WANTED = re.compile(r"(?:(?:===|==|!=|<=|>=|~=|<|>)[A-Za-z0-9][A-Za-z0-9.!+_*-]{0,60}(?:,(?!$)|$)){0,8}")
_LINES = 15
#: Seconds between two looks at what pip has written.
LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the operator lets distributions be taken from."""

    wheels: str = ""
    index: str = ""

    def options(self) -> list[str]:
        """Return it as options of pip."""
        found = ["--index-url", self.index] if self.index else ["--no-index"]
        return [*found, "--find-links", self.wheels] if self.wheels else found


def source(environment: Mapping[str, str] = os.environ) -> Source | None:
    """Return the source that the operator names; None where nothing is installed on demand."""
    found = Source(wheels=environment.get(WHEELS, ""), index=environment.get(INDEX, ""))
    return found if found.wheels or found.index else None


def words(needs: Iterable[Need]) -> tuple[str, ...]:
    """Return what is wanted as requirements, in order; raise ``BadOption`` for what is none."""
    found = set()
    for need in needs:
        if _NAME.fullmatch(need.distribution) is None or _WANTED.fullmatch(need.wanted) is None:
            raise BadOption(f"{need.distribution[:100]!r} {need.wanted[:100]!r} names no version of a distribution.")
        found.add(need.distribution + need.wanted)
    return tuple(sorted(found))


def environment_name(wanted: Iterable[str]) -> str:
    """Return the name of the folder for what is wanted together, for this Python."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}-{sysconfig.get_platform()}"
    return hashlib.sha256("\n".join((python, *wanted)).encode()).hexdigest()


def provide(
    folder: Path, wanted: tuple[str, ...], *, home: Path, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """See to it that what is wanted is installed in the folder; return which versions are there.

    ``home`` is the folder with the packages of the user whose job wants it.

    Raises
    ------
    PackageRefused
        The operator's source does not have it (the end of what pip said is in the message), or the user has too much.
    """
    if not folder.is_dir():
        allowed = source(environment)
        if allowed is None:
            raise PackageRefused(f"{', '.join(wanted)} is not on this service, which installs nothing on demand.")
        what, quota = ", ".join(wanted), quota_of(environment)
        room = room_for(what, home, quota)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(folder.parent)
        fresh = folder.parent / f".{secrets.token_hex(8)}.new"
        (fresh / "tmp").mkdir(mode=0o700, parents=True)
        try:
            # pip has a wheel and its content for a while, before it has the content alone.
            is_within = _pip(fresh, wanted, allowed, environment, most=2 * room)
            size = size_of(fresh / "site")
            if not is_within or size > room:
                raise too_much(what, quota - room, quota)
            charge(home, folder.name, size)
            os.rename(fresh / "site", folder)
        except OSError:
            charge(home, folder.name, None)
            if not folder.is_dir():  # else somebody else was faster with the same
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    os.utime(folder)  # it is used
    return versions_in(folder)


def versions_in(folder: Path) -> dict[str, str]:
    """Return the distributions in a folder by name."""
    from importlib import metadata

    return {one.name: one.version for one in metadata.distributions(path=[str(folder)]) if one.name}


def _pip(fresh: Path, wanted: tuple[str, ...], allowed: Source, environment: Mapping[str, str], *, most: int) -> bool:
    """Install into ``fresh/site``; False where ``fresh`` would have got larger than ``most`` bytes."""
    command = [
        sys.executable,
        "-I",
        "-m",
        "pip",
        "--isolated",
        "install",
        "--target",
        str(fresh / "site"),
        "--only-binary",
        ":all:",
    ]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet", *allowed.options()]
    with subprocess.Popen(
        [*command, "--", *wanted],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(fresh / "tmp")},
    ) as pip:
        try:
            while True:
                try:
                    out, err = pip.communicate(timeout=LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    if size_of(fresh) > most:
                        return False
        finally:
            pip.kill()
    if pip.returncode or not (fresh / "site").is_dir():
        said = "\n".join((err + out).strip().splitlines()[-_LINES:])
        raise PackageRefused(f"{', '.join(wanted)} cannot be installed on this service:\n{said}")
    return True
