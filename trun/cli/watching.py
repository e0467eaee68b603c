"""The verb ``watch``: all jobs as they move, until they are done.

On a terminal one table is drawn again and again; elsewhere each change of state is one line, complete and in order. It
ends when no job is unfinished for a moment, when the services end, or with Ctrl-C, which stops the looking only.

Who may come in: the command, and ``resuming``. Rule: looking never costs a service a large share of its time.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from trun.cli.arguments import Parser
from trun.cli.listing import fit, place_facts, reason_of, run_lines
from trun.cli.places import Place, Search, chosen_places
from trun.cli.text import LOOKS, Paint, clock, count, line, look
from trun.core.record import JobState
from trun.errors import ServiceUnavailable

#: Seconds between two looks: of lines, and of the table.
LINES_S = 0.2
TABLE_S = 0.5
#: After a look that took long, that many times as long is waited: watching never takes more than a fifth of the time.
SHARE = 4
#: Unfinished jobs that are told at the begin.
STANDING = 100
#: All must have been done for so long, so that a script may submit its next job meanwhile.
QUIET_S = 1.0


def watch(words: Sequence[str]) -> int:
    """Follow all jobs until they are done."""
    parser = Parser("watch", "Follow all jobs until they are done; Ctrl-C ends the looking, not the jobs.").where()
    parser.add_argument("--lines", action="store_true", help="one line per change, also on a terminal")
    options = parser.parse_args(words)
    places = [place for place in chosen_places(options.service, options.folder) if place.live]
    if not places:
        raise ServiceUnavailable("no service answers now; `trun ps` shows what is on record.")
    paint = Paint(sys.stdout)
    with Search(places) as search:
        if paint.terminal and paint.on and not options.lines:
            totals = _table(search, paint)
        else:
            totals = _lines(search, paint)
            print(summary(totals, paint))
        never = sum(search.source(place).ask("ps", never=True, limit=1)["total"] for place in places)
    return verdict(totals, never)


def verdict(totals: Counter[str], never: int) -> int:
    """Return the exit code for jobs in these states: 1 a failure, 3 something left or impossible, 0 all well."""
    if totals["failed"]:
        return 1
    return 3 if never or unfinished(totals) else 0


def unfinished(counts: Counter[str]) -> int:
    """Return how many jobs are not over."""
    return sum(number for state, number in counts.items() if not JobState(state).is_final)


# -- lines ------------------------------------------------------------------------------------------------------------


class Asked(Protocol):
    """Whoever answers reading verbs."""

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Return plain data."""
        ...


class Follower:
    """Reads the moves of the jobs of one service from ``begin`` on, each once and in order."""

    def __init__(self, source: Asked) -> None:
        self.source = source
        self.counts: Counter[str] = Counter()
        #: Whether there is more to take at once.
        self.more = False
        self._since = 0.0
        self._cursor: Any = None
        self._seen: dict[str, int] = {}

    def begin(self, limit: int = STANDING) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], int]:
        """Leave the past out: return where (at most so many) unfinished jobs stand now, and how many there are."""
        answer = self.source.ask("changes")
        self._cursor, self.counts = answer["cursor"], Counter(answer["counts"])
        self._since = self._cursor[0]
        found = self.source.ask("ps", state=[state.value for state in JobState if not state.is_final], limit=limit)
        self._seen = {job["uid"]: job["seq"] for job in found["jobs"]}
        standing = [(job, {"seq": job["seq"], "time": job["changed"], **_standing(job)}) for job in found["jobs"]]
        return standing, found["total"]

    def moves(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return (job, move) of what moved since the last call, at most a portion of it."""
        answer = self.source.ask("changes", since=self._since, cursor=self._cursor)
        self._cursor, self.more, self.counts = answer["cursor"], answer["more"], Counter(answer["counts"])
        found = []
        for job in answer["jobs"]:
            seen = self._seen.get(job["uid"], 0)
            found += [(job, move) for move in job["moves"] if move["seq"] > seen]
            if job["moves"]:
                self._seen[job["uid"]] = max(seen, job["moves"][-1]["seq"])
        # In one moment causes have lower numbers than what follows from them.
        return sorted(found, key=lambda each: (each[1]["time"], _number(each[0]), each[1]["seq"]))

    @property
    def unfinished(self) -> int:
        """How many jobs were not over at the last call."""
        return unfinished(self.counts)


def _number(job: dict[str, Any]) -> int:
    return int(job["id"].rpartition("#")[2])


def _standing(job: dict[str, Any]) -> dict[str, str]:
    return {"state": job["state"], "text": reason_of(job)}


def move_line(job: dict[str, Any], move: dict[str, Any], paint: Paint, *, run: str = "") -> str:
    """Return one change of state as a line."""
    icon, colour = look(move["state"])
    spent = f"{job['ran_s']:.1f} s" if move["state"] == "completed" and job["ran_s"] is not None else ""
    text = line(move["text"]) or spent
    name = f"{run}/{job['id']}" if run else job["id"]
    plain_part = f"{clock(move['time'])}  {line(name):<16}  "
    shown = fit(f"{icon} {move['state']:<9}  {text}".rstrip(), paint)
    return plain_part + paint(shown, colour)


def _lines(search: Search, paint: Paint) -> Counter[str]:
    """Print moves until all is done; return how many jobs ended in which state."""
    followers = {place: Follower(search.source(place)) for place in search.places}
    many = len(followers) > 1
    for place, follower in followers.items():
        standing, total = follower.begin()
        for job, move in standing:
            print(move_line(job, move, paint, run=place.run if many else ""), flush=True)
        if total > len(standing):
            print(fit(f"… and {total - len(standing)} more that are not done", paint), flush=True)
    pause, quiet_since, gone = threading.Event(), 0.0, set[Place]()
    while True:
        asked = time.monotonic()
        for place, follower in followers.items():
            if place in gone:
                continue
            try:
                moves = follower.moves()
            except ServiceUnavailable:
                follower.source = search.reopen(place)
                moves = follower.moves()
            if not _is_live(follower.source) and not follower.more:
                gone.add(place)
            for job, move in moves:
                print(move_line(job, move, paint, run=place.run if many else ""), flush=True)
        quiet_since = _quiet(quiet_since, (each.unfinished or int(each.more) for each in followers.values()))
        if len(gone) == len(followers) or (quiet_since and time.monotonic() - quiet_since >= QUIET_S):
            return sum((follower.counts for follower in followers.values()), Counter())
        if len(gone) < len(followers) and any(_is_live(each.source) for each in followers.values()):
            pause.wait(max(LINES_S, SHARE * (time.monotonic() - asked)))


def _is_live(source: Asked) -> bool:
    place = getattr(source, "place", None)
    return place is None or place.live


def _quiet(since: float, unfinished: Iterator[int]) -> float:
    """Return since when nothing is unfinished, 0.0 while something is."""
    if any(unfinished):
        return 0.0
    return since or time.monotonic()


# -- table ------------------------------------------------------------------------------------------------------------


def _table(search: Search, paint: Paint) -> Counter[str]:
    """Draw the table again and again until all is done; the last one stays."""
    drawn, quiet_since, pause = 0, 0.0, threading.Event()
    runs: dict[Place, dict[str, Any]] = {}
    while True:
        asked = time.monotonic()
        height = shutil.get_terminal_size((80, 24)).lines
        room = max(3, (height - 2) // len(search.places) - 4)
        paint.columns = Paint(sys.stdout).columns
        for place in search.places:
            runs[place] = _ps(search, place, room)
        lines = [text for run in runs.values() for text in run_lines(run, paint)][: height - 1]
        sys.stdout.write((f"\x1b[{drawn}F" if drawn else "") + "".join(f"\x1b[2K{text}\n" for text in lines) + "\x1b[J")
        sys.stdout.flush()
        drawn = len(lines)
        totals = sum((Counter(run["counts"]) for run in runs.values()), Counter[str]())
        quiet_since = _quiet(quiet_since, iter([unfinished(totals)]))
        over = not any(run["live"] for run in runs.values())
        if over or (quiet_since and time.monotonic() - quiet_since >= QUIET_S):
            return totals
        pause.wait(max(TABLE_S, SHARE * (time.monotonic() - asked)))


def _ps(search: Search, place: Place, limit: int) -> dict[str, Any]:
    try:
        source = search.source(place)
        answer = source.ask("ps", limit=limit)
    except ServiceUnavailable:
        source = search.reopen(place)
        answer = source.ask("ps", limit=limit)
    return {**place_facts(source.place), **answer}


def summary(counts: Counter[str], paint: Paint) -> str:
    """Return how many jobs are in which state, in one line."""
    parts = [f"{look(state)[0]} {counts[state]} {state}" for state in LOOKS if counts[state]]
    return fit(f"{count(sum(counts.values()), 'job')}: {', '.join(parts)}" if parts else "no jobs", paint)
