"""Why a job does not run: its condition, then resources, then its place in the queue. Never an empty answer.

The same state that decides also explains: conditions are explained by the resolver, what lies behind them (a missing
resource, a delay before a retry, a hold, the queue, no worker) is added here in words. Functions over the machine.
"""

from __future__ import annotations

from typing import Any

from trun.conditions import wire
from trun.conditions.algebra import And, Leaf
from trun.conditions.atoms import JobAtom
from trun.conditions.explain import Explanation, explain_tree
from trun.core.record import JobRecord, JobState
from trun.messages import Aborted, Cancelled, Completed, Event, Failed, Skipped

#: The machine itself; it imports this room, so its type cannot be named here.
Machine = Any


def final_event(record: JobRecord) -> Event | None:
    """Return the event with which the present run ended, as far as the record tells; None before."""
    life = record.life
    match life.state:
        case JobState.COMPLETED:
            return Completed(values=life.values)
        case JobState.FAILED:
            return Failed(kind=life.kind, error=life.error)
        case JobState.ABORTED:
            return Aborted(reason=life.reason)
        case JobState.CANCELLED:
            return Cancelled(reason=life.reason, root=life.root)
        case JobState.SKIPPED:
            return Skipped(reason=life.reason, root=life.root)
    return None


def subject_of(key: str) -> str:
    """Return the uid in the key of a job atom, or an empty string."""
    kind, _, rest = key.partition(":")
    return rest.partition(":")[0] if kind == "job" else ""


def state_words(record: JobRecord) -> str:
    """Say in words where a job stands."""
    life = record.life
    if life.state is JobState.FAILED and life.error is not None:
        return f"failed: {life.error.type.rpartition('.')[2]}: {first_line(life.error.message)}"
    if life.state is JobState.FAILED:
        return f"failed ({life.kind})"
    if life.state is JobState.CANCELLED:
        return "was cancelled"
    if life.state is JobState.ABORTED:
        return "was aborted"
    if life.state is JobState.SKIPPED:
        return "was skipped"
    if life.state is JobState.RUNNING and life.progress:
        return f"running, {life.progress:.0%}"
    return str(life.state.value)


def first_line(text: str) -> str:
    """Return the first line of a text, shortened."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 200 else line[:199] + "…"


def _describer(machine: Machine) -> Any:
    def describe(leaf: Leaf) -> str:
        if not isinstance(leaf, JobAtom):
            return str(leaf)
        record = machine.records.get(leaf.subject)
        if record is None:
            return str(leaf)
        argument = "" if leaf.argument is None else f"({leaf.argument!r})"
        return f"{record.id}.{leaf.what}{argument} [{state_words(record)}]"

    return describe


def explain(machine: Machine, record: JobRecord, now: float) -> Explanation:
    """Return the explanation of one job."""
    life, uid = record.life, record.spec.uid
    describe = _describer(machine)
    found: Explanation
    if life.state is JobState.WAITING and not life.until and not life.winner:
        found = machine.resolver.explain(uid, now=now, describe=describe)
    else:
        condition = wire.loads(record.spec.when) if record.spec.when else And()
        found = explain_settled(machine, condition, describe)
    found.extra.extend(lines(machine, record, now))
    return found


def explain_settled(machine: Machine, condition: Any, describe: Any) -> Explanation:
    """Explain a condition that nobody waits for any more, by what is known now."""
    return explain_tree(condition, machine.known, describe=describe)


def lines(machine: Machine, record: JobRecord, now: float) -> list[str]:
    """Say what lies behind the condition, one thing a line; at least one."""
    life = record.life
    found: list[str] = []
    match life.state:
        case JobState.WAITING if life.winner:
            winner = machine.records.get(life.winner)
            name = winner.id if winner is not None else life.winner
            found.append(f"the race was won by {name}, which has not ended yet")
        case JobState.WAITING if life.until:
            left = max(0.0, life.until - now)
            found.append(f"attempt {life.attempt} ended badly ({life.kind}); the next one starts in {left:.1f} s")
        case JobState.WAITING:
            found.append(f"waiting for its condition since {_span(now - life.created)}")
        case JobState.HELD:
            found.append(f"held: {life.reason or 'somebody holds it'} (trun release {record.id} lets it go on)")
        case JobState.QUEUED:
            found.extend(_queue_lines(machine, record))
        case JobState.RUNNING if life.suspended:
            found.append("running, waits for jobs of its own and has given its slot back")
        case JobState.RUNNING:
            found.append(f"running for {_span(now - life.changed)}, attempt {life.attempt}")
        case JobState.LOST:
            found.append("lost: nobody can say yet what became of its worker")
        case JobState.NEW:
            found.append("it is being accepted")
        case _:
            found.append(state_words(record) + (f": {life.reason}" if life.reason else ""))
    if life.root and life.root in machine.records:
        root = machine.records[life.root]
        found.append(f"root cause: {root.id} {state_words(root)}")
    return found


def _queue_lines(machine: Machine, record: JobRecord) -> list[str]:
    scarce = machine.ready.lacking(record.spec.uid)
    if scarce:
        ledger = machine.ledger
        holders = ", ".join(machine.records[uid].id for uid in ledger.holders(scarce)[:5])
        wanted = record.spec.resources[scarce]
        return [
            f"ready, but lacks resource {scarce}: wants {wanted:g}, "
            f"{ledger.used[scarce]:g} of {ledger.limits[scarce]:g} used by {holders or 'nobody'}"
        ]
    ahead = machine.ready.before(record.spec.uid, (-record.spec.priority, record.life.number))
    running = sum(1 for other in machine.records.values() if other.life.state is JobState.RUNNING)
    return [f"ready; stands in the queue behind {ahead} of {len(machine.ready)}, {running} running (no worker is free)"]


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def reason(machine: Machine, record: JobRecord, now: float) -> str:
    """Say in one short line why a job does not run; empty for one that runs or has completed."""
    life = record.life
    if life.state in (JobState.RUNNING, JobState.COMPLETED):
        return ""
    if life.state is JobState.WAITING and not life.until and not life.winner:
        names = [_describer(machine)(leaf) for leaf in machine.resolver.explain(record.spec.uid, now=now).blocking]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"needs {', '.join(names[:3])}{more}" if names else "needs its condition"
    return lines(machine, record, now)[0]


def graph(machine: Machine, uid: str | None) -> dict[str, Any]:
    """Return jobs and their conditions as plain data: all, or one and what it waits for."""
    chosen = list(machine.records) if uid is None else [uid]
    seen: dict[str, None] = {}
    jobs: list[dict[str, Any]] = []
    while chosen:
        current = chosen.pop(0)
        record = machine.records.get(current)
        if current in seen or record is None:
            continue
        seen[current] = None
        condition = wire.loads(record.spec.when) if record.spec.when else None
        jobs.append(
            {
                "uid": current,
                "id": record.id,
                "state": record.life.state.value,
                "kind": record.spec.kind,
                "group": record.spec.group,
                "inputs": list(record.spec.inputs),
                "condition": condition.to_dict() if condition is not None else None,
            }
        )
        if uid is not None and condition is not None:
            chosen.extend(leaf.subject for leaf in condition.depends if isinstance(leaf, JobAtom))
    return {"jobs": jobs, "groups": sorted(machine.groups.names()) if uid is None else []}
