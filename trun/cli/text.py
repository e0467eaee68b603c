"""Words for the terminal: states with icon and colour, durations, and text that can do no harm there.

Whatever a job wrote (names, reasons, logs, replies) goes through ``plain`` before it is printed: escape sequences,
control characters and marks that turn the direction of writing are taken out. Colour is an addition to icon and word,
never the only sign; it is left out where the output is no terminal, where ``NO_COLOR`` is set, and for ``TERM=dumb``.

Does not print and does not know services. Who may come in: the verbs. Rule: a state has one look, and it stands here.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import unicodedata
from typing import TextIO

#: {state: (icon, colour)}; every icon is one column wide.
LOOKS = {
    "new": ("·", "grey"),
    "held": ("‖", "yellow"),
    "waiting": ("◷", "yellow"),
    "queued": ("◔", "cyan"),
    "running": ("▶", "blue"),
    "lost": ("?", "magenta"),
    "unknown": ("~", "magenta"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "aborted": ("■", "red"),
    "cancelled": ("⊘", "magenta"),
    "skipped": ("↷", "grey"),
}
#: Marks of an explanation and of ``doctor``, coloured where they stand.
MARKS = {"✓": "green", "○": "yellow", "✗": "red", "⊘": "magenta", "◀": "yellow"}

#: Columns that must be left beside the branches of a tree for folding to make sense.
LEAST_FOLDED = 16

_CODES = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "grey": 90, "bold": 1}
#: Terminal sequences as wholes (CSI, OSC and other strings, two-character escapes), so that no rest of them stays.
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
)
#: C0 and C1 controls but newline and tab, delete, line separators, direction marks, and the byte order mark.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def plain(text: str) -> str:
    """Return text without anything that a terminal would obey; newlines and tabs stay, a lone return is a newline."""
    if text.isascii() and text.isprintable():
        return text
    return CONTROLS.sub("", _SEQUENCES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def line(text: str) -> str:
    """Return text as one harmless line: breaks and tabs become single blanks."""
    return " ".join(plain(text).split())


def width(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """Return the text, or as much of it as fits before an ellipsis."""
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    kept, room = [], columns - 1
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


#: What the lines of a tree begin with, and what stands below each where a line goes on.
_BRANCHES = str.maketrans("├└", "│ ")
_MARKS = re.compile(r"[│├└ ]*(?:[✓○✗⊘·] )?")


def folded(text: str, columns: int | None) -> list[str]:
    """Return a line of an explanation as lines that fit; what goes on stands below its text, and branches go on."""
    if columns is None or width(text) <= columns:
        return [text]
    head = _MARKS.match(text)
    assert head is not None
    below = head[0].translate(_BRANCHES)
    below = re.sub("[^│ ]", " ", below) + ("" if head[0] else "  ")
    if columns - width(below) < LEAST_FOLDED:
        return [text]
    lines: list[str] = []
    first, *rest = text[head.end() :].replace("  ◀ ", "  ◀\u00a0").split(" ")
    now = head[0] + first
    for word in rest:
        if width(f"{now} {word}") > columns:
            lines.append(now.rstrip())
            now = below + word
        else:
            now += f" {word}"
    return [each.replace("\u00a0", " ") for each in (*lines, now)]


def duration(seconds: float | None) -> str:
    """Return a span as people read it: ``0.4 s``, ``0:42``, ``1:02:03``, ``3 d 4 h``; empty for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds + 0.5)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours}:{minutes % 60:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}"


def clock(when: float | None, *, now: float | None = None) -> str:
    """Return a time of today as ``11:02:07``, another as ``2026-11-20 23:01``, in local time; empty for None."""
    if not when:
        return ""
    there, here = time.localtime(when), time.localtime(now)
    if there[:3] == here[:3]:
        return time.strftime("%H:%M:%S", there)
    return time.strftime("%Y-%m-%d %H:%M", there)


def ago(seconds: float) -> str:
    """Return how long ago something was: ``42 s ago``, ``3 min ago``, ``2 h ago``, ``5 d ago``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def count(number: int, noun: str) -> str:
    """Return ``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Paint:
    """Colours for one output, or none."""

    def __init__(self, stream: TextIO) -> None:
        self.terminal = stream.isatty()
        self.on = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        #: Columns to keep within; None where lines may be as long as they like.
        self.columns = columns_of(self.terminal)

    def __call__(self, text: str, colour: str) -> str:
        """Return text in a colour, or as it is."""
        if not self.on or not text or colour not in _CODES:
            return text
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"

    def state(self, state: str) -> str:
        """Return icon and word of a state, in its colour."""
        icon, colour = look(state)
        return self(f"{icon} {state}", colour)

    def marks(self, text: str) -> str:
        """Return an explanation with its marks coloured."""
        if not self.on:
            return text
        return "".join(self(character, MARKS[character]) if character in MARKS else character for character in text)


def look(state: str) -> tuple[str, str]:
    """Return icon and colour of a state."""
    return LOOKS.get(state, ("·", "grey"))


def columns_of(terminal: bool) -> int | None:
    """Return the columns to keep within: ``COLUMNS``, else the terminal's; None for a file or a pipe."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return shutil.get_terminal_size((80, 24)).columns if terminal else None
