"""The sockets in the wall: what the engine needs of the world, as Protocols. No code.

An adapter fulfils a port; a fake that records and must end empty ships in ``trun.testing``; one contract suite per port
runs on every implementation. Everything here is called from the engine's one thread unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from trun.messages import (
    AnyAnswer,
    AnyReport,
    AnyRequest,
    Entry,
    JobSpec,
    Payload,
)


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Seconds since the epoch (UTC) on a clock that never jumps while the process lives."""
        ...


class StoredJob(msgspec.Struct, frozen=True):
    """A job as the journal keeps it."""

    number: int
    spec: JobSpec
    #: Encoded ``core.record.Life``.
    life: bytes


class Batch(msgspec.Struct):
    """What one commit writes: all of it or nothing."""

    #: (number, spec) of accepted jobs
    specs: list[tuple[int, JobSpec]] = []
    #: (number, encoded life): the last state of each changed job
    lives: list[tuple[int, bytes]] = []
    #: (number of the job, entry) ; number 0 for streams that are no job
    entries: list[tuple[int, Entry]] = []
    #: (uid, encoded GroupSpec and counts)
    groups: list[tuple[str, bytes]] = []
    #: (digest, data) of functions and contexts
    definitions: list[tuple[str, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.specs or self.lives or self.entries or self.groups or self.definitions)


class Journal(Protocol):
    """Durable memory of a service: transactional, one writer. Folder locking belongs to the adapter."""

    #: No space is left: outcomes are still written, new jobs are not; each commit looks whether there is space again.
    full: bool

    def meta(self) -> dict[str, str]:
        """Facts about the store: ``service_key``, ``epoch`` (incarnation, one more at each opening), ``version``."""
        ...

    def commit(self, batch: Batch) -> None:
        """Write the batch; when this returns it survives kill -9 and power loss. Raises StateFull, StateError."""
        ...

    def jobs(self, *, live_only: bool = False) -> Iterable[StoredJob]:
        """All jobs in order of number."""
        ...

    def groups(self) -> Iterable[tuple[str, bytes]]:
        """All groups as (uid, encoded GroupSpec)."""
        ...

    def definition(self, digest: str) -> bytes | None:
        """Return what was defined under the digest."""
        ...

    def entries(self, stream: str, since: int = 1, limit: int = 1000) -> list[Entry]:
        """Entries of one stream with seq >= since, in order, at most ``limit``."""
        ...

    def last(self, stream: str) -> int:
        """Return the highest sequence number of a stream, 0 where it has no entry."""
        ...

    def entry(self, stream: str, seq: int) -> Entry | None:
        """Return one entry."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """All that an executor needs to run one attempt; the same for every executor."""

    uid: str
    epoch: int
    run: int
    attempt: int
    #: Display name, ``fit#7``.
    id: str
    spec: JobSpec
    #: Pickled function and encoded context (see ``messages.Define``).
    function: bytes
    context: bytes
    #: Results of the jobs in ``spec.inputs``, by uid.
    inputs: dict[str, Payload]
    #: Folders with what the user has installed, to stand first in the module path: no other job's modules may be there.
    paths: tuple[str, ...] = ()
    #: What is to be installed into the last of them first, if it is not there (see ``adapters.ondemand``).
    wanted: tuple[str, ...] = ()
    #: Where a job of kind ``install`` puts what it unpacks.
    target: str = ""
    #: Folder with the packages of the job's user, to whose quota counts what is installed first.
    home: str = ""


class Room(msgspec.Struct, frozen=True):
    """How many jobs an executor would take now."""

    #: Jobs that would begin at once.
    idle: int
    #: Further plain jobs (no resources, limits or isolation of their own) that would begin very soon.
    ahead: int = 0


class Executor(Protocol):
    """Where payloads run. Never sees a condition. Driven by the engine's thread through file descriptors."""

    #: Of: kill, attach, find, push, resources, tail, memory, tell
    capabilities: frozenset[str]

    def open(self) -> None:
        """Start what must run; returns before workers are ready."""
        ...

    def room(self) -> Room:
        """How many jobs it would take now."""
        ...

    def submit(self, orders: Sequence[Order]) -> None:
        """Take these attempts. A repeated (uid, epoch) is ignored."""
        ...

    def cancel(self, uid: str, epoch: int, *, grace: float, reason: str) -> None:
        """Stop the attempt and its whole process tree; the end arrives as a report. Unknown: ignored."""
        ...

    def tell(self, uid: str, epoch: int, token: str, text: str) -> None:
        """Put a text into the inbox of a running attempt."""
        ...

    def suspend(self, uid: str, epoch: int) -> None:
        """The attempt waits for jobs of its own: its slot counts as free."""
        ...

    def resume(self, uid: str, epoch: int) -> None:
        """The attempt has its slot again."""
        ...

    def fds(self) -> list[int]:
        """File descriptors that become readable when there is something to report; may change after each call."""
        ...

    def poll(self, now: float) -> list[AnyReport]:
        """All that happened since the last call, never blocking. Also checks deadlines and memory limits."""
        ...

    def next_deadline(self) -> float | None:
        """Latest time (clock of the engine) at which ``poll`` wants to be called again."""
        ...

    def log_path(self, uid: str, run: int, attempt: int) -> str | None:
        """File with the printed output of an attempt, also while it runs."""
        ...

    def close(self, *, detach: bool = False) -> None:
        """End all workers and their processes; ``detach`` leaves running jobs alive where the executor can."""
        ...


class LastingExecutor(Executor, Protocol):
    """One whose attempts outlive the service, so that its next life finds them again (capability ``attach``)."""

    def attach(self, orders: Sequence[Order]) -> list[AnyReport]:
        """Return what became of attempts that an earlier life of the service gave out; once, after ``open``.

        ``Adopted`` for those that run or have reported, then what they reported meanwhile; ``Returned`` for those that
        were certainly never begun. Of what is not mentioned nobody knows. Attempts that run and are not among
        ``orders`` are ended: their epoch is over.
        """
        ...

    def committed(self) -> None:
        """Everything that ``attach`` and ``poll`` have returned so far is durable; it need not be kept any more."""
        ...


#: About how many requests of others than the owner an endpoint returns at once.
SLICE = 20


class Endpoint(Protocol):
    """The node's side of the wire."""

    address: str

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses at which it listens."""
        ...

    @property
    def dropped(self) -> int:
        """Messages that were dropped."""
        ...

    def fds(self) -> list[int]:
        """Descriptors that become readable when something may have arrived."""
        ...

    def who(self, peer: bytes) -> str:
        """Public key of a peer, as the transport knows it; empty for the owner of the service."""
        ...

    def gone(self) -> list[bytes]:
        """Return, once, the peers whose connections have ended. Never blocks."""
        ...

    def receive(self) -> list[tuple[bytes, Sequence[AnyRequest]]]:
        """Return what has arrived, as (peer, requests), or a part of it; empty only when nothing is left.

        Garbage is dropped and counted. Never blocks.
        """
        ...

    def send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> bool:
        """Send a batch; False when the peer is gone."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


class Watched(Protocol):
    """An endpoint that others than the owner use: what it knows of how much they send and leave unread."""

    @property
    def is_open(self) -> bool:
        """Whether somebody from elsewhere is connected, so that it must be asked now and then."""
        ...

    def unread(self, peer: bytes) -> int:
        """Return about how many bytes a peer has not taken yet; 0 where nobody knows."""
        ...

    def mute(self, who: str, reason: str, longest_s: float) -> None:
        """Listen no more to a user for a while, twice as long as the last time."""
        ...

    def spend(self, peer: bytes, seconds: float) -> None:
        """So long it took to carry out what a peer asked: whoever took less has its turn before."""
        ...

    def may_wait(self, peer: bytes) -> bool:
        """Whether what was received of a peer can be put back: not of the owner, nor of one that has gone."""
        ...

    def put_back(self, peer: bytes, requests: Sequence[AnyRequest]) -> None:
        """Keep requests that were received for the next turn of their sender, before what it said later."""
        ...


class Grant(Protocol):
    """What a checked token allows (see ``adapters.tokens``)."""

    @property
    def user(self) -> str:
        """Public key of the user whose right it is."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """Revocation ids of its links."""
        ...

    @property
    def expires(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    @property
    def resources(self) -> tuple[str, ...]:
        """What it speaks of."""
        ...

    def allows(self, op: str, resource: str) -> bool:
        """Return whether it opens this resource for this operation."""
        ...


class Powers(Protocol):
    """What the node knows of people and tokens."""

    def roles(self, key: str) -> frozenset[str]:
        """Return the roles of a key at this moment."""
        ...

    def user(self, key: str) -> str:
        """Return whose key this is; mostly its own."""
        ...

    def name(self, key: str) -> str:
        """Return what to call the holder of a key."""
        ...

    def check(self, token: str, bearer: str, now: float) -> Grant:
        """Return what a token allows its bearer; raise ``NotAuthorised`` where it allows nothing."""
        ...

    def is_revoked(self, ids: Iterable[str]) -> bool:
        """Whether one of these links was revoked."""
        ...

    def mint(self, holder: str, *, next_key: str, ops: Iterable[str], res: Iterable[str], seconds: float) -> str:
        """Return a fresh token of what a user may do."""
        ...

    def register(self, key: str, user: str, expires: float) -> float:
        """Let another key stand for a user until then."""
        ...

    def rotate(self, key: str, new: str) -> float:
        """Give a user another key; return when the old one ends."""
        ...

    def revoke(self, one: str, reason: str = "") -> None:
        """Let a link be worth nothing from now on."""
        ...
