"""Files between services: ``File``, ``publish_file``, ``fetch_url``.

``publish_file`` (inside a job) puts a copy into the service's export folder and gives it an address; ``fetch_url`` is a
job that brings what an address names to the service that runs it. The work itself is in ``executors.fetch``.
"""

from __future__ import annotations

from typing import Any

from trun.adapters.fetching import File, check_url
from trun.deferred import Deferred
from trun.errors import BadOption
from trun.executors.fetch import fetch, publish_file
from trun.handles import Job
from trun.joboptions import make_options
from trun.jobs import submit_call

__all__ = ["File", "fetch_url", "publish_file"]


def fetch_url(url: Any, auth: Any = None, when: Any = None, service: Any = None) -> Job:
    """Submit a job that brings what ``url`` names to the service; its result is a ``File`` there.

    Parameters
    ----------
    url
        ``trun://``, ``file://``, ``http://`` or ``https://`` address, or what gives one: a ``File``, a job whose result
        is one, or a piece of a result (``reduction.url``). Other schemes need ``pip install 'trun[remote]'``.
    auth
        Credentials for another service (see ``trun.credentials``); a local service needs none.
    when
        Condition.
    service
        Where to; default as in ``submit``.
    """
    if isinstance(url, File):
        url = url.url
    if not isinstance(url, (str, Deferred)):
        raise BadOption(f"url must be an address such as 'https://host/file', not {url!r}.")
    if isinstance(url, str) and check_url(url) != "trun" and auth is not None:
        raise BadOption(f"auth= is for the trun:// addresses of other services, not for {url!r}.")
    given: dict[str, Any] = {"name": "fetch"}
    if when is not None:
        given["when"] = when
    if service is not None:
        given["service"] = service
    return submit_call(fetch, (url, None if auth is None else str(auth)), {}, make_options(given))
