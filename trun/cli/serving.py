"""Services as daemons: ``trun service start|stop|status|list|add|forget``.

``start`` runs ``trun.daemons.node`` in a session of its own and returns when it is ready, or says why it is not.
Whoever starts a service owns it: the key of this user gets all roles there, and the service is written down among the
known ones. Printing and processes only; what a node is made of stands in ``services/node.py``.

Rule: one service per state folder; a name that runs already is refused with the process that holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trun.adapters import folders
from trun.adapters.known import Known, find, forget, known_services, remember
from trun.adapters.sockets import check_tcp, pipe_above_stdio, socket_path
from trun.adapters.system import need_linux
from trun.cli import table
from trun.cli.arguments import Parser, print_json, whole
from trun.cli.text import Paint, count, line
from trun.errors import BadOption, ServiceUnavailable, StateHeld, TrunError, UnknownName, UsageError, nearest
from trun.remotes import connect, remote_service

#: Seconds that a daemon may take to be ready, and to stop.
START_S = 60.0
STOP_S = 30.0
#: What ``--drain`` waits for, and how often it looks, in seconds.
MOVING = ("queued", "running", "lost")
LOOK_S = 0.1


HELP = """\
usage: trun service start|stop|status|list|add|forget ...

  start --name NAME   start a service on this machine; returns when it is ready
        --listen tcp://HOST:PORT or ipc://PATH, --state DIR, --workers N, --executor WHERE, --export DIR,
        --resources gpu=2,sim=1 --foreground --json
  stop NAME           stop it; running jobs live on for the next start; --drain waits for them, --kill ends them
  status [NAME]       say where it answers, its key, and what it does; --json
  list                list the services that this user knows; --json
  add NAME ADDRESS    write down where a service is: --expect KEY, --trust-results
  forget NAME         remove a service from the known ones

Each of them has help of its own."""


def service(words: Sequence[str]) -> int:
    """Run ``trun service VERB ...``."""
    verbs: dict[str, Callable[[Sequence[str]], int]] = {
        "start": _start,
        "stop": _stop,
        "status": _status,
        "list": _list,
        "add": _add,
        "forget": _forget,
    }
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        raise SystemExit(0 if words else 2)
    verb = verbs.get(words[0])
    if verb is None:
        raise UsageError(f"there is no `trun service {words[0]}`.{nearest(words[0], verbs)}")
    return verb(words[1:])


# -- start ------------------------------------------------------------------------------------------------------------


def _start(words: Sequence[str]) -> int:
    options = _start_options(words)
    folder = Path(options.state).expanduser().absolute() if options.state else _default_folder(options.name)
    holder = folders.holder(folder) if folder.exists() else None
    if holder is not None:
        raise StateHeld(
            f"service {_name_of(folder) or options.name} runs already: process {holder.pid} holds {folder} "
            f"since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(holder.since))}.",
            pid=holder.pid,
            since=holder.since,
        )
    own, listen = _addresses(options)
    before = next((known.address for known in known_services() if known.folder == str(folder)), "")
    if before.startswith("tcp://") and not listen:
        print(
            f"trun: {options.name} listened at {before} before; without --listen it answers to you alone.",
            file=sys.stderr,
        )
    limits = _limits(options.resources)
    exported = ["--export", str(_export_folder(options.export))] if options.export else []
    _let_owner_in(folder)
    command = [
        *(sys.executable, "-P", "-m", "trun.daemons.node", "--folder", str(folder), "--address", own),
        *("--name", options.name, "--workers", str(options.workers or folders_cores())),
        *("--resources", json.dumps(limits)),
        *(word for address in listen for word in ("--listen", address)),
        *exported,
    ]
    if options.foreground:
        return _foreground(command, options, folder)
    facts = _launch(command, folder)
    _tell(_known(options.name, facts, folder), facts, folder, as_data=options.json)
    return 0


def _name_of(folder: Path) -> str:
    """Return what the service of a folder calls itself, as far as it has said so."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads((folder / "node.json").read_text()).get("name") or "")
    return ""


def _start_options(words: Sequence[str]) -> Any:
    parser = Parser("service start", "Start a service on this machine.")
    parser.add_argument("--name", required=True, metavar="NAME", help="what the service is called")
    parser.add_argument("--listen", metavar="ADDRESS", help="tcp://HOST:PORT (port 0: any) or ipc://PATH")
    parser.add_argument("--state", metavar="DIR", help="folder of the durable store")
    parser.add_argument("--workers", type=whole, metavar="N", help="worker processes; default: all cores")
    parser.add_argument("--executor", default="processes", metavar="WHERE", help="where payloads run: processes")
    parser.add_argument("--export", metavar="DIR", help="folder whose files may be fetched")
    parser.add_argument("--resources", default="", metavar="gpu=2,sim=1", help="counted resources and their limits")
    parser.add_argument("--foreground", action="store_true", help="stay in this terminal (for systemd and batch jobs)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    options = parser.parse_args(list(words))
    need_linux("a service on this machine")
    if options.executor != "processes":
        raise BadOption(f"executor {options.executor!r} is not in this version of trun yet; use processes.")
    _check_name(options.name)
    return options


def _check_name(name: str) -> None:
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or len(name) > 40:
        raise BadOption(f"{name!r} is no name for a service: letters, digits and - _ . (at most 40).")


def _export_folder(text: str) -> Path:
    found = Path(text).expanduser().absolute()
    if not found.is_dir():
        raise BadOption(f"--export: there is no folder {found}; make it first, or name another.")
    return found


def _limits(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, amount = part.partition("=")
        try:
            limit = float(amount)
        except ValueError:
            limit = -1.0
        if not name.strip() or not 0 <= limit < float("inf"):
            raise BadOption(f"--resources: {part!r} is no resource and its limit, as in gpu=2.")
        found[name.strip()] = limit
    return found


def folders_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_folder(name: str) -> Path:
    return folders.private_folder(folders.state_folder() / "services") / name


def _addresses(options: Any) -> tuple[str, list[str]]:
    """Return the owner's own socket, and the addresses for others."""
    own = folders.socket_address(f"service-{options.name}")
    listen = options.listen
    if not listen:
        return own, []
    if listen.startswith("ipc://"):
        return listen, []
    if not listen.startswith("tcp://"):
        raise BadOption(f"{listen!r} is no address to listen at: tcp://HOST:PORT or ipc:///PATH.")
    check_tcp(listen, bind=True)
    host, _, port = listen.rpartition(":")
    return own, [f"{host}:{'*' if port.strip('0') == '' else port}"]


def _let_owner_in(folder: Path) -> None:
    from trun.adapters.keys import user_keys, user_name
    from trun.adapters.people import People
    from trun.core.rights import ROLES

    folders.private_folder(folder)
    key = user_keys().public
    people = People(folder)
    if "admin" not in people.roles(key):
        people.add(user_name(), key, ROLES)


def _launch(command: list[str], folder: Path) -> dict[str, Any]:
    read, write = pipe_above_stdio()
    with open(folder / "node.log", "ab") as log:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(write)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write,),
            start_new_session=True,
        )
    os.close(write)
    process.returncode = None
    try:
        return _ready(read, process, folder)
    finally:
        os.close(read)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0)
        process.returncode = process.returncode or 0  # it lives on; Popen shall not warn


def _ready(read: int, process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    text, deadline = b"", time.monotonic() + START_S
    while not text.endswith(b"\n"):
        if not select.select([read], [], [], max(0.0, deadline - time.monotonic()))[0]:
            process.kill()
            log = folder / "node.log"
            raise ServiceUnavailable(f"the service was not ready within {START_S:g} s; its log is {log}.")
        piece = os.read(read, 65536)
        if not piece:
            words = (folder / "node.log").read_text(errors="replace").splitlines()[-8:]
            raise ServiceUnavailable("the service did not start; its last words:\n" + "\n".join(words))
        text += piece
    facts: dict[str, Any] = json.loads(text)
    if "error" in facts:
        import trun.errors as errors

        kind = getattr(errors, facts["error"], TrunError)
        raise kind(facts["message"], **facts.get("facts", {}))
    return facts


def _foreground(command: list[str], options: Any, folder: Path) -> int:
    """Start the service, say so, and stay until it ends; signals go to it."""
    facts = _launch(command, folder)
    pid = int(facts["pid"])
    _tell(_known(options.name, facts, folder), facts, folder, as_data=options.json)
    sys.stdout.flush()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(pid, signal.SIGTERM))
    while True:
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            return 0
        return 0 if os.waitstatus_to_exitcode(status) in (0, -signal.SIGTERM) else 1


def _known(name: str, facts: dict[str, Any], folder: Path) -> Known:
    address = facts["listen"][0] if facts.get("listen") else facts["address"]
    if "://0.0.0.0:" in address or "://[::]:" in address:
        address = facts["address"]  # the owner's own processes use the socket
    known = Known(name=name, address=address, key=facts["key"], trusted=True, folder=str(folder))
    # It is ours, on this machine: the folder and not the name says which one is meant.
    return remember(known, replace=True)


def _tell(known: Known, facts: dict[str, Any], folder: Path, *, as_data: bool) -> None:
    address = facts["listen"][0] if facts.get("listen") else facts["address"]
    if as_data:
        data = {"name": known.name, "address": address, "key": known.key, "pid": facts["pid"], "state": str(folder)}
        print_json({**data, "fingerprint": known.fingerprint})
    else:
        print(f"{known.name} ready at {address} key {known.key}")


# -- stop -------------------------------------------------------------------------------------------------------------


def _stop(words: Sequence[str]) -> int:
    parser = Parser("service stop", "Stop a service of this machine.")
    parser.add_argument("name", metavar="NAME")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--drain", action="store_true", help="wait until nothing runs or waits in line")
    how.add_argument("--kill", action="store_true", help="end running jobs now")
    options = parser.parse_args(list(words))
    folder = _folder_of(options.name)
    holder = folders.holder(folder)
    if holder is None or not holder.pid:
        print(f"{options.name} does not run")
        return 0
    if options.drain:
        _drain(options.name, folder)
    number = signal.SIGUSR1 if options.kill else signal.SIGTERM
    _end(holder.pid, number)
    print(f"{options.name} stopped")
    return 0


def _end(pid: int, number: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        os.kill(pid, number)
        if not select.select([fd], [], [], STOP_S)[0]:
            os.kill(pid, signal.SIGKILL)
            select.select([fd], [], [], STOP_S)
    finally:
        os.close(fd)


def _drain(name: str, folder: Path) -> None:
    made = connect(str(_facts(folder)["address"]), name=name)
    try:
        while any(made.ask("summary")["counts"].get(state) for state in MOVING):
            time.sleep(LOOK_S)
    finally:
        made.close(timeout=5.0)


def _folder_of(name: str) -> Path:
    for known in known_services():
        if known.name == name and known.folder:
            return Path(known.folder)
    folder = folders.state_folder() / "services" / name
    if folder.is_dir():
        return folder
    names = [known.name for known in known_services() if known.folder]
    raise UnknownName(f"no service {name!r} was started here.", name=name, known=names)


def _facts(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "node.json").read_text())
    except (OSError, ValueError):
        raise ServiceUnavailable(f"nobody answers for {folder}.") from None
    return found


# -- status and list --------------------------------------------------------------------------------------------------


def _status(words: Sequence[str]) -> int:
    parser = Parser("service status", "Say where a service answers, its key, and what it does.").data()
    parser.add_argument("name", metavar="NAME", nargs="?", help="default: the only one that runs here")
    options = parser.parse_args(list(words))
    name = options.name or _only_one()
    known = find(name)
    try:
        made = connect(_own_address(known), name=name) if known.folder else remote_service(name)
    except TrunError as error:
        if options.json:
            print_json({"name": name, "state": "unreachable", "address": known.address, "reason": str(error)})
        else:
            print(line(str(error)))
        return 4
    try:
        welcome = made.wait_ready()
        facts: dict[str, Any] = {
            "name": name,
            "state": "ready",
            "address": (welcome.addresses[1:] or (made.address,))[0],
            "socket": next((one for one in welcome.addresses if one.startswith("ipc://")), ""),
            "key": welcome.key,
            "fingerprint": known.fingerprint,
            "pid": welcome.pid,
            "folder": welcome.folder,
            "workers": welcome.workers,
            "version": welcome.version,
            "python": welcome.python,
        }
        summary = made.ask("summary")
        facts |= {key: summary.get(key) for key in ("counts", "unfinished", "irregular", *_STRANGE)}
    finally:
        made.close(timeout=5.0)
    if options.json:
        print_json(facts)
        return 0
    print(f"{name} ready at {facts['address']} key {facts['key']}")
    print(f"  fingerprint {facts['fingerprint']}, process {facts['pid']}, {count(facts['workers'], 'worker')}")
    counts = ", ".join(f"{number} {state}" for state, number in facts.get("counts", {}).items() if number)
    print(f"  jobs: {counts or 'none'}; state in {facts['folder']}")
    strange = ", ".join(f"{facts[key]} {text}" for key, text in _STRANGE.items() if facts.get(key))
    if strange:
        print(f"  {strange} since it started")
    return 0


#: What a service counts of those who do what they should not.
_STRANGE = {
    "denied": "requests denied",
    "dropped": "messages dropped",
    "refused": "handshakes failed",
    "cut": "connections cut off",
    "muted": "users muted now",
}


def _only_one() -> str:
    running = [known.name for known in known_services() if known.folder and folders.holder(Path(known.folder))]
    if len(running) == 1:
        return running[0]
    raise UsageError(f"which service? {', '.join(running) or 'None runs here'}.")


def _own_address(known: Known) -> str:
    return str(_facts(Path(known.folder))["address"]) if known.folder else known.address


def _list(words: Sequence[str]) -> int:
    options = Parser("service list", "List the services that this user knows.").data().parse_args(list(words))
    found = []
    for known in known_services():
        runs = folders.holder(Path(known.folder)) is not None if known.folder else None
        state = {True: "runs", False: "stopped", None: ""}[runs]
        item: dict[str, Any] = {"name": known.name, "address": known.address, "key": known.key, "state": state}
        found.append(item | {"fingerprint": known.fingerprint, "trusted": known.trusted, "folder": known.folder})
    if options.json:
        print_json(found)
        return 0
    if not found:
        print("no service is known; `trun service start --name NAME` starts one, `trun service add` adds one")
    heads = [table.Column(head=head) for head in ("NAME", "STATE", "ADDRESS", "FINGERPRINT", "RESULTS")]
    for row in table.render(heads, [_row(item) for item in found], paint=Paint(sys.stdout)):
        print(row)
    return 0


def _row(item: dict[str, Any]) -> list[str]:
    is_loaded = item["trusted"] and not item["folder"]
    return [item["name"], item["state"], item["address"], item["fingerprint"], "trusted" if is_loaded else ""]


# -- known services ---------------------------------------------------------------------------------------------------


def _add(words: Sequence[str]) -> int:
    parser = Parser("service add", "Write down the address and the key of a service.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("address", metavar="ADDRESS", help="tcp://HOST:PORT, ssh://HOST, https://HOST/PATH or ipc:///PATH")
    parser.add_argument("--expect", metavar="KEY", help="the 40 characters that its operator gave you")
    parser.add_argument("--trust-results", action="store_true", help="load pickled results, which may contain any code")
    options = parser.parse_args(list(words))
    if options.address.startswith("tcp://") and not options.expect:
        raise UsageError(
            "a service at tcp:// is believed by its key: ask its operator for it (`trun service status NAME` shows it) "
            "and give --expect KEY."
        )
    scheme = options.address.partition("://")[0]
    if scheme not in ("tcp", "ipc", "ssh", "https") or "://" not in options.address:
        raise BadOption(
            f"{options.address!r} is no address of a service: tcp://HOST:PORT, ssh://HOST, https://HOST/PATH or ipc:///PATH."
        )
    if scheme in ("tcp", "ipc"):
        socket_path(options.address)
    _check_name(options.name)
    known = Known(
        name=options.name, address=options.address, key=options.expect or "", trusted=options.trust_results
    )
    remember(known)
    from trun.adapters.agency import public_key

    shown = f" (fingerprint {known.fingerprint})" if known.key else ""
    print(f"{options.name} is known at {options.address}{shown}")
    print(f"your key, for its operator: {public_key()}")
    return 0


def _forget(words: Sequence[str]) -> int:
    parser = Parser("service forget", "Remove a service from the known ones.")
    parser.add_argument("name", metavar="NAME")
    options = parser.parse_args(list(words))
    known = find(options.name)
    if known.folder and folders.holder(Path(known.folder)) is not None:
        raise UsageError(f"{options.name} runs here, and can be forgotten when it has ended: `trun service stop`.")
    forget(options.name)
    print(f"{options.name} is forgotten" + (f"; what it has kept stays in {known.folder}" if known.folder else ""))
    return 0
