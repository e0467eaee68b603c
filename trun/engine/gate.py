"""The gate: what a peer that is not the owner of the service may ask, decided for each message.

Roles come from the service's list of people and are looked up anew for every message, so what an operator takes away is
gone with the next one. Whoever has no role is told once which key to hand to whom. A token that another service
presents opens the streams that it names, and no more. Each decision is one line of the audit log.

The owner (processes of the same user on this machine) never comes here. Knows the table in ``core.rights`` and the jobs
of the machine; changes nothing but what a request claims about its sender. Who may come in: the engine.
Rule: refuse what is not understood; say no more about a job to those who may not see it than that it is unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from typing import Any

import msgspec

from trun.adapters.addresses import place
from trun.core.machine import Machine
from trun.core.rights import OWN, REQUESTS, VERBS, allows
from trun.core.scopes import for_export, for_file
from trun.core.voices import voiced
from trun.engine import intake, quotas
from trun.engine.audit import Audit
from trun.engine.guests import Guest, Refusal, as_refusal, denial, refused, stranger
from trun.engine.lent import Lent
from trun.engine.sessions import describe
from trun.engine.streams import Subscriptions
from trun.errors import NotAuthorised, ProtocolError, TrunError, UnknownName
from trun.messages import (
    Answer,
    AnyAnswer,
    AnyRequest,
    Ask,
    Bye,
    Cancel,
    Credit,
    Define,
    Do,
    ErrorInfo,
    Hello,
    Hold,
    JobSpec,
    Listen,
    Performed,
    Present,
    Refuse,
    Relay,
    Release,
    Retry,
    SetAtom,
    Submit,
    Tell,
    Unlisten,
    Unneeded,
)
from trun.ports import Powers, Watched

#: Seconds between two looks at what tokens still allow.
LOOK_S = 0.5
#: Requests of one stranger that are answered; afterwards they are dropped in silence.
STRANGER_ANSWERS = 5
#: Requests of one connection of a stranger that are looked at; afterwards it is deaf to them.
STRANGER_REQUESTS = 200
#: Longest time in seconds for which nothing of a stranger is read, and of somebody who asks too much.
STRANGER_MUTE_S, MUTE_S = 8.0, 300.0
#: Bytes that a peer may leave unread before its streams wait for it.
UNREAD_BYTES = 32 * 1024 * 1024
#: Largest sequence number that is asked for.
MOST_SEQ = 2**62
#: Requests that change and show nothing: only their refusal is audited.
_QUIET = (Credit, Unlisten, Bye)
NOBODY: frozenset[str] = frozenset()
#: Resources that the tokens of one peer may open at a time.
GRANTS = 50_000
#: Atoms of one peer that are remembered as its own.
ATOMS = 10_000
#: Streams that are no job.
_STREAMS = ("condition", "service")

Answers = list[tuple[bytes, AnyAnswer]]


class Gate:
    """Decides what peers may do. All methods belong to the engine's thread."""

    def __init__(self, machine: Machine, powers: Powers, *, service: str) -> None:
        self._machine = machine
        self._powers = powers
        self._service = service
        self._peers: dict[bytes, Guest] = {}
        self._looked = 0.0
        #: Roles, looked up once for all that a step hears, since all of that had come before it began.
        self._roles: dict[str, frozenset[str]] = {}
        #: Requests that were refused.
        self.denied = 0
        self._quotas = quotas.Quotas()
        self._audit = Audit()
        self._lent = Lent(machine, powers)
        #: What knows how much peers send and leave unread.
        self.wire: Watched | None = None
        self._streams: Subscriptions | None = None
        #: Peers that speak for somebody else than before.
        self._turned: list[bytes] = []
        #: Streams of the present message that are not shown, and why.
        self._hidden: list[tuple[tuple[str, ...], TrunError]] = []
        #: Refuses jobs that wait for files which the service does not show to who is not its admin.
        self.look_around: Callable[[JobSpec], None] = lambda spec: None
        #: Called at each look, and whether looks are needed although nobody is here: tickets outlive connections.
        self.on_look: Callable[[], None] = lambda: None
        self.is_busy: Callable[[], bool] = lambda: False
        #: Says what is installed for a user who may not install.
        self.offer: Callable[[str], str] = lambda user: ""
        #: Called with (user, name, reason) of a stranger that asks to be let in.
        self.on_request: Callable[[str, str, str], None] = lambda user, name, reason: None

    def forget(self, peer: bytes) -> None:
        """A peer has gone."""
        self._peers.pop(peer, None)

    def user(self, peer: bytes) -> str:
        """Return the key of a peer that came through the gate; "" for others."""
        known = self._peers.get(peer)
        return known.user if known is not None else ""

    def pass_on(self, peer: bytes, user: str, message: Any, answers: Answers) -> AnyRequest | None:
        """Return what may be carried out of a request, or None; what is refused is answered."""
        admitted: AnyRequest | None = None
        try:
            admitted = self.admit(peer, user, message)
        except Refusal as refusal:
            self.denied += 1
            if refusal.error is not None:
                answers.append((peer, denial(message, describe(refusal.error))))
        hidden, self._hidden = self._hidden, []
        answers += [(peer, Refuse(uids=streams, error=describe(error))) for streams, error in hidden]
        return admitted

    def cut_off(self, now: float, streams: Subscriptions, answers: Answers) -> None:
        """End a step before its commit: write the log, show no more to those whose right to see it has ended."""
        self._streams = streams
        is_due = now - self._looked >= LOOK_S
        if is_due:
            self._audit.flush(time.monotonic())
            self._wait_for_readers(streams)
            self.on_look()
        if self._roles or is_due:
            self._roles.clear()
            for handler in logging.getLogger().handlers:
                handler.flush()
        while self._turned:
            streams.drop(self._turned.pop())  # what it was shown, it was shown as somebody else
        for peer, stream, reason in self.expired(now):
            error = ErrorInfo(type="trun.errors.NotAuthorised", message=reason)
            if stream:
                streams.unlisten(peer, stream)
                answers.append((peer, Refuse(uids=(stream,), error=error)))
            else:
                streams.drop(peer)
                answers.append((peer, Answer(token="", error=error)))

    def admit(self, peer: bytes, user: str, message: AnyRequest) -> AnyRequest:
        """Return the request as it may be carried out for this user; raise ``Refusal`` where it may not."""
        known, key = self._peers.get(peer), user
        user = self._powers.user(key)
        if known is None or known.user != user:
            if known is not None:
                self._turned.append(peer)
            known = self._peers[peer] = Guest(peer, user, self._powers.name(user), key)
        if (roles := self._roles.get(key)) is None:  # a key that stands for its user may have roles of its own by now
            roles = self._roles[key] = self._powers.roles(user) | self._powers.roles(key)
        known.roles |= roles
        is_stranger = not roles and not known.grants
        if is_stranger and known.told > STRANGER_REQUESTS:
            self._mute(known, "a stranger that goes on", STRANGER_MUTE_S)
            raise Refusal(None)
        now = time.monotonic()
        try:
            self._quotas.take(known.user, message, now, len(self._machine.records))
            found = self._look(known, roles, message)
        except Exception as error:  # nothing that a peer can send may end the service
            refusal = as_refusal(error)
            if self._quotas.is_deaf(known.user):
                self._mute(known, "it does not heed that it asks too much", MUTE_S)
            known.told += 1
            if not is_stranger or known.told <= STRANGER_ANSWERS or not known.told & (known.told - 1):
                self._audit.say("denied", known, message, now)  # of many alike the 8th, the 16th, ...
            raise Refusal(None) if is_stranger and known.told > STRANGER_ANSWERS else refusal from None
        if not isinstance(message, _QUIET) and getattr(message, "verb", "") != "ping":
            self._audit.say("allowed", known, message, now)
        return found

    def _mute(self, peer: Guest, reason: str, longest_s: float) -> None:
        if self.wire is not None:
            self.wire.mute(peer.key, reason, longest_s)

    # -- each kind of request

    def _look(self, peer: Guest, roles: frozenset[str], message: AnyRequest) -> AnyRequest:
        if not roles and not peer.grants and not isinstance(message, (Hello, Present, Ask)):
            raise Refusal(stranger(self._service, peer))
        needed = REQUESTS.get(type(message))
        if needed is None:
            raise Refusal(refused(self._service, peer, type(message).__name__))
        handler = _LOOK.get(type(message))
        if handler is not None:
            return handler(self, peer, roles, message)
        self._need(peer, roles, needed)
        return message

    def _do(self, peer: Guest, roles: frozenset[str], message: Do) -> Do:
        request = self._steer(peer, roles, message.request)
        return msgspec.structs.replace(message, request=request)

    def _define(self, peer: Guest, roles: frozenset[str], message: Define) -> Define:
        """What is kept under a digest must have it, or the function of somebody else could be another."""
        self._need(peer, roles, "submit")
        if blake2b(message.data, digest_size=16).hexdigest() != message.digest:
            raise Refusal(NotAuthorised(f"what was sent does not have the digest {message.digest[:40]!r}."))
        return message

    def _set_atom(self, peer: Guest, roles: frozenset[str], message: SetAtom) -> SetAtom:
        self._need(peer, roles, "submit")
        if message.key not in peer.atoms:
            if not intake.may_set(self._machine, peer.user, message.key):
                raise Refusal(NotAuthorised("this atom is not yours to set."))
            self._quotas.take_ahead(peer.user, intake.is_early(self._machine, message.key), time.monotonic())
            peer.atoms[message.key] = None
            if len(peer.atoms) > ATOMS:
                peer.atoms.popitem(last=False)
        return msgspec.structs.replace(message, session=peer.session)

    def _bye(self, peer: Guest, roles: frozenset[str], message: Bye) -> Bye:
        return Bye(stop=message.stop and "admin" in roles)

    def _no(self, peer: Guest, roles: frozenset[str], needed: str) -> Refusal:
        known = roles or peer.grants
        return Refusal(refused(self._service, peer, needed) if known else stranger(self._service, peer))

    def _need(self, peer: Guest, roles: frozenset[str], needed: str) -> None:
        if not allows(roles, needed):
            raise Refusal(refused(self._service, peer, needed))

    def _hello(self, peer: Guest, roles: frozenset[str], message: Hello) -> Hello:
        """Sessions have names within their user's, so that nobody can take another's."""
        if not roles and not peer.grants:
            raise Refusal(stranger(self._service, peer))
        intake.need_word(message.session, "the name of a session")
        peer.session = f"{peer.user}/{message.session}"
        return msgspec.structs.replace(message, pid=0, session=peer.session)

    def _present(self, peer: Guest, roles: frozenset[str], message: Present) -> Present:
        now = time.time()
        for token in message.tokens[:16]:
            grant = self._powers.check(token, peer.key, now)
            for resource in grant.resources:
                peer.grants[resource] = grant
            while len(peer.grants) > GRANTS:
                peer.grants.popitem(last=False)
        return message

    # -- what may be seen

    def _is_own(self, peer: Guest, uid: str) -> bool:
        return intake.is_own(self._machine, peer.user, uid)

    def _uid(self, wanted: str) -> str:
        """Return the uid of a job that is named by it or by its id (``fit#7``)."""
        name, _, number = wanted.rpartition("#")
        if name and number.isdigit():
            record = self._machine.numbered(int(number))
            if record is not None and record.id == wanted:
                return record.spec.uid
        return wanted

    def _listen_all(self, peer: Guest, roles: frozenset[str], message: Listen) -> Listen:
        good: list[tuple[str, int]] = []
        room = quotas.STREAMS - (self._streams.count(peer.address) if self._streams is not None else 0)
        for at, (stream, since) in enumerate(message.streams):
            if len(good) >= room:
                rest = tuple(stream for stream, _ in message.streams[at:])
                error = NotAuthorised(f"a connection listens to {quotas.STREAMS:,} streams at most; leave some.")
                self._hidden.append((rest, error))
                break
            try:
                if self._listen(peer, roles, stream):
                    good.append((stream, min(max(since, 1), MOST_SEQ)))
            except Refusal as refusal:
                if refusal.error is not None:
                    self._hidden.append(((stream,), refusal.error))
        return Listen(streams=tuple(good))

    def _listen(self, peer: Guest, roles: frozenset[str], stream: str) -> bool:
        """Whether the stream is shown; False where there is nothing to show yet."""
        if allows(roles, "read") or ("submit" in roles and self._is_own(peer, stream)):
            return True
        is_known = stream in self._machine.records or stream in self._machine.groups or stream in _STREAMS
        if "submit" in roles and not is_known:
            return False  # of a job that is still to be submitted: whoever submits it hears it
        grant = self._lent.find(peer, "read", _resource(stream))
        if grant is None:
            raise Refusal(refused(self._service, peer, "read") if roles else stranger(self._service, peer))
        peer.streams[stream] = grant
        return True

    def _ask(self, peer: Guest, roles: frozenset[str], message: Ask) -> Ask:
        needed = VERBS.get(message.verb)
        if needed is None:
            raise Refusal(UnknownName(f"the service has no verb {message.verb!r}.", name=message.verb, known=VERBS))
        if message.verb == "request-access":
            arguments = message.arguments
            self.on_request(peer.user, str(arguments.get("name", ""))[:64], str(arguments.get("reason", ""))[:300])
        elif needed == OWN:
            self._one_job(peer, roles, message)
        elif message.verb == "renew":
            self._need(peer, roles, needed)
            if "admin" not in roles and not self._is_own(peer, str(message.arguments.get("job", ""))):
                raise Refusal(UnknownName(f"service {self._service} has no such job of yours."))
        elif message.verb == "session" and any(
            other.key == message.arguments.get("key") and other.user != peer.user for other in self._peers.values()
        ):
            raise Refusal(NotAuthorised("this key is in use by somebody else."))
        elif message.verb == "mint" and ("submit" in roles or "admin" in roles):
            pass
        elif not allows(roles, needed):
            raise Refusal(refused(self._service, peer, needed) if roles else stranger(self._service, peer))
        arguments = {**message.arguments, "_user": peer.user, "_key": peer.key}
        return msgspec.structs.replace(message, arguments=arguments)

    def _one_job(self, peer: Guest, roles: frozenset[str], message: Ask) -> None:
        if allows(roles, "read"):
            return
        if message.verb == "file":
            self._one_file(peer, roles, str(message.arguments.get("url", "")))
            return
        named = [str(message.arguments[name]) for name in ("job", "uid", "stream") if name in message.arguments]
        for wanted in named or [""]:
            self._one_of(peer, roles, message.verb, wanted)

    def _one_of(self, peer: Guest, roles: frozenset[str], verb: str, wanted: str) -> None:
        uid = self._uid(wanted)
        if "submit" in roles and self._is_own(peer, uid):
            return
        op = "fetch" if verb in ("file", "blob") else "read"
        if self._lent.find(peer, op, f"job:{uid}") is None and self._lent.find(peer, "read", f"job:{uid}") is None:
            if not roles and not peer.grants:
                raise Refusal(stranger(self._service, peer))
            raise Refusal(UnknownName(f"service {self._service} has no job {wanted!r} that you may see."))

    def _one_file(self, peer: Guest, roles: frozenset[str], url: str) -> None:
        where = place(url)
        if where.uid and "submit" in roles and self._is_own(peer, where.uid):
            return
        resource = f"job:{where.uid}" if where.uid else for_export(where.relative)
        wanted = (resource, for_file(where.uid, where.relative)) if where.uid else (resource,)
        if not any(self._lent.find(peer, op, one) for op in ("fetch", "read") for one in wanted):
            raise self._no(peer, roles, "read")

    # -- what may be changed

    def _unneeded(self, peer: Guest, roles: frozenset[str], message: Unneeded) -> Unneeded:
        """Who holds the one right to stop losers may stop what no other service listens to."""
        for uid in message.uids:
            is_lent = self._lent.find(peer, "cancel-loser", f"job:{uid}") is not None
            if not ("admin" in roles or is_lent or ("submit" in roles and self._is_own(peer, uid))):
                raise self._no(peer, roles, "admin")
        wanted = {uid for other in self._peers.values() if other is not peer for uid in other.streams}
        return msgspec.structs.replace(message, uids=tuple(uid for uid in message.uids if uid not in wanted))

    def _steer(self, peer: Guest, roles: frozenset[str], message: Any) -> Any:
        if isinstance(message, SetAtom):
            return self._set_atom(peer, roles, message)
        if "admin" in roles:
            return message
        uids: tuple[str, ...]
        if isinstance(message, (Tell, Performed)):
            uids = (message.uid,)
        elif isinstance(message, (Cancel, Hold, Release, Retry)):
            uids = message.uids
        else:
            raise Refusal(refused(self._service, peer, "admin"))
        for uid in uids:
            if "submit" in roles and self._is_own(peer, uid):
                continue
            if "submit" in roles and uid not in self._machine.records:
                continue
            raise Refusal(refused(self._service, peer, "admin"))
        return message

    def _submit(self, peer: Guest, roles: frozenset[str], message: Submit) -> Submit:
        self._need(peer, roles, "submit")
        if not peer.session:
            raise Refusal(ProtocolError("the first message of a connection is Hello."))
        sees_all = allows(roles, "read")
        specs = []
        self._quotas.take_jobs(peer.user, len(message.specs), self._machine.book.unfinished_of, time.monotonic())
        for group in message.groups:
            intake.check_group(self._machine, peer.user, group)
        for spec in message.specs:
            intake.check_spec(self._machine, peer.user, spec, sees_all=sees_all)
            if "admin" not in roles:
                self.look_around(spec)
            if intake.installs(spec) and not allows(roles, "upload"):
                raise Refusal(refused(self._service, peer, "upload", self.offer(peer.user)))
            specs.append(msgspec.structs.replace(spec, owner=peer.user, session=peer.session))
        return msgspec.structs.replace(message, specs=tuple(specs))

    def _relay(self, peer: Guest, roles: frozenset[str], message: Relay) -> Relay:
        """What somebody says happened elsewhere is for their own jobs: it is filed under a name of theirs."""
        self._need(peer, roles, "submit")
        found = tuple(
            msgspec.structs.replace(entry, stream=voiced(entry.stream, peer.user)) for entry in message.entries
        )
        ahead = sum(not self._machine.resolver.wanted(entry.stream) for entry in found)
        if ahead:
            self._quotas.take_ahead(peer.user, ahead, time.monotonic())
        return msgspec.structs.replace(message, entries=found)

    # -- time

    @property
    def next_look(self) -> float | None:
        """Seconds until ``expired`` must be asked again; None while nobody is here."""
        is_open = self.wire is not None and self.wire.is_open
        return LOOK_S if self._peers or is_open or self.is_busy() else None

    def is_due(self, now: float) -> bool:
        """Whether ``expired`` must be asked."""
        return now - self._looked >= LOOK_S and self.next_look is not None

    def _wait_for_readers(self, streams: Subscriptions) -> None:
        """Send nothing more of its streams to who leaves unread what it got; it goes on once it has read that."""
        for address in self._peers if self.wire is not None else ():
            unread = self.wire.unread(address)  # type: ignore[union-attr]
            if unread > UNREAD_BYTES:
                streams.hold(address)
            elif unread < UNREAD_BYTES // 2:
                streams.resume(address)

    def expired(self, now: float) -> list[tuple[bytes, str, str]]:
        """Return (peer, stream, reason) of what must be cut off now: tokens expire and are revoked."""
        if now - self._looked < LOOK_S:
            return []
        self._looked = now
        found = []
        clock = time.time()
        ends: dict[int, str] = {}  # of each token once: many streams may stand on one
        roles_of = cache(self._powers.roles)  # each look is one at a file
        for key, peer in self._peers.items():
            roles = roles_of(peer.user) | roles_of(peer.key)
            if peer.roles and self._powers.user(peer.key) != peer.user:
                found.append((key, "", "your session has ended"))
                roles = NOBODY
            elif (allows(peer.roles, "read") and not allows(roles, "read")) or (peer.roles and not roles):
                found.append((key, "", "your key was removed, or may not read any more"))
            peer.roles = roles
            if allows(roles, "read"):
                continue
            for stream, grant in list(peer.streams.items()):
                reason = ends.get(id(grant))
                if reason is None:
                    reason = ends[id(grant)] = self._lent.end(grant, clock, roles_of(grant.user))
                if reason or not self._lent.shows(grant, stream, roles_of(grant.user)):
                    other = self._lent.find(peer, "read", _resource(stream))
                    if other is not None:
                        peer.streams[stream] = other
                    else:
                        del peer.streams[stream]
                        found.append((key, stream, reason or "credential revoked"))
        return found


def _resource(stream: str) -> str:
    return f"stream:{stream}" if stream in _STREAMS else f"job:{stream}"


_LOOK: dict[type, Callable[..., AnyRequest]] = {
    Hello: Gate._hello,
    Present: Gate._present,
    Listen: Gate._listen_all,
    Ask: Gate._ask,
    Submit: Gate._submit,
    Do: Gate._do,
    Define: Gate._define,
    Cancel: Gate._steer,
    Unneeded: Gate._unneeded,
    Hold: Gate._steer,
    Release: Gate._steer,
    Retry: Gate._steer,
    Tell: Gate._steer,
    Performed: Gate._steer,
    SetAtom: Gate._set_atom,
    Relay: Gate._relay,
    Bye: Gate._bye,
}
