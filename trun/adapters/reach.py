"""What a service may fetch, and from where.

The user's own service on this machine does what the user could do at the prompt. A daemon that others submit to must
not be a way to places that only it can reach: files of its machine, addresses of its network, the cloud's metadata.
So it fetches ``trun://`` and ``https://`` from public hosts, and what ``[fetch] allow`` names besides:

    https://host[:port]  http://host[:port]     that host, wherever its address lies; ``*.name`` for all below a name
    10.1.0.0/16                                 hosts with these addresses, over https
    file:///folder                              files below this folder
    s3://bucket/path                            what begins so, with the extra ``remote``
    *                                           everything

The operator sets ``TRUN_FETCH__ALLOW`` and ``TRUN_FETCH__MAX_SIZE`` in the daemon's environment, which its workers
share. Where the first is not set, a service that has keys, and so may have other people, is bounded; one without is
not.
Rule: names are looked up once, and what was looked at is what is connected to.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trun.core.units import memory_bytes
from trun.errors import BadOption, NotAuthorised, ServiceUnavailable

ALLOW, MAX_SIZE = "TRUN_FETCH__ALLOW", "TRUN_FETCH__MAX_SIZE"
#: Bytes that a fetched file may have, unless ``[fetch] max_size`` says something else.
DEFAULT_SIZE = 10 << 30

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: NAT64: the last 32 bits are an IPv4 address (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What may be fetched; build with ``reach`` or ``from_environment``."""

    #: Whether there are no bounds: the user's own service, or ``*``.
    unbounded: bool = True
    #: Bytes that a file may have.
    max_size: int = DEFAULT_SIZE
    #: (scheme, host, port) of http(s).
    hosts: tuple[tuple[str, str, int], ...] = ()
    networks: tuple[_Network, ...] = ()
    #: Folders of ``file://``.
    folders: tuple[Path, ...] = ()
    #: Beginnings of other addresses.
    beginnings: tuple[str, ...] = ()

    def refusal(self, url: str, why: str) -> NotAuthorised:
        """Return the error for an address that must not be fetched."""
        return NotAuthorised(
            f"this service does not fetch {url!r}: {why}. Its operator can allow it with [fetch] allow ({ALLOW} in the "
            "daemon's environment); or submit a job that publishes the file on a service that can read it."
        )

    def file_below(self, path: Path, url: str) -> tuple[Path, str] | None:
        """Return folder and path below it for a file of this machine; None where any may be opened.

        Raises
        ------
        NotAuthorised
            It lies in no folder that is allowed.
        """
        if self.unbounded:
            return None
        for folder in self.folders:
            if path.is_relative_to(folder) and path != folder:
                return folder, str(path.relative_to(folder))
        raise self.refusal(url, "it is a file of the service's own machine")

    def check_other(self, url: str) -> None:
        """Raise ``NotAuthorised`` for an address of another scheme that is not allowed."""
        plain = "::" not in url and not any(part in (".", "..") for part in urllib.parse.unquote(url).split("/"))
        if not self.unbounded and not (plain and any(_begins(url, beginning) for beginning in self.beginnings)):
            scheme = url.partition(":")[0]
            raise self.refusal(url, f"{scheme}:// is not among what it may fetch")

    def addresses(self, url: str) -> list[str]:
        """Look a host up and return those of its addresses that may be connected to, best first.

        Raises
        ------
        NotAuthorised
            The host, or where its addresses lie, is not allowed.
        ServiceUnavailable
            There is no such host.
        """
        parts = urllib.parse.urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
        named = any(_is_host(entry, (parts.scheme, host, port)) for entry in self.hosts)
        if not (self.unbounded or named or parts.scheme == "https"):
            raise self.refusal(url, f"{parts.scheme}:// is neither private nor safe from changes on the way")
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            text = getattr(error, "strerror", None) or error
            raise ServiceUnavailable(f"{url} cannot be reached: there is no host {host!r} ({text}).") from None
        found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        if self.unbounded or named:
            return found
        public = [one for one in found if self._may_be_reached(one)]
        if not public:
            raise self.refusal(url, f"{host} is in a private network ({found[0]})")
        return public

    def _may_be_reached(self, text: str) -> bool:
        address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        return address.is_global and not address.is_multicast and not address.is_reserved


def from_environment(*, shared: bool, environment: Mapping[str, str] = os.environ) -> Reach:
    """Return what the service that started this process may fetch; ``shared``: others than the user may submit."""
    allow = environment.get(ALLOW, "" if shared else None)
    size = environment.get(MAX_SIZE) or DEFAULT_SIZE
    return reach(None if allow is None else allow.replace(",", " ").split(), max_size=size)


def reach(allow: list[str] | None, *, max_size: int | str = DEFAULT_SIZE) -> Reach:
    """Return what a service with these settings may fetch; ``allow`` None: it is the user's own.

    Raises
    ------
    BadOption
        An entry or the size makes no sense.
    """
    most = memory_bytes(int(max_size) if str(max_size).isdigit() else max_size, "[fetch] max_size")
    if allow is None or "*" in allow:
        return Reach(max_size=most)
    hosts: list[tuple[str, str, int]] = []
    networks: list[_Network] = []
    folders: list[Path] = []
    beginnings: list[str] = []
    for entry in allow:
        try:
            parts = urllib.parse.urlsplit(entry)
            port = parts.port
            if "://" not in entry:
                networks.append(ipaddress.ip_network(entry))
            elif parts.scheme in _PORTS and parts.hostname and parts.path in ("", "/"):
                hosts.append((parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme]))
            elif parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
                folders.append(Path(urllib.parse.unquote(parts.path)))
            elif parts.scheme not in ("trun", "file", *_PORTS):
                beginnings.append(entry)
            else:
                raise ValueError
        except ValueError:
            raise BadOption(
                f"[fetch] allow: {entry!r} is neither an address such as 'http://host', 'file:///folder' or "
                "'s3://bucket', nor a network such as '10.1.0.0/16', nor '*'."
            ) from None
    return Reach(
        unbounded=False,
        max_size=most,
        hosts=tuple(hosts),
        networks=tuple(networks),
        folders=tuple(folders),
        beginnings=tuple(beginnings),
    )


def _is_host(entry: tuple[str, str, int], wanted: tuple[str, str, int]) -> bool:
    name = entry[1]
    same = wanted[1].endswith(name[1:]) if name.startswith("*.") else wanted[1] == name
    return same and (entry[0], entry[2]) == (wanted[0], wanted[2])


def _begins(url: str, beginning: str) -> bool:
    """Whether an address begins so, at a border: ``s3://a`` allows ``s3://a/b``, not ``s3://ab``."""
    return url.startswith(beginning) and (beginning.endswith("/") or url[len(beginning) :][:1] in ("", "/"))


def _unwrapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64 or int(address) >> 32 == 0:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)
