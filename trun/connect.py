"""Composition in a script: ``local()`` starts a private node, ``remote_service()`` finds one that runs.

The private node is a process of its own (``trun.daemons.node``, the very composition that a cluster node runs) on an
ipc socket in the runtime folder: a busy or crashed script never stalls timeouts, limits or ``trun why``. It is
started at the first use and joined at the interpreter's exit; nothing starts at import.

Rule: no logic of jobs here; this room chooses adapters, starts a process, and hands out a ``Service``.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import trun.errors as errors
import trun.service as services
from trun.adapters import folders
from trun.adapters.wire import Link
from trun.errors import BadOption, ServiceUnavailable, StateError, TrunError
from trun.service import Service

#: Seconds that a private node may take to be ready.
START_S = 30.0

_open: weakref.WeakSet[Service] = weakref.WeakSet()
_registered = False


def local(
    workers: int | None = None,
    state: str | os.PathLike[str] | None = None,
    detach: bool = False,
    executor: str = "processes",
    resources: dict[str, float] | None = None,
    memo: str | os.PathLike[str] | None = None,
    name: str = "local",
) -> Service:
    """Start a private service on this machine and return its handle.

    Parameters
    ----------
    workers
        Worker processes, each running one job at a time; default: the number of usable cores.
    state
        Folder of the durable store. Reopening a folder carries on what was accepted there.
        Default: a run folder of this script below ``TRUN_STATE_DIR``.
    detach
        The service and its jobs go on when this script ends.
    executor
        Where payloads run; ``processes``.
    resources
        Counted resources and their limits, ``{"gpu": 2}``.
    memo
        Folder of the memo store.
    name
        What the service is called in messages.

    Returns
    -------
    A ``Service``; ``with`` selects it. ``close()`` waits for its jobs; so does the interpreter's normal exit.

    Raises
    ------
    StateError
        The folder cannot be written, was written by a newer trun, is damaged, or is held by another process.
    """
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise BadOption(f"workers must be a whole number of at least 1, not {workers!r}.")
    if executor != "processes":
        raise BadOption(f"executor {executor!r} is not available for a local service; use 'processes'.")
    for key, limit in (resources or {}).items():
        if not isinstance(limit, (int, float)) or limit < 0:
            raise BadOption(f"resource {key!r} must have a limit of at least 0, not {limit!r}.")
    del memo
    if state is None:
        folder, run = folders.new_run_folder()
    else:
        folder, run = Path(state).expanduser().absolute(), folders.run_name()
    address = folders.socket_address(run)
    command = [
        *(sys.executable, "-P", "-m", "trun.daemons.node", "--private"),
        *("--folder", str(folder), "--address", address, "--name", name, "--owner", str(os.getpid())),
        *("--workers", str(workers or usable_cores())),
        *("--resources", json.dumps(resources or {})),
    ]
    if detach:
        command.append("--detach")
    process = _start(command, folder)
    made = Service(name=name, address=address, detach=detach)
    made.owned = True
    made.on_close = lambda: _join(process, detach)
    made.on_down = lambda: _died(process, made, folder)
    _connect(made, address)
    made.wait_ready()
    _remember(made)
    return made


def attach(address: str, *, name: str = "", session: str = "", parent: str = "", detach: bool = True) -> Service:
    """Return a handle of the service that answers at ``address``; whoever it is, its end is not ours."""
    made = Service(name=name or address, address=address, session=session, detach=detach, parent=parent)
    _connect(made, address)
    return made


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _connect(made: Service, address: str) -> None:
    link = Link(address)
    link.on_messages(made.heard)
    link.on_state(made.link_state)
    made.attach(link)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a node and wait for its word that it is ready."""
    read, write = os.pipe()
    try:
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                log = stack.enter_context(open(folder / "node.log", "ab"))
            except OSError as error:
                raise StateError(
                    f"the state folder {folder} cannot be written ({error.strerror}); "
                    "choose another with state= or TRUN_STATE_DIR."
                ) from error
            process = subprocess.Popen(
                [*command, "--ready-fd", str(write)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(write,),
                start_new_session=True,
            )
        os.close(write)
        write = -1
        answer = _read_line(read, time.monotonic() + START_S)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    if not answer:
        process.kill()
        process.wait()
        raise ServiceUnavailable(f"the local service did not start; its last words:\n{_tail(folder / 'node.log')}")
    facts: dict[str, Any] = json.loads(answer)
    if "error" in facts:
        process.wait()
        kind = getattr(errors, facts["error"], TrunError)
        raise kind(facts["message"], **facts.get("facts", {}))
    return process


def _read_line(fd: int, deadline: float) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(fd, 65536) if ready else b""
        if not piece:
            return b""
        found += piece
    return found


def _tail(path: Path, lines: int = 12) -> str:
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(text[-lines:]) or "(nothing was logged)"


def _died(process: subprocess.Popen[bytes], made: Service, folder: Path) -> ServiceUnavailable | None:
    try:
        code = process.wait(2.0)
    except subprocess.TimeoutExpired:
        return None
    return ServiceUnavailable(
        f"the local service {made.name} died (exit code {code}); what it accepted is kept in {folder}: "
        f"`trun resume {folder.name}` carries on. Its last words:\n{_tail(folder / 'node.log')}"
    )


def _join(process: subprocess.Popen[bytes], detach: bool) -> None:
    if detach:
        process.returncode = 0  # it lives on; Popen shall not warn
        return
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
        process.kill()
        process.wait()
    except KeyboardInterrupt:
        kill(process)
        raise


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a node and all that it runs now: it is told to kill, then killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# -- the interpreter's exit -------------------------------------------------------------------------------------------


def _remember(made: Service) -> None:
    global _registered
    _open.add(made)
    _strong.append(made)
    if not _registered:
        _registered = True
        atexit.register(_at_exit)


#: Handles are kept until they are closed: a dropped variable must not drop its jobs.
_strong: list[Service] = []


def _interrupted() -> BaseException | None:
    """Return the exception that ends the interpreter, if one does."""
    if hasattr(sys, "ps1"):
        return None
    found = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return found if isinstance(found, BaseException) else None


def _at_exit() -> None:
    error = _interrupted()
    waiting = [made for made in _strong if not made.closed and made._pid == os.getpid()]
    try:
        for made in waiting:
            _close(made, error)
    except KeyboardInterrupt:
        for made in waiting:
            made.closed = True
            made.on_close()
        os._exit(130)


def _close(made: Service, error: BaseException | None) -> None:
    try:
        if error is not None and not made.detach:
            before = made.ask("summary", wait=5.0)
            made.close(cancel=True)
            _sum_up(made, before, error)
        else:
            made.close()
    except ServiceUnavailable as gone:
        print(f"trun: {gone}", file=sys.stderr)


def _sum_up(made: Service, before: dict[str, Any], error: BaseException) -> None:
    unfinished = before.get("unfinished", 0)
    if not unfinished:
        return
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}"
    done = before.get("counts", {}).get("completed", 0)
    print(
        f"trun: {why}: {unfinished} unfinished jobs on {made.name} were cancelled, {done} had completed; "
        f"`trun ps --all` lists them.",
        file=sys.stderr,
    )


def _make_default() -> Service:
    address = os.environ.get("TRUN_SERVICE", "")
    if address:
        return attach(
            address,
            name="inside",
            session="",
            parent=os.environ.get("TRUN_PARENT", ""),
        )
    return local()


services.make_default = _make_default
