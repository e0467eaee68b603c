"""Makes a wheel of a module or package that this process has imported; at the client alone.

Where its source lies in a project (``pyproject.toml`` or ``setup.py`` beside it or above ``src``), the project's own
build makes the wheel, in a copy, so that nothing is left behind in the source. Else the wheel is made of the module's
files: those that its distribution lists, or all in its folder.

Never called in a daemon or a worker. Who may come in: ``trun.installing``.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.machinery
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import types
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trun.adapters import versions
from trun.adapters.packages import look_into
from trun.errors import BadOption, NotInstallable

#: Bytes of source that are packed at most: more is data, and data does not belong into a package.
SOURCE_BYTES = 512 << 20
#: Seconds that a project's build may take.
BUILD_S = 600.0
_PROJECT = ("pyproject.toml", "setup.py")
_LEFT_OUT = ("__pycache__", ".git", ".hg", ".tox", ".nox", ".venv", "venv", "build", "dist", "*.egg-info", "*.pyc")
_LEFT_OUT_CACHES = (".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules")
#: The earliest moment that an archive can tell, so that equal files give an equal wheel.
_MOMENT = (1980, 1, 1, 0, 0, 0)


def build_wheel(module: types.ModuleType) -> bytes:
    """Return a wheel of the top-level package or module that ``module`` belongs to.

    Raises
    ------
    BadOption
        It is not a module, or one of Python's own.
    NotInstallable
        It has no files that could be sent, or its build fails; the end of the build's output is in the message.
    """
    if not isinstance(module, types.ModuleType):
        raise BadOption(f"install_service takes a module or package that you have imported, not {module!r}.")
    top = module.__name__.partition(".")[0]
    if top == "__main__":
        raise BadOption("the script itself cannot be installed; its functions travel with the jobs.")
    if top in sys.stdlib_module_names or top == "trun":
        raise BadOption(f"{top} is part of Python or of trun, which every service has.")
    where = _source(sys.modules.get(top, module), top)
    found = list(versions.distributions_of(top))
    project = _project(where)
    if project is not None:
        wheel = _build(project, top)
        if top in look_into(wheel).modules:
            return wheel  # else the project beside the module is of something else
    return _pack(top, where, found[0] if found else None)


def _source(module: types.ModuleType, top: str) -> Path:
    """Return the folder of a package, or the file of a module."""
    folders = [Path(one) for one in getattr(module, "__path__", ())]
    if len(folders) > 1:
        raise NotInstallable(f"{top} lies in several folders ({folders[0]}, {folders[1]}); make a wheel of each.")
    if folders and folders[0].is_dir():
        return folders[0].resolve()
    file = Path(getattr(module, "__file__", None) or "")
    if file.suffix == ".pyc" or not file.is_file():
        raise NotInstallable(f"{top} has no files here that could be sent to a service.")
    return file.resolve()


def _project(where: Path) -> Path | None:
    above = where.parent
    for folder in (above, above.parent) if above.name == "src" else (above,):
        if any((folder / name).is_file() for name in _PROJECT) and _is_project(folder):
            return folder
    return None


def _is_project(folder: Path) -> bool:
    """Whether the project file says how to build; one that holds settings of tools alone does not."""
    if (folder / "setup.py").is_file():
        return True
    try:
        found = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "project" in found or "build-system" in found


# -- by the project's own build ---------------------------------------------------------------------------------------


def _build(project: Path, top: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="trun-build-") as folder:
        copy, out = Path(folder) / "source", Path(folder) / "out"
        _refuse_large(project)
        shutil.copytree(project, copy, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT, *_LEFT_OUT_CACHES))
        words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
        if _has_backend(copy):
            words.append("--no-build-isolation")
        try:
            done = subprocess.run(
                [*words, "--wheel-dir", str(out), str(copy)],
                capture_output=True,
                text=True,
                timeout=BUILD_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise NotInstallable(f"the build of {project} took more than {BUILD_S:g} seconds.") from error
        made = sorted(out.glob("*.whl")) if out.is_dir() else []
        if done.returncode or len(made) != 1:
            lines = (done.stderr + done.stdout).strip().splitlines()
            raise NotInstallable(f"the build of {project} for {top} failed:\n" + "\n".join(lines[-20:]))
        return made[0].read_bytes()


def _refuse_large(folder: Path) -> None:
    total = 0
    left_out = set(_LEFT_OUT) | set(_LEFT_OUT_CACHES)
    for above, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if one not in left_out]
        for name in files:
            total += os.lstat(os.path.join(above, name)).st_size
            if total > SOURCE_BYTES:
                raise NotInstallable(f"{folder} has more than {SOURCE_BYTES >> 20} MiB; send data as files, not code.")


def _has_backend(project: Path) -> bool:
    """Whether all that the build asks for is here, so that nothing need be fetched."""
    try:
        found: Any = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    wanted = found.get("build-system", {}).get("requires", ["setuptools"])
    for text in wanted:
        need = versions.requirement(str(text))
        if need is not None and not versions.applies(need.marker):
            continue
        have = versions.installed(need.distribution) if need is not None else ""
        if need is None or not have or not versions.meets(have, need.wanted):
            return False
        if need.distribution == "setuptools" and not (versions.meets(have, ">=70.1") or versions.installed("wheel")):
            return False  # such a one makes no wheels by itself
    return True


# -- from the files of a module ---------------------------------------------------------------------------------------


def _pack(top: str, where: Path, distribution: Any) -> bytes:
    """Write a wheel of a module's files; its version is that of its distribution, else its ``__version__``."""
    files = dict(_files(top, where, distribution))
    module = sys.modules.get(top)
    if distribution is not None:
        name, version = str(distribution.name), str(distribution.version)
        about = distribution.read_text("METADATA") or ""
    else:
        name, version, about = top, str(getattr(module, "__version__", "") or "0"), ""
    about = about or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    info = f"{versions.same_name(name).replace('-', '_')}-{version}.dist-info"
    is_pure = not any(path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)) for path in files)
    texts = {
        f"{info}/METADATA": about.encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: trun\nRoot-Is-Purelib: {str(is_pure).lower()}\n"
        f"Tag: {_tag(is_pure)}\n".encode(),
    }
    points = distribution.read_text("entry_points.txt") if distribution is not None else None
    if points:
        texts[f"{info}/entry_points.txt"] = points.encode()
    memory, record = io.BytesIO(), []
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted({*files, *texts}):
            data = texts[path] if path in texts else files[path].read_bytes()
            record.append(f"{path},sha256={_hash(data)},{len(data)}")
            _add(archive, path, data)
        _add(archive, f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]).encode())
    return memory.getvalue()


def _add(archive: zipfile.ZipFile, path: str, data: bytes) -> None:
    member = zipfile.ZipInfo(path, _MOMENT)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o100644 << 16
    archive.writestr(member, data)


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _tag(is_pure: bool) -> str:
    if is_pure:
        return "py3-none-any"
    own = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return f"{own}-{own}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _files(top: str, where: Path, distribution: Any) -> Iterable[tuple[str, Path]]:
    """Yield (path in the wheel, file)."""
    listed = [] if distribution is None else [one for one in distribution.files or () if _belongs(one)]
    if any(one.parts[0].partition(".")[0] == top for one in listed):
        for one in listed:
            file = Path(str(distribution.locate_file(one)))
            if file.is_file():
                yield one.as_posix(), file
        return
    if where.is_file():
        yield where.name, where
        return
    _refuse_large(where)
    for above, folders, names in os.walk(where):
        folders[:] = sorted(one for one in folders if one != "__pycache__" and not one.startswith("."))
        for name in sorted(names):
            file = Path(above, name)
            if not name.endswith((".pyc", ".pyo")) and file.is_file() and not file.is_symlink():
                yield f"{top}/{file.relative_to(where).as_posix()}", file


def _belongs(path: Any) -> bool:
    """Whether a file of an installed distribution is a part of what its wheel has to bring."""
    above = path.parts[0]
    if ".." in path.parts or path.is_absolute() or above.endswith((".dist-info", ".egg-info", ".data")):
        return False
    return "__pycache__" not in path.parts and path.suffix not in (".pth", ".pyc")
