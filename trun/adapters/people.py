"""Who may do what on a service: the file ``STATE/authorized_users``, and the keys that asked to be let in.

One line per key: ``name KEY roles=submit,read`` (KEY is 40 characters of Z85), with ``until=2026-12-01T12:00:00Z`` at
its end where the key ends, as one does that was exchanged for another. The file is read again whenever it changes, so
what ``trun user`` writes, or an operator's editor, holds for the next message of an open connection.
Strangers who asked for access are listed in ``STATE/access_requests``.

Decides nothing: ``core.rights`` says which role a request needs. Who may come in: the node and the command line.
Rule: a line that cannot be read gives nobody anything.
"""

from __future__ import annotations

import json
import os
import re
import time
from calendar import timegm
from collections.abc import Iterable
from pathlib import Path

import msgspec

from trun.adapters.keys import fingerprint, from_z85
from trun.core.rights import ROLES
from trun.errors import BadOption, NotAuthorised, UnknownName

_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")
#: Requests for access that are kept.
PENDING = 100
#: Seconds for which a key lives on that was exchanged for another.
OVERLAP_S = 7 * 86400.0
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Person(msgspec.Struct, frozen=True):
    """A key that a service knows."""

    name: str
    key: str
    roles: frozenset[str]
    #: When the key ends, in seconds since the epoch, UTC; 0.0: not by itself.
    until: float = 0.0

    def line(self) -> str:
        """Return the person's line of the file."""
        ends = f" until={time.strftime(_TIME, time.gmtime(self.until))}" if self.until else ""
        return f"{self.name} {self.key} roles={','.join(role for role in ROLES if role in self.roles)}{ends}"


NOBODY: frozenset[str] = frozenset()


class People:
    """The people of a service.

    Parameters
    ----------
    folder
        State folder of the service.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "authorized_users"
        self._pending = folder / "access_requests"
        self._stamp: tuple[int, int, int] = (-1, -1, -1)
        self._people: dict[str, Person] = {}
        self._taken: set[str] = set()
        #: Lines that could not be read, as (number, line).
        self.bad: list[tuple[int, str]] = []

    def _read(self) -> None:
        try:
            found = os.stat(self.path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        if stamp == self._stamp:
            return
        people: dict[str, Person] = {}
        bad: list[tuple[int, str]] = []
        text = self.path.read_text(errors="replace") if stamp != (0, 0, 0) else ""
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            person = _person(line)
            if person is None:
                bad.append((number, line[:200]))
            else:
                people[person.key] = person
        for key, person in self._people.items():
            if key not in people or person.roles - people[key].roles:
                self._taken.add(key)
        self._stamp, self._people, self.bad = stamp, people, bad

    def taken(self) -> set[str]:
        """Return, once, the keys that have lost a role since the last call."""
        self._read()
        found, self._taken = self._taken, set()
        return found

    def roles(self, key: str) -> frozenset[str]:
        """Return what the holder of this key may do, as the file says at this moment."""
        self._read()
        person = self._people.get(key)
        return NOBODY if person is None or 0 < person.until < time.time() else person.roles

    def name(self, key: str) -> str:
        """Return the name of the holder of this key, or its fingerprint."""
        self._read()
        person = self._people.get(key)
        return fingerprint(key) if person is None else person.name

    def all(self) -> list[Person]:
        """Return everybody, in the order of the file."""
        self._read()
        return list(self._people.values())

    # -- changes

    def add(self, name: str, key: str, roles: Iterable[str]) -> Person:
        """Add a person, or replace the line of the same key.

        Raises
        ------
        BadOption
            The key or the name is none, or a role is unknown.
        """
        if not _NAME.fullmatch(name):
            raise BadOption(f"{name!r} is no name for a user: letters, digits and . _ @ + - (at most 64).")
        from_z85(key)
        wanted = frozenset(role.strip() for role in roles if role.strip())
        for role in sorted(wanted - set(ROLES)):
            raise UnknownName(f"there is no role {role!r}.", name=role, known=ROLES)
        person = Person(name, key, wanted)
        self._write([*(other for other in self.all() if other.key != key), person])
        self._forget(key)
        return person

    def remove(self, name: str) -> list[Person]:
        """Remove a person by name or key and return what was removed.

        Raises
        ------
        UnknownName
            There is nobody of that name.
        """
        gone = [person for person in self.all() if name in (person.name, person.key)]
        if not gone:
            raise UnknownName(f"there is no user {name!r}.", name=name, known=[person.name for person in self.all()])
        self._write([person for person in self.all() if person not in gone])
        return gone

    def rotate(self, old: str, new: str) -> Person:
        """Let ``new`` be another key of the holder of ``old``, which ends in seven days; return the line that ends.

        The same exchange a second time changes nothing.

        Raises
        ------
        NotAuthorised
            The old key has no rights here.
        BadOption
            The new key is none, or somebody else's.
        """
        from_z85(new)
        people = {person.key: person for person in self.all()}
        mine, other = people.get(old), people.get(new)
        if mine is None or not self.roles(old):
            raise NotAuthorised("the key that is to be exchanged has no rights here.")
        if other is not None and (other.name != mine.name or other.until):
            raise BadOption(f"the key {new} is known here already, and cannot be the new one of {mine.name}.")
        if other is None or not mine.until:
            ends = min(mine.until or float("inf"), time.time() + OVERLAP_S)
            mine = Person(mine.name, old, mine.roles, ends)
            kept = [person for person in people.values() if person.key not in (old, new)]
            self._write([*kept, Person(mine.name, new, mine.roles), mine])
            self._forget(new)
        return mine

    def _write(self, people: list[Person]) -> None:
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(part, "w") as file:
            file.write("# name KEY roles=read,submit,upload,admin\n")
            file.writelines(person.line() + "\n" for person in people)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o600)
        part.replace(self.path)
        self._stamp = (-1, -1, -1)

    # -- those who asked

    def ask(self, key: str, name: str, reason: str, address: str = "") -> None:
        """Note that the holder of a key wants to be let in (the newest requests are kept, one per key)."""
        found = {item["key"]: item for item in self.pending()}
        found.pop(key, None)
        note = {"key": key, "name": _plain(name, 64), "reason": _plain(reason, 300), "address": _plain(address, 100)}
        found[key] = {**note, "time": time.time()}
        self._keep(list(found.values())[-PENDING:])

    def pending(self) -> list[dict[str, str | float]]:
        """Return the requests for access, the oldest first."""
        try:
            found = json.loads(self._pending.read_text())
        except (OSError, ValueError):
            return []
        return [item for item in found if isinstance(item, dict) and "key" in item] if isinstance(found, list) else []

    def _forget(self, key: str) -> None:
        left = [item for item in self.pending() if item["key"] != key]
        if len(left) != len(self.pending()):
            self._keep(left)

    def _keep(self, items: list[dict[str, str | float]]) -> None:
        part = self._pending.with_name(f".{self._pending.name}.{os.getpid()}")
        part.write_text(json.dumps(items))
        part.replace(self._pending)


def _person(line: str) -> Person | None:
    words = line.split()
    if not 3 <= len(words) <= 4 or not words[2].startswith("roles=") or not _NAME.fullmatch(words[0]):
        return None
    try:
        from_z85(words[1])
        until = float(timegm(time.strptime(words[3], f"until={_TIME}"))) if len(words) == 4 else 0.0
    except (BadOption, ValueError):
        return None
    roles = frozenset(role for role in words[2].removeprefix("roles=").split(",") if role)
    return Person(words[0], words[1], roles, until) if roles <= set(ROLES) else None


def _plain(text: str, most: int) -> str:
    return "".join(char for char in text if char.isprintable())[:most]
