"""Tables keep within the terminal, whatever stands in them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.cli.listing import COLUMNS, job_table
from trun.cli.table import Cell, Column, render
from trun.cli.text import Paint, plain, width


def paint(columns: int | None) -> Paint:
    """Return colours (none) for a page of this width."""
    found = Paint(io.StringIO())
    found.columns = columns
    return found


TWO = (Column(head="JOB"), Column(head="N", right=True))


def test_columns_are_aligned_to_their_widest_cell() -> None:
    assert render(TWO, [["a", "1"], ["long#12", "100"]], paint=paint(None)) == [
        "JOB        N",
        "a          1",
        "long#12  100",
    ]


def test_a_column_that_is_empty_everywhere_is_left_out() -> None:
    assert render(TWO, [["a", ""], ["b", ""]], paint=paint(None)) == ["JOB", "a", "b"]


def test_no_rows_are_no_lines() -> None:
    assert render(TWO, [], paint=paint(80)) == []


def test_breaks_and_escapes_in_a_cell_do_not_break_the_row() -> None:
    assert render(TWO, [["a\nb\x1b[2J", "1"]], paint=paint(None))[1] == "a b  1"


def test_colour_does_not_count_as_width() -> None:
    coloured = paint(20)
    coloured.on = True

    lines = render(TWO, [[Cell("fit#7", "red"), "1"], ["x", "2"]], paint=coloured)

    assert "\x1b[31mfit#7\x1b[0m" in lines[1]
    assert [plain(text) for text in lines] == ["JOB    N", "fit#7  1", "x      2"]


@given(
    st.lists(st.lists(st.text(max_size=50), min_size=len(COLUMNS), max_size=len(COLUMNS)), min_size=1, max_size=8),
    st.integers(1, 120),
)
def test_no_line_is_longer_than_the_terminal(rows: list[list[str]], columns: int) -> None:
    assert all(width(text) <= columns for text in render(COLUMNS, rows, paint=paint(columns)))


JOB = {
    "id": "refine#12",
    "state": "waiting",
    "reason": "needs fetch#3.iscompleted [running, 41%]",
    "waited_s": 192.0,
    "ran_s": None,
    "started": None,
    "final": False,
    "progress": 0.0,
    "note": "",
    "error": "",
    "kind": "",
}


def test_forty_columns_still_show_state_job_and_the_begin_of_the_reason() -> None:
    assert job_table([JOB], paint(40)) == [
        "STATE      JOB        REASON",
        "◷ waiting  refine#12  needs fetch#3.isc…",
    ]


def test_a_wide_terminal_shows_all() -> None:
    assert job_table([JOB], paint(100)) == [
        "STATE      JOB        REASON                                    WAITED",
        "◷ waiting  refine#12  needs fetch#3.iscompleted [running, 41%]    3:12",
    ]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"state": "failed", "error": "ValueError: no"}, "ValueError: no"),
        ({"state": "failed", "kind": "poison"}, "poison"),
        ({"state": "running", "note": "epoch 4"}, "epoch 4"),
        ({"state": "cancelled", "reason": "reduce#1 failed"}, "reduce#1 failed"),
        ({"state": "completed", "reason": "old"}, ""),
    ],
)
def test_each_state_has_its_own_reason(facts: dict[str, str], reason: str) -> None:
    cells = job_table([{**JOB, **facts}], paint(None))[1]

    assert reason in cells
    assert ("old" in cells) is False
