"""The agent of one user: a small process that holds the key, so that scripts need not.

``python -m trun.daemons.agent``; people start it with ``trun agent start``. It listens at a Unix socket that only this
user can reach, asks the kernel who speaks, takes one line of JSON per request (``adapters.agency``), and renews the
tokens of waiting jobs. What it does with requests is in ``engine.wallet``.

Rule: it imports nothing that a request names, loads nothing pickled, forwards nothing to other hosts; whoever sends
what is no request is cut off without an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trun.adapters import agency, hiding, known
from trun.adapters.agency import LINE_BYTES, Reply, Where
from trun.adapters.folders import FolderLock, private_folder, state_folder
from trun.adapters.keys import KeyPair, from_z85, new_seed, user_key_file, write_seed
from trun.adapters.logline import begin_log
from trun.adapters.passphrases import is_locked, open_seed
from trun.adapters.wire import Curve, Link
from trun.engine.wallet import Wallet
from trun.errors import BadOption, ProtocolError, ServiceUnavailable, TrunError
from trun.service import Service

_log = logging.getLogger(__name__)

#: Clients that are served at the same time, and that wait; seconds that one may be silent.
CLIENTS, BACKLOG = 32, 128
SILENCE_S = 20.0
#: Seconds for which one more waits for one of them to go.
PATIENCE_S = 5.0
#: Seconds that a service may take to greet, and to answer.
GREET_S = 8.0
ANSWER_S = 15.0
#: Longest sleep between two looks at the clock, which may be set.
LOOK_S = 20.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run an agent until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="trun.daemons.agent", description=__doc__)
    parser.add_argument("--ready-fd", type=int, default=-1)
    options = parser.parse_args(argv)
    begin_log()
    missing = hiding.hide_process()
    for what in missing:
        _log.warning("not hidden: %s", what)
    try:
        server = Server(missing)
    except TrunError as error:
        facts = {name: value for name, value in vars(error).items() if isinstance(value, (int, float, str))}
        _ready(options.ready_fd, {"error": type(error).__name__, "message": str(error), "facts": facts})
        return 5
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: server.stop())
    _ready(options.ready_fd, {"pid": os.getpid(), "locked": server.wallet.listing()["locked"]})
    try:
        server.run()
    finally:
        server.close()
    return 0


def _ready(fd: int, facts: dict[str, object]) -> None:
    if fd >= 0:
        with contextlib.suppress(BrokenPipeError):
            os.write(fd, json.dumps(facts).encode() + b"\n")
        os.close(fd)
    elif "error" in facts:
        print(f"trun: {facts['message']}", file=sys.stderr)


class Server:
    """The socket of the agent, a thread for each client, and one for renewals."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        if not hasattr(socket, "SO_PEERCRED"):
            raise BadOption("the agent needs Linux, where a socket says who speaks; without it trun reads the key.")
        self._lock = FolderLock(agency.agent_folder())
        try:
            saved = private_folder(state_folder() / "agent", variable="TRUN_STATE_DIR") / "renewals.json"
            self.wallet = Wallet(
                unlock=unlock, find=find, connect=connect, now=time.time, saved=read(saved), save=partial(write, saved)
            )
            self._facts = {"pid": os.getpid(), "since": time.time(), "missing": list(missing)}
            if not is_locked(user_key_file()):
                self.wallet.handle(agency.Lock(locked=False))
            self.path = agency.socket_path()
            self._listener = _listen(self.path)
        except BaseException:
            self._lock.release()
            raise
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self.wallet.on_change = self._changed.set
        self._free = threading.BoundedSemaphore(CLIENTS)

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        threading.Thread(target=self._renew, name="trun-renew", daemon=True).start()
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down
                break
            if not self._free.acquire(timeout=PATIENCE_S):  # the rest wait in the kernel
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="trun-client", daemon=True).start()

    def stop(self) -> None:
        """End ``run`` soon; may be called in a signal handler."""
        self._stopping.set()
        self._changed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # accept() returns

    def close(self) -> None:
        """Remove the socket and drop all secrets."""
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.wallet.close()
        self._lock.release()

    def _renew(self) -> None:
        while not self._stopping.is_set():
            due = self.wallet.next_due()
            wait_s = LOOK_S if due is None else min(max(due - time.time(), 0.05), LOOK_S)
            self._changed.wait(wait_s)
            self._changed.clear()
            try:
                self.wallet.renew_due()
            except Exception:
                _log.exception("a renewal failed")

    # -- one client

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(SILENCE_S)
                _, uid = agency.peer(connection)
                if uid != os.getuid():
                    _log.warning("refused: uid=%s", uid)
                    return
                rest = b""
                while (found := _read_line(connection, rest)) is not None:
                    line, rest = found
                    connection.sendall(self._answered(line))
        except ProtocolError as error:
            _log.warning("cut off: %s", error)
        except OSError:
            pass
        finally:
            self._free.release()

    def _answered(self, line: bytes) -> bytes:
        request = agency.read_request(line)
        try:
            data: Any = self.wallet.handle(request)
        except TrunError as error:
            return agency.written(Reply(error=type(error).__name__, message=str(error)))
        except Exception as error:
            _log.exception("a request failed")
            words = f"a fault of the agent: {type(error).__name__}"
            return agency.written(Reply(error="InvariantError", message=words))
        if isinstance(request, agency.List):
            data = {**self._facts, **data}
        return agency.written(Reply(data=data))


def _read_line(connection: socket.socket, rest: bytes) -> tuple[bytes, bytes] | None:
    """Return the next line and what came after it; None at the end."""
    found = bytearray(rest)
    deadline = time.monotonic() + SILENCE_S
    while (end := found.find(b"\n")) < 0:
        if len(found) > LINE_BYTES or time.monotonic() > deadline:
            raise ProtocolError("a line that is too long, or comes too slowly.")
        piece = connection.recv(8192)
        if not piece:
            return None
        found += piece
    if end > LINE_BYTES:
        raise ProtocolError("a line that is too long.")
    return bytes(found[:end]), bytes(found[end + 1 :])


def _listen(path: Path) -> socket.socket:
    """Return a listening socket that only this user can reach; we hold the lock, so an old file is nobody's."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    return listener


# -- what the wallet needs of the world -------------------------------------------------------------------------------


def unlock(passphrase: str) -> KeyPair:
    """Read the user's keys; a user who has none gets them."""
    path = user_key_file()
    if not path.exists():
        write_seed(path, new_seed())
    return KeyPair(open_seed(path, passphrase))


def find(where: Where) -> Where:
    """Fill in address and key of a service that is named."""
    if not where.address:
        found = known.find(where.name)
        return Where(found.name, found.address, found.key)
    if where.key:
        from_z85(where.key)
    pinned = next((each for each in known.known_services() if each.address == where.address and each.key), None)
    if pinned is not None:
        if where.key and pinned.key != where.key:
            raise known.key_changed(pinned, where.key)
        return Where(pinned.name, pinned.address, pinned.key)
    if not where.key and not where.address.startswith("ipc://"):
        raise BadOption(f"the key of the service at {where.address} is needed.")
    return where


def read(path: Path) -> bytes:
    """Return what a file holds; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def write(path: Path, data: bytes) -> None:
    """Replace a file, whole or not at all; a full disk costs no token, only what a later agent would know."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        _log.warning("what is to be renewed cannot be kept: error=%s", error)


class Connection:
    """A connection of the agent to one service."""

    def __init__(self, where: Where, keys: KeyPair) -> None:
        if where.address.startswith("tcp://"):
            self._link = Link(where.address, security=Curve(keys.secret, keys.public, server=where.key))
        elif where.address.startswith("ipc://"):
            self._link = Link(where.address)
        else:
            raise BadOption(f"the agent reaches services at tcp:// and ipc://, not at {where.address}.")
        self._service = Service(name=where.name, address=where.address, detach=True)
        self._link.on_messages(self._service.heard)
        self._link.on_state(self._service.link_state)
        self._service.attach(self._link)
        try:
            welcome = self._service.wait_ready(GREET_S)
            if where.key and welcome.key != where.key:
                raise known.key_changed(known.Known(name=where.name, address=where.address, key=where.key), welcome.key)
        except BaseException:
            self.close()
            raise

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Ask a verb and return plain data."""
        return self._service.ask(verb, wait=ANSWER_S, **arguments)

    def close(self) -> None:
        """End the connection, without waiting."""
        self._service.closed = True
        self._service.give_up(ServiceUnavailable(f"the connection to {self._service.name} was closed."))
        self._link.close(flush=False)


def connect(where: Where, keys: KeyPair) -> Connection:
    """Open a connection."""
    return Connection(where, keys)


if __name__ == "__main__":
    sys.exit(main())
