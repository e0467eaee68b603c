"""The agent as its clients see it: where its socket lies, the five verbs, and how one is asked.

One line of JSON each way per request, over a Unix socket that only this user can reach; both sides ask the kernel who
the other is. Requests are plain data of fixed types with size caps. There is no way to read the user's key.

Does not know what the agent does (``engine.wallet``) or how it listens (``services/agent.py``). Who may come in: the
composition rooms, the command line, the agent. Rule: without an agent everything works; ``running()`` is then None.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import trun.errors as errors
from trun.adapters.folders import check_socket_path, private_folder, runtime_folder
from trun.adapters.keys import KeyPair, user_key_file, user_keys
from trun.adapters.passphrases import is_locked, open_seed
from trun.errors import NotAuthorised, ProtocolError, ServiceUnavailable, StateError

#: Bytes of a line, either way, and seconds that an answer may take.
LINE_BYTES = 64 * 1024
ANSWER_S = 40.0


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service: its name among the known ones, or its address and key."""

    name: str
    address: str = ""
    #: CURVE key that it must hold (40 characters); empty on the user's own ipc socket.
    key: str = ""


class Renewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A waiting job whose token is to be renewed until it has no more use for it."""

    #: The service that has the job, and gets the new tokens.
    service: Where
    #: uid of the job.
    job: str


class Verb(msgspec.Struct, frozen=True, tag_field="verb", forbid_unknown_fields=True):
    """A request."""


class List(Verb, frozen=True, tag="list"):
    """Say what the agent holds, without secrets."""


class Session(Verb, frozen=True, tag="session"):
    """Make a key that lives for some hours and is registered at one service."""

    service: Where


class Attenuate(Verb, frozen=True, tag="attenuate"):
    """Have a service mint a token, and narrow it for a holder."""

    service: Where
    #: CURVE key of who is to present it.
    holder: str
    ops: tuple[str, ...]
    res: tuple[str, ...]
    #: Seconds since the epoch, UTC.
    expires: float
    renew: Renewal | None = None


class Forget(Verb, frozen=True, tag="forget"):
    """Drop sessions, tokens, renewals and the connection of one service (its name or key)."""

    service: str


class Lock(Verb, frozen=True, tag="lock"):
    """Drop the secrets, or read them again with a passphrase (empty: the key file has none)."""

    locked: bool = True
    passphrase: str = ""


AnyVerb = List | Session | Attenuate | Forget | Lock


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a request."""

    data: Any = None
    #: Name of a class in ``trun.errors``; empty: all is well.
    error: str = ""
    message: str = ""


_requests: msgspec.json.Decoder[AnyVerb] = msgspec.json.Decoder(AnyVerb)
_replies = msgspec.json.Decoder(Reply)


def read_request(line: bytes) -> AnyVerb:
    """Return the request of a line.

    Raises
    ------
    ProtocolError
        It is none.
    """
    try:
        return _requests.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ProtocolError(f"no request of an agent: {type(error).__name__}.") from None


def written(message: AnyVerb | Reply) -> bytes:
    """Return a request or a reply as a line."""
    return msgspec.json.encode(message) + b"\n"


# -- where, and who ---------------------------------------------------------------------------------------------------


def agent_folder() -> Path:
    """Return the folder of the agent's socket and lock: nobody else can so much as look into it."""
    folder = private_folder(runtime_folder() / "agent", variable="TRUN_RUNTIME_DIR")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise StateError(f"others may look into the folder {folder}; run `chmod 700 {folder}`.", path=str(folder))
    return folder


def socket_path() -> Path:
    """Return the path of the agent's socket."""
    path = agent_folder() / "agent.sock"
    check_socket_path(str(path))
    return path


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process at the other end, as the kernel says."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


# -- asking -----------------------------------------------------------------------------------------------------------


class Agent:
    """A running agent.

    Parameters
    ----------
    path
        Its socket.
    pid
        Its process.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self.path = path
        self.pid = pid

    def __repr__(self) -> str:
        return f"<trun agent, process {self.pid}>"

    def ask(self, request: AnyVerb, *, timeout_s: float = ANSWER_S) -> Any:
        """Ask and return plain data.

        Raises
        ------
        ServiceUnavailable
            The agent has gone or does not answer.
        TrunError
            Whatever the agent or the service that it asked said.
        """
        line = written(request)
        if len(line) > LINE_BYTES:
            raise errors.BadOption(f"a request to the agent has at most {LINE_BYTES} bytes.")
        try:
            with _connected(self.path, timeout_s) as connection:
                connection.sendall(line)
                answer = _line(connection)
        except errors.TrunError:
            raise
        except OSError as error:
            raise ServiceUnavailable(f"the agent (process {self.pid}) does not answer: {error}.") from error
        try:
            reply = _replies.decode(answer)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ServiceUnavailable(f"the agent (process {self.pid}) went away without an answer.") from error
        if reply.error:
            raise _error(reply)
        return reply.data


def _error(reply: Reply) -> errors.TrunError:
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.TrunError):
        return kind(reply.message)
    return errors.RemoteError(reply.message)


def _connected(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Blocking, within limits: with a timeout of Python's own a full queue is an error at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout_s) + 1, 0))
        connection.connect(str(path))
        connection.settimeout(timeout_s)
        _, uid = peer(connection)
        if uid != os.getuid():
            raise NotAuthorised(f"the socket {path} is served by the user with uid {uid}: nothing was said to it.")
    except BlockingIOError:
        connection.close()
        raise ServiceUnavailable(f"the agent at {path} is too busy to answer.") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _line(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) <= LINE_BYTES:
        piece = connection.recv(LINE_BYTES)
        if not piece:
            break
        found += piece
    return found


def keys_for(where: Where) -> KeyPair:
    """Return the keys with which this process speaks to a service: a session of the agent's, else the user's own.

    Raises
    ------
    TrunError
        The agent gives none, and the key file cannot be read without a passphrase.
    """
    agent = running()
    if agent is None and not is_locked(user_key_file()):
        return user_keys()
    try:
        if agent is None:
            raise _needs_passphrase(user_key_file())
        return KeyPair(bytes.fromhex(agent.ask(Session(where))["seed"]))
    except errors.TrunError:
        if is_locked(user_key_file()):
            raise
        return user_keys()  # a service that knows no sessions


def public_key() -> str:
    """Return the public half of this user's key, which is made where there is none; no passphrase is needed."""
    path = user_key_file()
    if not is_locked(path):
        return user_keys().public
    agent = running()
    held = str(agent.ask(List()).get("key") or "") if agent is not None else ""
    with contextlib.suppress(OSError, IndexError):
        held = held or path.with_name("id.pub").read_text().split()[1]
    if not held:
        raise _needs_passphrase(path)
    return held


def own_keys(typed: Callable[[str], str]) -> KeyPair:
    """Return this user's own keys, with the passphrase that ``typed(prompt)`` gives where the file needs one."""
    path = user_key_file()
    return KeyPair(open_seed(path, typed(f"Passphrase of {path}: "))) if is_locked(path) else user_keys()


def _needs_passphrase(path: Path) -> NotAuthorised:
    return NotAuthorised(f"the key {path} needs its passphrase; `trun agent start` asks for it.")


def running() -> Agent | None:
    """Return the agent of this user on this machine, or None."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    path = socket_path()
    if not path.exists():
        return None
    with contextlib.suppress(ConnectionError, FileNotFoundError), _connected(path, 5.0) as connection:
        return Agent(path, peer(connection)[0])
    return None
