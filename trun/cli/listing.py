"""The verbs that list: ``ps`` the jobs of runs, ``history`` what has ended in all runs, ``services`` who answers now.

Who may come in: the command. Rule: text and ``--json`` come from the same answer; the text only leaves things out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trun.cli.arguments import Parser, print_json, span, whole
from trun.cli.places import Place, Search, Source, all_places, chosen_places, elsewhere
from trun.cli.table import Cell, Column, render
from trun.cli.text import LOOKS, Paint, ago, clock, count, cut, duration, line, look
from trun.core.record import JobState
from trun.errors import UnknownName

#: Rows per run that a table shows unless --limit says otherwise; --json gives all.
ROWS = 100
#: Jobs that one answer carries where all are wanted.
PAGE = 2000
#: Installed distributions of a job that a table names.
NAMED = 2
#: Exit code where nobody answered.
UNREACHABLE = 4
#: Jobs that ``history`` lists unless --limit says otherwise.
PAST = 50

COLUMNS = (
    Column(head="STATE"),
    Column(head="JOB"),
    Column(head="REASON", shrinks=True),
    Column(head="WAITED", right=True, drop=2),
    Column(head="RAN", right=True, drop=1),
    Column(head="DONE", right=True, drop=3),
    Column(head="WITH", drop=4),
)


# -- ps ---------------------------------------------------------------------------------------------------------------


def ps(words: Sequence[str]) -> int:
    """List jobs, their states, and why they wait."""
    options = _ps_options(words)
    states, folder = _states_or_folder(options.state)
    if "never" in states:
        states.remove("never")
        options.never = True
    chosen = {"state": states or None, "name": options.name, "never": options.never}
    with Search(chosen_places(options.service, folder)) as search:
        runs = []
        for source in search.sources() if options.all else _usual_sources(search):
            if options.json and not options.limit:
                answer = _by_pages(source, chosen)
            else:
                answer = source.ask("ps", **chosen, limit=options.limit or ROWS)
            runs.append({**place_facts(source.place), **answer})
        heard = len(runs)
        for record in search.silent_records():
            answer = record.ask("ps", **chosen, limit=options.limit or ROWS)
            runs.append({**place_facts(record.place), **_unheard(answer), "silent": True})
        _mention_silence(search, runs)
    if options.json:
        print_json({"runs": runs})
        return 0 if heard or not runs else UNREACHABLE
    paint = Paint(sys.stdout)
    if not runs:
        print(f"no service answers and no run is on record{elsewhere()}")
    for number, run in enumerate(runs):
        if number:
            print()
        print("\n".join(run_lines(run, paint)))
    return 0 if heard or not runs else UNREACHABLE


def _unheard(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the record of a silent service says: what had not ended there is unknown now."""
    counts: dict[str, int] = {}
    for state, number in answer["counts"].items():
        shown = state if JobState(state).is_final else "unknown"
        counts[shown] = counts.get(shown, 0) + number
    for job in answer["jobs"]:
        if not job["final"]:
            last = "running" if job["state"] == "lost" else job["state"]
            job |= {"state": "unknown", "last_state": last, "reason": f"its last word: {last}"}
    return {**answer, "counts": counts}


def _ps_options(words: Sequence[str]) -> Any:
    parser = Parser("ps", "List jobs: those of live services and of the run that ended last.").data()
    parser.add_argument("--service", metavar="NAME", help="only this service or run (a name, or the begin of one)")
    parser.add_argument(
        "--state",
        metavar="STATE,.../FOLDER",
        action="append",
        default=[],
        help="only jobs in these states (waiting,running,...); a folder: only the service of this state folder",
    )
    parser.add_argument("--name", metavar="PATTERN", help="only jobs whose name or id matches, such as 'fit*'")
    parser.add_argument("--never", action="store_true", help="only jobs that can never run")
    parser.add_argument("--all", action="store_true", help="all runs on record")
    parser.add_argument("--limit", type=whole, metavar="N", help=f"at most N jobs of each run (default {ROWS})")
    return parser.parse_args(words)


def _states_or_folder(given: Iterable[str]) -> tuple[list[str], str | None]:
    """Tell the two meanings of ``--state`` apart: names of states, or the folder of a service."""
    known = [*(state.value for state in JobState), "never"]
    states: list[str] = []
    folder = None
    for word in given:
        names = [name.strip().lower() for name in word.split(",") if name.strip()]
        if names and all(name in known for name in names):
            states += names
        elif "/" in word or Path(word).is_dir():
            folder = word
        else:
            wrong = next((name for name in names if name not in known), word)
            raise UnknownName(f"{wrong!r} is neither a state of a job nor a folder.", name=wrong, known=known)
    return states, folder


def _by_pages(source: Source, chosen: dict[str, Any]) -> dict[str, Any]:
    """Ask for all jobs in portions, so that a service that has very many goes on working meanwhile."""
    answer: dict[str, Any] = source.ask("ps", **chosen, limit=PAGE, after=0)
    page = answer["jobs"]
    while len(page) == PAGE:
        page = source.ask("ps", **chosen, limit=PAGE, after=page[-1]["number"])["jobs"]
        answer["jobs"] += page
    return answer


def _mention_silence(search: Search, found: Sequence[Any]) -> None:
    """Say which services do not answer; an error where nothing else is there to show."""
    if not found:
        search.refuse_silence()
    for error in search.silent.values():
        print(f"trun: {line(str(error))}", file=sys.stderr)


def _usual_sources(search: Search) -> Iterator[Source]:
    """Give what lives, then the run that ended last, unless it never had a job."""
    for source in search.sources():
        if source.place.live:
            yield source
        elif source.ask("summary")["counts"]:
            yield source
            return


def place_facts(place: Place) -> dict[str, Any]:
    """Return what ``--json`` says of a run."""
    return {
        "run": place.run,
        "service": place.name,
        "live": place.live,
        "address": place.address,
        "pid": None if place.is_far else place.pid,
        "owner": None if place.is_far else place.owner,
        "since": None if place.is_far else place.since,
        "folder": None if place.is_far else str(place.folder),
        "again": place.again,
    }


def run_lines(run: dict[str, Any], paint: Paint) -> list[str]:
    """Return the heading and the table of one run."""
    lines = [*heading(run, paint), *job_table(run["jobs"], paint)]
    hidden = run["total"] - len(run["jobs"])
    if hidden > 0:
        lines.append(fit(f"… and {count(hidden, 'more job')} (--limit, --state, --name)", paint))
    return lines


def heading(run: dict[str, Any], paint: Paint) -> list[str]:
    """Return the lines above the jobs of a run: which it is, and how many jobs are in which state."""
    name = run["run"] if run["service"] in ("local", run["run"]) else f"{run['run']} ({line(run['service'])})"
    if run["live"]:
        process = f"process {run['pid']}" if run["pid"] else str(run["address"])
        whose = f"script {run['owner']}" if run["owner"] else process
        state = f"{'silent' if run.get('silent') else 'live'}, {whose}"
    else:
        state = f"ended {ago(time.time() - run['since'])}"
    lines = [paint(fit(f"{name} · {state}", paint), "bold")]
    counts = [f"{look(state)[0]} {state} {run['counts'][state]}" for state in LOOKS if run["counts"].get(state)]
    lines.append(fit(" · ".join(counts) or "no jobs", paint))
    unfinished = sum(number for state, number in run["counts"].items() if not JobState(state).is_final)
    if unfinished and not run["live"]:
        lines.append(fit(f"{count(unfinished, 'job')} left unfinished: {run['again']}", paint))
    return lines


def fit(text: str, paint: Paint) -> str:
    """Return a line cut to the terminal."""
    return text if paint.columns is None else cut(text, paint.columns)


def job_table(jobs: Iterable[dict[str, Any]], paint: Paint) -> list[str]:
    """Return jobs as the lines of a table."""
    return render(COLUMNS, [_row(job) for job in jobs], paint=paint)


def _row(job: dict[str, Any]) -> list[Cell | str]:
    icon, colour = look(job["state"])
    done = f"{job['progress']:.0%}" if job["state"] == "running" and job["progress"] else ""
    waited = duration(job["waited_s"]) if job["started"] is None or not job["final"] else ""
    state = Cell(f"{icon} {job['state']}", colour)
    return [state, job["id"], reason_of(job), waited, duration(job["ran_s"]), done, took(job, NAMED)]


def took(job: dict[str, Any], most: int | None = None) -> str:
    """Return the versions that a job took of what was installed for it; empty where it took none, or has not begun."""
    found = sorted(job.get("packages", {}).items()) if job["started"] is not None else []
    shown = ", ".join(f"{name} {version}" for name, version in found[:most])
    more = 0 if most is None else len(found) - most
    return f"{shown} +{more}" if more > 0 else shown


def reason_of(job: dict[str, Any]) -> str:
    """Return the one line that says why a job is where it is."""
    if job["state"] == "failed":
        return str(job["error"] or job["kind"])
    if job["state"] == "running":
        return str(job["note"] or "")
    return "" if job["state"] == "completed" else str(job["reason"])


# -- history ----------------------------------------------------------------------------------------------------------


PAST_COLUMNS = (
    Column(head="ENDED"),
    Column(head="STATE"),
    Column(head="JOB"),
    Column(head="REASON", shrinks=True),
    Column(head="RAN", right=True, drop=1),
    Column(head="RUN", drop=2),
)


def history(words: Sequence[str]) -> int:
    """List jobs that have ended, in all runs, the newest last."""
    parser = Parser("history", "List jobs that have ended, in all runs on record, the newest last.").where().data()
    parser.add_argument("--since", type=span, default=span("7d"), metavar="SPAN", help="no longer ago (default 7d)")
    parser.add_argument("--name", metavar="PATTERN", help="only jobs whose name or id matches, such as 'fit*'")
    parser.add_argument("--limit", type=whole, default=PAST, metavar="N", help=f"the newest N (default {PAST})")
    options = parser.parse_args(words)
    begin = time.time() - options.since
    places = [place for place in chosen_places(options.service, options.folder) if place.live or place.since >= begin]
    found: list[dict[str, Any]] = []
    with Search(places) as search:
        for source in search.sources():
            for job in source.ask("jobs", name=options.name):
                if job["final"] and (job["ended"] or 0.0) >= begin:
                    found.append({**job, "on": source.place.run})
        _mention_silence(search, found)
    found.sort(key=lambda job: job["ended"])
    found = found[-options.limit :]
    if options.json:
        print_json({"jobs": found})
        return 0
    paint = Paint(sys.stdout)
    rows = [_past_row(job) for job in found]
    print("\n".join(render(PAST_COLUMNS, rows, paint=paint)) if rows else "no job has ended in that time")
    return 0


def _past_row(job: dict[str, Any]) -> list[Cell | str]:
    icon, colour = look(job["state"])
    state = Cell(f"{icon} {job['state']}", colour)
    return [clock(job["ended"]), state, job["id"], reason_of(job), duration(job["ran_s"]), job["on"]]


# -- services ---------------------------------------------------------------------------------------------------------


SERVICE_COLUMNS = (
    Column(head="SERVICE"),
    Column(head="RUN"),
    Column(head="JOBS", shrinks=True),
    Column(head="SINCE", drop=2, right=True),
    Column(head="PID", drop=1, right=True),
    Column(head="ADDRESS", drop=3),
)


def services(words: Sequence[str]) -> int:
    """List the services that answer now."""
    options = Parser("services", "List the services of this user that answer now.").data().parse_args(words)
    places = [place for place in all_places() if place.live]
    found = []
    with Search(places) as search:
        for source in search.sources():
            if source.place.live:
                found.append({**place_facts(source.place), **source.ask("summary"), "run": source.place.run})
        _mention_silence(search, found)
    if options.json:
        print_json({"services": found})
        return 0
    paint = Paint(sys.stdout)
    rows = []
    for facts in found:
        counts = ", ".join(f"{number} {state}" for state, number in facts["counts"].items()) or "none"
        since = ago(max(0.0, time.time() - facts["since"]))
        rows.append([facts["service"], facts["run"], counts, since, str(facts["pid"]), facts["address"]])
    print("\n".join(render(SERVICE_COLUMNS, rows, paint=paint)) if rows else f"no service answers now{elsewhere()}")
    return 0
