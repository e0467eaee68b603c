"""An aligned table, cut to the width of the terminal.

Columns that matter least go first where there is no room, then the one column that may shrink is cut with an ellipsis.
A table of rows is text, not colour: colour is put around cells after they were measured.

Does not print and knows nothing of jobs. Who may come in: the verbs. Rule: no line is ever longer than the width given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trun.cli.text import Paint, cut, line, width

GAP = 2
#: The column that shrinks stays as wide as this as long as others can go instead; no other gets narrower than FLOOR.
LEAST = 16
FLOOR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: how it is headed and what becomes of it where there is no room."""

    head: str
    #: Numbers and times stand to the right.
    right: bool = False
    #: Columns with a higher figure go first; 0: never.
    drop: int = 0
    #: May be cut before others go; at most one column of a table.
    shrinks: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a colour."""

    text: str
    colour: str = ""


def render(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, paint: Paint) -> list[str]:
    """Return the lines of a table, headings first, within ``paint.columns`` (None: as wide as it needs).

    Columns that are empty in every row are left out.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    texts = [[line(cell.text) for cell in row] for row in cells]
    shown = [i for i in range(len(columns)) if any(row[i] for row in texts)]
    widths = {i: max([width(columns[i].head), *(width(row[i]) for row in texts)]) for i in shown}
    if paint.columns is not None:
        _fit(columns, widths, paint.columns)
    if not widths:
        return []
    lines = [_line([(columns[i].head, columns[i].right, "grey", room) for i, room in widths.items()], paint)]
    for row, text in zip(cells, texts, strict=True):
        lines.append(_line([(text[i], columns[i].right, row[i].colour, room) for i, room in widths.items()], paint))
    return lines


def _excess(widths: dict[int, int], limit: int) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1) - limit


def _fit(columns: Sequence[Column], widths: dict[int, int], limit: int) -> None:
    """Drop columns, then shrink, until a row fits into ``limit`` columns of the terminal; changes ``widths``."""
    soft = next((i for i in widths if columns[i].shrinks), -1)
    spare = max(0, widths.get(soft, 0) - LEAST)
    while _excess(widths, limit) > spare:
        droppable = [i for i in widths if columns[i].drop]
        if not droppable:
            break
        del widths[max(droppable, key=lambda i: columns[i].drop)]
    if soft in widths and _excess(widths, limit) > 0:
        widths[soft] = max(FLOOR, widths[soft] - _excess(widths, limit))
    while _excess(widths, limit) > 0 and widths:
        widest = max(widths, key=lambda i: widths[i])
        if len(widths) == 1:
            widths[widest] = max(1, limit)
            break
        if widths[widest] > FLOOR:
            widths[widest] = max(FLOOR, widths[widest] - _excess(widths, limit))
        else:
            del widths[max(widths)]


def _line(parts: Sequence[tuple[str, bool, str, int]], paint: Paint) -> str:
    made = []
    for text, right, colour, room in parts:
        shown = cut(text, room)
        blanks = " " * (room - width(shown))
        made.append(blanks + paint(shown, colour) if right else paint(shown, colour) + blanks)
    return (" " * GAP).join(made).rstrip()
