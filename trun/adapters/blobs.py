"""Bytes that are too big for a message: files in a service's ``blobs`` folder.

A blob is written once, under a random name, and never changed: temporary name, fsync, rename, fsync of the folder; so
who knows the name finds the whole content. Reading maps the file privately and copy-on-write: an array over it can be
written to without touching the file, and what is not looked at is not read.

Who may come in: clients on the same machine, launchers, the engine (``remove``). Which blobs are still needed is not
decided here. Rule: names come from outside, so nothing but our own names is ever opened.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path

from trun.errors import ProtocolError, StateError, StateFull
from trun.messages import Blob

#: Buffers of this size and above (bytes) travel as files.
BIG_BYTES = 1_000_000

_NAME = re.compile(r"[0-9a-f]{32}")
_PIECES = 64


class BlobFolder:
    """A folder of blobs; made at the first write."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, buffers: Iterable[memoryview | bytes | bytearray]) -> Blob:
        """Write the buffers one after the other into a new file, durable when this returns.

        Raises
        ------
        StateFull, StateError
            The folder cannot be written; nothing is left of the file.
        """
        pieces = [piece for piece in (memoryview(buffer).cast("B") for buffer in buffers) if piece.nbytes]
        name = os.urandom(16).hex()
        target = self.path / name
        part = self.path / f".{name}.part"
        try:
            fd = self._create(part)
            try:
                size = _write_all(fd, pieces)
                os.fsync(fd)
            finally:
                os.close(fd)
            part.rename(target)
            self._sync_folder()
        except BaseException as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if isinstance(error, OSError):
                raise self._ours(error) from error
            raise
        return Blob(name, size)

    def _ours(self, error: OSError) -> StateError:
        facts = {"path": str(self.path), "errno": error.errno}
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StateFull(f"no space is left for {self.path}, where big values are put; free some.", **facts)
        return StateError(f"{self.path}, where big values are put, cannot be written ({error.strerror}).", **facts)

    def _create(self, part: Path) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(part, flags, 0o600)
        except FileNotFoundError:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(part, flags, 0o600)

    def _sync_folder(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def file(self, name: str) -> Path:
        """Return the path of a blob; raises ``ProtocolError`` for what is no name of a blob."""
        if _NAME.fullmatch(name) is None:
            raise ProtocolError(f"{name!r} is no name of a blob.")
        return self.path / name

    def open(self, blob: Blob) -> memoryview:
        """Map a blob: writable, private to this process, alive as long as the view is, also after ``remove``."""
        path = self.file(blob.name)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != blob.size:
                raise ProtocolError(f"blob {path} has {size} bytes instead of {blob.size}.")
            if not size:
                return memoryview(bytearray())
            return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY))

    def put_away(self, blob: Blob) -> None:
        """Let the system use the memory in which it keeps a blob that nobody will read soon; the file stays."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError), self.file(blob.name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def remove(self, name: str) -> None:
        """Remove a blob; one that is gone already is as good."""
        self.file(name).unlink(missing_ok=True)


def _write_all(fd: int, pieces: list[memoryview]) -> int:
    size = 0
    while pieces:
        done = os.writev(fd, pieces[:_PIECES])
        size += done
        while pieces and done >= pieces[0].nbytes:
            done -= pieces.pop(0).nbytes
        if done:
            pieces[0] = pieces[0][done:]
    return size
