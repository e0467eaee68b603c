"""Files that others may fetch: opened below one folder, and nowhere else.

Two folders of a service can be fetched from: ``STATE/export``, where jobs publish, and the folder that its operator
names with ``--export``. A path that comes from outside is never put together and opened; the kernel is asked to open
it below the folder without following any link (``openat2``), and where it cannot, each part is opened from the one
above it. So nothing that changes meanwhile leads out. The last part is looked at before it is opened: only a regular
file is, no folder, device, fifo or socket.

Who may come in: the node, for requests of others; ``fetching``, for services of the same user on this machine.
Rule: whatever the reason, one answer: there is no such file. What lies elsewhere is nobody's business.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trun.adapters.addresses import Place, check_parts, place
from trun.adapters.parts import is_part
from trun.errors import TransferRefused

if TYPE_CHECKING:
    from trun.adapters.bulk import BulkServer

_O_PATH = getattr(os, "O_PATH", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)  # clients elsewhere than on Linux only import this room
_FOLDER = _O_PATH | _DIRECTORY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_OPENAT2 = 437
#: RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS of ``linux/openat2.h``.
_CONFINED = 0x08 | 0x04 | 0x02


def resolve(root: str | os.PathLike[str], relative: str, *, hidden: bool = False, size_cap: int | None = None) -> int:
    """Open a regular file below a folder for reading, and return its descriptor.

    Parameters
    ----------
    root
        The folder; it may itself be a link.
    relative
        Path below it, with ``/`` between its parts.
    hidden
        Whether names that begin with a dot can be opened.
    size_cap
        Bytes that it may have at most.

    Raises
    ------
    BadOption
        The path could lead out of the folder: it is absolute, or a part of it is ``..``, ``.`` or no name.
    FileNotFoundError
        There is no such regular file, or a link stands in the way.
    TransferRefused
        It is bigger than ``size_cap``.
    """
    parts = tuple(relative.split("/"))
    check_parts(parts, relative)
    if is_part(parts[-1]) or (not hidden and any(part.startswith(".") for part in parts)):
        raise _missing(relative)
    try:
        top = os.open(root, _O_PATH | _DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _missing(relative) from error
    try:
        fd = _open_regular(top, parts, relative)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.errno is None:
            raise
        raise _missing(relative) from error
    finally:
        os.close(top)
    size = os.fstat(fd).st_size
    if size_cap is not None and size > size_cap:
        os.close(fd)
        text = f"{relative!r} has {size} bytes, and at most {size_cap} are given away."
        raise TransferRefused(text, reason="size")
    return fd


def _missing(relative: str) -> FileNotFoundError:
    return FileNotFoundError(f"there is no file {relative!r} that can be fetched.")


def _open_regular(top: int, parts: tuple[str, ...], relative: str) -> int:
    owner = os.fstat(top).st_uid
    folder = _open_below(top, parts[:-1])
    try:
        # Looked at before it is opened: opening a device or a fifo for reading would already do something.
        seen = os.open(parts[-1], _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder) if _O_PATH else -1
        try:
            found = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False) if seen < 0 else os.fstat(seen)
            if not stat.S_ISREG(found.st_mode) or _is_smuggled(found, os.fstat(folder), owner):
                raise _missing(relative)
            fd = _open_seen(seen, folder, parts[-1])
        finally:
            if seen >= 0:
                os.close(seen)
    finally:
        os.close(folder)
    if not os.path.samestat(os.fstat(fd), found):
        os.close(fd)
        raise _missing(relative)
    return fd


def _open_seen(seen: int, folder: int, name: str) -> int:
    """Open for reading what was looked at; by its name only where there is no /proc to find it by."""
    if seen >= 0:
        with contextlib.suppress(FileNotFoundError):
            return os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_CLOEXEC)
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)


def _is_smuggled(found: os.stat_result, folder: os.stat_result, owner: int) -> bool:
    """Whether a file may be a second name that somebody made for a file of somebody else.

    Hard links are fine where only the owner of the exported folder, whose the file is, can have made them.
    """
    if found.st_nlink == 1:
        return False
    return found.st_uid != owner or folder.st_uid != owner or bool(folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _open_below(top: int, parts: tuple[str, ...]) -> int:
    """Open the folder at a path below another one, without following a link."""
    if not parts:
        return os.dup(top)
    if (openat2 := _openat2()) is not None:
        return openat2(top, "/".join(parts))
    return _walk(top, parts)


def _walk(top: int, parts: tuple[str, ...]) -> int:
    folder = os.dup(top)
    for part in parts:
        try:
            below = os.open(part, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


@functools.cache
def _openat2() -> Callable[[int, str], int] | None:
    """Return the system call as a function; None where the kernel, or what fences us in, does not know it."""
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).syscall
    except (ImportError, OSError, AttributeError):
        return None
    how = (ctypes.c_uint64 * 3)(_FOLDER, 0, _CONFINED)

    def openat2(top: int, path: str) -> int:
        for _ in range(100):  # somebody renames folders while the kernel walks
            fd: int = call(_OPENAT2, top, ctypes.c_char_p(os.fsencode(path)), ctypes.byref(how), ctypes.sizeof(how))
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(number, os.strerror(number), path)

    with contextlib.suppress(OSError):
        top = os.open("/", _FOLDER)
        try:
            os.close(openat2(top, "."))
        finally:
            os.close(top)
        return openat2
    return None


# -- what a service gives away ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """The files of a service, and the port at which they are fetched.

    Attributes
    ----------
    folder
        State folder of the service.
    server
        The port for bulk data.
    root
        What the operator exports; None: nothing.
    size_cap
        Bytes that a file may have at most.
    """

    folder: Path
    server: BulkServer
    root: Path | None = None
    size_cap: int | None = None

    def offer(self, url: str, *, holder: str = "", seconds: float = 600.0) -> dict[str, Any]:
        """Return where and with which ticket to fetch what a ``trun://`` address names; whether it may be is known.

        The answer is plain: ``address``, ``fingerprint``, ``ticket``, ``size``, and ``digest``, empty while unknown.
        """
        where = place(url)
        opener = functools.partial(self.open, where)
        ticket = self.server.ticket(opener, holder=holder, seconds=seconds)
        size, digest = self.server.known(ticket)
        return {
            "address": self.server.address,
            "fingerprint": self.server.fingerprint,
            "ticket": ticket,
            "size": size,
            "digest": digest,
        }

    def open(self, where: Place) -> int:
        """Open what an address of this service names, and return its descriptor."""
        if where.uid:
            return open_published(self.folder, where, size_cap=self.size_cap)
        if self.root is None:
            raise _missing(where.relative)
        return resolve(self.root, where.relative, size_cap=self.size_cap)


def open_published(folder: Path, where: Place, *, size_cap: int | None = None) -> int:
    """Open a file that a job of the service in ``folder`` has published, and return its descriptor."""
    return resolve(folder / "export", f"{where.uid}/{where.relative}", hidden=True, size_cap=size_cap)
