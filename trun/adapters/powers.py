"""What a node knows of people and tokens: roles by key, tokens checked and minted, links that were revoked.

Fulfils ``engine.gate.Powers``. Roles are read from the service's file whenever it changes; revoked links stand in
``STATE/revoked``, one line each, and hold at once. Made for nodes that listen to others than their owner; a private
node has none of this. Who may come in: the node.
Rule: a token is checked once per connection, its expiry, its links and its user's roles at every use.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trun.adapters import tokens
from trun.adapters.keys import ServiceKeys, fingerprint, from_z85
from trun.adapters.people import People
from trun.core import scopes
from trun.errors import BadOption, NotAuthorised, UsageError

#: Tokens that one key may show in a minute.
TOKENS_A_MINUTE = 30_000
#: Session keys of one user.
SESSIONS = 16


class Allowed:
    """A token that was checked: what all of its links allow."""

    __slots__ = ("_links", "expires", "ids", "resources", "user")

    def __init__(self, grant: tokens.Grant, links: list[dict[str, Any]]) -> None:
        self.user = grant.key
        self.ids = grant.ids
        self.expires = min(float(link["exp"]) for link in links)
        #: What the last link speaks of.
        self.resources = tuple(str(one) for one in links[-1]["res"])
        self._links = links

    def allows(self, op: str, resource: str) -> bool:
        """Return whether the token opens this resource for this operation."""
        return all(op in link["ops"] and scopes.allows(link["res"], resource) for link in self._links)


class Powers:
    """People, tokens and revocations of one service.

    Parameters
    ----------
    folder
        State folder of the service.
    keys
        Its keys.
    """

    def __init__(self, folder: Path, keys: ServiceKeys) -> None:
        self.people = People(folder)
        self.keys = keys
        self._roots = {number: pair.verify for number, pair in keys.roots.items()}
        self._path = folder / "revoked"
        self._stamp = -1
        self._revoked: set[str] = set()
        self._taken_at = 0
        self._sessions_path = folder / "sessions"
        self._sessions: dict[str, tuple[str, float]] = {}
        self._sessions_read = False
        self._minute = 0
        self._shown: Counter[str] = Counter()

    def roles(self, key: str) -> frozenset[str]:
        """Return the roles of a key at this moment."""
        return self.people.roles(key)

    def user(self, key: str) -> str:
        """Return whose key this is: that of a session that an agent registered is its user's, others are themselves."""
        self._read_sessions()
        user, expires = self._sessions.get(key, ("", 0.0))
        return user if expires > time.time() else key

    def register(self, key: str, user: str, expires: float) -> float:
        """Let another key of a user be worth as much as the user's own until then (12 h at most); durable."""
        from_z85(key)
        if self.people.roles(key) or not self.people.roles(user):
            raise NotAuthorised("this key cannot stand for you.")
        now = time.time()
        until = min(expires, now + tokens.LONGEST_S)
        self._read_sessions()
        kept = {one: found for one, found in self._sessions.items() if found[1] > now}
        mine = [one for one, found in kept.items() if found[0] == user]
        for one in mine[: max(0, len(mine) - SESSIONS + 1)]:
            del kept[one]
        kept[key] = (user, until)
        part = self._sessions_path.with_name(f".sessions.{os.getpid()}")
        with open(part, "w") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._sessions_path)
        self._sessions = kept
        return until

    def rotate(self, key: str, new: str) -> float:
        """Give the holder of ``key`` another one and return when the old one ends; durable."""
        return self.people.rotate(key, new).until

    def _read_sessions(self) -> None:
        if self._sessions_read:
            return
        self._sessions_read = True
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._sessions_path.read_text())
            self._sessions = {str(key): (str(user), float(until)) for key, (user, until) in found.items()}

    def name(self, key: str) -> str:
        """Return what to call the holder of a key."""
        return self.people.name(key)

    def taken(self) -> tuple[set[str], bool]:
        """Return, once, the keys that have lost a role since the last call, and whether tokens were revoked."""
        self._read()
        before, self._taken_at = self._taken_at, self._stamp
        return self.people.taken(), self._stamp != before

    # -- tokens

    def check(self, token: str, bearer: str, now: float) -> Allowed:
        """Return what a token allows its bearer.

        Raises
        ------
        NotAuthorised
            It allows nothing, or too many were shown.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._shown = minute, Counter()
        self._shown[bearer] += 1
        if self._shown[bearer] > TOKENS_A_MINUTE:
            raise NotAuthorised("too many tokens in a minute.")
        try:
            links = tokens.inspect(token)
            last = links[-1]
            op, resource = str(last["ops"][0]), str(last["res"][0])
        except (UsageError, LookupError) as error:
            raise NotAuthorised("this is no token.") from error
        if resource == scopes.ALL:
            resource = scopes.for_stream("service")
        grant = tokens.check(
            token, roots=self._roots, bearer=bearer, now=now, op=op, resource=resource, revoked=self._is_revoked
        )
        if not self.roles(grant.key):
            raise NotAuthorised("the user of this token has no rights here any more.")
        return Allowed(grant, links)

    def mint(self, holder: str, *, next_key: str, ops: Iterable[str], res: Iterable[str], seconds: float) -> str:
        """Return a fresh token of what a user may do, which that user can narrow and hand on."""
        expires = time.time() + min(max(seconds, 1.0), tokens.LONGEST_S)
        return tokens.mint(
            self.keys.root,
            generation=self.keys.generation,
            user=fingerprint(holder),
            holder=holder,
            next_key=next_key,
            ops=ops,
            res=res,
            expires=expires,
        )

    # -- revocation

    def is_revoked(self, ids: Iterable[str]) -> bool:
        """Whether one of these links was revoked."""
        self._read()
        return bool(self._revoked) and any(one in self._revoked for one in ids)

    def _is_revoked(self, one: str) -> bool:
        return self.is_revoked((one,))

    def _read(self) -> None:
        try:
            stamp = os.stat(self._path).st_mtime_ns
        except FileNotFoundError:
            stamp = 0
        if stamp != self._stamp:
            lines = self._path.read_text().splitlines() if stamp else []
            self._revoked = {json.loads(line)["id"] for line in lines if line.strip()}
            self._stamp = stamp

    def revoke(self, one: str, reason: str = "") -> None:
        """Let every token with this link be worth nothing from now on; durable.

        Raises
        ------
        BadOption
            This is no id of a link.
        """
        if len(one) != 64 or not all(char in "0123456789abcdef" for char in one):
            raise BadOption(f"{one!r} is no id of a token: those have 64 hexadecimal digits.")
        with open(self._path, "a") as file:
            file.write(json.dumps({"id": one, "time": time.time(), "reason": reason[:200]}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._stamp = -1
