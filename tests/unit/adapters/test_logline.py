from __future__ import annotations

import io
import logging
import time

import pytest

from trun.adapters.logline import AUDIT, GATHERED, LONGEST, LineFormatter, LineHandler


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


def record(name: str, message: str, created: float = 0.0) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, "", 0, message, (), None)
    made.created, made.msecs = created, created % 1 * 1000
    return made


@pytest.fixture
def handler() -> LineHandler:
    made = LineHandler(io.StringIO())
    made.setFormatter(LineFormatter("%(name)s %(message)s"))
    return made


def text(handler: LineHandler) -> str:
    assert isinstance(handler.stream, io.StringIO)
    return handler.stream.getvalue()


def test_lines_of_the_audit_log_are_written_together_and_in_order(handler: LineHandler) -> None:
    handler.emit(record(AUDIT, "allowed 1"))
    handler.emit(record(AUDIT, "allowed 2"))
    assert text(handler) == ""

    handler.flush()
    assert text(handler) == "trun.audit allowed 1\ntrun.audit allowed 2\n"
    handler.flush()
    assert text(handler).count("\n") == 2


def test_every_other_line_is_written_at_once_after_those_before_it(handler: LineHandler) -> None:
    handler.emit(record(AUDIT, "allowed 1"))
    handler.emit(record("trun.engine", "a word"))

    assert text(handler) == "trun.audit allowed 1\ntrun.engine a word\n"


def test_no_more_than_so_many_lines_are_gathered(handler: LineHandler) -> None:
    for number in range(GATHERED):
        handler.emit(record(AUDIT, str(number)))

    assert text(handler).count("\n") == GATHERED


def test_a_reader_that_has_gone_ends_nothing(handler: LineHandler) -> None:
    handler.stream.close()
    handler.emit(record("trun.engine", "a word"))
    handler.flush()


def test_an_error_follows_its_line(handler: LineHandler) -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        found = record("trun.engine", "no\nluck")
        found.exc_info = (ValueError, error, error.__traceback__)
    handler.emit(found)

    lines = text(handler).splitlines()
    assert (lines[0], lines[1], lines[-1]) == (
        "trun.engine no\\nluck",
        "Traceback (most recent call last):",
        "ValueError: wrong",
    )


def test_each_line_has_its_own_time() -> None:
    ours, theirs = LineFormatter("%(asctime)s"), logging.Formatter("%(asctime)s")
    now = float(int(time.time()))
    for moment in (now, now + 0.25, now + 0.999, now + 1.5, now - 3600):
        assert ours.format(record("a", "", moment)) == theirs.format(record("a", "", moment))
