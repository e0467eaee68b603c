"""The verb ``completion``: scripts for bash, zsh and fish, and the hidden ``__complete`` that they call.

The scripts are a few lines and never go stale: they hand the words to ``trun __complete``, which answers verbs,
options and ids of jobs. Ids come from the records on disk, not from services, so that Tab answers within 100 ms and
never waits.

Who may come in: the command. Rule: ``__complete`` prints candidates or nothing; it never fails and never complains.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from trun.cli import VERBS

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
    "service": "--name --listen --state --workers --executor --export --resources --foreground --json --drain --kill "
    "--expect --trust-results",
    "user": "--roles --service --json",
    "keygen": "--force --json --rotate",
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
    from trun.errors import UnknownName

    parser = Parser("completion", "Print a completion script; in each new shell:\n" + "\n".join(INSTALL.values()))
    parser.add_argument("shell", metavar="bash|zsh|fish")
    shell = parser.parse_args(words).shell
    if shell not in SCRIPTS:
        known = ", ".join(SCRIPTS)
        raise UnknownName(f"there is no completion for {shell!r}, only for {known}.", name=shell, known=SCRIPTS)
    print(SCRIPTS[shell], end="")
    return 0


def complete(words: Sequence[str]) -> int:
    """Print the candidates for the last of the words after ``trun``."""
    try:
        found = candidates(words or [""])
    except Exception:
        found = []
    for candidate in found:
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
        return [os.path.basename(folder) for folder in _runs()] if option == "--service" else []
    if verb == "completion":
        return list(SCRIPTS)
    if verb == "explain":
        from trun.cli.explaining import classes

        return list(classes())
    if verb in ("resume", "recover"):
        return [os.path.basename(folder) for folder in _runs()]
    return job_ids(JOBS[verb]) if verb in JOBS else []


def _runs() -> list[str]:
    from trun.adapters.database import newest_runs

    return newest_runs(_state_folder(), RUNS)


def _state_folder() -> str:
    """Return where runs lie: what ``adapters.folders`` says, without all that it must import to make folders."""
    named = os.environ.get("TRUN_STATE_DIR")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/trun")
    return os.path.join(os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state"), "trun")


def job_ids(states: Sequence[str]) -> list[str]:
    """Return the ids of jobs in these states (empty: all) on the newest records, the newest first."""
    from trun.adapters.database import glance

    end = time.monotonic() + PATIENCE_S
    found: dict[str, None] = {}
    for folder in _runs():
        for number, name, state in glance(folder, IDS, end):
            if not states or state in states:
                found[_harmless(f"{name}#{number}")] = None
        if time.monotonic() > end:
            break
    return list(found)


def _harmless(text: str) -> str:
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    from trun.cli.text import line

    return line(text)
