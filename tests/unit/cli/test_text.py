"""What may be printed on a terminal, and how wide it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.cli import text
from trun.core.record import JobState


def test_every_state_of_a_job_has_an_icon_one_column_wide() -> None:
    assert set(text.LOOKS) == {state.value for state in JobState}
    assert {text.width(icon) for icon, _ in text.LOOKS.values()} == {1}
    assert len({icon for icon, _ in text.LOOKS.values()}) == len(text.LOOKS)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x1bPdevice\x1b\\control", "control"),
        ("a\x00b\x08c\x7f", "abc"),
        ("10 %\r20 %\r\ndone", "10 %\n20 %\ndone"),
        ("right\u202eleft", "rightleft"),
        ("tab\tnewline\n", "tab\tnewline\n"),
        ("Größe 質量", "Größe 質量"),
        ("\x1bcreset", "reset"),
    ],
)
def test_nothing_that_a_terminal_would_obey_is_printed(raw: str, shown: str) -> None:
    assert text.plain(raw) == shown


@given(st.text())
def test_plain_text_has_no_control_characters_whatever_it_was(raw: str) -> None:
    shown = text.plain(raw)

    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert not any(0x7F <= ord(c) <= 0x9F for c in shown)
    assert text.plain(shown) == shown


@given(st.text(), st.integers(0, 60))
def test_cut_text_is_never_wider_than_asked(raw: str, columns: int) -> None:
    assert text.width(text.cut(text.line(raw), columns)) <= columns


def test_cut_text_ends_in_an_ellipsis_only_where_something_is_missing() -> None:
    assert text.cut("reduce#12", 9) == "reduce#12"
    assert text.cut("reduce#12", 8) == "reduce#…"
    assert text.cut("質量質量", 5) == "質量…"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "0:10"), (61, "1:01"), (3600, "1:00:00"), (90000, "1 d 1 h")],
)
def test_durations_read_like_a_watch(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3, "3 s ago"), (200, "3 min ago"), (7300, "2 h ago"), (2e5, "2 d ago")]
)
def test_the_past_is_told_in_one_unit(seconds: float, shown: str) -> None:
    assert text.ago(seconds) == shown


def test_a_time_of_today_has_no_date() -> None:
    assert len(text.clock(1_000_000_000.0, now=1_000_000_000.0)) == len("11:02:07")
    assert text.clock(1_000_000_000.0, now=1_100_000_000.0).startswith("2001-09-")
    assert text.clock(None) == ""


class Terminal(io.StringIO):
    """An output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    stream: Any, variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    shown = text.Paint(stream).state("failed")

    assert text.plain(shown) == "✗ failed"
    assert ("\x1b" in shown) is coloured


def test_columns_come_from_the_variable_else_from_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert text.Paint(io.StringIO()).columns == 40
    monkeypatch.delenv("COLUMNS")
    assert text.Paint(io.StringIO()).columns is None


def test_a_long_line_of_a_tree_goes_on_below_its_text() -> None:
    assert text.folded("│  └ ⊘ b#2.iscompleted [failed: ValueError: no such curve]  ◀ blocking", 44) == [
        "│  └ ⊘ b#2.iscompleted [failed: ValueError:",
        "│      no such curve]  ◀ blocking",
    ]
    assert text.folded("starts when a completes and b completes", 20) == [
        "starts when a",
        "  completes and b",
        "  completes",
    ]
    assert text.folded("├ ○ one of 2", None) == ["├ ○ one of 2"]
