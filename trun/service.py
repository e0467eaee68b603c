"""The handle that takes jobs: one connection to one service, and which service is meant where none is named.

A ``Service`` sends specs, keeps what was not acknowledged, hands every entry of a stream to whoever listens, and
after a broken connection goes on from the last sequence number. It knows nothing of functions, arguments or results:
the doors (``trun.jobs``) do. ``with service:`` only selects, per thread and per task, and never waits.

Threads: methods may be called from any thread; listeners are called in the link's one thread and must not block.
Rule: no retry of work here. What is sent again carries the same uid, so that the node sees it once.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any

from trun.errors import InvariantError, KeyConflict, ServiceUnavailable, UsageError
from trun.front import doors
from trun.listening import Listener, Several, Steering, Wire, is_said_again, marked, rejection, remote_error, unspoken
from trun.messages import (
    Answer,
    AnyAnswer,
    AnyRequest,
    Ask,
    Bounce,
    Bye,
    Cancel,
    Credit,
    Define,
    Dismissed,
    Do,
    Drain,
    Entries,
    Entry,
    ErrorInfo,
    Gap,
    GroupSpec,
    Hello,
    JobSpec,
    Listen,
    Perform,
    Present,
    Refuse,
    SetAtom,
    Submit,
    Submitted,
    Welcome,
)
from trun.silence import Hearing
from trun.version import __version__

_log = logging.getLogger(__name__)

#: Entries that the node may send ahead of what we have taken, and how many we take before we say so.
CREDIT = 20_000
GRANT = 5_000
#: Handshakes that fail in a row before we look whether another key answers.
REFUSALS = 3


class Service(Hearing):
    """A service that accepts jobs. Made by ``trun.local`` and ``trun.remote_service``.

    Parameters
    ----------
    name
        What the user calls it.
    address
        Where it answers (``ipc://...``).
    session
        Name of this client's session; the same after a reconnect.
    detach
        Whether jobs outlive this session.
    """

    def __init__(self, *, name: str, address: str, session: str = "", detach: bool = False, parent: str = "") -> None:
        super().__init__()
        self.name = name
        self.address = address
        self.session = session or uuid.uuid4().hex
        self.detach = detach
        self.parent = parent  # uid of the job that this client runs in, or empty
        #: Whether the node was started for this handle, and ends with it.
        self.owned = False
        self.welcome: Welcome | None = None
        self.closed = False
        self._pid = os.getpid()
        self._wire: Wire | None = None
        self._lock = threading.Lock()
        self._greeted = threading.Event()
        self._listeners: dict[str, Listener] = {}
        self._unacknowledged: dict[str, JobSpec] = {}
        self._groups: dict[str, GroupSpec] = {}
        #: Digests of the calls that were submitted here under an idempotency key, by uid.
        self._contents: dict[str, str] = {}
        self._definitions: dict[str, bytes] = {}
        self._answers: dict[str, Future[Any]] = {}
        #: What has no answer yet, by token, and is said again over the next connection: questions and orders.
        self._asked: dict[str, AnyRequest] = {}
        #: Streams of other services that are passed on to this one (see ``trun.relaying``).
        self.abroad: dict[str, Any] = {}
        #: Tokens that we show before the greeting.
        self.tokens: tuple[str, ...] = ()
        self._consumed = 0
        self._tokens = 0
        self._ups = 0
        self._gone: Exception | None = None
        self._refusals = 0
        #: Whether its folder is ours to read: a service of this user on this machine.
        self.near = True
        #: Whether pickled results of this service are loaded.
        self.trusted = True
        #: Jobs submitted here that failed and whose outcome nobody has asked for.
        self.unheard: dict[str, Any] = {}
        self.lost = 0  # how many streams ended because the service had gone
        #: Called when the connection breaks; returns an error if the service is gone for good.
        self.on_down: Callable[[], Exception | None] = lambda: None
        #: Called when somebody else than the holder of its key answers at its address; returns the error to end with.
        self.on_refused: Callable[[], Exception | None] = lambda: None
        #: Called by ``close`` after the goodbye.
        self.on_close: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<trun service {self.name} at {self.address}>"

    # -- connection

    def attach(self, wire: Wire) -> None:
        """Begin to speak over this wire (once)."""
        self._wire = wire
        self._greet()

    def _greet(self) -> None:
        pid = os.getpid() if self.near else 0
        hello = Hello(session=self.session, version=__version__, pid=pid, detach=self.detach)
        shown = [Present(tokens=self.tokens)] if self.tokens else []
        self._send([*shown, hello, Credit(entries=CREDIT), *self._said_before()])

    def _send(self, messages: Sequence[AnyRequest]) -> None:
        if self._gone is not None:
            raise self._gone
        self.check_process()
        if self._wire is None:
            raise InvariantError(f"service {self.name} has no connection")
        self._wire.send(messages)

    def check_process(self) -> None:
        """Refuse to work in a child that was forked after the service was opened."""
        if os.getpid() != self._pid:
            raise UsageError(
                f"service {self.name} was opened before a fork and cannot be used in the child; "
                "open one there: with trun.local(): ..."
            )

    def wait_ready(self, timeout: float | None = 20.0) -> Welcome:
        """Wait for the greeting of the service and return it.

        Raises
        ------
        ServiceUnavailable
            It did not answer within ``timeout`` seconds.
        """
        if self.welcome is not None:
            return self.welcome
        if not self._greeted.wait(timeout):
            raise self._gone or ServiceUnavailable(f"service {self.name} at {self.address} does not answer.")
        if self.welcome is None:
            raise self._gone or ServiceUnavailable(f"service {self.name} at {self.address} has gone.")
        return self.welcome

    @property
    def key(self) -> str:
        """Opaque key of the service: the same under every alias."""
        return self.wait_ready().service_key

    def heard(self, answers: Sequence[AnyAnswer]) -> None:
        """Take what the wire received (in its thread)."""
        self.silence.heard()
        for answer in answers:
            kind = type(answer)
            if kind is Entries:
                self._heard_entries(answer.entries)  # type: ignore[union-attr]
            elif kind is Answer:
                future = self._answers.pop(answer.token, None)  # type: ignore[union-attr]
                self._asked.pop(answer.token, None)  # type: ignore[union-attr]
                if future is None and not answer.token:  # type: ignore[union-attr]
                    self._rejected(answer)  # type: ignore[arg-type]
                if future is not None and not future.cancelled():
                    future.set_result(answer)
            elif kind is Refuse:
                self._refused(answer)  # type: ignore[arg-type]
            elif kind in _DOORS:
                doors[_DOORS[kind]](self, answer)
            elif kind is Welcome:
                self._welcomed(answer)  # type: ignore[arg-type]
            elif kind is Gap:
                listener = self._listeners.get(answer.stream)  # type: ignore[union-attr]
                if isinstance(listener, Several):
                    listener.skip(answer.first - 1)  # type: ignore[union-attr]
                elif listener is not None:
                    listener.seq = answer.first - 1  # type: ignore[union-attr]

    def _refused(self, answer: Refuse) -> None:
        for uid in answer.uids:
            self._unacknowledged.pop(uid, None)
            self._contents.pop(uid, None)
            listener = self._listeners.get(uid)
            if listener is not None:
                listener.refuse(answer.error)
                if not (listener.listeners if isinstance(listener, Several) else listener.seq):
                    del self._listeners[uid]  # what the stream brings after this is another job's

    def _heard_entries(self, entries: Sequence[Entry]) -> None:
        listeners = self._listeners
        for entry in entries:
            stream = entry.stream
            if type(entry.event) is Submitted:
                self._unacknowledged.pop(stream, None)
            listener = listeners.get(stream)
            if listener is not None and entry.seq > listener.seq:
                listener.seq = entry.seq
                listener.take(entry)
        self._consumed += len(entries)
        if self._consumed >= GRANT and self._wire is not None:
            self._wire.send([Credit(entries=self._consumed)])
            self._consumed = 0

    def _welcomed(self, welcome: Welcome) -> None:
        again = self.welcome is not None
        if (error := unspoken(welcome, self.name)) is not None:
            return self.give_up(error)
        self.welcome = welcome
        self._greeted.set()
        if again:
            for relayed in list(self.abroad.values()):
                relayed.again()

    def _said_before(self) -> list[AnyRequest]:
        """Return what the connection before may have lost, before all that waits for this one and builds upon it."""
        messages: list[AnyRequest] = [Define(digest=d, data=data) for d, data in list(self._definitions.items())]
        lost = list(self._unacknowledged.values())
        if lost:
            wanted = {spec.group for spec in lost}
            groups = tuple(group for uid, group in self._groups.items() if uid in wanted)
            messages.append(Submit(specs=tuple(lost), groups=groups))
        streams = tuple((uid, listener.seq + 1) for uid, listener in list(self._listeners.items()))
        if streams:
            messages.append(Listen(streams=streams))
        return messages + list(self._asked.values())

    def link_state(self, state: str) -> None:
        """Hear from the wire that it is ``up`` again or ``down`` (in its thread)."""
        if state == "up":
            # The first greeting waits in the wire for the first connection; every later one needs its own.
            self._ups += 1
            self._refusals = 0
            if self._ups > 1 and not self.closed:
                self._greet()
            return
        if state == "refused":
            # Somebody answers there, and cannot read what we wrote to the holder of the key.
            self._refusals += 1
            error = self.on_refused() if self._refusals % REFUSALS == 0 else None
        else:
            self.silence.lost()
            error = self.on_down()
        if error is not None and not self.closed:
            self.give_up(error)

    def _rejected(self, answer: Answer) -> None:  # to all that we might ask
        error = rejection(answer.error, self.name, is_greeted=self.welcome is not None) if answer.error else None
        if error is not None:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """The service is gone for good: tell everybody who waits."""
        self._gone = error
        self._greeted.set()
        facts = ErrorInfo(type=f"trun.errors.{type(error).__name__}", message=str(error))
        listeners = list(self._listeners.values())
        self.lost = len(listeners)
        for listener in listeners:
            for each in listener.listeners if isinstance(listener, Several) else (listener,):
                each.refuse(facts)
        for kept in (self._listeners, self._unacknowledged, self._asked):
            kept.clear()
        for token in list(self._answers):
            future = self._answers.pop(token, None)
            if future is not None:
                future.set_exception(error)

    # -- sending

    def define(self, digest: str, data: bytes) -> None:
        """Make bytes known to the service that many jobs share (once per digest)."""
        if digest not in self._definitions:
            self._definitions[digest] = data
            self._send([Define(digest=digest, data=data)])

    def submit_specs(self, specs: Iterable[tuple[JobSpec, Listener]], groups: Iterable[GroupSpec] = ()) -> None:
        """Send jobs and listen to their streams. Returns at once; what is not acknowledged is kept and sent again."""
        if self.closed:
            raise ServiceUnavailable(f"service {self.name} is closed.")
        batch: list[JobSpec] = []
        for spec, listener in specs:
            if spec.key and self._contents.setdefault(spec.uid, spec.digest) != spec.digest:
                raise KeyConflict(f"key {spec.key!r} was used for a call with other content; choose another.")
            self._add(spec.uid, listener)
            self._unacknowledged[spec.uid] = spec
            batch.append(spec)
        made = tuple(groups)
        for group in made:
            self._groups[group.uid] = group
        self._send([Submit(specs=tuple(batch), groups=made)])

    def add_listener(self, uid: str, listener: Listener) -> None:
        """Hand the entries of a stream that the coming submission creates to ``listener``."""
        self._listeners[uid] = listener

    def _add(self, uid: str, listener: Listener) -> None:
        known = self._listeners.get(uid)
        if known is None or known is listener:
            self._listeners[uid] = listener
        elif isinstance(known, Several):
            known.listeners.append(listener)
        else:
            self._listeners[uid] = Several([known, listener])

    def listen(self, uid: str, listener: Listener, since: int = 1) -> None:
        """Hand the entries of a stream to ``listener`` from sequence number ``since`` on."""
        listener.seq = since - 1
        self._add(uid, listener)
        self._send([Listen(streams=((uid, since),))])

    def forget(self, uid: str, listener: Listener) -> None:
        """Stop handing the entries of that stream to this listener."""
        known = self._listeners.get(uid)
        if known is listener:
            del self._listeners[uid]
        elif isinstance(known, Several) and listener in known.listeners:
            known.listeners.remove(listener)

    def _token(self) -> str:
        with self._lock:
            self._tokens += 1
            return f"{self.session[:8]}-{self._tokens}"

    def _request(self, make: Callable[[str], AnyRequest]) -> Future[Any]:
        token = self._token()
        future: Future[Any] = Future()
        self._answers[token] = future
        request = make(token)
        if is_said_again(request):
            self._asked[token] = request
        self._send([request])
        return future

    def _expects(self) -> bool:
        return bool(self._answers or self._listeners)

    def _outcome(self, future: Future[Any], timeout: float | None) -> Any:
        try:
            answer = future.result(timeout)
        except TimeoutError:
            who = f"{self.silence_text}, and" if self.silence_text else f"service {self.name} at {self.address}"
            kept = "" if self.drop(future) else " The order is given again until it is heard, while this process lives."
            raise ServiceUnavailable(f"{who} did not answer within {timeout:g} s.{kept}") from None
        if answer.error is not None:
            raise remote_error(answer.error)
        return answer.data

    def ask(self, verb: str, /, *, wait: float | None = 30.0, **arguments: Any) -> Any:
        """Ask a reading verb (``ps``, ``why``, ...) and return its plain data."""
        self.wait_ready()
        return self._outcome(self.begin_ask(verb, **arguments), wait)

    def begin_ask(self, verb: str, /, **arguments: Any) -> Future[Any]:
        """Ask a reading verb and do not wait: the ``Answer`` comes to the future, in the link's thread."""
        return self._request(lambda token: Ask(token=token, verb=verb, arguments=arguments))

    def do(self, request: Steering, *, timeout: float | None = 30.0) -> Any:
        """Send a request and wait until it is carried out (durably); an order is carried out once."""
        asked = marked(request)
        return self._outcome(self._request(lambda token: Do(token=token, request=asked)), timeout)

    def post(self, request: AnyRequest) -> None:
        """Send a request and do not wait; one to cancel is kept until the service has carried it out."""
        if isinstance(request, Cancel):
            asked = marked(request)
            self._request(lambda token: Do(token=token, request=asked))
        else:
            self._send([request])

    # -- atoms that live here -----------------------------------------------------------------------------------------

    def atom_moved(self, key: str, value: int, reason: str = "") -> None:
        """Tell the service the value of an atom that lives in this process."""
        if not self.closed and self._gone is None:
            self._send([SetAtom(key=key, value=value, reason=reason, session=self.session)])

    # -- with

    def __enter__(self) -> Service:
        _stack.set((*_stack.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack = _stack.get()
        if stack and stack[-1] is self:
            _stack.set(stack[:-1])

    # -- the end

    def drain(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        """Wait until no job of this session is unfinished; ``cancel`` ends them first."""
        self._outcome(self.begin_drain(cancel=cancel), timeout)

    def begin_drain(self, *, cancel: bool = False) -> Future[Any]:
        """Ask to hear when no job of this session is unfinished, and do not wait."""
        return self._request(lambda token: Drain(token=token, cancel=cancel))

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        """Wait for all acknowledgements (and, on a local service, for its jobs), then say goodbye.

        A service elsewhere that is silent is waited for no longer than five seconds; then ServiceUnavailable says what
        it has not acknowledged. What it has accepted goes on there.
        ``cancel`` cancels and aborts what is unfinished instead of waiting for it. Ctrl-C while it waits leaves the
        service open.
        """
        if self.closed or os.getpid() != self._pid:
            return
        try:
            if self._gone is None:
                if self.detach and not cancel:
                    self.await_acknowledgement(timeout)
                else:
                    self.drain(cancel=cancel, timeout=timeout)
                wait(list(self._answers.values()), timeout=0.0 if self.silence.since else 5.0)
        except KeyboardInterrupt:
            raise
        except BaseException:
            self._leave()
            raise
        self._leave()

    def leave_quietly(self) -> None:
        """Say goodbye at once; nothing of ours is waited for."""
        if not self.closed:
            self._leave()

    def _leave(self) -> None:
        self.closed = True
        if self._gone is None and self._wire is not None:
            self._wire.send([Bye(stop=self.owned and not self.detach)])
        self.on_close()
        if self._wire is not None:
            self._wire.close(flush=self._gone is None and not self.silence.since)


# -- which service is meant -------------------------------------------------------------------------------------------

_DOORS: dict[type, str] = {Perform: "perform", Bounce: "bounce", Dismissed: "dismiss"}

_stack: contextvars.ContextVar[tuple[Service, ...]] = contextvars.ContextVar("trun_service", default=())
_default: Service | None = None
_default_lock = threading.Lock()
#: Makes the default service; set by ``trun.connect``.
make_default: Callable[[], Service] | None = None


def current() -> Service:
    """Return the service that is meant where none is named: the innermost ``with``, else the default one."""
    stack = _stack.get()
    return stack[-1] if stack else default()


def default() -> Service:
    """Return the default service of this process, which is made at its first use."""
    global _default
    with _default_lock:
        if _default is None or _default.closed or _default._pid != os.getpid():
            if make_default is None:
                raise InvariantError("no default service can be made here")
            _default = make_default()
        return _default
