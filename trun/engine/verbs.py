"""Verbs of a service that others than its owner use: who am I, tokens, people, revocation.

Like the reading verbs in ``views`` they get the engine and plain arguments and return plain data; ``_user`` is the
public key of the asker, put there by the gate, and missing where the owner asks. Who may come in: the node.
Rule: what changes something is durable when the answer leaves.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trun.adapters.addresses import Place, place
from trun.adapters.blobs import BlobFolder
from trun.adapters.export import resolve
from trun.adapters.transfer import UNCHECKED
from trun.engine.sides import Bulk
from trun.errors import BadOption, NotAuthorised, UnknownName
from trun.messages import Blob
from trun.ports import Powers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trun.engine.loop import Engine, View

#: Seconds that a minted token lives, unless less is asked for.
TOKEN_S = 12 * 3600.0
#: Bytes of one part of an argument.
LARGEST = 64 * 1024**3


def bulk_verbs(folder: Path, bulk: Callable[[], Bulk], export: Path | None) -> dict[str, View]:
    """Return the verbs that hand out tickets for large data and files; the port opens with the first."""
    blobs = BlobFolder(folder / "blobs")

    def upload(engine: Engine, arguments: dict[str, Any]) -> Any:
        name, size = str(arguments.get("name", "")), int(arguments.get("size", -1))
        target = blobs.file(name)
        if not 0 <= size <= LARGEST or target.exists():
            raise BadOption(f"a part of {size} bytes cannot be left under the name {name}.")
        target.parent.mkdir(mode=0o700, exist_ok=True)
        port = bulk()
        ticket = port.accept(target, size, UNCHECKED, holder=str(arguments.get("_user", "")))
        return {"address": port.address, "fingerprint": port.fingerprint, "ticket": ticket}

    def blob(engine: Engine, arguments: dict[str, Any]) -> Any:
        uid, name = str(arguments.get("uid", "")), str(arguments.get("name", ""))
        payload = engine.payloads.result(uid)
        parts = [] if payload is None else [payload.blob, *payload.buffers]
        if not any(isinstance(part, Blob) and part.name == name for part in parts):
            raise UnknownName(f"the result of this job has no part {name!r}.")
        port = bulk()
        # What becomes a file is compared with its digest; what goes into memory TLS guards.
        digest = "" if arguments.get("checked") else UNCHECKED
        ticket = port.ticket(blobs.file(name), digest=digest, holder=str(arguments.get("_user", "")))
        return {"address": port.address, "fingerprint": port.fingerprint, "ticket": ticket}

    def file(engine: Engine, arguments: dict[str, Any]) -> Any:
        url, user = str(arguments.get("url", "")), str(arguments.get("_user", ""))
        where = place(url)
        if where.service not in (engine.welcome.service_key, engine.welcome.key):
            return _file_elsewhere(engine, where, arguments)
        root, relative = (folder / "export", f"{where.uid}/{where.relative}") if where.uid else (export, where.relative)
        if not root or (where.uid and where.uid not in engine.machine.records):
            raise UnknownName(f"the service has no file at {url}.")
        try:
            opened = resolve(root, relative, hidden=bool(where.uid))
        except FileNotFoundError as error:
            raise UnknownName(f"the service has no file at {url}: {error}") from None
        size = os.fstat(opened).st_size
        os.close(opened)
        port = bulk()
        ticket = port.ticket(lambda: resolve(root, relative, hidden=bool(where.uid)), size=size, holder=user)
        found = {"address": port.address, "fingerprint": port.fingerprint, "ticket": ticket}
        return {**found, "size": size, "digest": ""}

    return {"upload": upload, "blob": blob, "file": file}


def _file_elsewhere(engine: Engine, where: Place, arguments: dict[str, Any]) -> Any:
    """A job of ours wants a file of another service: ask there, with the right that was lent to the job."""
    if arguments.get("_user") or engine.mail is None:
        raise UnknownName(f"this service is not {where.service}.")
    record = engine.machine.records.get(str(arguments.get("job", "")))
    spec = record.spec if record is not None else None
    given = {"url": str(arguments.get("url", "")), "uid": where.uid}
    return engine.mail.ask(spec, where.service, str(arguments.get("token", "")), "file", given)


def remote_verbs(engine: Engine, powers: Powers) -> dict[str, View]:
    """Return the verbs by name."""

    def whoami(engine: Engine, arguments: dict[str, Any]) -> Any:
        user = str(arguments.get("_user", ""))
        roles = ["admin"] if not user else sorted(powers.roles(user))
        return {"key": user, "name": powers.name(user) if user else "owner", "roles": roles}

    def request_access(engine: Engine, arguments: dict[str, Any]) -> Any:
        return {"noted": True}

    def mint(engine: Engine, arguments: dict[str, Any]) -> Any:
        user = str(arguments.get("_user", "") or arguments.get("holder", ""))
        if not user:
            raise BadOption("a token needs a holder: the public key of whoever asks for it.")
        ops = [str(op) for op in arguments.get("ops") or ("read", "fetch", "cancel-loser")]
        resources = [str(one) for one in arguments.get("res") or ("*",)]
        seconds = min(float(arguments.get("expires") or time.time() + TOKEN_S) - time.time(), TOKEN_S)
        if "read" not in powers.roles(user) and "admin" not in powers.roles(user):
            _refuse_foreign(engine, user, resources)
        token = powers.mint(user, next_key=str(arguments.get("next", "")), ops=ops, res=resources, seconds=seconds)
        return {"token": token}

    def revoke(engine: Engine, arguments: dict[str, Any]) -> Any:
        powers.revoke(str(arguments.get("id", "")), str(arguments.get("reason", "")))
        return {"revoked": arguments.get("id", "")}

    def renew(engine: Engine, arguments: dict[str, Any]) -> Any:
        record = engine.machine.records.get(str(arguments.get("job", "")))
        user = str(arguments.get("_user", ""))
        if record is None or (user and record.spec.owner not in ("", user)):
            raise UnknownName("the service has no such job of yours.")
        is_waiting = not record.life.state.is_final
        if is_waiting and engine.mail is not None:
            is_waiting = engine.mail.renew(record.spec, str(arguments.get("token", "")))
        return {"done": not is_waiting}

    del engine
    return {
        "whoami": whoami,
        "request-access": request_access,
        "mint": mint,
        "revoke": revoke,
        "renew": renew,
        **_key_verbs(powers),
    }


def _key_verbs(powers: Powers) -> dict[str, View]:
    """Return the verbs by which users let other keys of theirs in."""

    def session(engine: Engine, arguments: dict[str, Any]) -> Any:
        user = str(arguments.get("_user", ""))
        if not user or user != arguments.get("_key"):
            raise BadOption("a session is registered over a connection with the user's own key.")
        until = powers.register(str(arguments.get("key", "")), user, float(arguments.get("expires") or 0.0))
        return {"key": arguments.get("key"), "expires": until}

    def rotate(engine: Engine, arguments: dict[str, Any]) -> Any:
        user = str(arguments.get("_user", ""))
        if not user or user != arguments.get("_key"):
            raise BadOption("a key is exchanged over a connection with the user's own key.")
        return {"key": arguments.get("key"), "until": powers.rotate(user, str(arguments.get("key", "")))}

    return {"session": session, "rotate": rotate}


def _refuse_foreign(engine: Engine, user: str, resources: Iterable[str]) -> None:
    """Whoever may not read all may lend no more than jobs of its own."""
    for resource in resources:
        kind, _, name = resource.partition(":")
        record = engine.machine.records.get(name.partition("/")[0]) if kind in ("job", "file") else None
        if record is None or record.spec.owner != user:
            raise NotAuthorised(f"you may not lend {resource!r}: it needs the role read, or a job of your own.")
