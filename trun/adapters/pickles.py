"""Values to bytes and back: calls, results and errors; the only room that imports cloudpickle, and only when it must.

The common case goes through the standard pickle (protocol 5, buffers of 1 MB and more out of band): cloudpickle is
asked only where something lives in ``__main__``, a notebook, a closure or a lambda, and then pickles it by value.
Deferred results (objects whose ``__reduce_ex__`` returns ``defer(...)``) are noted while a call is dumped and filled
in, nested to any depth, while it is loaded.

Never unpickle here what a service that is not trusted has sent. Never hash these bytes to compare values: they differ
from run to run; a digest only saves sending the same bytes twice. Alternatives: dill, which loses globals of
``__main__`` and pickles locks.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from trun.adapters import exceptions, functions, places, unpicklable, untrusted
from trun.adapters.blobs import BIG_BYTES, BlobFolder
from trun.adapters.values import entry_from, event_from, payload_from, plain_part
from trun.core.codec import encode
from trun.errors import NotPicklable, StateError
from trun.messages import Blob, ErrorInfo, Payload

Big = Callable[[memoryview], Blob]
OpenBlob = Callable[[Blob], memoryview]
Path_ = tuple[tuple[str, Any], ...]

#: First byte of a pickled function: its bytes always mean the same, or it carries things that may change inside (load
#: it anew each time).
_FIXED, _CHANGEABLE = b"=", b"~"
_KNOWN_FUNCTIONS = 512
#: A pickled exception that is bigger travels as text alone.
ERROR_BYTES = 256 * 1024
_LOADED_FUNCTIONS = 1024


class _ThreadState(threading.local):
    """What a dump or a load in this thread is about."""

    #: uids of deferred results met so far while a call is dumped; None: no call is being dumped.
    met: list[str] | None = None
    #: While a call is loaded: inputs by uid, those loaded already, and how to open blobs.
    inputs: Mapping[str, Payload] = MappingProxyType({})
    loaded: dict[str, Any] | None = None
    open_blob: OpenBlob | None = None
    #: The function dumped last: it names the arguments in an error.
    function: Any = None


_state = _ThreadState()
_NOTHING: Mapping[str, Payload] = MappingProxyType({})


# -- functions --------------------------------------------------------------------------------------------------------


class _Known:
    __slots__ = ("data", "digest", "fn", "watch")

    def __init__(self, fn: Any, watch: functions.Watch, digest: str, data: bytes) -> None:
        self.fn, self.watch, self.digest, self.data = fn, watch, digest, data


_known: dict[int, _Known] = {}


def dump_function(fn: Callable[..., Any]) -> tuple[str, bytes]:
    """Return the digest and the bytes of a function: by name where it can be imported, by value otherwise.

    The same function costs 1 to 2 microseconds again, unless what it uses was rebound or can change inside: then it
    is dumped anew.
    """
    _state.function = fn
    known = _known.get(id(fn))
    if known is not None and known.fn is fn and known.watch.holds():
        return known.digest, known.data
    watch = functions.watch(fn)
    data = (_CHANGEABLE if watch is None else _FIXED) + _function_bytes(fn)
    digest = digest_of(data)
    if watch is not None:
        if len(_known) >= _KNOWN_FUNCTIONS:
            _known.pop(next(iter(_known)), None)
        _known[id(fn)] = _Known(fn, watch, digest, data)
    return digest, data


class _Named:
    """Stands for a function that can be imported, below its decorators."""

    def __init__(self, where: tuple[str, str, int]) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        return functions.find, self.where


def _function_bytes(fn: Any) -> bytes:
    where = functions.importable(fn)
    if where is not None:
        return pickle.dumps(fn if where[2] == 0 else _Named(where), 5)
    try:
        return _by_value(fn, None)
    except Exception as error:
        name = getattr(fn, "__qualname__", repr(fn))
        raise _explained(fn, f"function {name}", "function", error) from error


def _load_function(data: bytes) -> Callable[..., Any]:
    known = _loaded.get(data)
    if known is not None:
        return known
    fn: Callable[..., Any] = pickle.loads(memoryview(data)[1:])
    if data[:1] == _FIXED:
        if len(_loaded) >= _LOADED_FUNCTIONS:
            _loaded.clear()
        _loaded[data] = fn
    return fn


_loaded: dict[bytes, Callable[..., Any]] = {}


# -- calls ------------------------------------------------------------------------------------------------------------


#: Types whose values the standard pickle writes as they are, whatever they are.
_SIMPLE = frozenset({int, float, bool, str, bytes, type(None)})
_NO_ARGUMENTS = pickle.dumps(((), {}), 5)


def dump_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, big: Big | None = None
) -> tuple[Payload, tuple[str, ...]]:
    """Pickle the arguments of a call.

    Parameters
    ----------
    args, kwargs
        Anything that can be pickled; deferred results anywhere inside.
    big
        Stores a buffer of ``BIG_BYTES`` or more beside the message; None: such buffers travel inside it.

    Returns
    -------
    The payload, and the uids of the deferred results in it, in order of first appearance.

    Raises
    ------
    NotPicklable
        Names the part by its path inside the arguments.
    StateFull, StateError
        A big buffer cannot be written to the service's folder.
    """
    value = (args, kwargs)
    if not kwargs and _SIMPLE.issuperset(map(type, args)):
        data = pickle.dumps(value, 5) if args else _NO_ARGUMENTS
        if len(data) < BIG_BYTES:
            return Payload(data), ()
    outer, met = _state.met, []  # type: tuple[list[str] | None, list[str]]
    _state.met = met
    try:
        try:
            payload = _dump(value, met, big)
        except StateError:
            raise
        except Exception as error:
            raise _explained_call(args, kwargs, error) from error
    finally:
        _state.met = outer
    return payload, tuple(dict.fromkeys(met)) if met else ()


def defer(uid: str, path: Path_ = ()) -> Any:
    """Return what a deferred result is pickled as; for the ``__reduce_ex__`` of such objects."""
    met = _state.met
    if met is None:
        raise NotPicklable(
            "a job, which stands for its result, can only travel as an argument of a job, not in a closure, a global "
            "variable or a result; call .result() first and take its value."
        )
    met.append(uid)
    return fill, (uid, path)


def fill(uid: str, path: Path_) -> Any:
    """Return the result (or its piece at ``path``) that takes the place of a deferred one; runs while a call is
    loaded.
    """
    state = _state
    loaded = state.loaded
    if loaded is None or (uid not in loaded and uid not in state.inputs):
        raise NotPicklable(f"the result of job {uid} is not at hand here.")
    if uid not in loaded:
        loaded[uid] = _load(state.inputs[uid], state.open_blob)
    value = loaded[uid]
    for kind, key in path:
        value = getattr(value, key) if kind == "attr" else value[key]
    return value


def load_call(
    function: bytes, payload: Payload, inputs: Mapping[str, Payload], open_blob: OpenBlob | None = None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function, the arguments and the keyword arguments; each input is loaded at most once, and only if
    used.
    """
    fn = _load_function(function)
    state = _state
    state.inputs, state.loaded, state.open_blob = inputs, {}, open_blob
    try:
        args, kwargs = _load(payload, open_blob)
    finally:
        state.inputs, state.loaded, state.open_blob = _NOTHING, None, None
    return fn, args, kwargs


# -- results ----------------------------------------------------------------------------------------------------------


def dump_result(value: Any, *, big: Big | None = None) -> tuple[Payload, dict[str, Any]]:
    """Pickle a result; the second part is what predicates may look at: its plain scalars by name.

    Raises
    ------
    NotPicklable
        Names the part by its path inside the result.
    StateFull, StateError
        A big buffer cannot be written to the service's folder.
    """
    try:
        return _dump(value, None, big), plain_part(value)
    except StateError:
        raise
    except Exception as error:
        raise _explained(value, "result", "result", error) from error


def load_result(payload: Payload, open_blob: OpenBlob | None = None, *, trusted: bool = True) -> Any:
    """Return the value of a payload; of one that is not trusted only plain data and arrays (``UntrustedResult``)."""
    return _load(payload, open_blob, pickle.loads if trusted else untrusted.load)


def dump_error(error: BaseException, *, tail: str = "", skip: int = 0) -> ErrorInfo:
    """Return an exception as plain data; ``skip`` frames of ours are left out at the top of its traceback."""
    return exceptions.describe(error, pickled=_error_bytes(error), tail=tail, skip=skip)


def _error_bytes(error: BaseException) -> bytes:
    """Return the exception pickled, if the round trip works here; else nothing."""
    if not isinstance(error, Exception):
        return b""
    try:
        payload = _dump(error, None, None)
        data = payload.data or b""
        if payload.buffers or len(data) > ERROR_BYTES or not exceptions.is_alike(pickle.loads(data), error):
            return b""
    except Exception:
        return b""
    return data


def load_error(info: ErrorInfo, *, trusted: bool = True) -> BaseException:
    """Return the exception that ``info`` tells of, the remote traceback as its cause.

    Its own type where it can be unpickled, else a ``JobFailed`` named like the original.
    """
    found: Any = None
    if info.pickled and trusted:
        try:
            found = pickle.loads(info.pickled)
        except Exception:
            found = None
    return exceptions.with_cause(found if isinstance(found, Exception) else exceptions.stand_in(info), info)


# -- the bytes --------------------------------------------------------------------------------------------------------


def _dump(value: Any, met: list[str] | None, big: Big | None) -> Payload:
    buffers: list[memoryview] = []

    def aside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < BIG_BYTES:
            return True
        buffers.append(view)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=aside)
        # A name in __main__ means nothing in another process.
        redo = b"__main__" in data or _registered()
    except Exception:
        redo = True
    if redo:
        buffers.clear()
        if met is not None:
            met.clear()
        data = _by_value(value, aside)
    if not buffers and len(data) < BIG_BYTES:
        return Payload(data)
    kept = tuple(bytes(view) if big is None else big(view) for view in buffers)
    if big is not None and len(data) >= BIG_BYTES:
        return Payload(None, big(memoryview(data)), kept)
    return Payload(data, None, kept)


def _registered() -> bool:
    """Whether modules are registered to be pickled by value: only cloudpickle knows how."""
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())


def _load(payload: Payload, open_blob: OpenBlob | None, loads: Callable[..., Any] = pickle.loads) -> Any:
    if not payload.buffers and payload.data is not None:
        return loads(payload.data)
    if payload.data is None and payload.blob is None:
        raise NotPicklable("the payload is empty.")
    data = payload.data if payload.blob is None else _opened(payload.blob, open_blob)
    assert data is not None
    # bytearray: an array over it can be written to, as it could where it came from.
    buffers = [bytearray(one) if isinstance(one, bytes) else _opened(one, open_blob) for one in payload.buffers]
    return loads(data, buffers=buffers)


def _opened(blob: Blob, open_blob: OpenBlob | None) -> memoryview:
    if open_blob is None:
        raise NotPicklable(f"blob {blob.name} cannot be reached from here.")
    return open_blob(blob)


def _by_value(value: Any, aside: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
    file = io.BytesIO()
    _pickler()(file, protocol=5, buffer_callback=aside).dump(value)
    return file.getvalue()


_pickler_class: Any = None


def _pickler() -> Any:
    """Return our pickler, made at first use: cloudpickle's, but it refuses open files and knows decorated
    functions.
    """
    global _pickler_class
    if _pickler_class is None:
        import cloudpickle

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            def reducer_override(self, obj: Any) -> Any:
                kind = type(obj)
                if kind in _NEVER or isinstance(obj, socket.socket):
                    raise TypeError(f"cannot pickle {unpicklable.kind_of(obj)!r} object")
                if kind is types.FunctionType:
                    where = functions.importable(obj)
                    if where is not None and where[2]:
                        return functions.find, where
                return super().reducer_override(obj)

        _pickler_class = Pickler
    return _pickler_class


#: Cloudpickle would send the content of an open file; that is never what was meant.
_NEVER = (io.TextIOWrapper,)


def warm() -> None:
    """Import now what the first by-value function would import (about 10 ms)."""
    _pickler()


def is_picklable(value: Any) -> bool:
    """Whether a value alone can be sent to another process. Costs as much as sending it."""
    outer = _state.met
    _state.met = [] if outer is None else outer
    try:
        _by_value(value, None)
    except Exception:
        return False
    finally:
        _state.met = outer
    return True


def _explained(value: Any, what: str, path: str, error: Exception) -> NotPicklable:
    if isinstance(error, NotPicklable):
        return error
    step, part = unpicklable.culprit(value, lambda one: not is_picklable(one))
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return NotPicklable(
        f"{what}{step} is a {unpicklable.kind_of(part)}, which cannot be sent to another process ({text[:300]}); "
        f"{unpicklable.advice(part)}.",
        path=f"{path}{step}",
    )


def _explained_call(args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> NotPicklable:
    if isinstance(error, NotPicklable):
        return error
    parts = [(functions.parameter_name(_state.function, i), f"args[{i}]", one) for i, one in enumerate(args)]
    parts += [(name, f"kwargs[{name!r}]", one) for name, one in kwargs.items()]
    for name, place, one in parts:
        if not is_picklable(one):
            step, part = unpicklable.culprit(one, lambda inner: not is_picklable(inner))
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            return NotPicklable(
                f"argument {name}{step} ({place}{step}) is a {unpicklable.kind_of(part)}, which cannot be sent to "
                f"another process ({text[:300]}); {unpicklable.advice(part)}.",
                path=f"{place}{step}",
            )
    return NotPicklable(f"the arguments cannot be pickled: {type(error).__name__}: {error}")


def dump_context(cwd: str, path: list[str]) -> tuple[str, bytes]:
    """Return digest and bytes of where a client stands: its folder, and where it finds modules."""
    data = encode((cwd, places.own_folders(path)))
    return digest_of(data), data


def load_context(data: bytes) -> tuple[str, list[str]]:
    """Return folder and module path of a client."""
    cwd, path = msgspec.msgpack.decode(data, type=tuple[str, list[str]])
    return cwd, path


_writers: dict[str, Big] = {}


def blob_writer(folder: str | os.PathLike[str]) -> Big:
    """Return the writer of big buffers for a service whose state folder is ``folder``."""
    found = _writers.get(str(folder))
    if found is None:
        blobs = BlobFolder(Path(folder) / "blobs")
        found = _writers[str(folder)] = lambda view: blobs.write((view,))
    return found


def blob_opener(folder: str | os.PathLike[str]) -> OpenBlob:
    """Return the opener of big buffers of a service whose state folder is ``folder``."""
    return lambda blob: BlobFolder(Path(folder) / "blobs").open(blob)


def digest_of(*parts: Any) -> str:
    """Return the hexadecimal BLAKE2b-128 digest of texts, bytes and messages, one after the other."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else encode(part)
        if len(parts) > 1:
            found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()


__all__ = [
    "Big",
    "OpenBlob",
    "blob_writer",
    "defer",
    "digest_of",
    "dump_call",
    "dump_context",
    "dump_error",
    "dump_function",
    "dump_result",
    "entry_from",
    "event_from",
    "fill",
    "is_picklable",
    "load_call",
    "load_context",
    "load_error",
    "load_result",
    "payload_from",
    "warm",
]
