"""Payloads that trun brings along: fetching an address into the job's folder, and publishing a file of a job."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from trun.adapters.fetching import File, bring, copy
from trun.errors import BadOption, UsageError
from trun.executors.context import current_job


def fetch(url: str | File, auth: str | None = None) -> File:
    """Bring what an address, or a file of another service, names into the running job's folder.

    The payload of ``trun.fetch_url``. ``auth`` is not looked at: the services of one user need none.
    """
    job = current_job()
    if job is None:
        raise UsageError("fetch runs inside a job; use trun.fetch_url(url).")
    if isinstance(url, File):
        url = url.url
    if not isinstance(url, str):
        raise BadOption(f"the address to fetch must be a text or a File, not {type(url).__name__} ({url!r}).")
    target = bring(url, Path(job.export_folder) / job.uid)
    return File(target, url=_address(job.service_key, job.uid, target.name))


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
    name = source.name
    target = Path(job.export_folder) / job.uid / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy(source, target)
    return File(target, url=_address(job.service_key, job.uid, name))


def _address(service_key: str, uid: str, name: str) -> str:
    return f"trun://{service_key}/jobs/{uid}/files/{urllib.parse.quote(name)}"
