"""What a stranger to the service's owner may bring in: names, files, jobs of others, what happened elsewhere.

Pure questions over the machine that raise the error which the gate hands on. Who may come in: the gate.
Rule: a name that comes from outside may become a part of a path, so it is a plain word; a job of somebody else is
neither waited for nor joined without the role read, nor spoken for by anybody.
"""

from __future__ import annotations

import re

from trun.conditions import wire
from trun.conditions.atoms import JobAtom
from trun.core.machine import Machine
from trun.errors import BadOption, NotAuthorised, TrunError, UnknownName
from trun.messages import Blob, GroupSpec, JobSpec, Payload

_WORD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
#: Atoms that live in a client; all others are watched by the service itself.
_CLIENTS = ("atom:", "level:")


def need_word(name: str, what: str) -> str:
    """Return a name that is safe in paths and tables; refuse others."""
    if _WORD.fullmatch(name) is None:
        raise BadOption(f"{what} has letters, digits and _ . - (at most 128), unlike {name[:40]!r}.")
    return name


def is_own(machine: Machine, user: str, uid: str) -> bool:
    """Whether this is a job of the user, or a group of their jobs alone."""
    record = machine.records.get(uid)
    if record is not None:
        return record.spec.owner == user
    return uid in machine.groups and not _is_of_others(machine, user, uid)


def _is_of_others(machine: Machine, user: str, group: str) -> bool:
    found = machine.groups.get(group)
    return found is not None and not found.owners <= {user}


def check_group(machine: Machine, user: str, group: GroupSpec) -> None:
    """Refuse to change a group that has members of somebody else."""
    need_word(group.uid, "the uid of a group")
    if _is_of_others(machine, user, group.uid):
        raise NotAuthorised(f"the group {group.name} belongs to somebody else.")


def check_spec(machine: Machine, user: str, spec: JobSpec, *, sees_all: bool) -> None:
    """Refuse a job that claims, joins or takes what is somebody else's."""
    records = machine.records
    need_word(spec.uid, "the uid of a job")
    before = records.get(spec.uid)
    if before is not None and before.spec.owner != user:
        raise NotAuthorised(f"the uid or the key of {spec.name} belongs to a job of somebody else; choose another.")
    keyed = records.get(machine.book.keys.get(spec.key, "")) if spec.key else None
    if keyed is not None and keyed.spec.owner != user:
        raise NotAuthorised(f"the key of {spec.name} belongs to a job of somebody else; choose another.")
    if spec.isolation == "inline":
        raise NotAuthorised('isolation="inline" is for local services.')
    if spec.group and _is_of_others(machine, user, spec.group):
        raise NotAuthorised(f"the group of {spec.name} belongs to somebody else.")
    parent = records.get(spec.parent) if spec.parent else None
    if parent is not None and parent.spec.owner != user:
        raise NotAuthorised(f"{spec.name} claims to come from a job of somebody else.")
    for origin in spec.origins:
        if origin.address and not (origin.address.startswith("tcp://") and origin.key):
            raise NotAuthorised(
                f"{spec.name} waits for a service at {origin.address[:100]}: a service hears others over tcp with "
                "their key alone, never as its own user."
            )
    _refuse_foreign_files(spec)
    if not sees_all:
        _refuse_foreign_jobs(machine, user, spec)


def installs(spec: JobSpec) -> bool:
    """Whether a job brings code for the jobs after it."""
    return spec.kind == "install" or spec.package is not None


def _refuse_foreign_files(spec: JobSpec) -> None:
    """Files of the service are named by chance; a name that is a path is an attack."""
    payload: Payload | None = spec.call.arguments if spec.call is not None else None
    if payload is None:
        return
    for part in (payload.blob, *payload.buffers):
        if isinstance(part, Blob) and _WORD.fullmatch(part.name) is None:
            raise NotAuthorised(f"{spec.name} names a file outside of the service's blobs.")


def _refuse_foreign_jobs(machine: Machine, user: str, spec: JobSpec) -> None:
    """Whoever may not read the jobs of others may not wait for them either, nor take their results."""
    subjects = [*spec.inputs, *spec.choices]
    if spec.when:
        try:
            condition = wire.loads(spec.when)
        except (TrunError, ValueError):
            return  # the machine refuses it with the right words
        leaves = (condition,) if isinstance(condition, JobAtom) else condition.depends
        subjects += [leaf.subject for leaf in leaves if isinstance(leaf, JobAtom)]
    for uid in subjects:
        if (uid in machine.records or uid in machine.groups) and not is_own(machine, user, uid):
            raise UnknownName(f"{spec.name} waits for a job that the service does not show to you.")


def may_set(machine: Machine, user: str, key: str) -> bool:
    """Whether an atom is one that lives in clients, and no unfinished job of somebody else waits for it."""
    if not key.startswith(_CLIENTS) or len(key) > 200:
        return False
    records = machine.records
    name = key.partition(":")[2]
    return not any(records[uid].spec.owner != user for uid in machine.book.mentioning(name))


def is_early(machine: Machine, key: str) -> bool:
    """Whether no unfinished job waits for an atom that lives in clients."""
    return not machine.book.mentioning(key.partition(":")[2])
