"""What a slip of paper asks for: its condition, its needs, what it holds while it runs.

Pure functions of a ``JobSpec`` (and of the record, where a running attempt gave something back).
"""

from __future__ import annotations

from trun.conditions import wire
from trun.conditions.algebra import And, Condition, Or
from trun.conditions.atoms import IsCompleted, IsResult
from trun.conditions.timing import TimeLeaf
from trun.conditions.value import TRUE
from trun.core.ready import PLAIN, Needs
from trun.core.record import JobRecord
from trun.core.voices import namer
from trun.messages import JobSpec


def condition_of(spec: JobSpec, here: str | None = None) -> Condition | None:
    """Return the condition of a job, None where it has none.

    With ``here``, the key of the service, jobs elsewhere have the names under which the job's owner hears them.

    A race without a condition of its own waits for its choices; inputs that no condition mentions must be completed.
    """
    if spec.when:
        return wire.loads(spec.when, None if here is None else namer(spec.owner, here))
    if spec.kind == "first":
        if spec.until:
            return Or(*[IsResult(uid, spec.until) for uid in spec.choices])
        return Or(*[IsCompleted(uid) for uid in spec.choices])
    if spec.inputs:
        return And(*[IsCompleted(uid) for uid in spec.inputs])
    return None


def needs_of(spec: JobSpec, fired: int) -> Needs:
    """Return what a job needs to start. Whoever might be recalled for a reason of its own is not plain."""
    if (
        not spec.resources
        and spec.timeout is None
        and spec.memory is None
        and spec.isolation == "worker"
        and not spec.retry_delay
        and fired >= TRUE
    ):
        return PLAIN
    return Needs(tuple(sorted((name, amount) for name, amount in spec.resources.items() if amount)), plain=False)


def is_expired(spec: JobSpec, atoms: tuple[str, ...], here: str) -> bool:
    """Whether it was time that made a condition impossible: these of its atoms are dead."""
    condition = condition_of(spec, here)
    leaves = {} if condition is None else {leaf.key: leaf for leaf in condition.depends}
    return bool(atoms) and all(isinstance(leaves.get(key), TimeLeaf) for key in atoms)


def held_amounts(record: JobRecord) -> dict[str, float]:
    """Return the resources of a running attempt: what it asked for, less what it gave back."""
    lowered = record.life.lowered
    return {name: amount - lowered.get(name, 0.0) for name, amount in record.spec.resources.items()}
