"""Groups: families of jobs that are one atom, counted as their members end.

A group is open until its number of members is known; a count is one ``Counted`` event, whatever the size. Pure.
"""

from __future__ import annotations

from collections import Counter

from trun.core.record import JobState
from trun.messages import Counted, GroupSpec


class GroupBook:
    """Which jobs belong to which group, and how many of them ended how."""

    def __init__(self) -> None:
        self._specs: dict[str, GroupSpec] = {}
        self._members: dict[str, list[str]] = {}
        self._ended: dict[str, Counter[JobState]] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._specs

    def open(self, group: GroupSpec) -> None:
        """Take a group, or learn the number of its members."""
        self._specs[group.uid] = group
        self._members.setdefault(group.uid, [])
        self._ended.setdefault(group.uid, Counter())

    def join(self, group: str, uid: str) -> None:
        """A job belongs to a group (which is opened if it is not known)."""
        if group not in self._specs:
            self.open(GroupSpec(group, group))
        self._members[group].append(uid)

    def names(self) -> list[str]:
        """Return the uids of all groups."""
        return list(self._specs)

    def members(self, group: str) -> list[str]:
        """Return the uids of the members, in the order in which they joined."""
        return list(self._members[group])

    def name(self, group: str) -> str:
        """Return the display name."""
        return self._specs[group].name

    def ended(self, group: str, state: JobState) -> None:
        """A member has ended in this state."""
        self._ended[group][state] += 1

    def revived(self, group: str, state: JobState) -> None:
        """A member that had ended in this state runs again."""
        self._ended[group][state] -= 1

    def is_over(self, group: str) -> bool:
        """Whether all members are known and have ended."""
        total = self._specs[group].total
        return total is not None and sum(self._ended[group].values()) >= total

    def counted(self, group: str) -> Counted | None:
        """Return the counts of a group as an event; None where there is no such group."""
        spec = self._specs.get(group)
        if spec is None:
            return None
        ended = self._ended[group]
        return Counted(
            total=spec.total if spec.total is not None else len(self._members[group]),
            closed=spec.total is not None,
            completed=ended[JobState.COMPLETED],
            failed=ended[JobState.FAILED],
            aborted=ended[JobState.ABORTED],
            cancelled=ended[JobState.CANCELLED],
            skipped=ended[JobState.SKIPPED],
        )
