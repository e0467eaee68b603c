"""What a service should do, written down as simply as possible: every job looks at every other after each step.

It shares words with trun (states, classes of the tree, events by name) and no logic: conditions are worked out from
the outcome table below, the queue is a sorted list, and nothing is remembered that could be looked at again. Retries
have no delay here, and levels are set by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trun.conditions.algebra import And, AtLeast, Condition, Never, Not, Or
from trun.conditions.atoms import JobAtom, Level

CANCELLED, NEVER, WAIT, HOLDS, TRUE = range(5)
FINAL = ("completed", "failed", "aborted", "cancelled", "skipped")
#: kind of atom: what each final state makes of it (C cancelled, N never, T true), in the order of FINAL.
TABLE = {
    "completed": "TCCCN",
    "failed": "NTNCN",
    "aborted": "NNTCN",
    "cancelled": "NNNTN",
    "skipped": "NNNCT",
    "ended": "TTTNN",
    "finished": "TTTTT",
    "ok": "TCCCT",
    "started": "TTTCN",
    "message": "CCCCN",
}
LETTERS = {"C": CANCELLED, "N": NEVER, "T": TRUE}


@dataclass
class ModelJob:
    """One job and what is true of it in its present run."""

    uid: str
    number: int
    condition: Condition | None = None
    policy: str = "cancel"
    retries: int = 0
    priority: float = 0
    gpu: int = 0
    group: str = ""
    state: str = "new"
    #: Decided for good in this run.
    is_decided: bool = False
    #: Its condition holds, perhaps only for now.
    is_up: bool = False
    #: Its condition died while it was held: nobody looks until it is released.
    is_dead: bool = False
    attempts: int = 0
    failures: int = 0
    deaths: int = 0
    was_started: bool = False
    is_stopping: bool = False
    is_suspended: bool = False
    said: set[str] = field(default_factory=set)


class Model:
    """All jobs of a service."""

    def __init__(self, gpu: int) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.levels: dict[str, int] = {}
        #: group: number of members, None while it is open
        self.groups: dict[str, int | None] = {}
        self.gpu = gpu

    # -- what conditions are worth

    def value(self, node: Condition) -> int:
        if isinstance(node, And | Or | AtLeast):
            values = sorted((self.value(child) for child in node.of), reverse=True)
            need = node.need
            return TRUE if need == 0 else NEVER if need > len(values) else values[need - 1]
        if isinstance(node, Not):
            return (CANCELLED, TRUE, HOLDS, WAIT, NEVER)[self.value(node.child)]
        if isinstance(node, Never):
            return (TRUE, TRUE, WAIT, WAIT, NEVER)[self.value(node.child)]
        if isinstance(node, Level):
            return self.levels.get(node.key, WAIT)
        assert isinstance(node, JobAtom)
        return self.group_value(node) if node.subject in self.groups else self.job_value(node)

    def job_value(self, atom: JobAtom) -> int:
        job = self.jobs[atom.subject]
        if atom.what == "message" and atom.argument in job.said:
            return TRUE
        if atom.what == "started" and job.was_started:
            return TRUE
        if job.state not in FINAL:
            return WAIT
        return LETTERS[TABLE[atom.what][FINAL.index(job.state)]]

    def group_value(self, atom: JobAtom) -> int:
        ended = [job.state for job in self.jobs.values() if job.group == atom.subject and job.state in FINAL]
        total = self.groups[atom.subject]
        is_over = total is not None and len(ended) >= total
        bad = [state for state in ended if state in ("failed", "aborted", "cancelled")]
        if atom.what == "completed":
            return CANCELLED if bad else NEVER if "skipped" in ended else TRUE if is_over else WAIT
        if atom.what == "failed":
            return TRUE if "failed" in ended else NEVER if is_over else WAIT
        assert atom.what == "finished"
        return TRUE if is_over else WAIT

    # -- what follows

    def settle(self) -> None:
        """Look at all jobs again and again until nothing changes."""
        while any([self.look(job) for job in self.jobs.values()]):
            pass

    def look(self, job: ModelJob) -> bool:
        if job.is_decided or job.is_dead or job.condition is None or job.state not in ("waiting", "held", "queued"):
            return False
        value = self.value(job.condition)
        if value == HOLDS and any(leaf.key not in self.levels for leaf in levels_of(job.condition)):
            value = WAIT
        before = job.state
        if value <= NEVER:
            self.drop(job)
            return True
        if value >= HOLDS and not job.is_up:
            job.is_decided = value == TRUE
        job.is_up = value >= HOLDS
        if job.state != "held":
            job.state = "queued" if value >= HOLDS else "waiting"
        return before != job.state

    def drop(self, job: ModelJob) -> None:
        if job.policy == "run":
            job.is_decided = True
            job.state = "held" if job.state == "held" else "queued"
        elif job.policy == "hold":
            job.state, job.is_dead = "held", True
        else:
            job.state = "skipped" if job.policy == "skip" else "cancelled"

    def enter(self, job: ModelJob, *, hold: bool = False) -> None:
        self.jobs[job.uid] = job
        job.state = "held" if hold else "waiting" if job.condition is not None else "queued"
        job.is_decided = job.condition is None

    def used(self) -> int:
        return sum(job.gpu for job in self.jobs.values() if job.state == "running" and not job.is_suspended)

    def dispatch(self, idle: int) -> list[str]:
        started: list[str] = []
        for _ in range(idle):
            ready = [job for job in self.jobs.values() if job.state == "queued" and job.gpu <= self.gpu - self.used()]
            if not ready:
                break
            job = min(ready, key=lambda job: (-job.priority, job.number))
            job.state, job.is_decided, job.was_started = "running", True, True
            job.attempts += 1
            started.append(job.uid)
            self.settle()
        return started

    def end(self, job: ModelJob, how: str) -> None:
        """How: completed, raised, died, aborted, missing, returned."""
        stopping, job.is_stopping, job.is_suspended = job.is_stopping, False, False
        if how in ("died", "missing"):
            job.deaths += 1
        if how in ("raised", "died"):
            job.failures += 1
        job.attempts -= how == "returned"
        if how == "completed":
            job.state = "completed"
        elif how == "returned":
            job.state = "queued" if not stopping else "aborted" if job.attempts else "cancelled"
        elif how == "aborted" or (stopping and how in ("died", "missing")):
            job.state = "aborted"
        elif how == "missing":
            job.state = "failed" if job.deaths >= 3 else "queued"
        else:
            again = not stopping and job.failures <= job.retries and not (how == "died" and job.deaths >= 3)
            job.state = "queued" if again else "failed"
        self.settle()

    # -- orders

    def restart(self) -> None:
        """What held for now is looked at anew: what holds for good by now is decided."""
        for job in self.jobs.values():
            if job.is_up and job.condition is not None and job.state in ("queued", "held"):
                job.is_decided = job.is_decided or self.value(job.condition) == TRUE

    def cancel(self, job: ModelJob) -> None:
        if job.state == "running":
            job.is_stopping = True
        elif job.state not in FINAL:
            job.state = "aborted" if job.attempts else "cancelled"
        self.settle()

    def release(self, job: ModelJob) -> None:
        if job.is_dead:
            job.is_dead = False
            assert job.condition is not None
            job.is_decided = self.value(job.condition) <= NEVER
            job.is_up = False
        job.state = "queued" if job.is_decided else "waiting"
        self.settle()

    def retry(self, job: ModelJob) -> None:
        job.state = "waiting" if job.condition is not None else "queued"
        job.is_decided = job.condition is None
        job.is_dead = job.is_up = job.was_started = False
        job.attempts = job.failures = 0
        job.said = set()
        self.settle()


def levels_of(condition: Condition) -> list[Level]:
    return [leaf for leaf in condition.depends if isinstance(leaf, Level)]
