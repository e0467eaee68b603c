"""The agent from the command line: ``trun agent start|stop|list|lock|forget``.

``start`` runs ``trun.daemons.agent`` in a session of its own and unlocks it where the key has a passphrase. Passphrases
are read from the terminal without echo, or as a line of standard input where that is no terminal; never from an
argument or the environment, which others can see.

Who may come in: the command line. Rule: what a request means is the agent's business; nothing secret is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import trun.errors as errors
from trun.adapters import agency, keys, passphrases
from trun.adapters.agency import Agent, Forget, List, Lock
from trun.adapters.system import need_linux
from trun.cli.arguments import Parser, print_json, typed
from trun.cli.text import line
from trun.errors import ServiceUnavailable, UsageError

#: Seconds that the agent may take to start, and to stop.
START_S = 30.0
STOP_S = 10.0


def agent(words: Sequence[str]) -> int:
    """Run ``trun agent ORDER``."""
    parser = Parser("agent", "Keep the user's key in a small process, so that scripts need not read it.")
    orders: dict[str, Callable[[Any], int]] = {
        "start": _start, "stop": _stop, "list": _list, "lock": _lock, "forget": _forget,
    }  # fmt: skip
    known = ", ".join(orders)
    parser.add_argument("order", choices=list(orders), metavar="ORDER", help=f"one of {known}")
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="forget: name or key of the service to forget")
    parser.add_argument("--set", action="store_true", help="lock: also give the key file a new passphrase")
    parser.add_argument("--foreground", action="store_true", help="start: stay in this terminal")
    parser.add_argument("--json", action="store_true", help="list: print data instead of text")
    options = parser.parse_args(list(words))
    if (options.service is not None) != (options.order == "forget"):
        wanted = "trun agent forget SERVICE" if options.order == "forget" else f"trun agent {options.order}"
        raise UsageError(f"write `{wanted}`.")
    return orders[options.order](options)


def _running() -> Agent:
    found = agency.running()
    if found is None:
        raise ServiceUnavailable("no agent runs; `trun agent start` starts one. Without one trun reads the key itself.")
    return found


# -- start and stop ---------------------------------------------------------------------------------------------------


def _start(options: argparse.Namespace) -> int:
    need_linux("the agent")
    command = [sys.executable, "-P", "-m", "trun.daemons.agent"]
    found = agency.running()
    if found is None and options.foreground:
        return subprocess.call(command)
    word = "runs already"
    if found is None:
        _launch(command)
        found, word = _running(), "started"
    if found.ask(List())["locked"]:
        path = keys.user_key_file()
        text = typed(f"Passphrase of {path}: ") if passphrases.is_locked(path) else ""
        found.ask(Lock(locked=False, passphrase=text))
        word += ", unlocked"
    print(f"agent {word}: process {found.pid}, key {found.ask(List())['key']}")
    return 0


def _launch(command: list[str]) -> None:
    log = agency.agent_folder() / "agent.log"
    read, write = os.pipe()
    try:
        with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(write)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(write,), start_new_session=True,
                cwd="/",
            )  # fmt: skip
        os.close(write)
        write = -1
        ready, _, _ = select.select([read], [], [], START_S)
        answer = os.read(read, 65536) if ready else b""
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    facts: dict[str, Any] = json.loads(answer) if answer else {"message": f"the agent did not start; see {log}"}
    if "pid" not in facts:
        process.kill()
        process.wait()
        kind = getattr(errors, facts.get("error", ""), ServiceUnavailable)
        raise kind(facts["message"], **facts.get("facts", {}))
    process.returncode = 0  # it lives on; Popen shall not warn


def _stop(options: argparse.Namespace) -> int:
    found = agency.running()
    if found is None:
        print("no agent runs")
        return 0
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while agency.running() is not None:
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"the agent (process {found.pid}) does not stop.")
        time.sleep(0.02)
    print(f"agent stopped: process {found.pid}")
    return 0


# -- the rest ---------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    held = _running().ask(List())
    if options.json:
        print_json(held)
        return 0
    print(f"agent: process {held['pid']}, {'locked' if held['locked'] else 'key ' + held['key']}")
    for what in held["missing"]:
        print(f"  not hidden: {line(what)}")
    for each in held["sessions"]:
        print(f"session at {line(each['service'])} until {_clock(each['expires'])}: key {each['key']}")
    for each in held["lent"]:
        may, what = ", ".join(each["ops"]), " ".join(each["res"])
        print(f"lent by {line(each['service'])} until {_clock(each['expires'])}: {may} of {line(what)}")
        print(f"  to {each['holder']}, id {each['ids'][-1]}")
    for each in held["renewing"]:
        job = f"job {line(each['job'])} on {line(each['to'])}"
        print(f"renewed at {line(each['service'])} for {job}: next at {_clock(each['next'])}")
    return 0


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _lock(options: argparse.Namespace) -> int:
    found = agency.running()
    if options.set:
        path = keys.user_key_file()
        if not path.exists():
            keys.user_keys()
        old = typed("Present passphrase: ") if passphrases.is_locked(path) else ""
        passphrases.open_seed(path, old)
        new = typed("New passphrase (empty: none): ")
        if new != typed("The same again: "):
            raise UsageError("the two passphrases differ; nothing was changed.")
        passphrases.set_passphrase(path, old, new)
        print(f"{path} {'needs its passphrase from now on' if new else 'needs no passphrase any more'}")
        if found is None:
            return 0
    if found is None:
        found = _running()
    found.ask(Lock())
    print("agent locked; `trun agent start` unlocks it")
    return 0


def _forget(options: argparse.Namespace) -> int:
    count = _running().ask(Forget(options.service))["forgotten"]
    print(f"{count} {'thing' if count == 1 else 'things'} of {line(options.service)} forgotten")
    return 0


__all__ = ["agent"]
