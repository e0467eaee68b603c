"""The verb ``logs``: what a job printed, as it stands in its file, and with ``-f`` as it grows.

Following goes over from attempt to attempt, and from the living service to its record when the service ends; it stops
when the job is over. What would make a terminal do something is taken out, unless ``--raw`` is asked for.

Who may come in: the command. Rule: standard output carries the job's words only; ours go to standard error.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

from trun.cli.arguments import Parser, print_json, whole
from trun.cli.places import Found, Search, Source, chosen_places
from trun.cli.text import count, line, plain
from trun.errors import ServiceUnavailable, UnknownName

#: Seconds between two looks at a growing log.
LOOK_S = 0.2


def logs(words: Sequence[str]) -> int:
    """Show what a job printed."""
    parser = Parser("logs", "Show what a job printed; the last attempt unless another is chosen.").where().data().job()
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    parser.add_argument("--attempt", type=whole, metavar="N", help="this attempt of the present run")
    parser.add_argument("--run", type=whole, metavar="N", help="this run of the job (after `trun retry`: 2, 3, ...)")
    parser.add_argument("-n", "--lines", type=whole, metavar="N", help="only the last N lines")
    parser.add_argument("--raw", action="store_true", help="leave control characters in")
    options = parser.parse_args(words)
    with Search(chosen_places(options.service, options.folder)) as search:
        found = search.job(options.job)
        _check_attempt(found, options)
        if options.json:
            print_json(_whole(found.source, found.uid, options))
            return 0
        _Reader(found, options).run(search)
    return 0


def _check_attempt(found: Found, options: Any) -> None:
    attempts, run = found.job["attempts"], found.job["run"]
    if options.run and options.run > run:
        raise UnknownName(f"{found.id} is in run {run}; there is no run {options.run}.")
    if options.attempt and (options.run or run) == run and options.attempt > attempts:
        had = count(attempts, "attempt")
        raise UnknownName(f"{found.id} has had {had} in run {run}; there is no attempt {options.attempt}.")


def _whole(source: Source, uid: str, options: Any) -> dict[str, Any]:
    """Return the whole log with its facts, in as many answers as it takes."""
    answer: dict[str, Any] = source.ask("log", job=uid, attempt=options.attempt, run=options.run)
    text, more = [answer["text"]], answer
    while more["text"]:
        more = source.ask("log", job=uid, attempt=answer["attempt"], run=answer["run"], offset=more["offset"])
        text.append(more["text"])
    return {**answer, "text": "".join(text), "offset": more["offset"]}


class _Reader:
    """Reads the log of one job on, attempt by attempt."""

    def __init__(self, found: Found, options: Any) -> None:
        self.source = found.source
        self.job = found.job
        self.options = options
        #: Run and attempt that are being read, and how many bytes of them were read.
        self.place = (options.run or self.job["run"], options.attempt or self.job["attempts"])
        self.offset = 0
        #: What cannot be printed yet: it may be the first half of an escape sequence.
        self.rest = ""
        self.printed = False
        self._said = ""

    def run(self, search: Search) -> None:
        """Print what there is; with ``-f`` until the job is over."""
        pause = threading.Event()
        if self.options.lines:
            self._begin_with_last(self.options.lines)
        while True:
            try:
                if self._step():
                    continue
            except ServiceUnavailable:
                if not self.options.follow:
                    raise
                self.source = search.reopen(self.source.place)
                if self.source.place.live:
                    pause.wait(LOOK_S)
                continue
            if not self.options.follow or self._is_over():
                break
            if not self.place[1]:
                self._say_once(f"{self.job['id']} has not started; it is {self.job['state']}")
            pause.wait(LOOK_S)
        self._put("", end=True)
        if not self.printed:
            self._say_once(_nothing(self.job))

    def _step(self) -> bool:
        """Take the next piece, or go over to the next attempt; False where there is neither now."""
        # The facts first: what a job printed before it was over is in its file by then.
        self.job = self.source.ask("which", job=self.job["uid"])["jobs"][0]
        run, attempt = self.place
        if attempt:
            piece = self.source.ask("log", job=self.job["uid"], run=run, attempt=attempt, offset=self.offset)
            self.offset = piece["offset"]
            if piece["text"]:
                self._put(piece["text"])
                return True
        if self.options.attempt or self.options.run:
            return False
        now = (self.job["run"], self.job["attempts"])
        if now == self.place or not now[1]:
            return False
        if attempt:
            self._put("", end=True)
            self._say(f"attempt {now[1]}" + (f" of run {now[0]}" if now[0] > 1 else ""))
        self.place, self.offset = now, 0
        return True

    def _is_over(self) -> bool:
        return bool(self.job["final"]) or not self.source.place.live

    def _begin_with_last(self, lines: int) -> None:
        answer = _whole(self.source, self.job["uid"], self.options)
        self.place, self.offset = (answer["run"], answer["attempt"]), answer["offset"]
        self._put("".join(answer["text"].splitlines(keepends=True)[-lines:]))

    def _put(self, text: str, *, end: bool = False) -> None:
        self.printed = self.printed or bool(text)
        ready, self.rest = (text, "") if self.options.raw else _split(self.rest + text, end=end)
        sys.stdout.write(ready if self.options.raw else plain(ready))
        sys.stdout.flush()

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)

    def _say(self, text: str) -> None:
        print(f"trun: {line(text)}", file=sys.stderr, flush=True)


def _split(text: str, *, end: bool) -> tuple[str, str]:
    """Return what can be printed now, and what may be the begin of an escape sequence or of a line break."""
    if end:
        return text, ""
    escape = max(text.rfind("\x1b", -64), text.rfind("\x9b", -64))
    if escape >= 0 and not any(character.isalpha() for character in text[escape + 1 :]):
        return text[:escape], text[escape:]
    if text.endswith("\r"):
        return text[:-1], "\r"
    return text, ""


def _nothing(job: dict[str, Any]) -> str:
    if not job["attempts"]:
        return f"{job['id']} has not started; it is {job['state']} (trun why {job['id']})"
    return f"{job['id']} has printed nothing" + ("" if job["final"] else " yet")
