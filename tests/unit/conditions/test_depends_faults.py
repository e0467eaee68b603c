"""The thirty faults of the seed listing (design/conditions.md A.4), one test each: none of them is repeated."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

import trun.conditions as conditions
from trun.conditions.algebra import And, Condition
from trun.conditions.atoms import Atom, IsCompleted, IsFailed, IsFetched, IsMessage, IsResult, Level
from trun.conditions.decisions import Reason
from trun.conditions.depends import Depends
from trun.conditions.value import Value
from trun.errors import ConditionSyntaxError, ConditionWarning
from trun.messages import Aborted, Cancelled, Completed, Entry, Event, Failed, Improved, Said


class Log:
    """Two callbacks that note who was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reasons: list[Reason] = []

    def callbacks(self, name: str) -> tuple[Any, Any]:
        def cancel(reason: Reason) -> None:
            self.calls.append(f"{name} cancelled")
            self.reasons.append(reason)

        return lambda: self.calls.append(f"{name} ready"), cancel


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def depends() -> Depends:
    return Depends()


def entry(stream: str, event: Any, seq: int = 1) -> Entry:
    return Entry(stream=stream, seq=seq, epoch=1, time=0.0, event=event)


def test_fault_01_put_understands_its_own_message(depends: Depends, log: Log) -> None:
    a = Atom()
    depends.register(a, *log.callbacks("job"))

    depends.put(Depends.Notify(id=a.id, status="ready"))

    assert log.calls == ["job ready"]


def test_fault_02_a_cancelled_notification_differs_from_a_ready_one(depends: Depends, log: Log) -> None:
    a, b = Atom(), Atom()
    depends.register(a, *log.callbacks("a"))
    depends.register(b, *log.callbacks("b"))

    depends.put(Depends.Notify(id=a.id, status="cancelled"))
    depends.put(Depends.Notify(id=b.id, status="ready"))

    assert log.calls == ["a cancelled", "b ready"]


def test_fault_03_a_second_notification_of_a_level_is_heard(depends: Depends, log: Log) -> None:
    level, gate = Level(), Atom()
    depends.register(level & gate, *log.callbacks("job"))

    level.hold()
    level.release()
    gate.set_ready()
    assert log.calls == []
    level.hold()

    assert log.calls == ["job ready"]


def test_fault_04_an_atom_that_nobody_waits_for_is_harmless(depends: Depends) -> None:
    depends.put(Depends.Notify(id="nobody", status="ready"))
    depends.resolve("nobody")
    Atom().set_ready()

    assert len(depends) == 0


def test_fault_05_an_or_survives_its_second_side(depends: Depends, log: Log) -> None:
    a, b, c = Atom(), Atom(), Atom()
    depends.register(a | b, *log.callbacks("or"))
    depends.register(b & c, *log.callbacks("and"))

    a.set_ready()
    b.set_ready()
    c.set_ready()

    assert log.calls == ["or ready", "and ready"]


def test_fault_06_a_cancellation_reaches_its_callback(depends: Depends, log: Log) -> None:
    a, b = Atom(), Atom()
    depends.register(a & b, *log.callbacks("job"))

    a.set_cancelled("no beam")

    assert log.calls == ["job cancelled"]
    (reason,) = log.reasons
    assert reason.kind == "cancelled"
    assert reason.atoms == (a,)
    assert "no beam" in str(reason)


def test_fault_07_several_registrations_share_an_atom(depends: Depends, log: Log) -> None:
    a = Atom()
    for name in "xyz":
        depends.register(a, *log.callbacks(name))

    a.set_ready()

    assert log.calls == ["x ready", "y ready", "z ready"]


def test_fault_08_registering_after_the_event_fires(depends: Depends, log: Log) -> None:
    a, b, c = Atom(), Atom(), Atom()
    a.set_ready()
    b.set_cancelled()
    depends.put(Depends.Notify(id=c.id, status="ready"))

    depends.register(a, *log.callbacks("a"))
    depends.register(b, *log.callbacks("b"))
    depends.register(c, *log.callbacks("c"))

    assert log.calls == ["a ready", "b cancelled", "c ready"]


def test_fault_09_no_notification_is_lost_between_looking_and_entering(depends: Depends) -> None:
    lock = threading.Lock()
    counts = {"ready": 0, "cancelled": 0}

    def note(how: str) -> None:
        with lock:
            counts[how] += 1

    atoms = [Atom() for _ in range(200)]
    start = threading.Barrier(3)

    def register() -> None:
        start.wait()
        for atom in atoms:
            depends.register(atom, lambda: note("ready"), lambda reason: note("cancelled"))

    def settle() -> None:
        start.wait()
        for atom in atoms:
            atom.set_ready()

    threads = [threading.Thread(target=work) for work in (register, register, settle)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == {"ready": 400, "cancelled": 0}
    assert len(depends) == 0


def test_fault_10_a_callback_that_fails_or_reenters_leaves_the_others_alone(
    depends: Depends, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Atom(), Atom()
    depends.register(a, lambda: 1 / 0, lambda reason: None)
    depends.register(a, b.set_ready, lambda reason: None)
    depends.register(b, *log.callbacks("b"))
    depends.register(a, *log.callbacks("a"))

    with caplog.at_level(logging.ERROR):
        a.set_ready()

    assert log.calls == ["a ready", "b ready"]  # what a callback sets off queues behind those that were due
    assert [type(error) for error in depends.errors] == [ZeroDivisionError]
    assert "registration" in caplog.text


@pytest.mark.parametrize("event", [Aborted(), Failed(kind="raised"), Cancelled(), Completed()])
def test_fault_11_the_end_of_a_stream_is_recognised(depends: Depends, log: Log, event: Event) -> None:
    depends.register(IsMessage("job", "ready"), *log.callbacks("message"))

    depends.put(entry("job", event))

    assert log.calls == ["message cancelled"]


def test_fault_12_an_ended_atom_is_not_ready_too() -> None:
    atom = IsMessage("job", "ready")

    atom.see(Failed(kind="raised"))

    assert atom.cancelled
    with pytest.raises(Condition.Cancelled):
        _ = atom.ready


def test_fault_13_a_bad_predicate_is_refused_at_once_and_a_reason_is_kept(depends: Depends, log: Log) -> None:
    with pytest.raises(ConditionSyntaxError):
        IsResult("job", "chisq <")
    depends.register(IsCompleted("job"), *log.callbacks("job"))

    depends.put(entry("job", Failed(kind="raised")))

    assert "failed" in str(log.reasons[0])


def test_fault_14_the_final_result_is_tested_before_the_stream_ends(depends: Depends, log: Log) -> None:
    depends.register(IsResult("fit", "chisq < 2"), *log.callbacks("good"))
    depends.register(IsResult("fit", "chisq < 1"), *log.callbacks("better"))

    depends.put(entry("fit", Improved(values={"chisq": 5.0})))
    depends.put(entry("fit", Completed(values={"chisq": 1.5}), 2))

    assert log.calls == ["good ready", "better cancelled"]


def test_fault_15_an_atom_can_notify_by_itself(depends: Depends, log: Log) -> None:
    class Fetch(Atom):
        __slots__ = ()

        def start(self) -> None:
            self._ready = True
            self.notify()

    fetch = Fetch()
    depends.register(fetch, *log.callbacks("fetch"))

    fetch.start()

    assert log.calls == ["fetch ready"]


class FakeStream:
    """A stream that hands on at once, and remembers."""

    def __init__(self) -> None:
        self.queues: list[tuple[str, Any]] = []
        self.sent: list[tuple[str, Any]] = []

    def listen(self, key: str, queue: Any) -> None:
        self.queues.append((key, queue))

    def put(self, key: str, message: Any) -> None:
        self.sent.append((key, message))
        for other, queue in self.queues:
            if other == key:
                queue.put(message)


def test_fault_16_the_stream_is_one_and_is_handed_in(log: Log) -> None:
    stream = FakeStream()
    here, there = Depends(stream), Depends(stream)
    a = Atom()
    here.register(a, *log.callbacks("here"))
    there.register(a, *log.callbacks("there"))

    stream.put(Depends.STREAM, Depends.Notify(id=a.id, status="ready"))
    Depends.notify(a)

    assert log.calls == ["here ready", "there ready"]
    assert [key for key, _ in stream.sent] == ["condition", "condition"]


def test_fault_17_messages_before_the_registration_count() -> None:
    depends, log = Depends(), Log()
    atom = IsMessage("job", "half")
    atom.see(Said(name="half"))

    depends.register(atom, *log.callbacks("job"))

    assert log.calls == ["job ready"]


def test_fault_18_every_exported_name_exists() -> None:
    for name in ("IsFetched", "IsCompleted", "IsCancelled"):
        assert name in conditions.__all__
    assert all(hasattr(conditions, name) for name in conditions.__all__)


def test_fault_19_each_atom_prints_as_what_it_is() -> None:
    assert "iscompleted" in str(IsCompleted("fit"))
    assert "chisq < 2" in str(IsResult("fit", "chisq < 2"))
    assert str(IsResult("fit", "chisq < 2")) != str(IsCompleted("fit"))


def test_fault_20_a_dead_condition_cancels_and_a_true_one_readies(depends: Depends, log: Log) -> None:
    a, b = Atom(), Atom()
    depends.register(a & b, *log.callbacks("dead"))
    depends.register(a | b, *log.callbacks("alive"))

    a.set_never()
    b.set_ready()

    assert log.calls == ["dead cancelled", "alive ready"]


def test_fault_21_ids_are_unique_everywhere() -> None:
    found = {Atom().id for _ in range(100)} | {Level().id for _ in range(100)}

    assert len(found) == 200
    assert all(isinstance(id, str) and len(id) >= 32 for id in found)


def test_fault_22_the_order_of_operands_is_not_observable() -> None:
    false, cancelled = Atom(), Atom()
    cancelled.set_cancelled()

    for condition in (false & cancelled, cancelled & false):
        assert condition.cancelled
        with pytest.raises(Condition.Cancelled):
            _ = condition.ready


def test_fault_23_the_negation_of_something_true_is_decided(depends: Depends, log: Log) -> None:
    a = Atom()
    depends.register(~a & Atom(), *log.callbacks("job"))

    a.set_ready()

    assert (~a).never
    assert not (~a).cancelled
    assert log.calls == ["job cancelled"]
    assert log.reasons[0].kind == "never"


def test_fault_24_never_waits_until_it_is_decided(depends: Depends, log: Log) -> None:
    fit, failed = IsCompleted("a"), IsFailed("b")
    depends.register(fit & conditions.never(failed), *log.callbacks("job"))

    depends.put(entry("a", Completed()))
    assert log.calls == []
    depends.put(entry("b", Completed()))

    assert log.calls == ["job ready"]


def test_fault_25_wide_and_deep_conditions_neither_recurse_nor_grow_quadratically(depends: Depends, log: Log) -> None:
    atoms = [IsCompleted(f"job{n}") for n in range(5_000)]
    chain: Condition = atoms[0]
    for atom in atoms[1:]:
        chain = chain & atom
    deep: Condition = atoms[0]
    for n, atom in enumerate(atoms[1:]):
        deep = deep & atom if n % 2 else deep | atom
    depends.register(And(*atoms), *log.callbacks("wide"))
    depends.register(chain, *log.callbacks("chain"))
    depends.register(deep, *log.callbacks("deep"))

    for atom in atoms:
        depends.put(entry(atom.subject, Completed()))

    assert sorted(log.calls) == ["chain ready", "deep ready", "wide ready"]


def test_fault_26_a_resolver_looks_only_at_what_it_waits_for(depends: Depends, log: Log) -> None:
    other = Depends()
    mine = IsCompleted("mine")
    depends.register(mine, *log.callbacks("mine"))

    for n in range(100):
        depends.put(entry(f"stranger{n}", Completed()))
        other.put(entry("mine", Completed()))

    assert log.calls == []
    assert len(depends) == 1


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "().__class__", "open('x')", "lambda: 1", "[x for x in y]"]
)
def test_fault_27_a_predicate_is_no_code(text: str) -> None:
    with pytest.raises(ConditionSyntaxError):
        IsResult("job", text)


def test_fault_28_a_download_that_ends_badly_does_not_wait_for_ever(depends: Depends, log: Log) -> None:
    depends.register(IsFetched("fetch"), *log.callbacks("job"))

    depends.put(entry("fetch", Failed(kind="raised")))

    assert log.calls == ["job cancelled"]


def test_fault_29_registrations_have_ids_in_python_3(depends: Depends, log: Log) -> None:
    first, second = depends.register(Atom(), *log.callbacks("a")), depends.register(Atom(), *log.callbacks("b"))

    assert first != second
    assert time.time() > 0


def test_fault_30_a_waiting_registration_can_be_withdrawn(depends: Depends, log: Log) -> None:
    a = Atom()
    id = depends.register(a, *log.callbacks("job"))

    assert depends.withdraw(id)
    a.set_ready()

    assert log.calls == []
    assert not depends.withdraw(id)
    assert len(depends) == 0
    with pytest.warns(ConditionWarning):
        a.set_cancelled()
    assert a.value is Value.TRUE
