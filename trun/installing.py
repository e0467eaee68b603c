"""Code for a service: ``install_service`` ships a module, ``service.function`` calls what is there.

A wheel is built here and unpacked there, in a folder of the user, by a job like any other: later jobs wait for it with
``when=upload.iscompleted``. The work itself is in ``adapters.building`` and ``executors.install``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import msgspec

import trun.service as services
from trun.errors import BadOption
from trun.executors.install import Named, install
from trun.front import doors
from trun.handles import Job
from trun.joboptions import OPTIONS, make_options
from trun.jobs import make_spec, submit_call
from trun.messages import Package
from trun.service import Service

__all__ = ["install_service"]


def install_service(module: Any, service: Service | None = None) -> Job:
    """Submit a job that installs a module or package, which this process has imported, on a service.

    Jobs of the same user that are submitted after it find the module there, once it has completed; so they wait for
    it: ``when=upload.iscompleted``. Needs the role ``upload``. Nothing of the package is executed by installing it.

    Parameters
    ----------
    module
        The module object. Where its source lies in a project (``pyproject.toml``), the project is built; else its
        files are packed as they are.
    service
        Where to; default as in ``submit``.

    Returns
    -------
    A job whose result says what was installed: ``distribution``, ``version``, ``modules``, ``functions``, ``digest``.

    Raises
    ------
    BadOption
        It is no module, or one that every service has.
    NotInstallable
        Its files cannot be packed, or its build fails.
    PackageRefused
        The wheel has something in it that no service installs, such as scripts.
    VersionMismatch
        (From the job.) The service has not what the package depends on; both sides are named.
    """
    from trun.adapters.building import build_wheel
    from trun.adapters.packages import digest_of, look_into
    from trun.adapters.versions import requirement

    chosen = service if service is not None else services.current()
    wheel = build_wheel(module)
    found = look_into(wheel)
    requires = tuple(need for text in found.requires if (need := requirement(text)) is not None)
    package = Package(
        distribution=found.distribution, version=found.version, digest=digest_of(wheel), requires=requires
    )
    options = make_options({"name": f"install-{found.distribution}", "service": chosen})
    arguments = (pickle.PickleBuffer(wheel), found.distribution, found.version)
    spec, _ = make_spec(install, arguments, {}, options, chosen)
    spec = msgspec.structs.replace(spec, kind="install", package=package)
    job = Job(chosen, spec.uid, spec.name)
    chosen.submit_specs([(spec, job)])
    return job


def function(service: Service, name: str) -> Callable[..., Job]:
    """Return what submits calls of a function that the service has, by its full name: ``"package.function"``.

    Options of ``submit`` (``when=``, ``timeout=``, ...) are taken as keywords; the rest goes to the function. Nothing
    of it is imported here.
    """
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise BadOption(f"service.function takes the full name of a function, such as 'package.fit', not {name!r}.")
    named = Named(name)

    def call(*args: Any, **kwargs: Any) -> Job:
        given = {option: kwargs.pop(option) for option in OPTIONS if option in kwargs}
        return submit_call(named, args, kwargs, make_options({"service": service, **given}))

    call.__name__ = call.__qualname__ = named.__name__
    call.__doc__ = f"Submit a call of {name} to service {service.name}."
    return call


doors["function"] = function
