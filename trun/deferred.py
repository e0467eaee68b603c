"""What stands for a result that is not there yet: ``Deferred`` and ``Piece``.

As an argument of a job it is filled in at the service that runs it; used here and now (``bool``, ``len``, ``iter``)
it says that it is too early, and between ``&`` and ``|`` that a condition is wanted. Knows pickles and nothing of
services.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from trun.adapters import pickles
from trun.errors import ConditionTypeError
from trun.outcomes import known_jobs

Path = tuple[tuple[str, Any], ...]

#: What Python, notebooks and libraries ask of anything: never a part of a result.
PROBED = ("__", "_repr_", "_ipython_", "_ipywidget_")


class Deferred:
    """Base of a job and of the pieces of its result."""

    __slots__ = ()

    def __trun_deferred__(self) -> tuple[str, Path]:
        raise NotImplementedError

    def _owner(self) -> Any:
        """Return the job."""
        raise NotImplementedError

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is not known yet, so it is neither true nor false; use .result() first.")

    def __len__(self) -> NoReturn:
        raise TypeError(f"{self!r} is not known yet, so it has no length; use .result() first.")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self!r} is not known yet, so it cannot be iterated over; use .result() first.")

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError(f"{self!r} is not known yet, so nothing can be looked for in it; use .result() first.")

    def __and__(self, other: object) -> NoReturn:
        raise self._no_condition("&")

    def __rand__(self, other: object) -> NoReturn:
        raise self._no_condition("&")

    def __or__(self, other: object) -> NoReturn:
        raise self._no_condition("|")

    def __ror__(self, other: object) -> NoReturn:
        raise self._no_condition("|")

    def __invert__(self) -> NoReturn:
        raise self._no_condition("~")

    def __neg__(self) -> NoReturn:
        raise self._no_condition("-")

    def _no_order(self, other: object) -> NoReturn:
        raise self._too_early("<", other)

    __lt__ = __le__ = __gt__ = __ge__ = _no_order

    def _too_early(self, operator: str, other: object) -> ConditionTypeError:
        name = self._owner().name
        return ConditionTypeError(
            f"{self!r} is not known yet, so it cannot be compared with {other!r}; for a condition over what the "
            f"running job reports write {name}.improved('x {operator} 3'), {name}.reaches(0.5) or {name}.said('name'); "
            "for its value now use .result()."
        )

    def _no_condition(self, operator: str) -> ConditionTypeError:
        name = self._owner().name
        return ConditionTypeError(
            f"{operator} combines conditions, and {self!r} is none; write {name}.iscompleted or the like."
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        job = self._owner()
        known_jobs[job.uid] = job
        return pickles.defer(*self.__trun_deferred__())


class Piece(Deferred):
    """A part of a job's result: ``job.output``, ``job[1]``, ``job.attr``, and pieces of those."""

    __slots__ = ("_job", "_path")

    def __init__(self, job: Any, path: Path = ()) -> None:
        self._job = job
        self._path = path

    def __trun_deferred__(self) -> tuple[str, Path]:
        return self._job.uid, self._path

    def _owner(self) -> Any:
        return self._job

    def __getattr__(self, name: str) -> Piece:
        if name.startswith(PROBED):
            raise AttributeError(f"{self!r} has no {name!r} before it is known; use .result() first.")
        return Piece(self._job, (*self._path, ("attr", name)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Deferred):
            return isinstance(other, Piece) and self._job is other._job and self._path == other._path
        if other is None:
            return False
        raise self._too_early("==", other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Piece, self._job.uid, len(self._path)))

    def __getitem__(self, key: Any) -> Piece:
        return Piece(self._job, (*self._path, ("item", key)))

    def __repr__(self) -> str:
        text = "".join(f".{key}" if kind == "attr" else f"[{key!r}]" for kind, key in self._path)
        return f"<{self._job.name}.output{text}>"


def take_piece(value: Any, path: Sequence[tuple[str, Any]]) -> Any:
    """Return the piece of ``value`` at ``path``."""
    for kind, key in path:
        value = getattr(value, key) if kind == "attr" else value[key]
    return value


def is_one_edit(a: str, b: str) -> bool:
    """Whether one insertion, deletion, replacement or swap of neighbours turns ``a`` into ``b``."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    i = 0
    while i < min(len(a), len(b)) and a[i] == b[i]:
        i += 1
    if len(a) == len(b):
        return a[i + 1 :] == b[i + 1 :] or (a[i : i + 2] == b[i : i + 2][::-1] and a[i + 2 :] == b[i + 2 :])
    return a[i + 1 :] == b[i:] if len(a) > len(b) else a[i:] == b[i + 1 :]
