"""Messages over ZeroMQ: the node's endpoint (ROUTER) and the client's link (DEALER).

One frame is one batch of messages (``core.codec``); a ZeroMQ message has one frame or more. Queues are not bounded by
high-water marks, which would drop or block, but by the credit that readers grant (``engine.streams``). Whoever speaks
is known by the transport, never by a field of a message: on ``ipc`` the kernel tells the user, and others are refused.
PUB/SUB was turned down: it loses entries in both of its ordinary ways and says so to nobody.

The only room that knows ``zmq``. It knows neither jobs nor sessions, and sends nothing again: what is resent after
a broken connection is decided above. Who may come in: whoever composes a node or a client; import it lazily.
Rule: one thread per socket; every wait is bounded; garbage is dropped and counted, and never answered more than
once.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Protocol

import zmq

from trun.adapters.folders import private_folder
from trun.adapters.keys import KEY_CHARS, z85
from trun.adapters.link import FRAMES_AT_ONCE, LINGER_S, Connection, encode_frames
from trun.adapters.reception import MESSAGE_FRAMES, Reception
from trun.adapters.sockets import free_socket, socket_path
from trun.adapters.system import user_id
from trun.errors import BadOption, MissingExtra, NotAuthorised, ServiceUnavailable
from trun.messages import AnyAnswer

_log = logging.getLogger(__name__)

#: Largest frame that a node takes; a larger one ends the connection.
FRAME_BYTES = 64 * 1024 * 1024
#: Seconds between heartbeats over the network, and of silence after which a connection is given up.
BEAT_S, SILENCE_S = 1.0, 2.5
#: Batches unread by a peer elsewhere.
UNREAD = 50_000
_REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
#: Messages that a client sends at most before it looks whether the connection still stands.
SENDS_UNASKED = 64


# -- addresses and who may speak --------------------------------------------------------------------------------------


class Security(Protocol):
    """Who may speak over a socket, and how strangers are kept out."""

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of a node's socket before it is bound."""
        ...

    def introduce(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of a client's socket before it is connected."""
        ...

    def who(self, frame: zmq.Frame) -> str | None:
        """Return who sent this frame: a public key, "" for the owner of the service, None for nobody we know."""
        ...


class SameUser:
    """Admits processes of the same user on the same machine; the kernel says who they are."""

    def __init__(self) -> None:
        self._uid = str(user_id())

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let the listener refuse other users at once."""
        socket.setsockopt(zmq.IPC_FILTER_UID, user_id())

    def introduce(self, socket: zmq.Socket[bytes]) -> None:
        """Nothing to say: the kernel does."""

    def who(self, frame: zmq.Frame) -> str | None:
        """Return "" where the peer's user (``localhost:UID:GID:PID``) is ours."""
        try:
            found = str(frame.get("Peer-Address")).split(":")
        except zmq.ZMQError:
            return None
        return "" if len(found) == 4 and found[1] == self._uid else None


class Curve:
    """Admits those who hold the secret of their public key, and says which key that is.

    CURVE with a ZAP handler of our own and an enforced domain: CURVE alone encrypts and lets everybody in. The handler
    admits every key that it is shown in order and tells the endpoint whose it is; what a key may do is asked for each
    message (``engine.gate``), since an open connection outlives a key that was removed.

    Parameters
    ----------
    secret, public
        Our own pair (40 characters each).
    server
        On the client's side: the public key that the node must hold.
    """

    def __init__(self, secret: str, public: str, *, server: str = "") -> None:
        if not zmq.has("curve"):
            raise MissingExtra(
                f"the ZeroMQ of this Python ({zmq.zmq_version()}) cannot encrypt, so it reaches no service over tcp; "
                "`pip install --force-reinstall --only-binary :all: pyzmq` gets one that can."
            )
        self._secret, self._public, self._server = secret.encode(), public.encode(), server.encode()

    def __repr__(self) -> str:
        return f"<curve {self._public.decode()}>"

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let nobody in who has no key, and start the handler that is asked about each connection."""
        handler = socket.context.socket(zmq.REP)
        handler.setsockopt(zmq.LINGER, 0)
        handler.bind("inproc://zeromq.zap.01")
        threading.Thread(target=_answer_zap, args=(handler,), name="trun-zap", daemon=True).start()
        socket.setsockopt(zmq.ZAP_DOMAIN, b"trun")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)

    def introduce(self, socket: zmq.Socket[bytes]) -> None:
        """Show our key, and speak to nobody but the holder of the server's."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)

    def who(self, frame: zmq.Frame) -> str | None:
        """Return the public key of the sender of this frame."""
        try:
            found = str(frame.get("User-Id"))
        except zmq.ZMQError:
            return None
        return found if len(found) == KEY_CHARS else None


def _answer_zap(handler: zmq.Socket[bytes]) -> None:
    """Answer the questions of libzmq about new connections (ZAP, ZeroMQ RFC 27), until the context ends."""
    with contextlib.suppress(zmq.ContextTerminated, zmq.ZMQError):
        while True:
            parts = handler.recv_multipart()
            version, request = (parts[0], parts[1]) if len(parts) > 1 else (b"1.0", b"")
            user = b""
            if len(parts) == 7 and version == b"1.0" and parts[5] == b"CURVE" and len(parts[6]) == 32:
                user = z85(parts[6]).encode()
            code, text = (b"200", b"OK") if user else (b"400", b"no key of trun")
            handler.send_multipart([b"1.0", request, code, text, user, b""])
    handler.close(0)


def _security(address: str, security: Security | None) -> Security:
    if security is not None:
        return security
    if not address.startswith("ipc://"):
        raise BadOption(f"the address {address} needs keys; without them only ipc:///absolute/path is served.")
    return SameUser()


def _beat(socket: zmq.Socket[bytes]) -> None:
    """Notice within four seconds that the other side is silent."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(BEAT_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(SILENCE_S * 1000))


# -- the node's side --------------------------------------------------------------------------------------------------


class RouterEndpoint(Reception):
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
        self._path = socket_path(address, bind=True)
        self._security = _security(address, security)
        super().__init__(is_own=isinstance(self._security, SameUser))
        self._closed = False
        if self._path is not None:
            private_folder(self._path.parent, variable="TRUN_RUNTIME_DIR")
            free_socket(self._path)
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        try:
            self._configure()
            self._security.guard(self._socket)
            self._socket.bind(address)
        except BaseException as error:
            self._end(0)
            if isinstance(error, zmq.ZMQError):
                raise ServiceUnavailable(
                    f"cannot listen at {address}: {error.strerror}. Choose a free port (0: any) of an address of this "
                    "machine, such as tcp://127.0.0.1:0."
                ) from error
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.addresses = (self.address,)
        self._inode = 0
        if self._path is not None:
            self._path.chmod(0o600)
            self._inode = self._path.stat().st_ino

    def _configure(self) -> None:
        socket = self._socket
        socket.setsockopt(zmq.LINGER, int(LINGER_S * 1000))
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES)
        # Sent entries are bounded by credit; of others than the owner, one with too much unread has gone.
        socket.setsockopt(zmq.SNDHWM, 0 if self._path is not None else UNREAD)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Peers come with an id of their connection; one who picks the id of another must not take over (libzmq #778).
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        if self._path is None:
            _beat(socket)
            socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
            # libzmq 4.3.5 ends the process when a peer whose queue is full goes and a heartbeat is due then.
            socket.setsockopt(zmq.RCVHWM, 0)
        # Of a lost peer the ROUTER tells by a failed send alone, and to many nothing is ever sent.
        socket.monitor("inproc://ends", zmq.EVENT_DISCONNECTED | zmq.EVENT_ACCEPTED | _REFUSED)
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect("inproc://ends")
        self._told_by = socket.fileno(), self._monitor.fileno(), self._wake.fd

    def gone(self) -> list[bytes]:
        """Return, once, the peers whose connections have ended. Nobody asks about them any more."""
        self._look_for_ends()
        if self._backlog is None:
            return self._peers.gone(lambda peer: False)
        self._peers.look()
        self._backlog.look()
        return self._gone_but_for(self._backlog)

    def _look_for_ends(self) -> None:
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:  # to receive in vain costs more
            event = self._monitor.recv_multipart(zmq.NOBLOCK)[0]
            kind, fd = (int.from_bytes(event[at], sys.byteorder) for at in (slice(0, 2), slice(2, 6)))
            if kind == zmq.EVENT_ACCEPTED:
                self._peers.accepted(fd)
            elif kind == zmq.EVENT_DISCONNECTED:
                self._peers.ended(fd)
            elif self._backlog is not None:  # at the owner's own socket the command looks whether somebody is there
                self.refused += 1

    def fds(self) -> list[int]:
        """Return descriptors that become readable *once* when something has come: receive until nothing is left."""
        return list(self._told_by)

    def _who(self, frame: zmq.Frame) -> str | None:
        return self._security.who(frame)

    def _fd(self, frame: zmq.Frame) -> int:
        self._look_for_ends()
        return int(frame.get(zmq.SRCFD))

    def _next(self) -> tuple[bytes, list[zmq.Frame], int] | None:
        recv = self._socket.recv
        try:
            peer = recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        frames = [recv(copy=False)]
        count = 1
        while frames[-1].more:
            frame = recv(copy=False)
            count += 1
            if count > MESSAGE_FRAMES:
                frames = [frame]  # what is too much is not even kept
            else:
                frames.append(frame)
        return peer, frames, count

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Send a batch; False when the peer is gone (or takes nothing any more)."""
        for data in encode_frames(answers):
            self._peers.sent(peer, len(data))
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
        self._end(None)
        with contextlib.suppress(OSError):
            if self._path is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _end(self, linger: int | None) -> None:
        self._wake.close()
        self._monitor.close(linger=0)  # the monitor first: a context with an open monitor never ends
        self._socket.disable_monitor()
        self._socket.close(linger=linger)
        self._context.term()


# -- the client's side -------------------------------------------------------------------------------------------------


class Link(Connection):
    """A client's connection to a node (see ``adapters.link.Connection``, which does all but speak ZeroMQ).

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
        self._path = socket_path(address)
        self._security = _security(address, security)
        super().__init__(address)
        self.check_peer()

    def check_peer(self) -> None:
        """Refuse a socket that another user has put there."""
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                if (owner := self._path.stat().st_uid) not in (user_id(), 0):
                    raise NotAuthorised(f"the socket {self._path} belongs to the user with uid {owner}, not to you.")

    def open_line(self) -> _Line:
        """Open the socket."""
        return _Line(self.address, self._security)


_UP, _DOWN = zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED


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
            _beat(socket)
        self._security.introduce(socket)
        self._monitor = socket.get_monitor_socket(_UP | _DOWN | _REFUSED)
        socket.connect(self._address)
        self._socket = socket
        # By descriptor: a poll asks each socket that it knows twice, and here nothing is left to read when we wait.
        self._fds = socket.fileno(), self._monitor.fileno()
        self._poller = zmq.Poller()
        self._poller.register(self._fds[0], zmq.POLLIN)
        self._poller.register(self._fds[1], zmq.POLLIN)
        self._wake_fd = -1
        # To ask in vain costs 10 to 20 us: a socket is asked when the poll saw something, or could have.
        self._ask_monitor = self._ask_socket = True
        self._unasked = 0

    def changes(self) -> list[str]:
        """Return what has happened to the connection: ``up``, ``down``, ``refused`` (no handshake)."""
        found: list[str] = []
        while self._ask_monitor:
            try:
                parts = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                self._ask_monitor = False
                break
            event = int.from_bytes(parts[0][:2], sys.byteorder)  # pyzmq's own parser would cost the import of asyncio
            self._ask_socket = True  # whatever has happened, what came before it is read before it counts
            found.append("up" if event & _UP else "refused" if event & _REFUSED else "down")
        return found

    def receive(self) -> list[bytes]:
        """Return the frames that have come, at most a few hundred messages' worth."""
        frames: list[bytes] = []
        while self._ask_socket and len(frames) < FRAMES_AT_ONCE:
            try:
                frames += self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                self._ask_socket = False
        return frames

    def send(self, frames: list[bytes]) -> None:
        """Hand the frames to ZeroMQ as one message."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)
        # Who sends without a pause does not poll.
        self._ask_socket = True
        self._unasked += 1
        if self._unasked >= SENDS_UNASKED:
            self._unasked, self._ask_monitor = 0, True

    def wait(self, wake_fd: int, wait_s: float) -> bool:
        """Wait until something happens; True when it was ``wake_fd``."""
        if self._wake_fd != wake_fd:
            self._poller.register(wake_fd, zmq.POLLIN)
            self._wake_fd = wake_fd
        wait_s = 0.0 if self._ask_socket or self._ask_monitor else wait_s
        found = dict(self._poller.poll(int(wait_s * 1000) + 1 if wait_s else 0))
        self._ask_socket = self._ask_socket or self._fds[0] in found
        self._ask_monitor = self._ask_monitor or self._fds[1] in found
        return wake_fd in found

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


__all__ = ["Curve", "Link", "RouterEndpoint", "SameUser", "Security"]
