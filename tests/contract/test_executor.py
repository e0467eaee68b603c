"""What every executor promises: one true end per order; results, failures and workers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract.executor_kit import Rig, add, raise_picky, wait_for_text
from trun.adapters import pickles
from trun.messages import Completed

# -- results ----------------------------------------------------------------------------------------------------------


def nothing() -> None:
    pass


@dataclasses.dataclass
class Curve:
    name: str
    chisq: float
    points: Any = None


def test_a_call_gives_its_result(rig: Rig) -> None:
    assert rig.value(add, 2, kwargs={"b": 3}) == 5


def test_a_result_of_nothing_is_none(rig: Rig) -> None:
    assert rig.value(nothing) is None


def test_plain_parts_of_a_result_travel_beside_it(rig: Rig) -> None:
    outcome = rig.run(Curve, "a", np.float64(1.5), [1, 2])

    assert isinstance(outcome, Completed)
    assert outcome.values == {"name": "a", "chisq": 1.5}
    assert rig.result(outcome) == Curve("a", 1.5, [1, 2])


def test_time_and_memory_are_reported(rig: Rig) -> None:
    outcome = rig.run(sum, range(500_000))

    assert isinstance(outcome, Completed)
    assert 0 < outcome.seconds < 30
    assert 5 << 20 < outcome.peak_rss < 1 << 30


def test_lambdas_closures_and_local_classes_travel(rig: Rig) -> None:
    offset = 10

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    assert rig.value(lambda x: x + offset, 1) == 11
    found = rig.value(lambda: Local(offset))
    assert type(found) is Local
    assert found.x == 10


def test_a_coroutine_function_is_awaited(rig: Rig) -> None:
    async def late(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert rig.value(late, 1) == 2


def test_arrays_come_back_writable(rig: Rig) -> None:
    for size in (10, 200_000, 1_000_000):
        array = np.arange(size, dtype=float)

        def grow(given: Any) -> Any:
            given += 1
            return given

        found = rig.value(grow, array)

        assert np.array_equal(found, array + 1)
        found[0] = -1
        assert array[0] == 0


def test_results_of_other_jobs_are_filled_in(rig: Rig) -> None:
    class Later:
        def __reduce_ex__(self, protocol: Any) -> Any:
            return pickles.defer("j1", (("item", "x"), ("attr", "real")))

    payload, _ = pickles.dump_result({"x": 3})

    uid = rig.submit(lambda where: where["a"][0].points, {"a": [Curve("c", 0.0, Later())]}, inputs={"j1": payload})

    assert rig.result(rig.outcome(uid)) == 3
    assert rig.orders[uid].spec.inputs == ("j1",)


def test_a_big_call_and_a_big_result_travel(rig: Rig) -> None:
    text = "x" * 300_000

    assert rig.value(lambda given: given * 2, text) == text * 2
    assert len(rig.value(lambda: list(range(300_000)))) == 300_000


FACTOR = 2


def test_a_global_that_was_rebound_between_two_submits_counts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, Any] = {"__name__": "__main__", "K": 2}
    exec("def scaled(x):\n    return K * x", scope)

    first = rig.value(scope["scaled"], 10)
    scope["K"] = 3

    assert (first, rig.value(scope["scaled"], 10)) == (20, 30)


def test_what_one_job_changes_in_its_function_is_not_seen_by_the_next(make: Callable[..., Rig]) -> None:
    rig, seen = make(1), []

    def remember(x: int) -> int:
        seen.append(x)
        return len(seen)

    assert [rig.value(remember, x) for x in range(3)] == [1, 1, 1]


def test_a_module_in_the_working_folder_is_found(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_the_script.py").write_text("import os\ndef here():\n    return os.getcwd()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside_the_script  # type: ignore[import-not-found]

    try:
        assert rig.value(beside_the_script.here) == str(tmp_path)
    finally:
        del sys.modules["beside_the_script"]


def test_an_order_given_twice_runs_once(rig: Rig) -> None:
    order = rig.order(add, 1)

    rig.give([order])
    rig.executor.submit([order])

    assert rig.result(rig.outcome(order.uid)) == 2


# -- failures ---------------------------------------------------------------------------------------------------------


def raise_(error: BaseException) -> None:
    raise error


def chained() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        outer = ValueError("outer")
        outer.add_note("and a note")
        raise outer from error


def open_things() -> dict[str, Callable[[], Any]]:
    return {
        "generator": lambda: (i for i in range(3)),
        "_io.TextIOWrapper": lambda: open("/dev/null"),
        "_thread.lock": threading.Lock,
        "socket.socket": socket.socket,
    }


def test_an_exception_comes_back_with_its_type_and_traceback(rig: Rig) -> None:
    failed = rig.failure(rig.submit(chained))

    assert failed.kind == "raised"
    assert failed.error is not None
    error = pickles.load_error(failed.error)
    assert type(error) is ValueError
    text = str(error.__cause__)
    assert "KeyError: 'inner'" in text
    assert "and a note" in text
    assert "launcher.py" not in text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), SystemExit(0)])
def test_exceptions_that_would_end_a_process_are_failures(rig: Rig, error: BaseException) -> None:
    failed = rig.failure(rig.submit(raise_, error))

    assert failed.kind == "raised"
    assert failed.error is not None
    assert type(pickles.load_error(failed.error)).__name__ == type(error).__name__
    assert isinstance(pickles.load_error(failed.error), Exception)
    assert rig.value(add, 1) == 2


def test_an_exception_that_cannot_be_unpickled_travels_as_text(rig: Rig) -> None:
    failed = rig.failure(rig.submit(raise_picky))

    assert failed.error is not None
    assert failed.error.pickled == b""
    error = pickles.load_error(failed.error)
    assert (type(error).__name__, str(error)) == ("Picky", "1 and 2")


@pytest.mark.parametrize("kind", sorted(open_things()))
def test_a_result_that_cannot_be_pickled_is_named(rig: Rig, kind: str) -> None:
    thing = open_things()[kind]

    failed = rig.failure(rig.submit(lambda: {"x": [1, thing()]}))

    assert failed.error is not None
    assert failed.error.type == "trun.errors.NotPicklable"
    assert f"result['x'][1] is a {kind}" in failed.error.message


def test_an_input_that_is_not_there_is_a_failure(rig: Rig) -> None:
    def missing() -> None:
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401

    failed = rig.failure(rig.submit(missing))

    assert failed.error is not None
    assert failed.error.type == "builtins.ModuleNotFoundError"


# -- workers ----------------------------------------------------------------------------------------------------------


def where() -> int:
    return os.getpid()


def test_as_many_jobs_run_at_once_as_there_are_workers(make: Callable[..., Rig]) -> None:
    rig = make(2)
    uids = [rig.submit(wait_for_text) for _ in range(2)]
    pids = [rig.said(uid)[0] for uid in uids]

    assert len(set(pids)) == 2
    assert rig.executor.room().idle == 0

    for uid in uids:
        rig.tell(uid, "end")
        rig.outcome(uid)
    assert rig.executor.room().idle == 2


def test_a_fresh_job_has_a_process_of_its_own(make: Callable[..., Rig]) -> None:
    rig = make(1)
    warm = rig.value(where)

    fresh = [rig.value(where, isolation="fresh") for _ in range(3)]

    assert len({warm, *fresh}) == 4


def test_a_waiting_parent_gives_its_slot_away(make: Callable[..., Rig]) -> None:
    rig = make(1)
    parent = rig.submit(wait_for_text)
    rig.said(parent)

    rig.executor.suspend(parent, 1)
    assert rig.executor.room().idle == 1
    assert rig.value(add, 1) == 2

    rig.executor.resume(parent, 1)
    assert rig.executor.room().idle == 0
    rig.tell(parent, "end")
    assert rig.result(rig.outcome(parent)) == "end"
