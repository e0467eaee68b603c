"""Keys and the people of a service: ``trun keygen``, ``trun user add|remove|list``, ``trun request-access``.

People are lines of a file in the service's state folder, which the node reads again whenever it changes; so these verbs
need no running service, but the right to write that file. Who may come in: the command line.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trun.adapters.known import Known, find, known_services
from trun.adapters.people import People, Person
from trun.cli import table
from trun.cli.arguments import Parser, print_json, typed
from trun.cli.text import Paint, line
from trun.errors import ServiceUnavailable, TrunError, UnknownName, UsageError, nearest


def user(words: Sequence[str]) -> int:
    """Run ``trun user add|remove|list``."""
    verbs = {"add": _add, "remove": _remove, "list": _list}
    if not words or words[0] in ("-h", "--help"):
        print("usage: trun user add NAME KEY --roles read,submit,upload,admin --service NAME")
        print("       trun user remove NAME --service NAME")
        print("       trun user list --service NAME --json")
        raise SystemExit(0 if words else 2)
    verb = verbs.get(words[0])
    if verb is None:
        raise UsageError(f"there is no `trun user {words[0]}`.{nearest(words[0], verbs)}")
    return verb(words[1:])


def _people(name: str) -> People:
    known = find(name)
    if not known.folder or not Path(known.folder).is_dir():
        mine = [each.name for each in known_services() if each.folder]
        raise UnknownName(f"service {name!r} was not started here; its operator says who may use it.", known=mine)
    return People(Path(known.folder))


def _add(words: Sequence[str]) -> int:
    parser = Parser("user add", "Let the holder of a key use a service.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("key", metavar="KEY", help="the 40 characters that `trun keygen` prints")
    parser.add_argument("--roles", required=True, metavar="read,submit", help="of: read, submit, upload, admin")
    parser.add_argument("--service", required=True, metavar="NAME")
    options = parser.parse_args(list(words))
    person = _people(options.service).add(options.name, options.key, options.roles.split(","))
    print(person.line())
    return 0


def _remove(words: Sequence[str]) -> int:
    parser = Parser("user remove", "Let a user in no more; open connections are cut within a second.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--service", required=True, metavar="NAME")
    options = parser.parse_args(list(words))
    for person in _people(options.service).remove(options.name):
        print(f"removed {person.line()}")
    return 0


def _list(words: Sequence[str]) -> int:
    parser = Parser("user list", "List who may use a service, and who has asked to.").data()
    parser.add_argument("--service", required=True, metavar="NAME")
    options = parser.parse_args(list(words))
    people = _people(options.service)
    pending = people.pending()
    if options.json:
        users = [
            {"name": one.name, "key": one.key, "roles": sorted(one.roles), "until": one.until or None}
            for one in people.all()
        ]
        print_json({"users": users, "pending": pending})
        return 0
    rows = [[one.name, one.key, ",".join(sorted(one.roles)) or "-", _ends(one)] for one in people.all()]
    heads = [table.Column(head=head) for head in ("NAME", "KEY", "ROLES", "ENDS")]
    for row in table.render(heads, rows, paint=Paint(sys.stdout)):
        print(row)
    for item in pending:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(item.get("time", 0))))
        reason = f": {line(str(item['reason']))}" if item.get("reason") else ""
        print(f"asked {when} by {line(str(item.get('name') or 'somebody'))}{reason}")
        print(f"  {_letting_in(str(item.get('name') or 'NAME'), str(item['key']), options.service)}")
    for number, text in people.bad:
        print(f"line {number} of {people.path} cannot be read and gives nobody anything: {text}")
    return 0


def _letting_in(name: str, key: str, service: str) -> str:
    """Return the command that lets somebody in, for a shell: keys are full of characters that mean something there."""
    return f"trun user add {shlex.quote(line(name))} '{key}' --roles read,submit --service {service}"


def _ends(one: Person) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(one.until)) if one.until else ""


def keygen(words: Sequence[str]) -> int:
    """Run ``trun keygen``: make this user's key where there is none, and print the public half."""
    parser = Parser("keygen", "Make your key (once) and print what to hand to operators.")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    parser.add_argument("--rotate", action="store_true", help="change to a new key, on all services that you know")
    parser.add_argument("--force", action="store_true", help="with --rotate, also where a service cannot be reached")
    options = parser.parse_args(list(words))
    from trun.adapters.agency import public_key
    from trun.adapters.keys import fingerprint, user_key_file

    is_new = options.rotate or not user_key_file().exists()
    told = _rotate(options.force, is_loud=not options.json) if options.rotate and user_key_file().exists() else {}
    mine = public_key()
    facts: dict[str, Any] = {"key": mine, "fingerprint": fingerprint(mine), "file": str(user_key_file()), "new": is_new}
    if options.json:
        print_json({**facts, "services": told} if options.rotate else facts)
    else:
        print(mine)
        print(f"  fingerprint {facts['fingerprint']}; the secret half is in {user_key_file()}, never hand it out")
    return 0


def _rotate(force: bool, *, is_loud: bool) -> dict[str, str]:
    """Exchange this user's key on all known services, and then here; return what became of it, by service."""
    from trun.adapters.agency import running
    from trun.adapters.keys import change_user_keys, next_user_keys, user_key_file, user_keys
    from trun.adapters.passphrases import is_locked

    if running() is not None:
        raise UsageError("an agent holds the present key: `trun agent stop`, and start it again afterwards.")
    if is_locked(user_key_file()):
        raise UsageError("the key has a passphrase: take it off first, with `trun agent lock --set`.")
    old, new = user_keys(), next_user_keys()
    told: dict[str, str] = {}
    missed: dict[str, str] = {}
    for known in known_services():
        try:
            until = _exchange(known, old.public, new.public)
        except (TrunError, OSError) as error:
            missed[known.name] = str(error)
            continue
        if until:
            told[known.name] = time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
    if missed and not force:
        lines = [f"  {name}: {text}" for name, text in missed.items()]
        raise ServiceUnavailable(
            "\n".join(["your key was not changed, since not all services that you know have the new one:", *lines])
            + "\nrun it again later (what was done stays done), `trun service forget` those, or give --force."
        )
    change_user_keys()
    for name, when in told.items() if is_loud else ():
        print(f"{name} has the new key; the old one ends there on {when}")
    for name in missed if is_loud else ():
        print(f"{name} does not have the new key: `trun request-access {name}`")
    return {**told, **dict.fromkeys(missed, "")}


def _exchange(known: Known, old: str, new: str) -> float:
    """Exchange a key on one service and return when the old one ends; 0.0 where nobody needs a key."""
    from trun.remotes import remote_service

    if known.folder:
        people = People(Path(known.folder))
        return people.rotate(old, new).until if people.roles(old) else 0.0
    if known.address.startswith(("ipc:", "ssh:")):
        return 0.0
    service = remote_service(known.name)
    try:
        return float(service.ask("rotate", key=new)["until"])
    finally:
        service.leave_quietly()


def request_access(words: Sequence[str]) -> int:
    """Run ``trun request-access SERVICE REASON``."""
    parser = Parser("request-access", "Ask the operator of a service to let you in.")
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("reason", metavar="REASON", nargs="?", default="")
    options = parser.parse_args(list(words))
    from trun.adapters.agency import own_keys
    from trun.adapters.keys import user_name
    from trun.remotes import knock

    known = find(options.service)
    mine, name = own_keys(typed), user_name()
    knock(known, mine, name=name, reason=options.reason)
    print(f"asked; the operator lets you in with: {_letting_in(name, mine.public, known.name)}")
    return 0
