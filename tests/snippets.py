"""From a page of documentation to a script that can be run.

All ``python`` blocks of a page make one script with one namespace. Every line keeps the number that it has in the page,
so that a traceback points into the page. A block of ``>>>`` lines is a session: its output is compared, as doctest
does it.

Rule: a block is left out only where the line before it says why: ``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SKIP = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block."""

    #: What stands behind the fence, such as "python" or "sh".
    language: str
    #: Line number, from 1, of the first line inside.
    line: int
    #: The lines inside.
    lines: tuple[str, ...]
    #: The page says that it cannot be run.
    skipped: bool

    @property
    def is_session(self) -> bool:
        """Whether it shows prompts and output."""
        return next((line for line in self.lines if line.strip()), "").startswith(">>>")


def blocks(text: str) -> Iterator[Block]:
    """Give the fenced blocks of a page, in order."""
    lines = text.splitlines()
    start: int | None = None
    for index, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = index
            continue
        yield Block(
            language=lines[start].removeprefix("```").strip(),
            line=start + 2,
            lines=tuple(lines[start + 1 : index]),
            skipped=start > 0 and _SKIP.fullmatch(lines[start - 1].strip()) is not None,
        )
        start = None


def script(text: str) -> str:
    """Return the page's blocks as one script, or an empty string if the page has none to run."""
    lines = [""] * len(text.splitlines())
    found = False
    for block in blocks(text):
        if block.language != "python" or block.skipped:
            continue
        found = True
        if block.is_session:
            source = "\n".join(block.lines) + "\n"
            lines[block.line - 1] = f"__import__('snippets').run_session({source!r}, globals(), {block.line})"
        else:
            lines[block.line - 1 : block.line - 1 + len(block.lines)] = block.lines
    return "\n".join(lines) + "\n" if found else ""


def run_session(text: str, names: dict[str, Any], line: int) -> None:
    """Run a session in this namespace and raise where its output differs.

    Raises
    ------
    AssertionError
        Some output is not what the page shows.
    """
    test = doctest.DocTestParser().get_doctest(text, names, "session", names.get("__file__"), line - 1)
    test.globs = names  # get_doctest copies; blocks that follow shall see what the session defined
    try:
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, clear_globs=False)
    except doctest.DocTestFailure as failure:
        where = line + failure.example.lineno
        raise AssertionError(
            f"line {where}: {failure.example.source.strip()}\nexpected: {failure.example.want}got: {failure.got}"
        ) from None
    except doctest.UnexpectedException as failure:
        raise failure.exc_info[1] from None


def pages(root: Path) -> list[Path]:
    """Return README.md and the pages below docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
