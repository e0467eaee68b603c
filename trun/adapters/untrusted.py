"""Reading a pickle of somebody who is not trusted: plain data and arrays, and nothing that could run code.

Numbers, texts, bytes, lists, tuples, sets, maps, dates, decimals, fractions, paths, files that jobs have published or
fetched, numpy arrays and scalars. Anything else raises ``UntrustedResult``, which names the type and the switch.
Who may come in: ``pickles``.
Rule: a name is let in only if calling it with any arguments is harmless; nothing is let in by a pattern.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from typing import Any

from trun.errors import UntrustedResult

_ALLOWED: dict[str, frozenset[str]] = {
    "builtins": frozenset({"complex", "bytearray", "set", "frozenset", "range", "slice"}),
    "collections": frozenset({"OrderedDict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID"}),
    "pathlib": frozenset({"PurePosixPath", "PureWindowsPath", "PosixPath"}),
    "_codecs": frozenset({"encode"}),
    "numpy": frozenset({"ndarray", "dtype"}),
    "numpy.core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy.core.numeric": frozenset({"_frombuffer"}),
    "trun.adapters.fetching": frozenset({"known_file"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
}


class _Plain(pickle.Unpickler):
    """An unpickler that knows few names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, if it is one of the few."""
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise UntrustedResult(
            f"the result holds {module}.{name}; results of this service may hold plain data and arrays only. If you "
            "trust it with running code here: `trun service add NAME ADDRESS --expect KEY --trust-results`."
        )

    def persistent_load(self, pid: Any) -> Any:
        """Nothing is persistent here."""
        raise UntrustedResult("the result refers to things outside of itself.")


def load(data: bytes | memoryview, buffers: Iterable[Any] = ()) -> Any:
    """Return the value of a pickle that holds plain data and arrays only.

    Raises
    ------
    UntrustedResult
        It holds anything else, or is damaged.
    """
    try:
        return _Plain(io.BytesIO(data), buffers=buffers).load()
    except UntrustedResult:
        raise
    except Exception as error:
        raise UntrustedResult(f"the result cannot be read as plain data: {error}") from error
