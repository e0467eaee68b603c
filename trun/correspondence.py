"""A node hears other services by itself: streams that its jobs wait for, from where they are written.

A job's ``origins`` say where, which key must answer there, and which token lets the job's service listen; so the client
that submitted it may leave. For each service and user there is one connection, made again whenever it breaks, so that
nobody hears anything by the token of somebody else; every entry comes to the engine like one that a client of that
user relayed. What cannot be reached or is refused is told to the client
("bounce"), who may pass the stream on; when the token has expired the stream ends here as cancelled.

Who may come in: the node. Threads: ``want``, ``release`` and ``take`` belong to the engine's thread, the rest to links.
Rule: a condition that waits for another service is told something at last, whatever happens there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

import msgspec

import trun.hauling as hauling
from trun.adapters.sockets import Wake
from trun.errors import NotAuthorised, ProtocolError, ServiceUnavailable, TrunError
from trun.listening import remote_error
from trun.messages import Answer, Answered, Blob, ErrorInfo, JobSpec, Origin, Present, Relay, Unheard, Unneeded
from trun.relaying import Relayed
from trun.service import Service
from trun.silence import BEAT_S, seconds

_log = logging.getLogger(__name__)

#: Seconds that another service may take to greet us before the client is asked to pass its streams on.
BOUNCE_S = 3.0
#: Seconds between two looks at what has expired.
LOOK_S = 1.0


class Inbox:
    """Where the entries go: the engine of this node."""

    closed = False

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.wake = Wake()
        self._posts: deque[Relay | Answered] = deque()

    def post(self, request: Relay | Answered) -> None:
        """Take entries, in any thread."""
        self._posts.append(request)
        self.wake.set()

    def keep(self, view: memoryview) -> Blob:
        """Nothing is kept elsewhere: there is a folder."""
        raise ProtocolError("the engine has a folder.")

    def take(self) -> list[Relay | Answered]:
        """Return what has come."""
        self.wake.clear()
        found: list[Relay | Answered] = []
        while self._posts:
            found.append(self._posts.popleft())
        return found


class Correspondent:
    """One connection to another service for the jobs of one user, and the streams that are heard over it."""

    def __init__(self, key: str, service: Service, owner: str) -> None:
        #: Whose jobs they are; empty: the service's owner's.
        self.owner = owner
        #: As conditions name the service.
        self.key = key
        self.service = service
        self.began = time.monotonic()
        self.is_bounced = False
        self.streams: dict[str, Heard] = {}


def _expiry(token: str) -> float | None:
    if not token:
        return None
    from trun.adapters import tokens

    try:
        return float(min(link["exp"] for link in tokens.inspect(token)))
    except TrunError:
        return 0.0


def _streams(token: str) -> set[str]:
    from trun.adapters import tokens

    try:
        found = tokens.inspect(token)[-1]["res"]
    except TrunError:
        return set()
    return {str(one).removeprefix("job:") for one in found}


class Correspondence:
    """All that this node hears of other services.

    Parameters
    ----------
    folder
        State folder of the node: large parts of results are brought there.
    secret, public
        CURVE pair of the node.
    name
        What the node is called.
    """

    def __init__(self, folder: str, *, secret: str, public: str, name: str) -> None:
        self._secret, self._public, self._name = secret, public, name
        self._inbox = Inbox(folder)
        #: {(address, key, user): connection}
        self._all: dict[tuple[str, str, str], Correspondent] = {}
        #: {(stream, user): {job of theirs that wants it: its session}}
        self._wanted: dict[tuple[str, str], dict[str, str]] = {}
        self._refused: deque[tuple[Correspondent, str, str]] = deque()
        self._looked = 0.0

    def fd(self) -> int:
        """Return the descriptor that becomes readable when something has come."""
        return self._inbox.wake.fd

    # -- what jobs want

    def want(self, spec: JobSpec) -> None:
        """Listen to the streams that a job of ours waits for."""
        for origin in spec.origins:
            known = self._all.get((origin.address, origin.key, spec.owner))
            if known is None:
                known = self._all[origin.address, origin.key, spec.owner] = self._open(origin, spec.owner)
            elif origin.token:
                self._show(known.service, origin.token)
            expires = _expiry(origin.token)
            for uid in origin.streams:
                self._wanted.setdefault((uid, spec.owner), {})[spec.uid] = spec.session
                heard = known.streams.get(uid)
                if heard is None:
                    heard = known.streams[uid] = Heard(uid, known, self._inbox, self._refused)
                    if origin.address and known.service.gone is None:
                        known.service.listen(uid, heard)
                    elif known.service.gone is not None:
                        self._refused.append((known, uid, str(known.service.gone)))
                        self._inbox.wake.set()
                if heard.expires is not None:
                    heard.expires = None if expires is None else max(heard.expires, expires)

    def renew(self, spec: JobSpec, token: str) -> bool:
        """Show a new token for what a job waits for; False where it waits for nothing of it any more."""
        found = False
        renewed = _streams(token)
        for origin in spec.origins:
            known = self._all.get((origin.address, origin.key, spec.owner))
            if known is None or renewed.isdisjoint(origin.streams):
                continue
            self._show(known.service, token)
            for uid in renewed.intersection(origin.streams):
                heard = known.streams.get(uid)
                if heard is not None and not heard.is_over:
                    heard.expires = _expiry(token)
                    heard.again()
                    found = True
        return found

    def _show(self, service: Service, token: str) -> None:
        if token not in service.tokens:
            service.tokens = (*service.tokens, token)
            if service.gone is None:
                service.post(Present(tokens=(token,)))

    def release(self, spec: JobSpec) -> None:
        """A job of ours has ended: what it alone wanted is not listened to any more."""
        for origin in spec.origins:
            for uid in origin.streams:
                left = self._wanted.get((uid, spec.owner))
                if left is not None:
                    left.pop(spec.uid, None)
                    if not left:
                        del self._wanted[uid, spec.owner]
            known = self._all.get((origin.address, origin.key, spec.owner))
            if known is not None and not any((uid, spec.owner) in self._wanted for uid in known.streams):
                del self._all[origin.address, origin.key, spec.owner]
                threading.Thread(target=_close, args=(known.service,), name="trun-goodbye", daemon=True).start()

    def _open(self, origin: Origin, owner: str) -> Correspondent:
        service = Service(name=(origin.name or origin.service_key)[:64], address=origin.address, detach=True)
        service.near = not origin.key
        service.tokens = (origin.token,) if origin.token else ()
        known = Correspondent(origin.service_key, service, owner)
        if not origin.address:
            return known
        from trun.adapters.wire import Curve, Link

        try:
            security = Curve(self._secret, self._public, server=origin.key) if origin.key else None
            link = Link(origin.address, security=security)
            link.on_messages(service.heard)
            link.on_state(service.link_state)
            link.on_beat(service.beat, BEAT_S)
            service.attach(link)
        except TrunError as error:
            _log.warning("another service cannot be heard address=%s reason=%s", origin.address, error)
            service.give_up(error)
        return known

    def ask(self, spec: JobSpec | None, service: str, token: str, verb: str, arguments: dict[str, Any]) -> Future[Any]:
        """Ask another service for a job of ours, with the token that is given or that came with the job.

        Raises
        ------
        ServiceUnavailable
            Nobody has said where that service is.
        """
        origin = self._origin_of(spec, service)
        if origin is None:
            raise ServiceUnavailable(
                f"this service was not told where the service {service} is: give auth=trun.credentials(...), or open "
                "it with trun.remote_service() before fetch_url(); or its operator writes it down: `trun service add`."
            )
        owner = spec.owner if spec is not None else ""
        if token:
            origin = msgspec.structs.replace(origin, token=token)
        known = self._all.get((origin.address, origin.key, owner))
        if known is None or (known.service.gone is not None and not known.streams):  # what was refused may be given now
            known = self._all[origin.address, origin.key, owner] = self._open(origin, owner)
        elif origin.token:
            self._show(known.service, origin.token)
        found: Future[Any] = Future()

        def come(done: Future[Any]) -> None:
            error = done.exception()
            if error is None and done.result().error is not None:
                error = remote_error(done.result().error)
            if isinstance(error, NotAuthorised) and not origin.token:
                error = _nothing_lent(origin)
            if error is not None:
                found.set_exception(error)
                return
            data = done.result().data
            if isinstance(data, dict) and "address" in data:
                data["address"] = hauling.reachable(known.service, str(data["address"]))
            found.set_result(data)

        known.service.begin_ask(verb, **arguments).add_done_callback(come)
        return found

    def dismiss(self, spec: JobSpec, uid: str, reason: str) -> bool:
        """Tell another service that its job lost a race of ours; False where we do not speak to it."""
        for origin in spec.origins:
            known = self._all.get((origin.address, origin.key, spec.owner))
            if uid in origin.streams and known is not None and known.service.gone is None:
                known.service.post(Unneeded(uids=(uid,), reason=reason))
                return True
        return False

    def silences(self, spec: JobSpec) -> list[str]:
        """Say which services that a job of ours waits for are not heard."""
        found = []
        for origin in spec.origins:
            known = self._all.get((origin.address, origin.key, spec.owner))
            if known is None or all(heard.is_over for heard in known.streams.values()):
                continue
            if known.service.silence_text:
                found.append(known.service.silence_text)
            elif known.service.welcome is None and time.monotonic() - known.began > BOUNCE_S:
                passed = seconds(time.monotonic() - known.began)
                found.append(f"the service {known.service.name} has not been heard for {passed} ({origin.address})")
        return [f"{text}: what it says of its jobs stays undecided until then" for text in dict.fromkeys(found)]

    def _origin_of(self, spec: JobSpec | None, service: str) -> Origin | None:
        for origin in spec.origins if spec is not None else ():
            if origin.service_key == service:
                return origin
        from trun.adapters.known import known_services

        for known in known_services():
            if known.fingerprint == service:
                return Origin(service, known.address, known.key, name=known.name)
        return None

    def answer(self, peer: bytes, answer: Answer) -> None:
        """Bring an answer that came late to the engine, from any thread."""
        self._inbox.post(Answered(peer=peer, answer=answer))

    # -- what the engine gets

    def take(self) -> list[Relay | Unheard | Answered]:
        """Return what has come since the last call."""
        found: list[Relay | Unheard | Answered] = list(self._inbox.take())
        while self._refused:
            known, uid, reason = self._refused.popleft()
            found += self._bounce(known, (uid,), reason)
        now = time.monotonic()
        if self._all and now - self._looked >= LOOK_S:
            self._looked = now
            for known in list(self._all.values()):
                found += self._look(known, now)
        return found

    def _look(self, known: Correspondent, now: float) -> list[Relay | Unheard | Answered]:
        clock = time.time()
        error = ErrorInfo(type="trun.errors.NotAuthorised", message="credential expired")
        for heard in list(known.streams.values()):
            if heard.expires is not None and clock > heard.expires and not heard.is_over:
                Relayed.refuse(heard, error)
        found: list[Relay | Unheard | Answered] = list(self._inbox.take())
        is_silent = known.service.welcome is None and now - known.began > BOUNCE_S
        if is_silent and not known.is_bounced:
            known.is_bounced = True
            found += self._bounce(known, tuple(known.streams), "it does not answer")
        return found

    def _bounce(self, known: Correspondent, streams: tuple[str, ...], reason: str) -> list[Unheard]:
        sessions: dict[str, list[str]] = {}
        for uid in streams:
            for session in set(self._wanted.get((uid, known.owner), {}).values()):
                sessions.setdefault(session, []).append(uid)
        return [
            Unheard(session=session, service_key=known.key, streams=tuple(uids), reason=reason)
            for session, uids in sessions.items()
        ]

    def next_look(self) -> float | None:
        """Return the seconds until ``take`` should be called again; None while nobody is heard."""
        return LOOK_S if self._all else None

    def close(self) -> None:
        """Say goodbye to all."""
        for known in self._all.values():
            _close(known.service)
        self._all.clear()


class Heard(Relayed):
    """A stream that we listen to; where we may not, the client is asked."""

    def __init__(
        self, uid: str, known: Correspondent, inbox: Inbox, refused: deque[tuple[Correspondent, str, str]]
    ) -> None:
        super().__init__(uid, known.service, inbox, key=known.key, owner=known.owner)
        #: Seconds since the epoch at which our right to hear it ends; None: never. (0: not known yet.)
        self.expires: float | None = 0.0
        self._known, self._refused, self._wake = known, refused, inbox.wake

    def refuse(self, error: ErrorInfo) -> None:
        """Pass on that the right has ended; everything else is bounced."""
        if "credential" in error.message:
            super().refuse(error)
        elif not self.is_over:
            self._refused.append((self._known, self.uid, error.message))
            self._wake.set()


def _nothing_lent(origin: Origin) -> Exception:
    name = origin.name or origin.service_key
    return NotAuthorised(
        f"service {name} gives nothing to this service by itself, and no right came along with the job: submit with "
        f"auth=trun.credentials({name!r}), or from a script in which trun.remote_service({name!r}) is open."
    )


def _close(service: Service) -> None:
    with contextlib.suppress(TrunError, OSError):
        service.leave_quietly()
