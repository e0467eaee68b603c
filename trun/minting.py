"""How a token is made for another service: by the agent where one runs, else with the key file that is read here.

Either way the service mints a token of the user's rights, and it is narrowed and bound to its holder without asking
again. With an agent this process never sees the user's key.

Who may come in: ``trun.lending`` and the rooms that delegate by themselves. Rule: nothing is kept here; what is lent
is named by the caller, and no wider than it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trun.adapters import agency
from trun.adapters.agency import Attenuate, Renewal, Where
from trun.adapters.keys import from_z85, user_keys
from trun.adapters.known import find
from trun.core.scopes import operations, resources
from trun.engine.wallet import narrowed
from trun.errors import BadOption
from trun.service import Service


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
    asked: dict[str, Any] = {"next": keys.verify, "holder": keys.public, "ops": list(ops), "res": list(res)}
    answer = service.ask("mint", expires=expires, **asked)
    return narrowed(answer, keys, holder=holder, ops=ops, res=res, expires=expires)


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
