"""``trun revoke``: end a token that was lent, at once and for good.

Who may come in: the command line. Rule: the service decides who may revoke what; here stand words only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trun.adapters.tokens import PREFIX, ids
from trun.cli.arguments import Parser
from trun.errors import UsageError


def revoke(words: Sequence[str]) -> int:
    """End a token that was lent."""
    parser = Parser("revoke", "End a token that was lent, and all that was made of it, from the next message on.")
    parser.add_argument("token", metavar="TOKEN-ID", help="an id as `trun agent list` shows it, or the token itself")
    parser.add_argument("--service", required=True, metavar="NAME", help="the service that minted it")
    options = parser.parse_args(list(words))
    found = ids(options.token)[-1] if options.token.startswith(PREFIX) else options.token.lower()
    if not re.fullmatch(r"[0-9a-f]{64}", found):
        raise UsageError(f"{options.token!r} is no id of a token: those are 64 hexadecimal digits (`trun agent list`).")
    from trun.remotes import remote_service

    service = remote_service(options.service)
    try:
        service.ask("revoke", id=found)
    finally:
        service.close()
    print(f"revoked at {service.name}: {found}")
    return 0


__all__ = ["revoke"]
