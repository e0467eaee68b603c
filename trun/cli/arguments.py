"""The words of a verb, read by argparse under two rules: one clear line for a fault, and the nearest valid option.

The options that many verbs share (where to look, ``--json``) are added here, so that they mean the same everywhere.

Does not know services. Who may come in: the verbs. Rule: a fault is a ``UsageError``; only help ends the process.
"""

from __future__ import annotations

import argparse
import getpass
import re
import sys
from typing import Any, NoReturn

import msgspec

from trun.cli.text import CONTROLS
from trun.errors import BadOption, UsageError, nearest

#: A public key may begin as an option does.
_KEY = re.compile(r"-[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{39}")


class Parser(argparse.ArgumentParser):
    """The parser of one verb."""

    def __init__(self, verb: str, description: str, **options: Any) -> None:
        super().__init__(prog=f"trun {verb}", description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse the words, with the nearest option where one is unknown."""
        hint = ""
        found = re.match(r"unrecognized arguments: (\S+)", message)
        if found and found[1].startswith("-"):
            known = [name for action in self._actions for name in action.option_strings]
            message = f"unknown option {found[1].split('=')[0]!r}."
            hint = nearest(found[1].split("=")[0], known)
        elif found:
            message = f"{message.removeprefix('unrecognized arguments: ')!r} is one word too many."
        raise UsageError(f"{message}{hint}\n{' ' * 6}{self.usage_line()}")

    def _parse_optional(self, arg_string: str) -> Any:
        """Take a key for what it is, also where it begins with a dash (one of 85 does)."""
        if _KEY.fullmatch(arg_string) and arg_string.partition("=")[0] not in self._option_string_actions:
            return None
        return super()._parse_optional(arg_string)

    def usage_line(self) -> str:
        """Return the usage in one line."""
        return " ".join(self.format_usage().split())

    def where(self) -> Parser:
        """Add the options that say where to look."""
        group = self.add_argument_group("where to look")
        group.add_argument("--service", metavar="NAME", help="only this service or run (a name, or the begin of one)")
        group.add_argument("--state", dest="folder", metavar="FOLDER", help="only the service of this state folder")
        return self

    def data(self) -> Parser:
        """Add ``--json``."""
        self.add_argument("--json", action="store_true", help="print data instead of text")
        return self

    def jobs(self, *, number: str = "+") -> Parser:
        """Add the jobs that the verb is about."""
        self.add_argument("jobs", nargs=number, metavar="JOB", help="fit#7, a uid, or RUN/fit#7")
        return self

    def job(self) -> Parser:
        """Add the one job that the verb is about."""
        self.add_argument("job", metavar="JOB", help="fit#7, a uid, or RUN/fit#7")
        return self


def span(text: str) -> float:
    """Return a time span such as ``2d`` in seconds (a type for argparse)."""
    from trun.conditions.timing import span_seconds

    try:
        return span_seconds(text, "the time span")
    except BadOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(text: str) -> int:
    """Return a whole number of at least 1 (a type for argparse)."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def print_json(data: Any) -> None:
    """Print one JSON document; whatever a terminal would obey is escaped in it."""
    text = msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2).decode()
    print(CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text))


def typed(prompt: str) -> str:
    """Return a passphrase: from the terminal without echo, or as a line of standard input where that is no terminal."""
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    found = sys.stdin.readline()
    if not found:
        raise UsageError("a passphrase is needed: from a terminal, or as a line of standard input.")
    return found.rstrip("\n")
