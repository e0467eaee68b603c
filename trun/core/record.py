"""What became of a job: its states, its record, and the orders that the machine may give.

``JobSpec`` (in messages) is what was asked and never changes; ``Life`` is the part that changes and is saved after each
change; ``JobRecord`` holds both. Effects are plain values: the machine returns them, the engine performs them.

Rule: only ``core.machine`` writes to a ``Life``. No clock, no I/O here.
"""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple

import msgspec

from trun.messages import AnyEvent, Entry, ErrorInfo, JobSpec

FailureKind = Literal["raised", "timeout", "memory", "died", "lost", "poison"]


class JobState(str, enum.Enum):
    """Where a job stands; the last five are final for a run."""

    # Looked up several times per job; the hash of enum.Enum is a Python function.
    __hash__ = str.__hash__

    NEW = "new"
    HELD = "held"
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    LOST = "lost"
    #: Of a handle only: the service cannot be heard. Whatever the job's state was last may have changed since.
    UNKNOWN = "unknown"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        """Whether a run in this state is over."""
        return self in FINAL_STATES


FINAL_STATES = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.ABORTED, JobState.CANCELLED, JobState.SKIPPED}
)


class Life(msgspec.Struct, array_like=True, kw_only=True):
    """The part of a record that changes. Times in seconds since the epoch, UTC; 0.0: not yet."""

    #: Number of the job in its service, from 1; the display name is ``name#number``.
    number: int
    state: JobState = JobState.NEW
    #: Run (1, 2 after a retry by hand, ...), attempt within the run, and epoch: one more at each start, ever.
    run: int = 1
    attempt: int = 0
    epoch: int = 0
    #: Last sequence number of the job's stream.
    seq: int = 0
    created: float = 0.0
    #: Time of the last change of state, and of the first start and the end of this run.
    changed: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    #: Earliest time of the next attempt, while waiting for a retry.
    until: float = 0.0
    progress: float = 0.0
    note: str = ""
    #: Sequence number of the final event of this run, 0 before.
    final_seq: int = 0
    #: Plain values of the last Improved and of the result.
    values: dict[str, object] = {}
    #: Failure kind and error of the last bad attempt.
    kind: str = ""
    error: ErrorInfo | None = None
    #: Why it waits, was held, cancelled, skipped...
    reason: str = ""
    #: uid of the job whose end began it.
    root: str = ""
    #: Workers that died under the job, in all runs' attempts.
    deaths: int = 0
    #: Number of Improved and Said events in this run (an atom registered late asks for a replay only if there are any).
    emitted: int = 0
    #: Highest event number seen of the present attempt (duplicates are dropped).
    heard: int = 0
    #: Keys of the atoms that fired it.
    witness: tuple[str, ...] = ()
    winner: str = ""
    suspended: bool = False
    worker: str = ""
    #: How the condition of this run was decided: 0 not yet, 3 it holds for now, 4 for good (or there is none).
    fired: int = 0
    #: Bad attempts of this run that count against ``retries``.
    failures: int = 0
    #: Sequence number of the first entry of this run.
    run_seq: int = 1
    #: When the condition of this run was registered: spans of time count from here.
    origin: float = 0.0
    #: Highest progress of this run.
    reached: float = 0.0
    #: Resources that the running attempt gave back before its end.
    lowered: dict[str, float] = {}
    #: Why the running attempt was told to stop; empty: it was not.
    stopping: str = ""
    #: When the last attempt started, and for how many seconds it ran, once it is over.
    began: float = 0.0
    ran: float = 0.0
    #: Tokens of the last orders that were carried out on it, and the epoch at that time.
    orders: dict[str, int] | None = None

    def waited_s(self, now: float) -> float:
        """Return for how many seconds the job waited for its first start, or waits now for its next one."""
        if self.started and not self.state.is_final and self.state not in (JobState.RUNNING, JobState.LOST):
            return max(0.0, now - self.changed)
        return max(0.0, (self.started or self.ended or now) - self.created)

    def ran_s(self, now: float) -> float | None:
        """Return for how many seconds the last attempt ran, or has run by now; None: none has started."""
        if not self.started:
            return None
        if self.state is JobState.RUNNING or self.state is JobState.LOST:
            return max(0.0, now - (self.began or self.started))
        if self.began or not self.ended:
            return self.ran if self.began else None
        return max(0.0, self.ended - self.started)  # written by an earlier version


class JobRecord:
    """One job: its spec, its life, and what the machine keeps in memory only."""

    __slots__ = ("id", "life", "origin", "spec")

    def __init__(self, spec: JobSpec, life: Life) -> None:
        self.spec = spec
        self.life = life
        #: ``name#number``
        self.id = f"{spec.name}#{life.number}"


# -- effects: those that each job has are structs, which cost a quarter of a named tuple -------------------------------


class Save(msgspec.Struct, frozen=True, gc=False):
    """The record of this job changed: write it with the next commit."""

    uid: str


class SaveSpec(msgspec.Struct, frozen=True, gc=False):
    """A job was accepted: write its spec with the next commit."""

    uid: str


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Append this entry to its stream, then send it to listeners. Never before the commit."""

    entry: Entry


class Start(msgspec.Struct, frozen=True, gc=False):
    """Give the job to an executor, after the commit."""

    uid: str
    epoch: int


class Stop(NamedTuple):
    """End the running attempt: TERM, ``grace`` seconds, KILL. Its end comes back as ``Ended``."""

    uid: str
    epoch: int
    grace: float
    reason: str


class Deliver(NamedTuple):
    """Put a text into the inbox of the running attempt."""

    uid: str
    epoch: int
    token: str
    text: str


class Dismiss(NamedTuple):
    """A choice of a race that is a job of another service has lost: that service may stop it."""

    race: JobSpec
    uid: str
    reason: str


class Replay(NamedTuple):
    """Read the stream's events from ``since`` and bring them back as ``Replayed``."""

    stream: str
    since: int


class Turn(NamedTuple):
    """The suspended job has its slot again: tell it (answers the ``Resume`` request)."""

    uid: str
    epoch: int


class RefuseJobs(NamedTuple):
    """These jobs were not accepted. The engine tells the session."""

    session: str
    uids: tuple[str, ...]
    error: ErrorInfo


Effect = Save | SaveSpec | Publish | Start | Stop | Deliver | Dismiss | Replay | Turn | RefuseJobs

__all__ = [
    "FINAL_STATES",
    "AnyEvent",
    "Deliver",
    "Dismiss",
    "Effect",
    "FailureKind",
    "JobRecord",
    "JobState",
    "Life",
    "Publish",
    "RefuseJobs",
    "Replay",
    "Save",
    "SaveSpec",
    "Start",
    "Stop",
    "Turn",
]
