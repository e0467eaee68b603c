"""Every message that may cross a process border, as frozen values.

Four families: *events* are what happened to a job and stand in its durable stream; *requests* go from a client to a
node; *answers* come back; *reports* come from executors, watchers and the engine into the machine. All are plain data
(numbers, text, bytes, lists, maps), never pickles, and are encoded by ``trun.core.codec`` alone.

Who may come in: everybody; this room knows nobody but ``msgspec``.
Rule: a field is only ever added at the end with a default; its meaning never changes. Times are seconds since the
epoch, UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: What is spoken on the wire, and what is understood.
PROTOCOL = 1
SPOKEN = (1,)


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Base of all that is sent."""


# -- values inside messages -------------------------------------------------------------------------------------------


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that are kept beside the journal: a file in the service's blob folder."""

    #: Name of the file below the service's ``blobs`` folder.
    name: str
    size: int
    #: Hexadecimal BLAKE2b-128 digest of the content, or empty where it was not computed.
    digest: str = ""


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """A pickled value: the stream inline or in a blob, large buffers out of band, in order."""

    #: The pickle stream (protocol 5), or None where it lies in ``blob``.
    data: bytes | None = None
    blob: Blob | None = None
    #: Out-of-band buffers, each inline (bytes) or in a blob.
    buffers: tuple[bytes | Blob, ...] = ()


class ErrorInfo(msgspec.Struct, frozen=True, array_like=True):
    """An exception as plain data: nothing in it can break the reader."""

    #: Qualified name of the exception's type, ``module.Name``.
    type: str
    message: str
    #: The formatted traceback of the worker.
    traceback: str = ""
    #: The pickled exception, where a round trip was tested in the worker; empty otherwise.
    pickled: bytes = b""
    exitcode: int | None = None
    signal: int | None = None
    #: The last lines that the attempt printed.
    tail: str = ""
    #: Names that were near, of an ``UnknownName``.
    suggestions: tuple[str, ...] = ()


# -- events: what happened to a job -----------------------------------------------------------------------------------


class Event(Message, frozen=True):
    """Something that happened to a job; one entry of its stream."""


class Submitted(Event, frozen=True):
    """The job was accepted under this display name."""

    id: str
    name: str = ""
    #: Display text of the condition; empty when there is none.
    when: str = ""


class Waiting(Event, frozen=True):
    """The job waits for its condition, or for a retry at ``until``."""

    reason: str = ""
    until: float | None = None


class Held(Event, frozen=True):
    """Somebody, or the job's ``on_never`` policy, holds the job."""

    reason: str = ""


class Queued(Event, frozen=True):
    """The condition holds; ``witness`` names the atoms that fired it."""

    witness: tuple[str, ...] = ()


class Started(Event, frozen=True):
    """The job was given to a worker."""

    run: int = 1
    attempt: int = 1
    epoch: int = 1
    worker: str = ""


class Progress(Event, frozen=True):
    """How far the job says it is: a fraction from 0 to 1."""

    fraction: float
    note: str = ""


class Improved(Event, frozen=True):
    """The job has a better intermediate result; plain values by name."""

    values: dict[str, Any]


class Said(Event, frozen=True):
    """The job says something under a name of its own choice."""

    name: str
    value: Any = None


class Told(Event, frozen=True):
    """Somebody sent the job a message."""

    token: str
    text: str


class Replied(Event, frozen=True):
    """The job answered the message ``token``."""

    token: str
    text: str


class Attempted(Event, frozen=True):
    """One attempt ended badly and another will follow."""

    attempt: int
    kind: str
    error: ErrorInfo | None = None


class Completed(Event, frozen=True):
    """The job returned; ``values`` is the plain part of its result that predicates may look at."""

    result: Payload | None = None
    values: dict[str, Any] = {}
    seconds: float = 0.0
    peak_rss: int = 0


class Failed(Event, frozen=True):
    """The job ended badly; kind is raised, timeout, memory, died, lost or poison."""

    kind: str
    error: ErrorInfo | None = None
    seconds: float = 0.0
    peak_rss: int = 0


class Aborted(Event, frozen=True):
    """The job was stopped on purpose while it ran."""

    reason: str = ""


class Cancelled(Event, frozen=True):
    """The job was cancelled before it started. ``root`` is the uid of the job whose end began it, if there is one."""

    reason: str = ""
    #: user, never, race, owner, expired
    kind: str = "user"
    root: str = ""


class Skipped(Event, frozen=True):
    """The job was skipped by its ``on_never`` policy."""

    reason: str = ""
    root: str = ""


class Lost(Event, frozen=True):
    """Nobody can say yet what became of the running job."""

    reason: str = ""


class Retried(Event, frozen=True):
    """Somebody started a new run of the ended job."""

    run: int


class Released(Event, frozen=True):
    """The job is no longer held."""


class Notified(Event, frozen=True):
    """The condition of a job was decided: ``ready`` or ``cancelled`` (on the stream ``condition``)."""

    job: str
    status: str
    witness: tuple[str, ...] = ()


class Counted(Event, frozen=True):
    """How many members of a group ended how; the one event of a group's stream."""

    total: int
    closed: bool
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    cancelled: int = 0
    skipped: int = 0


#: Events after which a run of a job is over.
FINAL = (Completed, Failed, Aborted, Cancelled, Skipped)

AnyEvent = (
    Submitted
    | Waiting
    | Held
    | Queued
    | Started
    | Progress
    | Improved
    | Said
    | Told
    | Replied
    | Attempted
    | Completed
    | Failed
    | Aborted
    | Cancelled
    | Skipped
    | Lost
    | Retried
    | Released
    | Notified
    | Counted
    | Notified
)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a durable stream: gapless ``seq`` from 1 in each stream."""

    #: uid of the job or group, ``condition`` or ``service``.
    stream: str
    seq: int
    #: Incarnation of the service that wrote the entry.
    epoch: int
    time: float
    event: AnyEvent


# -- requests: from a client to a node --------------------------------------------------------------------------------


class Request(Message, frozen=True):
    """Something that a client asks of a node."""


class Hello(Request, frozen=True):
    """First message of a connection: who speaks, and which versions."""

    #: Stable name of the client session; survives reconnects.
    session: str
    protocol: int = PROTOCOL
    version: str = ""
    python: str = ""
    #: Process id of the client, on the same machine only.
    pid: int = 0
    #: Whether the jobs of this session go on when it leaves.
    detach: bool = False


class Define(Request, frozen=True):
    """Bytes that many jobs share, under their digest: a pickled function, or the context (folders) of a client."""

    digest: str
    data: bytes


class Submit(Request, frozen=True):
    """Jobs to accept together: all of them or none. They may wait for one another."""

    specs: tuple[JobSpec, ...]
    groups: tuple[GroupSpec, ...] = ()


class Cancel(Request, frozen=True):
    """Cancel jobs that wait, abort those that run; a job that has ended keeps its outcome."""

    uids: tuple[str, ...]
    reason: str = ""
    #: What the order is recognised by when it is given again (as of the next ones).
    token: str = ""


class Unneeded(Request, frozen=True):
    """These jobs lost a race on another service: cancel those that nothing here needs any more."""

    uids: tuple[str, ...]
    reason: str = ""


class Hold(Request, frozen=True):
    """Do not start these jobs until they are released."""

    uids: tuple[str, ...]
    token: str = ""


class Release(Request, frozen=True):
    """Let held jobs go on."""

    uids: tuple[str, ...]
    token: str = ""


class Retry(Request, frozen=True):
    """Start a new run of ended jobs; ``downstream`` revives what was decided on the old run too."""

    uids: tuple[str, ...]
    downstream: bool = False
    token: str = ""


class Tell(Request, frozen=True):
    """Put a text into the inbox of a running job."""

    uid: str
    token: str
    text: str


class SetAtom(Request, frozen=True):
    """An atom that lives in the client has a new value (0 to 4, see conditions)."""

    key: str
    value: int
    reason: str = ""
    #: Session whose process owns the atom.
    session: str = ""


class Relay(Request, frozen=True):
    """Entries of another service's streams, passed on by a client that may read both (the "bounce")."""

    service_key: str
    entries: tuple[Entry, ...]


class Listen(Request, frozen=True):
    """Send the entries of these streams from sequence number n on, then live. Pairs of (stream, n)."""

    streams: tuple[tuple[str, int], ...]


class Unlisten(Request, frozen=True):
    """Send no more of these streams."""

    streams: tuple[str, ...]


class Credit(Request, frozen=True):
    """The client can take so many entries more."""

    entries: int


class Ask(Request, frozen=True):
    """A reading verb (``ps``, ``why``, ...): answered by ``Answer`` with the same token."""

    token: str
    verb: str
    arguments: dict[str, Any] = {}


class Suspend(Request, frozen=True):
    """The running job waits for jobs of its own: its slot may be given to others."""

    uid: str
    epoch: int


class Resume(Request, frozen=True):
    """The running job wants its slot back; answered by ``Answer`` when it has it."""

    uid: str
    epoch: int
    token: str = ""


class Do(Request, frozen=True):
    """A request that wants to know how it ended: answered by ``Answer`` with the same token."""

    token: str
    request: Cancel | Hold | Release | Retry | Tell | SetAtom | Resume


class Performed(Request, frozen=True):
    """What came of a job that the client ran in its own process (``isolation="inline"``)."""

    uid: str
    epoch: int
    outcome: Completed | Failed


class Drain(Request, frozen=True):
    """Answer with ``Answer`` as soon as no job of this session is unfinished (``cancel`` ends them first)."""

    token: str
    cancel: bool = False


class Present(Request, frozen=True):
    """Tokens that allow the sender what its key alone does not (see ``adapters.tokens``)."""

    tokens: tuple[str, ...]


class Bye(Request, frozen=True):
    """The client leaves; its undetached jobs are cancelled unless they have ended. ``stop`` ends a private node."""

    stop: bool = False


# -- answers: from a node to a client ---------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The node's half of the greeting."""

    #: Opaque key of the service: the same for its whole life.
    service_key: str
    name: str
    epoch: int
    protocol: int = PROTOCOL
    version: str = ""
    python: str = ""
    pid: int = 0
    workers: int = 0
    resources: dict[str, float] = {}
    #: The service's state folder, for clients on the same machine.
    folder: str = ""
    #: Public key of the service (40 characters), where it has one.
    key: str = ""
    #: Where it listens for others than its owner's processes on this machine.
    addresses: tuple[str, ...] = ()


class Entries(Message, frozen=True):
    """Entries of streams that the client listens to, in order within each stream."""

    entries: tuple[Entry, ...]


class Gap(Message, frozen=True):
    """Entries of the stream below ``first`` are gone; what follows starts there."""

    stream: str
    first: int


class Answer(Message, frozen=True):
    """What came of the request with this token."""

    token: str
    data: Any = None
    error: ErrorInfo | None = None


class Refuse(Message, frozen=True):
    """These jobs were not accepted, and why."""

    uids: tuple[str, ...]
    error: ErrorInfo


class Bounce(Message, frozen=True):
    """The service cannot hear these streams of another one by itself: will the client pass them on?"""

    service_key: str
    streams: tuple[str, ...]
    reason: str = ""


class Dismissed(Message, frozen=True):
    """These jobs of other services lost a race here: will the client tell those services?"""

    uids: tuple[str, ...]
    reason: str = ""


class Perform(Message, frozen=True):
    """Run this job in your own process: it is inline, and its condition holds. Answered by ``Performed``."""

    uid: str
    epoch: int
    function: bytes
    arguments: Payload
    inputs: dict[str, Payload] = {}


# -- reports: from executors, watchers and the engine into the machine ------------------------------------------------


class Ended(Message, frozen=True):
    """An attempt ended. Exactly one per started (uid, epoch), unless ``Returned`` or ``Missing``."""

    uid: str
    epoch: int
    outcome: Completed | Failed | Aborted


class Emitted(Message, frozen=True):
    """A running job sent events; ``first`` numbers the first of them within the attempt, from 1."""

    uid: str
    epoch: int
    first: int
    events: tuple[Progress | Improved | Said | Replied, ...]


class Returned(Message, frozen=True):
    """The executor gives a job back that it never began; the attempt does not count."""

    uid: str
    epoch: int


class Missing(Message, frozen=True):
    """The executor cannot say what became of the job (a lost node, a restart)."""

    uid: str
    epoch: int
    reason: str = ""
    #: Whether it is known to have run: only then does the loss count as a worker's death under it.
    begun: bool = True


class Adopted(Message, frozen=True):
    """After a restart the executor found the job running."""

    uid: str
    epoch: int


class ResourcesLowered(Message, frozen=True):
    """A running job gives back a part of its counted resources."""

    uid: str
    epoch: int
    resources: dict[str, float]
    #: Its number among all that the attempt says (see ``Emitted.first``); 0: heard once only, whatever happens.
    number: int = 0


class AtomMoved(Message, frozen=True):
    """A watcher or another service says what value an atom has now."""

    key: str
    value: int
    seq: int = 0
    reason: str = ""


class Replayed(Message, frozen=True):
    """Earlier events of a stream, read back because an atom that was registered late asks for them."""

    stream: str
    entries: tuple[Entry, ...]


class OwnerLeft(Message, frozen=True):
    """A client session has gone (or its process died)."""

    session: str


class Unheard(Message, frozen=True):
    """The node cannot hear these streams of another service by itself; the session that wants them is asked."""

    session: str
    service_key: str
    streams: tuple[str, ...]
    reason: str = ""


class Answered(Message, frozen=True):
    """The answer to a question that could not be answered at once."""

    peer: bytes
    answer: Answer


class Tick(Message, frozen=True):
    """Time has passed."""


# -- what is asked of a service ---------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True, array_like=True):
    """What to call: the digest of a pickled function (see ``Define``) and pickled ``(args, kwargs)``."""

    function: str
    arguments: Payload
    #: Digest of the client's context: working folder and module path (see ``Define``), or empty.
    context: str = ""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where streams of another service can be heard, and the token that allows the job's service to listen."""

    #: As conditions name the service.
    service_key: str
    address: str
    #: Public key that it must show; empty on the same user's ipc.
    key: str = ""
    token: str = ""
    streams: tuple[str, ...] = ()
    #: What it calls itself.
    name: str = ""


class Need(msgspec.Struct, frozen=True, array_like=True):
    """A distribution that a job needs."""

    distribution: str
    #: ``==1.2`` or another comparison of versions; empty: any.
    wanted: str = ""
    #: Folder of its metadata at the client: a service that sees the same folder has the same version.
    where: str = ""
    #: Under which circumstances (``python_version < "3.12"``); the service says whether they are given there.
    marker: str = ""


class Package(msgspec.Struct, frozen=True, array_like=True):
    """What a job of kind ``install`` installs."""

    distribution: str
    version: str
    #: SHA-256 of the wheel in hexadecimal.
    digest: str
    #: What the wheel says that it depends on.
    requires: tuple[Need, ...] = ()


class JobSpec(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What was asked: the slip of paper that all three doors write. Never changes."""

    #: Made by the client; also the idempotency key where ``key`` is empty.
    uid: str
    name: str
    #: ``call``; ``first`` (a race: no payload, see ``choices``); ``fetch``; ``install`` (needs the role upload).
    kind: str = "call"
    call: Call | None = None
    #: Canonical JSON of the condition (conditions.wire); empty: none.
    when: bytes = b""
    #: uids of jobs whose results are filled into the arguments; their completion is part of ``when``.
    inputs: tuple[str, ...] = ()
    resources: dict[str, float] = {}
    priority: float = 0.0
    retries: int = 0
    #: Seconds before the first retry, and the factor from one delay to the next.
    retry_delay: float = 0.0
    backoff: float = 1.0
    #: Seconds that one attempt may run, or None.
    timeout: float | None = None
    #: Bytes that one attempt may use, or None.
    memory: int | None = None
    #: cancel, hold, skip or run
    on_never: str = "cancel"
    #: worker, fresh, or inline (in the process of the client that submitted it)
    isolation: str = "worker"
    #: uid of the group that the job is a member of, or empty
    group: str = ""
    key: str = ""
    #: Digest of the content, given with ``key``.
    digest: str = ""
    #: uid of the job that submitted this one from inside, or empty
    parent: str = ""
    #: Client session that submitted it, and whether it outlives that session.
    session: str = ""
    detach: bool = False
    #: For ``kind="first"``: the uids that race, the predicate, and what becomes of losers (unneeded, all, none).
    choices: tuple[str, ...] = ()
    until: str = ""
    losers: str = "unneeded"
    #: Start in state HELD.
    hold: bool = False
    #: Seconds since the epoch at which the client made it.
    made: float = 0.0
    #: Public key of the user who submitted it, set by the service from the transport; empty: the service's owner.
    owner: str = ""
    #: Where the streams of other services that ``when`` and ``inputs`` mention can be heard.
    origins: tuple[Origin, ...] = ()
    #: Installed distributions that the function comes from, as the client has them.
    needs: tuple[Need, ...] = ()
    #: For ``kind="install"``.
    package: Package | None = None


class GroupSpec(msgspec.Struct, frozen=True, array_like=True):
    """A family of jobs that is one atom, whatever its size."""

    uid: str
    name: str
    #: Number of members, once known; None while the group is open.
    total: int | None = None


AnyRequest = (
    Hello
    | Define
    | Submit
    | Cancel
    | Unneeded
    | Hold
    | Release
    | Retry
    | Tell
    | SetAtom
    | Relay
    | Listen
    | Unlisten
    | Credit
    | Ask
    | Suspend
    | Resume
    | Do
    | Performed
    | Drain
    | Present
    | Bye
)
AnyAnswer = Welcome | Entries | Gap | Answer | Refuse | Perform | Bounce | Dismissed
AnyReport = (
    Ended
    | Emitted
    | Returned
    | Missing
    | Adopted
    | ResourcesLowered
    | AtomMoved
    | Replayed
    | OwnerLeft
    | Unheard
    | Answered
    | Tick
)
