"""Reading verbs: questions about a service, answered as plain data from the machine and the journal.

The same functions answer over the socket of a running node and, for ``trun ps`` and ``trun why`` after the end, over a
machine that was restored from its record. They read; nothing here changes anything.
Rule: keys of an answer are only ever added, since ``--json`` prints them.
"""

from __future__ import annotations

import fnmatch
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trun.core.record import JobRecord, JobState
from trun.core.voices import plain, plain_keys
from trun.errors import BadOption, UnknownName
from trun.messages import (
    Aborted,
    Attempted,
    Cancelled,
    Completed,
    Entry,
    ErrorInfo,
    Event,
    Failed,
    Held,
    Lost,
    Queued,
    Skipped,
    Started,
    Waiting,
)
from trun.version import __version__

if TYPE_CHECKING:
    from trun.engine.loop import Engine

#: Characters of a log that one answer carries.
LOG_CHARS = 1_000_000
#: Newest jobs among which the name nearest to an unknown one is looked for: each costs some microseconds.
NEAREST = 1_000

#: Jobs of one name whose facts are given.
MEANT = 1_000
#: Letters of a pattern for names; and letters of names, times those of the pattern behind its first ``*``, for a list.
PATTERN, LETTERS = 200, 150_000_000


def find(engine: Engine, wanted: str) -> JobRecord:
    """Return the job with this uid, id (``fit#7``), or unambiguous name; raise ``UnknownName`` otherwise."""
    records = engine.machine.records
    record = records.get(wanted)
    if record is not None:
        return record
    name, _, number = wanted.rpartition("#")
    if name and number.isdigit():
        record = engine.machine.numbered(int(number))
        if record is not None and record.id == wanted:
            return record
    named = [r for r in records.values() if r.spec.name == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(r.id for r in named[:5])
        raise UnknownName(f"{len(named)} jobs are called {wanted!r}: {ids}{', ...' if len(named) > 5 else ''}.")
    known = [r.id for r in list(records.values())[-NEAREST:]]
    raise UnknownName(f"service {engine.welcome.name} has no job {wanted!r}.", name=wanted, known=known)


def which(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the facts of the jobs that ``job`` may mean, the newest of many; the nearest ids where there is none."""
    wanted = str(arguments["job"])
    try:
        found = [find(engine, wanted)]
    except UnknownName as error:
        found = [record for record in engine.machine.records.values() if record.spec.name == wanted][-MEANT:]
        near = [] if found else list(error.suggestions)
    else:
        near = []
    return {"jobs": [facts(engine, record, reason=False) for record in found], "near": near}


def facts(engine: Engine, record: JobRecord, *, reason: bool = True) -> dict[str, Any]:
    """Return what a table shows of one job."""
    life, spec = record.life, record.spec
    now = engine.clock.now()
    began = life.started or None
    why = life.reason if life.state.is_final or life.state is JobState.LOST else ""
    return {
        "id": record.id,
        "uid": spec.uid,
        "name": spec.name,
        "service": engine.welcome.name,
        "number": life.number,
        "seq": life.seq,
        "state": life.state.value,
        "final": life.state.is_final,
        "reason": why or (_reason(engine, record, now) if reason else ""),
        "run": life.run,
        "attempts": life.attempt,
        "progress": life.progress,
        "note": life.note,
        "created": life.created,
        "changed": life.changed,
        "started": began,
        "ended": life.ended or None,
        "waited_s": life.waited_s(now),
        "ran_s": life.ran_s(now),
        "priority": spec.priority,
        "resources": spec.resources,
        "kind": life.kind,
        "error": error_line(life.error) if life.error is not None else "",
        "root": life.root,
        "group": spec.group,
        "packages": engine.payloads.packages.taken(record),
    }


def _pattern(text: str) -> Callable[[str], Any]:
    """Return what says whether a name fits a pattern; what would keep everybody else waiting is refused."""
    if len(text) > PATTERN:
        raise BadOption(f"a pattern for names has at most {PATTERN} letters, not {len(text):,}.")
    match, beyond, left = re.compile(fnmatch.translate(text)).match, len(text.partition("*")[2]), LETTERS

    def fits(name: str) -> Any:
        nonlocal left
        left -= beyond * len(name)  # a part behind a * is looked for at each letter
        if left < 0:
            raise BadOption(f"the names are too long for the pattern {text!r}: begin it with more than a *.")
        return match(name)

    return fits


def _chosen(engine: Engine, arguments: dict[str, Any]) -> Iterable[JobRecord]:
    wanted = arguments.get("state") or ()
    states = {str(part).strip() for part in (wanted.split(",") if isinstance(wanted, str) else wanted)} - {""}
    name, since, changed = arguments.get("name"), arguments.get("since"), arguments.get("changed")
    fits = _pattern(str(name)) if name else None
    for record in engine.machine.records.values():
        life = record.life
        if states and life.state.value not in states:
            continue
        if changed and life.changed < changed:
            continue
        if fits is not None and not fits(record.spec.name) and not fits(record.id):
            continue
        if since and life.created < since:
            continue
        yield record


#: Which jobs are shown first where not all can be; within a rank the newest.
_RANK = {"running": 0, "lost": 0, "failed": 1, "queued": 2, "held": 2, "waiting": 3, "new": 3}


def ps(engine: Engine, arguments: dict[str, Any]) -> Any:
    """List jobs: ``state`` (comma-separated), ``name`` (pattern), ``since``, ``never``, ``limit``, ``after``.

    ``never`` leaves those that can never run. Where ``limit`` leaves jobs out, those that run or failed are kept before
    those that wait, and these before those that ended well; what is listed is in order of submission. With ``after``
    it is a page: the ``limit`` jobs that follow the job of that number (counts come with the first, ``after=0``).
    """
    found = list(_chosen(engine, arguments))
    if arguments.get("never"):
        found = [record for record in found if can_never_run(engine, record)]
    shown, limit = found, int(arguments.get("limit") or 0)
    if arguments.get("after") is not None:
        after = int(arguments["after"])
        shown = [record for record in found if record.life.number > after][: limit or None]
    elif 0 < limit < len(found):
        ranked = sorted(found, key=lambda record: (_RANK.get(record.life.state.value, 4), -record.life.number))
        shown = sorted(ranked[:limit], key=lambda record: record.life.number)
    rows = [facts(engine, record) for record in shown]
    counts = Counter(record.life.state.value for record in found) if not arguments.get("after") else {}
    return {"service": engine.welcome.name, "total": len(found), "counts": dict(counts), "jobs": rows}


def can_never_run(engine: Engine, record: JobRecord) -> bool:
    """Whether the job was dropped because its condition can no longer hold, or is held for that reason."""
    life = record.life
    if life.state.value == "skipped" or (life.state.value == "cancelled" and life.root):
        return True
    if life.state.value == "cancelled":
        entry = engine.journal.entry(record.spec.uid, life.final_seq)
        return entry is not None and isinstance(entry.event, Cancelled) and entry.event.kind == "never"
    return life.state.value == "held" and life.kind == "never"


def jobs(engine: Engine, arguments: dict[str, Any]) -> Any:
    """List the jobs that match, without their reasons."""
    return [facts(engine, record, reason=False) for record in _chosen(engine, arguments)]


def job(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the facts of one job."""
    return facts(engine, find(engine, arguments["job"]))


def why(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Explain one job: the tree of its condition, what blocks it, then resources and queue."""
    record = find(engine, arguments["job"])
    explanation = engine.machine.explain(record.spec.uid, engine.clock.now())
    explanation.extra += _silences(engine, record)
    data = explanation.to_dict()
    for row in data["tree"]:
        if "key" in row:
            (row["key"],) = plain_keys((row["key"],), record.spec.owner)
    if arguments.get("atoms"):
        data["atoms"] = _plain_atoms(explanation.atoms_data())
    return {**data, "text": str(explanation), "job": facts(engine, record)}


def _plain_atoms(found: Any) -> Any:
    """Return atoms as clients know them: without the names that only this service gives their jobs."""
    if isinstance(found, list):
        return [_plain_atoms(one) for one in found]
    if "uid" in found:
        return {**found, "uid": plain(str(found["uid"]))}
    return {name: _plain_atoms(one) if isinstance(one, list) else one for name, one in found.items()}


def _reason(engine: Engine, record: JobRecord, now: float) -> str:
    return "; ".join([engine.machine.reason(record.spec.uid, now), *_silences(engine, record)])


def _silences(engine: Engine, record: JobRecord) -> list[str]:
    """Say which other services, that the job waits for, are not heard."""
    if engine.mail is None or not record.spec.origins or record.life.state is not JobState.WAITING:
        return []
    return engine.mail.silences(record.spec)


def downstream(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the facts of the jobs that never ran because of how ``job`` ended: what a retry downstream revives."""
    uid = find(engine, arguments["job"]).spec.uid
    return [
        facts(engine, record, reason=False)
        for record in engine.machine.records.values()
        if record.life.root == uid and record.life.state.value in ("cancelled", "skipped", "failed")
    ]


def story(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the printed story of one job: what happened, a line each, in seconds from its acceptance."""
    record = find(engine, arguments["job"])
    return [_story_line(entry, record.life.created) for entry in engine.journal.entries(record.spec.uid, 1, 100_000)]


def _story_line(entry: Entry, begin: float) -> str:
    facts = msgspec.structs.asdict(entry.event)
    facts.pop("result", None)
    error = facts.pop("error", None)
    if error is not None:
        facts["error"] = error_line(error)
    shown = " ".join(f"{name}={value!r}" for name, value in facts.items() if value not in ("", None, (), {}, 0))
    return f"{entry.time - begin:9.3f} s  {type(entry.event).__name__.lower():<10} {shown}".rstrip()


def entries(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the entries of a job's stream from ``since`` on."""
    record = find(engine, arguments["job"])
    since, limit = int(arguments.get("since", 1)), int(arguments.get("limit", 100_000))
    found = engine.journal.entries(record.spec.uid, since, limit)
    return [msgspec.to_builtins(entry, builtin_types=(bytes,)) for entry in found]


#: Jobs that one answer of ``changes`` carries.
CHANGES = 500


def changes(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return what moved after the ``cursor`` of an earlier answer, and how many jobs are where.

    A job comes with all its moves after the time ``since``, ``{"seq", "time", "state", "text"}``; those that came
    before are told apart by ``seq``. At most so many jobs come at once that the service is not kept from its work;
    ``more`` says that another answer waits. Without a cursor nothing comes but the cursor of now.
    """
    since, cursor = float(arguments.get("since") or 0.0), arguments.get("cursor")
    begin = (float(cursor[0]), int(cursor[1])) if cursor else (0.0, 0)
    counts: Counter[str] = Counter()
    moved: list[JobRecord] = []
    for uid, record in engine.machine.records.items():
        life = record.life
        counts[life.state.value] += 1
        # What this very step has changed is not committed yet, and more may come of the same moment: next time.
        if (life.changed, life.number) > begin and uid not in engine._dirty:
            moved.append(record)
    moved.sort(key=_place)
    page = moved[:CHANGES] if cursor else []
    found = [{**_brief(record), "moves": _moves(engine, record, since)} for record in page]
    last = page[-1:] if cursor else moved[-1:]
    return {
        "cursor": _place(last[0]) if last else begin,
        "more": len(moved) > len(page) and bool(cursor),
        "counts": dict(counts),
        "jobs": found,
    }


def _place(record: JobRecord) -> tuple[float, int]:
    return record.life.changed, record.life.number


def _brief(record: JobRecord) -> dict[str, Any]:
    life = record.life
    spent = life.ran_s(life.ended) if life.ended else None
    return {"uid": record.spec.uid, "id": record.id, "seq": life.seq, "ran_s": spent}


def _moves(engine: Engine, record: JobRecord, since: float) -> list[dict[str, Any]]:
    moves = (_move(entry) for entry in engine.journal.entries(record.spec.uid, 1, 100_000))
    return [move for move in moves if move is not None and move["time"] > since]


#: Event -> the state that it leads to, and the field that says why.
_MOVES: dict[type[Event], tuple[str, str]] = {
    Waiting: ("waiting", "reason"),
    Held: ("held", "reason"),
    Queued: ("queued", ""),
    Started: ("running", ""),
    Lost: ("lost", "reason"),
    Completed: ("completed", ""),
    Failed: ("failed", "error"),
    Aborted: ("aborted", "reason"),
    Cancelled: ("cancelled", "reason"),
    Skipped: ("skipped", "reason"),
    Attempted: ("failed", "error"),
}


def _move(entry: Entry) -> dict[str, Any] | None:
    """Return an entry as a move of its job; None for what moves nothing."""
    event = entry.event
    known = _MOVES.get(type(event))
    if known is None:
        return None
    why = getattr(event, known[1]) if known[1] else ""
    text = error_line(why) if isinstance(why, ErrorInfo) else str(why or getattr(event, "kind", ""))
    if isinstance(event, Started) and event.attempt > 1:
        text = f"attempt {event.attempt}"
    if isinstance(event, Attempted):
        text = f"attempt {event.attempt}: {text}; another follows"
    return {"seq": entry.seq, "time": entry.time, "state": known[0], "text": text}


def error_line(error: ErrorInfo) -> str:
    """Return an error as one line: name of its type, and message where it has one."""
    return f"{error.type.rpartition('.')[2]}: {error.message}".removesuffix(": ")


def outcome(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return how a job ended: its final event, following the root of a chain and the winner of a race."""
    record = find(engine, arguments["uid"])
    seen = {record.spec.uid}
    while (record.life.root or record.life.winner) not in {"", *seen}:
        following = engine.machine.records.get(record.life.root or record.life.winner)
        if following is None:
            break
        record = following
        seen.add(record.spec.uid)
    entry = engine.journal.entry(record.spec.uid, record.life.final_seq) if record.life.final_seq else None
    event = None if entry is None else msgspec.to_builtins(entry.event, builtin_types=(bytes,))
    return {"id": record.id, "uid": record.spec.uid, "event": event}


def result(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the payload of a completed job, following the winners of races."""
    payload = engine.payloads.result(arguments["uid"])
    return None if payload is None else msgspec.to_builtins(payload, builtin_types=(bytes,))


def log(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return what an attempt printed: ``offset`` bytes on, at most ``LOG_CHARS``."""
    record = find(engine, arguments["job"])
    life = record.life
    attempt = int(arguments.get("attempt") or life.attempt)
    run = int(arguments.get("run") or life.run)
    offset = int(arguments.get("offset", 0))
    path = engine.executor.log_path(record.spec.uid, run, attempt) if attempt else None
    text = b""
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                file.seek(offset)
                text = whole_characters(file.read(LOG_CHARS))
        except FileNotFoundError:
            text = b""
    return {
        "job": record.id,
        "run": run,
        "attempt": attempt,
        "offset": offset + len(text),
        "text": text.decode(errors="replace"),
        "final": life.state.is_final,
        "path": path or "",
    }


def whole_characters(data: bytes) -> bytes:
    """Return UTF-8 bytes without the begin of a character whose rest has not been written yet."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if length > back else data
        if byte < 0x80:
            break
    return data


def resources(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the counted resources: limit, used, waiting."""
    return engine.machine.resources()


def summary(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return how many jobs are in which state, and what was dropped (``fenced``: attempts that are over)."""
    counts = Counter(record.life.state.value for record in engine.machine.records.values())
    finished = sum(counts[state] for state in ("completed", "failed", "aborted", "cancelled", "skipped"))
    return {
        "service": engine.welcome.name,
        "counts": dict(counts),
        "unfinished": sum(counts.values()) - finished,
        "pid": engine.welcome.pid,
        "address": engine.endpoint.address if engine.endpoint is not None else "",
        "folder": engine.welcome.folder,
        "dropped": getattr(engine.endpoint, "dropped", 0),
        "irregular": dict(engine.machine.counters),
        "denied": engine.gate.denied if engine.gate is not None else 0,
        **getattr(engine.endpoint, "facts", dict)(),
    }


def graph(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the jobs and the atoms between them: all, or only what one job waits for."""
    return engine.machine.graph(find(engine, arguments["job"]).spec.uid if arguments.get("job") else None)


def versions(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Return the versions of trun, Python and the installed distributions."""
    found = {"trun": __version__, "python": platform.python_version()}
    from importlib import metadata  # slow to import, and seldom asked for

    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name, distribution.version)
    return found


def ping(engine: Engine, arguments: dict[str, Any]) -> Any:
    """Answer, once all that was sent before is committed."""
    return {}


VIEWS = {
    "ps": ps,
    "which": which,
    "jobs": jobs,
    "job": job,
    "why": why,
    "downstream": downstream,
    "story": story,
    "entries": entries,
    "changes": changes,
    "outcome": outcome,
    "result": result,
    "log": log,
    "resources": resources,
    "summary": summary,
    "graph": graph,
    "versions": versions,
    "ping": ping,
}
