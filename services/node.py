"""The daemon that answers for a service: engine, journal, executor and endpoint, composed here and nowhere else.

``python -m trun.daemons.node --folder DIR --address ipc://PATH --workers N``; ``trun.local()`` starts the same
composition with ``--private``. It prints one line of JSON to ``--ready-fd`` when it is ready, or the cause why it is
not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trun.adapters import folders
from trun.adapters.sqlite import SqliteJournal
from trun.errors import TrunError
from trun.executors.processes import Processes
from trun.messages import Welcome
from trun.version import __version__

if TYPE_CHECKING:
    from trun.engine.driver import Driver


def main(argv: Sequence[str] | None = None) -> int:
    """Run a node until it is told to stop; return the exit code."""
    options = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        driver = compose(options)
    except TrunError as error:
        facts = {name: value for name, value in vars(error).items() if isinstance(value, (int, float, str))}
        _ready(options.ready_fd, {"error": type(error).__name__, "message": str(error), "facts": facts})
        return 5
    signal.signal(signal.SIGTERM, lambda *_: driver.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN if options.private else lambda *_: driver.stop())
    _ready(options.ready_fd, {"pid": os.getpid(), "address": options.address})
    # Records live long and hold no circles: looking through all of them again and again would cost half the rate.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    try:
        driver.run()
    finally:
        driver.close()
        if options.private:
            with contextlib.suppress(OSError):
                (Path(options.folder) / "node.json").unlink()
            folders.prune_now_and_then()
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trun.daemons.node", description=__doc__)
    parser.add_argument("--folder", required=True, help="state folder")
    parser.add_argument("--address", required=True, help="where to answer: ipc://PATH")
    parser.add_argument("--name", default="local")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resources", type=json.loads, default={}, help="limits as JSON")
    parser.add_argument("--private", action="store_true", help="belongs to one script")
    parser.add_argument("--owner", type=int, default=0, help="pid of that script")
    parser.add_argument("--detach", action="store_true", help="go on when the script has gone")
    parser.add_argument("--ready-fd", type=int, default=-1)
    return parser.parse_args(argv)


def compose(options: argparse.Namespace) -> Driver:
    """Put the parts together and read the journal back."""
    folder = Path(options.folder)
    journal = SqliteJournal(folder)
    try:
        limits = folders.recorded_limits(folder, options.resources)
        meta = journal.meta()
        key, epoch = meta["service_key"], int(meta["epoch"])
        os.environ["TRUN_SERVICE"] = options.address
        executor = Processes(options.workers, folder=folder, service_key=key)
        executor.open()
    except BaseException:
        journal.close()
        raise
    # The first worker starts while we import the rest: a script sees its first result that much earlier.
    from trun.adapters.clock import SteadyClock
    from trun.adapters.wire import RouterEndpoint
    from trun.core.machine import Machine
    from trun.engine.driver import Driver
    from trun.engine.loop import Engine
    from trun.engine.views import VIEWS

    try:
        machine = Machine(resources=limits, service_key=key, epoch=epoch)
        endpoint = RouterEndpoint(options.address)
    except BaseException:
        executor.close()
        journal.close()
        raise
    welcome = Welcome(
        service_key=key,
        name=options.name,
        epoch=epoch,
        version=__version__,
        python=platform.python_version(),
        pid=os.getpid(),
        workers=options.workers,
        resources=limits,
        folder=str(folder),
    )
    engine = Engine(
        machine=machine,
        journal=journal,
        executor=executor,
        endpoint=endpoint,
        clock=SteadyClock(),
        welcome=welcome,
        views=dict(VIEWS),
    )
    folders.register_service(key, folder)
    engine.recover()
    facts = {"pid": os.getpid(), "address": options.address, "name": options.name, "owner": options.owner}
    (folder / "node.json").write_text(json.dumps(facts))
    return Driver(engine, owner_pid=options.owner or None, outlive=options.detach)


def _ready(fd: int, facts: dict[str, object]) -> None:
    if fd >= 0:
        with contextlib.suppress(BrokenPipeError):  # who started us has gone; the driver notices
            os.write(fd, json.dumps(facts).encode() + b"\n")
        os.close(fd)
    elif "error" in facts:
        print(f"trun: {facts['message']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
