"""What a service offers at its front: the doors, and what it knows of itself, as methods of the handle.

The doors (``trun.jobs`` and above) put themselves into ``doors``, so that a handle can say ``service.submit`` without
knowing them. Who may come in: ``trun.service``, whose handle is made of this. Rule: one line each; no logic here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: What the doors above offer; they put themselves in.
doors: dict[str, Callable[..., Any]] = {}


class Front:
    """The half of a service's handle that its users see first."""

    def ask(self, verb: str, /, *, wait: float | None = 30.0, **arguments: Any) -> Any:
        """Ask a reading verb."""
        raise NotImplementedError

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call to this service: ``trun.submit(..., service=self)``."""
        return doors["submit"](fn, *args, service=self, **kwargs)

    def job(self, job_id: str) -> Any:
        """Return the job with this id (``fit#7``) or uid."""
        return doors["job"](self, job_id)

    def jobs(self, *, state: Any = None, name: str | None = None, since: Any = None) -> Any:
        """Return the jobs of the service: by state (one, or several), name (``fit*``), and when they were submitted.

        ``since`` is a ``datetime``, seconds since the epoch, or how long ago: ``"2d"``, a ``timedelta``.
        """
        return doors["jobs"](self, state=state, name=name, since=since)

    def map(self, fn: Callable[..., Any], /, *iterables: Any, **options: Any) -> Any:
        """Submit one job per tuple of items: ``trun.map(..., service=self)``."""
        return doors["map"](fn, *iterables, service=self, **options)

    def executor(self) -> Any:
        """Return a ``concurrent.futures.Executor`` over this service."""
        return doors["executor"](self)

    def resources(self) -> dict[str, Any]:
        """Return the counted resources: ``{name: {"limit": n, "used": n, "waiting": n}}``."""
        found: dict[str, Any] = self.ask("resources")
        return found

    def function(self, name: str) -> Callable[..., Any]:
        """Return what submits calls of a function that the service has: ``service.function("package.fit")(x)``."""
        found: Callable[..., Any] = doors["function"](self, name)
        return found

    def functions(self) -> list[dict[str, str]]:
        """Return the functions that can be called by name: ``name``, ``distribution`` and ``version`` of each."""
        found: list[dict[str, str]] = self.ask("functions")
        return found

    def versions(self) -> dict[str, str]:
        """Return the versions of trun, Python and the installed distributions on the service."""
        found: dict[str, str] = self.ask("versions")
        return found
