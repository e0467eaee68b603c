"""What one service must know of another: the stream of a job or group, passed on by the client that speaks to both.

A ``Relayed`` listens to a stream where it is written and sends every entry to another service, from the first on, so
that conditions and arguments there see what they would see at home. Results go along; parts that are kept as files are
linked into the other service's folder, where both lie on this machine. A race's result is its winner's and is fetched.

Knows nothing of conditions. Threads: ``take`` and ``refuse`` run in the link's thread of the origin and never block.
Rule: a stream that can bring no more ends for the other service as well; nobody there waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from trun.adapters import pickles
from trun.adapters.blobs import BlobFolder
from trun.errors import ProtocolError, TrunError
from trun.messages import FINAL, Blob, Cancelled, Completed, Entry, ErrorInfo, Payload, Relay
from trun.service import Service


def relay(uid: str, *, origin: Service, target: Service) -> None:
    """Pass the stream ``uid`` of ``origin`` on to ``target``, from its beginning (once for each stream).

    Waits until both services have answered for the first time.
    """
    if uid not in target.abroad:
        origin.wait_ready()
        target.wait_ready()
        target.abroad.add(uid)
        origin.listen(uid, Relayed(uid, origin, target))


class Relayed:
    """Passes one stream on."""

    def __init__(self, uid: str, origin: Service, target: Service) -> None:
        self.uid = uid
        self.seq = 0
        self._origin = origin
        self._target = target
        self._is_over = False
        #: Entries that must not overtake a result that was asked for.
        self._held: list[Entry] | None = None

    def take(self, entry: Entry) -> None:
        """Pass on one entry."""
        event = entry.event
        if self._held is not None:
            self._held.append(entry)
        elif type(event) is Completed and event.result is None:
            self._held = [entry]
            asked = self._origin.begin_ask("result", uid=self.uid)
            asked.add_done_callback(self._told)
        else:
            self._pass_on(entry)

    def refuse(self, error: ErrorInfo) -> None:
        """The job was not accepted, or its service has gone: for those who wait elsewhere it is cancelled."""
        if not self._is_over:
            event = Cancelled(reason=error.message, kind="owner")
            self._pass_on(Entry(self.uid, self.seq + 1, 0, time.time(), event))

    def _told(self, asked: Future[Any]) -> None:
        """The result of a race has come."""
        held, self._held = self._held or [], None
        payload: Payload | None = None
        with contextlib.suppress(TrunError):
            payload = pickles.payload_from(asked.result().data)
        for position, entry in enumerate(held):
            if position or payload is None:
                self._pass_on(entry)
            else:
                self._pass_on(msgspec.structs.replace(entry, event=_with(entry.event, payload)))

    def _pass_on(self, entry: Entry) -> None:
        event = entry.event
        self._is_over = isinstance(event, FINAL)
        origin, target = self._origin, self._target
        if type(event) is Completed and event.result is not None:
            _link_blobs(event.result, origin, target)
        if not target.closed and origin.welcome is not None:
            with contextlib.suppress(TrunError):  # it has gone, and says so to its own
                target.post(Relay(service_key=origin.welcome.service_key, entries=(entry,)))


def _with(event: Any, payload: Payload) -> Any:
    return msgspec.structs.replace(event, result=payload)


def _blobs(payload: Payload) -> Iterator[Blob]:
    if payload.blob is not None:
        yield payload.blob
    for buffer in payload.buffers:
        if isinstance(buffer, Blob):
            yield buffer


def _link_blobs(payload: Payload, origin: Service, target: Service) -> None:
    """Let the other service have the files of a result: blobs never change, so a hard link is a copy."""
    folders = [service.welcome.folder for service in (origin, target) if service.welcome is not None]
    if len(folders) < 2 or not all(folders):
        return
    here, there = (BlobFolder(Path(folder) / "blobs") for folder in folders)
    for blob in _blobs(payload):
        with contextlib.suppress(FileExistsError, ProtocolError):
            source, goal = here.file(blob.name), there.file(blob.name)
            goal.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                os.link(source, goal)
            except FileNotFoundError:
                continue  # another machine's folder: the job that wants it will say what it misses
            except FileExistsError:
                continue
            except OSError:  # another file system
                part = goal.with_name(f".{goal.name}.{os.getpid()}.part")
                shutil.copyfile(source, part)
                part.replace(goal)
