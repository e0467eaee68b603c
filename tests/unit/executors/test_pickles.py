"""Calls, results, functions and errors as bytes: what travels, how, and what is said when it cannot."""

from __future__ import annotations

import collections
import dataclasses
import errno
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun import errors
from trun.adapters import blobs, pickles, places, values
from trun.adapters.blobs import BIG_BYTES, BlobFolder
from trun.errors import BadOption, JobFailed, NotPicklable, ProtocolError, RemoteTraceback, StateFull, WorkerDied
from trun.messages import Blob, Completed, Entry, ErrorInfo, Payload


def round_trip(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    payload, _ = pickles.dump_call(args, kwargs)
    _, data = pickles.dump_function(print)
    _, found, named = pickles.load_call(data, payload, {})
    return found, named


class Later:
    """A deferred result."""

    def __init__(self, uid: str, *path: tuple[str, Any]) -> None:
        self.uid, self.path = uid, path

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pickles.defer(self.uid, self.path)


@dataclasses.dataclass
class Model:
    name: str
    part: Any = None


Point = collections.namedtuple("Point", "x y")


def made_in_main(source: str) -> dict[str, Any]:
    """Return the names of a script of that source."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(source, scope)
    return scope


# -- calls ------------------------------------------------------------------------------------------------------------


@given(st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=10))
def test_plain_arguments_come_back_equal(value: Any) -> None:
    assert round_trip(value, key=value) == ((value,), {"key": value})


def test_a_small_call_is_one_piece_without_buffers() -> None:
    payload, uids = pickles.dump_call((1,), {})

    assert payload.buffers == ()
    assert payload.blob is None
    assert uids == ()


@pytest.mark.parametrize("size", [10, BIG_BYTES // 8 + 1])
def test_arrays_come_back_writable_and_apart(size: int) -> None:
    array = np.arange(size, dtype=float)

    ((found,), _) = round_trip(array)
    found[0] = 7

    assert array[0] == 0


def test_big_buffers_go_aside_in_order(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path / "blobs")
    arrays = [np.full(BIG_BYTES // 8 + i, float(i)) for i in range(3)]

    payload, _ = pickles.dump_call((arrays,), {}, big=lambda view: folder.write([view]))

    assert [buffer.size for buffer in payload.buffers if isinstance(buffer, Blob)] == [a.nbytes for a in arrays]
    assert len(payload.data or b"") < 1000
    _, data = pickles.dump_function(print)
    _, (found,), _ = pickles.load_call(data, payload, {}, folder.open)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, found, strict=True))
    found[0][0] = -1.0


def test_the_type_alone_says_whether_an_argument_is_plain() -> None:
    class Number(int):
        pass

    payload, _ = pickles.dump_call((Number(3), "__main__", 4), {})

    number, text, four = pickles.load_call(pickles.dump_function(len)[1], payload, {})[1]
    assert (number, type(number), text, four) == (3, Number, "__main__", 4)


def test_a_big_text_goes_aside_too(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path)

    payload, values_ = pickles.dump_result("x" * BIG_BYTES, big=lambda view: folder.write([view]))

    assert payload.data is None
    assert values_ == {}
    assert pickles.load_result(payload, folder.open) == "x" * BIG_BYTES


def test_classes_of_a_script_travel_by_value_and_stay_the_same_class() -> None:
    scope = made_in_main(
        "class Local:\n    def __init__(self, x): self.x = x\n    def twice(self): return 2 * self.x\n"
    )

    ((found,), _) = round_trip(scope["Local"](4))

    assert type(found) is scope["Local"]
    assert found.twice() == 8


def test_modules_registered_by_value_are_pickled_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_alone.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_alone  # type: ignore[import-not-found]

    cloudpickle.register_pickle_by_value(mine_alone)
    try:
        _, data = pickles.dump_function(mine_alone.double)
        payload, _ = pickles.dump_call((mine_alone.double,), {})
    finally:
        cloudpickle.unregister_pickle_by_value(mine_alone)
        del sys.modules["mine_alone"]
    (tmp_path / "mine_alone.py").unlink()

    fn, (argument,), _ = pickles.load_call(data, payload, {})
    assert (fn(2), argument(3)) == (4, 6)


# -- deferred results -------------------------------------------------------------------------------------------------


def test_deferred_results_are_filled_in_at_any_depth() -> None:
    made = {"a": [Model("m", (Later("j1", ("item", "x")), {Point(1, Later("j2"))}))]}
    inputs = {"j1": pickles.dump_result({"x": 5})[0], "j2": pickles.dump_result(7)[0]}

    payload, uids = pickles.dump_call((made,), {"key": Later("j1", ("item", "x"), ("attr", "real"))})
    _, data = pickles.dump_function(print)
    _, (found,), kwargs = pickles.load_call(data, payload, inputs)

    assert uids == ("j1", "j2")
    assert found == {"a": [Model("m", (5, {Point(1, 7)}))]}
    assert kwargs == {"key": 5}


def test_uids_come_in_order_of_first_appearance_also_by_value() -> None:
    scope = made_in_main("class Local: pass")
    local = scope["Local"]()
    local.parts = [Later("b"), Later("a"), Later("b")]

    _, uids = pickles.dump_call((local,), {})

    assert uids == ("b", "a")


def test_an_input_is_loaded_once_and_only_if_it_is_used() -> None:
    payload, _ = pickles.dump_call(([Later("j"), Later("j")],), {})
    inputs = {"j": pickles.dump_result([1])[0], "unused": Payload(b"no pickle at all")}

    _, data = pickles.dump_function(print)
    _, (found,), _ = pickles.load_call(data, payload, inputs)

    assert found[0] is found[1]


def test_a_deferred_result_can_travel_as_an_argument_only() -> None:
    for pickled in (lambda: pickle.dumps(Later("j")), lambda: pickles.dump_result([Later("j")])):
        with pytest.raises(NotPicklable, match=r"only travel as an argument of a job.*\.result\(\)"):
            pickled()

    captured = Later("j")
    with pytest.raises(NotPicklable, match="only travel as an argument"):
        pickles.dump_function(lambda: captured)


def test_an_input_that_is_missing_is_named() -> None:
    payload, _ = pickles.dump_call((Later("gone"),), {})
    _, data = pickles.dump_function(print)

    with pytest.raises(NotPicklable, match="result of job gone"):
        pickles.load_call(data, payload, {})


# -- what cannot be pickled -------------------------------------------------------------------------------------------


def fit(model: Any, *rest: Any, **more: Any) -> None:
    pass


class Holder:
    def __init__(self, thing: Any) -> None:
        self.thing = thing


class Slotted:
    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing


@pytest.fixture
def things() -> Iterator[dict[str, Any]]:
    with open(os.devnull) as file, socket.socket() as connection, sqlite3.connect(":memory:") as base:
        yield {
            "lock": threading.Lock(),
            "file": file,
            "socket": connection,
            "generator": (i for i in range(3)),
            "database": base,
        }
    base.close()


KINDS = {
    "lock": "_thread.lock",
    "file": "_io.TextIOWrapper",
    "socket": "socket.socket",
    "generator": "generator",
    "database": "sqlite3.Connection",
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_cannot_be_pickled_is_named_by_its_path(things: dict[str, Any], name: str) -> None:
    thing = things[name]
    pickles.dump_function(fit)
    places_: list[tuple[tuple[Any, ...], dict[str, Any], str, str]] = [
        ((thing,), {}, "model", "args[0]"),
        ((Holder(thing),), {}, "model.thing", "args[0].thing"),
        ((Slotted(thing),), {}, "model.thing", "args[0].thing"),
        ((Model("m", [1, {"k": thing}]),), {}, "model.part[1]['k']", "args[0].part[1]['k']"),
        ((Point(1, thing),), {}, "model.y", "args[0].y"),
        ((1, thing), {}, "1", "args[1]"),
        ((1,), {"extra": (thing,)}, "extra[0]", "kwargs['extra'][0]"),
    ]
    for args, kwargs, words, path in places_:
        with pytest.raises(NotPicklable) as caught:
            pickles.dump_call(args, kwargs)
        assert str(caught.value).startswith(f"argument {words} ({path}) is a {KINDS[name]}, which cannot be sent")
        assert caught.value.path == path


def test_results_and_functions_are_named_too(things: dict[str, Any]) -> None:
    with pytest.raises(NotPicklable, match=r"^result\['x'\]\[0\]\.thing is a _thread\.lock"):
        pickles.dump_result({"x": [Holder(things["lock"])]})

    lock = things["lock"]
    with pytest.raises(NotPicklable, match=r"^function .*<lambda> variable lock is a _thread\.lock.*inside the job"):
        pickles.dump_function(lambda: lock)


def test_a_cycle_of_containers_is_searched_without_end_but_once() -> None:
    loop: list[Any] = [threading.Lock()]
    loop.append(loop)

    with pytest.raises(NotPicklable, match=r"args\[0\]\[0\]"):
        pickles.dump_call((loop,), {})


# -- results ----------------------------------------------------------------------------------------------------------


class Sealed:
    __slots__ = ("x",)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, {}),
        (3, {"result": 3}),
        (True, {"result": True}),
        (np.float32(0.5), {"result": 0.5}),
        (np.array(2.5), {"result": 2.5}),
        ("ok", {"result": "ok"}),
        (1 << 80, {}),
        ("x" * 5000, {}),
        ([1, 2], {}),
        (np.zeros(3), {}),
        ({"chisq": np.float64(1.5), "x": [1], "none": None, 3: 4}, {"chisq": 1.5, "none": None}),
        (Model("m", 2), {"name": "m", "part": 2}),
        (Point(1, [2]), {"x": 1}),
        (Sealed(), {}),
    ],
)
def test_the_plain_part_of_a_result(value: Any, plain: dict[str, Any]) -> None:
    assert pickles.dump_result(value)[1] == plain


def test_results_of_scipy_show_their_scalars() -> None:
    from scipy.optimize import OptimizeResult

    _, plain = pickles.dump_result(OptimizeResult(fun=np.float64(0.25), nit=7, success=True, x=np.zeros(2)))

    assert plain == {"fun": 0.25, "nit": 7, "success": True}


def test_only_plain_values_may_be_said() -> None:
    assert values.plain((1, {"a": np.int8(2)}), "x") == [1, {"a": 2}]
    for bad, words in (
        (np.zeros(2), "must be plain data"),
        ({1: 2}, "keys must be text"),
        (1 << 70, "more than 64 bits"),
        (object(), "must be plain data"),
    ):
        with pytest.raises(BadOption, match=words):
            values.plain([bad], "x")


# -- errors -----------------------------------------------------------------------------------------------------------


class Picky(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def caught(error: BaseException) -> ErrorInfo:
    try:
        raise error
    except BaseException as found:
        return pickles.dump_error(found, tail="printed")


def test_an_error_comes_back_as_itself_with_the_remote_traceback() -> None:
    error = pickles.load_error(caught(KeyError("k")))

    assert type(error) is KeyError
    assert error.args == ("k",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "test_pickles.py" in str(error.__cause__)
    assert "printed" in str(error.__cause__)


@pytest.mark.parametrize("error", [Picky(1, 2), SystemExit(3), KeyboardInterrupt(), ValueError(threading.Lock())])
def test_an_error_that_does_not_survive_is_named_by_a_stand_in(error: BaseException) -> None:
    info = caught(error)

    found = pickles.load_error(info)

    assert info.pickled == b""
    assert isinstance(found, JobFailed)
    assert type(found).__name__ == type(error).__name__
    assert found.original_type == info.type  # type: ignore[attr-defined]


def test_an_error_without_a_text_can_be_told_of() -> None:
    info = caught(Mute())

    assert "its text cannot be had" in info.message
    assert type(pickles.load_error(info)) is Mute


def test_our_own_errors_come_back_with_their_facts() -> None:
    info = ErrorInfo(type="trun.errors.WorkerDied", message="it died", exitcode=3, signal=None)

    error = pickles.load_error(info)

    assert isinstance(error, WorkerDied)
    assert (str(error), error.exitcode, error.signal) == ("it died", 3, None)
    assert error.__cause__ is None


def test_trun_errors_that_a_payload_raises_come_back() -> None:
    info = caught(errors.UnknownName("there is no 'fitt'.", name="fitt", known=["fit"]))

    for trusted in (True, False):
        error = pickles.load_error(info, trusted=trusted)
        assert isinstance(error, errors.UnknownName)
        assert (str(error), error.suggestions) == ("there is no 'fitt'. Did you mean 'fit'?", ("fit",))


def test_bytes_that_are_no_pickle_cannot_break_the_reader() -> None:
    error = pickles.load_error(ErrorInfo(type="a.b.Odd", message="m", pickled=b"garbage"))

    assert (type(error).__name__, str(error)) == ("Odd", "m")


# -- blobs, places, plain data ----------------------------------------------------------------------------------------


def test_a_blob_lives_on_where_it_is_mapped_and_is_never_changed_by_its_readers(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path / "new" / "blobs")
    blob = folder.write([b"abc", bytearray(b"def"), memoryview(b"")])
    view = folder.open(blob)

    view[0] = ord("X")
    again = bytes(folder.open(blob))
    folder.remove(blob.name)
    folder.remove(blob.name)

    assert (bytes(view), again) == (b"Xbcdef", b"abcdef")
    assert list(folder.path.iterdir()) == []


def test_a_blob_that_was_put_away_is_there_still(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path)
    blob = folder.write([b"x" * 100_000])
    view = folder.open(blob)

    folder.put_away(blob)
    assert bytes(view) == bytes(folder.open(blob)) == b"x" * 100_000
    folder.remove(blob.name)
    folder.put_away(blob)


def test_an_empty_blob_is_a_blob(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path)

    assert bytes(folder.open(folder.write([]))) == b""


def test_a_full_disk_is_not_laid_at_the_value_s_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, pieces: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(blobs, "_write_all", full)
    big, write = bytes(2 * BIG_BYTES), pickles.blob_writer(tmp_path)

    for dump in (lambda: pickles.dump_result([big], big=write), lambda: pickles.dump_call((big,), {}, big=write)):
        with pytest.raises(StateFull, match="no space is left") as caught:
            dump()
        assert str(tmp_path) in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "blobs").iterdir()) == []


def test_only_our_own_names_are_opened(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path)
    blob = folder.write([b"abc"])

    for name in ("../secret", "", "a" * 31, "A" * 32, f"{blob.name}\n"):
        with pytest.raises(ProtocolError, match="is no name of a blob"):
            folder.open(Blob(name, 3))
    with pytest.raises(ProtocolError, match="has 3 bytes instead of 4"):
        folder.open(Blob(blob.name, 4))


def test_a_context_holds_the_folders_of_the_user_alone() -> None:
    _, data = pickles.dump_context("/here", ["/here", "/lib/mine", os.path.dirname(os.__file__)])

    assert pickles.load_context(data) == ("/here", ["/here", "/lib/mine"])
    assert places.join(["/a", "/b"], ["/b", "/c"]) == ["/a", "/b", "/c"]


def test_digests_tell_parts_apart() -> None:
    assert pickles.digest_of(b"ab", b"c") != pickles.digest_of(b"a", b"bc")
    assert len(pickles.digest_of("x", Payload(b"1"), b"")) == 32


def test_messages_come_back_from_plain_data() -> None:
    import msgspec

    event = Completed(result=Payload(b"x", None, (b"y", Blob("n", 3))), values={"a": 1})
    entry = Entry("job", 1, 1, 0.0, event)

    def plain(message: Any) -> Any:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(message))

    assert pickles.entry_from(plain(entry)) == entry
    assert pickles.event_from(plain(event)) == event
    assert pickles.payload_from(plain(event.result)) == event.result
    assert pickles.payload_from(None) is None
    assert pickles.event_from(None) is None


def test_cloudpickle_is_not_imported_for_plain_values() -> None:
    source = (
        "import sys\nfrom trun.adapters import pickles\n"
        "pickles.dump_function(len)\npickles.dump_call((1, {'a': 2.0}), {})\npickles.dump_result([1])\n"
        "print('cloudpickle' in sys.modules, 'numpy' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"
