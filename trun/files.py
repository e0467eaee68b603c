"""Files between services: ``File``, ``publish_file``, ``fetch_url``.

``publish_file`` (inside a job) puts a copy into the service's export folder and gives it an address; ``fetch_url`` is a
job that brings what an address names to the service that runs it. The work itself is in ``executors.fetch``.
"""

from __future__ import annotations

import time
from typing import Any

import trun.minting as minting
import trun.service as services
from trun.adapters.addresses import check_url, place, with_service
from trun.adapters.fetching import File
from trun.core.scopes import for_export, for_file
from trun.deferred import Deferred
from trun.delegating import LENT_S
from trun.errors import BadOption, ServiceUnavailable, TrunError, UnknownName, nearest
from trun.executors.context import current_job
from trun.executors.fetch import ask_with, fetch, publish_file
from trun.handles import Job
from trun.joboptions import make_options
from trun.jobs import link_foreign, make_spec, with_origins
from trun.messages import Origin
from trun.remotes import open_services
from trun.service import Service

__all__ = ["File", "fetch_url", "publish_file"]

#: What trun fetches without the extra ``remote``.
OWN_SCHEMES = ("trun", "https", "http", "file")


def fetch_url(url: Any, auth: Any = None, when: Any = None, service: Any = None) -> Job:
    """Submit a job that brings what ``url`` names to the service; its result is a ``File`` there.

    Parameters
    ----------
    url
        ``trun://``, ``file://``, ``http://`` or ``https://`` address, or what gives one: a ``File``, a job whose result
        is one, or a piece of a result (``reduction.url``). Other schemes need ``pip install 'trun[remote]'``.
        A ``File`` must still have the content that it had; ``#sha256=HEX`` or ``#blake2b=HEX`` at the end of an
        address that is not ``trun://`` says what the content must be.
    auth
        Credentials for another service (see ``trun.credentials``), or the text of the token. None are needed for
        services of the same user on this machine, for what jobs give, nor where this script has opened that service.
    when
        Condition.
    service
        Where to; default as in ``submit``.
    """
    if not isinstance(url, (str, File, Deferred)):
        raise BadOption(f"url must be an address such as 'https://host/file', not {url!r}.")
    if not isinstance(url, Deferred):
        address = url.url if isinstance(url, File) else url
        scheme = check_url(address)
        if scheme not in OWN_SCHEMES:
            _check_scheme(scheme, address)
        if scheme != "trun" and auth is not None:
            raise BadOption(f"auth= is for the trun:// addresses of other services, not for {address!r}.")
        if isinstance(url, str):
            url = _by_key(url)
    given = {name: one for name, one in (("when", when), ("service", service)) if one is not None}
    options = make_options({"name": "fetch", **given})
    target = options.service if options.service is not None else services.current()
    lender = getattr(auth, "lender", None)
    if hasattr(auth, "bound_to"):
        auth = auth.bound_to(target.wait_ready().key)
    token = None if auth is None else str(auth)
    spec, inputs = make_spec(fetch_here, (url, token), {}, options, target)
    job = Job(target, spec.uid, spec.name)
    origins = [] if isinstance(url, Deferred) else _lent(url, token, lender, target)
    spec = with_origins(spec, [*origins, *link_foreign(target, inputs, options.when, job=spec.uid)])
    target.submit_specs([(spec, job)])
    return job


def _lent(url: str | File, token: str | None, lender: Service | None, target: Service) -> list[Origin]:
    """Say where the service of an address is, and lend the right to fetch just that file, if this script can."""
    address = url.url if isinstance(url, File) else url
    if target.owned or not address.startswith("trun:"):
        return []
    where = place(address)
    open_now = (lender,) if lender is not None else open_services()
    origin = next((one for one in open_now if one.key == where.service), None)
    if origin is None or origin is target or origin.owned:
        return []
    here, there = origin.wait_ready(), target.wait_ready()
    at = next((one for one in (origin.address, *here.addresses) if one.startswith("tcp://")), "")
    if not (here.key and there.key and at):
        return []
    if not token:
        res = for_file(where.uid, where.relative) if where.uid else for_export(where.relative)
        try:
            token = minting.lend(origin, holder=there.key, ops=("fetch",), res=[res], expires=time.time() + LENT_S)
        except TrunError:  # then the service asks in its own name
            return []
    return [Origin(here.service_key, at, here.key, token, name=here.name)]


def _check_scheme(scheme: str, url: str) -> None:
    """Refuse an address of a kind that nobody knows, as far as that can be seen here: the service may know more."""
    try:
        from fsspec.registry import available_protocols
    except ImportError:
        return
    if scheme not in available_protocols():
        raise BadOption(
            f"{url!r} cannot be fetched: there is no scheme {scheme}://. trun itself fetches trun://, https://, "
            "http:// and file://, and with the extra `remote` what fsspec knows."
            f"{nearest(scheme, available_protocols())}"
        )


def fetch_here(url: Any, auth: str | None = None) -> File:
    """Bring what an address names into the running job's folder: the payload of ``fetch_url``."""
    ask_with(_ask_home)
    return fetch(url, auth)


def _ask_home(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Ask the service that this payload runs on; it asks others for us."""
    import trun.connect  # noqa: F401  # a worker has not needed it so far; it knows the way home

    home = services.default()
    if not home.wait_ready().key:
        raise ServiceUnavailable(
            f"the service of {arguments.get('url')} is not known on this machine, and a service without keys asks no "
            "others: fetch on one that was begun with `trun service start`, or submit where the file is."
        )
    inside = current_job()
    found: dict[str, Any] = home.ask(verb, job=inside.uid if inside is not None else "", **arguments)
    return found


def _by_key(url: str) -> str:
    """Return a ``trun://`` address with the fingerprint of the service in place of the name that we know it by.

    Names are the client's own; the service that fetches may know another service by the same name.
    """
    if not url.startswith("trun:"):
        return url
    from trun.adapters.known import find

    try:
        found = find(place(url).service)
    except UnknownName as error:
        if error.suggestions:
            raise
        return url  # a key; whether it is one, the service that fetches will see
    return with_service(url, found.fingerprint) if found.fingerprint else url
