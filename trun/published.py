"""Where a service is and which key it holds, as its operator publishes them on a web server.

``{"name": "fans", "address": "tcp://host:7711", "key": "..."}`` at an ``https://`` address. The web's certificates
vouch for the first contact alone: whoever reads this pins the key. What is said there is data of a stranger: small,
plain, an address that needs a key, and nothing that leads on to anything but another ``https://`` page.

Knows no services and connects to none. Rule: a doubt is a refusal that names the page.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import IO, Any

from trun.adapters.keys import from_z85
from trun.errors import BadOption, ServiceUnavailable

#: Seconds that the page may take, and its largest size.
WEB_S = 20.0
MOST_BYTES = 65536
WHAT = '{"name": ..., "address": "tcp://host:port", "key": ...}'


@dataclass(frozen=True, slots=True)
class Published:
    """What an operator says of a service."""

    name: str
    address: str
    key: str

class _SecureOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to ``https://`` alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Refuse to be led away from encrypted pages."""
        if urllib.parse.urlsplit(newurl).scheme != "https":
            fp.close()
            raise ServiceUnavailable(f"{req.full_url} leads to {newurl}, which is not encrypted; it is not followed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def read(address: str) -> Published:
    """Return what is published at an ``https://`` address.

    Raises
    ------
    ServiceUnavailable
        The page cannot be had, its certificate is not accepted, or it does not say what it should; the text says which.
    """
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _SecureOnly()
    )
    try:
        with opener.open(address, timeout=WEB_S) as answer:
            page = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise ServiceUnavailable(f"{address} cannot be read: {error.code} {error.reason}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ServiceUnavailable(
                f"the certificate of {address} is not accepted: {reason.verify_message}. Nothing of it is believed; "
                "tell its operator."
            ) from error
        raise ServiceUnavailable(f"{address} cannot be read: {reason}.") from error
    if len(page) > MOST_BYTES:
        raise ServiceUnavailable(f"{address} is larger than {MOST_BYTES:,} bytes; it publishes no service.")
    return _checked(address, page)


def _checked(address: str, page: bytes) -> Published:
    try:
        facts = json.loads(page)
        there, key = str(facts["address"]), str(facts["key"])
        from_z85(key)
        host, _, port = there.removeprefix("tcp://").rpartition(":")
        if not there.startswith("tcp://") or not host or not 0 < int(port) < 65536:
            raise BadOption(f"{there[:100]!r} is no tcp://host:port")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ServiceUnavailable(f"{address} does not publish a service as {WHAT}: {error}") from error
    name = facts.get("name")
    if not isinstance(name, str) or not name.isidentifier() or len(name) > 64:
        name = urllib.parse.urlsplit(address).hostname or host
    return Published(name, there, key)


__all__ = ["Published", "read"]
