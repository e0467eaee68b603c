"""Jobs and what stands between them as plain data, for drawings."""

from __future__ import annotations

from typing import Any

from trun.conditions.atoms import JobAtom
from trun.core.book import Book
from trun.core.groups import Groups
from trun.core.wants import condition_of


def graph(book: Book, groups: Groups, uid: str | None) -> dict[str, Any]:
    """Return jobs and their conditions: all of them, or one job and what it waits for, directly or not."""
    chosen = list(book.records) if uid is None else [uid]
    seen: dict[str, None] = {}
    jobs: list[dict[str, Any]] = []
    while chosen:
        current = chosen.pop()
        record = book.records.get(current)
        if current in seen or record is None:
            continue
        seen[current] = None
        spec = record.spec
        condition = condition_of(spec)
        jobs.append(
            {
                "uid": current,
                "id": record.id,
                "state": record.life.state.value,
                "kind": spec.kind,
                "group": spec.group,
                "inputs": list(spec.inputs),
                "choices": list(spec.choices),
                "winner": record.life.winner,
                "condition": condition.to_dict() if condition is not None else None,
            }
        )
        if uid is not None and condition is not None:
            for leaf in condition.depends:
                if isinstance(leaf, JobAtom):
                    group = groups.get(leaf.subject)
                    chosen.extend([leaf.subject] if group is None else group.members)
    jobs.sort(key=lambda job: book.records[job["uid"]].life.number)
    return {"jobs": jobs, "groups": sorted(groups) if uid is None else []}
