"""What the agent holds and does: the user's keys, sessions and tokens, and the renewal of tokens of waiting jobs.

The five verbs of ``adapters.agency`` are methods here. Each asks a service over the agent's own connection; the key
signs only links of tokens, and no verb gives it out. What was lent is remembered by its ids, never as tokens.

Knows no sockets and starts no threads (``services/agent.py`` does); connections come from a function that it is given.
Methods may be called from any thread; no lock is held while a service is asked. Rule: nothing pickled is ever loaded
here, no library is named by a request, and a reply never holds what a later request could not ask for anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from trun.adapters import tokens
from trun.adapters.agency import AnyVerb, Attenuate, Forget, List, Lock, Renewal, Session, Where
from trun.adapters.keys import KeyPair, new_seed
from trun.core.scopes import operations, resources
from trun.errors import BadOption, NotAuthorised, RemoteError, ServiceUnavailable, TrunError

_log = logging.getLogger(__name__)

#: Seconds that a session key lives, and before its end from which on a new one is made.
SESSION_S = 12 * 3600.0
SESSION_SPARE_S = 3600.0
#: A token is renewed when this part of its life is left, and at the latest so many seconds before its end.
SPARE_PART = 0.25
SPARE_S = 30.0
#: Seconds after which a failed renewal is tried again: first, and at most.
RETRY_S, RETRY_MOST_S = 5.0, 60.0
#: Sessions, renewals and notes on what was lent that are kept, at most.
MOST = 1000


class Asks(Protocol):
    """A connection to a service."""

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Ask a verb and return plain data."""
        ...

    def close(self) -> None:
        """End the connection, without waiting."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    seed: bytes
    key: str
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lent:
    service: str
    holder: str
    ops: tuple[str, ...]
    res: tuple[str, ...]
    expires: float
    ids: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        return {
            "service": self.service, "holder": self.holder, "ops": list(self.ops), "res": list(self.res),
            "expires": self.expires, "ids": list(self.ids),
        }  # fmt: skip


class _Renewing(msgspec.Struct, frozen=True, kw_only=True):
    wanted: Attenuate
    renewal: Renewal
    #: Seconds that each token lives.
    life_s: float
    #: Seconds since the epoch: end of the present token, and when to make the next.
    expires: float
    due: float
    failures: int = 0

    def plain(self) -> dict[str, Any]:
        return {
            "service": self.wanted.service.name, "to": self.renewal.service.name, "job": self.renewal.job,
            "res": list(self.wanted.res), "expires": self.expires, "next": self.due, "failures": self.failures,
        }  # fmt: skip


class Wallet:
    """What one user's agent holds.

    Parameters
    ----------
    unlock
        Reads the user's keys with a passphrase (empty: there is none).
    find
        Fills in address and key of a service that is known by name; raises ``UnknownName`` where it is not.
    connect
        Opens a connection to a service with these keys.
    now
        The time: seconds since the epoch, UTC.
    saved
        What ``save`` was given last, perhaps by an agent before this one.
    save
        Keeps what is to be renewed; it holds no secrets.
    """

    def __init__(
        self,
        *,
        unlock: Callable[[str], KeyPair],
        find: Callable[[Where], Where],
        connect: Callable[[Where, KeyPair], Asks],
        now: Callable[[], float],
        saved: bytes = b"",
        save: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        self._unlock, self._find, self._connect, self._now = unlock, find, connect, now
        self._lock = threading.RLock()
        self._keys: KeyPair | None = None
        self._connections: dict[Where, Asks] = {}
        self._sessions: dict[Where, _Session] = {}
        self._lent: list[_Lent] = []
        self._save = save
        self._renewing = {_name(each): each for each in _read(saved) if each.expires + tokens.SKEW_S > now()}
        #: Called after a renewal was added, so that whoever waits for the next one counts anew.
        self.on_change: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return "<wallet>"

    def handle(self, request: AnyVerb) -> Any:
        """Carry out a request and return plain data."""
        if isinstance(request, List):
            return self.listing()
        if isinstance(request, Session):
            return self.session(request.service)
        if isinstance(request, Attenuate):
            return self.attenuate(request)
        if isinstance(request, Forget):
            return self.forget(request.service)
        return self.lock(request)

    # -- the verbs

    def listing(self) -> dict[str, Any]:
        """Return what is held, without secrets."""
        with self._lock:
            self._tidy()
            return {
                "locked": self._keys is None,
                "key": "" if self._keys is None else self._keys.public,
                "sessions": [
                    {"service": where.name, "key": found.key, "expires": found.expires}
                    for where, found in self._sessions.items()
                ],
                "lent": [lent.plain() for lent in self._lent],
                "renewing": [each.plain() for each in self._renewing.values()],
            }

    def session(self, service: Where) -> dict[str, Any]:
        """Return a key pair that one service takes for the user's until it expires."""
        self._needed()
        where = self._find(service)
        with self._lock:
            self._tidy()
            known = self._sessions.get(where)
        if known is None or known.expires - SESSION_SPARE_S < self._now():
            seed = new_seed()
            made = _Session(seed=seed, key=KeyPair(seed).public, expires=float(int(self._now() + SESSION_S)))
            self._ask(where, "session", key=made.key, expires=made.expires)
            with self._lock:
                self._needed()
                self._sessions[where] = known = made
        return {"seed": known.seed.hex(), "key": known.key, "expires": known.expires, "user": self._needed().public}

    def attenuate(self, wanted: Attenuate) -> dict[str, Any]:
        """Return a token for a holder, and see to its renewal if that is asked for."""
        self._needed()
        wanted = msgspec.structs.replace(wanted, service=self._find(wanted.service))
        life_s = wanted.expires - self._now()
        if not 0 < life_s <= 10 * 366 * 24 * 3600:
            raise BadOption("the token would have ended already, or end never.")
        if wanted.renew is not None:
            with self._lock:
                if len(self._renewing) >= MOST:
                    raise BadOption(f"the agent renews at most {MOST} tokens; `trun agent list` shows them.")
        token, lent = self._made(wanted)
        if wanted.renew is not None:
            renewal = Renewal(service=self._find(wanted.renew.service), job=wanted.renew.job)
            self._keep(
                _Renewing(
                    wanted=wanted,
                    renewal=renewal,
                    life_s=life_s,
                    expires=lent.expires,
                    due=_due(self._now(), lent.expires),
                )
            )
            self.on_change()
        return {"token": token, "expires": lent.expires, "ids": list(lent.ids)}

    def forget(self, service: str) -> dict[str, int]:
        """Drop all that concerns one service."""
        with self._lock:
            found = [where for where in {*self._sessions, *self._connections} if service in (where.name, where.key)]
            names = {service, *(where.name for where in found)}
            for where in found:
                self._sessions.pop(where, None)
            gone = [self._connections.pop(where) for where in found if where in self._connections]
            before = len(self._lent) + len(self._renewing)
            self._lent = [lent for lent in self._lent if lent.service not in names]
            self._renewing = {
                key: each
                for key, each in self._renewing.items()
                if each.wanted.service.name not in names and each.renewal.service.name not in names
            }
            after = len(self._lent) + len(self._renewing)
            self._write()
        for connection in gone:
            _close(connection)
        return {"forgotten": len(found) + before - after}

    def lock(self, request: Lock) -> dict[str, bool]:
        """Drop all secrets, or read the keys again."""
        if not request.locked:
            keys = self._unlock(request.passphrase)
            with self._lock:
                self._keys = keys
            self.on_change()
            return {"locked": False}
        with self._lock:
            self._keys = None
            self._sessions.clear()
            gone = list(self._connections.values())
            self._connections.clear()
        for connection in gone:
            _close(connection)
        return {"locked": True}

    # -- renewing

    def next_due(self) -> float | None:
        """Return when the next token is to be renewed (seconds since the epoch), or None."""
        with self._lock:
            return min((each.due for each in self._renewing.values()), default=None)

    def renew_due(self) -> int:
        """Renew what is due and return how many were renewed."""
        with self._lock:
            due = [each for each in self._renewing.values() if each.due <= self._now()]
        return sum(self._renew(each) for each in due)

    def _renew(self, each: _Renewing) -> bool:
        job = each.renewal.job
        try:
            expires = self._now() + each.life_s
            token, lent = self._made(msgspec.structs.replace(each.wanted, expires=expires))
            answer = self._ask(each.renewal.service, "renew", job=job, token=token)
        except (ServiceUnavailable, NotAuthorised) as error:
            # Locked, not reachable, not allowed at the moment: worth another try as long as the job still waits for it.
            if self._now() > each.expires + tokens.SKEW_S:
                _log.warning("token expired before it was renewed: job=%s error=%s", job, error)
                self._drop(each)
                return False
            pause = min(RETRY_S * 2**each.failures, RETRY_MOST_S)
            self._keep(msgspec.structs.replace(each, due=self._now() + pause, failures=each.failures + 1))
            _log.info("renewal failed: job=%s error=%s", job, error)
            return False
        except TrunError as error:
            _log.info("renewal ended: job=%s error=%s", job, error)
            self._drop(each)
            return False
        if isinstance(answer, dict) and answer.get("done"):
            _log.info("renewal no longer needed: job=%s", job)
            self._drop(each)
            return False
        self._keep(msgspec.structs.replace(each, expires=lent.expires, due=_due(self._now(), lent.expires), failures=0))
        _log.info("token renewed: job=%s id=%s", job, lent.ids[-1])
        return True

    def _keep(self, each: _Renewing) -> None:
        with self._lock:
            self._renewing[_name(each)] = each
            self._write()

    def _drop(self, each: _Renewing) -> None:
        with self._lock:
            self._renewing.pop(_name(each), None)
            self._write()

    def _write(self) -> None:
        self._save(msgspec.json.encode(list(self._renewing.values())))

    # -- the services

    def _made(self, wanted: Attenuate) -> tuple[str, _Lent]:
        keys = self._needed()
        ops, res = operations(wanted.ops), resources(wanted.res)
        asked = {"next": keys.verify, "holder": keys.public, "ops": list(ops), "res": list(res)}
        answer = self._ask(wanted.service, "mint", expires=wanted.expires, **asked)
        token = narrowed(answer, keys, holder=wanted.holder, ops=ops, res=res, expires=wanted.expires)
        links = tokens.inspect(token)
        lent = _Lent(
            service=wanted.service.name,
            holder=wanted.holder,
            ops=ops,
            res=res,
            expires=float(links[-1]["exp"]),
            ids=tokens.ids(token),
        )
        with self._lock:
            self._tidy()
            self._lent = [*self._lent[-MOST + 1 :], lent]
        return token, lent

    def _needed(self) -> KeyPair:
        keys = self._keys
        if keys is None:
            raise NotAuthorised("the agent is locked; `trun agent start` unlocks it.")
        return keys

    def _ask(self, where: Where, verb: str, **arguments: Any) -> Any:
        keys = self._needed()
        with self._lock:
            connection = self._connections.get(where)
        if connection is None:
            connection = self._connect(where, keys)
            with self._lock:
                if self._keys is not keys:  # locked in the meantime
                    _close(connection)
                    self._needed()
                known = self._connections.setdefault(where, connection)
            if known is not connection:
                _close(connection)
                connection = known
        try:
            return connection.ask(verb, **arguments)
        except ServiceUnavailable:
            with self._lock:
                if self._connections.get(where) is connection:
                    del self._connections[where]
            _close(connection)
            raise

    def _tidy(self) -> None:
        now = self._now()
        self._lent = [lent for lent in self._lent if lent.expires + tokens.SKEW_S >= now]
        self._sessions = {where: found for where, found in self._sessions.items() if found.expires > now}

    def close(self) -> None:
        """Drop everything."""
        self.lock(Lock())


def narrowed(
    answer: Any, keys: tokens.Signer, *, holder: str, ops: tuple[str, ...], res: tuple[str, ...], expires: float
) -> str:
    """Return the token that a service minted, narrowed and bound to its holder.

    Raises
    ------
    RemoteError
        The service answered with something else.
    """
    token = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(token, str):
        raise RemoteError("the service was asked for a token and answered with something else.")
    return tokens.attenuate(token, keys, holder=holder, ops=ops, res=res, expires=expires)


def _name(each: _Renewing) -> tuple[str, str, tuple[str, ...]]:
    return (each.renewal.job, each.wanted.service.name, each.wanted.res)


def _read(saved: bytes) -> list[_Renewing]:
    try:
        return msgspec.json.decode(saved, type=list[_Renewing]) if saved else []
    except (msgspec.MsgspecError, RecursionError) as error:
        _log.warning("what was to be renewed cannot be read: error=%s", error)
        return []


def _due(now: float, expires: float) -> float:
    life_s = expires - now
    return expires - max(life_s * SPARE_PART, min(SPARE_S, life_s / 2))


def _close(connection: Asks) -> None:
    try:
        connection.close()
    except TrunError as error:
        _log.info("a connection did not end well: error=%s", error)
