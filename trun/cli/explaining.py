"""The verb ``explain``: what an error code means and what to do about it, without any service.

The first line is the docstring of the error class, so that code and explanation cannot drift apart; the advice stands
here.

Who may come in: the command. Rule: every error class with a code of its own has an entry in ADVICE.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import trun.conditions.algebra as algebra
import trun.errors as errors
from trun.cli.arguments import Parser, print_json
from trun.errors import TrunError, UnknownName

#: {code: what to do}
ADVICE = {
    "T000": "The base of all errors of trun: `except trun.TrunError` catches every one of them.",
    "T100": "Read the message: it names the argument. Nothing was submitted or changed.",
    "T101": "Look for the nearest name in the message; `trun ps` lists jobs, `trun services` lists services.",
    "T102": "Look at the sides that exclude each other (a job cannot both complete and fail), or submit with "
    "on_never='hold', 'skip' or 'run'.",
    "T103": "The position in the text is named. Write & | ~ (or: and or not), brackets, and names of jobs.",
    "T104": "A condition has no truth value before its time: write & for and, | for or, ~ for not; .ready says whether "
    "it holds.",
    "T105": "Read the circle in the message and take out one link.",
    "T106": "The path inside the value is named. Leave it out, or make it inside the job (files, locks, sockets, "
    "generators live in one process).",
    "T107": "Use another key=, or submit exactly what was submitted under it before.",
    "T108": "The message names the option, what it was given and what it takes.",
    "T109": "Run the pip command in the message.",
    "T110": "Ask .cancelled before .ready, or catch the error: what the condition speaks of ended otherwise.",
    "T111": "Give the name to parse(text, names), or write the nearest one that the message offers.",
    "T112": "The message has the reason, or the end of what a build said; `pip wheel .` in the project shows all.",
    "T200": "Make the folder writable for you alone, or choose another with state= or TRUN_STATE_DIR.",
    "T201": "The process that holds the folder is named: end it first, or choose another folder.",
    "T202": "A newer trun wrote the folder: upgrade trun, or choose another folder.",
    "T203": "Nothing was changed. Look after the disk and keep a copy of the folder before anything else.",
    "T204": "Free some space; what was accepted goes on, new jobs are accepted again by themselves.",
    "T300": "`trun why JOB` tells what began it, `trun logs JOB` what the job printed.",
    "T301": "`trun why JOB` shows error and last lines, `trun logs JOB` all that it printed, `trun retry JOB` runs it "
    "again.",
    "T302": "Something it needed failed, or somebody cancelled it: `trun why JOB` names the root. "
    "`trun retry ROOT --downstream` runs both again.",
    "T303": "It was stopped on purpose while it ran, by a person, a race or the end of its script: `trun why JOB`.",
    "T304": "Raise timeout=, or find out with `trun logs JOB` what took so long.",
    "T305": "A node or its machine went away. Work is requeued up to three times by itself; then `trun retry JOB`.",
    "T306": "The job was skipped by on_never='skip', so there is no result; gate on isok to accept that.",
    "T307": "The message names exit code or signal. SIGSEGV: a fault in compiled code; SIGKILL: often the kernel, for "
    "want of memory. `trun logs JOB` has the last words.",
    "T308": "Raise memory=, give the job less to hold at once, or run fewer workers.",
    "T400": "The other side answered with an error; its text is in the message.",
    "T401": "`trun services` lists what answers now, `trun ps --all` what is on record, `trun resume RUN` carries on.",
    "T402": "Ask whoever runs the service for the role that is named.",
    "T403": "Results of that service are not unpickled here; plain data and arrays always are.",
    "T404": "Both versions are in the message: install one of them on the other side, or send yours with "
    "trun.install_service.",
    "T405": "Something that is not trun speaks on that socket, or a version that does not fit.",
    "T406": "The reason is in the message; nothing was changed.",
    "T407": "Stop. Ask the operator whether the key has really changed; only then `trun service forget NAME` and "
    "`trun service add NAME ADDRESS --expect KEY`.",
    "T408": "Ask whoever lent the token for a new one; `trun agent` renews those of waiting jobs.",
    "T409": "The reason is in the message: the size, the ticket or the space at the other side. Nothing was taken.",
    "T410": "What arrived is not what was announced: fetch it again, and ask its owner if that does not help.",
    "T411": "The message names the fault in the wheel: leave that out, or ask the operator to install the package.",
    "T900": "A fault of trun itself. Please report it, with the traceback that TRUN_DEBUG=1 shows.",
}


def classes() -> dict[str, type[TrunError]]:
    """Return {code: error class}."""
    rooms = (errors, algebra)
    found = {
        kind.code: kind
        for room in rooms
        for _, kind in inspect.getmembers(room, inspect.isclass)
        if issubclass(kind, TrunError) and "code" in vars(kind)
    }
    return dict(sorted(found.items()))


def explain(words: Sequence[str]) -> int:
    """Explain an error code, or list all."""
    parser = Parser("explain", "Explain an error code such as T101, or list all codes.").data()
    parser.add_argument("code", nargs="?", metavar="CODE", help="a code, or the name of an error class")
    options = parser.parse_args(words)
    known = classes()
    if options.code:
        wanted = options.code.lower()
        known = {code: kind for code, kind in known.items() if wanted in (code.lower(), kind.__name__.lower())}
        if not known:
            names = [name for code, kind in classes().items() for name in (code, kind.__name__)]
            raise UnknownName(f"there is no error {options.code!r}.", name=options.code, known=names)
    if options.json:
        entries = known.items()
        print_json({code: {"name": kind.__name__, "what": _what(kind), "do": _do(code)} for code, kind in entries})
        return 0
    for code, kind in known.items():
        print(f"{code} {kind.__name__}: {_what(kind)}")
        if options.code:
            print(f"  {_do(code)}")
    return 0


def _what(kind: type[TrunError]) -> str:
    return (inspect.getdoc(kind) or kind.__name__).splitlines()[0]


def _do(code: str) -> str:
    return ADVICE.get(code, "Read the message: it says what happened and what to do.")
