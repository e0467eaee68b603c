"""Files by address: what ``trun://``, ``file://``, ``http(s)://`` and fsspec schemes name, brought into a folder.

``File`` is the value that stands for a file: a path with size and digest, known by its content. Everything is written
under a temporary name, synced and renamed, so that nobody ever sees half a file; the name at the destination is the
receiver's choice. Who may come in: the payloads of ``publish_file`` and ``fetch_url``, and the door above them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trun.adapters import folders
from trun.errors import BadOption, MissingExtra, ServiceUnavailable

_PIECE = 1 << 20
_TIMEOUT_S = 60.0
#: Longest name that a fetched file gets, in bytes; file systems take 255.
_NAME_BYTES = 150


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


def check_url(url: str) -> str:
    """Return the scheme of an address; raise ``BadOption`` where it is none that could ever be fetched."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise BadOption(f"{url!r} is no address: {error}.") from error
    if not parts.scheme:
        raise BadOption(f"{url!r} is no address; for a file of this machine write {Path(url).absolute().as_uri()!r}.")
    if parts.scheme == "trun":
        _published(url)
    elif parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise BadOption(f"{url!r} names the machine {parts.netloc!r}; file:// reaches this machine only.")
    elif parts.scheme in ("http", "https") and not parts.hostname:
        raise BadOption(f"{url!r} names no machine.")
    return parts.scheme


def bring(url: str, folder: Path) -> Path:
    """Bring what an address names into ``folder`` and return where it lies."""
    scheme = check_url(url)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / _safe_name(url)
    if scheme == "trun":
        _fetch_trun(url, target)
    elif scheme == "file":
        _fetch_file(url, target)
    elif scheme in ("http", "https"):
        _fetch_http(url, target)
    else:
        _fetch_fsspec(url, target)
    return target


def copy(source: Path, target: Path) -> None:
    """Copy by way of a temporary name, so that nobody ever sees half a file."""
    with source.open("rb") as reading, _written(target) as writing:
        shutil.copyfileobj(reading, writing, _PIECE)


@contextlib.contextmanager
def _written(target: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; it is synced and gets its name once all is well, and is gone otherwise."""
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _safe_name(url: str) -> str:
    """Return the last part of an address as a name that is harmless in any folder."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".")
    stem, dot, suffix = kept.rpartition(".")
    while len(os.fsencode(kept)) > _NAME_BYTES:
        stem, suffix = (stem[:-1], suffix) if stem else (stem, suffix[:-1])
        kept = stem + dot + suffix if stem else suffix
    return kept or "file"


def _fetch_file(url: str, target: Path) -> None:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, so it cannot be fetched.")
    copy(path, target)


def _published(url: str) -> tuple[str, str, str]:
    """Return key of the service, uid of the job and name of the file that a ``trun://`` address names."""
    parts = urllib.parse.urlsplit(url)
    pieces = [urllib.parse.unquote(piece) for piece in parts.path.split("/")[1:]]
    if len(pieces) != 4 or pieces[0] != "jobs" or pieces[2] != "files" or not all(pieces) or not parts.netloc:
        raise BadOption(f"{url!r} is no address of a published file: trun://SERVICE/jobs/ID/files/NAME.")
    if any(piece in (".", "..") or "/" in piece or "\0" in piece for piece in pieces):
        raise BadOption(f"{url!r} leaves the folder of the job.")
    return parts.netloc, pieces[1], pieces[3]


def _fetch_trun(url: str, target: Path) -> None:
    """Copy from the export folder of a service of the same user on this machine."""
    key, uid, name = _published(url)
    folder = folders.service_folder(key)
    if folder is None:
        raise ServiceUnavailable(f"the service {key} of {url} is not known on this machine.")
    export = Path(folder, "export").resolve()
    source = export / uid / name
    if not source.is_file() or source.resolve() != source:  # a link would lead out of what was published
        raise FileNotFoundError(f"the service has published no file at {url}.")
    copy(source, target)


def _fetch_http(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, _written(target) as file:
            shutil.copyfileobj(answer, file, _PIECE)
            expected = answer.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise ServiceUnavailable(f"{url} broke off after {file.tell()} of {expected} bytes.")
    except urllib.error.HTTPError as error:  # cannot travel as it is: it holds a connection
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(f"there is nothing at {url} ({error.code} {error.reason}).") from None
        raise ServiceUnavailable(f"{url} answered {error.code} {error.reason}.") from None
    except urllib.error.URLError as error:
        raise ServiceUnavailable(f"{url} cannot be reached: {error.reason}.") from None


def _fetch_fsspec(url: str, target: Path) -> None:
    try:
        import fsspec
    except ImportError:
        scheme = urllib.parse.urlsplit(url).scheme
        raise MissingExtra(f"fetching {scheme}:// needs fsspec: pip install 'trun[remote]'") from None
    with fsspec.open(url, "rb") as source, _written(target) as file:
        shutil.copyfileobj(source, file, _PIECE)
