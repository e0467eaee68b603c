"""Lending a right: ``credentials()`` asks a service for a capability token and narrows it for another service.

Where an agent runs it does both, so that the script never sees the user's key; else the key file is read here. The
token says which service may present it, what it allows, and until when (docs/tokens.md).

Decides nothing about rights: the service that mints gives no more than its user has. Who may come in: scripts, and the
rooms that delegate by themselves. Rule: a token is shown by ``str()`` only; it is never logged, and never pickled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import trun.service as services
from trun.adapters import addresses, agency
from trun.adapters.agency import Attenuate, Renewal, Where
from trun.adapters.fetching import File
from trun.adapters.keys import from_z85, user_keys
from trun.adapters.known import find
from trun.conditions.timing import span_seconds
from trun.core.scopes import ALL, for_export, for_file, for_job, is_resource, operations, resources
from trun.deferred import Deferred
from trun.engine.wallet import narrowed
from trun.errors import BadOption, UsageError
from trun.service import Service

#: What ``credentials`` lends: to read outcomes and streams, and to fetch files.
READING = ("read", "fetch")


def credentials(
    service: Service | str | None = None,
    for_: Service | str | None = None,
    scope: Any = None,
    expires: Any = "1h",
) -> Credentials:
    """Return a token with which another service may read here in your name.

    Parameters
    ----------
    service
        The service whose data is lent; default: the one that ``with`` selected.
    for_
        Who may present the token: a service, the name of a known one, or its 40-character key. Without it the token is
        bound when it is passed on as ``auth=``.
    scope
        What it allows to read: a job (with its files), a ``File``, or a list of them; default: all that you may read.
    expires
        Time span after which it ends: seconds, a ``timedelta`` or ``"2h"``; a service gives at most 12 hours.

    Returns
    -------
    ``Credentials``; ``str()`` of it is the token.

    Raises
    ------
    NotAuthorised
        The service gives you no token.
    """
    lender = _service(service)
    life_s = span_seconds(expires, "expires")
    if life_s < 1:
        raise BadOption(f"expires must be at least 1 s, not {expires!r}.")
    res = scope_of(scope)
    ends = time.time() + life_s

    def bind(key: str, renew: tuple[Service, str] | None) -> str:
        return lend(lender, holder=key, ops=READING, res=res, expires=ends, renew=renew)

    made = Credentials(bind, service=lender.name, expires=ends)
    if for_ is not None:
        made.bound_to(key_of(for_))
    return made


class Credentials:
    """A token, or what is needed to make one for a holder. Made by ``trun.credentials``.

    Parameters
    ----------
    bind
        Makes the token for a key, and sees to its renewal for a job.
    service
        Name of the service that lends.
    expires
        Seconds since the epoch, UTC.
    """

    __slots__ = ("_bind", "_token", "expires", "holder", "service")

    def __init__(self, bind: Callable[[str, tuple[Service, str] | None], str], *, service: str, expires: float) -> None:
        self._bind = bind
        self._token = ""
        self.service = service
        self.expires = expires
        #: Key of who may present the token; empty as long as it is not bound.
        self.holder = ""

    def bound_to(self, key: str, renew: tuple[Service, str] | None = None) -> str:
        """Return the token for the holder of ``key``; a token is bound once.

        ``renew``: the service and the uid of the job that waits with it; the agent, where one runs, renews it.
        """
        from_z85(key)
        if self.holder and key != self.holder:
            raise UsageError(f"these credentials are bound to {self.holder}; make others with trun.credentials.")
        if not self._token or renew is not None:
            self._token = self._bind(key, renew)
            self.holder = key
        return self._token

    @property
    def ids(self) -> tuple[str, ...]:
        """Revocation ids, first link first, for ``trun revoke``."""
        from trun.adapters import tokens

        return tokens.ids(str(self))

    def __str__(self) -> str:
        if not self._token:
            raise UsageError("these credentials are bound to nobody yet: give for_=SERVICE, or pass them as auth=.")
        return self._token

    def __repr__(self) -> str:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.expires))
        return f"<trun credentials of {self.service} for {self.holder or 'nobody yet'} until {until}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials do not travel with a call; pass them as auth=, or str() of them.")


def lend(
    service: Service,
    *,
    holder: str,
    ops: Iterable[str],
    res: Iterable[str],
    expires: float,
    renew: tuple[Service, str] | None = None,
) -> str:
    """Return a token of ``service`` for ``holder``, by the agent where one runs.

    Parameters
    ----------
    service
        Who mints.
    holder
        CURVE key of who is to present the token.
    ops, res
        Operations and resources of ``trun.core.scopes``.
    expires
        Seconds since the epoch, UTC.
    renew
        The service and the uid of a job that waits with the token: the agent renews it as long as it does. Without an
        agent nobody does.
    """
    ops, res = operations(ops), resources(res)
    agent = agency.running()
    if agent is not None:
        renewal = None if renew is None else Renewal(where(renew[0]), renew[1])
        answer = agent.ask(Attenuate(where(service), holder, ops, res, expires, renewal))
        return str(answer["token"])
    keys = user_keys()
    answer = service.ask("mint", next=keys.verify, ops=list(ops), res=list(res), expires=expires)
    return narrowed(answer, keys, holder=holder, ops=ops, res=res, expires=expires)


# -- who, and what ----------------------------------------------------------------------------------------------------


def _service(service: Service | str | None) -> Service:
    if service is None:
        return services.current()
    if isinstance(service, Service):
        return service
    if isinstance(service, str):
        from trun.remotes import remote_service

        return remote_service(service)
    raise BadOption(f"service must be a service or the name of one, not {service!r}.")


def where(service: Service) -> Where:
    """Return a service as the agent is told of it."""
    return Where(service.name, service.address, service.wait_ready().key)


def key_of(for_: Service | str) -> str:
    """Return the key of a service that is given as itself, by name, or by key.

    Raises
    ------
    BadOption
        It has none, as services that answer only their own user on one machine have none.
    """
    if isinstance(for_, Service):
        key, name = for_.wait_ready().key, for_.name
    elif isinstance(for_, str):
        try:
            from_z85(for_)
            return for_
        except BadOption:
            key, name = find(for_).key, for_
    else:
        raise BadOption(f"for_ must be a service, the name of a known one, or a key, not {for_!r}.")
    if not key:
        raise BadOption(f"service {name} has no key, so nothing can be lent to it; start it with --listen tcp://...")
    return key


def scope_of(scope: Any) -> tuple[str, ...]:
    """Return what a scope names, as resources of a token."""
    if scope is None:
        return (ALL,)
    if isinstance(scope, Sequence) and not isinstance(scope, (str, Deferred)):
        return resources([_resource(one) for one in scope])
    return (_resource(scope),)


def _resource(one: Any) -> str:
    if isinstance(one, Deferred):
        return for_job(one._owner().uid)
    url = one.url if isinstance(one, File) else one
    if isinstance(url, str) and url.startswith("trun://"):
        place = addresses.place(url)
        return for_file(place.uid, place.relative) if place.uid else for_export(place.relative)
    if isinstance(one, File):
        raise BadOption(f"{one.path} was not published by a job, so no token can name it: trun.publish_file.")
    if isinstance(one, str) and is_resource(one):
        return one
    raise BadOption(f"scope must be a job, a published File, or a list of them, not {one!r}.")


__all__ = ["Credentials", "credentials", "lend"]
