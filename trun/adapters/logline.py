"""How processes without a terminal write their log: a line a record, on stderr, whatever a message holds.

Names of jobs, reasons and keys come from others; a line break or an escape sequence in one of them must not look like a
line of its own, and a long one must not fill the disk. Knows nothing of what is logged.

Who may come in: the entry points of daemons. Rule: what is cut is said to be cut.
"""

from __future__ import annotations

import logging
import sys

#: Characters of a message.
LONGEST = 2000


class LineFormatter(logging.Formatter):
    """Writes control characters of a message as escapes, and cuts what is too long."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = record.message
        if not text.isprintable():
            text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}... ({len(text) - LONGEST} more characters)"
        record.message = text
        return super().formatMessage(record)


def begin_log() -> None:
    """Let everything from level INFO on be written to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
