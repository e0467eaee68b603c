"""Room on the disk: whether there is any, what is kept back for bad times, and where a journal may lie.

When a disk is full, nothing new can be promised, but what was promised before must still be recorded. So a service
keeps 16 MB back as long as it lives and gives them up for outcomes when space runs out.

Knows nothing of what is written. Who may come in: the journal. Rule: what is kept back are blocks, never a sparse file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from pathlib import Path

from trun.adapters.folders import DOUBTFUL_FILE_SYSTEMS, REFUSED_FILE_SYSTEMS, file_system
from trun.errors import StateError

_log = logging.getLogger(__name__)

BALLAST_BYTES = 16 * 1024 * 1024
#: Seconds between two looks at whether there is space again.
LOOK_AGAIN_S = 1.0

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Ballast:
    """The file ``ballast`` in a state folder: space that is kept back for outcomes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"
        self._looked = 0.0

    def load(self) -> bool:
        """Keep the space back; False where there is not enough (then nothing is kept)."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            if os.fstat(fd).st_blocks * 512 < BALLAST_BYTES:
                _fill(fd, BALLAST_BYTES)
        except OSError:
            self.drop()
            return False
        finally:
            os.close(fd)
        return True

    def drop(self) -> bool:
        """Give the space up; False where none is kept."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True

    def try_again(self) -> bool:
        """Keep the space back again if there is enough beside it; looks at most once in ``LOOK_AGAIN_S``."""
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN_S:
            return False
        self._looked = now
        if not self.load():
            return False
        if is_out_of_space(self.path.parent):
            self.drop()
            return False
        _log.warning("state folder has space again folder=%s", self.path.parent)
        return True


def _fill(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        for start in range(0, size, 1 << 20):
            os.pwrite(fd, b"\1" * (1 << 20), start)


def is_out_of_space(folder: Path) -> bool:
    """Return whether a small file cannot be written for want of space or quota."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        with open(probe, "wb") as file:
            file.write(b"\1" * 65536)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in _NO_SPACE
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return False


def make_state_folder(folder: Path) -> None:
    """Make the folder, and refuse one where a write-ahead log is not safe.

    Raises
    ------
    StateError
        It cannot be made, or lies on a network file system.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"the state folder {folder} cannot be made ({error.strerror}); "
            "choose another with state= or TRUN_STATE_DIR.",
            path=str(folder),
        ) from error
    kind = file_system(folder)
    if kind in REFUSED_FILE_SYSTEMS:
        raise StateError(
            f"the state folder {folder} lies on a network file system ({kind}), where a journal is not safe; "
            "choose a folder on a local disk with state= or TRUN_STATE_DIR.",
            path=str(folder),
        )
    if kind in DOUBTFUL_FILE_SYSTEMS:
        _log.warning("state folder is on a shared file system, use it from one host folder=%s kind=%s", folder, kind)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LogRoom:
    """Keeps a log longer than what is in it, so that a commit need not change the size of the file.

    Synchronising data in place costs half of what it costs at the end of a file, where the new size must be written as
    well. The room is zeros, which no reader of a log takes for a page of it. No space: no room, and nothing else.
    """

    #: Bytes that are added at once, and beyond which nothing is: by then the log begins anew.
    STEP, MOST = 1 << 20, 20 << 20
    #: A commit that goes so far beyond the room is no small one, whose time would be that of the file's size.
    LARGE = 1 << 17

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0

    def extend(self) -> None:
        """Add room if the last commit went beyond it; the next commit synchronises it."""
        try:
            size = os.stat(self._path).st_size
            beyond = size - self._size
            if beyond <= 0 or size >= self.MOST:
                return
            if self._size and beyond > self.LARGE:
                self._size = size
                return
            with open(self._path, "r+b") as file:
                file.seek(size)
                file.write(bytes(self.STEP))
            self._size = size + self.STEP
        except OSError:
            self._size = self.MOST  # not again
