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
import os
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trun.adapters import folders
from trun.adapters.logline import begin_log
from trun.adapters.sqlite import SqliteJournal
from trun.errors import TrunError
from trun.executors.lasting import Lasting
from trun.executors.processes import Processes
from trun.messages import Welcome
from trun.version import __version__

if TYPE_CHECKING:
    from trun.adapters.bulk import BulkServer
    from trun.adapters.endpoints import Endpoints
    from trun.adapters.wire import RouterEndpoint
    from trun.core.machine import Machine
    from trun.correspondence import Correspondence
    from trun.engine.driver import Driver
    from trun.engine.gate import Gate
    from trun.engine.loop import Engine, View


def main(argv: Sequence[str] | None = None) -> int:
    """Run a node until it is told to stop; return the exit code."""
    options = _arguments(argv)
    begin_log()
    try:
        driver = compose(options)
    except TrunError as error:
        facts = {name: value for name, value in vars(error).items() if isinstance(value, (int, float, str))}
        _ready(options.ready_fd, {"error": type(error).__name__, "message": str(error), "facts": facts})
        return 5
    signal.signal(signal.SIGTERM, lambda *_: driver.stop())
    signal.signal(signal.SIGUSR1, lambda *_: driver.stop(kill=True))
    signal.signal(signal.SIGINT, signal.SIG_IGN if options.private else lambda *_: driver.stop())
    welcome = driver.engine.welcome
    listen = list(welcome.addresses[1:])
    _ready(options.ready_fd, {"pid": os.getpid(), "address": options.address, "key": welcome.key, "listen": listen})
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
    parser.add_argument("--listen", action="append", default=[], help="also answer others: tcp://HOST:PORT")
    parser.add_argument("--export", default="", help="folder whose files may be fetched")
    parser.add_argument("--private", action="store_true", help="belongs to one script")
    parser.add_argument("--owner", type=int, default=0, help="pid of that script")
    parser.add_argument("--detach", action="store_true", help="go on when the script has gone")
    parser.add_argument("--ready-fd", type=int, default=-1)
    return parser.parse_args(argv)


def compose(options: argparse.Namespace) -> Driver:
    """Put the parts together and read the journal back."""
    folder = Path(options.folder)
    journal = SqliteJournal(folder)
    settings: dict[str, str] = {}
    try:
        if not options.private:
            settings = _settings(folder)
        limits = folders.recorded_limits(folder, options.resources)
        meta = journal.meta()
        open_ = None if options.private else Opening(folder, options, settings)
        key, epoch = meta["service_key"] if open_ is None else open_.key, int(meta["epoch"])
        os.environ["TRUN_SERVICE"] = options.address
        kind = Processes if options.private else Lasting
        executor = kind(options.workers, folder=folder, service_key=key)
        executor.open()
    except BaseException:
        journal.close()
        raise
    # The first worker starts while we import the rest: a script sees its first result that much earlier.
    from trun.adapters.clock import SteadyClock
    from trun.adapters.wire import RouterEndpoint
    from trun.core.machine import Machine
    from trun.engine import packages
    from trun.engine.driver import Driver
    from trun.engine.loop import Engine
    from trun.engine.views import VIEWS

    try:
        machine = Machine(resources=limits, service_key=key, epoch=epoch)
        own = RouterEndpoint(options.address)
        endpoint = own if open_ is None else open_.endpoint(own)
    except BaseException:
        executor.close()
        journal.close()
        raise
    engine = Engine(
        machine=machine,
        journal=journal,
        executor=executor,
        endpoint=endpoint,
        clock=SteadyClock(),
        welcome=_welcome(options, key, epoch, limits, open_, endpoint.addresses),
        views={**VIEWS, **packages.VIEWS},
        gate=open_.gate(machine) if open_ is not None else None,
    )
    folders.register_service(key, folder)
    if open_ is not None:
        open_.sweep()
        engine.views.update(open_.verbs(engine))
        engine.mail = open_.mail()
    if engine.gate is not None:
        engine.gate.offer = engine.payloads.packages.offer
        engine.gate.wire = None if isinstance(endpoint, RouterEndpoint) else endpoint
    engine.recover()
    _write_facts(options, engine.welcome)
    looker = open_.looker if open_ is not None else None
    from trun.engine.absence import grace_of

    grace = grace_of(settings)
    return Driver(engine, owner_pid=options.owner or None, outlive=options.detach, grace_s=grace, looker=looker)


def _settings(folder: Path) -> dict[str, str]:
    """Return what the operator has set, and write it down for the workers."""
    from trun.adapters import settings
    from trun.engine.absence import grace_of

    found = settings.load(Path.cwd(), folders.config_folder())
    grace_of(found)  # refused before anything is opened
    settings.keep(folder, found)
    return found


def _welcome(
    options: argparse.Namespace,
    key: str,
    epoch: int,
    limits: dict[str, float],
    open_: Opening | None,
    addresses: tuple[str, ...],
) -> Welcome:
    """Return what clients are told first."""
    return Welcome(
        service_key=key,
        name=options.name,
        epoch=epoch,
        version=__version__,
        python=platform.python_version(),
        pid=os.getpid(),
        workers=options.workers,
        resources=limits,
        folder=str(options.folder),
        key=open_.keys.curve.public if open_ is not None else "",
        addresses=addresses,
    )


def _write_facts(options: argparse.Namespace, welcome: Welcome) -> None:
    """Say in the state folder who answers for it, and where."""
    facts = {
        "pid": os.getpid(),
        "address": options.address,
        "name": options.name,
        "owner": options.owner,
        "key": welcome.key,
        "listen": list(welcome.addresses[1:]),
    }
    (Path(options.folder) / "node.json").write_text(json.dumps(facts))


class Opening:
    """What lets others in than the owner's processes: keys, people, the gate, and the verbs for them."""

    def __init__(self, folder: Path, options: argparse.Namespace, settings: dict[str, str]) -> None:
        from trun.adapters.bulk import port_of
        from trun.adapters.keys import ServiceKeys
        from trun.adapters.powers import Powers
        from trun.adapters.reach import from_environment
        from trun.adapters.world import Looker

        self.keys = ServiceKeys(folder)
        self.powers = Powers(folder, self.keys)
        self.key = self.keys.curve.fingerprint
        self._folder = folder
        self._options = options
        self._bulk: BulkServer | None = None
        self._export = Path(options.export) if options.export else None
        self._reach = from_environment(shared=True, environment=settings)
        self._bulk_port = port_of(settings)
        #: Who looks at the world for conditions.
        self.looker = Looker(self._reach)

    def sweep(self) -> None:
        """Remove what is left of transfers that nobody will go on with; nobody waits for that."""
        from trun.adapters.parts import sweep_below

        def work() -> None:
            for name in ("blobs", "export"):
                sweep_below(self._folder / name)

        threading.Thread(target=work, name="trun-sweep", daemon=True).start()

    def endpoint(self, own: RouterEndpoint) -> Endpoints:
        """Return the owner's socket and what was asked for beside it, as one."""
        from trun.adapters.endpoints import Endpoints
        from trun.adapters.wire import Curve, RouterEndpoint

        curve = Curve(self.keys.curve.secret, self.keys.curve.public)
        found = [own]
        try:
            for address in self._options.listen:
                found.append(RouterEndpoint(address, security=curve))
        except BaseException:
            for each in found:
                each.close()
            raise
        return Endpoints(*found)

    def gate(self, machine: Machine) -> Gate:
        """Return the gate for all that is not the owner."""
        from trun.engine.gate import Gate
        from trun.engine.surroundings import bounds

        made = Gate(machine, self.powers, service=self._options.name)
        made.look_around = bounds(self._reach, [self._export] if self._export is not None else [])
        made.on_look = self._revoke_tickets
        made.is_busy = lambda: self._bulk is not None and self._bulk.is_busy
        made.on_request = lambda user, name, reason: self.powers.people.ask(user, name, reason)
        return made

    def mail(self) -> Correspondence:
        """Return what hears other services for our jobs."""
        from trun.correspondence import Correspondence

        curve = self.keys.curve
        return Correspondence(str(self._folder), secret=curve.secret, public=curve.public, name=self._options.name)

    def verbs(self, engine: Engine) -> dict[str, View]:
        """Return the verbs that only a service with people has."""
        from trun.engine.verbs import bulk_verbs, remote_verbs

        return {**remote_verbs(engine, self.powers), **bulk_verbs(self._folder, self._port, self._export)}

    def _revoke_tickets(self) -> None:
        """Who has lost a right has no use of what it was promised on the bulk port."""
        keys, are_tokens = self.powers.taken()
        if self._bulk is not None and (keys or are_tokens):
            # Who has no roles was let in by a token, perhaps by one that is worth nothing now; the others ask again.
            self._bulk.revoke_unless(
                lambda holder: holder not in keys and not (are_tokens and not self.powers.roles(holder))
            )

    def _port(self) -> BulkServer:
        """Return the port for large data: at the host of the first address that others use."""
        if self._bulk is None:
            from trun.adapters.bulk import BulkServer

            host = next((address[6:].rpartition(":")[0] for address in self._options.listen), "127.0.0.1")
            self._bulk = BulkServer(host.strip("[]"), self.keys.folder, port=self._bulk_port)
        return self._bulk


def _ready(fd: int, facts: dict[str, object]) -> None:
    if fd >= 0:
        with contextlib.suppress(BrokenPipeError):  # who started us has gone; the driver notices
            os.write(fd, json.dumps(facts).encode() + b"\n")
        os.close(fd)
    elif "error" in facts:
        print(f"trun: {facts['message']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
