"""What stands beside an engine and is given to it: verbs that answer, and what hears other services. Protocols.

Who may come in: the engine, and whoever composes one. Rule: no logic here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from trun.engine.sessions import describe
from trun.messages import Answer, Answered, JobSpec, Relay, Unheard


class View(Protocol):
    """Answers a reading verb from the engine's state."""

    def __call__(self, engine: Any, arguments: dict[str, Any]) -> Any:
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

    def ask(self, spec: JobSpec | None, service: str, token: str, verb: str, arguments: dict[str, Any]) -> Future[Any]:
        """Ask another service for a job; the plain data comes to the future."""
        ...

    def dismiss(self, spec: JobSpec, uid: str, reason: str) -> bool:
        """Tell another service that its job lost a race of ours; False where we do not speak to it."""
        ...

    def silences(self, spec: JobSpec) -> list[str]:
        """Say which services that a job of ours waits for are not heard."""
        ...

    def take(self) -> Sequence[Relay | Unheard | Answered]:
        """Return what has come."""
        ...

    def fd(self) -> int:
        """Return the descriptor that tells of it."""
        ...

    def next_look(self) -> float | None:
        """Return the seconds until ``take`` should be called again."""
        ...

    def answer(self, peer: bytes, answer: Answer) -> None:
        """Bring an answer that came late to the engine, from any thread."""
        ...

    def close(self) -> None:
        """End all."""
        ...


class Bulk(Protocol):
    """The port for large data (``adapters.bulk``)."""

    address: str
    fingerprint: str

    def ticket(
        self, content: Path | Callable[[], int], *, size: int | None = None, digest: str = "", holder: str = ""
    ) -> str:
        """Return a ticket for reading a file."""
        ...

    def accept(self, target: Path, size: int, digest: str, *, holder: str = "") -> str:
        """Return a ticket for leaving a file."""
        ...


def later(mail: Mail | None, peer: bytes, token: str, wanted: Future[Any]) -> None:
    """Answer when the data has come."""

    def come(done: Future[Any]) -> None:
        error = done.exception()
        if error is not None:
            answer = Answer(token=token, error=describe(error))
        else:
            answer = Answer(token=token, data=done.result())
        if mail is not None:
            mail.answer(peer, answer)

    wanted.add_done_callback(come)
