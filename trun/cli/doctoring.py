"""The verb ``doctor``: what may be wrong with this installation, with a one-line fix for each fault.

Each check looks at one thing and returns what it found; none changes anything, none needs a service.

Who may come in: the command. Rule: a check that fails names the thing and the command or variable that mends it.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from trun.adapters import folders
from trun.cli.arguments import Parser, print_json
from trun.cli.text import Paint, line
from trun.errors import TrunError
from trun.version import __version__

#: {distribution: module to import}
NEEDED = {
    "pyzmq": "zmq",
    "cloudpickle": "cloudpickle",
    "blinker": "blinker",
    "msgspec": "msgspec",
    "tornado": "tornado",
    "psutil": "psutil",
    "PyNaCl": "nacl",
}
#: Free space below which the state folder soon refuses jobs.
LEAST_BYTES = 100 * 1024 * 1024
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    what: str
    #: Empty: all is well.
    fix: str = ""
    #: A remark: worth knowing, no fault.
    remark: bool = False


def doctor(words: Sequence[str]) -> int:
    """Check this installation; 1 where something is to be mended."""
    options = Parser("doctor", "Check this installation and say how to mend what is wrong.").data().parse_args(words)
    found = [finding for check in CHECKS for finding in check()]
    faults = [finding for finding in found if finding.fix and not finding.remark]
    if options.json:
        print_json({"ok": not faults, "findings": [{"what": f.what, "fix": f.fix, "remark": f.remark} for f in found]})
        return 1 if faults else 0
    paint = Paint(sys.stdout)
    for finding in found:
        mark = "✓" if not finding.fix else "·" if finding.remark else "✗"
        print(paint.marks(mark), line(finding.what))
        if finding.fix:
            print(f"    {line(finding.fix)}")
    return 1 if faults else 0


def check_python() -> list[Finding]:
    """Look at the interpreter and the platform."""
    found = f"trun {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return [Finding(found, "trun needs Python 3.11 or newer.")]
    if sys.platform != "linux":
        return [Finding(found, "made for Linux: elsewhere being a client works, local services may not.", remark=True)]
    return [Finding(found)]


def check_packages() -> list[Finding]:
    """Look whether all that trun needs is installed, new enough, and can be imported."""
    found = []
    least = _least_versions()
    for name, module in NEEDED.items():
        try:
            version = metadata.version(name)
            importlib.import_module(module)
        except metadata.PackageNotFoundError:
            found.append(Finding(f"{name} is missing", f"{sys.executable} -m pip install {name}"))
        except ImportError as error:
            again = f"{sys.executable} -m pip install --force-reinstall {name}"
            found.append(Finding(f"{name} cannot be imported ({error})", again))
        else:
            wanted = least.get(name.lower(), "")
            if wanted and _numbers(version) < _numbers(wanted):
                newer = f"{sys.executable} -m pip install '{name}>={wanted}'"
                found.append(Finding(f"{name} {version} is older than {wanted}", newer))
    return found or [Finding(f"{len(NEEDED)} packages are there: {', '.join(NEEDED)}")]


def _least_versions() -> dict[str, str]:
    """Return {distribution: oldest version} of trun's own metadata."""
    try:
        lines = metadata.requires("trun") or []
    except metadata.PackageNotFoundError:
        return {}
    pairs = (re.match(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)(?!.*extra)", each) for each in lines)
    return {pair[1].lower(): pair[2] for pair in pairs if pair}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def check_folders() -> list[Finding]:
    """Look whether the three folders can be used, on what disk they lie, and how much room there is."""
    found = []
    places: tuple[tuple[str, str, Callable[[], Path]], ...] = (
        ("state", "TRUN_STATE_DIR", folders.state_folder),
        ("configuration", "TRUN_CONFIG_DIR", folders.config_folder),
        ("runtime", "TRUN_RUNTIME_DIR", folders.runtime_folder),
    )
    for name, variable, find in places:
        try:
            path = find()
        except TrunError as error:
            found.append(Finding(f"{name} folder cannot be used", str(error)))
            continue
        found.append(_disk(name, variable, path))
    return found


def _disk(name: str, variable: str, path: Path) -> Finding:
    kind = folders.file_system(path)
    free = shutil.disk_usage(path).free
    what = f"{name} folder {path}" + (f" on {kind}" if kind else "")
    if name == "state" and kind in folders.REFUSED_FILE_SYSTEMS:
        return Finding(what, f"a network file system is not safe for the journal; set {variable} to a local folder.")
    if name == "state" and free < LEAST_BYTES:
        return Finding(f"{what}, {free // 2**20} MiB free", f"free some space, or set {variable} to another disk.")
    return Finding(what)


def check_sockets() -> list[Finding]:
    """Look whether socket paths are short enough."""
    try:
        address = folders.socket_address("x" * 36)
    except TrunError as error:
        return [Finding("paths of sockets are too long", str(error))]
    return [Finding(f"socket paths have {len(address) - 6} of at most {folders.SOCKET_PATH_BYTES} bytes")]


def check_system() -> list[Finding]:
    """Look at what processes need of the system."""
    found = []
    if not hasattr(os, "pidfd_open"):
        found.append(Finding("the system has no pidfd", "deaths of processes are noticed later.", remark=True))
    try:
        shared = shutil.disk_usage("/dev/shm").free
    except OSError:
        shared = 0
    if sys.platform == "linux" and shared < LEAST_BYTES:
        what = f"/dev/shm has {shared // 2**20} MiB free"
        found.append(Finding(what, "start the container with --shm-size=1g.", remark=True))
    return found


def check_runs() -> list[Finding]:
    """Look for runs that ended with work left, and for sockets that nobody answers on."""
    from trun.cli.places import all_places

    try:
        places = all_places()
    except TrunError as error:
        return [Finding("the runs on record cannot be read", str(error))]
    live = sum(place.live for place in places)
    found = [Finding(f"{live} live services, {len(places) - live} ended runs on record")]
    left = [place for place in places if not place.live and (place.folder / "node.json").exists()]
    if left:
        names = ", ".join(place.run for place in left[:3])
        what = f"{len(left)} services were killed before they could say goodbye: {names}"
        found.append(Finding(what, f"{left[0].again} carries on what it left, if anything.", remark=True))
    return found


CHECKS = (check_python, check_packages, check_folders, check_sockets, check_system, check_runs)
