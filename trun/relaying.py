"""What one service must know of another: the stream of a job or group, passed on by whoever may hear both.

A ``Relayed`` listens to a stream where it is written and sends every entry to a target, from the first on, so that
conditions and arguments there see what they would see at home. Results go along; their large parts are linked or
brought into the target's folder first. A race's result is its winner's and is fetched. The target is another service
(then this process is the go-between), or the engine of a node that listens for itself (``trun.correspondence``).

Knows nothing of conditions. Threads: ``take`` and ``refuse`` run in the link's thread of the origin and never block.
Rule: a stream that can bring no more ends for the target as well; nobody there waits for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import msgspec

import trun.hauling as hauling
from trun.adapters import pickles
from trun.adapters.blobs import BlobFolder
from trun.core.voices import voiced
from trun.errors import ProtocolError, TrunError
from trun.messages import FINAL, Blob, Cancelled, Completed, Entry, ErrorInfo, Payload, Relay
from trun.service import Service

_log = logging.getLogger(__name__)

#: Seconds between attempts to bring a result; after the last it is given up.
PAUSES_S = (0.2, 1.0, 5.0, 30.0, 120.0, 600.0, 0.0)


class Target(Protocol):
    """Where the entries go."""

    @property
    def closed(self) -> bool:
        """Whether nobody wants them any more."""
        ...

    @property
    def folder(self) -> str:
        """State folder on this machine; empty where it cannot be reached from here."""
        ...

    def post(self, request: Relay) -> None:
        """Take entries."""
        ...

    def keep(self, view: memoryview) -> Blob:
        """Keep a large part, where there is no folder."""
        ...


class ServiceTarget:
    """Another service as the target: this process goes between."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def closed(self) -> bool:
        """Whether nobody wants them any more."""
        return self._service.closed

    @property
    def folder(self) -> str:
        """State folder, if it is on this machine."""
        return self._service.folder if self._service.near else ""

    def post(self, request: Relay) -> None:
        """Take entries."""
        self._service.post(request)

    def keep(self, view: memoryview) -> Blob:
        """Send a large part there."""
        push = hauling.writer(self._service)
        if push is None:
            raise ProtocolError("this service takes no large parts.")
        return push(view)


def relay(uid: str, *, origin: Service, target: Service) -> None:
    """Pass the stream ``uid`` of ``origin`` on to ``target``, from its beginning (once for each stream).

    Waits until both services have answered for the first time.
    """
    if uid not in target.abroad:
        origin.wait_ready()
        target.wait_ready()
        relayed = target.abroad[uid] = Relayed(uid, origin, ServiceTarget(target))
        origin.listen(uid, relayed)


class Relayed:
    """Passes one stream on."""

    def __init__(self, uid: str, origin: Service, target: Target, *, key: str = "", owner: str = "") -> None:
        self.uid = uid
        #: As the target files it: what a node hears for one user is for that user's jobs.
        self._name = voiced(uid, owner)
        #: As conditions name the origin; its greeting may come after the first entries.
        self._key = key or origin.key
        self.seq = 0
        self.is_over = False
        self._origin = origin
        self._target = target
        #: Entries that must not overtake a result that was asked for, or parts of one that are on their way.
        self._held: list[Entry] | None = None

    def again(self) -> None:
        """The target may have missed something: pass all on once more."""
        self._origin.forget(self.uid, self)
        self._held = None
        with contextlib.suppress(TrunError):
            self._origin.listen(self.uid, self)

    def take(self, entry: Entry) -> None:
        """Pass on one entry."""
        event = entry.event
        if self._held is not None:
            self._held.append(entry)
        elif type(event) is Completed and event.result is None:
            self._held = [entry]
            asked = self._origin.begin_ask("result", uid=self.uid)
            asked.add_done_callback(self._told)
        elif type(event) is Completed and any(True for _ in _blobs(event.result)):
            self._held = [entry]
            threading.Thread(target=self._haul, args=(event.result,), name="trun-haul", daemon=True).start()
        else:
            self._pass_on(entry)

    def refuse(self, error: ErrorInfo) -> None:
        """The job was not accepted, its service has gone, or the right to listen has ended: it is cancelled there."""
        if not self.is_over:
            kind = "expired" if "credential" in error.message else "owner"
            event = Cancelled(reason=error.message, kind=kind)
            self._pass_on(Entry(self.uid, self.seq + 1, 0, time.time(), event))

    def _told(self, asked: Future[Any]) -> None:
        """The result of a race has come."""
        payload: Payload | None = None
        with contextlib.suppress(TrunError):
            payload = pickles.payload_from(asked.result().data)
        if payload is not None and any(True for _ in _blobs(payload)):
            threading.Thread(target=self._haul, args=(payload,), name="trun-haul", daemon=True).start()
        else:
            self._release(payload)

    def _haul(self, payload: Payload) -> None:
        """Bring the large parts of a result (in a thread of its own), then go on."""
        for pause_s in PAUSES_S:
            try:
                moved = self._moved(payload)
            except (TrunError, OSError) as error:
                reason = f"its result could not be brought: {error}"
                _log.warning("a result could not be brought uid=%s reason=%s", self.uid, error)
                if not pause_s or self._target.closed or self._origin.gone is not None:
                    break
                threading.Event().wait(pause_s)
            else:
                self._release(moved)
                return
        self._held = None
        Relayed.refuse(self, ErrorInfo(type="trun.errors.ServiceUnavailable", message=reason))

    def _moved(self, payload: Payload) -> Payload:
        here = self._origin.folder if self._origin.near else ""
        if self._target.folder:
            goal = BlobFolder(Path(self._target.folder) / "blobs")
            for blob in _blobs(payload):
                if not (here and _linked(blob, BlobFolder(Path(here) / "blobs"), goal)):
                    hauling.bring_file(self._origin, self.uid, blob, goal.file(blob.name))
            return payload
        bring = hauling.opener(self._origin, self.uid)

        def moved(part: Any) -> Any:
            return self._target.keep(bring(part)) if isinstance(part, Blob) else part

        return msgspec.structs.replace(
            payload, blob=moved(payload.blob), buffers=tuple(moved(part) for part in payload.buffers)
        )

    def _release(self, payload: Payload | None) -> None:
        held, self._held = self._held or [], None
        for position, entry in enumerate(held):
            if position or payload is None:
                self._pass_on(entry)
            else:
                self._pass_on(msgspec.structs.replace(entry, event=_with(entry.event, payload)))

    def _pass_on(self, entry: Entry) -> None:
        self.is_over = isinstance(entry.event, FINAL)
        if not self._target.closed:
            with contextlib.suppress(TrunError):  # it has gone, and says so to its own
                if self._name != self.uid:
                    entry = msgspec.structs.replace(entry, stream=self._name)
                self._target.post(Relay(service_key=self._key, entries=(entry,)))


def _with(event: Any, payload: Payload) -> Any:
    return msgspec.structs.replace(event, result=payload)


def _blobs(payload: Payload | None) -> Iterator[Blob]:
    if payload is not None:
        if payload.blob is not None:
            yield payload.blob
        for buffer in payload.buffers:
            if isinstance(buffer, Blob):
                yield buffer


def _linked(blob: Blob, here: BlobFolder, there: BlobFolder) -> bool:
    """Let the target have a file: blobs never change, so a hard link is a copy. False where the file is not here."""
    source, goal = here.file(blob.name), there.file(blob.name)
    goal.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        os.link(source, goal)
    except FileExistsError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # another file system, or another user's file
        part = goal.with_name(f".{goal.name}.{os.getpid()}.part")
        try:
            shutil.copyfile(source, part)
        except OSError:
            return False
        part.replace(goal)
    return True
