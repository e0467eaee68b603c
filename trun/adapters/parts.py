"""A file on its way: what has arrived of it so far, under a name of its own, until it is whole and may be seen.

Everything that comes from elsewhere goes through here: a part beside the target, named after what it will become, so
that a second attempt finds it and goes on at its size. Once all is there, and is what it should be, the part is synced
and gets its name in one step. Two at the same part would ruin it, so it is locked.

Who may come in: ``transfer``, ``bulk``, ``web``, ``fetching``. Knows nothing of where the bytes come from.
Rule: no path of this room ever shows under the target's name what was not checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from trun.errors import DigestMismatch, TransferRefused, TrunError

try:
    import fcntl
except ImportError:  # Windows, where clients bring files too; nothing is locked there
    fcntl = None  # type: ignore[assignment]

PIECE = 1 << 18
#: A part that has not grown for so long (seconds) is given up.
KEEP_S = 7 * 24 * 3600.0

_NAME = re.compile(r"\.[0-9a-f]{32}\.part")


def is_part(name: str) -> bool:
    """Whether a file of this name is one on its way, which nobody but its receiver should touch."""
    return _NAME.fullmatch(name) is not None


def new_digest() -> hashlib.blake2b:
    """Return the digest that all files of trun have: BLAKE2b-256."""
    return hashlib.blake2b(digest_size=32)


class Part:
    """A part, opened and locked; use ``receiving``.

    Attributes
    ----------
    size
        Bytes that have arrived.
    """

    def __init__(self, target: Path, key: str, *, checked: bool) -> None:
        name = hashlib.blake2b(f"{key}\n{target.name}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        #: Whether a later attempt finds it again.
        self.lasting = bool(key)
        self.target = target
        self.path = target.with_name(f".{name if key else secrets.token_hex(16)}.part")
        self._fd = _open_locked(self.path)
        self.size = os.fstat(self._fd).st_size
        self._checked = checked
        self._digest: hashlib.blake2b | None = None
        self._buffer = memoryview(b"")
        self.done = False

    def write(self, piece: memoryview | bytes) -> None:
        """Add a piece at the end."""
        if self._checked:
            self._hashed().update(piece)
        view = memoryview(piece)
        while view.nbytes:
            written = os.write(self._fd, view)
            self.size += written
            view = view[written:]

    def begin(self, total: int) -> None:
        """So many bytes will have arrived in the end."""
        self._buffer = memoryview(bytearray(max(min(PIECE, total), 1)))

    def room(self, count: int) -> memoryview:
        """Return where up to ``count`` further bytes may be put; ``begin`` was called before."""
        return self._buffer[:count]

    def filled(self, count: int) -> None:
        """So many bytes were put into the room; they are added at the end."""
        self.write(self._buffer[:count])

    def restart(self) -> None:
        """Forget what has arrived."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0
        self._digest = None

    def digest(self) -> str:
        """Return the hexadecimal BLAKE2b-256 of what has arrived; empty where it is not to be checked."""
        return self._hashed().hexdigest() if self._checked else ""

    def check(self, wanted: tuple[str, str] | None, source: str) -> None:
        """Raise ``DigestMismatch``, and forget what has arrived, where it has not the digest that is wanted.

        ``wanted`` is the kind (``blake2b``, that of trun, or another that hashlib knows) with the hexadecimal digest;
        ``source`` says in the error where the bytes came from.
        """
        if wanted is None:
            return
        kind, digest = wanted
        if kind == "blake2b":
            found = self.digest()
        else:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
        if found != digest:
            self.drop()
            raise DigestMismatch(f"what came from {source} has the {kind} digest {found} in place of {digest}.")

    def finish(self) -> None:
        """Give the file its name; durable when this returns."""
        os.fsync(self._fd)
        if fcntl is None:  # an open file cannot be renamed there
            os.close(self._fd)
            self._fd = -1
        self.path.replace(self.target)
        self.done = True
        if not hasattr(os, "O_DIRECTORY"):
            return
        folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _hashed(self) -> hashlib.blake2b:
        if self._digest is None:
            self._digest = new_digest()
            os.lseek(self._fd, 0, os.SEEK_SET)  # what is written goes to the end all the same
            while piece := os.read(self._fd, PIECE):
                self._digest.update(piece)
        return self._digest

    def close(self) -> None:
        """Let go; what cannot be found again, or is empty, is removed."""
        gone = not self.done and (not self.lasting or not self.size)
        if gone and fcntl is not None:  # as long as nobody else can have it
            self.path.unlink(missing_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
        if gone and fcntl is None:
            self.path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove it at the end, whatever it is."""
        self.lasting = False


@contextlib.contextmanager
def receiving(target: Path, key: str = "", *, checked: bool = True) -> Iterator[Part]:
    """Give the part of a file to write to.

    Parameters
    ----------
    target
        Where the file will lie; its folder exists.
    key
        What the file will be (a digest, an address with size): a later attempt with the same key goes on. Empty: no
        later attempt can.
    checked
        Whether its digest is wanted.

    Raises
    ------
    TransferRefused
        Somebody else is receiving the same file at this moment; ``reason`` is ``busy``.
    """
    part = Part(target, key, checked=checked)
    try:
        yield part
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError | TrunError):
            raise
        part.drop()  # a full or broken disk: what is there now only takes space
        raise
    finally:
        part.close()


def _open_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # as far as the system has them
        flags |= getattr(os, name, 0)
    while True:
        fd = os.open(path, flags, 0o600)
        if fcntl is None:
            return fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.lstat()):
                    return fd
        except BlockingIOError:
            os.close(fd)
            text = f"{path} is being received by somebody else; try again later."
            raise TransferRefused(text, reason="busy") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # whoever held it has just given it its name


def sweep(folder: Path, *, older_s: float = KEEP_S) -> int:
    """Remove parts that have not grown for ``older_s`` seconds, and say how many there were."""
    removed = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                if is_part(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > older_s:
                    os.unlink(entry.path)
                    removed += 1
    return removed


def sweep_below(folder: Path, *, older_s: float = KEEP_S) -> int:
    """Remove such parts in all folders that lie in ``folder``, and in itself; say how many there were."""
    removed = sweep(folder, older_s=older_s)
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                removed += sweep(Path(entry.path), older_s=older_s)
    return removed
