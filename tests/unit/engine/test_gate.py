"""Who is let in: every request and every verb by every kind of peer, against a table written from the design.

The table below is written out by hand and knows nothing of ``core.rights``; a request or a verb without a row fails.
Then the attacks: what a peer claims about itself, about others, and about what happened elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from trun import messages
from trun.adapters.pickles import digest_of
from trun.conditions import wire
from trun.conditions.atoms import Atom, IsCompleted
from trun.core.machine import Machine
from trun.core.rights import REQUESTS, VERBS
from trun.engine import quotas
from trun.engine.gate import Gate, Refusal
from trun.engine.loop import Engine
from trun.engine.verbs import bulk_verbs, remote_verbs
from trun.engine.views import VIEWS
from trun.errors import NotAuthorised
from trun.messages import (
    Answer,
    AnyRequest,
    Ask,
    Blob,
    Bye,
    Call,
    Cancel,
    Completed,
    Credit,
    Define,
    Do,
    Drain,
    Entry,
    GroupSpec,
    Hello,
    Hold,
    JobSpec,
    Listen,
    Origin,
    Payload,
    Performed,
    Present,
    Refuse,
    Relay,
    Release,
    Request,
    Resume,
    Retry,
    SetAtom,
    Submit,
    Suspend,
    Tell,
    Unlisten,
    Unneeded,
    Welcome,
)
from trun.testing import ManualClock, RecordingEndpoint, RecordingJournal, ScriptedExecutor

ME, OTHER, LENDER = "m" * 40, "o" * 40, "l" * 40
HERE = b"\0here"


class FakeGrant:
    """What a token allows."""

    def __init__(self, ops: Iterable[str], resource: str, *, expires: float = 0.0) -> None:
        self.user = LENDER
        self.ids = (f"{resource}-id",)
        self.expires = expires or time.time() + 3600
        self.resources = (resource,)
        self._ops = frozenset(ops)

    def allows(self, op: str, resource: str) -> bool:
        return op in self._ops and resource in self.resources


class FakePowers:
    """People and tokens of a service, as a test wants them."""

    def __init__(self) -> None:
        self.people: dict[str, frozenset[str]] = {LENDER: frozenset({"read", "submit"})}
        self.sessions: dict[str, str] = {}
        self.tokens: dict[str, FakeGrant] = {}
        self.revoked: set[str] = set()

    def roles(self, key: str) -> frozenset[str]:
        return self.people.get(key, frozenset())

    def user(self, key: str) -> str:
        return self.sessions.get(key, key)

    def name(self, key: str) -> str:
        return key[:4]

    def check(self, token: str, bearer: str, now: float) -> FakeGrant:
        if token not in self.tokens:
            raise NotAuthorised("this is no token.")
        return self.tokens[token]

    def is_revoked(self, ids: Iterable[str]) -> bool:
        return any(one in self.revoked for one in ids)

    def mint(self, holder: str, *, next_key: str, ops: Iterable[str], res: Iterable[str], seconds: float) -> str:
        return "token"

    def register(self, key: str, user: str, expires: float) -> float:
        return expires

    def revoke(self, one: str, reason: str = "") -> None:
        self.revoked.add(one)


def job(uid: str, **more: Any) -> JobSpec:
    return JobSpec(**{"uid": uid, "name": uid, "call": Call("f", Payload(b"x")), **more})


class House:
    """An engine with a gate between fakes."""

    def __init__(self) -> None:
        self.powers = FakePowers()
        self.executor = ScriptedExecutor(slots=4)
        self.endpoint = RecordingEndpoint()
        self.clock = ManualClock()
        machine = Machine(service_key="here")
        self.gate = Gate(machine, self.powers, service="house")
        self.engine = Engine(
            machine=machine,
            journal=RecordingJournal(),
            executor=self.executor,
            endpoint=self.endpoint,
            clock=self.clock,
            welcome=Welcome(service_key="here", name="house", epoch=1, key="h" * 40),
            views=dict(VIEWS),
            gate=self.gate,
        )
        self.engine.views.update(remote_verbs(self.engine, self.powers))

    def let_in(self, peer: bytes, user: str, *roles: str) -> None:
        self.powers.people[user] = frozenset(roles)
        self.endpoint.users[peer] = user
        self.say(peer, Hello(session="s"), Credit(entries=1000))
        self.endpoint.take(peer)

    def say(self, peer: bytes, *requests: AnyRequest) -> list[Any]:
        """Let a peer speak, and return what it hears."""
        self.endpoint.put(peer, *requests)
        self.engine.step([(who, one) for who, batch in self.endpoint.receive() for one in batch])
        return self.endpoint.take(peer)

    def pass_time(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.engine.step([])

    @property
    def records(self) -> Any:
        return self.engine.machine.records


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.endpoint.close()
    made.executor.close()


def errors(answers: list[Any]) -> str:
    return " ".join(answer.error.message for answer in answers if getattr(answer, "error", None) is not None)


# -- the matrix -------------------------------------------------------------------------------------------------------

EVERYBODY = frozenset(
    {"none", "read", "submit", "upload", "admin", "token", "token for another", "expired", "revoked", "token to cancel"}
)
#: Keys that the service knows, or to which somebody gave a token.
KNOWN = EVERYBODY - {"none"}
SEES = frozenset({"read", "admin", "token"})
OWNS = SEES | {"submit"}
STEERS = frozenset({"submit", "admin"})
ADMIN = frozenset({"admin"})
NOBODY: frozenset[str] = frozenset()


def row(own: frozenset[str], other: frozenset[str], unknown: frozenset[str]) -> dict[str, frozenset[str]]:
    return {"own": own, "other": other, "unknown": unknown}


def always(who: frozenset[str]) -> dict[str, frozenset[str]]:
    return row(who, who, who)


CANCELS = frozenset({"token to cancel"})
STEER = row(STEERS, ADMIN, STEERS)

TABLE: dict[type[Request], dict[str, frozenset[str]]] = {
    Hello: always(KNOWN),
    Bye: always(KNOWN),
    Credit: always(KNOWN),
    Unlisten: always(KNOWN),
    Present: always(EVERYBODY),
    Listen: row(OWNS, SEES, SEES),
    Define: always(STEERS),
    Submit: row(STEERS, NOBODY, STEERS),
    Cancel: STEER,
    Unneeded: row(STEERS, ADMIN | CANCELS, ADMIN),
    Hold: STEER,
    Release: STEER,
    Retry: STEER,
    Tell: STEER,
    Performed: STEER,
    SetAtom: always(STEERS),
    Relay: always(NOBODY),  # of streams that nobody waits for: nothing is carried out
    Drain: always(STEERS),
    Suspend: always(ADMIN),
    Resume: always(ADMIN),
}

OF_ONE = row(OWNS, SEES, SEES)
VERB_TABLE: dict[str, dict[str, frozenset[str]]] = {
    **dict.fromkeys(("ping", "whoami", "request-access"), always(EVERYBODY)),
    **dict.fromkeys(
        ("which", "ps", "jobs", "summary", "graph", "changes", "resources", "versions", "functions", "session"),
        always(frozenset({"read", "admin"})),
    ),
    **dict.fromkeys(
        ("job", "why", "downstream", "story", "entries", "outcome", "result", "log", "file", "blob"), OF_ONE
    ),
    "mint": always(frozenset({"read", "submit", "admin"})),
    "renew": row(STEERS, ADMIN, ADMIN),
    "upload": always(STEERS),
    "install": always(frozenset({"upload", "admin"})),
    "users": always(ADMIN),
    "revoke": always(ADMIN),
}


def test_each_request_has_a_row() -> None:
    spoken = set(get_args(messages.AnyRequest))
    assert spoken == {kind for kind in vars(messages).values() if _is_request(kind)}
    assert spoken == set(REQUESTS)
    assert spoken == {*TABLE, Ask, Do}


def _is_request(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Request) and kind is not Request


def test_each_verb_has_a_row(house: House, tmp_path: Path) -> None:
    served = {*VIEWS, *remote_verbs(house.engine, house.powers), *bulk_verbs(tmp_path, lambda: None, None)}  # type: ignore[arg-type, return-value]
    assert served <= set(VERBS)
    assert set(VERBS) == set(VERB_TABLE)


def _request(kind: type[Request], uid: str) -> Any:
    made: dict[type[Request], Any] = {
        Hello: Hello(session="again"),
        Bye: Bye(stop=True),
        Credit: Credit(entries=1),
        Unlisten: Unlisten(streams=(uid,)),
        Present: Present(tokens=()),
        Listen: Listen(streams=((uid, 1),)),
        Define: Define(digest=digest_of(b"code"), data=b"code"),
        Submit: Submit(specs=(job(uid),)),
        Tell: Tell(uid=uid, token="t", text="hello"),
        Performed: Performed(uid=uid, epoch=1, outcome=Completed()),
        SetAtom: SetAtom(key="atom:a", value=4),
        Relay: Relay(service_key="there", entries=(Entry(uid, 1, 1, 0.0, Completed()),)),
        Drain: Drain(token="t"),
        Suspend: Suspend(uid=uid, epoch=1),
        Resume: Resume(uid=uid, epoch=1),
    }
    return made[kind] if kind in made else kind(uids=(uid,))  # type: ignore[call-arg]


def _peer(house: House, who: str, uid: str) -> None:
    """Let a peer with these rights stand before the gate."""
    roles = (who,) if who in ("read", "submit", "upload", "admin") else ()
    house.powers.people[ME] = frozenset(roles)
    if who in ("none", *roles):
        return
    ops = ("cancel-loser",) if who == "token to cancel" else ("read", "fetch")
    grant = FakeGrant(ops, "job:elsewhere" if who == "token for another" else f"job:{uid}")
    if who == "token to cancel":  # lent by the owner of the other job, who steers that one alone
        grant.user = OTHER
        house.powers.people[OTHER] = frozenset({"submit"})
    house.powers.tokens["t"] = grant
    house.gate.admit(HERE, ME, Present(tokens=("t",)))
    if who == "expired":
        grant.expires = time.time() - 1
    if who == "revoked":
        house.powers.revoke(grant.ids[0])


def _is_let_in(house: House, request: Any) -> bool:
    try:
        admitted: Any = house.gate.admit(HERE, ME, request)
    except Refusal:
        return False
    if isinstance(admitted, Listen):
        house.gate.refused.clear()
        return bool(admitted.streams)
    if isinstance(admitted, Relay):
        return bool(admitted.entries)
    return True


def _admit_all(house: House, rows: dict[str, dict[str, Any]], subject: str, who: str) -> dict[str, bool]:
    uid = {"own": "mine", "other": "theirs", "unknown": "nowhere"}[subject]
    specs = (job("mine", owner=ME, session=f"{ME}/s"), job("theirs", owner=OTHER, session=f"{OTHER}/s"))
    house.engine.step([(b"", Submit(specs=specs))])
    _peer(house, who, uid)
    if who in ("submit", "admin"):
        house.gate.admit(HERE, ME, Hello(session="s"))
    return {name: _is_let_in(house, found[uid]) for name, found in rows.items()}


@pytest.mark.parametrize("subject", ["own", "other", "unknown"])
@pytest.mark.parametrize("who", sorted(EVERYBODY))
def test_nobody_is_let_in_who_should_not_be(house: House, who: str, subject: str) -> None:
    uids = ("mine", "theirs", "nowhere")
    wrapped = (Cancel, Hold, Release, Retry, Tell, SetAtom, Resume)
    requests: dict[str, dict[str, Any]] = {
        **{f"Do {kind.__name__}": {u: Do(token="t", request=_request(kind, u)) for u in uids} for kind in wrapped},
        **{kind.__name__: {u: _request(kind, u) for u in uids} for kind in TABLE},
        **{verb: {u: _question(verb, u) for u in uids} for verb in VERB_TABLE},
    }
    expected = {
        **{f"Do {kind.__name__}": who in TABLE[kind][subject] for kind in wrapped},
        **{kind.__name__: who in found[subject] for kind, found in TABLE.items()},
        **{verb: who in found[subject] for verb, found in VERB_TABLE.items()},
    }

    assert _admit_all(house, requests, subject, who) == expected


def _question(verb: str, uid: str) -> Ask:
    if verb == "file":
        return Ask(token="t", verb=verb, arguments={"url": f"trun://here/jobs/{uid}/files/x"})
    name = "uid" if verb in ("outcome", "result", "blob") else "job"
    return Ask(token="t", verb=verb, arguments={name: uid})


# -- who somebody claims to be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner_is", ["somebody else", "the owner"])
def test_the_session_of_another_is_not_taken_over(house: House, owner_is: str) -> None:
    if owner_is == "the owner":
        house.say(b"\1own", Hello(session="s"), Credit(entries=10))
    else:
        house.let_in(b"\1own", OTHER, "read", "submit")
    house.let_in(HERE, ME, "read", "submit")

    answers = house.say(b"\1own", Submit(specs=(job("a", session="s"),)))

    assert [type(answer).__name__ for answer in answers] == ["Entries"]
    assert house.say(HERE) == []
    assert len({session.name for session in house.engine.sessions.values()}) == 2


def test_what_a_client_claims_about_its_job_is_not_believed(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Submit(specs=(job("a", owner="", session="root"), job("b", owner=OTHER, session="s"))))
    assert {record.spec.owner for record in house.records.values()} == {ME}
    assert {record.spec.session for record in house.records.values()} == {f"{ME}/s"}


def test_a_peer_cannot_stop_the_service(house: House) -> None:
    house.let_in(HERE, ME, "read", "submit", "upload")
    house.say(HERE, Bye(stop=True))
    assert not house.engine.stopping


@pytest.mark.parametrize("uid", ["../../etc/cron.d/x", "a/b", ".hidden", "fit#1", "", "x" * 200, "a\0b", "service"])
def test_names_that_lead_elsewhere_are_refused(house: House, uid: str) -> None:
    house.let_in(HERE, ME, "submit")
    answers = house.say(HERE, Submit(specs=(job(uid),), groups=()))
    answers += house.say(HERE, Submit(specs=(), groups=(GroupSpec(uid, "g"),)))
    assert house.records == {}
    assert all(isinstance(answer, Refuse) for answer in answers)
    assert answers


def test_a_session_has_a_plain_name(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    assert "session" in errors(house.say(HERE, Hello(session="../x")))


# -- the jobs of others -----------------------------------------------------------------------------------------------


@pytest.fixture
def two(house: House) -> House:
    """Somebody else's job runs; we may submit, and read nothing."""
    house.let_in(b"\0there", OTHER, "submit")
    house.say(b"\0there", Submit(specs=(job("theirs", key="nightly", digest="d"),)))
    house.let_in(HERE, ME, "submit")
    return house


@pytest.mark.parametrize(
    "spec",
    [
        job("theirs"),
        job("a", inputs=("theirs",)),
        job("a", when=wire.dumps(IsCompleted("theirs"))),
        job("a", when=wire.dumps(IsCompleted("theirs") | Atom("x"))),
        job("a", kind="first", call=None, choices=("theirs",)),
        job("a", parent="theirs"),
        job("a", key="nightly", digest="d"),
        job("a", isolation="inline"),
        job("a", call=Call("f", Payload(b"", blob=Blob("../../etc/passwd", 1)))),
        job("a", call=Call("f", Payload(b"", buffers=(Blob(".x", 1),)))),
        job("a", origins=(Origin("k", "ipc:///run/user/0/service.sock", "", "", ("s",)),)),
        job("a", origins=(Origin("k", "tcp://host:1", "", "", ("s",)),)),
    ],
)
def test_what_is_somebody_elses_is_neither_waited_for_nor_joined(two: House, spec: JobSpec) -> None:
    answers = two.say(HERE, Submit(specs=(spec,)))
    assert [type(answer) for answer in answers] == [Refuse]
    assert set(two.records) == {"theirs"}
    assert two.records["theirs"].spec.owner == OTHER


def test_the_group_of_another_is_neither_joined_nor_closed_nor_heard(two: House) -> None:
    two.say(b"\0there", Submit(specs=(job("m", group="g"),), groups=(GroupSpec("g", "g"),)))
    assert "somebody else" in errors(two.say(HERE, Submit(specs=(job("a", group="g"),))))
    assert "somebody else" in errors(two.say(HERE, Submit(specs=(), groups=(GroupSpec("g", "g", 1),))))
    assert errors(two.say(HERE, Submit(specs=(job("a", when=wire.dumps(IsCompleted("g"))),))))
    assert errors(two.say(HERE, Listen(streams=(("g", 1),))))
    assert two.engine.machine.groups["g"].spec.total is None


def test_a_question_that_names_two_jobs_is_about_both(two: House) -> None:
    two.say(HERE, Submit(specs=(job("mine"),)))
    for arguments in ({"job": "mine", "uid": "theirs"}, {"uid": "theirs", "stream": "mine"}, {"uid": "theirs"}):
        for verb in ("result", "outcome", "blob"):
            (answer,) = [a for a in two.say(HERE, Ask(token="t", verb=verb, arguments=arguments)) if type(a) is Answer]
            assert answer.error is not None
            assert "theirs" in answer.error.message


def test_a_stream_of_a_job_to_come_is_not_heard_by_who_listened_first(two: House) -> None:
    assert two.say(HERE, Listen(streams=(("next", 1), ("mine", 1)))) == []
    two.say(b"\0there", Submit(specs=(job("next"),)))
    assert two.say(HERE) == []
    entries = two.say(HERE, Submit(specs=(job("mine"),)))[0].entries
    assert {entry.stream for entry in entries} == {"mine"}


def test_a_token_to_see_does_not_steer(two: House) -> None:
    grant = FakeGrant(("read", "cancel-loser"), "job:theirs")
    grant.user = ME
    two.powers.people[ME] = frozenset({"read"})
    two.powers.tokens["t"] = grant
    assert "admin" in errors(two.say(HERE, Present(tokens=("t",)), Do(token="t", request=Cancel(uids=("theirs",)))))
    assert not two.records["theirs"].life.state.is_final


def test_nobody_renews_for_the_jobs_of_the_owner(two: House) -> None:
    two.engine.step([(b"", Submit(specs=(job("owners"),)))])
    for uid in ("owners", "theirs", "nowhere"):
        assert "no such job" in errors(two.say(HERE, Ask(token="t", verb="renew", arguments={"job": uid, "token": ""})))


def test_a_key_in_use_is_not_made_a_session_of_somebody_else(two: House) -> None:
    two.powers.people[ME] = frozenset({"read", "submit"})
    found = two.say(HERE, Ask(token="t", verb="session", arguments={"key": OTHER, "expires": 1e12}))
    assert "in use" in errors(found)


# -- what happened elsewhere ------------------------------------------------------------------------------------------


def _relay(value: bytes = b"forged") -> Relay:
    return Relay(service_key="there", entries=(Entry("far", 1, 1, 0.0, Completed(result=Payload(value))),))


def _waits(uid: str) -> JobSpec:
    return job(uid, when=wire.dumps(IsCompleted("far", service_key="there")), inputs=("far",))


def test_nobody_says_what_happened_elsewhere_for_the_jobs_of_others(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.say(b"\0there", Submit(specs=(_waits("waiting"),)))
    assert "somebody else" in errors(two.say(HERE, _relay()))
    assert two.records["waiting"].life.state.value == "waiting"


def test_what_happened_elsewhere_is_not_said_ahead(two: House) -> None:
    two.say(HERE, _relay())
    two.say(b"\0there", Submit(specs=(_waits("waiting"),)))
    assert two.records["waiting"].life.state.value == "waiting"
    assert two.engine.payloads.result("far") is None


def test_own_jobs_hear_what_their_client_passes_on(two: House) -> None:
    two.say(HERE, Submit(specs=(_waits("mine"),)))
    two.say(HERE, _relay(b"true"))
    assert two.executor.take_order("mine").inputs == {"far": Payload(b"true")}


@pytest.mark.parametrize("key", ["world:x", "free:cpu", "job:theirs:completed", "time:1", "", "atom:" + "x" * 1000])
def test_only_atoms_of_clients_are_set_by_clients(two: House, key: str) -> None:
    assert "not yours" in errors(two.say(HERE, Do(token="t", request=SetAtom(key=key, value=4))))


def test_the_atom_that_others_wait_for_is_not_set(two: House) -> None:
    atom = Atom("gate")
    two.say(b"\0there", Submit(specs=(job("waiting", when=wire.dumps(atom)),)))
    assert "not yours" in errors(two.say(HERE, Do(token="t", request=SetAtom(key=atom.key, value=4))))
    assert two.records["waiting"].life.state.value == "waiting"


def test_a_function_is_kept_under_its_own_digest_alone(house: House) -> None:
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Define(digest=digest_of(b"good"), data=b"evil"))
    assert house.engine.payloads.definition(digest_of(b"good")) == b""
    house.say(HERE, Define(digest=digest_of(b"good"), data=b"good"))
    assert house.engine.payloads.definition(digest_of(b"good")) == b"good"


# -- rights that end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [("admin",), ("read",), ("read", "submit")])
@pytest.mark.parametrize("speaks", [True, False])
def test_who_may_not_read_any_more_hears_no_more(house: House, roles: tuple[str, ...], speaks: bool) -> None:
    house.let_in(HERE, ME, *roles)
    house.say(HERE, Listen(streams=(("theirs", 1),)))
    del house.powers.people[ME]
    if speaks:  # what it says in between must not hide that it could see once
        house.say(HERE, Credit(entries=1))
    house.pass_time()
    house.endpoint.take(HERE)
    house.let_in(b"\0there", OTHER, "submit")
    house.say(b"\0there", Submit(specs=(job("theirs"),)))
    assert house.say(HERE) == []


@pytest.mark.parametrize("end", ["expired", "revoked", "its user has gone", "its user may not read"])
def test_what_a_token_showed_ends_with_it(two: House, end: str) -> None:
    grant = two.powers.tokens["t"] = FakeGrant(("read",), "job:theirs")
    two.powers.people[ME] = frozenset()
    shown = two.say(HERE, Present(tokens=("t",)), Listen(streams=(("theirs", 1),)))
    assert shown[0].entries
    if end == "expired":
        grant.expires = time.time() - 1
    elif end == "revoked":
        two.powers.revoke(grant.ids[0])
    else:
        two.powers.people[LENDER] = frozenset() if "gone" in end else frozenset({"submit"})
    two.pass_time()
    (told,) = [answer for answer in two.endpoint.take(HERE) if isinstance(answer, Refuse)]
    assert told.uids == ("theirs",)
    two.executor.complete("theirs")
    two.engine.step([(b"", report) for report in two.executor.poll(two.clock.now())])
    assert two.endpoint.take(HERE) == []


@pytest.mark.parametrize("speaks", [True, False])
def test_a_session_key_that_has_expired_hears_no_more(house: House, speaks: bool) -> None:
    house.let_in(b"\0user", OTHER, "read", "submit")
    house.powers.sessions[ME] = OTHER
    house.endpoint.users[HERE] = ME
    house.say(HERE, Hello(session="agent"), Credit(entries=100), Listen(streams=(("a", 1),)))
    del house.powers.sessions[ME]
    if speaks:
        house.say(HERE, Credit(entries=1))
    house.pass_time()
    house.endpoint.take(HERE)
    house.say(b"\0user", Submit(specs=(job("a"),)))
    assert house.say(HERE) == []


# -- strange questions, and too many ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(VERBS))
@pytest.mark.parametrize(
    "arguments",
    [{}, {"job": []}, {"job": None, "uid": {"x": 1}}, {"job": 2**63, "limit": "x", "url": "trun://here/export/%ff"}],
)
def test_a_strange_question_ends_no_service(house: House, verb: str, arguments: dict[str, Any]) -> None:
    house.let_in(HERE, ME, "read", "submit", "upload", "admin")
    for answer in house.say(HERE, Ask(token="t", verb=verb, arguments={**arguments, "since": "x", "expires": "y"})):
        assert isinstance(answer, Answer)
    assert house.say(HERE, Ask(token="t", verb="ping"))[0].error is None


def test_a_stranger_is_answered_a_few_times_and_then_costs_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trun.audit")
    house.endpoint.users[HERE] = ME
    answers = house.say(HERE, *(Submit(specs=(job(f"a{n}"),)) for n in range(3000)))
    assert 1 <= len(answers) <= 10
    assert ME in errors(answers)
    assert len(caplog.records) < 20
    assert house.records == {}


def test_each_decision_is_a_line_of_the_audit_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.let_in(HERE, ME, "submit")
    caplog.set_level("INFO", "trun.audit")
    caplog.clear()
    house.say(HERE, Submit(specs=(job("a"),)), Ask(token="t", verb="ps"), Suspend(uid="a", epoch=1))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["allowed", "denied", "denied"]
    assert all(ME in record.getMessage() for record in caplog.records)


def test_one_user_has_so_many_unfinished_jobs_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "JOBS", 3)
    house.let_in(HERE, ME, "submit")
    house.say(HERE, Submit(specs=tuple(job(f"a{n}") for n in range(3))))
    assert "cancel some" in errors(house.say(HERE, Submit(specs=(job("b"),))))
    house.let_in(b"\0there", OTHER, "submit")
    house.say(b"\0there", Submit(specs=(job("c"),)))
    assert set(house.records) == {"a0", "a1", "a2", "c"}


def test_one_connection_listens_to_so_many_streams(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "STREAMS", 2)
    house.let_in(HERE, ME, "read")
    refused = house.say(HERE, Listen(streams=tuple((f"s{n}", 1) for n in range(3))))
    assert [answer.uids for answer in refused] == [("s2",)]
    assert errors(house.say(HERE, Listen(streams=(("s3", 1),))))
    house.say(HERE, Unlisten(streams=("s0",)))
    assert house.say(HERE, Listen(streams=(("s3", 1),))) == []


def test_too_many_requests_are_refused_at_once_and_taken_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = quotas.Quotas()
    ask = Ask(token="t", verb="ping")
    for _ in range(int(quotas.REQUESTS)):
        bucket.take(ME, ask, 0.0)
    with pytest.raises(NotAuthorised, match="too many requests"):
        bucket.take(ME, ask, 0.0)
    bucket.take(OTHER, ask, 0.0)
    bucket.take(ME, ask, 1.0)
    monkeypatch.setattr(quotas, "USERS", 5)
    for n in range(100):
        bucket.take(str(n), ask, 1.0)
    assert len(bucket) == 5


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "BYTES", 10.0)
    bucket = quotas.Quotas()
    with pytest.raises(NotAuthorised, match="too many bytes"):
        bucket.take(ME, Define(digest="d", data=b"12345678901"), 0.0)
    with pytest.raises(NotAuthorised, match="too many bytes"):
        bucket.take(ME, Submit(specs=(job("a", call=Call("f", Payload(b"12345678901"))),)), 0.0)


def test_nothing_is_kept_of_peers_and_sessions_that_have_gone(house: House) -> None:
    house.powers.people[ME] = frozenset({"read", "submit"})
    for n in range(50):
        peer = b"\0%d" % n
        house.endpoint.users[peer] = ME
        house.say(peer, Hello(session=f"s{n}"), Hello(session=f"t{n}"), Listen(streams=(("x", 1),)))
        house.engine.forget(peer)
    assert house.engine.peers == {}
    assert house.engine.sessions == {}
    assert house.gate.user(b"\x000") == ""
    assert house.engine.streams.count(b"\x000") == 0
