"""What a payload may say and ask while it runs: ``current_job()``.

One process runs one attempt at a time, so the current job belongs to the process and every thread of the payload sees
it. What is said goes to the service at once over the launcher's channel; only progress is thinned out, and its last
value always arrives. Values must be plain data.

Who may come in: payloads, the doors (to know the parent of what a payload submits), the launcher, which makes and
ends it.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from trun.adapters.values import plain
from trun.conditions.timing import span_seconds as seconds
from trun.errors import BadOption, UnknownName
from trun.executors.protocol import Envelope, Tell, file_stem
from trun.messages import Emitted, Improved, Progress, Replied, ResourcesLowered, Said

#: Shortest time between two reports of progress, in seconds.
PROGRESS_S = 0.05


class Channel(Protocol):
    """How a launcher reaches its executor: reports out, texts in."""

    def send(self, report: Emitted | ResourcesLowered) -> None:
        """Send a report; any thread."""
        ...

    def receive(self, timeout: float | None) -> Tell | None:
        """Return the next text for the running attempt; None when there was none for ``timeout`` seconds."""
        ...


class Place(msgspec.Struct, frozen=True):
    """What a payload may know of where it runs."""

    #: Folder of the service, or empty.
    folder: str = ""
    service_key: str = ""


class Message:
    """A text that somebody sent to the running job."""

    def __init__(self, content: str, respond: Callable[[str], None]) -> None:
        self.content = content
        self._respond = respond

    def respond(self, text: str) -> None:
        """Answer the sender."""
        self._respond(str(text))

    def __repr__(self) -> str:
        return f"<message {self.content!r}>"


class Inbox:
    """Texts for the running job, in order of arrival. They wait in the channel: no thread is needed to take them
    in.
    """

    def __init__(self, channel: Channel, reply: Callable[[str, str], None]) -> None:
        self._channel = channel
        self._reply = reply
        self._waiting: deque[Tell] = deque()

    def empty(self) -> bool:
        """Whether no message waits."""
        self._take(0.0)
        return not self._waiting

    def get(self, timeout: Any = None) -> Message:
        """Return the next message; wait for it, at most ``timeout`` (seconds or "10s"), then raise ``queue.Empty``."""
        if not self._waiting:
            self._take(None if timeout is None else seconds(timeout, "timeout"))
        if not self._waiting:
            raise queue.Empty
        tell = self._waiting.popleft()
        return Message(tell.text, lambda text: self._reply(tell.token, text))

    def _take(self, timeout: float | None) -> None:
        tell = self._channel.receive(timeout)
        if tell is not None:
            self._waiting.append(tell)


class CurrentJob:
    """The job that this process runs now."""

    def __init__(self, envelope: Envelope, channel: Channel, place: Place) -> None:
        self.uid = envelope.uid
        #: Display name, ``fit#7``.
        self.id = envelope.id
        self.epoch = envelope.epoch
        self.run = envelope.run
        self.attempt = envelope.attempt
        self.session = envelope.session
        #: Counted resources that it holds.
        self.resources = dict(envelope.resources)
        self.service_key = place.service_key
        #: Where it puts what it installs, or empty.
        self.target = envelope.target
        self._channel = channel
        self._folder = place.folder
        self._sent = 0
        self._scratch: str | None = None
        self._inbox: Inbox | None = None
        self._pending: Progress | None = None
        self._timer: threading.Timer | None = None
        self._next_progress = 0.0
        self._over = False

    @property
    def inbox(self) -> Inbox:
        """Texts that were sent to this job."""
        if self._inbox is None:
            self._inbox = Inbox(self._channel, self._reply)
        return self._inbox

    @property
    def export_folder(self) -> str:
        """Where files that it publishes are kept, or empty."""
        return os.path.join(self._folder, "export") if self._folder else ""

    @property
    def fence(self) -> str:
        """What to pass on to others, so that they can refuse what an earlier, lost attempt says: uid and epoch."""
        return f"{self.uid}:{self.epoch}"

    @property
    def scratch(self) -> Path:
        """A folder for this attempt alone; removed at its end."""
        if self._scratch is None:
            self._scratch = scratch_path(self._folder, self.uid, self.epoch)
            os.makedirs(self._scratch, mode=0o700, exist_ok=True)
        return Path(self._scratch)

    def improved(self, **values: Any) -> None:
        """Say that there is a better intermediate result: ``improved(chisq=1.9)``."""
        if not values:
            raise BadOption("improved() takes at least one value by name, such as improved(chisq=1.9).")
        self._emit(Improved(values={name: plain(value, f"improved({name}=...)") for name, value in values.items()}))

    def say(self, name: str, value: Any = None) -> None:
        """Say something under a name; ``job.said(name)`` is the condition for it."""
        if not isinstance(name, str):
            raise BadOption(f"say() takes a text as name, not {name!r}.")
        self._emit(Said(name=name, value=plain(value, f"say({name!r}, ...)")))

    def set_progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far the job is: a fraction from 0 to 1, and a note. May be called as often as one likes."""
        value = plain(fraction, "set_progress(fraction)")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadOption(f"set_progress takes a fraction from 0 to 1, not {fraction!r}.")
        event = Progress(fraction=float(value), note="" if note is None else str(note))
        with _lock:
            now = time.monotonic()
            if now >= self._next_progress:
                self._next_progress = now + PROGRESS_S
                self._pending = None
                self._send(event)
                return
            self._pending = event
            if self._timer is None and not self._over:
                self._timer = threading.Timer(self._next_progress - now, self._late)
                self._timer.daemon = True
                self._timer.start()

    def lower_resources(self, **amounts: float) -> None:
        """Give back a part of the counted resources before the end: ``lower_resources(memory=2)``."""
        for name, amount in amounts.items():
            if name not in self.resources:
                raise UnknownName(f"{self.id} holds no resource {name!r}.", name=name, known=self.resources)
            if not 0 <= amount <= self.resources[name]:
                held = self.resources[name]
                raise BadOption(f"{self.id} holds {held:g} of {name!r}, so it cannot give back {amount!r}.")
        with _lock:
            for name, amount in amounts.items():
                self.resources[name] -= amount
            self._sent += 1
            given = dict(amounts)
            self._channel.send(
                ResourcesLowered(uid=self.uid, epoch=self.epoch, resources=given, number=self._sent)
            )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _reply(self, token: str, text: str) -> None:
        self._emit(Replied(token=token, text=text))

    def _emit(self, event: Improved | Said | Replied) -> None:
        with _lock:
            self._flush()
            self._send(event)

    def _send(self, event: Progress | Improved | Said | Replied) -> None:
        if not self._over:
            self._sent += 1
            self._channel.send(Emitted(uid=self.uid, epoch=self.epoch, first=self._sent, events=(event,)))

    def _late(self) -> None:
        with _lock:
            self._timer = None
            self._next_progress = time.monotonic() + PROGRESS_S
            self._flush()

    def _flush(self) -> None:
        event, self._pending = self._pending, None
        if event is not None:
            self._send(event)

    def end(self) -> None:
        """Send what is still to be said and remove the scratch folder; the launcher calls this."""
        if self._timer is not None or self._pending is not None:
            with _lock:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
                self._flush()
        self._over = True
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<current job {self.id} attempt {self.attempt}>"


def scratch_path(folder: str, uid: str, epoch: int) -> str:
    """Return where the scratch folder of an attempt is."""
    base = os.path.join(folder or os.path.join(tempfile.gettempdir(), "trun"), "scratch")
    return os.path.join(base, f"{file_stem(uid)}.{epoch}")


#: One attempt at a time, so one lock for what its threads say.
_lock = threading.Lock()
_current: CurrentJob | None = None


def current_job() -> CurrentJob | None:
    """Return the job inside which this code runs; None outside of any."""
    return _current


def set_current_job(job: CurrentJob | None) -> None:
    """Say which job this process runs now; for launchers."""
    global _current
    _current = job
