"""What a token that somebody presents opens here: for how long, and only while its user could do the same.

Asked anew for each use, so that what is revoked, expired, or beyond the rights of whoever lent it opens nothing more.
Changes nothing. Who may come in: the gate. Rule: to see is not to steer.
"""

from __future__ import annotations

import time

from trun.core.machine import Machine
from trun.core.rights import allows
from trun.engine.guests import Guest
from trun.ports import Grant, Powers


class Lent:
    """The rights that tokens lend."""

    def __init__(self, machine: Machine, powers: Powers) -> None:
        self._machine = machine
        self._powers = powers

    def find(self, peer: Guest, op: str, resource: str) -> Grant | None:
        """Return a token of this peer that opens the resource for this operation now."""
        now = time.time()
        for grant in filter(None, (peer.grants.get(resource), peer.grants.get("*"))):
            if grant.expires > now and grant.allows(op, resource) and not self._powers.is_revoked(grant.ids):
                if op in ("read", "fetch") and self.shows(grant, resource.removeprefix("job:")):
                    return grant
                # To see is not to steer: who lends the right to cancel has it.
                roles = self._powers.roles(grant.user)
                if "admin" in roles or (roles and self._owns(grant.user, resource.removeprefix("job:"))):
                    return grant
        return None

    def shows(self, grant: Grant, uid: str, roles: frozenset[str] | None = None) -> bool:
        """Whether whoever lent this, and has these roles, may see a job."""
        roles = self._powers.roles(grant.user) if roles is None else roles
        return allows(roles, "read") or bool(roles and self._owns(grant.user, uid))

    def end(self, grant: Grant, clock: float, roles: frozenset[str]) -> str:
        """Return why a token, whose user has these roles, is worth nothing any more; "" while it is."""
        if grant.expires <= clock:
            return "credential expired"
        if self._powers.is_revoked(grant.ids) or not roles:
            return "credential revoked"
        return ""

    def _owns(self, user: str, uid: str) -> bool:
        record = self._machine.records.get(uid)
        return record is not None and record.spec.owner == user


__all__ = ["Lent"]
