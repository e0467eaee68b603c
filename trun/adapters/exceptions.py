"""Exceptions to plain data and back: nothing in an error can break the one who reads it.

The worker pickles an exception and tests the round trip itself; what does not survive travels as the name of its
type, its message and the text of its traceback, and is raised as a stand-in that names the original. Exceptions that
would end the reader's own process (``SystemExit``, ``KeyboardInterrupt``) are always raised as stand-ins.
"""

from __future__ import annotations

import builtins
import contextlib
import traceback
from types import TracebackType
from typing import Any, cast

import trun.errors
from trun.errors import JobFailed, RemoteTraceback, TrunError, UnknownName
from trun.messages import ErrorInfo

_TEXT_CHARS = 200_000
_MESSAGE_CHARS = 20_000


def describe(error: BaseException, *, pickled: bytes = b"", tail: str = "", skip: int = 0) -> ErrorInfo:
    """Return an exception as plain data; ``skip`` frames of ours are left out at the top of its traceback."""
    message = message_of(error)
    exitcode: int | None = None
    if isinstance(error, SystemExit):
        exitcode = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        message = f"the job called sys.exit({error.code!r}); a job ends by returning"
    return ErrorInfo(
        type=f"{type(error).__module__}.{type(error).__qualname__}",
        message=message,
        traceback=_text(error, skip),
        pickled=pickled,
        exitcode=exitcode,
        tail=tail,
        suggestions=error.suggestions if isinstance(error, UnknownName) else (),
    )


def message_of(error: BaseException) -> str:
    """Return the text of an exception, also where its ``__str__`` is broken."""
    try:
        return str(error)[:_MESSAGE_CHARS]
    except Exception as broken:
        return f"<its text cannot be had: {type(broken).__name__}>"


def _text(error: BaseException, skip: int) -> str:
    where: TracebackType | None = error.__traceback__
    for _ in range(skip):
        if where is not None and where.tb_next is not None:
            where = where.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, where))
    except Exception:
        text = f"{type(error).__qualname__}: {message_of(error)}\n"
    return text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS // 2] + "\n...\n" + text[-_TEXT_CHARS // 2 :]


def is_alike(found: BaseException, error: BaseException) -> bool:
    """Whether ``found`` is what ``error`` should be after a round trip."""
    return type(found).__qualname__ == type(error).__qualname__ and message_of(found) == message_of(error)


def with_cause(error: BaseException, info: ErrorInfo) -> BaseException:
    """Attach the remote traceback, and what the job printed last, as the cause of ``error``."""
    text = info.traceback
    if info.tail:
        text += f"\nThe last lines that it printed:\n{info.tail}"
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error


def stand_in(info: ErrorInfo) -> BaseException:
    """Return an exception for one that cannot be had itself: ours of that name, else a ``JobFailed`` named like it.

    One that is named like an exception of Python's own is also one of those, so that ``except ValueError`` catches it.
    """
    module, _, name = info.type.rpartition(".")
    facts: dict[str, Any] = {"exitcode": info.exitcode, "signal": info.signal, "original_type": info.type}
    own = getattr(trun.errors, name, None) if module == "trun.errors" else None
    if isinstance(own, type) and issubclass(own, TrunError):
        if issubclass(own, UnknownName):
            facts["suggestions"] = info.suggestions
        return own(info.message, **facts)
    told = {"__module__": module or "builtins", "__doc__": JobFailed.__doc__, "__str__": Exception.__str__}
    alike = getattr(builtins, name, None) if module in ("", "builtins") else None
    if isinstance(alike, type) and issubclass(alike, Exception) and alike not in _STEERING:
        with contextlib.suppress(TypeError):  # one that wants arguments of its own, such as UnicodeDecodeError
            return cast(BaseException, type(name, (JobFailed, alike), told)(info.message, **facts))
    return cast(BaseException, type(name or "JobFailed", (JobFailed,), told)(info.message, **facts))


#: What Python's own loops take for a sign.
_STEERING = (StopIteration, StopAsyncIteration)
