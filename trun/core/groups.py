"""Groups: families of jobs that are one atom, counted as their members end.

A group is open until its number of members is known. What conditions hear of it is one event, ``Counted``, whatever its
size. Rule: a count is made from the counters here, never by looking at the members.
"""

from __future__ import annotations

from trun.core.record import JobState
from trun.errors import BadOption, KeyConflict
from trun.messages import Counted, GroupSpec

#: A group that somebody waits for says how far it is at most so many times, and at each bad end.
STEPS = 100


class Group:
    """One family and its counters."""

    __slots__ = ("_told", "counts", "first_bad", "members", "owners", "spec")

    def __init__(self, spec: GroupSpec) -> None:
        self.spec = spec
        self.members: list[str] = []
        #: Users whose jobs are, or were, among its members.
        self.owners: set[str] = set()
        self.counts = dict.fromkeys(("completed", "failed", "aborted", "cancelled", "skipped"), 0)
        #: uid of the first member that ended badly.
        self.first_bad = ""
        self._told: tuple[int, int] = (-1, -1)

    @property
    def over(self) -> int:
        """How many members have ended."""
        return sum(self.counts.values())

    @property
    def is_over(self) -> bool:
        """Whether all members are known and have ended."""
        return self.spec.total is not None and self.over >= self.spec.total

    def close(self, total: int | None) -> None:
        """Learn the number of members."""
        if total is None or total == self.spec.total:
            return
        self.spec = GroupSpec(self.spec.uid, self.spec.name, total)

    def count(self, uid: str, state: JobState, step: int = 1) -> None:
        """Count a member that ended in this state; ``step=-1`` takes it back for a new run."""
        self.counts[state.value] += step
        if step > 0 and not self.first_bad and state not in (JobState.COMPLETED, JobState.SKIPPED):
            self.first_bad = uid
        elif step < 0 and self.first_bad == uid:
            self.first_bad = ""

    def counted(self) -> Counted:
        """Return the counts as an event."""
        total = self.spec.total
        return Counted(
            total=len(self.members) if total is None else total,
            closed=total is not None,
            **self.counts,
        )

    def has_news(self) -> bool:
        """Whether so much has changed since it was told last that it should be told again."""
        over, counts = self.over, self.counts
        bad = over - counts["completed"]
        told_over, told_bad = self._told
        total = self.spec.total or len(self.members)
        if not self.is_over and bad == told_bad and over - told_over < max(1, total // STEPS):
            return False
        self._told = (over, bad)
        return True

    def retell(self) -> None:
        """A member runs again: what was told holds no more."""
        self._told = (-1, -1)


class Groups(dict[str, Group]):
    """All groups by uid."""

    def check(self, spec: GroupSpec) -> None:
        """Refuse a group that contradicts what is known of it."""
        known = self.get(spec.uid)
        if known is None or spec.total is None:
            return
        if known.spec.total is not None and known.spec.total != spec.total:
            raise KeyConflict(f"group {spec.name} has {known.spec.total} members, not {spec.total}.")
        if spec.total < len(known.members):
            raise BadOption(f"group {spec.name} has {len(known.members)} members, so it cannot have only {spec.total}.")

    def open(self, spec: GroupSpec) -> Group:
        """Enter a group, or learn the number of its members."""
        group = self.get(spec.uid)
        if group is None:
            group = self[spec.uid] = Group(spec)
        else:
            group.close(spec.total)
        return group

    def join(self, group: str, uid: str, owner: str = "") -> None:
        """Enter a member; a group that is lost from the journal is taken as open."""
        found = self.get(group)
        if found is None:
            found = self[group] = Group(GroupSpec(group, group))
        found.members.append(uid)
        found.owners.add(owner)
