"""Files by address: what ``trun://``, ``file://``, ``http(s)://`` and fsspec schemes name, brought into a folder.

``File`` is the value that stands for a file: a path with size and digest, known by its content. Everything is written
under a temporary name, synced and renamed, so that nobody ever sees half a file; the name at the destination is the
receiver's choice. Who may come in: the payloads of ``publish_file`` and ``fetch_url``, and the door above them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from trun.adapters import folders
from trun.errors import BadOption, MissingExtra, ServiceUnavailable

_PIECE = 1 << 20


class File:
    """A file as a value: equal where the content is equal.

    Parameters
    ----------
    path
        An existing regular file.

    Attributes
    ----------
    path, filename
        Where it lies here (``Path`` and text).
    size, digest
        Bytes, and hexadecimal BLAKE2b-256 of the content.
    url
        ``trun://...`` where it was published or fetched by a job, else ``file://...``.
    """

    __slots__ = ("digest", "path", "size", "url")

    def __init__(self, path: str | os.PathLike[str], *, url: str = "") -> None:
        self.path = Path(path).expanduser().absolute()
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is no file that can be read here.")
        self.size, self.digest = measure(self.path)
        self.url = url or self.path.as_uri()

    @property
    def filename(self) -> str:
        """The path as text."""
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.path.read_bytes()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content as text."""
        return self.path.read_text(encoding)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and (other.size, other.digest) == (self.size, self.digest)

    def __hash__(self) -> int:
        return hash((self.size, self.digest))

    def __repr__(self) -> str:
        return f"File({str(self.path)!r}, {self.size} bytes)"

    def __reduce__(self) -> Any:
        return _rebuild, (str(self.path), self.size, self.digest, self.url)


def _rebuild(path: str, size: int, digest: str, url: str) -> File:
    found = File.__new__(File)
    found.path, found.size, found.digest, found.url = Path(path), size, digest, url
    return found


def measure(path: Path) -> tuple[int, str]:
    """Return size in bytes and hexadecimal BLAKE2b-256 of a file."""
    found = hashlib.blake2b(digest_size=32)
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
            size += len(piece)
    return size, found.hexdigest()


def check_scheme(url: str) -> str:
    """Return the scheme of an address; raise ``BadOption`` where it has none."""
    scheme = urllib.parse.urlsplit(url).scheme
    if not scheme:
        raise BadOption(f"{url!r} is no address; for a file of this machine write {Path(url).absolute().as_uri()!r}.")
    return scheme


def bring(url: str, folder: Path) -> Path:
    """Bring what an address names into ``folder`` and return where it lies."""
    scheme = check_scheme(url)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / _safe_name(url)
    if scheme == "trun":
        _fetch_trun(url, target)
    elif scheme == "file":
        copy(_local_path(url), target)
    elif scheme in ("http", "https"):
        _fetch_http(url, target)
    else:
        _fetch_fsspec(url, target)
    return target


def copy(source: Path, target: Path) -> None:
    """Copy by way of a temporary name, so that nobody ever sees half a file."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _safe_name(url: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".")
    return kept[:150] or "file"


def _local_path(url: str) -> Path:
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise BadOption(f"{url!r} names the machine {parts.netloc!r}; file:// reaches this machine only.")
    path = Path(urllib.request.url2pathname(parts.path))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, so it cannot be fetched.")
    return path


def _fetch_trun(url: str, target: Path) -> None:
    """Copy from the export folder of a service of the same user on this machine."""
    parts = urllib.parse.urlsplit(url)
    pieces = [urllib.parse.unquote(piece) for piece in parts.path.split("/") if piece]
    if len(pieces) != 4 or pieces[0] != "jobs" or pieces[2] != "files":
        raise BadOption(f"{url!r} is no address of a published file: trun://SERVICE/jobs/ID/files/NAME.")
    if any(piece in (".", "..") or "/" in piece or "\0" in piece for piece in pieces):
        raise BadOption(f"{url!r} leaves the folder of the job.")
    folder = folders.service_folder(parts.netloc)
    if folder is None:
        raise ServiceUnavailable(f"the service {parts.netloc} of {url} is not known on this machine.")
    source = Path(folder) / "export" / pieces[1] / pieces[3]
    if source.is_symlink() or not source.is_file():
        raise FileNotFoundError(f"the service has published no file at {url}.")
    copy(source, target)


def _fetch_http(url: str, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, _PIECE)
            expected = answer.headers.get("Content-Length")
            file.flush()
            os.fsync(file.fileno())
        if expected is not None and part.stat().st_size != int(expected):
            raise ServiceUnavailable(f"{url} broke off after {part.stat().st_size} of {expected} bytes.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _fetch_fsspec(url: str, target: Path) -> None:
    try:
        import fsspec
    except ImportError:
        scheme = urllib.parse.urlsplit(url).scheme
        raise MissingExtra(f"fetching {scheme}:// needs fsspec: pip install 'trun[remote]'") from None
    part = target.with_name(f".{target.name}.part")
    try:
        with fsspec.open(url, "rb") as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, _PIECE)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
