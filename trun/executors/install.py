"""Payloads that trun brings along: unpacking a wheel for the jobs after it, and calling a function by its name."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from trun.errors import PackageRefused, UnknownName, UsageError
from trun.executors.context import current_job


def install(wheel: Any, distribution: str, version: str) -> dict[str, Any]:
    """Unpack a wheel where the service says; the payload of ``trun.install_service``.

    The result is what the wheel is and has: distribution, version, modules, functions, requires, digest.
    """
    from trun.adapters.packages import digest_of, quota_of, unpack
    from trun.adapters.settings import of_service
    from trun.adapters.versions import same_name

    job = current_job()
    if job is None or not job.target:
        raise UsageError("a wheel is installed by trun.install_service(module).")
    target, data = Path(job.target), bytes(wheel)
    if digest_of(data) != target.name:
        raise PackageRefused("the wheel is not the one that was announced: its digest is another.")
    if target.is_dir() and target.with_suffix(".json").is_file():
        found: dict[str, Any] = json.loads(target.with_suffix(".json").read_bytes())
        return found
    settings = of_service(Path(job.export_folder).parent)
    contents = unpack(data, target, quota=quota_of(settings))
    found = {**contents.to_dict(), "digest": target.name}
    if (same_name(contents.distribution), contents.version) != (same_name(distribution), version):
        raise PackageRefused(
            f"the wheel was announced as {distribution} {version} and is {contents.distribution} {contents.version}."
        )
    _write(target.with_suffix(".json"), json.dumps(found).encode())
    return found


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(f".{os.getpid()}.new")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


class Named:
    """A function that is known by its text alone, and looked for where the job runs.

    ``__name__`` is what the job is called.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.__name__ = name.rpartition(".")[2]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it where it is."""
        return find(self.name)(*args, **kwargs)

    def __reduce__(self) -> Any:
        return Named, (self.name,)


def find(name: str) -> Any:
    """Import and return a function by its full name, ``package.module.function``."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            __import__(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                continue
            raise
        found: Any = sys.modules[module]
        for part in parts[length:]:
            if not hasattr(found, part):
                known = [one for one in dir(found) if not one.startswith("_")]
                raise UnknownName(f"{module} on this service has no {part!r}.", name=part, known=known)
            found = getattr(found, part)
        found = getattr(found, "fn", found) if type(found).__name__ == "JobFunction" else found
        if not callable(found):
            raise UsageError(f"{name} is {found!r}, which cannot be called.")
        return found
    raise UnknownName(
        f"this service has no module {parts[0]!r}; service.functions() and service.versions() say what it has."
    )
