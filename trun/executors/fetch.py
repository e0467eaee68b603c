"""Payloads that trun brings along: fetching an address into the job's folder, and publishing a file of a job."""

from __future__ import annotations

import os
from pathlib import Path

from trun.adapters.addresses import is_service, published_url
from trun.adapters.fetching import Ask, File, bring, copy, known_file
from trun.adapters.keys import fingerprint, has_service_keys
from trun.adapters.reach import from_environment
from trun.adapters.settings import of_service
from trun.errors import BadOption, UsageError
from trun.executors.context import CurrentJob, current_job

_ask: Ask | None = None


def ask_with(ask: Ask | None) -> None:
    """Say how payloads of this process ask the service that they run on; the launcher does."""
    global _ask
    _ask = ask


def fetch(url: str | File, auth: str | None = None) -> File:
    """Bring what an address, or a file of another service, names into the running job's folder.

    The payload of ``trun.fetch_url``. A ``File`` must still have the content that it had. ``auth`` is the token for
    another service; services of the same user on this machine need none.
    """
    job = current_job()
    if job is None:
        raise UsageError("fetch runs inside a job; use trun.fetch_url(url).")
    url, digest = (url.url, url.digest) if isinstance(url, File) else (url, "")
    if not isinstance(url, str):
        raise BadOption(f"the address to fetch must be a text or a File, not {type(url).__name__} ({url!r}).")
    service = Path(job.export_folder).parent
    target, size, found = bring(
        url,
        Path(job.export_folder) / job.uid,
        reach=from_environment(shared=has_service_keys(service), environment=of_service(service)),
        ask=_ask,
        token=auth or "",
        digest=digest,
    )
    return known_file(str(target), size, found, _address(job, target.name))


def publish_file(path: str | os.PathLike[str]) -> File:
    """Make a file of the running job fetchable, and return it with its ``trun://`` address.

    The content is copied into the service's export folder, so the job may go on to change its own file or remove it.
    A second file of the same name replaces the first.

    Raises
    ------
    UsageError
        Called outside of a job.
    FileNotFoundError
        There is no such file.
    """
    job = current_job()
    if job is None:
        raise UsageError("publish_file works inside a job only; outside, use trun.File(path).")
    source = Path(path).expanduser().absolute()
    if not source.is_file():
        raise FileNotFoundError(f"{source} is no file, so {job.id} cannot publish it.")
    target = Path(job.export_folder) / job.uid / source.name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    size, digest = copy(source, target)
    return known_file(str(target), size, digest, _address(job, source.name))


def _address(job: CurrentJob, name: str) -> str:
    service = job.service_key
    if not is_service(service):  # a CURVE key, whose signs mean something else in an address
        service = fingerprint(service)
    return published_url(service, job.uid, name)
