"""Words about jobs, for reasons, stories and explanations. What they say is decided elsewhere."""

from __future__ import annotations

from trun.core.record import JobRecord, JobState


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


def span(seconds: float) -> str:
    """Return a time span as people write it."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
