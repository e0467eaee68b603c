"""The verbs that change something: ``cancel``, ``retry``, ``hold``, ``release``, ``send``.

Each sends one request to the service that has the jobs, waits until it is carried out durably, and says in a line per
job what came of it. Only living services take orders; a run that has ended is carried on by ``trun resume``.

Who may come in: the command. Rule: what a request means is the machine's business; nothing is decided here.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from trun.cli.arguments import Parser, span
from trun.cli.places import Found, LiveSource, Search, chosen_places, open_source, place_of
from trun.cli.text import Paint, line, plain
from trun.core.record import JobState
from trun.errors import ServiceUnavailable, UsageError
from trun.messages import FINAL, Cancel, Entry, ErrorInfo, Hold, Release, Replied, Retry, Tell

USAGE, WAITING = 2, 3


@dataclass(frozen=True, slots=True)
class Order:
    """One kind of request."""

    #: Makes the request for these uids.
    make: Callable[[tuple[str, ...]], Cancel | Hold | Release | Retry]
    #: States in which a job can take it; others are left alone, with a word.
    states: frozenset[str]
    #: What is said of a job that cannot take it.
    refusal: str
    #: Exit code where no job could.
    nothing: int = USAGE


OPEN = frozenset(state.value for state in JobState if not state.is_final)
ENDED = frozenset(state.value for state in JobState if state.is_final)


def cancel(words: Sequence[str]) -> int:
    """Cancel jobs that wait, stop jobs that run."""
    parser = Parser("cancel", "Cancel jobs that wait and stop jobs that run; a job that has ended keeps its outcome.")
    parser.add_argument("--reason", default="cancelled with trun cancel", metavar="TEXT", help="kept in the record")
    options = parser.where().jobs().parse_args(words)
    make = partial(Cancel, reason=options.reason)
    return _order(options, Order(lambda uids: make(uids=uids), OPEN, "it has ended already", 0))


def hold(words: Sequence[str]) -> int:
    """Keep jobs from starting."""
    options = Parser("hold", "Keep jobs from starting until they are released.").where().jobs().parse_args(words)
    states = frozenset({"waiting", "queued", "held"})
    return _order(options, Order(lambda uids: Hold(uids=uids), states, "only a job that has not started can be held"))


def release(words: Sequence[str]) -> int:
    """Let held jobs go on."""
    options = Parser("release", "Let held jobs go on.").where().jobs().parse_args(words)
    return _order(options, Order(lambda uids: Release(uids=uids), frozenset({"held"}), "nobody holds it"))


def retry(words: Sequence[str]) -> int:
    """Run ended jobs again."""
    parser = Parser("retry", "Run ended jobs again, under the same id.").where().jobs()
    parser.add_argument("--downstream", action="store_true", help="also what was cancelled because of them")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run again")
    options = parser.parse_args(words)
    make = partial(Retry, downstream=options.downstream)
    order = Order(lambda uids: make(uids=uids), ENDED, "only a job that has ended can be retried")
    with Search(chosen_places(options.service, options.folder)) as search:
        found = [search.job(word) for word in options.jobs]
        able = [each for each in found if each.job["state"] in ENDED]
        revived = [job for each in able for job in _downstream(each)] if options.downstream else []
        if options.dry_run:
            for each in found:
                would = "would run again" if each in able else "has not ended"
                print(f"{line(each.id)} {would} ({each.job['state']})")
        else:
            code = _carry_out(found, order)
        for job in revived:
            print(f"{line(job['id'])} " + (f"would wait again ({job['state']})" if options.dry_run else "waits again"))
        return 0 if options.dry_run else code


def _downstream(found: Found) -> list[dict[str, Any]]:
    """Return the jobs that were decided by the end of this one."""
    answer: list[dict[str, Any]] = found.source.ask("downstream", job=found.uid)
    return answer


# -- one request for many jobs ----------------------------------------------------------------------------------------


def _order(options: Any, order: Order) -> int:
    with Search(chosen_places(options.service, options.folder)) as search:
        return _carry_out([search.job(word) for word in options.jobs], order)


def _carry_out(found: Sequence[Found], order: Order) -> int:
    """Send one request to each service, then say what became of each job."""
    groups: dict[int, list[Found]] = {}
    for each in found:
        live_source(each)
        if each.job["state"] in order.states:
            groups.setdefault(id(each.source), []).append(each)
    for group in groups.values():
        live_source(group[0]).service.do(order.make(tuple(dict.fromkeys(each.uid for each in group))))
    paint = Paint(sys.stdout)
    for each in found:
        print(_became(each, order, paint))
    return 0 if groups else order.nothing


def _became(found: Found, order: Order, paint: Paint) -> str:
    now = _state(found)
    text = f"{line(found.id)} is {paint.state(now)}"
    if found.job["state"] not in order.states:
        return f"{text}: {order.refusal}"
    return f"{text}, being stopped" if now == "running" and order.states == OPEN else text


def _state(found: Found) -> str:
    """Return the state of a job now; a script's service may have ended with what was ordered, and left its record."""
    try:
        answer = found.source.ask("which", job=found.uid)
    except ServiceUnavailable:
        place = place_of(found.source.place.folder)
        if place is None or place.live:
            raise
        with contextlib.closing(open_source(place)) as record:
            answer = record.ask("which", job=found.uid)
    return str(answer["jobs"][0]["state"])


def live_source(found: Found) -> LiveSource:
    """Return the living service that has the job; a run that has ended takes no orders."""
    source = found.source
    if not isinstance(source, LiveSource):
        again = "" if found.job["final"] else f" `{source.place.again}` carries it on."
        raise ServiceUnavailable(
            f"{found.id} belongs to run {source.place.run}, which has ended and takes no orders.{again}"
        )
    return source


# -- send -------------------------------------------------------------------------------------------------------------


class _Reply:
    """Listens to a job's stream for the reply to one message."""

    def __init__(self, token: str) -> None:
        self.seq = 0
        self.token = token
        self.answer: Future[str | None] = Future()

    def take(self, entry: Entry) -> None:
        """Take one entry of the job's stream (in the link's thread)."""
        if self.answer.done():
            return
        if isinstance(entry.event, Replied) and entry.event.token == self.token:
            self.answer.set_result(entry.event.text)
        elif isinstance(entry.event, FINAL):
            self.answer.set_result(None)

    def refuse(self, error: ErrorInfo) -> None:
        """Hear that the service has gone."""
        if not self.answer.done():
            self.answer.set_exception(ServiceUnavailable(error.message))


def send(words: Sequence[str]) -> int:
    """Send a text to a running job and print its reply."""
    parser = Parser("send", "Send a text to a running job and print its reply.").where().job()
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--timeout", type=span, default=30.0, metavar="SPAN", help="wait so long for it (default 30s)")
    options = parser.parse_args(words)
    with Search(chosen_places(options.service, options.folder)) as search:
        found = search.job(options.job)
        service = live_source(found).service
        if found.job["state"] != "running":
            raise UsageError(f"{found.id} is {found.job['state']}; only a running job can be sent a text.")
        reply = _Reply(uuid.uuid4().hex)
        service.listen(found.uid, reply, found.job["seq"] + 1)
        service.do(Tell(uid=found.uid, token=reply.token, text=options.text))
        try:
            answer = reply.answer.result(options.timeout)
        except TimeoutError:
            print(
                f"trun: {line(found.id)} was sent the text and has not replied within {options.timeout:g} s; "
                "a job reads it with trun.current_job().inbox.get() and answers with message.respond(text).",
                file=sys.stderr,
            )
            return WAITING
    if answer is None:
        print(f"trun: {line(found.id)} ended without a reply.", file=sys.stderr)
        return WAITING
    print(plain(answer))
    return 0
