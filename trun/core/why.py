"""Why a job does not run: its condition, then resources, then its place in the queue. Never an empty answer.

The state that decides also explains: conditions are explained by the resolver; what lies behind them (a hold, a delay
before a retry, a missing resource, the queue, no free worker) is added here in words. And the story of a job, as far as
it is remembered. It reads and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from trun.conditions.algebra import And, Condition, Leaf, Never, Not
from trun.conditions.atoms import JobAtom
from trun.conditions.explain import Explanation, explain_tree
from trun.conditions.phrases import duration
from trun.conditions.timing import TimeLeaf
from trun.conditions.value import CANCELLED, NEVER, TRUE, WAIT, Value
from trun.core.book import Book
from trun.core.flow import Flow
from trun.core.record import JobRecord, JobState
from trun.core.states import MEANING
from trun.core.voices import plain_keys
from trun.core.wants import condition_of
from trun.core.words import counted_words, outcome_words, span

#: Holders of a scarce resource that are named.
HOLDERS = 5


def explain(flow: Flow, record: JobRecord, now: float) -> Explanation:
    """Return the explanation of one job."""
    uid = record.spec.uid
    describe = _describer(flow, record, now)
    found: Explanation
    if uid in flow.resolver and not record.life.winner:
        found = flow.resolver.explain(uid, now=now, describe=describe)
    else:
        condition = condition_of(record.spec, flow.book.here)
        condition = And() if condition is None else condition
        found = explain_tree(condition, _decided(flow, record, now), describe=describe, over=True)
    if found.value <= NEVER and record.life.fired:
        found.extra.append("it runs all the same (on_never='run', or it was released)")
    found.extra.extend(lines(flow, record, now))
    return found


def _describer(flow: Flow, owner: JobRecord, now: float) -> Callable[[Leaf], str]:
    waits = owner.spec.uid in flow.resolver

    def describe(leaf: Leaf) -> str:
        if isinstance(leaf, TimeLeaf) and waits:
            return f"{leaf} [{_time_left(leaf, leaf.deadline(owner.life.origin) - now)}]"
        if not isinstance(leaf, JobAtom):
            return str(leaf)
        record, group = flow.book.records.get(leaf.subject), flow.groups.get(leaf.subject)
        if group is not None:
            return f"{leaf} [{counted_words(group.counted())}]"
        if record is None:
            return str(leaf)
        argument = "" if leaf.argument is None else f"({leaf.argument!r})"
        return f"{record.id}.{leaf.what}{argument} [{outcome_words(record)}]"

    return describe


def _time_left(leaf: TimeLeaf, left: float) -> str:
    if leaf.late <= NEVER:
        return f"{duration(left)} left" if left > 0 else "too late"
    return f"in {duration(left)}" if left > 0 else "has come"


def _decided(flow: Flow, record: JobRecord, now: float) -> Callable[[Leaf], Value]:
    """Return what atoms were worth when the condition was decided, as far as its witness and the time tell."""
    life = record.life
    when = life.started or life.ended or life.changed or now
    witness = frozenset(record.life.witness)
    condition = condition_of(record.spec, flow.book.here) if witness else None
    then = _senses(condition) if condition is not None else {}
    is_dropped = bool(life.root) and life.state in (JobState.CANCELLED, JobState.SKIPPED, JobState.HELD)

    def value(leaf: Leaf) -> Value:
        if leaf.key in witness or plain_keys((leaf.key,), record.spec.owner)[0] in witness:
            return then.get(leaf.key, TRUE)
        if isinstance(leaf, TimeLeaf):
            return leaf.late if leaf.deadline(life.origin) <= when else leaf.early
        if is_dropped and isinstance(leaf, JobAtom) and flow.known.is_unsure(leaf):
            return CANCELLED  # its stream would tell; but as long as it waited for it, it was not true
        return flow.known.value(leaf)

    return value


def _senses(condition: Condition) -> dict[str, Value]:
    """Return what each atom must have been worth to speak for the condition: below ``~`` not true, below never dead."""
    found: dict[str, Value] = {}
    against = {TRUE: WAIT, WAIT: TRUE, NEVER: TRUE}
    stack: list[tuple[Condition, Value]] = [(condition, TRUE)]
    while stack:
        node, sense = stack.pop()
        if isinstance(node, Leaf):
            found.setdefault(node.key, sense)
        elif isinstance(node, Not):
            stack.append((node.child, against[sense]))
        elif isinstance(node, Never):
            stack.append((node.child, NEVER if sense is TRUE else TRUE))
        else:
            stack.extend((child, sense) for child in node.of)
    return found


def lines(flow: Flow, record: JobRecord, now: float) -> list[str]:
    """Say what lies behind the condition, one thing a line; at least one."""
    life = record.life
    found: list[str] = []
    match life.state:
        case JobState.WAITING if life.winner:
            winner = flow.book.records.get(life.winner)
            name = winner.id if winner is not None else life.winner
            found.append(f"the race was won by {name}, which has not ended yet")
        case JobState.WAITING if life.until:
            left = max(0.0, life.until - now)
            found.append(f"attempt {life.attempt} ended badly ({life.kind}); the next one starts in {span(left)}")
        case JobState.WAITING if record.spec.uid in flow.waits.doubtful:
            count = len(flow.waits.doubtful[record.spec.uid].unseen)
            found.append(f"its condition seems to hold, but nobody has looked at {count} of its atoms yet")
        case JobState.WAITING:
            found.append(f"has waited {span(now - life.changed)} for its condition")
        case JobState.HELD:
            found.append(_held_line(record))
        case JobState.QUEUED:
            found.append(_queue_line(flow, record))
        case JobState.RUNNING:
            found.append(_running_line(flow, record, now))
        case JobState.LOST:
            found.append(f"lost: nobody can say what became of its worker ({life.reason or 'no reason is known'})")
        case JobState.NEW:
            found.append("it is being accepted")
        case _:
            found.append(outcome_words(record) + (f": {life.reason}" if life.reason else ""))
    root = flow.book.records.get(life.root)
    if root is not None and root is not record:
        found.append(f"root cause: {root.id} {outcome_words(root)}")
    return found


def _held_line(record: JobRecord) -> str:
    life = record.life
    if life.kind == "never":
        return f"held: {life.reason} (trun release {record.id} runs it all the same)"
    return f"{life.reason or 'held'} (trun release {record.id} lets it go on)"


def _running_line(flow: Flow, record: JobRecord, now: float) -> str:
    life = record.life
    if life.suspended and record.spec.uid in flow.queue:
        return "running; has waited for jobs of its own and stands in line for its slot"
    if life.suspended:
        return "running; waits for jobs of its own and has given its slot back"
    stopping = f"; it was told to stop ({life.stopping})" if life.stopping else ""
    return f"running for {span(now - life.changed)}, attempt {life.attempt}{stopping}"


def _queue_line(flow: Flow, record: JobRecord) -> str:
    ledger, uid = flow.ledger, record.spec.uid
    for name, wanted in record.spec.resources.items():
        if name not in ledger.limits:
            return f"ready, but the service has no resource {name} any more; start it again with --resources {name}=N"
        if wanted > ledger.free(name):
            holders = ", ".join(flow.book.records[other].id for other in ledger.holders(name)[:HOLDERS])
            return (
                f"ready, but lacks resource {name}: wants {wanted:g}, "
                f"{ledger.used[name]:g} of {ledger.limits[name]:g} used by {holders or 'nobody'}"
            )
    place = flow.queue.position(uid) if uid in flow.queue else 1
    priority = f", priority {record.spec.priority:g}" if record.spec.priority else ""
    return f"ready; number {place} of {max(1, len(flow.queue))} in the queue{priority} (no worker is free)"


def reason(flow: Flow, record: JobRecord, now: float) -> str:
    """Say in one short line why a job does not run; empty for one that runs or has completed."""
    life = record.life
    if life.state in (JobState.RUNNING, JobState.COMPLETED):
        return ""
    if life.state is JobState.WAITING and not life.until and not life.winner and record.spec.uid in flow.resolver:
        describe = _describer(flow, record, now)
        names = [describe(leaf) for leaf in flow.resolver.explain(record.spec.uid, now=now).blocking[:4]]
        more = " and more" if len(names) > 3 else ""
        return f"needs {', '.join(names[:3])}{more}" if names else "needs its condition"
    return lines(flow, record, now)[0]


def story(book: Book, record: JobRecord) -> list[str]:
    """Return what is remembered of a job, one line each, in order."""
    life = record.life
    found = [f"{0.0:+10.3f} s  {record.id} was accepted"]
    for when, state, cause in book.changes(record.spec.uid):
        found.append(f"{when - life.created:+10.3f} s  {state.value}: {cause} ({MEANING[cause]})")
    where = f"{outcome_words(record)}, run {life.run}, attempt {life.attempt}, entry {life.seq} of its stream"
    found.append(f"{life.changed - life.created:+10.3f} s  {record.id} {where}")
    return found
