"""What the operator of a service has set: ``[fetch]``, ``[install]``, ``[bulk]``, ``[client]``: files and environment.

Later ones win: ``trun.toml`` where the service is started, ``[tool.trun]`` of ``pyproject.toml`` there, that file in
the folder of configuration, the environment (``TRUN_FETCH__ALLOW``). What comes out has the form of the environment, so
whoever reads one reads the other. A daemon reads them once, at its start, and writes what it found into its state
folder, where its workers find it, also those that it shares with the daemon before it.

Knows names, not meanings: whoever uses a setting checks it. Rule: a section is here if a daemon reads it; other
sections belong to others and are left alone. A name that is none is an error: nothing is open because of a slip.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trun.errors import BadOption, nearest

FILE = "trun.toml"
#: What a daemon has written down for its workers.
KEPT = "settings.json"
NAMES: Mapping[str, tuple[str, ...]] = {
    "fetch": ("allow", "max_size"),
    "install": ("wheels", "index", "quota", "keep"),
    "bulk": ("port",),
    "client": ("grace",),
}


def variable(section: str, name: str) -> str:
    """Return what a setting is called in the environment."""
    return f"TRUN_{section.upper()}__{name.upper()}"


VARIABLES = frozenset(variable(section, name) for section, names in NAMES.items() for name in names)


def load(here: Path, config: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return all settings of a daemon that is started in the folder ``here``, by the name of their variable.

    Raises
    ------
    BadOption
        A file cannot be read, or has a name in one of the sections that is none.
    """
    found: dict[str, str] = {}
    for path, inner in ((here / FILE, ()), (here / "pyproject.toml", ("tool", "trun")), (config / FILE, ())):
        found.update(_of_file(path, inner))
    for name, value in environment.items():
        if name in VARIABLES:
            found[name] = value
        elif name.startswith(tuple(f"TRUN_{section.upper()}__" for section in NAMES)):
            raise BadOption(f"the environment's {name} is no setting.{nearest(name, VARIABLES)}")
    return found


def keep(folder: Path, settings: Mapping[str, str]) -> None:
    """Write down for the workers of a state folder what holds for them."""
    fresh = folder / f".{KEPT}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        json.dump(dict(settings), file)
    fresh.replace(folder / KEPT)


def of_service(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment with the settings of the service whose state folder this is.

    Where its daemon has written none down (a private node), those of the environment hold.
    """
    try:
        kept: dict[str, str] = json.loads((folder / KEPT).read_bytes())
    except FileNotFoundError:
        return dict(environment)
    return {name: value for name, value in environment.items() if name not in VARIABLES} | kept


def _of_file(path: Path, inner: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    import tomllib

    try:
        found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(f"{path} cannot be read as settings: {error}.") from None
    for word in inner:
        found = found.get(word, {}) if isinstance(found, dict) else {}
    for section, names in NAMES.items():
        values = found.get(section, {}) if isinstance(found, dict) else {}
        if not isinstance(values, dict):
            raise BadOption(f"{path}: [{section}] is a section, not {values!r}.")
        for name, value in values.items():
            if name not in names:
                raise BadOption(f"{path}: [{section}] has no setting {name!r}.{nearest(name, names)}")
            yield variable(section, name), _text(value, f"{path}: [{section}] {name}")


def _text(value: Any, what: str) -> str:
    """Return a value as the environment would have it."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadOption(f"{what} is a text, a number or a list of texts, not {value!r}.")
    return str(value)
