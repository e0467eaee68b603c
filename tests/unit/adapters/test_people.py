"""The people of a service: lines of a file, and keys that are exchanged for others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.people import OVERLAP_S, PENDING, People
from trun.errors import BadOption, NotAuthorised

OLD, NEW, THIRD = (KeyPair(bytes([number]) * 32).public for number in (1, 2, 3))
ROLES = frozenset({"read", "submit"})


def people(folder: Path) -> People:
    made = People(folder)
    made.add("ann", OLD, ROLES)
    return made


def test_an_exchanged_key_ends_after_seven_days_and_the_new_one_has_its_roles(tmp_path: Path) -> None:
    before = time.time()

    ends = people(tmp_path).rotate(OLD, NEW).until

    again = People(tmp_path)
    assert before + OVERLAP_S - 2 <= ends <= time.time() + OVERLAP_S + 2
    assert (again.roles(OLD), again.roles(NEW), again.name(NEW)) == (ROLES, ROLES, "ann")
    assert [person.until for person in again.all()] == [0.0, float(int(ends))]
    assert again.bad == []


def test_exchanging_twice_changes_nothing(tmp_path: Path) -> None:
    here = people(tmp_path)
    first = here.rotate(OLD, NEW)
    text = here.path.read_text()

    assert int(here.rotate(OLD, NEW).until) == int(first.until)
    assert here.path.read_text() == text


def test_a_key_that_has_ended_gives_nothing(tmp_path: Path) -> None:
    here = people(tmp_path)
    here.path.write_text(f"ann {OLD} roles=read until=2001-01-01T00:00:00Z\nbob {NEW} roles=read until=soon\n")

    assert here.roles(OLD) == frozenset()
    assert here.roles(NEW) == frozenset()
    assert [number for number, _ in here.bad] == [2]
    with pytest.raises(NotAuthorised, match="no rights here"):
        here.rotate(OLD, THIRD)


def test_a_stranger_and_a_key_of_somebody_else_cannot_be_exchanged(tmp_path: Path) -> None:
    here = people(tmp_path)
    here.add("bob", THIRD, ["read"])

    with pytest.raises(NotAuthorised, match="no rights here"):
        here.rotate(NEW, KeyPair(new_seed()).public)
    with pytest.raises(BadOption, match="known here already"):
        here.rotate(OLD, THIRD)
    with pytest.raises(BadOption, match="is no key"):
        here.rotate(OLD, "short")
    assert here.roles(THIRD) == {"read"}


def test_who_has_lost_a_role_is_named_once(tmp_path: Path) -> None:
    ann, bob = (KeyPair(new_seed()).public for _ in range(2))
    people, operator = People(tmp_path), People(tmp_path)
    operator.add("ann", ann, ("read", "submit"))
    operator.add("bob", bob, ("read",))
    assert people.taken() == set()
    operator.remove("ann")
    assert people.taken() == {ann}
    assert people.taken() == set()
    operator.add("bob", bob, ("submit",))
    assert people.taken() == {bob}
    operator.add("bob", bob, ("read", "submit", "admin"))
    assert people.taken() == set()
    people.path.unlink()
    assert people.taken() == {bob}


def test_what_an_editor_writes_holds_at_the_next_look(tmp_path: Path) -> None:
    here = people(tmp_path)
    assert here.roles(NEW) == frozenset()

    here.path.write_text(f"# people\nbob {NEW} roles=read\n")

    assert (here.roles(OLD), here.roles(NEW)) == (frozenset(), {"read"})


@pytest.mark.parametrize(
    "line",
    [
        "bob", f"bob {NEW}", f"bob {NEW} roles=read,root", f"bob {NEW[:-1]} roles=admin",
        f"bob {NEW} roles=read until=soon", f"bob {NEW} roles=read more", f"b*b {NEW} roles=read",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_gives_nobody_anything(tmp_path: Path, line: str) -> None:
    here = people(tmp_path)
    here.path.write_text(f"{line}\n{here.path.read_text()}")

    assert here.roles(NEW) == frozenset()
    assert here.roles(OLD) == ROLES
    assert [found for _, found in here.bad] == [line]


def test_the_newest_requests_are_kept_one_for_each_key_and_harmless_to_read(tmp_path: Path) -> None:
    here = people(tmp_path)
    for number in range(PENDING + 3):
        here.ask(f"key {number}", "eve\x1b[2J\n", "x" * 1000)
    here.ask(f"key {PENDING}", "again", "")

    found = here.pending()
    assert [item["key"] for item in found[:1] + found[-1:]] == ["key 3", f"key {PENDING}"]
    assert len(found) == PENDING
    assert all("\x1b" not in str(item["name"]) and "\n" not in str(item["name"]) for item in found)
    assert max(len(str(item["reason"])) for item in found) <= 300
