"""Lending a service the right to hear another one, so that the client may leave after submitting.

At submit the client asks the service that a job waits for (once) for a token of its own rights, narrows it offline to
the very streams and to the key of the service that will listen, and sends it along in the slip of paper. Where that
cannot be done, or is refused, the client passes the streams on itself as long as it lives.

Who may come in: the doors. Rule: what is lent is no more than the condition needs: reading these streams, and fetching
the results of these jobs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from trun.errors import TrunError
from trun.front import doors
from trun.messages import Bounce, Dismissed, Origin, Unneeded
from trun.outcomes import known_jobs
from trun.relaying import relay
from trun.service import Service

_log = logging.getLogger(__name__)

#: Seconds for which the right is lent, and how long before its end a token of ours is asked for anew.
LENT_S = 12 * 3600.0
RENEWED_S = 3600.0
MARGIN_S = 600.0
#: Streams of one token.
STREAMS = 30
OPS = ("read", "fetch", "cancel-loser")


def delegate(streams: Iterable[str], *, origin: Service, target: Service, job: str = "") -> list[Origin]:
    """Return where ``target`` can hear these streams of ``origin``; empty where this process must pass them on.

    With an agent the right is lent for an hour at a time, as long as ``job`` waits; without one for twelve.
    """
    here, there = origin.wait_ready(), target.wait_ready()
    if origin.owned or target.owned or not there.key:
        return []
    wanted = sorted(streams)
    if origin.near and target.near:
        return [Origin(here.service_key, origin.address, "", "", tuple(wanted), here.name)]
    address = next((one for one in (origin.address, *here.addresses) if one.startswith("tcp://")), "")
    if not here.key or not address:
        return []
    made = []
    for start in range(0, len(wanted), STREAMS):
        some = wanted[start : start + STREAMS]
        try:
            resources = [f"job:{uid}" for uid in some]
            token = _by_agent(origin, target, resources, job) or lend(origin, holder=there.key, resources=resources)
        except TrunError as error:
            _log.info("nothing can be lent service=%s reason=%s", origin.name, error)
            return []
        made.append(Origin(here.service_key, address, here.key, token, tuple(some), here.name))
    return made


def _by_agent(origin: Service, target: Service, resources: list[str], job: str) -> str:
    """Let the agent lend, and renew, if one runs; else nothing."""
    from trun.adapters import agency

    if not job or target.welcome is None or agency.running() is None:
        return ""
    import trun.minting as minting

    until = time.time() + RENEWED_S
    return minting.lend(
        origin, holder=target.welcome.key, ops=OPS, res=resources, expires=until, renew=(target, job)
    )


def lend(origin: Service, *, holder: str, resources: list[str], seconds: float | None = None) -> str:
    """Return a token that lets ``holder`` read these resources of ``origin``, and nothing else.

    Raises
    ------
    TrunError
        The service lends nothing to us.
    """
    from trun.adapters import tokens
    from trun.adapters.keys import user_keys

    seconds = LENT_S if seconds is None else seconds
    mine = user_keys()
    ends, token = _minted.get(origin.key, (0.0, ""))
    if ends - time.time() < min(MARGIN_S, seconds):
        asked: dict[str, Any] = {"next": mine.verify, "holder": mine.public, "ops": list(OPS)}
        try:
            token = origin.ask("mint", **asked)["token"]
        except TrunError:
            token = origin.ask("mint", **asked, res=resources)["token"]
        else:
            _minted[origin.key] = (time.time() + LENT_S, token)
    expires = time.time() + seconds
    return tokens.attenuate(token, mine, holder=holder, ops=OPS, res=resources, expires=expires)


#: {key of a service: (until when, token of all that we may do there)}
_minted: dict[str, tuple[float, str]] = {}


def bounced(target: Service, bounce: Bounce) -> None:
    """The service cannot hear these streams by itself: pass them on, if we can (in the link's thread)."""
    for uid in bounce.streams:
        job = known_jobs.get(uid)
        origin = getattr(job, "service", None)
        if isinstance(origin, Service) and origin is not target and origin.welcome is not None:
            relay(uid, origin=origin, target=target)


def dismissed(target: Service, found: Dismissed) -> None:
    """Jobs of other services lost a race on this one: tell those services (in the link's thread)."""
    for uid in found.uids:
        origin = getattr(known_jobs.get(uid), "service", None)
        if isinstance(origin, Service) and not origin.closed and origin.gone is None:
            origin.post(Unneeded(uids=(uid,), reason=found.reason))


doors["bounce"] = bounced
doors["dismiss"] = dismissed
