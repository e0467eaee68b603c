"""Going on after a restart: every unfinished job is put back where it stood, from its record alone.

Those that waited are registered again with what is known now and their original time of registration; those that were
queued stand in line again, unless a condition that held only for the moment must be looked at anew; those that ran stay
RUNNING, with their resources, until the engine reports what became of them.

Rule: a machine that was restored goes on exactly as the one that wrote the records would have.
"""

from __future__ import annotations

from trun.conditions.algebra import Condition
from trun.conditions.atoms import JobAtom
from trun.conditions.resolver import Fire
from trun.conditions.value import TRUE
from trun.core.flow import GRACE_S, Flow
from trun.core.record import JobRecord, JobState, Replay, Stop
from trun.core.wants import condition_of, held_amounts


def resume(flow: Flow) -> None:
    """Let all restored jobs go on; all records must be there already, since jobs may wait for later ones."""
    far: dict[str, None] = {}
    for record in list(flow.book.records.values()):
        if not record.life.state.is_final:
            _resume_one(flow, record, far)
    flow.book.out.extend(Replay(uid, 1) for uid in far)
    flow.spread()


def _resume_one(flow: Flow, record: JobRecord, far: dict[str, None]) -> None:
    life, uid = record.life, record.spec.uid
    match life.state:
        case JobState.RUNNING:
            if not life.suspended:
                flow.ledger.take(uid, held_amounts(record))
            if life.stopping:  # perhaps nobody has told it yet
                flow.book.out.append(Stop(uid, life.epoch, GRACE_S, life.stopping))
        case JobState.WAITING if life.winner:
            flow.await_winner(record)
        case JobState.WAITING if life.until:
            flow.timers.add(life.until, uid)
        case JobState.WAITING:
            _wait_again(flow, record, far)
        case JobState.HELD if not life.fired and life.kind != "never":
            _wait_again(flow, record, far)
        case JobState.HELD | JobState.QUEUED if 0 < life.fired < TRUE:
            _look_again(flow, record, far)
        case JobState.QUEUED:
            flow.enqueue(record)


def _wait_again(flow: Flow, record: JobRecord, far: dict[str, None]) -> None:
    condition = condition_of(record.spec, flow.book.here)
    if condition is not None:
        _ask_abroad(flow, condition, far)
        flow.decide(flow.waits.register(record, condition))


def _look_again(flow: Flow, record: JobRecord, far: dict[str, None]) -> None:
    """A condition held for the moment when the service stopped: perhaps it does no more."""
    condition = condition_of(record.spec, flow.book.here)
    assert condition is not None
    _ask_abroad(flow, condition, far)
    decisions = flow.waits.register(record, condition)
    fire = decisions[0] if decisions else None
    if fire is not None and not isinstance(fire, Fire):
        flow.decide(decisions)
        if record.life.state is JobState.QUEUED:  # on_never="run"
            flow.enqueue(record)
        return
    if fire is None or flow.waits.is_doubtful(fire):
        flow.lapse(record)
        return
    if fire.value != record.life.fired:
        record.life.fired = int(fire.value)
        flow.book.save(record)
    if record.life.state is JobState.QUEUED:
        flow.enqueue(record)


def _ask_abroad(flow: Flow, condition: Condition, far: dict[str, None]) -> None:
    """Note the jobs of other services that a condition mentions: what the journal has of them is read back."""
    for leaf in condition.depends:
        if isinstance(leaf, JobAtom) and leaf.subject not in flow.book.records and leaf.subject not in flow.groups:
            far[leaf.subject] = None
