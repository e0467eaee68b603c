"""Composition in a script: ``local()`` starts a private node, ``remote_service()`` finds one that runs.

The private node is a process of its own (``trun.daemons.node``, the very composition that a cluster node runs) on an
ipc socket in the runtime folder: a busy or crashed script never stalls timeouts, limits or ``trun why``. It is
started at the first use and joined at the interpreter's exit; nothing starts at import.

Rule: no logic of jobs here; this room chooses adapters, starts a process, and hands out a ``Service``.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trun.errors as errors
import trun.service as services
from trun.adapters import folders
from trun.adapters.sockets import pipe_above_stdio
from trun.adapters.system import need_linux
from trun.errors import BadOption, ServiceUnavailable, StateError, TrunError
from trun.service import Service

#: They import what a script uses next, while its node starts: neither waits for the other.
meanwhile: list[Callable[[], object]] = []

#: Seconds that a private node may take to be ready; one that ends before is known to have ended at once.
START_S = 90.0

#: After Ctrl-C: seconds before we say that we still wait, and for how long we do before the node is killed.
PATIENCE_S = 0.5
CANCEL_S = 6.0
#: Seconds after which a script that waits at its end for nothing that moves says so.
STUCK_S = 3.0
#: Jobs that are named where the end of a script waits for them.
LEFT_SHOWN = 4
#: Failures that are told one by one at the end.
FAILURES_SHOWN = 5


def local(
    workers: int | None = None,
    state: str | os.PathLike[str] | None = None,
    detach: bool = False,
    executor: str = "processes",
    resources: dict[str, float] | None = None,
    memo: str | os.PathLike[str] | None = None,
    name: str | None = None,
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
        Folder of the memo store; nothing is remembered yet in this version.
    name
        What the service is called in messages; default: ``local``, and ``local-2`` and so on while others are open.

    Returns
    -------
    A ``Service``; ``with`` selects it. ``close()`` waits for its jobs; so does the interpreter's normal exit.

    Raises
    ------
    StateError
        The folder cannot be written, was written by a newer trun, is damaged, or is held by another process.
    """
    need_linux("a service on this machine")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise BadOption(f"workers must be a whole number of at least 1, not {workers!r}.")
    if executor != "processes":
        raise BadOption(f"executor {executor!r} is not available for a local service; use 'processes'.")
    if not isinstance(state, str | os.PathLike | None) or not isinstance(detach, bool):
        raise BadOption(f"state must be a folder and detach True or False, not {state!r} and {detach!r}.")
    if not isinstance(resources, dict | None):
        raise BadOption(f'resources must be a dictionary such as {{"gpu": 2}}, not {resources!r}.')
    for key, limit in (resources or {}).items():
        if not isinstance(limit, (int, float)) or limit < 0:
            raise BadOption(f"resource {key!r} must have a limit of at least 0, not {limit!r}.")
    del memo
    name = name or _free_name()
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
    try:
        _connect(made, address)
        made.wait_ready()
    except BaseException:
        kill(process)
        raise
    _remember(made, process)
    if name != "local":  # the record shall go by the same name as the service did
        with contextlib.suppress(OSError):
            (folder / folders.NAME).write_text(name)
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
    from trun.adapters.wire import Link

    link = Link(address)
    link.on_messages(made.heard)
    link.on_state(made.link_state)
    made.attach(link)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a node and wait for its word that it is ready."""
    read, write = pipe_above_stdio()
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
        try:
            import trun.adapters.wire  # noqa: F401 - used as soon as the node is there

            for prepare in meanwhile:
                prepare()
            answer = _read_line(read, time.monotonic() + START_S)
        except BaseException:
            kill(process)
            raise
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
    """Return the error for a node that has died; None while it lives (then its death is told as soon as it dies)."""

    def error(code: int) -> ServiceUnavailable:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        run = folder.name if folder.parent.name == "runs" else str(folder)
        return ServiceUnavailable(
            f"the local service {made.name} died ({how}); what it accepted is kept in {folder}: "
            f"`trun resume {run}` carries on. Its last words:\n{_tail(folder / 'node.log')}"
        )

    def tell() -> None:
        code = process.wait()
        if not made.closed:
            made.give_up(error(code))

    try:
        return error(process.wait(0.5))
    except subprocess.TimeoutExpired:
        threading.Thread(target=tell, name="trun-death", daemon=True).start()
        return None


def _join(process: subprocess.Popen[bytes], detach: bool) -> None:
    if detach:
        process.returncode = 0  # it lives on; Popen shall not warn
        return
    try:
        _await_end(process, 10.0)
    except subprocess.TimeoutExpired:
        kill(process)
    except KeyboardInterrupt:
        kill(process)
        raise


def _await_end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait as ``process.wait`` does, without its naps where the system tells of the end at once."""
    if hasattr(os, "pidfd_open") and process.returncode is None:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(process.pid)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(timeout * 1000)
            finally:
                os.close(fd)
            timeout = 0.5
    process.wait(timeout)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a node and all that it runs now: it is told to kill, then killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(0.7)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# -- the interpreter's exit -------------------------------------------------------------------------------------------


def _remember(made: Service, process: subprocess.Popen[bytes]) -> None:
    if not _nodes:
        atexit.register(_at_exit)
    _nodes[made] = process


#: Handles with their nodes. A dropped variable must not drop its jobs.
_nodes: dict[Service, subprocess.Popen[bytes]] = {}


def _free_name() -> str:
    """Return ``local``, or ``local-2`` and so on where this process has services of these names open."""
    taken = {made.name for made in list(_nodes) if not made.closed and made._pid == os.getpid()}
    return next(name for name in ("local", *(f"local-{n}" for n in range(2, len(taken) + 3))) if name not in taken)


def _interrupted() -> BaseException | None:
    """Return the exception that ends the interpreter, if one does."""
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        return None
    found = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return found if isinstance(found, BaseException) else None


def _at_exit() -> None:
    mine = [made for made in _nodes if made._pid == os.getpid()]
    error = _interrupted()
    late = False
    if error is None:
        try:
            _tell_what_waits(mine)
            for made in mine:
                _close(made)
        except KeyboardInterrupt as interrupt:
            error, late = interrupt, True
    if error is not None:
        try:
            _cancel([made for made in mine if not made.closed], error)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for made in mine:
                kill(_nodes[made])
            late = True  # threads of ours live on, and one of them might take the signal
    for made in mine:
        _report_failures(made)
    if isinstance(error, KeyboardInterrupt):
        _leave_interrupted(late)


def _close(made: Service) -> None:
    if made.closed:
        return
    try:
        if made.detach:
            unfinished = made.ask("summary")["unfinished"]
            if unfinished:
                say(f"{_jobs(unfinished)} on {made.name} {'goes' if unfinished == 1 else 'go'} on; trun ps")
        made.close()
    except ServiceUnavailable as gone:
        say(str(gone))
    else:
        if made.gone is not None and made.lost:
            say(str(made.gone))


def _tell_what_waits(services_: list[Service]) -> None:
    """Wait for the jobs of this script; where nothing runs and jobs are left, say once which, and what can be done."""
    endings = {}
    for made in services_:
        if not made.detach and not made.closed and made.gone is None:
            with contextlib.suppress(ServiceUnavailable):
                endings[made] = made.begin_drain()
    while endings:
        late = concurrent.futures.wait(endings.values(), STUCK_S).not_done
        for made in [made for made, ending in endings.items() if ending not in late or _told_what_waits(made)]:
            del endings[made]


def _told_what_waits(made: Service) -> bool:
    """Say which jobs the end of the script waits for, if none of them runs; False if some do."""
    try:
        counts = made.ask("summary")["counts"]
        if any(counts.get(state) for state in ("new", "queued", "running", "lost")):
            return False
        left = made.ask("ps", state=["held", "waiting"], limit=LEFT_SHOWN)
    except TrunError:
        return True
    if left["jobs"]:
        say(_left_line(made, left["jobs"], left["total"]))
    return bool(left["jobs"])


def _left_line(made: Service, jobs: list[dict[str, Any]], total: int) -> str:
    said = [f"{job['id']} ({str(job['reason']).partition(' (trun ')[0]})" for job in jobs]
    more = [f"{total - len(jobs)} more"] if total > len(jobs) else []
    run = Path(made.folder)
    run_word = run.name if run.parent.name == "runs" else str(run)
    which = "" if where(made, "") == "" else f" --service {run_word}"
    held = " ".join(job["id"] for job in jobs if job["state"] == "held")
    orders = [f"trun release{which} {held}"] if held else []
    orders.append(f"trun cancel{which} {' '.join(job['id'] for job in jobs)} (or Ctrl-C)")
    orders.append(f"Ctrl-\\ and later trun resume {run_word}")
    what = f"waiting for {_jobs(total)} on {made.name}: {', '.join(said + more)}"
    return f"{what}; {', '.join(orders[:-1])}, or {orders[-1]}"


def where(made: Service, label: str) -> str:
    """Return the word by which a verb finds a job of this script: with its run where several services are open."""
    run = Path(made.folder)
    if len([each for each in _nodes if each._pid == os.getpid()]) < 2 or run.parent.name != "runs":
        return label
    return f"{run.name}/{label}"


def _cancel(services_: list[Service], error: BaseException) -> None:
    """Cancel what is unfinished, everywhere at once; sum up; close."""
    before = {}
    endings = {}
    for made in services_:
        if made.detach or made.gone is not None:
            continue
        with contextlib.suppress(ServiceUnavailable):
            before[made] = made.ask("summary", wait=2.0)
            if before[made]["unfinished"]:
                endings[made] = made.begin_drain(cancel=True)
    _, late = concurrent.futures.wait(endings.values(), PATIENCE_S)
    if late:
        names = ", ".join(made.name for made, ending in endings.items() if ending in late)
        say(f"stopping what runs on {names} (Ctrl-C again kills at once)")
        concurrent.futures.wait(late, CANCEL_S)
    for made, ending in endings.items():
        if ending.done() and ending.exception() is None:
            _sum_up(made, before[made], error)
        else:
            say(f"{made.name} did not stop in time and was killed; {_jobs(before[made]['unfinished'])} left")
            kill(_nodes[made])
    for made in services_:
        if made.detach:
            _close(made)
            continue
        with contextlib.suppress(ServiceUnavailable):
            made.close(cancel=True, timeout=2.0)


def _sum_up(made: Service, before: dict[str, Any], error: BaseException) -> None:
    after = made.ask("summary", wait=2.0)
    then, now = before["counts"], after["counts"]

    def more(state: str) -> int:
        return int(now.get(state, 0) - then.get(state, 0))

    parts = []
    for state, word, done in (("aborted", "running job", "stopped"), ("cancelled", "waiting job", "cancelled")):
        if more(state):
            parts.append(f"{_jobs(more(state), word)} {'was' if more(state) == 1 else 'were'} {done}")
    if not parts:
        return
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
    text = f"{why}: {' and '.join(parts)} on {made.name}; {now.get('completed', 0)} had completed"
    if after["unfinished"]:
        text += f", {after['unfinished']} of an earlier run are left"
    say(f"{text} (trun ps --all)")


def _report_failures(made: Service) -> None:
    """Say which jobs failed without anybody having asked for their outcome: a line each."""
    left = [job for job in made.unheard.values() if not job._is_minded]
    for job in left[:FAILURES_SHOWN]:
        word, place = where(made, job._label), "" if made.name == "local" else f" on {made.name}"
        say(f"{job._label}{place} failed: {job._in_short()} (trun why {word}, trun logs {word})")
    if len(left) > FAILURES_SHOWN:
        say(f"{len(left) - FAILURES_SHOWN} more jobs failed (trun ps --all --state failed)")


def say(text: str) -> None:
    """Tell the person at the terminal; a closed stderr is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(f"trun: {text}", file=sys.stderr, flush=True)


def _jobs(number: int, word: str = "job") -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _leave_interrupted(late: bool) -> None:
    """See to it that the exit code is 130, whoever looks: the shell, or a parent that would see a signal."""
    if not late:  # the interpreter is about to send itself a SIGINT; if that cannot be delivered it exits with 130
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    logging.shutdown()
    os._exit(130)


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
