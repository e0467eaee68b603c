"""Races (``trun.first``): who has won, what becomes of the losers, and the race's own end.

A race is a job without a payload. Its condition is the Or over its choices; when that fires, the winner is the choice
that satisfied it (ties: the earlier end, then the position). Losers are cancelled by demand; the race ends as its
winner ends. Functions over the machine, called by it alone.
"""

from __future__ import annotations

from typing import Any

from trun.core import why
from trun.core.record import JobRecord
from trun.core.states import Cause
from trun.messages import Aborted, Cancelled, Completed, Event, Failed, Said, Skipped

#: The machine itself; it imports this room, so its type cannot be named here.
Machine = Any


def decide(machine: Machine, race: JobRecord, now: float) -> None:
    """The race's condition holds: name the winner, deal with the losers, wait for the winner's end."""
    winner = _winner(machine, race)
    race.life.winner = winner
    machine.publish(race, Said(name="winner", value=winner), now)
    race.life.emitted += 1
    machine.save(race)
    machine.awaiting.setdefault(winner, []).append(race.spec.uid)
    if race.spec.losers != "none":
        for choice in race.spec.choices:
            loser = machine.records.get(choice)
            if choice == winner or loser is None:
                continue
            if race.spec.losers == "all" or not is_needed(machine, loser):
                machine.cancel(loser, "race", f"{race.id} was won by {_label(machine, winner)}", now)
    winner_ended(machine, winner, now)


def _winner(machine: Machine, race: JobRecord) -> str:
    true = {why.subject_of(key) for key in race.life.witness}
    candidates = [uid for uid in race.spec.choices if uid in true] or list(race.spec.choices)

    def place(uid: str) -> tuple[float, int]:
        record = machine.records.get(uid)
        ended = record.life.ended if record is not None and record.life.ended else float("inf")
        return ended, race.spec.choices.index(uid)

    return min(candidates, key=place)


def is_needed(machine: Machine, loser: JobRecord) -> bool:
    """Whether something live still waits for a job, or for its result."""
    return machine.resolver.wanted(loser.spec.uid) or bool(machine.awaiting.get(loser.spec.uid))


def _label(machine: Machine, uid: str) -> str:
    record = machine.records.get(uid)
    return record.id if record is not None else uid


def winner_ended(machine: Machine, winner: str, now: float) -> None:
    """If the winner of races has ended, they end as it did."""
    waiting = machine.awaiting.get(winner)
    if not waiting:
        return
    event = _end_of(machine, winner)
    if event is None:
        return
    del machine.awaiting[winner]
    for uid in waiting:
        race = machine.records[uid]
        if race.life.state.is_final:
            continue
        cause, own = _mirror(event, winner)
        if isinstance(own, Completed):
            race.life.values, race.life.progress = own.values, 1.0
        machine.finish(race, cause, own, now)


def _end_of(machine: Machine, uid: str) -> Event | None:
    record = machine.records.get(uid)
    if record is not None:
        return why.final_event(record)
    for event in reversed(machine.foreign.get(uid, ())):
        if isinstance(event, (Completed, Failed, Aborted, Cancelled, Skipped)):
            return event
    return None


def _mirror(event: Any, winner: str) -> tuple[Cause, Event]:
    """Return the end of a race whose winner ended with ``event``; its result stays with the winner."""
    if isinstance(event, Completed):
        return Cause.COMPLETED, Completed(values=event.values)
    if isinstance(event, Failed):
        return Cause.FAILED, Failed(kind=event.kind, error=event.error)
    reason = f"its winner ended: {getattr(event, 'reason', '') or type(event).__name__.lower()}"
    return Cause.CANCELLED, Cancelled(reason=reason, kind="race", root=winner)
