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
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from trun.adapters.addresses import place
from trun.conditions import wire
from trun.conditions.atoms import JobAtom
from trun.core.machine import Machine
from trun.core.record import JobRecord
from trun.core.rights import OWN, REQUESTS, VERBS, allows
from trun.core.scopes import for_export, for_file
from trun.engine.sessions import describe
from trun.engine.streams import Subscriptions
from trun.errors import NotAuthorised, ProtocolError, TrunError, UnknownName
from trun.messages import (
    Answer,
    AnyAnswer,
    AnyRequest,
    Ask,
    Blob,
    Bye,
    Cancel,
    Credit,
    Do,
    ErrorInfo,
    Hello,
    Hold,
    JobSpec,
    Listen,
    Payload,
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
)
from trun.ports import Grant, Powers

_audit = logging.getLogger("trun.audit")

#: Seconds between two looks at what tokens still allow.
LOOK_S = 0.5
#: Requests of one stranger that are answered; afterwards they are dropped in silence.
STRANGER_ANSWERS = 5
#: Requests that change and show nothing: only their refusal is audited.
_QUIET = (Credit, Unlisten, Bye)
#: Resources that the tokens of one peer may open at a time.
GRANTS = 50_000
#: Streams that are no job.
_STREAMS = ("condition", "service")


Answers = list[tuple[bytes, AnyAnswer]]


class Refusal(Exception):
    """A request is not allowed; ``error`` says so to the peer, or nothing does."""

    def __init__(self, error: TrunError | None) -> None:
        super().__init__(str(error))
        self.error = error


class _Peer:
    __slots__ = ("grants", "key", "name", "relays", "roles", "session", "streams", "told", "user")

    def __init__(self, user: str, name: str, key: str) -> None:
        self.user = user
        #: The key that it spoke with, which may be that of a session of the user.
        self.key = key
        self.name = name
        self.session = ""
        self.told = 0
        #: {resource: the newest token that speaks of it}
        self.grants: OrderedDict[str, Grant] = OrderedDict()
        #: What the key could do when it was heard last.
        self.roles: frozenset[str] = frozenset()
        #: Streams of other services that it may pass on.
        self.relays: set[str] = set()
        #: Streams that it listens to by a token.
        self.streams: dict[str, Grant] = {}


def _denial(message: Any, error: ErrorInfo) -> AnyAnswer:
    if isinstance(message, Submit):
        return Refuse(uids=tuple(spec.uid for spec in message.specs), error=error)
    return Answer(token=str(getattr(message, "token", "")), error=error)


class Gate:
    """Decides what peers may do. All methods belong to the engine's thread."""

    def __init__(self, machine: Machine, powers: Powers, *, service: str) -> None:
        self._machine = machine
        self._powers = powers
        self._service = service
        self._peers: dict[bytes, _Peer] = {}
        self._looked = 0.0
        #: Requests that were refused.
        self.denied = 0
        #: {session: user}: a session belongs to the user who opened it first.
        self._sessions: dict[str, str] = {}
        #: Streams of the present message that are not shown, and why; taken by the engine.
        self.refused: list[tuple[str, TrunError | None]] = []
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
                answers.append((peer, _denial(message, describe(refusal.error))))
        for stream, error in self.refused:
            if error is not None:
                answers.append((peer, Refuse(uids=(stream,), error=describe(error))))
        self.refused.clear()
        return admitted

    def cut_off(self, now: float, streams: Subscriptions, answers: Answers) -> None:
        """Show no more to those whose right to see it has ended."""
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
            known = self._peers[peer] = _Peer(user, self._powers.name(user), key)
        known.roles = roles = self._powers.roles(user)
        try:
            found = self._look(known, roles, message)
        except Refusal as refusal:
            self._log(known, message, "denied")
            if not roles and not known.grants:
                known.told += 1
                if known.told > STRANGER_ANSWERS:
                    raise Refusal(None) from None
            raise refusal
        if not isinstance(message, _QUIET):
            self._log(known, message, "allowed")
        return found

    def _log(self, peer: _Peer, message: AnyRequest, verdict: str) -> None:
        what = type(message).__name__
        if isinstance(message, Ask):
            what += f" {message.verb[:40]!r}"
        newest = next(reversed(peer.grants.values()), None)
        ids = newest.ids[-1][:16] if newest is not None else "-"
        _audit.info("%s user=%s key=%s operation=%s tokens=%s", verdict, peer.name, peer.user, what, ids)

    # -- each kind of request

    def _look(self, peer: _Peer, roles: frozenset[str], message: AnyRequest) -> AnyRequest:
        if not roles and not peer.grants and not isinstance(message, (Hello, Present, Ask)):
            raise Refusal(self._stranger(peer))
        needed = REQUESTS.get(type(message))
        if needed is None:
            raise Refusal(self._refused(peer, type(message).__name__))
        handler = _LOOK.get(type(message))
        if handler is not None:
            return handler(self, peer, roles, message)
        self._need(peer, roles, needed)
        return message

    def _do(self, peer: _Peer, roles: frozenset[str], message: Do) -> Do:
        request = self._steer(peer, roles, message.request)
        return msgspec.structs.replace(message, request=request)

    def _set_atom(self, peer: _Peer, roles: frozenset[str], message: SetAtom) -> SetAtom:
        self._need(peer, roles, "submit")
        return msgspec.structs.replace(message, session=peer.session)

    def _bye(self, peer: _Peer, roles: frozenset[str], message: Bye) -> Bye:
        return Bye(stop=message.stop and "admin" in roles)

    def _need(self, peer: _Peer, roles: frozenset[str], needed: str) -> None:
        if not allows(roles, needed):
            raise Refusal(self._refused(peer, needed))

    def _stranger(self, peer: _Peer) -> NotAuthorised:
        return NotAuthorised(
            f"service {self._service} does not know your key. Hand it to the operator, who lets you in with "
            f"`trun user add YOURNAME '{peer.user}' --roles read,submit --service {self._service}`; "
            f"or ask with `trun request-access {self._service} REASON`."
        )

    def _refused(self, peer: _Peer, needed: str) -> NotAuthorised:
        return NotAuthorised(
            f"service {self._service} does not allow this to {peer.name}: it needs the role {needed}. The operator "
            f"gives it with `trun user add {peer.name} '{peer.user}' --roles ...,{needed} --service {self._service}`."
        )

    def _hello(self, peer: _Peer, roles: frozenset[str], message: Hello) -> Hello:
        if not roles and not peer.grants:
            raise Refusal(self._stranger(peer))
        owner = self._sessions.get(message.session)
        if (owner is not None and owner != peer.user) or (owner is None and self._belongs_to_others(peer, message)):
            raise Refusal(NotAuthorised("this session belongs to somebody else."))
        if roles:
            self._sessions[message.session] = peer.user
        peer.session = message.session
        return msgspec.structs.replace(message, pid=0)

    def _belongs_to_others(self, peer: _Peer, message: Hello) -> bool:
        return any(record.spec.owner != peer.user for record in self._machine.book.unfinished(message.session))

    def _present(self, peer: _Peer, roles: frozenset[str], message: Present) -> Present:
        now = time.time()
        for token in message.tokens[:16]:
            try:
                grant = self._powers.check(token, peer.key, now)
            except NotAuthorised as error:
                raise Refusal(error) from None
            for resource in grant.resources:
                peer.grants[resource] = grant
            while len(peer.grants) > GRANTS:
                peer.grants.popitem(last=False)
        return message

    # -- what may be seen

    def _is_own(self, peer: _Peer, uid: str) -> bool:
        record = self._machine.records.get(uid)
        return record is not None and record.spec.owner == peer.user

    def _uid(self, wanted: str) -> str:
        """Return the uid of a job that is named by it or by its id (``fit#7``)."""
        name, _, number = wanted.rpartition("#")
        if name and number.isdigit():
            record = self._machine.numbered(int(number))
            if record is not None and record.id == wanted:
                return record.spec.uid
        return wanted

    def _by_token(self, peer: _Peer, op: str, resource: str) -> Grant | None:
        now = time.time()
        for grant in filter(None, (peer.grants.get(resource), peer.grants.get("*"))):
            if grant.expires > now and grant.allows(op, resource) and not self._powers.is_revoked(grant.ids):
                roles = self._powers.roles(grant.user)
                if allows(roles, "read"):
                    return grant
                record = self._machine.records.get(resource.removeprefix("job:"))
                if roles and record is not None and record.spec.owner == grant.user:
                    return grant
        return None

    def _listen_all(self, peer: _Peer, roles: frozenset[str], message: Listen) -> Listen:
        good = []
        for stream, since in message.streams:
            try:
                self._listen(peer, roles, stream)
            except Refusal as refusal:
                self.refused.append((stream, refusal.error))
            else:
                good.append((stream, since))
        return Listen(streams=tuple(good))

    def _listen(self, peer: _Peer, roles: frozenset[str], stream: str) -> None:
        if allows(roles, "read") or ("submit" in roles and self._is_own(peer, stream)):
            return
        if "submit" in roles and stream not in self._machine.records and stream not in _STREAMS:
            return  # of a job that is still to be submitted; nothing is there to be seen
        grant = self._by_token(peer, "read", f"stream:{stream}" if stream in _STREAMS else f"job:{stream}")
        if grant is None:
            raise Refusal(self._refused(peer, "read") if roles else self._stranger(peer))
        peer.streams[stream] = grant

    def _ask(self, peer: _Peer, roles: frozenset[str], message: Ask) -> Ask:
        needed = VERBS.get(message.verb)
        if needed is None:
            raise Refusal(UnknownName(f"the service has no verb {message.verb!r}.", name=message.verb, known=VERBS))
        if message.verb == "request-access":
            arguments = message.arguments
            self.on_request(peer.user, str(arguments.get("name", ""))[:64], str(arguments.get("reason", ""))[:300])
        elif needed == OWN:
            self._one_job(peer, roles, message)
        elif message.verb == "mint" and ("submit" in roles or "admin" in roles):
            pass
        elif not allows(roles, needed):
            raise Refusal(self._refused(peer, needed) if roles else self._stranger(peer))
        arguments = {**message.arguments, "_user": peer.user, "_key": peer.key}
        return msgspec.structs.replace(message, arguments=arguments)

    def _one_job(self, peer: _Peer, roles: frozenset[str], message: Ask) -> None:
        if allows(roles, "read"):
            return
        if message.verb == "file":
            self._one_file(peer, roles, str(message.arguments.get("url", "")))
            return
        wanted = str(message.arguments.get("job") or message.arguments.get("uid") or message.arguments.get("stream"))
        uid = self._uid(wanted)
        if "submit" in roles and self._is_own(peer, uid):
            return
        op = "fetch" if message.verb in ("file", "blob") else "read"
        if self._by_token(peer, op, f"job:{uid}") is None and self._by_token(peer, "read", f"job:{uid}") is None:
            if not roles and not peer.grants:
                raise Refusal(self._stranger(peer))
            raise Refusal(UnknownName(f"service {self._service} has no job {wanted!r} that you may see."))

    def _one_file(self, peer: _Peer, roles: frozenset[str], url: str) -> None:
        where = place(url)
        if where.uid and "submit" in roles and self._is_own(peer, where.uid):
            return
        resource = f"job:{where.uid}" if where.uid else for_export(where.relative)
        wanted = (resource, for_file(where.uid, where.relative)) if where.uid else (resource,)
        if not any(self._by_token(peer, op, one) for op in ("fetch", "read") for one in wanted):
            raise Refusal(self._refused(peer, "read") if roles or peer.grants else self._stranger(peer))

    # -- what may be changed

    def _steer(self, peer: _Peer, roles: frozenset[str], message: Any) -> Any:
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
            raise Refusal(self._refused(peer, "admin"))
        for uid in uids:
            if "submit" in roles and self._is_own(peer, uid):
                continue
            if isinstance(message, Cancel) and self._by_token(peer, "cancel-loser", f"job:{uid}") is not None:
                continue
            if "submit" in roles and uid not in self._machine.records:
                continue
            raise Refusal(self._refused(peer, "admin"))
        return message

    def _submit(self, peer: _Peer, roles: frozenset[str], message: Submit) -> Submit:
        self._need(peer, roles, "submit")
        if not peer.session:
            raise Refusal(ProtocolError("the first message of a connection is Hello."))
        records = self._machine.records
        specs = []
        for spec in message.specs:
            before = records.get(spec.uid)
            if before is not None and before.spec.owner != peer.user:
                raise Refusal(NotAuthorised(f"the uid of {spec.name} belongs to a job of somebody else."))
            if spec.isolation == "inline":
                raise Refusal(NotAuthorised('isolation="inline" is for local services.'))
            self._refuse_foreign_files(spec)
            if not allows(roles, "read"):
                self._refuse_foreign_jobs(peer, spec)
            specs.append(msgspec.structs.replace(spec, owner=peer.user, session=peer.session))
        return msgspec.structs.replace(message, specs=tuple(specs))

    def _refuse_foreign_files(self, spec: JobSpec) -> None:
        """Files of the service are named by their content; a name that is a path is an attack."""
        payload: Payload | None = spec.call.arguments if spec.call is not None else None
        if payload is None:
            return
        for part in (payload.blob, *payload.buffers):
            if isinstance(part, Blob) and ("/" in part.name or "\\" in part.name or part.name.startswith(".")):
                raise Refusal(NotAuthorised(f"{spec.name} names a file outside of the service's blobs."))

    def _refuse_foreign_jobs(self, peer: _Peer, spec: JobSpec) -> None:
        """Whoever may not read the jobs of others may not wait for them either, nor take their results."""
        subjects = [*spec.inputs, *spec.choices]
        if spec.when:
            try:
                condition = wire.loads(spec.when)
            except (TrunError, ValueError):
                return  # the machine refuses it with the right words
            subjects += [leaf.subject for leaf in condition.depends if isinstance(leaf, JobAtom)]
        for uid in subjects:
            if uid in self._machine.records and not self._is_own(peer, uid):
                raise Refusal(UnknownName(f"{spec.name} waits for a job that the service does not show to you."))

    def _relay(self, peer: _Peer, roles: frozenset[str], message: Relay) -> Relay:
        """Nobody says what happened elsewhere for the jobs of others."""
        self._need(peer, roles, "submit")
        for stream in {entry.stream for entry in message.entries} - peer.relays:
            others = (record for record in self._machine.records.values() if record.spec.owner != peer.user)
            if any(_waits(record, stream) for record in others):
                raise Refusal(NotAuthorised("jobs of somebody else wait for this stream."))
            peer.relays.add(stream)
        return message

    # -- time

    @property
    def next_look(self) -> float | None:
        """Seconds until ``expired`` must be asked again; None while nobody is here."""
        return LOOK_S if self._peers else None

    def is_due(self, now: float) -> bool:
        """Whether ``expired`` must be asked."""
        return bool(self._peers) and now - self._looked >= LOOK_S

    def expired(self, now: float) -> list[tuple[bytes, str, str]]:
        """Return (peer, stream, reason) of what must be cut off now: tokens expire and are revoked."""
        if now - self._looked < LOOK_S:
            return []
        self._looked = now
        found = []
        clock = time.time()
        for key, peer in self._peers.items():
            roles = self._powers.roles(peer.user)
            if "read" in peer.roles and not allows(roles, "read"):
                found.append((key, "", "your key was removed, or may not read any more"))
            peer.roles = roles
            for stream, grant in list(peer.streams.items()):
                reason = self._end(grant, clock)
                if reason and not allows(roles, "read"):
                    other = self._by_token(peer, "read", f"job:{stream}")
                    if other is not None:
                        peer.streams[stream] = other
                    else:
                        del peer.streams[stream]
                        found.append((key, stream, reason))
        return found

    def _end(self, grant: Grant, clock: float) -> str:
        if grant.expires <= clock:
            return "credential expired"
        if self._powers.is_revoked(grant.ids) or not self._powers.roles(grant.user):
            return "credential revoked"
        return ""


def _waits(record: JobRecord, stream: str) -> bool:
    spec = record.spec
    if record.life.state.is_final:
        return False
    return stream in spec.inputs or (bool(spec.when) and stream.encode() in spec.when)


_LOOK: dict[type, Callable[..., AnyRequest]] = {
    Hello: Gate._hello,
    Present: Gate._present,
    Listen: Gate._listen_all,
    Ask: Gate._ask,
    Submit: Gate._submit,
    Do: Gate._do,
    Cancel: Gate._steer,
    Hold: Gate._steer,
    Release: Gate._steer,
    Retry: Gate._steer,
    Tell: Gate._steer,
    Performed: Gate._steer,
    SetAtom: Gate._set_atom,
    Relay: Gate._relay,
    Bye: Gate._bye,
}
