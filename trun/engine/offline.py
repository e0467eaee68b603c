"""The record of a service that has ended, answering the same questions by the same functions.

The journal is opened read-only, the machine is restored from it, and the views look at that machine as they look at a
living one. Nothing is decided and nothing is written: what the restored machine would do is never performed. Time
stands still at the last change on record, so that "waits for 2 min" is true of the moment at which the service ended.
A job that was running then is shown as lost: nobody can say what became of it, and ``trun resume`` runs it again.

Who may come in: the reading verbs. Rule: no question is answered here; a new one is a new view.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from trun.adapters.sqlite import ReadOnlyJournal, read_only
from trun.core.codec import decode_group, decode_life
from trun.core.machine import Machine
from trun.core.record import JobState, Life
from trun.engine.loop import Engine
from trun.engine.views import VIEWS
from trun.errors import UnknownName
from trun.executors.protocol import current_log_name, log_name
from trun.messages import AnyReport, JobSpec, Welcome
from trun.ports import Journal, Order, Room

KILLED = "its service ended without a word while it ran"


class Record:
    """What a service left behind in its state folder.

    Parameters
    ----------
    folder
        The state folder; it may be held by a living service, whose last commit is what is seen then.
    name
        What the service was called.

    Raises
    ------
    StateError
        There is no journal, or it cannot be read.
    """

    def __init__(self, folder: Path, *, name: str = "local") -> None:
        journal = read_only(folder)
        try:
            self._engine = _restored(journal, folder, name)
        except BaseException:
            journal.close()
            raise
        self._journal = journal

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Answer a reading verb with plain data."""
        view = self._engine.views.get(verb)
        if view is None:
            raise UnknownName(f"a record has no verb {verb!r}.", name=verb, known=self._engine.views)
        return view(self._engine, arguments)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def _restored(journal: ReadOnlyJournal, folder: Path, name: str) -> Engine:
    meta = journal.meta()
    key, epoch = meta.get("service_key", ""), int(meta.get("epoch", 1))
    stored = [(job.spec, decode_life(job.life)) for job in journal.jobs()]
    ended = max((max(life.changed, life.ended) for _, life in stored), default=0.0)
    # Limits are not on record; without any, a job that waits for a resource is shown in the queue.
    limits = {resource: float("inf") for spec, _ in stored for resource in spec.resources}
    machine = Machine(resources=limits, service_key=key, epoch=epoch)
    for _, group in journal.groups():
        machine.restore_group(decode_group(group))
    for spec, life in stored:
        _restore(machine, spec, life, ended)
    machine.resume_all(ended)
    return Engine(
        machine=machine,
        journal=cast(Journal, journal),  # its one missing half, commit, is never called: no step is made
        executor=_NoWorkers(folder, [(spec.uid, life.run, life.attempt) for spec, life in stored if _is_lost(life)]),
        endpoint=None,
        clock=_Stopped(ended),
        welcome=Welcome(service_key=key, name=name, epoch=epoch, folder=str(folder)),
        views=dict(VIEWS),
    )


def _restore(machine: Machine, spec: JobSpec, life: Life, now: float) -> None:
    if life.state is JobState.RUNNING:
        # This machine is a copy for looking at: saying "lost" here writes nothing anywhere.
        life.state, life.reason, life.ended = JobState.LOST, KILLED, now
    machine.restore(spec, life)


def _is_lost(life: Life) -> bool:
    return life.state is JobState.LOST


class _Stopped:
    """A clock that shows one time."""

    def __init__(self, when: float) -> None:
        self._when = when

    def now(self) -> float:
        """Seconds since the epoch (UTC) of the last change on record."""
        return self._when


class _NoWorkers:
    """An executor that runs nothing and knows where logs lie."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self, folder: Path, lost: list[tuple[str, int, int]]) -> None:
        self._logs = folder / "logs"
        #: (uid, run, attempt) of what ran when the service was killed.
        self._lost = lost

    def open(self) -> None:
        """Start nothing."""

    def room(self) -> Room:
        """Take no jobs."""
        return Room(idle=0)

    def submit(self, orders: Sequence[Order]) -> None:
        """Refuse to run."""
        raise AssertionError("a record runs nothing")

    def cancel(self, uid: str, epoch: int, *, grace: float, reason: str) -> None:
        """Nothing runs."""

    def tell(self, uid: str, epoch: int, token: str, text: str) -> None:
        """Nobody hears."""

    def suspend(self, uid: str, epoch: int) -> None:
        """Nothing runs."""

    def resume(self, uid: str, epoch: int) -> None:
        """Nothing runs."""

    def fds(self) -> list[int]:
        """Nothing to wait for."""
        return []

    def poll(self, now: float) -> list[AnyReport]:
        """Nothing happens."""
        return []

    def next_deadline(self) -> float | None:
        """Never."""
        return None

    def log_path(self, uid: str, run: int, attempt: int) -> str | None:
        """File with the printed output of an attempt.

        A worker that was killed with its service had no time to name its file; where only one job ran it is known.
        """
        path = self._logs / log_name(uid, run, attempt)
        if not path.exists() and self._lost == [(uid, run, attempt)]:
            unnamed = [each for each in self._logs.glob(current_log_name("*")) if each.stat().st_size]
            path = unnamed[0] if len(unnamed) == 1 else path
        return str(path)

    def close(self, *, detach: bool = False) -> None:
        """Nothing was opened."""
