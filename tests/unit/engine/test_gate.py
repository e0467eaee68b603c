"""Who is let in: every request and every verb by every kind of peer, against a table written from the design.

The table below is written out by hand and knows nothing of ``core.rights``; a request or a verb without a row fails.
What peers claim, relay and flood with, and what becomes of rights that end, stands in the files beside this one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.unit.engine.gates import HERE, LENDER, ME, OTHER, FakeGrant, House, job
from trun import messages
from trun.adapters.pickles import digest_of
from trun.core.rights import REQUESTS, VERBS
from trun.engine.gate import Refusal
from trun.engine.verbs import bulk_verbs, remote_verbs
from trun.engine.views import VIEWS
from trun.messages import (
    Ask,
    Bye,
    Cancel,
    Completed,
    Credit,
    Define,
    Do,
    Drain,
    Entry,
    Hello,
    Hold,
    Listen,
    Performed,
    Present,
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
)

EVERYBODY = frozenset(
    {"none", "read", "submit", "upload", "admin", "token", "token for another", "expired", "revoked", "token to cancel"}
    | {"pending", "removed", "session ended", "stolen token", "lender removed"}
)
#: Keys that the service knows, or to which somebody gave a token.
KNOWN = EVERYBODY - {"none", "pending", "removed", "session ended", "stolen token"}
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
    Relay: always(STEERS),  # for jobs of their own alone
    Drain: always(STEERS),
    Suspend: always(ADMIN),
    Resume: always(ADMIN),
}

OF_ONE = row(OWNS, SEES, SEES)
VERB_TABLE: dict[str, dict[str, frozenset[str]]] = {
    **dict.fromkeys(("ping", "whoami", "request-access", "rotate"), always(EVERYBODY)),
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
    if who in ("none", *roles) or _is_stranger_by_now(house, who):
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
    if who == "lender removed":
        house.powers.people[LENDER] = frozenset()


def _is_stranger_by_now(house: House, who: str) -> bool:
    """Bring about how somebody stands before the gate who has no rights although there was something."""
    if who == "pending":
        house.gate.admit(HERE, ME, Ask(token="t", verb="request-access", arguments={"name": "me"}))
    elif who == "removed":
        house.powers.people[ME] = frozenset({"read", "submit", "upload", "admin"})
        house.gate.admit(HERE, ME, Hello(session="s"))
        house.powers.people[ME] = frozenset()
        house.pass_time()
    elif who == "session ended":
        house.powers.people["u" * 40] = frozenset({"read", "submit", "upload", "admin"})
        house.powers.sessions[ME] = "u" * 40
        house.gate.admit(HERE, ME, Hello(session="s"))
        del house.powers.sessions[ME]
        house.pass_time()
    elif who == "stolen token":  # or one of another service: whatever does not check
        with pytest.raises(Refusal):
            house.gate.admit(HERE, ME, Present(tokens=("stolen",)))
    else:
        return False
    return True


def _is_let_in(house: House, request: Any) -> bool:
    try:
        admitted: Any = house.gate.admit(HERE, ME, request)
    except Refusal:
        return False
    if isinstance(admitted, Listen):
        return bool(admitted.streams)
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
