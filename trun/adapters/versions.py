"""Which distributions are installed here, in which version, and whether that is what somebody wants.

Reads the metadata of installed distributions and compares versions; imports none of them. Of a requirement the
comparisons with released versions are understood (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``~=``, ``===``, also
``==1.2.*``); what is written in another way counts as met, since pip itself would know better. Markers
(``; python_version < "3.12"``) are understood by ``packaging``, where it is installed or pip brings it; elsewhere what
has one counts as not needed.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from trun.errors import BadOption
from trun.messages import Need

#: Characters of a marker, at most.
MARKER = 500

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()@]*)\)?\s*(;.*|@.*)?$")
_CLAUSE = re.compile(r"\s*(===|==|!=|<=|>=|~=|<|>)\s*([^\s,]+)\s*$")
_VERSION = re.compile(r"v?(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[._-]?(a|b|c|rc|alpha|beta|pre|preview)[._-]?(\d*))?(.*)$", re.I)
_PRE = {"a": "a", "alpha": "a", "b": "b", "beta": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}


def same_name(name: str) -> str:
    """Return the name of a distribution in the form in which equal ones are equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement(text: str) -> Need | None:
    """Return what a ``Requires-Dist`` line wants; None where it names a place, or cannot be read."""
    found = _REQUIREMENT.match(text)
    rest = (found[3] or "").strip() if found is not None else ""
    if found is None or rest.startswith("@") or len(rest) > MARKER:
        return None
    return Need(distribution=found[1], wanted=found[2].replace(" ", ""), marker=rest.lstrip("; "))


def applies(marker: str) -> bool:
    """Whether the circumstances of a dependency are given here; an extra never is.

    Raises
    ------
    BadOption
        It is no marker.
    """
    if not marker:
        return True
    reader = _markers()
    if reader is None:
        return False
    if len(marker) > MARKER:
        raise BadOption(f"a marker has at most {MARKER} characters: {marker[:60]!r}...")
    try:
        return bool(reader.Marker(marker).evaluate({"extra": ""}))
    except (ValueError, LookupError, RecursionError) as error:
        raise BadOption(f"{marker!r} does not say when a distribution is needed: {error}.") from None


@functools.cache
def _markers() -> Any:
    """Return what understands markers, or None."""
    for name in ("packaging.markers", "pip._vendor.packaging.markers"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def meets(version: str, wanted: str) -> bool:
    """Whether a version is among those that are wanted (``>=1.2,<2``); what is not understood counts as met."""
    return all(_meets_one(version, clause) for clause in wanted.split(",") if clause.strip())


def _meets_one(version: str, clause: str) -> bool:
    found = _CLAUSE.match(clause)
    if found is None:
        return True
    sign, other = found[1], found[2]
    if sign == "===" or (sign == "==" and version == other):
        return version == other
    if other.endswith(".*"):
        base = other[:-2].lstrip("v").split(".")
        is_below = (_release(version) + ["0"] * len(base))[: len(base)] == base
        return is_below if sign == "==" else not is_below if sign == "!=" else True
    mine, theirs = _key(version.partition("+")[0]), _key(other.partition("+")[0])
    if mine is None or theirs is None:
        return sign not in ("==", "!=") or (version == other) is (sign == "==")
    if "+" in other and sign in ("==", "!="):
        return (version == other) is (sign == "==")
    if sign == "~=":
        base = _release(other)[:-1]
        return mine >= theirs and _release(version)[: len(base)] == base
    return bool(_SIGNS[sign](mine, theirs))


_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _release(version: str) -> list[str]:
    found = _VERSION.match(version)
    return [str(int(part)) for part in found[2].split(".")] if found else [version]


def _key(version: str) -> tuple[Any, ...] | None:
    """Return what versions are ordered by: epoch, release, and before it dev, alpha, beta, candidate, after it post."""
    found = _VERSION.match(version)
    if found is None:
        return None
    rest = found[5].lower()
    release = [int(part) for part in found[2].split(".")]
    while release and release[-1] == 0:
        release.pop()
    number = re.search(r"\d+", rest)
    tail = int(number[0]) if number else 0
    if found[3]:
        stage: tuple[Any, ...] = (_PRE[found[3].lower()], int(found[4] or 0))
    elif "dev" in rest and "post" not in rest:
        stage = (" ", 0)
    else:
        stage = ("z", 0)
    after = (-1, tail) if "dev" in rest else (1, tail) if "post" in rest or rest[:1] == "-" else (0, 0)
    return int(found[1] or 0), release, stage, after


# -- what is installed here -------------------------------------------------------------------------------------------


def installed(name: str) -> str:
    """Return the version of an installed distribution, or nothing."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


def all_installed() -> dict[str, str]:
    """Return the versions of all installed distributions by name."""
    from importlib import metadata

    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name, distribution.version)
    return found


def offered_functions() -> list[dict[str, str]]:
    """Return the functions that installed distributions offer under the entry points ``trun.functions``."""
    from importlib import metadata

    found = []
    for point in metadata.entry_points(group="trun.functions"):
        module, _, name = point.value.partition(":")
        distribution = point.dist
        found.append(
            {
                "name": f"{module.strip()}.{name.partition('[')[0].strip()}",
                "distribution": distribution.name if distribution is not None else "",
                "version": distribution.version if distribution is not None else "",
            }
        )
    return found


# -- what a function needs --------------------------------------------------------------------------------------------


def needs_of(fn: Any) -> tuple[Need, ...]:
    """Return the installed distribution, and its version here, that a function which travels by name comes from."""
    from trun.adapters.functions import importable

    where = importable(fn)
    if where is None:
        return ()
    top = where[0].partition(".")[0]
    if top in sys.stdlib_module_names or top in ("trun", "__main__"):
        return ()
    return _needs(top, getattr(sys.modules.get(top), "__file__", None) or "")


@functools.lru_cache(maxsize=512)
def _needs(top: str, file: str) -> tuple[Need, ...]:
    return tuple(
        Need(distribution=one.name, wanted=f"=={one.version}", where=_folder(one)) for one in distributions_of(top)
    )


def _folder(distribution: Any) -> str:
    """Return the folder of a distribution's metadata, where it is one."""
    return str(getattr(distribution, "_path", ""))


def distributions_of(top: str) -> Iterable[Any]:
    """Return the installed distribution that a top-level module belongs to, if there is one and no more."""
    from importlib import metadata

    try:
        one = metadata.distribution(top)
        if top in _tops(one):
            return (one,)
    except (metadata.PackageNotFoundError, ValueError):
        pass
    found = {same_name(one.name): one for one in reversed(list(metadata.distributions())) if top in _tops(one)}
    return tuple(found.values()) if len(found) == 1 else ()


def _tops(distribution: Any) -> set[str]:
    listed = distribution.read_text("top_level.txt")
    if listed:
        return set(listed.split())
    return {file.parts[0].partition(".")[0] for file in distribution.files or () if file.suffix in (".py", ".so")}
