"""The verbs that change something: ``cancel``, ``retry``, ``hold``, ``release``, ``send``.

Each sends one request to the service that has the jobs, waits until it is carried out durably, and says in a line per
job what came of it. Only living services take orders; a run that has ended is carried on by ``trun resume``.

Who may come in: the command. Rule: what a request means is the machine's business; nothing is decided here.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from trun.cli.arguments import Parser, span
from trun.cli.places import Found, LiveSource, Search, chosen_places
from trun.cli.text import Paint, line, look, plain
from trun.errors import ServiceUnavailable, UsageError
from trun.messages import FINAL, Cancel, Entry, ErrorInfo, Hold, Release, Replied, Retry, Tell

WAITING = 3


def cancel(words: Sequence[str]) -> int:
    """Cancel jobs that wait, stop jobs that run."""
    parser = Parser("cancel", "Cancel jobs that wait and stop jobs that run; a job that has ended keeps its outcome.")
    parser.add_argument("--reason", default="cancelled with trun cancel", metavar="TEXT", help="kept in the record")
    options = parser.where().jobs().parse_args(words)
    return _order(options, lambda uids: Cancel(uids=uids, reason=options.reason), wanted=lambda job: not job["final"])


def hold(words: Sequence[str]) -> int:
    """Keep jobs from starting."""
    options = Parser("hold", "Keep jobs from starting until they are released.").where().jobs().parse_args(words)
    return _order(options, lambda uids: Hold(uids=uids), wanted=lambda job: not job["final"])


def release(words: Sequence[str]) -> int:
    """Let held jobs go on."""
    options = Parser("release", "Let held jobs go on.").where().jobs().parse_args(words)
    return _order(options, lambda uids: Release(uids=uids), wanted=lambda job: job["state"] == "held")


def retry(words: Sequence[str]) -> int:
    """Run ended jobs again."""
    parser = Parser("retry", "Run ended jobs again, under the same id.").where().jobs()
    parser.add_argument("--downstream", action="store_true", help="also what was cancelled because of them")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run again")
    options = parser.parse_args(words)
    with Search(chosen_places(options.service, options.folder)) as search:
        found = [search.job(word) for word in options.jobs]
        if options.dry_run:
            return _would_retry(found, downstream=options.downstream)
        revived = [job for each in found for job in _downstream(each)] if options.downstream else []
        code = _carry_out(found, lambda uids: Retry(uids=uids, downstream=options.downstream), lambda job: job["final"])
        for job in revived:
            print(f"{line(job['id'])} waits again")
        return code


def _downstream(found: Found) -> list[dict[str, Any]]:
    """Return the jobs that were decided by the end of this one."""
    answer: list[dict[str, Any]] = found.source.ask("downstream", job=found.uid)
    return answer


def _would_retry(found: Sequence[Found], *, downstream: bool) -> int:
    for each in found:
        if not each.job["final"]:
            print(f"{line(each.id)} has not ended; it is {each.job['state']}")
            continue
        print(f"{line(each.id)} would run again ({each.job['state']})")
        for job in _downstream(each) if downstream else []:
            print(f"{line(job['id'])} would wait again ({job['state']})")
    return 0


# -- one request for many jobs ----------------------------------------------------------------------------------------


def _order(
    options: Any, make: Callable[[tuple[str, ...]], Any], *, wanted: Callable[[dict[str, Any]], bool]
) -> int:
    with Search(chosen_places(options.service, options.folder)) as search:
        return _carry_out([search.job(word) for word in options.jobs], make, wanted)


def _carry_out(
    found: Sequence[Found], make: Callable[[tuple[str, ...]], Any], wanted: Callable[[dict[str, Any]], bool]
) -> int:
    """Send one request to each service, then say what became of each job."""
    groups: dict[int, list[Found]] = {}
    for each in found:
        live_source(each)
        if wanted(each.job):
            groups.setdefault(id(each.source), []).append(each)
    for group in groups.values():
        live_source(group[0]).service.do(make(tuple(dict.fromkeys(each.uid for each in group))))
    paint = Paint(sys.stdout)
    for each in found:
        now = each.source.ask("which", job=each.uid)["jobs"][0]
        icon, colour = look(now["state"])
        note = "" if wanted(each.job) else " already" if now["final"] else " as before"
        stopping = " (stopping)" if now["state"] == "running" and make(()).__class__ is Cancel else ""
        print(f"{line(each.id)} is {paint(f'{icon} ' + now['state'], colour)}{note}{stopping}")
    return 0


def live_source(found: Found) -> LiveSource:
    """Return the living service that has the job; a run that has ended takes no orders."""
    source = found.source
    if not isinstance(source, LiveSource):
        raise ServiceUnavailable(
            f"{found.id} belongs to run {source.place.run}, which has ended and takes no orders; "
            f"`trun resume {source.place.run}` carries it on."
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
