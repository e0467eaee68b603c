"""Words about jobs, for reasons, stories and explanations. What they say is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from trun.conditions.atoms import JobAtom
from trun.core.record import JobRecord, JobState
from trun.errors import nearest
from trun.messages import Counted

#: Names of reported values that are listed.
NAMES = 5


def outcome_words(record: JobRecord) -> str:
    """Say in words how a job ended, or where it stands."""
    life = record.life
    if life.state is JobState.FAILED:
        if life.error is None:
            return f"failed ({life.kind})"
        lines = life.error.message.strip().splitlines()
        text = f"failed: {life.error.type.rpartition('.')[2]}" + (f": {lines[0][:200]}" if lines else "")
        return text
    if life.state in (JobState.CANCELLED, JobState.ABORTED, JobState.SKIPPED):
        return f"was {life.state.value}"
    if life.state is JobState.RUNNING and life.progress:
        return f"is running, {life.progress:.0%}"
    return "has completed" if life.state is JobState.COMPLETED else f"is {life.state.value}"


def unmet_words(record: JobRecord, atoms: Iterable[JobAtom]) -> str:
    """Say how a job ended without the message, the result or the progress that one of these atoms waited for."""
    life = record.life
    for atom in atoms if life.state is JobState.COMPLETED else ():
        if atom.what == "message":
            return f"has completed without saying {atom.argument!r}"
        if atom.what == "result" and atom.predicate is not None:
            values = _values(life.values, atom.predicate.names)
            return f"has completed, and improved({atom.argument!r}) never held ({values})"
    return outcome_words(record)


def _values(values: dict[str, object], names: Iterable[str]) -> str:
    """Say what became of the values that an expression looks at."""
    wanted = sorted(names)
    shown = [f"{name} = {values[name]!r:.40}" for name in wanted if name in values]
    if shown or not wanted:
        return f"at its end {', '.join(shown)}" if shown else "whatever its values"
    if not values:
        return "it reported no values"
    known = ", ".join(list(map(str, values))[:NAMES]) + (", ..." if len(values) > NAMES else "")
    return f"its values are {known}.{nearest(wanted[0], map(str, values))}".rstrip(".")


def counted_words(counted: Counted) -> str:
    """Say how far a group is."""
    bad = [(name, getattr(counted, name)) for name in ("failed", "aborted", "cancelled", "skipped")]
    total = str(counted.total) if counted.closed else f"{counted.total} so far"
    words = [f"{counted.completed} of {total} completed", *(f"{count} {name}" for name, count in bad if count)]
    return ", ".join(words)


def span(seconds: float) -> str:
    """Return a time span as people write it."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
