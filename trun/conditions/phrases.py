"""Leaves in plain words, for explanations: ``fetch#3 completes``, ``the file "x.dat" exists``.

Present tense for what is still to come, past for what has been decided. Names come from the caller, who may know
better ones (``fetch#3``) than the leaf itself (``fetch``). Text only; nothing here looks at values.
"""

from __future__ import annotations

from collections.abc import Container

from trun.conditions.algebra import Leaf
from trun.conditions.atoms import JobAtom, Level, WorldAtom
from trun.conditions.causes import Goal
from trun.conditions.timing import After, At, Before, Cron, Deadline, TimeLeaf, instant_words, span_words
from trun.conditions.value import NEVER
from trun.conditions.writing import leaf_text, number_text, subject_text

#: What a job will do, and what it has done or has not.
_VERBS: dict[str, tuple[str, str, str]] = {
    "completed": ("completes", "completed", "did not complete"),
    "failed": ("fails", "failed", "did not fail"),
    "aborted": ("is aborted", "was aborted", "was not aborted"),
    "cancelled": ("is cancelled", "was cancelled", "was not cancelled"),
    "skipped": ("is skipped", "was skipped", "was not skipped"),
    "started": ("starts", "started", "did not start"),
    "queued": ("is queued", "was queued", "was not queued"),
    "ended": ("ends", "ended", "did not run"),
    "finished": ("is over", "is over", "is not over"),
    "ok": ("completes or is skipped", "completed or was skipped", "did not complete"),
    "fetched": ("is fetched", "was fetched", "was not fetched"),
}


def name_and_detail(leaf: Leaf, described: str) -> tuple[str, str]:
    """Take apart what a caller says of a leaf: ``fetch#3``, ``fetch#3.completed`` or ``fetch#3.completed [41 %]``.

    The name is what the leaf is about, the detail what stands in square brackets at the end.
    """
    detail = ""
    if described.endswith("]") and " [" in described:
        described, _, detail = described[:-1].partition(" [")
    if isinstance(leaf, JobAtom):
        for mark in (f".is{leaf.what}", f".{leaf.what}", ".said(", ".improved(", ".reaches(", ".progress "):
            name, found, _ = described.partition(mark)
            if found:
                return name, detail
    return described, detail


def phrase(leaf: Leaf, goal: Goal, name: str = "", shared: Container[str] = ()) -> str:
    """Say what must become of a leaf."""
    if isinstance(leaf, JobAtom):
        return _job_phrase(leaf, goal, name or subject_text(leaf, shared))
    text = leaf_text(leaf, shared, name)
    if goal is Goal.READY:
        return _comes_true(leaf, text)
    if isinstance(leaf, Deadline) and goal in (Goal.DEAD, Goal.LAPSED):
        return f"{span_words(leaf.span_s)} have passed"
    if isinstance(leaf, Before) and goal in (Goal.DEAD, Goal.LAPSED):
        return f"it is {instant_words(leaf.instant)}"
    return {
        Goal.DEAD: f"{text} turns out not to happen",
        Goal.DECIDED: f"{text} is decided",
        Goal.LAPSED: f"{text} stops being true",
        Goal.STAYS: f"{text} has stayed true for long enough",
    }[goal]


def _job_phrase(atom: JobAtom, goal: Goal, name: str) -> str:
    verb = _verbs(atom)[0]
    if goal is Goal.READY:
        return f"{name} {verb}"
    if goal is Goal.DEAD:
        return f"it is certain that {name} never {verb}" if verb != "is over" else f"{name} is never over"
    if goal is Goal.DECIDED:
        return f"it is certain whether {name} {verb}"
    return f"{leaf_text(atom, subject=name)} " + (
        "stops being true" if goal is Goal.LAPSED else "stays true long enough"
    )


def _verbs(atom: JobAtom) -> tuple[str, str, str]:
    argument = atom.argument
    if atom.what == "message":
        return f'says "{argument}"', f'said "{argument}"', f'did not say "{argument}"'
    if atom.what == "result":
        return f"improves to {argument}", f"improved to {argument}", f"did not improve to {argument}"
    if atom.what == "progress":
        return f"reaches {argument:.0%}", f"reached {argument:.0%}", f"did not reach {argument:.0%}"
    if atom.what == "reached":
        return f"reaches {argument}", f"reached {argument}", f"did not reach {argument}"
    return _VERBS[atom.what]


def _comes_true(leaf: Leaf, text: str) -> str:
    if isinstance(leaf, Level):
        return f"{text} holds"
    if isinstance(leaf, WorldAtom):
        target = f'"{leaf.target}"'
        return {
            "exists": f"{target} exists",
            "changed": f"{target} changes",
            "url": f"{target} answers",
            "free": f"{number_text(leaf.amount)} of {leaf.target} are free",
        }[leaf.what]
    if isinstance(leaf, Deadline):
        return f"no more than {span_words(leaf.span_s)} have passed"
    if isinstance(leaf, After):
        return f"{span_words(leaf.span_s)} have passed"
    if isinstance(leaf, Before):
        return f"it is before {instant_words(leaf.instant)}"
    if isinstance(leaf, At):
        return f"it is {instant_words(leaf.instant)}"
    if isinstance(leaf, Cron):
        return f"the next time of {leaf.expression!r} has come"
    return f"{text} becomes true"


def past(leaf: Leaf, goal: Goal, name: str = "", shared: Container[str] = ()) -> str:
    """Say what has become of a leaf."""
    if isinstance(leaf, JobAtom):
        name = name or subject_text(leaf, shared)
        _, did, did_not = _verbs(leaf)
        return f"{name} {did if goal is Goal.READY else did_not if goal is Goal.DEAD else 'is not decided'}"
    text = leaf_text(leaf, shared, name)
    if isinstance(leaf, TimeLeaf) and goal is (Goal.DEAD if leaf.late is NEVER else Goal.READY):
        return leaf.passed()
    if isinstance(leaf, Before | Deadline) and goal is Goal.READY:
        return _comes_true(leaf, text)
    return f"{text} " + (
        "is true" if goal is Goal.READY else "can no longer be true" if goal is Goal.DEAD else "is open"
    )


def duration(seconds: float) -> str:
    """Return a time span for people: ``42 s``, ``5 min``, ``3 h 20 min``, ``12 d``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours // 24} d"
