"""Files from the web: ``http://`` and ``https://`` into a file that shows once it is whole.

What has arrived stays when the connection breaks, and the rest is asked for, as long as the server says by its ETag or
date that it is still the same. Where a service is bounded (``reach``), the host is looked up once and exactly that
address is connected to, proxies of the environment are not asked, and no redirection leads to another host.

Who may come in: ``fetching``; ``world`` for whether an address answers.
Rule: what a server says about sizes is believed only where it makes us stop earlier.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any

from trun.adapters.parts import PIECE, Part, receiving
from trun.adapters.reach import Reach
from trun.errors import NotAuthorised, ServiceUnavailable, TransferRefused

TIMEOUT_S = 60.0
#: Broken connections in a row, without a byte between them, after which it is given up.
TRIES = 4
PAUSE_S = 0.2

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def fetch_http(url: str, target: Path, reach: Reach, *, digest: tuple[str, str] | None = None) -> tuple[int, str]:
    """Bring what a web address names into the file ``target``, and return its size and BLAKE2b-256.

    Parameters
    ----------
    url, target
        From where, and where to; the folder of the target exists.
    reach
        What may be fetched.
    digest
        Kind (``blake2b`` or ``sha256``) and hexadecimal digest that the content must have.

    Raises
    ------
    FileNotFoundError, ServiceUnavailable, NotAuthorised, TransferRefused, DigestMismatch
    """
    bare = urllib.parse.urldefrag(url)[0]
    site = _Site(bare, reach)
    answer = site.ask()
    try:
        key, condition = _recognised(bare, answer, digest)
        with receiving(target, key) as part:
            if part.size and condition:  # of an earlier attempt
                answer.close()
                answer = site.ask(part, condition)
            breaks = 0
            while True:
                before = part.size
                expected = _take(answer, part, reach.max_size, bare)
                if part.size == expected:
                    break
                answer.close()
                breaks = 1 if part.size > before else breaks + 1
                if not condition or breaks >= TRIES:
                    wanted = "what was announced" if expected is None else f"{expected} bytes"
                    raise ServiceUnavailable(f"{bare} broke off after {part.size} of {wanted}.")
                time.sleep(PAUSE_S * 4 ** (breaks - 1))
                answer = site.ask(part, condition)
            part.check(digest, bare)
            part.finish()
            return part.size, part.digest()
    finally:
        answer.close()


def answers(url: str, reach: Reach, timeout: float) -> bool:
    """Whether an address answers without an error; what it says is not read.

    Raises
    ------
    NotAuthorised
        The address, or where it leads on to, must not be reached.
    """
    bare = urllib.parse.urldefrag(url)[0]
    try:
        opener = _opener(bare, reach)
        for method in ("HEAD", "GET"):
            request = urllib.request.Request(bare, method=method, headers={"User-Agent": "trun"})
            try:
                with opener.open(request, timeout=timeout):
                    return True
            except urllib.error.HTTPError as error:
                error.close()
                if method == "GET" or error.code not in (405, 501):
                    return False
    except NotAuthorised:
        raise
    except (OSError, ValueError, http.client.HTTPException):
        pass
    return False


def _opener(url: str, reach: Reach) -> urllib.request.OpenerDirector:
    """Return what opens an address; within bounds what was looked up now, and none that it leads on to."""
    if reach.unbounded:
        return urllib.request.build_opener()
    pinned = reach.addresses(url)
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), _Pinned(pinned), _PinnedTLS(pinned), _SameHost(reach)
    )


def _recognised(url: str, answer: http.client.HTTPResponse, digest: tuple[str, str] | None) -> tuple[str, str]:
    """Return by what a part is found again, and the ``If-Range`` under which the rest of it is asked for.

    Both are empty where the server does not say what would tell one content from another.
    """
    tag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    condition = tag if tag and not tag.startswith("W/") else date
    if not condition or not condition.isascii() or not condition.isprintable():
        return "", ""
    length = answer.headers.get("Content-Length", "")
    return "\n".join((url, condition, length, *(digest or ()))), condition


def _take(answer: http.client.HTTPResponse, part: Part, cap: int, url: str) -> int | None:
    """Write what an answer brings, and return how many bytes the file has in all, where that is known.

    An answer that breaks off leaves the part shorter than that.
    """
    expected = _expected(answer, part)
    if expected is not None and expected > cap:
        raise _too_big(url, expected, cap)
    try:
        while piece := answer.read(PIECE):
            if part.size + len(piece) > cap:
                part.drop()
                raise _too_big(url, part.size + len(piece), cap)
            part.write(piece)
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError):
        return expected
    return part.size if expected is None else expected


def _expected(answer: http.client.HTTPResponse, part: Part) -> int | None:
    """Return the size of the whole file; where an answer brings it from its beginning, so does the part begin."""
    length = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != part.size:
            raise ServiceUnavailable(f"the web server sent another part than the one from {part.size} on.")
        return int(found[2]) if found[2].isdigit() else part.size + int(length) if length.isdigit() else None
    if part.size:
        part.restart()
    return int(length) if length.isdigit() else None


def _too_big(url: str, size: int, cap: int) -> TransferRefused:
    text = f"{url} has {size} bytes or more, and at most {cap} are taken ([fetch] max_size)."
    return TransferRefused(text, reason="size")


# -- the server -------------------------------------------------------------------------------------------------------


class _Site:
    """A web address, and how it is asked."""

    def __init__(self, url: str, reach: Reach) -> None:
        self._url = url
        self._opener = _opener(url, reach)

    def ask(self, part: Part | None = None, condition: str = "") -> http.client.HTTPResponse:
        """Ask for all of it, or for what a part lacks as long as the server still has the same."""
        headers = {"User-Agent": "trun", "Accept-Encoding": "identity"}
        if part is not None and part.size and condition:
            headers |= {"Range": f"bytes={part.size}-", "If-Range": condition}
        try:
            answer: http.client.HTTPResponse = self._opener.open(
                urllib.request.Request(self._url, headers=headers), timeout=TIMEOUT_S
            )
        except urllib.error.HTTPError as error:  # cannot travel as it is: it holds a connection
            error.close()
            if error.code == 416 and part is not None:  # nothing is lacking, or it is not the same any more
                part.restart()
                return self.ask()
            if error.code in (404, 410):
                raise FileNotFoundError(f"there is nothing at {self._url} ({error.code} {error.reason}).") from None
            raise ServiceUnavailable(f"{self._url} answered {error.code} {error.reason}.") from None
        except urllib.error.URLError as error:
            raise ServiceUnavailable(f"{self._url} cannot be reached: {error.reason}.") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise ServiceUnavailable(f"{self._url} cannot be reached: {error!r}.") from None
        return answer


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirections within one host only."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            fp.close()
            raise self._reach.refusal(req.full_url, f"it leads on to another host, {new.scheme}://{new.netloc}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _connect(addresses: list[str], port: int, timeout: float | None) -> socket.socket:
    """Connect to the first of the addresses that answers; no name is looked up."""
    for address in addresses[:-1]:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError:
            continue
    return socket.create_connection((addresses[-1], port), timeout)


class _Pinned(urllib.request.HTTPHandler):
    """``http://`` to addresses that were looked up before."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__()
        self._addresses = addresses

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        addresses = self._addresses

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = _connect(addresses, self.port, self.timeout)

        return self.do_open(Connection, req)


class _PinnedTLS(urllib.request.HTTPSHandler):
    """``https://`` to addresses that were looked up before; the certificate must still be that of the name."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__()
        self._addresses = addresses

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        addresses = self._addresses
        context = ssl.create_default_context()

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                bare = _connect(addresses, self.port, self.timeout)
                try:
                    self.sock = context.wrap_socket(bare, server_hostname=self.host)
                except BaseException:
                    bare.close()
                    raise

        return self.do_open(Connection, req)
