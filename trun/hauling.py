"""Large parts of arguments and results: as files of the service's folder here, over TLS with a ticket elsewhere.

Parts of a megabyte and more do not travel inside messages. On the same machine they are files that both sides see; to
a service elsewhere they go over its bulk port, whose certificate was told through the encrypted connection.

Knows neither jobs nor pickles. Who may come in: whoever dumps or loads a value for a service.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trun.adapters import pickles
from trun.messages import Blob

if TYPE_CHECKING:
    from trun.service import Service


def writer(service: Service) -> Callable[[memoryview], Blob] | None:
    """Return what keeps a large part of an argument for a service; None where all goes inside of messages."""
    welcome = service.welcome
    if service.near:
        return pickles.blob_writer(welcome.folder) if welcome is not None and welcome.folder else None
    if not service.wait_ready().key:
        return None

    def push(view: memoryview) -> Blob:
        from trun.adapters import transfer

        name = secrets.token_hex(16)
        transfer.push(*_where(service, "upload", name=name, size=view.nbytes), (view,))
        return Blob(name, view.nbytes)

    return push


def opener(service: Service, uid: str) -> Callable[[Blob], memoryview]:
    """Return what opens the parts of the result of a job."""
    if service.near:
        return pickles.blob_opener(service.folder)

    def bring(blob: Blob) -> memoryview:
        from trun.adapters import transfer

        return memoryview(transfer.fetch_bytes(*_where(service, "blob", uid=uid, name=blob.name), size_cap=blob.size))

    return bring


def bring_file(service: Service, uid: str, blob: Blob, target: Path) -> None:
    """Bring one part of a job's result into a file."""
    from trun.adapters import transfer

    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    where = _where(service, "blob", uid=uid, name=blob.name, checked=True)
    transfer.fetch(*where, target, size_cap=blob.size, key=f"{uid}-{blob.name}")


def _where(service: Service, verb: str, **arguments: Any) -> tuple[str, str, str]:
    """Ask for a ticket; return address, fingerprint and ticket. A port at every address is at the one that we use."""
    found = service.ask(verb, **arguments)
    return reachable(service, str(found["address"])), str(found["fingerprint"]), str(found["ticket"])


def reachable(service: Service, address: str) -> str:
    """Return the address of a bulk port; one that listens everywhere is where the service itself is."""
    if service.tunnel is not None:
        return service.reach(address)
    host, colon, port = address.removeprefix("tls://").rpartition(":")
    if host in ("0.0.0.0", "[::]", "::"):
        host = service.address.partition("://")[2].rpartition(":")[0]
    return f"tls://{host}{colon}{port}"
