"""Lending a right by hand: ``credentials()`` gives a capability token for another service.

The token says which service may present it, what it allows, and until when (docs/tokens.md). How it is made stands in
``trun.minting``, which the rooms that delegate by themselves use too.

Decides nothing about rights: the service that mints gives no more than its user has. Who may come in: scripts.
Rule: a token is shown by ``str()`` only; it is never logged, and never pickled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import trun.service as services
from trun.adapters import addresses
from trun.adapters.fetching import File
from trun.adapters.keys import from_z85
from trun.conditions.timing import span_seconds
from trun.core.scopes import ALL, for_export, for_file, for_job, is_resource, resources
from trun.deferred import Deferred
from trun.errors import BadOption, UsageError
from trun.minting import key_of, lend
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
    _check_lender(scope, lender)
    ends = time.time() + life_s

    def bind(key: str, renew: tuple[Service, str] | None) -> str:
        return lend(lender, holder=key, ops=READING, res=res, expires=ends, renew=renew)

    made = Credentials(bind, service=lender.name, expires=ends, lender=lender)
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
    lender
        The service that lends.
    """

    __slots__ = ("_bind", "_token", "expires", "holder", "lender", "service")

    def __init__(
        self,
        bind: Callable[[str, tuple[Service, str] | None], str],
        *,
        service: str,
        expires: float,
        lender: Service | None = None,
    ) -> None:
        self._bind = bind
        self.lender = lender
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


def scope_of(scope: Any) -> tuple[str, ...]:
    """Return what a scope names, as resources of a token."""
    if scope is None:
        return (ALL,)
    if isinstance(scope, Sequence) and not isinstance(scope, (str, Deferred)):
        return resources([_resource(one) for one in scope])
    return (_resource(scope),)


def _check_lender(scope: Any, lender: Service) -> None:
    """Refuse to lend a job of another service, of which the lender knows nothing."""
    for one in scope if isinstance(scope, list | tuple) else [scope]:
        owner = one._owner().service if isinstance(one, Deferred) else lender
        theirs, ours = getattr(owner, "welcome", None), lender.welcome
        if owner is not lender and theirs is not None and ours is not None and theirs.service_key != ours.service_key:
            raise BadOption(f"{one!r} is a job of {owner.name}, which alone can lend it, and not {lender.name}.")


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


__all__ = ["Credentials", "credentials"]
