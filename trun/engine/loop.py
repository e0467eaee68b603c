"""The engine: one thread that owns one machine.

``step`` is the whole life of a service: what arrived goes into the machine, the effects that come back are sorted,
the journal commits, and only then does the world hear of it. Nothing is acknowledged, started or published before.

It knows ports only; it decides nothing. Who may come in: the node and, later, the in-process driver of the step door.
Rule: no second loop beside this one; whatever must happen on a service passes ``step``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import msgspec

from trun.core import record as effects
from trun.core.codec import encode
from trun.core.machine import Machine
from trun.engine.gate import Gate
from trun.engine.payloads import Payloads, performance
from trun.engine.recovery import recover
from trun.engine.sessions import Session, by_peer, describe, fault, is_idle, left_moving, skew
from trun.engine.sides import Mail, View, later
from trun.engine.streams import Subscriptions
from trun.errors import StateFull, TrunError, UnknownName
from trun.messages import (
    FINAL,
    Answer,
    Answered,
    AnyAnswer,
    AnyReport,
    AnyRequest,
    Ask,
    Bounce,
    Bye,
    Cancel,
    Completed,
    Credit,
    Define,
    Dismissed,
    Do,
    Drain,
    Ended,
    Entry,
    Hello,
    Listen,
    Message,
    OwnerLeft,
    Performed,
    Present,
    Refuse,
    Relay,
    Replayed,
    Resume,
    Retried,
    Submit,
    Submitted,
    Suspend,
    Tick,
    Unheard,
    Unlisten,
    Welcome,
)
from trun.ports import Batch, Clock, Endpoint, Executor, Journal, Order

_log = logging.getLogger(__name__)

#: Events at which the unfinished jobs of a session are counted.
_ENDS = frozenset(FINAL)
_COUNTED = _ENDS | {Submitted, Retried}


class Engine:
    """Owns a machine and performs what it orders. All methods belong to one thread."""

    def __init__(
        self,
        *,
        machine: Machine,
        journal: Journal,
        executor: Executor,
        endpoint: Endpoint | None,
        clock: Clock,
        welcome: Welcome,
        views: dict[str, View],
        gate: Gate | None = None,
    ) -> None:
        self.machine = machine
        self.journal = journal
        self.executor = executor
        self.endpoint = endpoint
        self.clock = clock
        self.welcome = welcome
        self.views = views
        self.gate = gate  # asked about everybody but the owner of the service
        self.mail: Mail | None = None  # hears other services for our jobs
        self.streams = Subscriptions(journal)
        self.payloads = Payloads(journal, machine, folder=welcome.folder)
        self.sessions: dict[str, Session] = {}
        self.peers: dict[bytes, Session] = {}
        #: Called with each new session (the node watches its process).
        self.on_session: Callable[[Session], None] = lambda session: None
        self.keeps = False  # whether somebody calls ``speak`` a moment after a step
        self.stopping = False  # set when a client asked a private node to stop
        self.full: StateFull | None = None  # the last commit's error while the disk is full: submissions are refused
        self.counts: Counter[str] = Counter()
        self._resumes: dict[tuple[str, int], tuple[str, str]] = {}
        self._draining = False
        self._asked = False  # whether the present step heard a peer
        #: Tells the executor that what it has reported is durable.
        self._committed: Callable[[], None] = getattr(executor, "committed", lambda: None)
        # what the present step gathers
        self._batch = Batch()
        self._dirty: dict[str, None] = {}
        self._published: list[Entry] = []
        self._after: list[effects.Effect] = []
        self._answers: list[tuple[bytes, AnyAnswer]] = []

    def recover(self, *, missing: str = "the service was restarted") -> None:
        """Read the journal back into the machine; jobs that ran are reported missing."""
        self.step([(b"", report) for report in recover(self, missing)])

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(self, inputs: Iterable[tuple[bytes, AnyRequest | AnyReport]]) -> None:
        """Handle what arrived, commit once, then act. ``inputs`` are (peer, message); reports have the peer ``b""``."""
        now = self.clock.now()
        gate = self.gate
        self._asked = False
        for peer, message in inputs:
            self._asked = self._asked or peer != b""
            if gate is not None and peer and (user := self.endpoint.who(peer)):  # type: ignore[union-attr]
                admitted = gate.pass_on(peer, user, message, self._answers)
                if admitted is not None:
                    self._take(peer, admitted, now)
            else:
                self._take(peer, message, now)
        if gate is not None:
            gate.cut_off(now, self.streams, self._answers)
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline <= now:
            self.gather(self.machine.handle(Tick(), now))
        self._dispatch(now)
        try:
            self.commit()
        except StateFull as error:
            # What is gathered stays gathered: nothing of it was acknowledged, and the next step commits it.
            self._batch.lives, self._batch.entries = [], []
            if self.full is None:
                _log.error("state folder is full, refusing submissions reason=%s", error)
            self.full = error
        else:
            self.full = None
            self._committed()
            self._act()

    @property
    def pending(self) -> bool:
        """Whether something was gathered outside of a step (a session left, the disk was full) and waits for one."""
        return self.full is None and bool(
            self.streams.pending or self._after or self._published or self._dirty or self._answers
        )

    @property
    def is_short_of_space(self) -> bool:
        """Whether submissions are refused because the disk is full; a step now and then looks whether it still is."""
        return self.full is not None or self.journal.full

    def _dispatch(self, now: float) -> None:
        room = self.executor.room()
        if room.idle or room.ahead:
            self.gather(self.machine.dispatch(room, now))

    def _take(self, peer: bytes, message: AnyRequest | AnyReport, now: float) -> None:
        handler = _TAKE.get(type(message)) or (Engine._quiet if peer else None)  # what a peer sends ends no service
        if handler is not None:
            handler(self, peer, message, now)
        else:
            self.gather(self.machine.handle(message, now))

    def gather(self, orders: Sequence[effects.Effect]) -> None:
        """Sort what the machine ordered into the present step: into its commit, and into what follows."""
        publish, dirty, replays = self._published.append, self._dirty, list[effects.Replay]()
        for order in orders:
            kind = type(order)
            if kind is effects.Publish:
                publish(order.entry)  # type: ignore[union-attr]
            elif kind is effects.Save:
                dirty[order.uid] = None  # type: ignore[union-attr]
            elif kind is effects.SaveSpec:
                record = self.machine.records[order.uid]  # type: ignore[union-attr]
                self._batch.specs.append((record.life.number, record.spec))
                dirty[order.uid] = None  # type: ignore[union-attr]
            elif kind is effects.Replay:
                replays.append(order)  # type: ignore[arg-type]
            else:
                self._after.append(order)
        for order in replays:  # before anything else can end what is asked for, after what was ordered before it
            self.gather(self.machine.handle(self._replay(order), self.clock.now()))

    def _replay(self, order: effects.Replay) -> Replayed:
        """Read a stream back, with what this very step has added to it."""
        entries = self.journal.entries(order.stream, order.since, 1_000_000)
        fresh = [entry for entry in self._published if entry.stream == order.stream]
        return Replayed(stream=order.stream, entries=(*entries, *fresh))

    def commit(self) -> None:
        """Write down what was gathered, all of it or nothing."""
        batch = self._batch
        records = self.machine.records
        lives = [records[uid].life for uid in self._dirty]
        batch.lives += [(life.number, encode(life)) for life in lives]
        found, entries = records.get, batch.entries
        for entry in self._published:
            record = found(entry.stream)
            entries.append((record.life.number if record is not None else 0, entry))
        if batch or self.journal.full:
            self.journal.commit(batch)
        self._batch = Batch()
        self._dirty = {}

    # -- after the commit ---------------------------------------------------------------------------------------------

    def _act(self) -> None:
        published, self._published = self._published, []
        after, self._after = self._after, []
        orders: list[Order] = []
        for effect in after:
            if type(effect) is effects.Start:
                order = self.payloads.order(effect.uid, effect.epoch)
                if order.spec.isolation == "inline":
                    self._let_perform(order)
                else:
                    orders.append(order)
            else:
                self._perform(effect)
        if orders:
            self.executor.submit(orders)
        for entry in published:
            kind = type(entry.event)
            if kind in _COUNTED:
                if kind is Completed and entry.event.result is not None:  # type: ignore[union-attr]
                    self.payloads.remember(entry.stream, entry.event.result)  # type: ignore[union-attr]
                self._count(entry)
        if self._draining:
            self._end_drains()
        answers, self._answers = self._answers, []
        # Streams first: whoever waits for an answer then knows that its stream has arrived. More may be about to come.
        may_keep = self.keeps and orders and not answers and not self._asked
        if not may_keep or not self.streams.keep(published, self.clock.now()):
            self.speak(published)
        for peer, some in by_peer(answers):
            self._send(peer, some)

    def speak(self, published: Sequence[Entry] = ()) -> None:
        """Send listeners what was kept for them, then these entries."""
        if published or self.streams.pending or self.streams.are_kept:
            for peer, batch in self.streams.publish(published):
                self._send(peer, batch)

    def _let_perform(self, order: Order) -> None:
        """Ask the client to run one of its inline jobs."""
        if order.spec.call is not None:
            self._reply_to(order.spec.session, performance(order))

    def _performed(self, peer: bytes, message: Performed, now: float) -> None:
        record = self.machine.records.get(message.uid)
        if record is not None and record.spec.isolation == "inline":
            ended = Ended(uid=message.uid, epoch=message.epoch, outcome=message.outcome)
            self.gather(self.machine.handle(ended, now))

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Stop(uid, epoch, grace, reason):
                self.executor.cancel(uid, epoch, grace=grace, reason=reason)
            case effects.Deliver(uid, epoch, token, text):
                self.executor.tell(uid, epoch, token, text)
            case effects.Turn(uid, epoch):
                self.executor.resume(uid, epoch)
                if (waiting := self._resumes.pop((uid, epoch), None)) is not None:
                    self._reply_to(waiting[0], Answer(token=waiting[1]))
            case effects.Dismiss(spec, uid, reason):
                if self.mail is None or not self.mail.dismiss(spec, uid, reason):
                    self._reply_to(spec.session, Dismissed(uids=(uid,), reason=reason))
            case effects.RefuseJobs(session, uids, error):
                self._reply_to(session, Refuse(uids=uids, error=error))
            case _:
                raise AssertionError(effect)

    def _send(self, peer: bytes, answers: Sequence[AnyAnswer]) -> None:
        if self.endpoint is not None and not self.endpoint.send(peer, answers):
            self.forget(peer)

    def _reply_to(self, session: str, answer: AnyAnswer) -> None:
        known = self.sessions.get(session)
        if known is not None and known.peer is not None:
            self._answers.append((known.peer, answer))

    def _count(self, entry: Entry) -> None:
        if (record := self.machine.records.get(entry.stream)) is None:
            return
        session = self.session(record.spec.session)
        is_over = type(entry.event) in _ENDS
        session.unfinished += -1 if is_over else 1
        if is_over:
            self.counts[record.life.state._value_] += 1
        if record.spec.origins and self.mail is not None:
            (self.mail.release if is_over else self.mail.want)(record.spec)

    def _unheard(self, peer: bytes, message: Unheard, now: float) -> None:
        bounce = Bounce(service_key=message.service_key, streams=message.streams, reason=message.reason)
        self._reply_to(message.session, bounce)

    # -- requests that the machine does not see -----------------------------------------------------------------------

    def session(self, name: str) -> Session:
        """Return a session by name; a new one is entered."""
        session = self.sessions.get(name)
        if session is None:
            session = self.sessions[name] = Session(name)
        return session

    def forget(self, peer: bytes) -> None:
        """A peer has gone: nobody sends to it any more."""
        self.streams.drop(peer)
        if self.gate is not None:
            self.gate.forget(peer)
        self._part(peer)

    def _part(self, peer: bytes) -> None:
        session = self.peers.pop(peer, None)
        if session is not None and session.peer == peer:
            session.peer = None
            if is_idle(session):
                self.sessions.pop(session.name, None)

    def _hello(self, peer: bytes, message: Hello, now: float) -> None:
        if (error := skew(message, self.welcome)) is not None:
            return self._answers.append((peer, Answer(token="", error=error)))
        if (before := self.peers.get(peer)) is not None and before.name != message.session:
            self._part(peer)
        session = self.session(message.session)
        if session.peer is not None and session.peer != peer:
            self.forget(session.peer)
        session.peer = peer
        session.pid = message.pid
        session.detach = message.detach
        session.closing = False
        self.peers[peer] = session
        self._answers.append((peer, self.welcome))
        self.on_session(session)

    def _submit(self, peer: bytes, message: Submit, now: float) -> None:
        error: Exception | None = None
        if self.is_short_of_space and any(spec.uid not in self.machine.records for spec in message.specs):
            error = self.full or StateFull()
        error = error or self.payloads.packages.refusal(message)
        if error is not None:
            uids = tuple(spec.uid for spec in message.specs)
            self._send(peer, [Refuse(uids=uids, error=describe(error))])
            return
        orders = self.machine.handle(message, now)
        self.gather(orders)
        if orders and type(orders[0]) is effects.RefuseJobs:
            return
        for group in message.groups:
            self._batch.groups.append((group.uid, encode(group)))
            if peer:
                self.streams.listen(peer, group.uid, 1)
        if peer:
            fresh = [order.uid for order in orders if type(order) is effects.SaveSpec]
            for uid in fresh:
                self.streams.begin(peer, uid)
            if len(fresh) < len(message.specs):
                known = {spec.uid for spec in message.specs}.difference(fresh)
                for uid in known:
                    self.streams.listen(peer, uid, 1)

    def _relay(self, peer: bytes, message: Relay, now: float) -> None:
        for entry in message.entries:
            if entry.stream in self.machine.records:
                continue
            event = entry.event
            if isinstance(event, Completed):
                self._batch.entries.append((0, entry))
                if event.result is not None:
                    self.payloads.remember(entry.stream, event.result)
        self.gather(self.machine.handle(message, now))

    def _listen(self, peer: bytes, message: Listen, now: float) -> None:
        for stream, since in message.streams:
            self.streams.listen(peer, stream, since)

    def _unlisten(self, peer: bytes, message: Unlisten, now: float) -> None:
        for stream in message.streams:
            self.streams.unlisten(peer, stream)

    def _ask(self, peer: bytes, message: Ask, now: float) -> None:
        try:
            view = self.views.get(message.verb)
            if view is None:
                raise UnknownName(f"the service has no verb {message.verb!r}.", name=message.verb, known=self.views)
            data = view(self, message.arguments)
            if isinstance(data, Future):
                return later(self.mail, peer, message.token, data)
            answer = Answer(token=message.token, data=data)
        except Exception as error:  # what is asked in a strange way ends no service
            answer = Answer(token=message.token, error=fault(message.verb, error))
        self._answers.append((peer, answer))

    def _do(self, peer: bytes, message: Do, now: float) -> None:
        request = message.request
        if isinstance(request, Resume):
            self._resume(peer, msgspec.structs.replace(request, token=message.token), now)
            return
        try:
            self.gather(self.machine.handle(request, now))
        except TrunError as error:
            self._answers.append((peer, Answer(token=message.token, error=describe(error))))
        else:
            self._answers.append((peer, Answer(token=message.token)))

    def _quiet(self, peer: bytes, message: Message, now: float) -> None:
        """Handle a request that nobody waits for: an error is logged, not raised."""
        try:
            self.gather(self.machine.handle(message, now))
        except TrunError as error:
            _log.warning("request refused kind=%s reason=%s", type(message).__name__, error)

    def _suspend(self, peer: bytes, message: Suspend, now: float) -> None:
        self._quiet(peer, message, now)
        self.executor.suspend(message.uid, message.epoch)

    def _resume(self, peer: bytes, message: Resume, now: float) -> None:
        session = self.peers.get(peer)
        if session is not None and message.token:
            self._resumes[message.uid, message.epoch] = (session.name, message.token)
        self._quiet(peer, message, now)

    def _drain(self, peer: bytes, message: Drain, now: float) -> None:
        session = self.peers.get(peer)
        if session is None:
            return
        if message.cancel:
            uids = tuple(record.spec.uid for record in self.machine.book.unfinished(session.name))
            self._quiet(peer, Cancel(uids=uids, reason="the script was interrupted"), now)
            session.cancelled = True
        session.drain(message.token)
        self._draining = True

    def _end_drains(self) -> None:
        waiting = [session for session in self.sessions.values() if session.drains]
        self._draining = bool(waiting)
        for session in waiting:
            if session.unfinished <= 0 and (session.cancelled or not left_moving(self.sessions, self.machine.records)):
                for token in session.drains:
                    self._reply_to(session.name, Answer(token=token))
                session.drains = []

    def _bye(self, peer: bytes, message: Bye, now: float) -> None:
        session = self.peers.get(peer)
        self.forget(peer)
        if session is not None:
            self.leave(session, now)
        if message.stop:
            self.stopping = True

    def leave(self, session: Session, now: float | None = None) -> None:
        """A session has gone: what it did not detach is cancelled, and so are atoms that lived with it."""
        if session.closing:
            return
        session.closing = True
        self.gather(self.machine.handle(OwnerLeft(session=session.name), self.clock.now() if now is None else now))


_TAKE: dict[type, Callable[..., None]] = {
    Hello: Engine._hello,
    Define: lambda engine, peer, message, now: engine.payloads.define(message.digest, message.data, engine._batch),
    Submit: Engine._submit,
    Relay: Engine._relay,
    Listen: Engine._listen,
    Unlisten: Engine._unlisten,
    Credit: lambda engine, peer, message, now: engine.streams.credit(peer, message.entries),
    Ask: Engine._ask,
    Do: Engine._do,
    Suspend: Engine._suspend,
    Resume: Engine._resume,
    Drain: Engine._drain,
    Performed: Engine._performed,
    Unheard: Engine._unheard,
    Answered: lambda engine, peer, message, now: engine._answers.append((message.peer, message.answer)),
    Present: lambda engine, peer, message, now: None,  # the gate has looked at it
    Bye: Engine._bye,
}

__all__ = ["Engine", "Session", "View", "describe"]
