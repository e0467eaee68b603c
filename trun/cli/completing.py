"""The verb ``completion``: scripts for bash, zsh and fish, and the hidden ``__complete`` that they call.

The scripts are a few lines and never go stale: they hand the words to ``trun __complete``, which answers verbs,
options and ids of jobs. Ids come from the records on disk, not from services, so that Tab answers within 100 ms and
never waits.

Who may come in: the command. Rule: ``__complete`` prints candidates or nothing; it never fails and never complains.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from trun.cli import VERBS
from trun.cli.text import line
from trun.errors import TrunError, UnknownName

SCRIPTS = {
    "bash": """\
_trun() {
    local IFS=$'\\n'
    COMPREPLY=($(trun __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
# '#' and '/' are parts of the name of a job
COMP_WORDBREAKS=${COMP_WORDBREAKS//#/}
complete -o default -F _trun trun
""",
    "zsh": """\
#compdef trun
_trun() {
    local -a found
    found=("${(@f)$(trun __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -Q -- ${found:#}
}
compdef _trun trun
""",
    "fish": """\
complete -c trun -f -a '(trun __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}
#: How to have it in each new shell.
INSTALL = {
    "bash": 'eval "$(trun completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(trun completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "trun completion fish > ~/.config/fish/completions/trun.fish",
}
OPTIONS = {
    "ps": "--service --state --name --never --all --limit --json",
    "why": "--service --state --verbose --json",
    "logs": "--follow --attempt --run --lines --raw --service --state --json",
    "watch": "--lines --service --state",
    "graph": "--mermaid --dot --json --service --state",
    "history": "--since --name --limit --service --state --json",
    "services": "--json",
    "cancel": "--reason --service --state",
    "retry": "--downstream --dry-run --service --state",
    "hold": "--service --state",
    "release": "--service --state",
    "send": "--timeout --service --state",
    "resume": "--workers --resources --state",
    "recover": "--state --json",
    "agent": "--set --foreground --json",
    "revoke": "--service",
    "doctor": "--json",
    "explain": "--json",
}
#: Also ``never``: those that can never run.
STATES = (
    *("waiting", "queued", "running", "held", "lost"),
    *("completed", "failed", "aborted", "cancelled", "skipped", "never"),
)
#: Verbs whose words are jobs, and the states that their jobs are in (empty: any).
JOBS: dict[str, tuple[str, ...]] = {
    "why": (),
    "logs": (),
    "graph": (),
    "watch": (),
    "cancel": ("new", "held", "waiting", "queued", "running", "lost"),
    "hold": ("new", "waiting", "queued"),
    "release": ("held",),
    "retry": ("completed", "failed", "aborted", "cancelled", "skipped"),
    "send": ("running",),
}
#: Newest runs, and newest jobs of each, that are offered.
RUNS, IDS = 8, 300
#: Seconds that looking for ids may take.
PATIENCE_S = 0.04


def completion(words: Sequence[str]) -> int:
    """Print a completion script."""
    from trun.cli.arguments import Parser

    parser = Parser("completion", "Print a completion script; in each new shell:\n" + "\n".join(INSTALL.values()))
    parser.add_argument("shell", metavar="bash|zsh|fish")
    shell = parser.parse_args(words).shell
    if shell not in SCRIPTS:
        raise UnknownName(f"there is no completion for {shell!r}.", name=shell, known=SCRIPTS)
    print(SCRIPTS[shell], end="")
    return 0


def complete(words: Sequence[str]) -> int:
    """Print the candidates for the last of the words after ``trun``."""
    for candidate in candidates(words or [""]):
        print(candidate)
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what may stand for the last word."""
    *before, last = words
    if not before:
        offered = [verb for verb in VERBS if not verb.startswith("_")] + ["--help", "--version"]
    elif last.startswith("-"):
        offered = [*OPTIONS.get(before[0], "").split(), "--help"]
    else:
        offered = _values(before, last)
    return [word for word in offered if word.startswith(last)]


def _values(before: Sequence[str], last: str) -> list[str]:
    verb, option = before[0], before[-1]
    if verb == "ps" and option == "--state":
        head, comma, _ = last.rpartition(",")
        return [head + comma + state for state in STATES]
    if option in ("--service", "--state", "--workers", "--limit", "--since"):
        return [folder.name for folder in _runs()] if option == "--service" else []
    if verb == "completion":
        return list(SCRIPTS)
    if verb == "explain":
        from trun.cli.explaining import classes

        return list(classes())
    if verb in ("resume", "recover"):
        return [folder.name for folder in _runs()]
    return job_ids(JOBS[verb]) if verb in JOBS else []


def _runs() -> list[Path]:
    from trun.adapters.folders import run_folders

    with contextlib.suppress(TrunError, OSError):
        return run_folders()[:RUNS]
    return []


def job_ids(states: Sequence[str]) -> list[str]:
    """Return the ids of jobs in these states (empty: all) on the newest records, the newest first."""
    from trun.adapters.sqlite import read_only
    from trun.core.codec import decode_life

    end = time.monotonic() + PATIENCE_S
    found: dict[str, None] = {}
    for folder in _runs():
        with contextlib.suppress(TrunError, OSError):
            journal = read_only(folder)
            newest: deque[str] = deque(maxlen=IDS)
            try:
                for job in journal.jobs():
                    if not states or decode_life(job.life).state.value in states:
                        newest.append(line(f"{job.spec.name}#{job.number}"))
                    if time.monotonic() > end:
                        break
            finally:
                journal.close()
            found.update(dict.fromkeys(reversed(newest)))
        if time.monotonic() > end:
            break
    return list(found)
