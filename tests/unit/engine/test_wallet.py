"""The wallet of the agent: what it lends is narrow, what it renews ends, and nothing gives the key out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from trun.adapters import tokens
from trun.adapters.agency import AnyVerb, Attenuate, Forget, List, Lock, Renewal, Session, Where
from trun.adapters.keys import KeyPair
from trun.core.scopes import OPERATIONS
from trun.engine.wallet import SESSION_S, Wallet
from trun.errors import BadOption, NotAuthorised, RemoteError, ServiceUnavailable, TokenRefused, UnknownName

USER, ROOT, A_KEY, B_KEY, SCRIPT = (KeyPair(bytes([number]) * 32) for number in range(1, 6))
A = Where("facility", "tcp://a:1", A_KEY.public)
B = Where("cluster", "tcp://b:1", B_KEY.public)
START = 1_800_000_000.0


class Site:
    """Two services as the wallet sees them, and the clock."""

    def __init__(self) -> None:
        self.now = START
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.fault: Callable[[str, str], None] = lambda service, verb: None
        self.done = False
        self.saved = b""
        self.begin()

    def begin(self) -> None:
        """Begin a wallet, with what the one before had saved."""
        self.wallet = Wallet(
            unlock=self.unlock, find=self.find, connect=self.connect, now=lambda: self.now, saved=self.saved,
            save=self.save,
        )  # fmt: skip
        self.wallet.handle(Lock(locked=False))

    def save(self, data: bytes) -> None:
        self.saved = data

    def unlock(self, passphrase: str) -> KeyPair:
        if passphrase not in ("", "right"):
            raise NotAuthorised("this is not the passphrase of the key.")
        return USER

    def find(self, where: Where) -> Where:
        if where.address:
            return where
        for known in (A, B):
            if where.name in (known.name, known.key):
                return known
        raise UnknownName(name=where.name)

    def connect(self, where: Where, keys: KeyPair) -> Line:
        assert keys is USER
        self.fault(where.name, "connect")
        self.opened.append(where.name)
        return Line(self, where.name)

    def handle(self, request: AnyVerb) -> Any:
        return self.wallet.handle(request)

    def check(self, token: str, **changes: Any) -> tokens.Grant:
        arguments: dict[str, Any] = {
            "roots": {1: ROOT.verify}, "bearer": B_KEY.public, "now": self.now, "op": "read", "resource": "stream:4f",
            "revoked": lambda _id: False,
        } | changes  # fmt: skip
        return tokens.check(token, **arguments)


class Line:
    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        self.site.fault(self.name, verb)
        self.site.asked.append((self.name, verb, arguments))
        if verb == "mint":
            token = tokens.mint(
                ROOT, generation=1, user="pk", holder=USER.public, next_key=arguments["next"], ops=arguments["ops"],
                res=arguments["res"], expires=arguments["expires"],
            )  # fmt: skip
            return {"token": token}
        return {"done": self.site.done} if verb == "renew" else {}

    def close(self) -> None:
        self.site.closed.append(self.name)


def wanted(**changes: Any) -> Attenuate:
    arguments: dict[str, Any] = {
        "service": Where("facility"), "holder": B_KEY.public, "ops": ("read",), "res": ("job:4f",),
        "expires": START + 3600,
    } | changes  # fmt: skip
    return Attenuate(**arguments)


RENEW = Renewal(service=Where("cluster"), job="77")


def test_a_token_is_minted_narrowed_and_bound() -> None:
    site = Site()

    given = site.handle(wanted())

    grant = site.check(given["token"])
    assert (grant.user, grant.ops, grant.res, grant.expires) == ("pk", ("read",), ("job:4f",), START + 3600)
    assert list(grant.ids) == given["ids"]
    assert site.asked[0][2]["res"] == ["job:4f"]
    with pytest.raises(TokenRefused):
        site.check(given["token"], bearer=USER.public)


def test_what_was_lent_is_listed_by_its_ids_until_it_ends() -> None:
    site = Site()
    given = site.handle(wanted())

    listed = site.handle(List())["lent"]

    assert [(each["service"], each["holder"], each["ids"]) for each in listed] == [
        ("facility", B_KEY.public, given["ids"])
    ]
    site.now += 4000
    assert site.handle(List())["lent"] == []


def test_no_reply_holds_the_key_or_a_token_of_others() -> None:
    site = Site()
    token = site.handle(wanted(renew=RENEW))["token"]
    site.handle(Session(A))

    text = json.dumps(site.handle(List()))

    for secret in (USER.secret, USER.seed.hex(), token, token[6:60]):
        assert secret not in text
    assert USER.secret not in repr(site.wallet)


def test_a_session_key_is_registered_at_its_service_and_kept() -> None:
    site = Site()

    first = site.handle(Session(Where("facility")))
    again = site.handle(Session(A))

    assert first == again
    assert KeyPair(bytes.fromhex(first["seed"])).public == first["key"] != USER.public
    assert site.asked == [("facility", "session", {"key": first["key"], "expires": START + SESSION_S})]
    assert first["user"] == USER.public


def test_a_session_near_its_end_is_replaced() -> None:
    site = Site()
    first = site.handle(Session(A))

    site.now += SESSION_S - 600

    assert site.handle(Session(A))["key"] != first["key"]


def test_a_session_that_the_service_refuses_is_not_kept() -> None:
    site = Site()

    def refuse(service: str, verb: str) -> None:
        if verb == "session":
            raise NotAuthorised("unknown key")

    site.fault = refuse
    with pytest.raises(NotAuthorised):
        site.handle(Session(A))

    assert site.handle(List())["sessions"] == []


def test_one_connection_serves_until_it_breaks() -> None:
    site = Site()
    for _ in range(3):
        site.handle(wanted())
    assert site.opened == ["facility"]

    def gone(service: str, verb: str) -> None:
        if verb == "mint":
            raise ServiceUnavailable("gone")

    site.fault = gone
    with pytest.raises(ServiceUnavailable):
        site.handle(wanted())
    site.fault = lambda service, verb: None
    site.handle(wanted())

    assert site.opened == ["facility", "facility"]
    assert site.closed == ["facility"]


def test_a_locked_wallet_does_nothing_but_list_and_unlock() -> None:
    site = Site()
    site.handle(Session(A))
    site.handle(wanted())

    site.handle(Lock())

    assert site.handle(List())["locked"]
    assert site.handle(List())["sessions"] == []
    assert site.closed == ["facility"]
    for request in (Session(A), wanted()):
        with pytest.raises(NotAuthorised, match="locked"):
            site.handle(request)
    with pytest.raises(NotAuthorised, match="not the passphrase"):
        site.handle(Lock(locked=False, passphrase="wrong"))
    site.handle(Lock(locked=False, passphrase="right"))
    assert site.handle(wanted())["token"]


def test_a_connection_that_opens_while_the_wallet_is_locked_is_closed() -> None:
    site = Site()

    def lock(service: str, verb: str) -> None:
        if verb == "connect":
            site.handle(Lock())

    site.fault = lock
    with pytest.raises(NotAuthorised, match="locked"):
        site.handle(wanted())

    assert site.closed == ["facility"]
    assert site.asked == []


def test_forget_drops_all_of_one_service() -> None:
    site = Site()
    site.handle(Session(A))
    site.handle(Session(B))
    site.handle(wanted(renew=RENEW))

    assert site.handle(Forget("facility"))["forgotten"] == 3

    listed = site.handle(List())
    assert [each["service"] for each in listed["sessions"]] == ["cluster"]
    assert (listed["lent"], listed["renewing"], site.closed) == ([], [], ["facility"])
    assert site.wallet.next_due() is None
    assert site.handle(Forget("nobody"))["forgotten"] == 0


def test_forget_knows_services_by_key_too() -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))

    site.handle(Forget(A_KEY.public))

    assert site.handle(List())["renewing"] == []


@pytest.mark.parametrize("expires", [START, START - 1, float("inf"), float("nan"), START + 1e12])
def test_an_end_that_makes_no_sense_is_refused(expires: float) -> None:
    with pytest.raises(BadOption):
        Site().handle(wanted(expires=expires))


@pytest.mark.parametrize("changes", [{"ops": ("all",)}, {"res": ("job:..",)}, {"holder": "me"}, {"ops": ()}])
def test_a_scope_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        Site().handle(wanted(**changes))


def test_all_operations_can_be_lent() -> None:
    site = Site()

    assert site.check(site.handle(wanted(ops=OPERATIONS))["token"], op="cancel-loser").ops == OPERATIONS


@pytest.mark.parametrize("answer", [None, {}, {"token": 3}, "trun1.abc"])
def test_a_service_that_mints_nonsense_is_told_of(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setattr(Line, "ask", lambda self, verb, /, **arguments: answer)

    with pytest.raises(RemoteError):
        site.handle(wanted())


# -- renewing


def test_a_token_is_renewed_before_it_ends_as_long_as_the_job_waits() -> None:
    site = Site()
    changes: list[int] = []
    site.wallet.on_change = lambda: changes.append(1)
    site.handle(wanted(renew=RENEW))
    assert changes == [1]

    for _ in range(30):
        due = site.wallet.next_due()
        assert due is not None
        assert site.now + 600 < due < site.now + 3600
        site.now = due
        assert site.wallet.renew_due() == 1
        service, verb, arguments = site.asked[-1]
        assert (service, verb, arguments["job"]) == ("cluster", "renew", "77")
        assert site.check(arguments["token"]).expires == int(site.now + 3600)

    assert site.wallet.renew_due() == 0


def test_a_job_that_needs_it_no_more_ends_the_renewal() -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))
    site.done = True

    site.now += 3000
    site.wallet.renew_due()

    assert site.wallet.next_due() is None


def test_a_job_that_is_unknown_ends_the_renewal() -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))

    def unknown(service: str, verb: str) -> None:
        if verb == "renew":
            raise UnknownName("no such job")

    site.fault = unknown
    site.now += 3000
    site.wallet.renew_due()

    assert site.wallet.next_due() is None


@pytest.mark.parametrize("verb", ["mint", "renew", "connect"])
def test_a_renewal_that_fails_is_tried_again_until_the_token_has_ended(verb: str) -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))
    site.handle(Lock())
    site.handle(Lock(locked=False))

    def broken(service: str, asked: str) -> None:
        if asked == verb:
            raise ServiceUnavailable("no route")

    site.fault = broken
    tries = 0
    while (due := site.wallet.next_due()) is not None:
        assert tries < 100
        site.now = max(site.now, due)
        assert site.wallet.renew_due() == 0
        tries += 1

    assert 10 < tries < 40
    assert site.now > START + 3600


def test_a_renewal_that_failed_once_goes_on_as_before() -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))
    site.handle(Lock())
    site.now += 3000
    assert site.wallet.renew_due() == 0
    assert site.handle(List())["renewing"][0]["failures"] == 1

    site.handle(Lock(locked=False))
    site.now += 10

    assert site.wallet.renew_due() == 1
    assert site.handle(List())["renewing"][0]["failures"] == 0


def test_a_new_wallet_goes_on_renewing_where_the_old_one_stopped() -> None:
    site = Site()
    token = site.handle(wanted(renew=RENEW))["token"]
    due = site.wallet.next_due()
    assert USER.seed.hex().encode() not in site.saved
    assert token.encode() not in site.saved

    site.begin()

    assert site.wallet.next_due() == due
    site.now += 3000
    assert site.wallet.renew_due() == 1
    site.handle(Forget("facility"))
    site.begin()
    assert site.wallet.next_due() is None


def test_what_ended_while_no_wallet_was_there_is_not_renewed() -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))

    site.now += 4000
    site.begin()

    assert site.wallet.next_due() is None


@pytest.mark.parametrize("saved", [b"{}", b"[1]", b"\xff", b"[" * 5000, b'[{"wanted":{}}]'])
def test_a_damaged_record_is_left_aside(saved: bytes) -> None:
    site = Site()
    site.saved = saved

    site.begin()

    assert site.wallet.next_due() is None
    assert site.handle(wanted(renew=RENEW))["token"]


def test_the_same_job_and_scope_are_renewed_once() -> None:
    site = Site()
    site.handle(wanted(renew=RENEW))
    site.handle(wanted(renew=RENEW))

    site.now += 3000

    assert site.wallet.renew_due() == 1


def test_a_very_short_token_is_renewed_in_time_too() -> None:
    site = Site()
    site.handle(wanted(expires=START + 4, renew=RENEW))

    due = site.wallet.next_due()

    assert due is not None
    assert START < due < START + 4
