"""How an engine begins: the journal is read back into the machine, and what was running is looked for.

Each job stands afterwards where it stood at the last commit; jobs that ran are reported missing, since their workers
died with the process before this one. Nothing is decided here: the machine says what follows from each report.

Who may come in: the engine, once, before its first step. Rule: whatever is read here is in memory afterwards once only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trun.core.codec import decode_group, decode_life
from trun.core.record import JobState, Life
from trun.messages import Missing

if TYPE_CHECKING:
    from trun.engine.loop import Engine

#: Seconds of a service's further life after which a job that was given out has certainly begun.
BEGUN_S = 1.0


def recover(engine: Engine, missing: str) -> list[Missing]:
    """Restore the machine; return the reports for jobs that ran, ``missing`` being the reason."""
    machine, journal = engine.machine, engine.journal
    running: list[tuple[str, Life]] = []
    last = 0.0
    for _, data in journal.groups():
        machine.restore_group(decode_group(data))
    for stored in journal.jobs():
        life = decode_life(stored.life)
        machine.restore(stored.spec, life)
        last = max(last, life.changed)
        if not life.state.is_final:
            engine.session(stored.spec.session).unfinished += 1
            if life.state is JobState.RUNNING:
                running.append((stored.spec.uid, life))
    for stream in ("condition", "service"):
        machine.restore_stream(stream, journal.last(stream))
    engine.gather(machine.resume_all(engine.clock.now()))
    # One that was given out a moment before the end may never have begun: that is no death under it.
    return [
        Missing(uid=uid, epoch=life.epoch, reason=missing, begun=bool(life.heard) or last - life.changed > BEGUN_S)
        for uid, life in running
    ]
