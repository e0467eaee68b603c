from __future__ import annotations

import io
import logging

from trun.adapters.logline import LONGEST, LineFormatter


def written(message: str, *arguments: object) -> list[str]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    handler.emit(logging.LogRecord("trun", logging.INFO, "", 0, message, arguments, None))
    return stream.getvalue().split("\n")


def test_a_name_with_line_breaks_and_escapes_stays_in_its_line() -> None:
    assert written("refused name=%s", "fit\nINFO allowed user=root\x1b[2J\r") == [
        "INFO refused name=fit\\nINFO allowed user=root\\x1b[2J\\r",
        "",
    ]


def test_a_long_message_is_cut_and_says_so() -> None:
    (line, _) = written("x" * (LONGEST + 7))

    assert line == f"INFO {'x' * LONGEST}... (7 more characters)"


def test_what_can_be_printed_stays_as_it_is() -> None:
    assert written("fit of %s Å², ready", "ü") == ["INFO fit of ü Å², ready", ""]
