"""What users have installed on a service: which folders their jobs find first, and whether versions fit.

An installation is a job of kind ``install``. What it unpacked belongs to its user alone, and is seen by the jobs that
this user submitted after it, once it has completed; among several of one distribution the last one counts. Jobs that
a job submits from inside see what that job sees.

Reads metadata and what the installing jobs wrote down; imports and executes nothing that was installed. Who may come
in: the engine. Rule: the daemon's own module path never has any of these folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trun.adapters.ondemand import environment_name, source, words
from trun.adapters.settings import of_service
from trun.core.machine import Machine
from trun.core.record import FINAL_STATES, JobRecord, JobState
from trun.engine import pruning
from trun.errors import BadOption, VersionMismatch
from trun.messages import JobSpec, Need, Submit
from trun.version import __version__

_log = logging.getLogger(__name__)

#: Seconds between two looks for what no job uses.
PRUNE_S = 3600.0
#: Seconds for which what was found in the service's own environment counts, and names that are kept so long.
FRESH_S, NAMES = 30.0, 10_000
#: Distributions that one job may need.
NEEDS = 200
#: Jobs above a job that are asked whose it is.
_GENERATIONS = 100
#: Bytes of what an installing job wrote down.
_FACTS_BYTES = 1 << 20
_SHOWN = 20
_HEX = frozenset("0123456789abcdef")


class Packages:
    """The installations of one service. All methods belong to the engine's thread."""

    def __init__(self, machine: Machine, folder: str) -> None:
        self._machine = machine
        self._installs = machine.book.installs
        self._users = Path(folder) / "users"
        self._folder = folder
        #: What the service's own environment has of what was asked for, and since when that is known.
        self._versions: dict[str, str] = {}
        self._looked = 0.0
        self._offered: tuple[float, list[dict[str, str]]] | None = None
        self._present: tuple[float, dict[str, str]] | None = None
        #: Where distributions that are missing are taken from; None: nowhere.
        settings = of_service(Path(folder)) if folder else dict(os.environ)
        self._source = source(settings)
        self._keep_s = pruning.keep_seconds(settings)
        self._pruned = 0.0

    @property
    def are_any(self) -> bool:
        """Whether anybody has installed anything."""
        return bool(self._installs)

    # -- for the orders

    def taken(self, record: JobRecord) -> dict[str, str]:
        """Return the versions of what was installed for a job: by its user, or on demand."""
        if record.spec.package is not None:
            return {record.spec.package.distribution: record.spec.package.version}
        if not self.are_any and (self._source is None or not record.spec.needs):
            return {}
        found = {}
        for path in reversed(self.paths(record)[0] if self._folder else ()):
            found.update(_versions_in(Path(path)))
        return found

    def target(self, spec: JobSpec) -> str:
        """Return the folder into which a job unpacks its package."""
        if spec.package is None or not self._folder:
            return ""
        return str(self._users / _digest(spec.owner) / spec.package.digest)

    def home(self, spec: JobSpec) -> str:
        """Return the folder with the packages of the user of a job, or of the job that has submitted it."""
        return str(self._users / _digest(self._root_owner(spec)))

    def paths(self, record: JobRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the folders that stand first in the module path of a job, the newest first.

        The second part is what has to be installed into the last of them before, if the folder is not there.
        """
        if record.spec.package is not None:
            return (), ()
        found: dict[str, str] = {}
        needs = list(record.spec.needs)
        for install in reversed(self._before(record)):
            package = install.spec.package
            if package is None or install.life.state is not JobState.COMPLETED or _name(package.distribution) in found:
                continue
            found[_name(package.distribution)] = self.target(install.spec)
            needs += package.requires
        wanted = self._wanted(needs, found) if self._source is not None and needs else ()
        if wanted:
            found["/"] = str(Path(self._folder) / "environments" / environment_name(wanted))
        return tuple(found.values()), wanted

    def _wanted(self, needs: Iterable[Need], found: Mapping[str, str]) -> tuple[str, ...]:
        """Return those needs that neither the service nor its user has met."""
        from trun.adapters.versions import applies

        return words(
            need
            for need in needs
            if applies(need.marker)
            and _name(need.distribution) not in found
            and not (need.where and os.path.isdir(need.where))
            and not self._installed(need.distribution)
        )

    def _before(self, record: JobRecord) -> list[JobRecord]:
        """Return the installations that a job may see."""
        records = self._machine.records
        for _ in range(_GENERATIONS):
            # What a job submits from inside comes through its service's own socket, so it has no owner of its own.
            inside = record.spec.parent and not record.spec.owner
            above = records.get(record.spec.parent) if inside else None
            if above is None:
                break
            record = above
        number = record.life.number
        return [one for one in self._installs.get(record.spec.owner, ()) if one.life.number < number]

    def prune(self) -> list[str]:
        """Take away what no job uses any more; return which folders."""
        machine, before = self._machine, time.time() - self._keep_s
        self._pruned = time.monotonic()
        gone: list[str] = []
        if any(len(mine) > 1 for mine in self._installs.values()):
            oldest = pruning.oldest_unfinished(machine.records.values(), lambda one: self._root_owner(one.spec))
            for user, mine in self._installs.items():
                number = oldest.get(user, float("inf"))
                gone += pruning.superseded(mine, number, before, lambda one: self.target(one.spec))
        environments = Path(self._folder) / "environments"
        if self._source is not None and environments.is_dir():
            used: set[str] = set()
            for record in machine.records.values():
                if not record.life.state.is_final:
                    used.update(self.paths(record)[0])
            gone += pruning.unused(environments, used, before)
        gone = [one for one in gone if Path(one).is_dir()]
        if gone:
            _log.info("packages that no job uses are removed folders=%d", len(gone))
            pruning.remove(gone)
        return gone

    # -- at the door

    def refusal(self, message: Submit) -> Exception | None:
        """Return why a submission does not fit what is installed here; None where it does, or cannot be known."""
        for spec in message.specs:
            if (spec.needs or spec.package is not None) and spec.uid not in self._machine.records:
                try:
                    self._check(spec, message)
                except (VersionMismatch, BadOption) as error:
                    return error
        return None

    def _check(self, spec: JobSpec, message: Submit) -> None:
        package = spec.package
        if package is not None and self._folder and time.monotonic() - self._pruned > PRUNE_S:
            self.prune()
        if package is not None and (len(package.digest) != 64 or not _HEX.issuperset(package.digest)):
            raise BadOption(f"{spec.name}: the digest of a wheel is a SHA-256 in hexadecimal, not {package.digest!r}.")
        if len(spec.needs) + (len(package.requires) if package is not None else 0) > NEEDS:
            raise BadOption(f"{spec.name} needs more than {NEEDS} distributions.")
        mine = self._of(self._root_owner(spec))
        for other in message.specs:
            if other.package is not None and other is not spec:
                mine[_name(other.package.distribution)] = other.package.version
        for need in spec.needs if package is None else package.requires:
            self._check_need(spec, need, mine)

    def _root_owner(self, spec: JobSpec) -> str:
        for _ in range(_GENERATIONS):
            above = self._machine.records.get(spec.parent) if spec.parent and not spec.owner else None
            if above is None:
                break
            spec = above.spec
        return spec.owner

    def _check_need(self, spec: JobSpec, need: Need, mine: dict[str, str]) -> None:
        from trun.adapters.versions import applies, meets

        words([need])  # here, since an order has nobody to complain to
        if not applies(need.marker):
            return
        if need.where and os.path.isdir(need.where):  # never raises, whatever the name
            return
        have = mine.get(_name(need.distribution)) or self._installed(need.distribution)
        if spec.package is not None:
            if not have and self._source is not None:
                return
            if not have or not meets(have, need.wanted):
                raise VersionMismatch(
                    f"{spec.package.distribution} {spec.package.version} needs {need.distribution} "
                    f"{need.wanted or 'in any version'}; the service has {have or 'none'}. Install that first with "
                    "trun.install_service, or ask the operator for it."
                )
        elif have and not meets(have, need.wanted):
            raise VersionMismatch(
                f"{spec.name} comes from {need.distribution} {need.wanted.removeprefix('==')} here, and the service "
                f"has {need.distribution} {have}. Send yours with trun.install_service, or install {have} here, or "
                f"call what is there with service.function(...)."
            )

    def _installed(self, name: str) -> str:
        """Return the version that the service's own environment has, or nothing."""
        now = time.monotonic()
        if now - self._looked > FRESH_S or len(self._versions) > NAMES:
            self._versions.clear()
            self._looked = now
        known = self._versions.get(_name(name))
        if known is None:
            from trun.adapters.versions import installed

            known = self._versions[_name(name)] = installed(name)
        return known

    # -- what is there

    def _of(self, user: str) -> dict[str, str]:
        """Return the versions that a user has installed, or is about to: the coming jobs wait for that."""
        found: dict[str, str] = {}
        for record in self._installs.get(user, ()):
            package, state = record.spec.package, record.life.state
            if package is not None and (state is JobState.COMPLETED or state not in FINAL_STATES):
                found[_name(package.distribution)] = package.version
        return found

    def versions(self, user: str) -> dict[str, str]:
        """Return the versions of trun, Python and all distributions that jobs of this user find."""
        from trun.adapters.versions import all_installed, same_name

        found = {"trun": __version__, "python": platform.python_version()}
        now = time.monotonic()
        if self._present is None or now - self._present[0] > FRESH_S:
            self._present = now, all_installed()
        have = self._present[1]
        mine = {
            same_name(one.spec.package.distribution): one.spec.package
            for one in self._installs.get(user, ())
            if one.spec.package is not None and one.life.state is JobState.COMPLETED
        }
        found.update({name: have[name] for name in have if same_name(name) not in mine and name not in found})
        found.update({package.distribution: package.version for package in mine.values()})
        return found

    def functions(self, user: str) -> list[dict[str, str]]:
        """Return the functions that a user can call by name: name, distribution, version."""
        from trun.adapters.versions import offered_functions

        now = time.monotonic()
        if self._offered is None or now - self._offered[0] > FRESH_S:  # costs a look at each distribution
            self._offered = now, offered_functions()
        found = {one["name"]: one for one in self._offered[1]}
        for record in self._installs.get(user, ()):
            package = record.spec.package
            if package is None or record.life.state is not JobState.COMPLETED:
                continue
            for name in _facts(Path(self.target(record.spec))).get("functions", ()):
                one = {"name": str(name), "distribution": package.distribution, "version": package.version}
                found[str(name)] = one
        return sorted(found.values(), key=lambda one: one["name"])

    def offer(self, user: str) -> str:
        """Say what somebody may call who may not install."""
        there = [f"{one['name']} ({one['distribution']} {one['version']})" for one in self.functions(user)]
        if not there:
            return "service.versions() says what is installed there."
        more = f" and {len(there) - _SHOWN} more, see service.functions()" if len(there) > _SHOWN else ""
        return f"What is there can be run with service.function(NAME)(...): {', '.join(there[:_SHOWN])}{more}."


def _facts(target: Path) -> dict[str, Any]:
    """Return what the installing job wrote down about a package."""
    try:
        with open(target.with_suffix(".json"), "rb") as file:
            found = json.loads(file.read(_FACTS_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _versions_in(folder: Path) -> dict[str, str]:
    """Return the distributions in a folder, by the names of their metadata's folders."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".dist-info")]
    except OSError:
        return {}
    return {name: version for name, _, version in (one[: -len(".dist-info")].rpartition("-") for one in names)}


def _digest(user: str) -> str:
    """Return the name of a user's folder; the owner of the service has one too."""
    return hashlib.blake2b(user.encode(), digest_size=16).hexdigest()


def _name(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


# -- verbs ------------------------------------------------------------------------------------------------------------


def _versions(engine: Any, arguments: dict[str, Any]) -> Any:
    return engine.payloads.packages.versions(str(arguments.get("_user", "")))


def _functions(engine: Any, arguments: dict[str, Any]) -> Any:
    return engine.payloads.packages.functions(str(arguments.get("_user", "")))


#: Verbs that only a living service answers.
VIEWS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {"versions": _versions, "functions": _functions}
