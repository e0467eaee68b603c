"""The versions of packages that a job took, as the tables and explanations show them."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from trun.cli.listing import job_table
from trun.cli.reasons import _lines
from trun.cli.text import Paint


def job(packages: dict[str, str], *, started: float | None = 1.0) -> dict[str, Any]:
    return {
        "id": "fit#1",
        "uid": "u1",
        "state": "completed",
        "final": True,
        "reason": "",
        "error": "",
        "kind": "",
        "root": "",
        "progress": 0.0,
        "started": started,
        "waited_s": 0.0,
        "ran_s": 2.0,
        "packages": packages,
    }


def paint(columns: int | None = None) -> Paint:
    found = Paint(io.StringIO())
    found.columns = columns
    return found


def explained(facts: dict[str, Any], columns: int | None = None) -> list[str]:
    place: Any = SimpleNamespace(live=True, run="r")
    found: Any = SimpleNamespace(source=SimpleNamespace(place=place))
    return _lines({"job": facts, "text": ""}, None, found, paint(columns))


def test_a_table_names_two_versions_and_counts_the_others() -> None:
    head, one, many = job_table([job({"mymodel": "1.5"}), job({"b": "2", "a": "1", "c": "3", "d": "4"})], paint())
    assert head.endswith("WITH")
    assert one.endswith("mymodel 1.5")
    assert many.endswith("a 1, b 2 +2")


def test_a_table_says_nothing_of_versions_where_no_job_took_any() -> None:
    assert "WITH" not in job_table([job({}), job({"mymodel": "1.5"}, started=None)], paint())[0]


def test_the_versions_go_first_where_there_is_no_room() -> None:
    rows = job_table([job({"mymodel": "1.5"})], paint(30))
    assert "RAN" in rows[0]
    assert "mymodel" not in rows[1]


def test_an_explanation_names_all_versions_that_the_job_took() -> None:
    assert explained(job({"b": "2", "a": "1", "c": "3"}))[-1] == "with a 1, b 2, c 3"
    assert len(explained(job({"some-distribution": "1.2.3", "another": "4.5"}), 24)) > 2
    assert not any(text.startswith("with") for text in explained(job({})))
    assert not any(text.startswith("with") for text in explained(job({"a": "1"}, started=None)))


def test_what_a_version_is_called_can_do_no_harm_on_a_terminal() -> None:
    assert "\x1b" not in "".join(explained(job({"a\x1b[2J": "1\n2"})) + job_table([job({"a\x1b[2J": "1"})], paint()))
