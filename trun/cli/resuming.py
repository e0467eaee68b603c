"""The verb ``resume``: carry on what a run has left unfinished, in the foreground of this terminal.

A node is started on the run's folder, as ``trun.local(state=...)`` would; jobs that waited wait on, those that were
queued or running start (again). Each end is one line. It returns when nothing is left that could still run; Ctrl-C
stops the node, and what is unfinished then can be resumed again.

Who may come in: the command. Rule: nothing of the run is changed here but by its own node.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trun.adapters import folders
from trun.cli.arguments import Parser, whole
from trun.cli.listing import fit
from trun.cli.places import LEAVE_S, Place, all_places, named_places, place_of
from trun.cli.text import Paint, count
from trun.cli.watching import LINES_S, SHARE, STANDING, Follower, move_line, summary, verdict
from trun.core.record import JobState
from trun.engine.offline import Record
from trun.errors import BadOption, TrunError, UnknownName, UsageError
from trun.service import Service

WAITING, INTERRUPTED = 3, 130


def resume(words: Sequence[str]) -> int:
    """Carry on what a run has left unfinished."""
    parser = Parser("resume", "Carry on what a run has left unfinished; without RUN: the newest that left something.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run, the begin of its name, or a state folder")
    parser.add_argument("--state", dest="folder", metavar="FOLDER", help="the same as RUN, for a state folder")
    parser.add_argument("--workers", type=whole, metavar="N", help="worker processes (default: the usable cores)")
    parser.add_argument("--resources", metavar="NAME=N,...", default="", help="limits of counted resources")
    options = parser.parse_args(words)
    place = _place(options.folder or options.run)
    left = _unfinished(place)
    paint = Paint(sys.stdout)
    if not left:
        print(fit(f"run {place.run} has left nothing unfinished", paint))
        return 0
    resources = _resources(options.resources)
    head = f"run {place.run}: {count(len(left), 'job')} to carry on (Ctrl-C stops, nothing is lost)"
    print(fit(head, paint), flush=True)
    return _carry_on(place, options.workers, resources, paint)


def _place(word: str | None) -> Place:
    """Return the run that is meant; one that lives is refused by its own lock when the node starts."""
    if word and ("/" in word or Path(word).is_dir()):
        found = place_of(Path(word).expanduser().absolute())
        if found is None:
            raise UnknownName(f"there is no journal of trun in the folder {word}.")
    elif word:
        places = named_places(all_places(), word)
        if len(places) > 1:
            several = ", ".join(place.run for place in places[:5])
            raise UsageError(f"{word!r} may be one of {count(len(places), 'run')}: {several}.")
        found = places[0]
    else:
        found = _newest_unfinished()
    if found.is_service and not found.live:
        raise UsageError(f"{found.run} is a service, no run of a script: `{found.again}` carries on what it has left.")
    if found.live:
        holder = folders.holder(found.folder) or folders.Holder()
        raise folders.held_by(found.folder, holder)
    return found


def _newest_unfinished() -> Place:
    for place in all_places():
        if not place.live and not place.is_service and _unfinished(place):
            return place
    raise UnknownName("no ended run has left anything unfinished.")


def _unfinished(place: Place) -> list[dict[str, Any]]:
    record = Record(place.folder, name=place.name)
    try:
        return [job for job in record.ask("jobs") if not job["final"]]
    finally:
        record.close()


def _resources(given: str) -> dict[str, float]:
    """Return the limits that were given; the others are on record."""
    limits: dict[str, float] = {}
    for part in filter(None, given.split(",")):
        name, equals, amount = part.partition("=")
        try:
            limits[name.strip()] = float(amount)
        except ValueError:
            raise BadOption(f"--resources takes NAME=N,... such as gpu=2,sim=1; {part!r} is not.") from None
        if not equals or not name.strip() or limits[name.strip()] < 0:
            raise BadOption(f"--resources takes NAME=N,... such as gpu=2,sim=1; {part!r} is not.")
    return limits


def _carry_on(place: Place, workers: int | None, resources: dict[str, float], paint: Paint) -> int:
    from trun.connect import local

    with contextlib.ExitStack() as stack:
        try:
            service = local(workers=workers, state=place.folder, resources=resources, name=place.name)
            stack.callback(_stop, service)
            follower = _Ends(service)
            stuck = follower.run(paint)
            never = len([job for job in service.ask("ps", never=True)["jobs"] if job["uid"] in follower.over])
        except KeyboardInterrupt:
            stack.close()
            left = count(len(_unfinished(place)), "job")
            print(f"trun: stopped; {left} left: trun resume {place.run}", file=sys.stderr)
            return INTERRUPTED
    if follower.ended or not stuck:
        print(summary(follower.ended, paint))
    for job, reason in stuck:
        print(fit(f"{job} is left: {reason}", paint))
    return verdict(follower.ended, never) or (WAITING if stuck else 0)


def _stop(service: Service) -> None:
    """End the node now; what runs is stopped and stays on record."""
    with contextlib.suppress(TrunError):
        service.close(timeout=LEAVE_S)


class _Ends(Follower):
    """Prints the ends of jobs, and notices when nothing is left that could still run."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        #: How many jobs ended in which state since this began.
        self.ended: Counter[str] = Counter()
        #: Their uids.
        self.over: set[str] = set()

    def run(self, paint: Paint) -> list[tuple[str, str]]:
        """Follow to the end; return (id, reason) of the jobs that are left and cannot go on by themselves."""
        self.begin()
        pause = threading.Event()
        while True:
            asked = time.monotonic()
            for job, move in self.moves():
                if JobState(move["state"]).is_final and move["seq"] == job["seq"]:
                    self.ended[move["state"]] += 1
                    self.over.add(job["uid"])
                    print(move_line(job, move, paint), flush=True)
            if self.more:
                continue
            if not self.unfinished:
                return []
            if self._is_stuck():
                left = self.source.ask("ps", state=["held", "waiting"], limit=STANDING)["jobs"]
                return [(job["id"], job["reason"]) for job in left]
            pause.wait(max(LINES_S, SHARE * (time.monotonic() - asked)))

    def _is_stuck(self) -> bool:
        """Whether none of the jobs that are left can go on by itself."""
        if any(self.counts[state] for state in ("new", "queued", "running", "lost")):
            return False
        left = {job["uid"]: job for job in self.source.ask("jobs", state=["held", "waiting"])}
        graph = {job["uid"]: job["condition"] for job in self.source.ask("graph")["jobs"] if job["uid"] in left}
        return not moving(left, graph)


def moving(left: dict[str, dict[str, Any]], conditions: dict[str, Any]) -> set[str]:
    """Return the uids of unfinished jobs that may go on by themselves: for time, files, or another such job.

    What waits for a person, or for an atom of a script that has gone, does not.
    """
    found: set[str] = set()
    waits: dict[str, set[str]] = {}
    for uid, job in left.items():
        if job["state"] == "held":
            continue
        subjects, by_itself = _leaves(conditions.get(uid))
        waits[uid] = subjects
        if by_itself or job["attempts"]:
            found.add(uid)
    grown = True
    while grown:
        more = {uid for uid, subjects in waits.items() if uid not in found and subjects & found}
        found |= more
        grown = bool(more)
    return found


def _leaves(condition: Any) -> tuple[set[str], bool]:
    """Return the jobs that a condition is about, and whether something in it moves by itself (time, the world)."""
    subjects: set[str] = set()
    by_itself = False
    rest = [condition] if condition else []
    while rest:
        node = rest.pop()
        if node.get("atom") == "job":
            subjects.add(node["uid"])
        elif "atom" in node:
            by_itself = by_itself or node["atom"] not in ("bare", "level")
        else:
            by_itself = by_itself or node["op"] in ("held", "since")
            rest.extend(node["of"])
    return subjects, by_itself
