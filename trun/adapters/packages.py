"""Unpacks a wheel that somebody has sent into a fresh folder, and says what is in it; executes nothing of it.

The members are walked here, not by a library's filter: absolute names, ``..``, links, devices, names that differ in
case alone, ``.pth`` files, scripts, modules that would stand before Python's own or ours, and archives that are larger
than they look are refused before a byte of them lies where somebody would look. What was unpacked is synced and then
renamed, so a folder under the digest of its wheel is always whole.

Who may come in: the payload that installs (``executors.install``), and tests. Rule: sizes are those of the bytes that
came out, never those that the archive claims.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
import sysconfig
import time
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any

from trun.core.units import memory_bytes
from trun.errors import PackageRefused

#: Bytes of a wheel, files in it, bytes of all of them, and how many times more than in the wheel.
WHEEL_BYTES, FILES, UNPACKED_BYTES, RATIO = 512 << 20, 20_000, 2 << 30, 100
QUOTA, DEFAULT_QUOTA = "TRUN_INSTALL__QUOTA", "4GiB"
#: Below this size the ratio does not matter.
SMALL_BYTES = 16 << 20
#: Seconds after which a folder that was not finished is a remnant.
LEFT_S = 3600.0
#: Bytes of the archive's own directory for one file, at most.
_ENTRY_BYTES = 400
_NAME_BYTES, _PIECE = 200, 1 << 20
_END, _END_BYTES = b"PK\x05\x06", 22
_END_64 = b"PK\x06\x07"
#: Modules that Python imports unasked.
_UNASKED = frozenset({"sitecustomize", "usercustomize"})
_KEPT_DATA = ("purelib", "platlib")
_FUNCTIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in a wheel."""

    distribution: str
    version: str
    #: Top-level modules and packages.
    modules: tuple[str, ...] = ()
    #: Functions that it offers, as ``module.name``.
    functions: tuple[str, ...] = ()
    #: The text of each dependency (``Requires-Dist``).
    requires: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "distribution": self.distribution,
            "version": self.version,
            "modules": list(self.modules),
            "functions": list(self.functions),
            "requires": list(self.requires),
        }


def quota_of(settings: Mapping[str, str]) -> int:
    """Return how many bytes the packages of one user may have (``[install] quota``)."""
    return memory_bytes(settings.get(QUOTA, DEFAULT_QUOTA), f"[install] quota ({QUOTA})")


def digest_of(wheel: bytes | memoryview) -> str:
    """Return the SHA-256 of a wheel in hexadecimal."""
    return hashlib.sha256(wheel).hexdigest()


def unpack(wheel: bytes | memoryview, target: Path, *, quota: int = UNPACKED_BYTES * 1000) -> Contents:
    """Unpack a wheel into the folder ``target``, which must not be there yet; all of it or nothing.

    ``quota`` is how many bytes all that lies beside the target may have together with it.

    Raises
    ------
    PackageRefused
        Names the member and what is wrong with it.
    """
    with _opened(wheel) as archive:
        members = checked_members(archive)
        found = contents(archive, members)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(target.parent)
        size = sum(member.file_size for member in members.values())
        room = room_for(f"{found.distribution} {found.version}", target.parent, quota, size)
        fresh = target.parent / f".{secrets.token_hex(8)}.new"
        fresh.mkdir(mode=0o700)
        try:
            _write_all(archive, members, fresh, min(room, max(SMALL_BYTES, len(wheel) * RATIO)))
            os.rename(fresh, target)
        except zipfile.BadZipFile as error:
            raise PackageRefused(f"the wheel is damaged: {error}") from error
        except OSError:
            if not target.is_dir():  # else somebody else was faster with the same content
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        _sync(target.parent)
    return found


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, whatever comes and goes meanwhile."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(above, name)).st_size
    return total


def charge(home: Path, name: str, size: int | None) -> None:
    """Write down that an environment was installed for the jobs of a user; None: that it was not."""
    note = home / f"{name}.charge"
    if size is None:
        note.unlink(missing_ok=True)
        return
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    note.write_text(str(size))


def used_bytes(home: Path) -> int:
    """Return how many bytes the packages of a user have: uploads, and what was installed on demand for their jobs."""
    total = size_of(home)
    for note in home.glob("*.charge"):
        with contextlib.suppress(OSError, ValueError):
            if (home.parent.parent / "environments" / note.stem).is_dir():
                total += int(note.read_text())
    return total


def room_for(what: str, home: Path, quota: int, size: int = 1) -> int:
    """Return how many bytes may still come for a user; refuse what says itself that it is more."""
    used = used_bytes(home)
    if used + size > quota:
        raise too_much(what, used, quota)
    return quota - used


def too_much(what: str, used: int, quota: int) -> PackageRefused:
    """Return the error for a package that does not fit beside what its user has."""
    return PackageRefused(
        f"{what} does not fit: your packages on this service have {used >> 20} MiB of {quota >> 20} "
        "([install] quota). Versions that no job needs any more are removed after a while; ask the operator for more, "
        "or leave data out of the package."
    )


def sweep(folder: Path) -> None:
    """Remove what somebody left there who was killed while it unpacked."""
    for left in folder.glob(".*.new"):
        try:
            is_old = time.time() - left.stat().st_mtime > LEFT_S
        except FileNotFoundError:
            continue
        if is_old:
            shutil.rmtree(left, ignore_errors=True)


def look_into(wheel: bytes | memoryview) -> Contents:
    """Return what is in a wheel without unpacking it."""
    with _opened(wheel) as archive:
        return contents(archive, checked_members(archive))


def _opened(wheel: bytes | memoryview) -> zipfile.ZipFile:
    size = len(wheel)
    if size > WHEEL_BYTES:
        raise PackageRefused(f"the wheel has {size} bytes; at most {WHEEL_BYTES} are taken.")
    end = bytes(wheel[-_END_BYTES:])
    if len(end) < _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
        raise PackageRefused("this is no wheel: an archive that ends with its directory was expected.")
    if bytes(wheel[-_END_BYTES - 20 : -_END_BYTES]).startswith(_END_64):
        raise PackageRefused("the wheel is a zip64 archive, which no wheel of this size needs to be.")
    if int.from_bytes(end[12:16], "little") > FILES * _ENTRY_BYTES:
        raise PackageRefused(f"the wheel has more than {FILES} files.")
    try:
        return zipfile.ZipFile(io.BytesIO(wheel))
    except (zipfile.BadZipFile, ValueError, UnicodeDecodeError, NotImplementedError) as error:
        raise PackageRefused(f"the wheel is damaged: {error}") from error


# -- what may be in it ------------------------------------------------------------------------------------------------


def checked_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a wheel by the path at which they belong; raise ``PackageRefused`` for what may not be."""
    if len(archive.infolist()) > FILES:
        raise PackageRefused(f"the wheel has more than {FILES} files.")
    members: dict[str, zipfile.ZipInfo] = {}
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for member in archive.infolist():
        if member.is_dir() and not _kind(member):
            _path(member)
            continue
        _refuse_odd(member)
        path = _place(_path(member))
        key = _folded(str(path))
        if key in seen or key in folders:
            raise PackageRefused(f"two members of the wheel are called {path}.")
        seen[key] = str(path)
        for above in path.parents[:-1]:
            name = folders.setdefault(_folded(str(above)), str(above))
            if name != str(above) or _folded(name) in seen:
                raise PackageRefused(f"two members of the wheel are called {above}.")
        members[str(path)] = member
    return members


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", path).casefold()


def _kind(member: zipfile.ZipInfo) -> int:
    """Return what the archive says that a member is; 0 for a file or folder, or where it says nothing."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    return 0 if kind in (0, stat.S_IFREG, stat.S_IFDIR) else kind


def _refuse_odd(member: zipfile.ZipInfo) -> None:
    if _kind(member) or stat.S_ISDIR(member.external_attr >> 16):
        raise PackageRefused(f"{member.filename!r} in the wheel is a link or a device; a wheel has files alone.")
    if member.flag_bits & 0x1:
        raise PackageRefused(f"{member.filename!r} in the wheel is encrypted.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackageRefused(f"{member.filename!r} in the wheel is compressed in a way that wheels are not.")


def _path(member: zipfile.ZipInfo) -> PurePosixPath:
    name = member.orig_filename.removesuffix("/") if member.is_dir() else member.orig_filename
    parts = name.split("/")
    bad = any(part in ("", ".", "..") or part != part.strip() or len(part.encode()) > _NAME_BYTES for part in parts)
    if bad or len(parts) > 50 or any(ord(sign) < 32 or sign in '\\:*?"<>|\x7f' for sign in name):
        raise PackageRefused(f"{name[:200]!r} is no name for a file in a wheel.")
    return PurePosixPath(name)


def _place(path: PurePosixPath) -> PurePosixPath:
    """Return where a member belongs; scripts, and what would be executed unasked, belong nowhere."""
    top = path.parts[0]
    if top.lower().endswith(".data"):
        if len(path.parts) < 3 or path.parts[1] not in _KEPT_DATA:
            raise PackageRefused(f"{path} in the wheel is a script or belongs outside of the package; leave it out.")
        path = PurePosixPath(*path.parts[2:])
        top = path.parts[0]
    if path.suffix.lower() in (".pth", ".egg-link"):
        raise PackageRefused(f"{path} in the wheel would be executed when Python starts.")
    module = top.partition(".")[0].lower()
    if module in _UNASKED:
        raise PackageRefused(f"{path} in the wheel would be executed when Python starts.")
    if not top.lower().endswith(".dist-info") and (module in sys.stdlib_module_names or module == "trun"):
        raise PackageRefused(f"{path} in the wheel would stand before a module of Python's or trun's own.")
    return path


# -- what is in it ----------------------------------------------------------------------------------------------------


def contents(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> Contents:
    """Read the metadata of a wheel, and list what it offers."""
    folders = {path.split("/")[0] for path in members if path.split("/")[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise PackageRefused(f"a wheel has one folder NAME-VERSION.dist-info, this one has {len(folders)}.")
    folder = folders.pop()
    about = _headers(archive, members, f"{folder}/METADATA")
    tags = _headers(archive, members, f"{folder}/WHEEL").get_all("Tag") or []
    if tags and not any(_fits(str(tag)) for tag in tags):
        raise PackageRefused(
            f"the wheel is for {', '.join(map(str, tags[:3]))}; here is Python {sys.version_info[0]}."
            f"{sys.version_info[1]} on {sysconfig.get_platform()}."
        )
    name, version = str(about.get("Name") or ""), str(about.get("Version") or "")
    if not name or not version:
        raise PackageRefused("the wheel does not say what it is: Name and Version are missing.")
    modules = tuple(sorted({top for path in members if (top := _module(path))}))
    functions = tuple(sorted(_functions(archive, members)))[:_FUNCTIONS]
    requires = tuple(str(one) for one in about.get_all("Requires-Dist") or [])
    return Contents(distribution=name, version=version, modules=modules, functions=functions, requires=requires)


def _headers(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: str) -> Any:
    if path not in members:
        raise PackageRefused(f"the wheel has no {path}.")
    return Parser().parsestr(_small(archive, members[path]).decode(errors="replace"), headersonly=True)


def _small(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            data = file.read(_PIECE + 1)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise PackageRefused(f"the wheel is damaged: {error}") from error
    except Exception as error:  # zlib has an error of its own
        raise PackageRefused(f"{member.filename!r} in the wheel cannot be read: {error}") from error
    return data[:_PIECE]


def _fits(tag: str) -> bool:
    """Whether a wheel with this tag may run here; the Python of the service decides the rest at import."""
    python, _, rest = tag.strip().partition("-")
    abi, _, platform = rest.partition("-")
    own = f"{sys.version_info[0]}{sys.version_info[1]}"
    by_version = any(one in ("py3", f"py{own}", f"cp{own}") for one in python.split(".")) or (
        abi == "abi3" and python.startswith("cp3") and int(python[3:] or 0) <= sys.version_info[1]
    )
    machine = sysconfig.get_platform().rpartition("-")[2].replace("-", "_").replace(".", "_")
    system = sys.platform.replace("darwin", "macosx").replace("win32", "win")
    return by_version and any(
        one == "any" or (machine in one and (system in one or f"many{system}" in one)) for one in platform.split(".")
    )


def _module(path: str) -> str:
    top, _, below = path.partition("/")
    if top.endswith(".dist-info"):
        return ""
    if below:
        return top if top.isidentifier() else ""
    stem, _, ending = top.partition(".")
    return stem if ending == "py" or ending.endswith(("so", "pyd")) else ""


def _functions(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> Iterator[str]:
    """Yield the functions that the top-level modules offer: those in ``__all__``, else those without an underscore."""
    for path, member in members.items():
        top, _, below = path.partition("/")
        if not path.endswith(".py") or (below and below != "__init__.py"):
            continue
        name = top if below else top.removesuffix(".py")
        try:
            tree = ast.parse(_small(archive, member))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        offered = _all(tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                node.name in offered if offered is not None else not node.name.startswith("_")
            ):
                yield f"{name}.{node.name}"
            elif isinstance(node, ast.ImportFrom) and offered is not None:
                yield from (f"{name}.{one.asname or one.name}" for one in node.names if _is_offered(one, offered))


def _is_offered(name: ast.alias, offered: set[str]) -> bool:
    word = name.asname or name.name
    return word in offered and not word[:1].isupper()


def _all(tree: ast.Module) -> set[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return None
            return {str(one) for one in value} if isinstance(value, list | tuple) else None
    return None


# -- writing ----------------------------------------------------------------------------------------------------------


def _write_all(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path, most: int) -> None:
    left = min(UNPACKED_BYTES, most)
    made = {folder}
    for path, member in members.items():
        place = folder / path
        for above in reversed([one for one in place.parents if one.is_relative_to(folder)]):
            if above not in made:
                above.mkdir(mode=0o700)
                made.add(above)
        try:
            left -= _write(archive, member, place, left)
        except (EOFError, NotImplementedError, ValueError, RuntimeError) as error:
            raise PackageRefused(f"{member.filename!r} in the wheel cannot be read: {error}") from error
    for one in made:
        _sync(one)


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path, left: int) -> int:
    """Write one file and return its size, of which ``left`` bytes may be."""
    import zlib

    total = 0
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as target:
        try:
            with archive.open(member) as source:
                while piece := source.read(_PIECE):
                    total += len(piece)
                    if total > left:
                        raise PackageRefused(
                            f"the wheel becomes larger than allowed when it is unpacked (at {member.filename!r})."
                        )
                    target.write(piece)
        except zlib.error as error:
            raise PackageRefused(f"{member.filename!r} in the wheel is damaged: {error}") from error
        target.flush()
        os.fsync(target.fileno())
    return total


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
