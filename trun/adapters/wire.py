"""Messages over ZeroMQ: the node's endpoint (ROUTER) and the client's link (DEALER).

One frame is one batch of messages (``core.codec``); a ZeroMQ message has one frame or more. Queues are not bounded by
high-water marks, which would drop or block, but by the credit that readers grant (``engine.streams``). Whoever speaks
is known by the transport, never by a field of a message: on ``ipc`` the kernel tells the user, and others are refused.
PUB/SUB was turned down: it loses entries in both of its ordinary ways and says so to nobody.

The only room that knows ``zmq``. It knows neither jobs nor sessions, and sends nothing again: what is resent after a broken
connection is decided above. Who may come in: whoever composes a node or a client; import it lazily.
Rule: one thread per socket; every wait is bounded; garbage is dropped and counted, and never answered more than once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import stat
import struct
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from trun.adapters.folders import check_socket_path, held_by, private_folder, Holder
from trun.core.codec import decode_answers, decode_requests, encode_batch
from trun.errors import BadOption, NotAuthorised, ServiceUnavailable, UsageError
from trun.messages import Answer, AnyAnswer, AnyRequest, ErrorInfo, Message

_log = logging.getLogger(__name__)

#: Largest frame and most frames of one message that a node takes; a larger frame ends the connection.
FRAME_BYTES = 64 * 1024 * 1024
MESSAGE_FRAMES = 1024
#: A batch is cut in two while it is larger than this, and as many small ones travel as one message.
BATCH_BYTES = 4 * 1024 * 1024
FRAMES_AT_ONCE = 256
#: Batches that ``receive`` takes in one call: what is left waits in the kernel, and the sender waits with it.
BATCHES_AT_ONCE = 512
#: Seconds that unsent messages are given at the end.
LINGER_S = 2.0


# -- addresses and who may speak ----------------------------------------------------------------------------------------


class Security(Protocol):
    """Who may speak over a socket, and how strangers are kept out."""

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of a node's socket before it is bound."""
        ...

    def introduce(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of a client's socket before it is connected."""
        ...

    def admits(self, frame: zmq.Frame) -> bool:
        """Return whether the sender of this frame may speak; asked for each message."""
        ...


class SameUser:
    """Admits processes of the same user on the same machine; the kernel says who they are."""

    def __init__(self) -> None:
        self._uid = str(os.getuid())

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let the listener refuse other users at once."""
        socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())

    def introduce(self, socket: zmq.Socket[bytes]) -> None:
        """Nothing to say: the kernel does."""

    def admits(self, frame: zmq.Frame) -> bool:
        """Return whether the peer's user (``localhost:UID:GID:PID``) is ours."""
        try:
            found = str(frame.get("Peer-Address")).split(":")
        except zmq.ZMQError:
            return False
        return len(found) == 4 and found[1] == self._uid


def _socket_path(address: str) -> Path | None:
    """Return the path of an ``ipc://`` address, None for other transports; refuse what no socket can have."""
    if not address.startswith("ipc://"):
        return None
    path = address.removeprefix("ipc://")
    if not path.startswith("/"):
        raise BadOption(f"the address {address} is no ipc:// with an absolute path.")
    check_socket_path(path)
    return Path(path)


def _security(address: str, security: Security | None) -> Security:
    if security is not None:
        return security
    if not address.startswith("ipc://"):
        raise BadOption(f"the address {address} needs keys; without them only ipc:///absolute/path is served.")
    return SameUser()


# -- the node's side ----------------------------------------------------------------------------------------------------


class RouterEndpoint:
    """Where a node listens. Implements ``ports.Endpoint``; belongs to one thread.

    Parameters
    ----------
    address
        ``ipc:///path``. The folder of the socket is made 0700, the socket itself 0600.
    security
        Who may speak; default on ipc: the same user.

    Raises
    ------
    BadOption
        The path is too long, or the address needs keys.
    StateHeld
        Another process listens there (its ``pid`` is an attribute).
    StateError
        The folder cannot be made, or others may write to it.
    """

    def __init__(self, address: str, *, security: Security | None = None) -> None:
        self._path = _socket_path(address)
        self._security = _security(address, security)
        #: Messages that were dropped: garbage, or from a user who is not admitted.
        self.dropped = 0
        self._told: OrderedDict[bytes, None] = OrderedDict()
        self._closed = False
        if self._path is not None:
            private_folder(self._path.parent, variable="TRUN_RUNTIME_DIR")
            _free(self._path)
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        try:
            self._configure()
            self._security.guard(self._socket)
            self._socket.bind(address)
        except BaseException as error:
            self._socket.close(linger=0)
            self._context.term()
            if isinstance(error, zmq.ZMQError):
                raise ServiceUnavailable(f"cannot listen at {address}: {error.strerror}.") from error
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._inode = 0
        if self._path is not None:
            self._path.chmod(0o600)
            self._inode = self._path.stat().st_ino

    def _configure(self) -> None:
        socket = self._socket
        socket.setsockopt(zmq.LINGER, int(LINGER_S * 1000))
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES)
        # Sent entries are bounded by credit; a full receive queue only makes the sender wait.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Peers come with an id of their connection; one who picks the id of another must not take over (libzmq #778).
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        if self._path is None:
            socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
            socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)

    def fd(self) -> int:
        """Return the descriptor that becomes readable *once* when messages have come: receive until nothing is left."""
        return int(self._socket.getsockopt(zmq.FD))

    def receive(self) -> list[tuple[bytes, Sequence[AnyRequest]]]:
        """Return what has arrived, as (peer, requests); empty only when nothing is left. Never blocks."""
        batches: list[tuple[bytes, Sequence[AnyRequest]]] = []
        recv = self._socket.recv
        while len(batches) < BATCHES_AT_ONCE:
            try:
                peer = recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            frames = [recv(copy=False)]
            count = 1
            while frames[-1].more:
                frame = recv(copy=False)
                count += 1
                if count > MESSAGE_FRAMES:
                    frames = [frame]  # what is too much is not even kept
                else:
                    frames.append(frame)
            requests = self._read(peer, frames, count)
            if requests:
                batches.append((peer, requests))
        return batches

    def _read(self, peer: bytes, frames: list[zmq.Frame], count: int) -> list[AnyRequest]:
        """Return the requests of one message; none where it is garbage or from a stranger."""
        if not self._security.admits(frames[0]):
            self.dropped += 1
            return []
        try:
            if count > MESSAGE_FRAMES:
                raise BadOption(f"a message of {count} frames; at most {MESSAGE_FRAMES} are taken")
            requests = decode_requests(frames[0].bytes)
            for frame in frames[1:]:
                requests += decode_requests(frame.bytes)
        except Exception as error:  # nothing that a peer can send may end the service
            self._drop(peer, error)
            return []
        return requests

    def _drop(self, peer: bytes, error: Exception) -> None:
        self.dropped += 1
        if peer in self._told:
            return
        self._told[peer] = None
        if len(self._told) > 10_000:
            self._told.popitem(last=False)
        _log.warning("garbage on the socket was dropped peer=%s reason=%.200s", peer.hex(), error)
        info = ErrorInfo(type="trun.errors.ProtocolError", message=f"this is no message of trun: {error}"[:500])
        self.send(peer, [Answer(token="", error=info)])

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Send a batch; False when the peer is gone (or takes nothing any more)."""
        for data in _encode(answers):
            try:
                self._socket.send_multipart((peer, data), zmq.NOBLOCK, copy=len(data) < 65536)
            except zmq.ZMQError as error:
                if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    return False
                raise
        return True

    def close(self) -> None:
        """Send what is unsent (bounded), close the socket and remove its file; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._socket.close()
        self._context.term()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()


def _free(path: Path) -> None:
    """Remove a socket that nobody listens at any more; binding would take it from a living listener in silence."""
    with contextlib.closing(sockets.socket(sockets.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except OSError:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise BadOption(f"{path} exists and is no socket; choose another address.") from None
            path.unlink()
            return
        pid = 0
        if hasattr(sockets, "SO_PEERCRED"):
            credentials = probe.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, 12)
            pid = struct.unpack("3i", credentials)[0]
        raise held_by(path, Holder(pid=pid, since=path.stat().st_mtime))


def _encode(messages: Sequence[Message]) -> list[bytes]:
    """Return the batch as frames, none larger than it must be."""
    data = encode_batch(messages)
    if len(data) <= BATCH_BYTES or len(messages) < 2:
        return [data]
    half = len(messages) // 2
    return _encode(messages[:half]) + _encode(messages[half:])


# -- the client's side --------------------------------------------------------------------------------------------------


class _Wake:
    """Wakes a thread that waits in poll."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.fd = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write, False)

    def set(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        os.close(self.fd)
        if self._write != self.fd:
            os.close(self._write)


class Link:
    """A client's connection to a node: made again whenever it breaks.

    All work is done in one daemon thread, which the first ``send`` starts. While the connection is down, messages are held
    and sent after whatever the ``up`` callback sends; what was on its way when it broke may be lost, and is for the
    caller to say again.

    Parameters
    ----------
    address
        ``ipc:///path`` of the node.
    security
        How we introduce ourselves; default on ipc: the kernel does.

    Raises
    ------
    BadOption
        The path is too long, or the address needs keys.
    NotAuthorised
        The socket belongs to another user.
    """

    def __init__(self, address: str, *, security: Security | None = None) -> None:
        self.address = address
        self._path = _socket_path(address)
        self._security = _security(address, security)
        #: Batches that could not be read.
        self.dropped = 0
        self._pid = os.getpid()
        self._queue: deque[bytes] = deque()
        self._first: deque[bytes] = deque()
        self._take: Callable[[list[AnyAnswer]], None] = lambda answers: None
        self._tell: Callable[[str], None] = lambda state: None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake: _Wake | None = None
        self._asleep = False
        self._up = False
        self._greeting = False
        self._deadline: float | None = None
        self._closed = False
        self._check_owner()

    def _check_owner(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            owner = self._path.stat().st_uid
            if owner not in (os.getuid(), 0):
                raise NotAuthorised(f"the socket {self._path} belongs to the user with uid {owner}, not to you.")

    def on_messages(self, callback: Callable[[list[AnyAnswer]], None]) -> None:
        """Call this in the link's thread with the answers that have come, in order."""
        self._take = callback

    def on_state(self, callback: Callable[[str], None]) -> None:
        """Call this in the link's thread with ``up`` (each time anew) and ``down``."""
        self._tell = callback

    def send(self, messages: Sequence[AnyRequest]) -> None:
        """Send a batch, from any thread; returns at once.

        Raises
        ------
        UsageError
            The link was opened before a fork, in another process.
        ServiceUnavailable
            The link is closed.
        """
        if self._pid != os.getpid():
            raise UsageError("this connection was opened before a fork and cannot be used in the child; open one there.")
        if self._closed:
            raise ServiceUnavailable(f"the connection to {self.address} is closed.")
        frames = _encode(messages)
        if self._greeting and threading.current_thread() is self._thread:
            self._first.extend(frames)
        else:
            self._queue.extend(frames)
        if self._thread is None:
            self._start()
        elif self._asleep:
            self._asleep = False
            self._wake.set()  # type: ignore[union-attr]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._wake = _Wake()
                thread = threading.Thread(target=self._run, name="trun-link", daemon=True)
                self._thread = thread
                thread.start()

    def close(self, *, flush: bool = True, timeout: float = LINGER_S) -> None:
        """Close the connection; ``flush`` gives unsent messages up to ``timeout`` seconds. A second call does nothing."""
        if self._pid != os.getpid():
            return
        with self._lock:
            thread, self._closed = self._thread, True
            if self._deadline is None:
                self._deadline = time.monotonic() + (timeout if flush else 0.0)
        if thread is None or not thread.is_alive():
            return
        if thread is threading.current_thread():
            return
        assert self._wake is not None
        self._wake.set()
        thread.join(timeout + 1.0)

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        line = _Line(self.address, self._security)
        try:
            while self._turn(line):
                pass
        except Exception:
            _log.exception("the connection ended by a fault address=%s", self.address)
            self._report("down")
        finally:
            self._closed = True
            deadline = self._deadline or 0.0
            line.close(linger_s=max(0.0, deadline - time.monotonic()) if not self._queue else 0.0)
            if self._wake is not None:
                self._wake.close()

    def _turn(self, line: _Line) -> bool:
        """Do what there is to do, or wait; False at the end."""
        self._heed(line)
        busy = self._receive(line)
        if self._up:
            busy = self._flush(line) or busy
        deadline = self._deadline
        if deadline is not None and ((self._is_sent() and not busy) or time.monotonic() >= deadline):
            return False
        if not busy:
            self._asleep = True
            if (self._up and not self._is_sent()) or self._deadline is not deadline:
                self._asleep = False
                return True
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if line.wait(self._wake.fd, wait):  # type: ignore[union-attr]
                self._wake.clear()  # type: ignore[union-attr]
            self._asleep = False
        return True

    def _is_sent(self) -> bool:
        return not self._queue and not self._first

    def _heed(self, line: _Line) -> None:
        """Follow the connection's state."""
        for event in line.events():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED and not self._up:
                try:
                    self._check_owner()
                except NotAuthorised as error:
                    _log.error("%s", error)
                    continue
                self._up = self._greeting = True
                try:
                    self._report("up")
                finally:
                    self._greeting = False
            elif event == zmq.EVENT_DISCONNECTED and self._up:
                while self._receive(line):
                    pass
                # A new socket: what the old one has not sent must not come before the next greeting.
                line.reopen()
                self._up = False
                self._first.clear()
                self._report("down")
                return

    def _report(self, state: str) -> None:
        try:
            self._tell(state)
        except Exception:
            _log.exception("the callback for the connection's state failed state=%s", state)

    def _receive(self, line: _Line) -> bool:
        answers: list[AnyAnswer] = []
        frames = line.receive()
        for frame in frames:
            try:
                answers += decode_answers(frame)
            except Exception as error:
                self.dropped += 1
                _log.warning("garbage from the service was dropped address=%s reason=%.200s", self.address, error)
        if answers:
            try:
                self._take(answers)
            except Exception:
                _log.exception("the callback for messages failed")
        return bool(frames)

    def _flush(self, line: _Line) -> bool:
        frames: list[bytes] = []
        size = 0
        while len(frames) < FRAMES_AT_ONCE and size < BATCH_BYTES:
            queue = self._first or self._queue
            if not queue:
                break
            frame = queue.popleft()
            size += len(frame)
            frames.append(frame)
        if frames:
            line.send(frames)
        return bool(frames)


class _Line:
    """One DEALER with its monitor; belongs to the link's thread."""

    def __init__(self, address: str, security: Security) -> None:
        self._address = address
        self._security = security
        self._context = zmq.Context(io_threads=1)
        self._open()

    def _open(self) -> None:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
        if not self._address.startswith("ipc://"):
            socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
        self._security.introduce(socket)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        socket.connect(self._address)
        self._socket = socket
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._wake_fd = -1

    def events(self) -> list[int]:
        """Return what has happened to the connection."""
        found: list[int] = []
        while True:
            try:
                parts = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return found
            found.append(int(parse_monitor_message(parts)["event"]))

    def receive(self) -> list[bytes]:
        """Return the frames that have come, at most a few hundred messages' worth."""
        frames: list[bytes] = []
        for _ in range(FRAMES_AT_ONCE):
            try:
                frames += self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
        return frames

    def send(self, frames: list[bytes]) -> None:
        """Hand the frames to ZeroMQ as one message."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def wait(self, wake_fd: int, wait_s: float | None) -> bool:
        """Wait until something happens; True when it was ``wake_fd``."""
        if self._wake_fd != wake_fd:
            self._poller.register(wake_fd, zmq.POLLIN)
            self._wake_fd = wake_fd
        found = self._poller.poll(None if wait_s is None else int(wait_s * 1000) + 1)
        return any(what == wake_fd for what, _ in found)

    def reopen(self) -> None:
        """Drop the socket with all that it has not sent, and connect anew."""
        self._close(0)
        self._open()

    def _close(self, linger_ms: int) -> None:
        # The monitor first: a context with an open monitor never ends.
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)

    def close(self, *, linger_s: float) -> None:
        """Close, giving unsent messages ``linger_s`` seconds."""
        self._close(int(linger_s * 1000))
        self._context.term()


__all__ = ["Link", "RouterEndpoint", "SameUser", "Security"]
