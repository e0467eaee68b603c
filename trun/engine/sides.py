"""What stands beside an engine and is given to it: verbs that answer, and what hears other services. Protocols only.

Who may come in: the engine, and whoever composes one. Rule: no code here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trun.messages import JobSpec, Relay, Unheard

if TYPE_CHECKING:
    from trun.engine.loop import Engine


class View(Protocol):
    """Answers a reading verb from the engine's state."""

    def __call__(self, engine: Engine, arguments: dict[str, Any]) -> Any:
        """Return plain data."""
        ...


class Mail(Protocol):
    """Hears other services (``trun.correspondence``)."""

    def want(self, spec: JobSpec) -> None:
        """Listen to the streams that a job waits for."""
        ...

    def release(self, spec: JobSpec) -> None:
        """A job has ended."""
        ...

    def renew(self, spec: JobSpec, token: str) -> bool:
        """Show a new token for what a job waits for; False where it waits for nothing of it any more."""
        ...

    def take(self) -> Sequence[Relay | Unheard]:
        """Return what has come."""
        ...

    def fd(self) -> int:
        """Return the descriptor that tells of it."""
        ...

    def next_look(self) -> float | None:
        """Return the seconds until ``take`` should be called again."""
        ...

    def close(self) -> None:
        """End all."""
        ...
