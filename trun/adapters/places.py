"""Where a client stands: its folder and the folders in which it finds modules, so that a worker finds what it finds.

Folders of a Python installation stay out of it: a worker has its own. What a client added (the folder of its script,
PYTHONPATH, ``sys.path.append``) comes first in the worker too, in the client's order.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence


def own_folders(path: Sequence[str]) -> list[str]:
    """Return the entries of a module path that belong to the user, not to the Python installation."""
    return [folder for folder in path if not _is_installed(folder)]


@functools.lru_cache(maxsize=4096)
def _is_installed(folder: str) -> bool:
    try:
        real = os.path.realpath(folder)
    except FileNotFoundError:  # a relative entry, and this process's folder has gone
        return False
    roots = {os.path.realpath(root) for root in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    inside = tuple(os.path.join(root, lib) + os.sep for root in roots for lib in ("lib", "lib64"))
    return real in roots or real.startswith(inside)


def join(user: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the module path of a worker for a client: the client's own folders, then the worker's."""
    return list(dict.fromkeys((*user, *own)))
