"""What must hold in a simulated history, after each step and at its end.

Works from what was committed, what clients heard and what the executor saw; it asks the engine for nothing but its
records, to hold them against the journal. Conditions are worked out by the model beside the machine.

Who may come in: ``simulation.py``. Rule: an invariant says what is wrong with which job.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from tests.machine.model import NEVER, TRUE, Model, ModelJob
from trun.conditions import wire
from trun.conditions.algebra import Condition
from trun.conditions.atoms import JobAtom
from trun.core.codec import decode_group, decode_life, encode
from trun.core.machine import Machine
from trun.messages import FINAL, Cancelled, Completed, Entry, Notified, Queued, Said, Skipped, Started

if TYPE_CHECKING:
    from tests.machine.simulation import World


def check_step(world: World) -> None:
    """After each step: resources are not given out twice, and nothing runs under an epoch that is over."""
    records = world.engine.machine.records
    working = [attempt for attempt in world.executor.running.values() if not attempt.is_suspended]
    gpu = sum(attempt.order.spec.resources.get("gpu", 0) - attempt.lowered for attempt in working)
    assert gpu <= 2, f"{gpu} of 2 gpu are in use"
    for uid, epoch in world.executor.running:
        assert records[uid].life.epoch == epoch, f"{uid} runs under epoch {epoch}, it is at {records[uid].life.epoch}"
    assert all(times <= 1 for times in world.executor.begun.values()), world.executor.begun.most_common(3)


def check_end(world: World) -> None:
    """At the end: nothing acknowledged is lost, no outcome comes twice, and everybody saw the same."""
    journal = world.journal
    specs = {stored.spec.uid: stored.spec for stored in journal.jobs()}
    lives = {stored.spec.uid: decode_life(stored.life) for stored in journal.jobs()}
    streams = {uid: journal.entries(uid, 1, 1_000_000) for uid in specs}
    for uid, entries in streams.items():
        check_stream(uid, entries, lives[uid].seq, runs=lives[uid].run)
    for client in world.clients:
        assert client.acked <= set(specs), f"acknowledged and lost: {client.acked - set(specs)}"
        assert not client.unacked, f"neither acknowledged nor refused: {list(client.unacked)}"
        assert not client.acked & client.refused
        for stream, heard in client.heard.items():
            written = journal.entries(stream, 1, 1_000_000)
            assert heard == written, f"{client.name} heard {stream} otherwise than it was written: {heard} {written}"
    assert set(specs) | {uid for client in world.clients for uid in client.refused} == set(world.uids)
    check_decisions(world, {uid: entry for uid, entry in streams.items() if uid in world.monotone})
    check_once(world, {uid: entries for uid, entries in streams.items() if specs[uid].kind == "call"})
    check_replay(world)


def check_stream(uid: str, entries: list[Entry], last: int, *, runs: int) -> None:
    """Numbers without gap, one end of each run, growing epochs, and what an attempt said in its order."""
    assert [entry.seq for entry in entries] == list(range(1, last + 1)), f"{uid} has a gap"
    ends = [entry.seq for entry in entries if isinstance(entry.event, FINAL)]
    assert ends[-1:] == [last], f"{uid} ended at {ends} of {last}"
    assert len(ends) == runs, f"{uid} ended {len(ends)} times in {runs} runs"
    epochs = [entry.event.epoch for entry in entries if isinstance(entry.event, Started)]
    assert all(second > first for first, second in itertools.pairwise(epochs)), f"{uid} has epochs {epochs}"
    said: list[object] = []
    epoch = 0  # none: a race has no attempts
    for entry in entries:
        if isinstance(entry.event, Started):
            said, epoch = [], entry.event.epoch
        elif isinstance(entry.event, Said) and isinstance(entry.event.value, int):
            said.append(entry.event.value)
            assert said == list(range(len(said))), f"{uid} said {said}"
        elif isinstance(entry.event, Completed) and epoch:
            assert entry.event.values["epoch"] == epoch, f"the end of {uid} is that of an earlier attempt"
            assert entry.event.values["said"] == len(said), f"{uid} said {entry.event.values}, heard were {said}"


def check_decisions(world: World, streams: dict[str, list[Entry]]) -> None:
    """No job was queued before its condition held, none was dropped that could still run, each was decided once.

    Entries carry no common number, so that a condition is worked out from what was true in the end: what cannot lapse
    and was fired holds then as well, and what died is dead.
    """
    model = Model(2)
    for stored in world.journal.jobs():
        uid = stored.spec.uid
        events = [entry.event for entry in world.journal.entries(uid, 1, 1_000_000)]
        job = ModelJob(uid, stored.number, state=decode_life(stored.life).state.value)
        job.was_started = any(isinstance(event, Started) for event in events)
        job.group = stored.spec.group
        job.said = {event.name for event in events if isinstance(event, Said)}
        model.jobs[uid] = job
    specs = {stored.spec.uid: stored.spec for stored in world.journal.jobs()}
    model.groups = {group.uid: group.total for group in map(decode_group, dict(world.journal.groups()).values())}
    model.levels = {level.key: TRUE for level in world.levels}
    for uid, entries in streams.items():
        spec = specs[uid]
        condition = wire.loads(spec.when) if spec.when else None
        if condition is None or depends_on_old_runs(uid, condition, world):
            continue
        value = model.value(condition)
        events = [entry.event for entry in entries]
        is_fired = any(isinstance(event, Queued | Started) for event in events)
        if is_fired and spec.on_never != "run":
            assert value == TRUE, f"{uid} was fired, and its condition is worth {value}: {wire.loads(spec.when)}"
        dropped = [event for event in events if isinstance(event, Cancelled | Skipped)]
        if any(isinstance(event, Skipped) or event.kind == "never" for event in dropped):
            assert value <= NEVER, f"{uid} was dropped, and its condition is worth {value}: {wire.loads(spec.when)}"
    streams = {uid: entries for uid, entries in streams.items() if uid not in world.retried}
    notified = Counter(
        (entry.event.job, entry.event.status)
        for entry in world.journal.entries("condition", 1, 1_000_000)
        if isinstance(entry.event, Notified) and entry.event.job in streams
    )
    twice = [place for place, times in notified.items() if times > 1]
    assert not twice, f"decided twice: {twice}"


def depends_on_old_runs(uid: str, condition: Condition, world: World) -> bool:
    """Whether somebody ran a job again on which the decision may rest."""
    subjects = {atom.subject for atom in condition.depends if isinstance(atom, JobAtom)}
    members = {stored.spec.uid for stored in world.journal.jobs() if stored.spec.group in subjects - {""}}
    return not world.retried.isdisjoint({uid} | subjects | members)


def check_once(world: World, streams: dict[str, list[Entry]]) -> None:
    """Where attempts outlive the service, what completed is not run again, and what ended meanwhile counts."""
    executor = world.executor
    completed = {place for place, how in executor.outcomes.items() if how == "completed"}
    for uid, entries in streams.items():
        last = entries[-1].event
        epochs = [entry.event.epoch for entry in entries if isinstance(entry.event, Started)]
        if isinstance(last, Completed):
            assert (uid, epochs[-1]) in completed, f"{uid} completed, and no worker knows"
        if executor.lasting:
            mine = sorted(epoch for other, epoch in completed if other == uid)
            if uid not in world.retried:
                assert len(mine) <= 1, f"{uid} was run again after it had completed: {mine}"
                assert not mine or isinstance(last, Completed), f"{uid} completed under {mine} and ended {last}"


def check_replay(world: World) -> None:
    """The journal read into another machine gives the records of the living one, byte for byte."""
    machine = Machine(resources={"gpu": 2})
    for _, data in world.journal.groups():
        machine.restore_group(decode_group(data))
    for stored in world.journal.jobs():
        machine.restore(stored.spec, decode_life(stored.life))
    machine.resume_all(world.clock.now())
    living = world.engine.machine.records
    assert {uid: encode(record.life) for uid, record in machine.records.items()} == {
        uid: encode(record.life) for uid, record in living.items()
    }
