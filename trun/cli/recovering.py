"""The verb ``recover``: save what can be read of a damaged journal, and say what cannot.

A journal that is sound is left alone. Otherwise a new one is made of what can be read; the damaged one is kept beside
it, under the name that is printed.

Who may come in: the command. Rule: every loss is a line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trun.adapters import folders
from trun.adapters.salvage import Report, salvage
from trun.cli.arguments import Parser, print_json
from trun.cli.places import all_places, named_places
from trun.cli.text import Paint, count, folded, line
from trun.errors import UsageError

LOST = 1
#: Losses that are printed unless --json asks for all.
SHOWN = 40


def recover(words: Sequence[str]) -> int:
    """Save what can be read of a damaged journal."""
    parser = Parser("recover", "Save what can be read of a damaged journal; the damaged file is kept aside.").data()
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run, the begin of its name, or a state folder")
    parser.add_argument("--state", dest="folder", metavar="FOLDER", help="the same as RUN, for a state folder")
    options = parser.parse_args(words)
    folder = _folder(options.folder or options.run, parser)
    held = folders.holder(folder)
    if held is not None:
        raise folders.held_by(folder, held)
    report = salvage(folder)
    if options.json:
        print_json(msgspec.to_builtins(report))
    else:
        paint = Paint(sys.stdout)
        print("\n".join(part for each in _lines(report) for part in folded(line(each), paint.columns)))
    return LOST if report.lost else 0


def _folder(word: str | None, parser: Parser) -> Path:
    if not word:
        raise UsageError(f"which journal? Name its state folder.\n{' ' * 6}{parser.usage_line()}")
    if "/" in word or Path(word).is_dir():
        return Path(word).expanduser().absolute()
    places = named_places(all_places(), word)
    if len(places) > 1:
        several = ", ".join(place.run for place in places[:5])
        raise UsageError(f"{word!r} may be one of {count(len(places), 'run')}: {several}.")
    return places[0].folder


def _lines(report: Report) -> list[str]:
    if report.sound:
        return [f"the journal in {report.folder} is sound; nothing was changed"]
    saved = ", ".join(f"{number} {kind}" for kind, number in report.saved.items() if number) or "nothing"
    lines = [f"damaged: {report.fault}", f"saved: {saved}"]
    lines += [f"lost: {each}" for each in report.lost[:SHOWN]]
    if len(report.lost) > SHOWN:
        lines.append(f"lost: {len(report.lost) - SHOWN} more things (--json names all)")
    if not report.lost:
        lines.append("lost: nothing")
    lines.append(f"the damaged file is kept: {report.kept}")
    lines.append(f"to carry on: trun resume {report.folder}")
    return lines
