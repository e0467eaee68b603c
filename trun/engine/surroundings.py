"""Which files of the service's machine a person's conditions may be about.

A condition such as ``exists("/data/run7")`` tells whoever waits for it what lies on the machine of the service. The
owner, and who has the role admin, may have anything looked at; others what they could fetch: files below the folders in
``[fetch] allow`` and below the one that is exported. Addresses are bounded at each look instead (``adapters.world``),
because where a name leads is known only then.

Pure questions about paths: nothing is looked at here. Who may come in: the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from trun.adapters.reach import ALLOW, Reach
from trun.adapters.world import file_path, urlsplit_scheme
from trun.conditions import wire
from trun.conditions.atoms import WorldAtom
from trun.errors import NotAuthorised, TrunError
from trun.messages import JobSpec

_WATCHED = b"world"


def bounds(reach: Reach, more: Iterable[Path] = ()) -> Callable[[JobSpec], None]:
    """Return what refuses jobs that wait for files outside of what ``reach`` allows, and of the folders ``more``.

    What it returns raises ``NotAuthorised`` for them.
    """
    folders = (*reach.folders, *more)

    def check(spec: JobSpec) -> None:
        if reach.unbounded or not spec.when or _WATCHED not in spec.when:
            return
        try:
            condition = wire.loads(spec.when)
        except (TrunError, ValueError):
            return  # the machine refuses it with the right words
        for leaf in (condition,) if isinstance(condition, WorldAtom) else condition.depends:
            if isinstance(leaf, WorldAtom) and leaf.what in ("exists", "changed"):
                _check(spec, leaf, folders)

    return check


def _check(spec: JobSpec, atom: WorldAtom, folders: tuple[Path, ...]) -> None:
    if urlsplit_scheme(atom.target) in ("http", "https") and atom.what == "exists":
        return
    path = file_path(atom.target)
    if not path.is_absolute() or ".." in path.parts or not any(path.is_relative_to(folder) for folder in folders):
        raise NotAuthorised(
            f"{spec.name} waits for {atom.target[:200]!r}, a file of the service's own machine, which this service "
            f"does not show to you. Its operator can allow it with [fetch] allow ({ALLOW} in the daemon's environment, "
            "file:///FOLDER); or let a job look for it."
        )
