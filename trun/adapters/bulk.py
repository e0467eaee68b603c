"""The port of a service for bulk data: who shows a ticket gets, or may leave, the bytes that it stands for.

What is above 1 MB does not go through the control channel. A client asks there and gets a ticket: random, for one
file or value, short-lived, good for a few connections (so that a broken transfer can go on). It is looked up here, and
says all: no name or path ever comes over this port. The protocol stands in ``transfer``.

One thread takes in connections: it shakes hands with all of them at once, reads one short line from each, and throws
out who has not said it within 5 s; of too many, the oldest from the busiest address goes first. Only a valid ticket
gets a thread of its own. So strangers cost at most a handshake and never hold up a transfer.

Who may come in: the node. Rule: nothing on this port is believed before its ticket is found; no file is mapped (one
that shrinks would kill the daemon); no call here waits for a network except in a transfer's own thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trun.adapters.certificate import certificate
from trun.adapters.parts import PIECE, new_digest, receiving
from trun.adapters.tickets import Content, Identity, Ticket, Tickets, size_and_identity
from trun.adapters.transfer import GREETING, LINE_BYTES, UNCHECKED, join_address
from trun.errors import BadOption, ServiceUnavailable, TransferRefused

_log = logging.getLogger(__name__)

PORT = "TRUN_BULK__PORT"
#: Files of which the digest is remembered; seconds for which one must not have changed for that.
_DIGESTS, _SETTLED_S = 4096, 2.0


def port_of(settings: Mapping[str, str]) -> int:
    """Return the port that the operator has chosen (``[bulk] port``, for firewalls); 0: any."""
    text = settings.get(PORT, "0")
    if not text.isdigit() or int(text) > 65535:
        raise BadOption(f"[bulk] port ({PORT}): {text!r} is no port; 0 means any.")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What strangers and holders of tickets may use up."""

    #: Seconds in which a connection has shaken hands and said what it wants.
    handshake_s: float = 5.0
    #: Seconds in which the next 256 kB must have gone through.
    silence_s: float = 60.0
    #: Connections that have not shown a ticket yet.
    strangers: int = 256
    #: Transfers at a time, of all and of one holder.
    transfers: int = 32
    per_holder: int = 16
    #: Bytes that are left free on the disk.
    reserve: int = 64 << 20


@dataclass(slots=True, eq=False)
class _Stranger:
    """A connection that has not shown a ticket yet."""

    sock: ssl.SSLSocket
    peer: str
    #: On the monotonic clock.
    deadline: float
    ready: bool = False
    line: bytearray = field(default_factory=bytearray)


class BulkServer:
    """The port; it works from the start until ``close``.

    Parameters
    ----------
    host
        Name or address to listen at.
    folder
        Where the certificate is kept (``STATE/keys``); made at the first start.
    port
        0: any.
    limits
        Bounds of everything.

    Attributes
    ----------
    address, fingerprint
        What clients are told: ``tls://host:port``, and the SHA-256 of the certificate.
    counts
        {what happened: how often}, for the service's status.
    """

    def __init__(self, host: str, folder: Path, *, port: int = 0, limits: Limits | None = None) -> None:
        shown = certificate(folder)
        self.fingerprint = shown.fingerprint
        self.counts: Counter[str] = Counter()
        self._limits = limits or Limits()
        self._tickets = Tickets()
        #: {file: digest} of files that have been sent whole.
        self._digests: dict[Identity | None, str] = {}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.load_cert_chain(shown.path)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=256)
        except OSError as error:
            raise ServiceUnavailable(f"cannot listen for bulk data at {host}:{port}: {error.strerror}.") from error
        self._listener.setblocking(False)
        self.address = join_address(host, self._listener.getsockname()[1])
        self._strangers: dict[_Stranger, None] = {}
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, tuple[ssl.SSLSocket, Ticket]] = {}
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._take_in, name="trun-bulk", daemon=True)
        self._thread.start()

    # -- for the node -------------------------------------------------------------------------------------------------

    def ticket(
        self,
        content: Content,
        *,
        size: int | None = None,
        digest: str = "",
        seconds: float = 600.0,
        uses: int = 8,
        holder: str = "",
    ) -> str:
        """Return a ticket for reading a file or a value.

        Parameters
        ----------
        content
            A path, bytes, or a function that opens the file and returns its descriptor (for confined folders); it is
            opened when the ticket is shown, and must then still be the file that it is now.
        size
            What it must have; None: what it has.
        digest
            Its BLAKE2b-256 where known; empty: computed while it is sent; ``transfer.UNCHECKED``: not wanted.
        seconds, uses
            How long it is good, and for how many connections.
        holder
            Whose it is (a key); see ``revoke``.

        Raises
        ------
        FileNotFoundError, PermissionError
            The file cannot be opened.
        Refused
            Too many tickets are about.
        """
        found, identity = size_and_identity(content)
        digest = digest or self._digests.get(identity, "")
        if size is not None and size != found:
            raise FileNotFoundError(f"{content!r} has {found} bytes in place of {size}.")
        made = Ticket(
            holder=holder,
            size=found,
            digest=digest,
            content=content,
            identity=identity,
            expires=time.monotonic() + seconds,
            uses=uses,
        )
        return self._tickets.add(made)

    def accept(
        self,
        target: Path,
        size: int,
        digest: str,
        *,
        seconds: float = 600.0,
        uses: int = 8,
        holder: str = "",
        then: Callable[[], None] | None = None,
    ) -> str:
        """Return a ticket for leaving ``size`` bytes in the file ``target``, whose folder exists.

        With a digest a broken transfer can go on, also with another ticket for the same target and digest; with
        ``transfer.UNCHECKED`` it starts anew. ``then`` is called in the transfer's thread once the file is durable.

        Raises
        ------
        Refused
            Too many tickets are about, or the disk has not so much space.
        """
        free = os.statvfs(target.parent)
        if size > free.f_bavail * free.f_frsize - self._limits.reserve:
            raise TransferRefused(f"there is no room for {size} bytes in {target.parent}.", reason="full")
        made = Ticket(
            holder=holder,
            size=size,
            digest=digest or UNCHECKED,
            target=target,
            then=then,
            expires=time.monotonic() + seconds,
            uses=uses,
        )
        return self._tickets.add(made)

    def known(self, ticket: str) -> tuple[int, str]:
        """Return size and digest (empty while unknown) of what a ticket for reading stands for."""
        found = self._tickets.find(ticket, "GET")
        return (found.size, found.digest) if found is not None else (0, "")

    def revoke(self, holder: str) -> int:
        """Make all tickets of a holder worthless, cut its transfers, and return how many tickets there were."""
        gone = self._tickets.revoke(holder)
        with self._lock:
            for sock, ticket in self._running.values():
                if ticket.holder == holder:
                    _hang_up(sock)
        return gone

    @property
    def is_busy(self) -> bool:
        """Whether there are tickets or transfers that could be revoked."""
        return bool(len(self._tickets) or self._running)

    def revoke_unless(self, stays: Callable[[str], bool]) -> None:
        """Revoke for every holder but those who stay, and those without a name."""
        with self._lock:
            holders = {ticket.holder for _, ticket in self._running.values()}
        for holder in holders | self._tickets.holders():
            if holder and not stays(holder):
                self.revoke(holder)

    def close(self) -> None:
        """Stop listening and cut all transfers; parts of files stay for the next time. A second call does nothing."""
        if self._closing:
            return
        self._closing = True
        self._wake.send(b"x")
        self._thread.join()
        with self._lock:
            running = list(self._running.items())
        for thread, (sock, _) in running:
            _hang_up(sock)
            thread.join()
        self._selector.close()
        for one in (self._listener, self._wake, self._woken):
            one.close()

    # -- taking in ----------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        while not self._closing:
            pause = min((one.deadline for one in self._strangers), default=None)
            timeout = None if pause is None else max(pause - time.monotonic(), 0.0)
            for key, _ in self._selector.select(timeout):
                if key.fileobj is self._listener:
                    self._accept_all()
                elif key.fileobj is not self._woken and key.data in self._strangers:
                    self._hear(key.data)
            now = time.monotonic()
            for stranger in [one for one in self._strangers if one.deadline <= now]:
                self._throw_out(stranger, "silent")
        for stranger in list(self._strangers):
            self._throw_out(stranger, "closed")

    def _accept_all(self) -> None:
        for _ in range(64):  # then the others have their turn
            try:
                bare, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # most of all: no descriptor is left
                _log.warning("cannot take in a connection for bulk data: %s", error)
                if self._strangers:
                    self._throw_out_oldest()
                else:
                    time.sleep(0.05)
                return
            if len(self._strangers) >= self._limits.strangers:
                self._throw_out_oldest()
            try:
                bare.setblocking(False)
                bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock = self._context.wrap_socket(bare, server_side=True, do_handshake_on_connect=False)
            except OSError:
                bare.close()
                continue
            stranger = _Stranger(sock, str(peer[0]), time.monotonic() + self._limits.handshake_s)
            self._strangers[stranger] = None
            self._selector.register(sock, selectors.EVENT_READ, stranger)

    def _throw_out_oldest(self) -> None:
        busiest = Counter(one.peer for one in self._strangers).most_common(1)[0][0]
        self._throw_out(next(one for one in self._strangers if one.peer == busiest), "crowded out")

    def _throw_out(self, stranger: _Stranger, why: str) -> None:
        self.counts[why] += 1
        self._forget(stranger)
        stranger.sock.close()

    def _forget(self, stranger: _Stranger) -> None:
        del self._strangers[stranger]
        self._selector.unregister(stranger.sock)

    def _hear(self, stranger: _Stranger) -> None:
        """Go on with the handshake, or with the line that follows."""
        try:
            if not stranger.ready:
                stranger.sock.do_handshake()
                stranger.ready = True
            while not stranger.line.endswith(b"\n"):  # byte by byte: what follows belongs to the transfer
                byte = stranger.sock.recv(1)
                if not byte or len(stranger.line) >= LINE_BYTES:
                    self._throw_out(stranger, "garbage")
                    return
                stranger.line += byte
        except ssl.SSLWantReadError:
            self._selector.modify(stranger.sock, selectors.EVENT_READ, stranger)
            return
        except ssl.SSLWantWriteError:
            self._selector.modify(stranger.sock, selectors.EVENT_WRITE, stranger)
            return
        except (OSError, ValueError):
            self._throw_out(stranger, "garbage")
            return
        self._forget(stranger)
        self._begin(stranger.sock, bytes(stranger.line))

    # -- transfers ----------------------------------------------------------------------------------------------------

    def _begin(self, sock: ssl.SSLSocket, line: bytes) -> None:
        way, text, offset = _read_request(line)
        with self._lock:
            ticket = self._tickets.find(text, way) if way else None
            if ticket is None:
                refusal = "ticket" if way else "words"
            elif len(self._running) >= self._limits.transfers or self._held_by(ticket) >= self._limits.per_holder:
                refusal = "busy"
            else:
                self._tickets.use(text)
                if self._started(sock, ticket, offset):
                    return
                refusal = "busy"
        self.counts[refusal] += 1
        with contextlib.suppress(OSError, ValueError):
            sock.send(b"NO %s\n" % refusal.encode())
        sock.close()

    def _started(self, sock: ssl.SSLSocket, ticket: Ticket, offset: int) -> bool:
        thread = threading.Thread(target=self._run, args=(sock, ticket, offset), name="trun-transfer", daemon=True)
        self._running[thread] = sock, ticket
        try:
            thread.start()
        except RuntimeError as error:  # the system gives us no more threads
            del self._running[thread]
            _log.warning("cannot begin a transfer: %s", error)
            return False
        return True

    def _held_by(self, ticket: Ticket) -> int:
        return sum(other.holder == ticket.holder for _, other in self._running.values())

    def _run(self, sock: ssl.SSLSocket, ticket: Ticket, offset: int) -> None:
        """Carry out one transfer; the thread of it."""
        begin = time.monotonic()
        outcome = "failed"
        try:
            sock.settimeout(self._limits.silence_s)
            if ticket.target is None:
                self._note(ticket, _send(sock, ticket, offset))
            else:
                _receive(sock, ticket, ticket.target)
            outcome = "done"
        except TransferRefused as error:
            outcome = error.reason
            _refuse(sock, error.reason)
        except (OSError, ValueError) as error:
            outcome = "broken"
            _log.info("transfer broke off way=%s holder=%s: %s", ticket.way, ticket.holder, error)
        except Exception:
            _log.exception("transfer failed way=%s holder=%s", ticket.way, ticket.holder)
            _refuse(sock, "failed")
        finally:
            sock.close()
            with self._lock:
                self.counts[outcome] += 1
                del self._running[threading.current_thread()]
        _log.info(
            "transfer %s way=%s holder=%s size=%d seconds=%.3f",
            *(outcome, ticket.way, ticket.holder, ticket.size, time.monotonic() - begin),
        )

    def _note(self, ticket: Ticket, digest: str) -> None:
        """Remember the digest of a file, unless a change right now could leave its time as it is."""
        if not digest:
            return
        ticket.digest = digest
        if ticket.identity is None or ticket.identity[3] > (time.time() - _SETTLED_S) * 1e9:
            return
        if len(self._digests) >= _DIGESTS:
            self._digests.pop(next(iter(self._digests)))
        self._digests[ticket.identity] = digest


def _read_request(line: bytes) -> tuple[str, str, int]:
    """Return way, ticket and offset of a request; an empty way where it is none."""
    words = line.decode("ascii", "replace").split()
    if len(words) != 4 or words[0].encode() != GREETING or words[1] not in ("GET", "PUT"):
        return "", "", 0
    if not words[3].isdigit() or len(words[3]) > 18:
        return "", "", 0
    return words[1], words[2], int(words[3])


def _refuse(sock: ssl.SSLSocket, reason: str) -> None:
    """Say no, and hear the other side out for a moment: hanging up on what it still sends would swallow the word."""
    with contextlib.suppress(OSError, ValueError):
        sock.settimeout(1.0)
        sock.sendall(b"NO %s\n" % reason.encode())
        until = time.monotonic() + 1.0
        while time.monotonic() < until and sock.recv(PIECE):
            pass


def _hang_up(sock: ssl.SSLSocket) -> None:
    """Cut a connection that another thread is using: its own ``shutdown`` would go on without encryption first."""
    with contextlib.suppress(OSError, ValueError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _send(sock: ssl.SSLSocket, ticket: Ticket, offset: int) -> str:
    """Send what a ticket stands for, from ``offset`` on, and return the digest where it was computed."""
    if offset > ticket.size:
        raise TransferRefused(reason="offset")
    digest = None if ticket.digest else new_digest()
    with ticket.opened() as read:
        sock.sendall(b"OK %d %s\n" % (ticket.size, (ticket.digest or UNCHECKED).encode()))
        position = 0 if digest is not None else offset
        while position < ticket.size:
            piece = read(position)
            if not piece.nbytes:  # no word can be said in the middle of the bytes
                raise ConnectionAbortedError("the file was cut off while it was sent")
            if digest is not None:
                digest.update(piece)
            start = max(offset - position, 0)
            position += piece.nbytes
            if start < piece.nbytes:
                sock.sendall(piece[start:])
    found = ticket.digest if digest is None else digest.hexdigest()
    sock.sendall(b"END %s\n" % found.encode())
    return "" if digest is None else found


def _receive(sock: ssl.SSLSocket, ticket: Ticket, target: Path) -> None:
    """Take what comes into a file."""
    checked = ticket.digest != UNCHECKED
    try:
        with receiving(target, ticket.digest if checked else "", checked=checked) as part:
            if part.size > ticket.size:
                part.restart()
            sock.sendall(b"OK %d %s\n" % (part.size, ticket.digest.encode()))
            part.begin(ticket.size)
            while part.size < ticket.size:
                wanted = part.room(ticket.size - part.size)
                count = 0
                try:
                    while count < len(wanted):
                        arrived = sock.recv_into(wanted[count:])
                        if not arrived:
                            raise ConnectionResetError("the other side hung up")
                        count += arrived
                finally:
                    part.filled(count)
            if checked and part.digest() != ticket.digest:
                part.drop()
                raise TransferRefused(reason="digest")
            part.finish()
    except (ConnectionError, TimeoutError, ssl.SSLError):
        raise
    except OSError as error:
        _log.warning("cannot write %s: %s", target, error)
        raise TransferRefused(reason="full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "failed") from error
    if ticket.then is not None:
        ticket.then()
    sock.sendall(b"END %s\n" % ticket.digest.encode())


__all__ = ["BulkServer", "Limits", "port_of"]
