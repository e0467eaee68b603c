"""The door: what of a submission is new, and whether all of it can be accepted.

A batch is accepted as a whole or not at all, and checking changes nothing, so what is refused leaves no trace. Refused
are options that make no sense, unknown jobs, groups and resources, conditions that can never hold, circles, and a
uid or key that stands for other content already. A job that was accepted before with equal content is no news.

Rule: each fault is one error that names the job, the fault and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from trun.conditions import check
from trun.conditions.algebra import Condition
from trun.conditions.atoms import MESSAGE_KINDS, JobAtom, WorldAtom
from trun.conditions.resolver import Resolver
from trun.core.book import Book
from trun.core.groups import Groups
from trun.core.ready import ROUNDING, Ledger
from trun.core.wants import condition_of
from trun.errors import BadOption, CycleError, KeyConflict, NeverCondition, UnknownName, nearest
from trun.messages import GroupSpec, JobSpec, Submit

#: Streams that are no job.
RESERVED = frozenset({"condition", "service", ""})
#: Characters.
LONGEST_UID = 200
#: Longer wire forms are not written out in ``Submitted``.
SHOWN_BYTES = 2000
#: Jobs of a circle that are named.
SHOWN_STEPS = 20
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("call", "first", "fetch", "install"),
    "on_never": ("cancel", "hold", "skip", "run"),
    "isolation": ("worker", "fresh", "inline"),
    "losers": ("unneeded", "all", "none"),
}
#: What nearly every job chooses; compared at once.
_USUAL = ("call", "cancel", "worker", "unneeded")


class Gate(NamedTuple):
    """A condition that was read and checked, and how it is shown."""

    condition: Condition
    text: str


class Door:
    """Checks submissions against what the service has."""

    def __init__(self, *, book: Book, groups: Groups, ledger: Ledger, resolver: Resolver, service_key: str) -> None:
        self._book = book
        self._groups = groups
        self._ledger = ledger
        self._resolver = resolver
        self._service_key = service_key
        self._last: tuple[bytes, str, Gate] | None = None
        self._purse = check.Purse()

    def check(self, message: Submit) -> list[tuple[JobSpec, Gate | None]]:
        """Return the new jobs with their conditions; raise ``UsageError`` where something cannot be accepted."""
        if len(message.specs) == 1 and not message.groups and self._is_plain(message.specs[0]):
            _check_options(message.specs[0])
            return [(message.specs[0], None)]
        self._purse = check.Purse()
        fresh: list[tuple[JobSpec, Gate | None]] = []
        uids: dict[str, JobSpec] = {}
        named: dict[str, JobSpec] = {}  # by uid, and by key after a colon, which no uid has
        for spec in message.specs:
            if not self.is_known(spec, named):
                uids[spec.uid] = named[spec.uid] = spec
                if spec.key:
                    named.setdefault(f":{spec.key}", spec)
        groups = {group.uid: group for group in message.groups}
        for group in message.groups:
            self._check_group(group, uids)
        for spec in uids.values():
            _check_options(spec)
            if spec.resources:
                self._check_resources(f"{spec.name} wants", spec.resources)
            if spec.group:
                self._check_member(spec, groups)
            gate = None
            if spec.when or spec.inputs or spec.choices:
                gate = self._gate(spec)
                self._check_gate(spec, gate.condition, uids, groups)
            fresh.append((spec, gate))
        if any(gate is not None for _, gate in fresh):
            self._refuse_circles(fresh, groups)
        return fresh

    def _is_plain(self, spec: JobSpec) -> bool:
        """Whether a job is new and names nothing that would have to be there: most are, and need no further look."""
        return not (
            (spec.when or spec.inputs or spec.choices or spec.key or spec.group or spec.resources)
            or spec.uid in self._book.records
        )

    def is_known(self, spec: JobSpec, batch: dict[str, JobSpec]) -> bool:
        """Whether the job was accepted before; other content under the same uid or key is refused."""
        records = self._book.records
        known = records[spec.uid].spec if spec.uid in records else batch.get(spec.uid)
        if known is None and spec.key:
            uid = self._book.keys.get(spec.key)
            known = records[uid].spec if uid is not None else None
            known = known or batch.get(f":{spec.key}")
        if known is None:
            return False
        equal = (spec.key, spec.digest) == (known.key, known.digest) if spec.key or known.key else spec == known
        if not equal:
            what = f"key {spec.key!r}" if spec.key else f"uid {spec.uid!r}"
            name = records[known.uid].id if known.uid in records else known.name
            raise KeyConflict(f"{what} was used for {name} with other content; choose another.")
        self._book.counters["duplicate"] += 1
        return True

    # -- one job by itself

    def _check_resources(self, who: str, wanted: Mapping[str, float]) -> None:
        limits = self._ledger.limits
        for name, amount in wanted.items():
            if name not in limits:
                have = ", ".join(sorted(limits)) or "none"
                raise UnknownName(
                    f"{who} resource {name!r}; the service has {have}. Give it with local(resources={{{name!r}: ...}}) "
                    f"or `trun service start --resources {name}=...`.",
                    name=name,
                    known=limits,
                )
            if not amount >= 0:
                raise BadOption(f"{who} {amount!r} of resource {name!r}; an amount is at least 0.")
            if amount > limits[name] + ROUNDING:
                raise BadOption(
                    f"{who} {amount:g} of resource {name!r}, more than the {limits[name]:g} there are; "
                    "it could never run."
                )

    def _check_group(self, group: GroupSpec, uids: dict[str, JobSpec]) -> None:
        if group.uid in RESERVED or ":" in group.uid or group.uid in self._book.records or group.uid in uids:
            raise BadOption(f"group {group.name} needs a uid of its own, not {group.uid!r}.")
        if group.total is not None and group.total < 0:
            raise BadOption(f"group {group.name} cannot have {group.total} members.")
        self._groups.check(group)

    def _check_member(self, spec: JobSpec, groups: dict[str, GroupSpec]) -> None:
        known = self._groups.get(spec.group)
        if spec.group in groups:
            return
        if known is None:
            raise UnknownName(f"{spec.name} belongs to a group that this service does not know ({spec.group!r}).")
        total = known.spec.total
        if total is not None and len(known.members) >= total:
            raise BadOption(f"{spec.name} cannot join group {known.spec.name}: its {total} members are there already.")

    # -- its condition

    def _gate(self, spec: JobSpec) -> Gate:
        """Return the condition of a job, read once where many jobs in a row share it."""
        if spec.when and self._last is not None and self._last[:2] == (spec.when, spec.owner):
            return self._last[2]
        condition = condition_of(spec, self._service_key)
        assert condition is not None
        if spec.on_never == "cancel":
            reason = check.never_reason(condition, self._purse)
            if reason:
                raise NeverCondition(f"the condition of {spec.name} can never hold: {reason}")
        if len(spec.when) <= SHOWN_BYTES:
            text = str(condition)
        else:
            text = f"a condition over {len(condition.depends)} atoms"
        gate = Gate(condition, text)
        if spec.when:
            self._last = (spec.when, spec.owner, gate)
        return gate

    def _check_gate(
        self, spec: JobSpec, condition: Condition, uids: dict[str, JobSpec], groups: dict[str, GroupSpec]
    ) -> None:
        records = self._book.records
        for leaf in (condition,) if isinstance(condition, JobAtom) else condition.depends:
            if isinstance(leaf, JobAtom):
                subject = leaf.subject
                if subject in records or subject in uids:
                    if leaf.what == "reached":
                        raise BadOption(f"{spec.name} waits for {leaf}: a share is reached by a group, not by one job.")
                elif subject in groups or subject in self._groups:
                    if leaf.what in MESSAGE_KINDS:
                        raise BadOption(f"{spec.name} waits for {leaf}: that is said of one job, not of a group.")
                elif leaf.service_key in ("", self._service_key):
                    raise self._unknown(spec, leaf, uids)
            elif isinstance(leaf, WorldAtom) and leaf.what == "free":
                self._check_resources(f"{spec.name} waits for", {leaf.target: leaf.amount})

    def _unknown(self, spec: JobSpec, leaf: JobAtom, uids: dict[str, JobSpec]) -> UnknownName:
        label = leaf.label or leaf.subject
        records = list(self._book.records.values())
        names = {record.spec.name for record in records[-1000:]} | {other.name for other in uids.values()}
        return UnknownName(
            f"{spec.name} waits for the job {label!r}, which this service does not know; submit that one first.",
            name=label,
            known=names - {label},
        )

    # -- circles

    def _refuse_circles(
        self, fresh: Sequence[tuple[JobSpec, Gate | None]], groups: Mapping[str, GroupSpec]
    ) -> None:
        """Refuse jobs that wait for one another in a circle, also through their groups; iterative."""
        if len(fresh) == 1 and not fresh[0][0].group:
            spec, gate = fresh[0]
            if gate is not None and spec.uid in _subjects(gate.condition):
                raise CycleError(f"{spec.name} waits for itself.")
            return
        members: dict[str, list[str]] = {}
        for spec, _ in fresh:
            if spec.group:
                members.setdefault(spec.group, []).append(spec.uid)
        waits = {spec.uid: _subjects(gate.condition) for spec, gate in fresh if gate is not None}
        names = {spec.uid: spec.name for spec, _ in fresh} | {uid: group.name for uid, group in groups.items()}
        # A job accepted before can wait for a new one only through a group that is still open.
        through_open = any(group in self._groups and self._resolver.wanted(group) for group in members)
        done: set[str] = set()
        for start in waits:
            path: dict[str, None] = {}
            stack: list[tuple[str, bool]] = [(start, False)]
            while stack:
                uid, leaving = stack.pop()
                if leaving:
                    path.popitem()
                    done.add(uid)
                elif uid in path:
                    raise CycleError(self._circle(list(path), uid, names))
                elif uid not in done:
                    path[uid] = None
                    stack.append((uid, True))
                    stack.extend((other, False) for other in self._next(uid, waits, members, through_open))

    def _next(
        self, uid: str, waits: Mapping[str, Iterable[str]], members: Mapping[str, list[str]], through_open: bool
    ) -> Iterator[str]:
        yield from waits.get(uid, ())
        yield from members.get(uid, ())
        if through_open and uid not in waits and uid in self._book.records and uid in self._resolver:
            yield from self._resolver.subjects_of(uid)

    def _circle(self, path: list[str], uid: str, names: dict[str, str]) -> str:
        def name(one: str) -> str:
            if one in self._groups:
                return self._groups[one].spec.name
            return self._book.records[one].id if one in self._book.records else names.get(one, one)

        steps = [*path[path.index(uid) :], uid]
        if len(steps) > SHOWN_STEPS:
            ends = SHOWN_STEPS // 2
            left, right = map(name, steps[:ends]), map(name, steps[-ends:])
            return (
                f"{len(steps) - 1} jobs wait for one another in a circle: "
                f"{' -> '.join(left)} -> ... -> {' -> '.join(right)}"
            )
        return f"these jobs wait for one another in a circle: {' -> '.join(map(name, steps))}"


def _subjects(condition: Condition) -> list[str]:
    if isinstance(condition, JobAtom):
        return [condition.subject]
    return [leaf.subject for leaf in condition.depends if isinstance(leaf, JobAtom)]


def _check_choices(spec: JobSpec) -> None:
    for option, allowed in _CHOICES.items():
        value = getattr(spec, option)
        if value not in allowed:
            hint = nearest(value, allowed)
            raise BadOption(f"{spec.name}: {option} is one of {', '.join(allowed)}, not {value!r}.{hint}")


def _check_options(spec: JobSpec) -> None:
    """Refuse options that make no sense; the doors check them too, but not everybody comes through a door."""
    if spec.uid in RESERVED or ":" in spec.uid or len(spec.uid) > LONGEST_UID:
        raise BadOption(
            f"{spec.name[:100]} needs a uid that is no reserved word and has no colon and at most {LONGEST_UID} "
            f"characters, not {spec.uid[:100]!r}."
        )
    if (spec.kind, spec.on_never, spec.isolation, spec.losers) != _USUAL:
        _check_choices(spec)
    if spec.retries < 0 or not (spec.retry_delay >= 0 and isfinite(spec.retry_delay)):
        raise BadOption(f"{spec.name}: retries and retry_delay are at least 0, not {spec.retries}, {spec.retry_delay}.")
    if not (spec.backoff > 0 and isfinite(spec.backoff) and isfinite(spec.priority)):
        raise BadOption(f"{spec.name}: backoff is above 0 and priority a number, not {spec.backoff}, {spec.priority}.")
    if (spec.timeout is not None and not spec.timeout > 0) or (spec.memory is not None and spec.memory <= 0):
        raise BadOption(f"{spec.name}: timeout and memory are above 0, not {spec.timeout}, {spec.memory}.")
    if (spec.kind == "install") is (spec.package is None):
        raise BadOption(f"{spec.name}: a job of kind 'install', and no other, has a package.")
    if spec.choices and spec.kind != "first":
        raise BadOption(f"{spec.name}: a job of kind 'first', and no other, has choices.")
    if spec.kind == "first":
        if not spec.choices:
            raise BadOption(f"the race {spec.name} has no choices.")
        if spec.hold:
            raise BadOption(f"the race {spec.name} starts nothing that could be held; hold its choices.")
