"""How processes without a terminal write their log: a line a record, on stderr, whatever a message holds.

Names of jobs, reasons and keys come from others; a line break or an escape sequence in one of them must not look like a
line of its own, and a long one must not fill the disk. Lines of the audit log, of which each request makes one, are
gathered until ``flush``, which the gate calls before anything follows from them. Knows nothing else of what is logged.

Who may come in: the entry points of daemons. Rule: what is cut is said to be cut; lines keep their order.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

#: Characters of a message.
LONGEST = 2000
#: Lines that are gathered at most.
GATHERED = 500
#: The logger whose lines are gathered.
AUDIT = "trun.audit"


class LineFormatter(logging.Formatter):
    """Writes control characters of a message as escapes, and cuts what is too long."""

    _second = -1
    _text = ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        record.message = _in_one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and what follows it of an error."""
        if record.exc_info or record.exc_text or record.stack_info or self._fmt is None:
            return super().format(record)
        record.message = _in_one_line(record.getMessage())
        record.asctime = self.formatTime(record)
        return self._fmt % record.__dict__

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of a record; the second is written once for all that came in it."""
        second = int(record.created)
        if second != self._second:
            self._text = time.strftime(self.default_time_format, self.converter(second))
            self._second = second
        return f"{self._text},{int(record.msecs):03d}"


def _in_one_line(text: str) -> str:
    if not text.isprintable():
        text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text) - LONGEST} more characters)"
    return text


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines; those of the audit log together."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._gathered: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep its line for the next ``flush``."""
        try:
            self._gathered.append(self.format(record))
        except Exception:  # a record that cannot be written ends nothing
            self.handleError(record)
        if record.name != AUDIT or len(self._gathered) >= GATHERED:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        with self.lock:  # type: ignore[union-attr]
            lines, self._gathered = self._gathered, []
            try:
                if lines:
                    self.stream.write("\n".join(lines) + self.terminator)
                self.stream.flush()
            except (OSError, ValueError):  # nobody reads it any more
                pass


def begin_log() -> None:
    """Let everything from level INFO on be written to stderr."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Nothing of this is written, and looking it up costs more than the line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
