"""Which role each request and each verb needs: one table, so that none is forgotten.

Roles: ``read`` sees all jobs of a service; ``submit`` submits, sees and steers jobs of its own; ``upload`` ships code;
``admin`` does everything. A new key has none. The owner of a service (the user whose process speaks over the ipc
socket, or the key that started it) is not asked.

Pure: decides from what it is given. Rule: what is not in the table is refused; a test compares the table with the
messages and the verbs.
"""

from __future__ import annotations

from collections.abc import Mapping

from trun.messages import (
    Ask,
    Bye,
    Cancel,
    Credit,
    Define,
    Do,
    Drain,
    Hello,
    Hold,
    Listen,
    Performed,
    Present,
    Relay,
    Release,
    Request,
    Resume,
    Retry,
    SetAtom,
    Submit,
    Suspend,
    Tell,
    Unlisten,
    Unneeded,
)

#: From the least to the most.
ROLES = ("read", "submit", "upload", "admin")

#: Anybody who got as far as the socket.
ANYBODY = ""
#: The role, or rights over the very job that the request names.
OWN = "own"

REQUESTS: Mapping[type[Request], str] = {
    Hello: ANYBODY,
    Bye: ANYBODY,
    Credit: ANYBODY,
    Unlisten: ANYBODY,
    Present: ANYBODY,
    Listen: "read",
    Ask: "read",
    Define: "submit",
    Submit: "submit",
    Cancel: OWN,
    Unneeded: OWN,
    Hold: OWN,
    Release: OWN,
    Retry: OWN,
    Tell: OWN,
    Do: OWN,
    SetAtom: "submit",
    Relay: "submit",
    Drain: "submit",
    Performed: OWN,
    # Said by workers on the service's own machine alone.
    Suspend: "admin",
    Resume: "admin",
}

VERBS: Mapping[str, str] = {
    "ping": ANYBODY,
    "whoami": ANYBODY,
    "request-access": ANYBODY,
    # Its answer depends on the key alone with which the connection was made: only who has rights can hand them on.
    "rotate": ANYBODY,
    "which": "read",
    "ps": "read",
    "jobs": "read",
    "summary": "read",
    "graph": "read",
    "changes": "read",
    "resources": "read",
    "versions": "read",
    "functions": "read",
    "job": OWN,
    "why": OWN,
    "downstream": OWN,
    "story": OWN,
    "entries": OWN,
    "outcome": OWN,
    "result": OWN,
    "log": OWN,
    "file": OWN,
    "blob": OWN,
    "mint": "read",
    "renew": "submit",
    "session": "read",
    "upload": "submit",
    "install": "upload",
    "users": "admin",
    "revoke": "admin",
}


def allows(roles: frozenset[str], needed: str) -> bool:
    """Return whether somebody with these roles may do what needs ``needed`` (``OWN`` is for the caller to look at)."""
    return needed == ANYBODY or "admin" in roles or needed in roles


__all__ = ["ANYBODY", "OWN", "REQUESTS", "ROLES", "VERBS", "allows"]
