"""What names in the text of a condition stand for.

The caller gives a mapping or a function; what comes out is a condition, whatever the thing is: a condition itself, a
job or step (asked for its own conditions, so that they are the live ones), a group, a uid, or a list for a family.

It knows nothing of jobs beyond ``uid`` and their conditions. Rule: an unknown name is an error with the nearest one,
never a condition that waits for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trun.conditions.algebra import Condition
from trun.conditions.atoms import JOB_ATOMS, live
from trun.errors import BadOption, ConditionSyntaxError, UnknownInCondition, nearest

#: Kinds of atoms that are made by a method of the job.
_METHODS = {"result": "improved", "message": "said", "progress": "reaches", "reaches": "reaches"}


class Names:
    """Finds things by name and asks them for conditions."""

    def __init__(self, names: Mapping[str, Any] | Callable[[str], Any] | None) -> None:
        if not (names is None or callable(names) or isinstance(names, Mapping)):
            raise BadOption(f"names= takes a dictionary or a function from name to thing, not {type(names).__name__}.")
        self._names = {} if names is None else names
        self._by_uid: dict[str, Any] | None = None

    def known(self) -> list[str]:
        """Return the names that can be listed."""
        return [str(name) for name in self._names] if isinstance(self._names, Mapping) else []

    def find(self, name: str) -> Any:
        """Return the thing of this name, uid, or key; ``name[3]`` may be a name or a member of a list."""
        found = self._look(name)
        if found is not None:
            return found
        member = re.fullmatch(r"(.+)\[(\d+)\]", name, re.DOTALL)
        if member is not None:
            several = self._look(member[1])
            if isinstance(several, Sequence) and not isinstance(several, str) and int(member[2]) < len(several):
                return several[int(member[2])]
        known = self.known()
        more = "" if known or callable(self._names) else " No names were given to parse(text, names)."
        if 0 < len(known) <= 8 and not nearest(name, known):
            more = f" Known are {', '.join(known)}."
        raise UnknownInCondition(
            f"the condition speaks of {name!r}, but nothing of that name is known.{more}", name=name, known=known
        )

    def family(self, name: str) -> list[tuple[str, Any]]:
        """Return the members of ``name[*]``, each with its name: of a list or group, or all names ``name[...]``."""
        several = self._look(name)
        if isinstance(several, Sequence) and not isinstance(several, str):
            return [(f"{name}[{place}]", thing) for place, thing in enumerate(several)]
        if isinstance(several, Mapping):
            return [(f"{name}[{key}]", thing) for key, thing in several.items()]
        if several is not None:
            raise ConditionSyntaxError(
                f"{name}[*] asks for a list or group, but {name} is one {type(several).__name__}."
            )
        found = [known for known in self.known() if known.startswith(f"{name}[") and known.endswith("]")]
        if not found:
            raise UnknownInCondition(
                f"the condition speaks of {name}[*], but there is no list or group of that name, and no {name}[0].",
                name=name,
                known=self.known(),
            )
        found.sort(key=lambda known: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", known)])
        return [(known, self._look(known)) for known in found]

    def _look(self, name: str) -> Any:
        if callable(self._names) and not isinstance(self._names, Mapping):
            try:
                found = self._names(name)
            except LookupError:
                found = None
        else:
            found = self._names.get(name)
            if found is None:
                found = self._uids().get(name)
        return live.get(name) if found is None else found

    def _uids(self) -> dict[str, Any]:
        if self._by_uid is None:
            self._by_uid = {}
            for thing in self._names.values() if isinstance(self._names, Mapping) else ():
                self._by_uid.setdefault(uid_of(thing), thing)
            self._by_uid.pop("", None)
        return self._by_uid

    def condition(self, name: str, thing: Any, kind: str, argument: Any) -> Condition:
        """Return the condition of this kind on a thing; no kind: the thing itself, or that it completed."""
        if isinstance(thing, Condition):
            if kind:
                raise ConditionSyntaxError(f"{name} is a condition already; nothing stands behind it after a point.")
            return thing
        kind = kind or "completed"
        own = getattr(thing, _METHODS.get(kind, f"is{kind}"), None)
        if kind in _METHODS and callable(own):
            own = own(argument)
        if isinstance(own, Condition):
            return own
        uid = thing if isinstance(thing, str) else uid_of(thing)
        if not uid:
            if isinstance(thing, Sequence):
                raise ConditionSyntaxError(f"{name} is a list; write {name}[*] for all of it.")
            raise ConditionSyntaxError(f"{name} is neither a condition nor a job, but {type(thing).__name__}.")
        if kind == "reaches":
            kind = "progress" if isinstance(argument, float) else "reached"
        more = {"label": "" if name == uid else name}
        source = uid if isinstance(thing, str) else thing
        cls: Callable[..., Condition] = JOB_ATOMS[kind]
        return cls(source, argument, **more) if kind in _METHODS or kind == "reached" else cls(source, **more)


def uid_of(thing: Any) -> str:
    """Return the uid of a job or group; empty if it has none."""
    uid = None if isinstance(thing, (str, Condition)) else getattr(thing, "uid", None)
    return uid if isinstance(uid, str) else ""
