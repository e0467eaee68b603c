"""Files by address: what ``trun://``, ``file://``, ``http(s)://`` and fsspec schemes name, brought into a folder.

``File`` is the value that stands for a file: a path with size and digest, known by its content. Everything comes in by
way of ``parts``: a broken attempt goes on where it was, and nobody ever sees half a file. The name at the destination
is the receiver's choice; from where anything may come is said by ``reach``.

A service of the same user on this machine is read from its folder. Any other is asked for a ticket over the channel
that the own service has to it (``Ask``), and the bytes come over TLS (``transfer``).
Who may come in: the payloads of ``publish_file`` and ``fetch_url``, and the door above them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from trun.adapters import addresses, folders
from trun.adapters.addresses import Place, check_url
from trun.adapters.export import open_published, resolve
from trun.adapters.parts import PIECE, new_digest, receiving
from trun.adapters.reach import Reach
from trun.errors import (
    BadOption,
    DigestMismatch,
    MissingExtra,
    ProtocolError,
    ServiceUnavailable,
    TransferRefused,
)

#: Asks the service that runs the job: a verb and its arguments to a plain answer. The verb ``file`` takes ``url`` and
#: ``token`` and answers ``address``, ``fingerprint``, ``ticket``, ``size`` and ``digest`` (empty while unknown).
Ask = Callable[[str, dict[str, Any]], dict[str, Any]]

#: Tickets that are asked for to bring one file; each is good for several connections.
_TICKETS = 10


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
        return known_file, (str(self.path), self.size, self.digest, self.url)


def known_file(path: str, size: int, digest: str, url: str) -> File:
    """Return the file of which all is known; it is not looked at, and need not lie on this machine."""
    if not (isinstance(size, int) and all(isinstance(text, str) for text in (path, digest, url))):
        raise ProtocolError("that is no file: a path, bytes, a digest and an address belong to one.")
    found = File.__new__(File)
    found.path, found.size, found.digest, found.url = Path(path), size, digest, url
    return found


def measure(path: Path) -> tuple[int, str]:
    """Return size in bytes and hexadecimal BLAKE2b-256 of a file."""
    found = new_digest()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
            size += len(piece)
    return size, found.hexdigest()


def copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a regular file so that nobody ever sees half of it, and return its size and digest."""
    return _take(_open_regular(source), target, cap=None, digest=None)


def bring(
    url: str, folder: Path, *, reach: Reach | None = None, ask: Ask | None = None, token: str = "", digest: str = ""
) -> tuple[Path, int, str]:
    """Bring what an address names into ``folder``, and return where it lies, its size and its digest.

    Parameters
    ----------
    url, folder
        From where, and where to; the folder is made.
    reach
        What may be fetched; None: everything.
    ask
        How the own service is asked; needed for services of others and on other machines.
    token
        Credentials for another service.
    digest
        BLAKE2b-256 that the content must have; ``#sha256=`` or ``#blake2b=`` at the end of the address says it too.

    Raises
    ------
    BadOption, FileNotFoundError, NotAuthorised, ServiceUnavailable, TransferRefused, DigestMismatch, MissingExtra
    """
    scheme = check_url(url)
    reach = reach or Reach()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / addresses.safe_name(url)
    wanted = ("blake2b", digest) if digest else addresses.expected_digest(url)
    if scheme == "trun":
        size, found = fetch_trun(url, ask, target, token=token, size_cap=reach.max_size, digest=digest)
    elif scheme == "file":
        size, found = _take(_open_file(url, reach), target, cap=reach.max_size, digest=wanted)
    elif scheme in ("http", "https"):
        from trun.adapters.web import fetch_http

        size, found = fetch_http(url, target, reach, digest=wanted)
    else:
        reach.check_other(url)
        size, found = _fetch_fsspec(urllib.parse.urldefrag(url)[0], target, reach.max_size, wanted)
    return target, size, found


# -- from services ----------------------------------------------------------------------------------------------------


def fetch_trun(
    url: str, ask: Ask | None, target: Path, *, token: str = "", size_cap: int, digest: str = ""
) -> tuple[int, str]:
    """Bring a file of a service into the file ``target``, and return its size and digest.

    A ticket that is used up or expired on the way is replaced by a fresh one, and the transfer goes on.

    Raises
    ------
    ServiceUnavailable
        The service is not known on this machine, and there is nobody to ask.
    """
    where = addresses.place(url)
    folder = folders.service_folder(where.service)
    if folder is not None and (where.uid or ask is None):
        return _fetch_near(url, folder, where, target, size_cap, digest)
    if ask is None:
        raise ServiceUnavailable(f"the service {where.service} of {url} is not known on this machine.")
    from trun.adapters import transfer

    for left in reversed(range(_TICKETS)):
        offer = ask("file", {"url": url, "token": token})
        address, fingerprint, ticket, size, told = _read_offer(offer, url)
        if digest and told and told != digest:
            raise DigestMismatch(f"at {url} is something else now: {told} in place of {digest}.")
        if size > size_cap:
            raise TransferRefused(f"{url} has {size} bytes, and at most {size_cap} are taken.", reason="size")
        try:
            return transfer.fetch(
                *(address, fingerprint, ticket, target),
                size_cap=size_cap,
                digest=digest or told,
                key=f"{url}\n{size}",
            )
        except TransferRefused as error:
            if error.reason not in ("ticket", "changed") or not left:
                raise
    raise AssertionError("the last round returns or raises")


def _read_offer(offer: dict[str, Any], url: str) -> tuple[str, str, str, int, str]:
    """Return what a service offers; it may be one of another user, so nothing is believed to be there."""
    found = [offer.get(name) for name in ("address", "fingerprint", "ticket", "size", "digest")]
    address, fingerprint, ticket, size, digest = found
    if not all(isinstance(one, str) for one in (address, fingerprint, ticket, digest)):
        raise ProtocolError(f"the service of {url} did not say where the file can be fetched.")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ProtocolError(f"the service of {url} did not say how big the file is.")
    return str(address), str(fingerprint), str(ticket), size, str(digest)


def _fetch_near(url: str, folder: Path, where: Place, target: Path, cap: int, digest: str) -> tuple[int, str]:
    """Copy from the export folder of a service of the same user on this machine."""
    try:
        if not where.uid:
            raise FileNotFoundError
        fd = open_published(folder, where)
    except FileNotFoundError:
        raise FileNotFoundError(f"the service has published no file at {url}.") from None
    return _take(os.fdopen(fd, "rb", buffering=0), target, cap=cap, digest=("blake2b", digest) if digest else None)


# -- from this machine, and through fsspec ----------------------------------------------------------------------------


def _open_file(url: str, reach: Reach) -> BinaryIO:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    below = reach.file_below(path, url)
    if below is None:
        return _open_regular(path)
    return os.fdopen(resolve(*below, hidden=True), "rb", buffering=0)


def _open_regular(path: Path) -> BinaryIO:
    """Open a file that has an end; a fifo or a device may have none, and is not even touched."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, so it cannot be fetched.")
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(f"{path} is no file, so it cannot be fetched.")
    return os.fdopen(fd, "rb", buffering=0)


def _take(
    source: BinaryIO, target: Path, *, cap: int | None, digest: tuple[str, str] | None, key: str = ""
) -> tuple[int, str]:
    """Read a source to its end into a file, and return its size and digest; the source is closed.

    ``key`` says what the content is, for a later attempt that goes on where this one ends.
    """
    with source, receiving(target, key) as part:
        if part.size:
            source.seek(part.size)
        while piece := source.read(PIECE):
            if cap is not None and part.size + len(piece) > cap:
                part.drop()
                text = f"{target.name} has more than the {cap} bytes that are taken ([fetch] max_size)."
                raise TransferRefused(text, reason="size")
            part.write(piece)
        part.check(digest, target.name)
        part.finish()
        return part.size, part.digest()


def _fetch_fsspec(url: str, target: Path, cap: int, digest: tuple[str, str] | None) -> tuple[int, str]:
    scheme = urllib.parse.urlsplit(url).scheme
    try:
        import fsspec
    except ImportError:
        raise MissingExtra(
            f"trun itself fetches trun://, https://, http:// and file://; {scheme}:// needs fsspec on the service: "
            "pip install 'trun[remote]'"
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
        source: BinaryIO = system.open(path, "rb")
    except ImportError as error:
        raise MissingExtra(f"fetching {scheme}:// needs one more package: {error}.") from None
    except ValueError as error:
        raise BadOption(
            f"{url!r} cannot be fetched: {error}. trun itself fetches trun://, https://, http:// and file://, and with "
            "the extra `remote` what fsspec knows."
        ) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ServiceUnavailable(f"{url} cannot be fetched: {error}.") from error
    key = ""
    if source.seekable():
        with contextlib.suppress(OSError, NotImplementedError):
            key = f"{url}\n{system.ukey(path)}"
    return _take(source, target, cap=cap, digest=digest, key=key)


__all__ = ["Ask", "File", "bring", "copy", "fetch_trun", "known_file", "measure"]
