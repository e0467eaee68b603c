"""The services that this user knows: ``CONFIG/known_services``, with the key that each must show.

Like ssh's ``known_hosts``: a service is believed to be the one that was meant because it holds the key that was written
down at first contact. A changed key is a hard stop, never a warning. One JSON object per line.

Who may come in: the composition rooms and the command line; the node, for services that conditions mention.
Rule: nothing is written here but by ``service add``, ``service start`` and a first contact that the user confirmed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from trun.adapters import system
from trun.adapters.folders import config_folder
from trun.adapters.keys import fingerprint, from_z85
from trun.errors import ServiceKeyChanged, StateError, UnknownName


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A service as this user knows it."""

    name: str
    address: str
    #: CURVE public key (40 characters); empty for a service on the user's own ipc socket that has none.
    key: str = ""
    #: Whether pickled results of this service are loaded: they may contain any code.
    trusted: bool = False
    #: Seconds since the epoch, UTC.
    since: float = 0.0
    #: State folder, for services that this user started on this machine; empty otherwise.
    folder: str = ""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the key; empty where there is none."""
        return fingerprint(self.key) if self.key else ""


def _path() -> Path:
    return config_folder() / "known_services"


def known_services() -> list[Known]:
    """Return all known services, in the order in which they were added.

    Raises
    ------
    StateError
        A line of the file cannot be read; the text says which.
    """
    try:
        lines = _path().read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=Known))
            except msgspec.MsgspecError as error:
                raise StateError(f"line {number} of {_path()} is damaged ({error}); mend or remove it.") from error
    return found


def find(name: str) -> Known:
    """Return the known service with this name, key, fingerprint or address.

    Raises
    ------
    UnknownName
        There is none; the nearest name is offered.
    """
    known = known_services()
    for service in known:
        if name in (service.name, service.key, service.address) or (service.key and name == service.fingerprint):
            return service
    raise UnknownName(
        f"there is no known service {name!r}; add it with `trun service add {name} ADDRESS --expect KEY`.",
        name=name,
        known=[service.name for service in known],
    )


def by_key(key: str) -> Known | None:
    """Return the known service with this key, or None."""
    return next((service for service in known_services() if key and service.key == key), None)


@contextmanager
def _alone() -> Iterator[None]:
    fd = os.open(_path().with_name(".known_services.lock"), os.O_RDWR | os.O_CREAT | system.CLOEXEC, 0o600)
    try:
        system.lock(fd, wait=True)
        yield
    finally:
        os.close(fd)


def remember(service: Known, *, replace: bool = False) -> Known:
    """Write a service down; one of the same name with the same key is brought up to date.

    Raises
    ------
    ServiceKeyChanged
        The name is known with another key, and ``replace`` is not set.
    """
    if service.key:
        from_z85(service.key)
    with _alone():
        known = known_services()
        for old in known:
            if old.name == service.name and old.key and service.key != old.key and not replace:
                raise key_changed(old, service.key)
        new = msgspec.structs.replace(service, since=service.since or time.time())
        _write([*(old for old in known if old.name != service.name), new])
    return new


def forget(name: str) -> None:
    """Remove a service; nothing happens where it is not known."""
    with _alone():
        known = known_services()
        if any(service.name == name for service in known):
            _write([service for service in known if service.name != name])


def _write(known: list[Known]) -> None:
    path = _path()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "wb") as file:
        system.only_mine(file.fileno())
        file.write(b"".join(msgspec.json.encode(service) + b"\n" for service in known))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def key_changed(old: Known, new: str) -> ServiceKeyChanged:
    """Return the error for a service that is not the one that was known."""
    found = fingerprint(new) if new else "none"
    return ServiceKeyChanged(
        f"the key of service {old.name} is not the one that was written down: expected {old.fingerprint}, "
        f"found {found}. Somebody may be in between. If its operator confirms the new key: "
        f"`trun service forget {old.name}`, then `trun service add {old.name} {old.address} --expect KEY`."
    )
