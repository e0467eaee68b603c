"""Which installed packages no job uses any more, and taking them away.

A package stays while it is the newest of its distribution that its user has installed, while a job is unfinished that
was submitted before a newer one, and for a while afterwards (``[install] keep``), for jobs that are tried again. What
was installed on demand stays while an unfinished job wants it, and as long after it was last used; it can be made anew.

Who may come in: ``packages``. Rule: a folder gets another name first and is removed then, so that nobody finds half of
one; the removal takes long and happens in a thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from trun.conditions.timing import span_seconds
from trun.core.record import JobRecord, JobState

KEEP = "TRUN_INSTALL__KEEP"
DEFAULT_KEEP = "30d"


def keep_seconds(settings: Mapping[str, str]) -> float:
    """Return for how long what no job uses is kept (``[install] keep``)."""
    return span_seconds(settings.get(KEEP, DEFAULT_KEEP), f"[install] keep ({KEEP})")


def superseded(
    installs: Sequence[JobRecord], oldest: float, before: float, target: Callable[[JobRecord], str]
) -> list[str]:
    """Return the folders of one user's installations that nobody needs.

    ``installs`` are in order of their numbers; ``oldest`` is the number of the user's first unfinished job; what was
    replaced after the time ``before`` is kept.
    """
    from trun.adapters.versions import same_name

    newer: dict[str, JobRecord] = {}
    kept: set[str] = set()
    gone: list[str] = []
    for install in reversed(installs):
        package = install.spec.package
        if package is None:
            continue
        name, life = same_name(package.distribution), install.life
        successor = newer.get(name)
        if life.state is JobState.COMPLETED:
            newer.setdefault(name, install)
        elif life.state.is_final:
            continue
        is_old = successor is not None and successor.life.number < oldest and successor.life.ended < before
        (gone.append if is_old else kept.add)(target(install))
    return [one for one in dict.fromkeys(gone) if one not in kept]


def unused(folder: Path, used: set[str], before: float) -> list[str]:
    """Return the folders with what was installed on demand that no unfinished job wants, nor has wanted lately."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if not entry.name.startswith(".") and entry.path not in used and entry.stat().st_mtime < before:
                found.append(entry.path)
    return found


def remove(folders: Iterable[str]) -> threading.Thread:
    """Take folders away; what they are called by is free when this returns."""
    renamed = []
    for folder in map(Path, folders):
        away = folder.with_name(f".{secrets.token_hex(8)}.new")  # swept later, should we be killed
        with contextlib.suppress(OSError):
            folder.rename(away)
            os.utime(away)
            renamed.append(away)
            for charge in folder.parent.parent.glob(f"users/*/{folder.name}.charge"):
                charge.unlink(missing_ok=True)
        folder.with_suffix(".json").unlink(missing_ok=True)
    thread = threading.Thread(target=_remove, args=(renamed,), name="trun-prune", daemon=True)
    thread.start()
    return thread


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def oldest_unfinished(records: Iterable[JobRecord], owner: Callable[[JobRecord], str]) -> dict[str, float]:
    """Return the number of the first unfinished job by user."""
    found: dict[str, float] = {}
    for record in records:
        if not record.life.state.is_final:
            user = owner(record)
            found[user] = min(found.get(user, float("inf")), record.life.number)
    return found
