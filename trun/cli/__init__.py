"""The command ``trun``: words in, calls to a service, words out.

Nothing here decides about jobs; a verb asks a service and prints what it said. Imports stay cheap, so that
``trun --help`` answers at once: this module imports nothing but ``sys``, and each verb imports what it needs when it is
called. Here stand the list of verbs, the exit codes, and what an error looks like on a terminal.

Rule: a verb is one entry of VERBS and one function ``verb(argv) -> int`` in a room of its own subject.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

#: {verb: (room, what it is for)}; the order is that of the help.
VERBS = {
    "ps": ("listing", "list jobs, their states, and why they wait"),
    "why": ("reasons", "explain one job: what it waits for, or what began its end"),
    "logs": ("logs", "show what a job printed; -f follows it"),
    "watch": ("watching", "follow all jobs until they are done"),
    "graph": ("drawing", "draw jobs and conditions as Mermaid, Dot or JSON"),
    "history": ("listing", "list jobs that have ended, in all runs"),
    "services": ("listing", "list the services that answer now"),
    "cancel": ("orders", "cancel jobs that wait, stop jobs that run"),
    "retry": ("orders", "run ended jobs again"),
    "hold": ("orders", "keep jobs from starting"),
    "release": ("orders", "let held jobs go on"),
    "send": ("orders", "send a text to a running job and print its reply"),
    "service": ("serving", "start, stop, list and add services on this machine and others"),
    "user": ("people", "say who may use a service of yours"),
    "keygen": ("people", "make your key and print what to hand to operators"),
    "request-access": ("people", "ask the operator of a service to let you in"),
    "resume": ("resuming", "carry on what a run has left unfinished"),
    "recover": ("recovering", "save what can be read of a damaged journal"),
    "agent": ("agent", "keep the key in a small process: start, stop, list, lock, forget"),
    "revoke": ("revoking", "end a token that was lent"),
    "doctor": ("doctoring", "check this installation, with a fix for each fault"),
    "explain": ("explaining", "explain an error code such as T101"),
    "completion": ("completing", "print a completion script for bash, zsh or fish"),
    "__complete": ("completing", ""),
}
#: Verbs that are named in the design and do not exist yet.
LATER = ("config", "memo", "plan", "schedule", "web")

OK, FAILED, USAGE, WAITING, UNREACHABLE, HELD, FAULT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 70, 130

HELP_TAIL = """\
JOB is an id such as fit#7, a uid, or RUN/fit#7 where several runs have one. Reading verbs look at the live services
of this user and at the records of ended runs; --service NAME and --state FOLDER choose, --json prints data.

exit codes: 0 all complete, 1 a job failed, 2 usage or unknown name, 3 work left waiting, 4 service unreachable,
            5 refused: another instance runs, 70 a fault of trun, 130 interrupted
`trun VERB --help` says more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _outcome(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone: trun ps | head
        _forget_output()
        return OK
    finally:
        _flush()


def _outcome(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return OK if words else USAGE
    if words[0] in ("-V", "--version", "version"):
        from trun.version import __version__

        print(f"trun {__version__}")
        return OK
    verb = words[0]
    if verb not in VERBS:
        return _complain(_unknown(verb), USAGE)
    for stream in (sys.stdout, sys.stderr):  # an icon that the terminal cannot show must not end the command
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    return _call(verb, words[1:])


def _call(verb: str, words: list[str]) -> int:
    import importlib

    try:
        room = importlib.import_module(f"trun.cli.{VERBS[verb][0]}")
        code: int = getattr(room, verb.lstrip("_").replace("-", "_"))(words)
        return code
    except BrokenPipeError:
        raise
    except Exception as error:
        from trun.errors import TrunError  # only where it is needed: Tab has no time for it

        return _complain(str(error), code_of(error)) if isinstance(error, TrunError) else _fault(error)


def code_of(error: Exception) -> int:
    """Return the exit code that stands for an error."""
    import trun.errors as errors

    table: tuple[tuple[type[BaseException], int], ...] = (
        (errors.InvariantError, FAULT),
        (errors.UsageError, USAGE),
        (errors.StateHeld, HELD),
        (errors.StateError, UNREACHABLE),
        (errors.Refused, USAGE),
        (errors.RemoteError, UNREACHABLE),
        (errors.JobError, FAILED),
    )
    return next((code for kind, code in table if isinstance(error, kind)), FAULT)


def _complain(text: str, code: int) -> int:
    from trun.cli.text import plain

    _flush()
    print(f"trun: {plain(text)}", file=sys.stderr)
    return code


def _fault(error: Exception) -> int:
    """Say in two lines what went wrong inside trun; TRUN_DEBUG=1 shows the traceback."""
    import os
    import traceback

    if os.environ.get("TRUN_DEBUG"):
        traceback.print_exception(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = "/".join(last.filename.replace("\\", "/").split("/")[-3:])
    return _complain(
        f"a fault of trun itself: {type(error).__name__}: {error} ({where}:{last.lineno})\n"
        "      Please report it; TRUN_DEBUG=1 shows the traceback.",
        FAULT,
    )


def _unknown(verb: str) -> str:
    from trun.errors import nearest

    if verb in LATER:
        return f"the verb {verb!r} is not in this version of trun yet; `trun --help` lists those that are."
    if verb[:1].isupper() or verb == "--module":
        return f"steps (`trun {verb} ...`) are not in this version of trun yet; `trun --help` lists the verbs."
    what = "option" if verb.startswith("-") else "verb"
    known = [*VERBS, "--help", "--version"]
    hint = nearest(verb, [name for name in known if name.startswith("-") == verb.startswith("-") and name[0] != "_"])
    return f"unknown {what} {verb!r}.{hint} `trun --help` lists all."


def help_text() -> str:
    """Return what ``trun --help`` prints."""
    lines = ["usage: trun VERB ...", "", "Jobs that run when their conditions hold.", ""]
    room = max(map(len, VERBS)) + 2
    lines += [f"  {verb:<{room}}{text}" for verb, (_, text) in VERBS.items() if text]
    return "\n".join([*lines, "", HELP_TAIL])


def _flush() -> None:
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        _forget_output()


def _forget_output() -> None:
    """Point standard output at nothing, so that the interpreter's exit does not stumble over a closed pipe."""
    import os

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass


__all__ = ["main"]
