"""The verb ``why``: what one job waits for, or what began its end.

For a job that was cancelled or skipped because of another, the root comes first: its error and the last lines that it
printed. The tree, the marks and the missing sets are the service's own words; here they are only laid out.

Who may come in: the command. Rule: never an empty answer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from trun.cli.arguments import Parser, print_json
from trun.cli.listing import fit, place_facts, took
from trun.cli.places import Found, Search, Source, chosen_places
from trun.cli.text import Paint, duration, folded, line, look, plain

#: Lines of a failed job's output that stand under its error.
TAIL = 5


def why(words: Sequence[str]) -> int:
    """Explain one job."""
    parser = Parser("why", "Explain what a job waits for, or what began its end.").where().data().job()
    parser.add_argument("-v", "--verbose", action="store_true", help="also the story of the job and of its chain")
    options = parser.parse_args(words)
    with Search(chosen_places(options.service, options.folder)) as search:
        found = search.job(options.job)
        answer = found.source.ask("why", job=found.uid)
        cause = _cause(found.source, answer["job"])
        story = found.source.ask("story", job=found.uid) if options.verbose else []
        place = found.source.place
    if options.json:
        print_json({**answer, "cause": cause, "run": place_facts(place), **({"story": story} if story else {})})
        return 0
    paint = Paint(sys.stdout)
    print("\n".join(_lines(answer, cause, found, paint)))
    if story:
        print(paint("story", "bold"))
        print("\n".join(f"  {line(each)}" for each in story))
    return 0


def _cause(source: Source, job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the job whose end began that of ``job``: the job itself where it failed, else the root of its chain."""
    if job["state"] == "failed":
        root = job
    elif job["root"]:
        roots = source.ask("which", job=job["root"])["jobs"]
        if not roots:
            return None
        root = roots[0]
    else:
        return None
    log = source.ask("log", job=root["uid"])
    tail = [text for text in plain(log["text"]).splitlines() if text.strip()][-TAIL:]
    return {"id": root["id"], "uid": root["uid"], "state": root["state"], "error": root["error"], "tail": tail}


def _lines(answer: dict[str, Any], cause: dict[str, Any] | None, found: Found, paint: Paint) -> list[str]:
    job, place = answer["job"], found.source.place
    icon, colour = look(job["state"])
    spent = job["ran_s"] if job["ran_s"] is not None else job["waited_s"]
    where = "" if place.live else f", in the ended run {place.run}"
    state = paint(f"{icon} {job['state']}", colour)
    lines = [f"{paint(line(job['id']), 'bold')}  {state}  {duration(spent)}{where}"]
    if cause is not None:
        lines += _cause_lines(cause, job, paint, place.prefix)
    told = _told(cause, job)
    text = [each for each in plain(answer["text"]).rstrip().splitlines() if not (told and each.startswith(told))]
    lines += [paint.marks(each) for long in text for each in folded(long, paint.columns)]
    if len(lines) == 1:
        lines.append(line(job["reason"]) or _silent(job["state"]))
    if packages := took(job):
        lines += folded(f"with {line(packages)}", paint.columns)
    if not place.live and not job["final"]:
        lines.append(f"nobody runs it now: {place.again}")
    return lines


def _told(cause: dict[str, Any] | None, job: dict[str, Any]) -> tuple[str, ...]:
    """Return how the lines begin that say what stands above already, with the cause."""
    if cause is None or not cause["error"]:
        return ()
    return ("failed: ",) if cause["uid"] == job["uid"] else ("root cause: ",)


def _cause_lines(cause: dict[str, Any], job: dict[str, Any], paint: Paint, prefix: str) -> list[str]:
    icon, colour = look(cause["state"])
    who = line(cause["id"])
    lines = [] if cause["uid"] == job["uid"] else [f"because of {paint(f'{icon} {who}', colour)} {cause['state']}"]
    if cause["error"]:
        lines.append(f"  {paint(line(cause['error']), colour)}")
    lines += [fit(f"  | {text}", paint) for text in cause["tail"]]
    if cause["state"] in ("failed", "aborted"):
        downstream = "" if cause["uid"] == job["uid"] else " --downstream"
        lines.append(f"  all it printed: trun logs {prefix}{who} · again: trun retry {prefix}{who}{downstream}")
    return lines


def _silent(state: str) -> str:
    return {
        "running": "it runs; its condition held.",
        "completed": "it has completed.",
    }.get(state, f"it is {state}.")
