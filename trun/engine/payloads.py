"""What jobs are made of: definitions, results, and the orders that executors get.

Results stay in the journal; the last ones are kept here as well, since dependents ask for them at once. The result of
a race is its winner's. Nothing is ever unpickled. Who may come in: the engine.
"""

from __future__ import annotations

from collections import OrderedDict

from trun.core.machine import Machine
from trun.core.voices import voiced
from trun.engine.packages import Packages
from trun.messages import Completed, Payload, Perform
from trun.ports import Batch, Journal, Order

#: Results kept in memory for jobs that may need them soon, in bytes.
RESULT_CACHE_BYTES = 64 * 1024 * 1024
#: Functions and contexts kept in memory, and their bytes; all of them stand in the journal.
DEFINITIONS = 10_000
DEFINITION_BYTES = 256 * 1024 * 1024


class Payloads:
    """Definitions by digest and results by uid."""

    def __init__(self, journal: Journal, machine: Machine, *, folder: str = "") -> None:
        #: What users have installed on the service in ``folder``.
        self.packages = Packages(machine, folder)
        self._journal = journal
        self._machine = machine
        self._definitions: dict[str, bytes] = {}
        self._defined = 0
        self._results: OrderedDict[str, Payload] = OrderedDict()
        self._bytes = 0

    def define(self, digest: str, data: bytes, batch: Batch) -> None:
        """Take bytes that many jobs share; they are written with the batch."""
        if not self._definitions.get(digest):
            self._keep(digest, data)
            batch.definitions.append((digest, data))

    def _keep(self, digest: str, data: bytes) -> None:
        self._defined += len(data)
        if self._defined > DEFINITION_BYTES or len(self._definitions) > DEFINITIONS:
            self._definitions.clear()
            self._defined = len(data)
        self._definitions[digest] = data

    def definition(self, digest: str) -> bytes:
        """Return the bytes that were defined under this digest, or nothing."""
        data = self._definitions.get(digest)
        if data is None:
            data = self._journal.definition(digest) or b""
            self._keep(digest, data)
        return data

    def remember(self, uid: str, payload: Payload) -> None:
        """Keep a result that was just committed."""
        size = len(payload.data or b"") + 200
        if size > RESULT_CACHE_BYTES // 16:
            return
        self._results[uid] = payload
        self._bytes += size
        while self._bytes > RESULT_CACHE_BYTES:
            _, old = self._results.popitem(last=False)
            self._bytes -= len(old.data or b"") + 200

    def result(self, uid: str, owner: str = "") -> Payload | None:
        """Return the result of a completed job, following the winners of races; None where there is none.

        What happened on another service is as the jobs of this owner have heard it.
        """
        record = self._machine.records.get(uid)
        while record is not None and record.life.winner:
            uid, owner = record.life.winner, record.spec.owner
            record = self._machine.records.get(uid)
        if record is None:
            uid = voiced(uid, owner)
        found = self._results.get(uid)
        if found is not None:
            return found
        if record is not None:
            entry = self._journal.entry(uid, record.life.final_seq)
        else:
            past = self._journal.entries(uid)
            entry = next((e for e in reversed(past) if isinstance(e.event, Completed)), None)
        return entry.event.result if entry is not None and isinstance(entry.event, Completed) else None

    def order(self, uid: str, epoch: int) -> Order:
        """Return all that an executor needs to run the present attempt of a job."""
        record = self._machine.records[uid]
        spec, life = record.spec, record.life
        call = spec.call
        inputs: dict[str, Payload] = {}
        for other in spec.inputs:
            payload = self.result(other, spec.owner)
            if payload is not None:
                inputs[other] = payload
        paths, wanted = self.packages.paths(record) if spec.needs or self.packages.are_any else ((), ())
        return Order(
            uid=uid,
            epoch=epoch,
            run=life.run,
            attempt=life.attempt,
            id=record.id,
            spec=spec,
            function=self.definition(call.function) if call is not None and call.function else b"",
            context=self.definition(call.context) if call is not None and call.context else b"",
            inputs=inputs,
            paths=paths,
            wanted=wanted,
            target=self.packages.target(spec) if spec.package is not None else "",
            home=self.packages.home(spec) if wanted else "",
        )


def performance(order: Order) -> Perform:
    """Return an order as a client gets it that runs its inline job itself."""
    assert order.spec.call is not None
    return Perform(
        uid=order.uid,
        epoch=order.epoch,
        function=order.function,
        arguments=order.spec.call.arguments,
        inputs=order.inputs,
    )
