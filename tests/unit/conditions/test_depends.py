"""Depends: callbacks, threads, time and the world."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from trun.conditions.algebra import And, Condition, Never, Not
from trun.conditions.atoms import (
    Atom,
    IsCompleted,
    IsFailed,
    IsProgress,
    IsStarted,
    Level,
    WorldAtom,
    changed,
    exists,
    next_rise,
)
from trun.conditions.decisions import Reason
from trun.conditions.depends import Depends
from trun.conditions.timing import after, at, before, held, since
from trun.conditions.value import Value
from trun.errors import BadOption, ConditionTypeError, ConditionWarning
from trun.messages import Completed, Entry, Failed, Progress


class Log(list[str]):
    """What was called, in order."""

    def callbacks(self, name: str = "job") -> tuple[Callable[[], None], Callable[[Reason], None]]:
        return lambda: self.append(f"{name} ready"), lambda reason: self.append(f"{name} {reason.kind}")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def depends(clock: Clock) -> Depends:
    return Depends(clock=clock, look=lambda atom: 2)


def test_an_empty_and_is_ready_at_once(depends: Depends, log: Log) -> None:
    depends.register(And(), *log.callbacks())

    assert log == ["job ready"]


def test_an_atom_reaches_every_depends_of_the_process(log: Log) -> None:
    several = [Depends() for _ in range(3)]
    atom = Atom()
    for n, depends in enumerate(several):
        depends.register(atom, *log.callbacks(str(n)))

    atom.set_ready()

    assert sorted(log) == ["0 ready", "1 ready", "2 ready"]


def test_a_message_settles_an_atom_for_one_depends_only(depends: Depends, log: Log) -> None:
    atom, other = Atom(), Depends()
    depends.register(atom, *log.callbacks("here"))
    other.register(atom, *log.callbacks("there"))

    depends.put(Depends.Notify(id=atom.id, status="ready"))

    assert log == ["here ready"]
    assert atom.value is Value.WAIT


def test_a_contradicting_message_is_ignored_and_warned_about(depends: Depends, log: Log) -> None:
    a, b = Atom(), Atom()
    depends.register(a & b, *log.callbacks())
    depends.put(Depends.Notify(id=a.id, status="ready"))

    depends.put(Depends.Notify(id=a.id, status="ready"))
    with pytest.warns(ConditionWarning, match="settled"):
        depends.put(Depends.Notify(id=a.id, status="cancelled"))
    b.set_ready()

    assert log == ["job ready"]


def test_an_unknown_status_names_the_nearest(depends: Depends) -> None:
    with pytest.raises(BadOption, match="'cancelled'"):
        depends.put(Depends.Notify(id="x", status="canceled"))


@pytest.mark.parametrize("thing", [None, 3, "ready", object()])
def test_only_conditions_are_registered_and_only_messages_put(depends: Depends, thing: Any) -> None:
    with pytest.raises(ConditionTypeError):
        depends.register(thing, lambda: None, lambda: None)
    with pytest.raises(BadOption):
        depends.put(thing)
    with pytest.raises(BadOption, match="cancel"):
        depends.register(Atom(), lambda: None, thing)


def test_a_cancel_without_arguments_is_called_without(depends: Depends, log: Log) -> None:
    atom = Atom()
    depends.register(atom, lambda: log.append("ready"), lambda: log.append("cancelled"))

    atom.set_cancelled()

    assert log == ["cancelled"]


def test_entries_of_job_streams_settle_atoms(depends: Depends, log: Log) -> None:
    depends.register(IsCompleted("a") & IsProgress("b", 0.5), *log.callbacks())

    depends.put(Entry(stream="b", seq=1, epoch=1, time=0.0, event=Progress(fraction=0.4)))
    depends.put(Entry(stream="a", seq=1, epoch=1, time=0.0, event=Completed()))
    assert log == []
    depends.put(Entry(stream="b", seq=2, epoch=1, time=0.0, event=Progress(fraction=0.6)))

    assert log == ["job ready"]


def test_an_atom_of_the_client_that_sees_its_stream_reports_by_itself(depends: Depends, log: Log) -> None:
    atom = IsCompleted("a")
    depends.register(atom, *log.callbacks())

    atom.see(Completed())

    assert log == ["job ready"]


def test_a_long_chain_of_callbacks_does_not_recurse(depends: Depends) -> None:
    atoms = [Atom() for _ in range(3_000)]
    for atom, following in itertools.pairwise(atoms):
        depends.register(atom, following.set_ready, lambda reason: None)

    atoms[0].set_ready()

    assert atoms[-1].ready


def test_an_interrupt_in_a_callback_passes_after_the_others_were_called(depends: Depends, log: Log) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    atom = Atom()
    depends.register(atom, interrupt, lambda: None)
    depends.register(atom, *log.callbacks())

    with pytest.raises(KeyboardInterrupt):
        atom.set_ready()

    assert log == ["job ready"]


def test_callbacks_run_without_the_lock(depends: Depends, log: Log) -> None:
    first, second = Atom(), Atom()
    depends.register(second, *log.callbacks("second"))

    def in_another_thread() -> None:
        thread = threading.Thread(target=second.set_ready)
        thread.start()
        thread.join(10)
        log.append("first ready")

    depends.register(first, in_another_thread, lambda: None)
    first.set_ready()

    assert log == ["second ready", "first ready"]


def test_each_registration_is_called_once_whoever_settles(log: Log) -> None:
    depends, calls = Depends(), []
    atoms = [Atom() for _ in range(50)]
    for n in range(50):
        depends.register(atoms[n] | atoms[(n + 1) % 50], lambda n=n: calls.append(n), lambda: None)  # type: ignore[misc]
    start = threading.Barrier(4)

    def settle(mine: list[Atom]) -> None:
        start.wait()
        for atom in mine:
            atom.set_ready()

    threads = [threading.Thread(target=settle, args=(atoms[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(calls) == list(range(50))


def test_a_depends_that_nobody_holds_is_forgotten() -> None:
    depends = Depends()
    weak = weakref.ref(depends)
    depends.register(after(3600), lambda: None, lambda: None)

    del depends
    gc.collect()

    # The timer's thread may hold it for the moment of one look.
    if (thread := next((t for t in threading.enumerate() if t.name == "trun-depends"), None)) is not None:
        thread.join(10)
    assert weak() is None


def test_a_span_counts_from_registration(depends: Depends, clock: Clock, log: Log) -> None:
    depends.register(after("10s"), *log.callbacks())

    clock.now += 9
    depends.advance()
    assert log == []
    clock.now += 1
    depends.advance()

    assert log == ["job ready"]


def test_a_deadline_cancels(depends: Depends, clock: Clock, log: Log) -> None:
    depends.register(Atom().within("10m"), *log.callbacks("within"))
    depends.register(Atom() & before(clock.now + 700), *log.callbacks("before"))
    depends.register(Atom() | at(clock.now + 650), *log.callbacks("anyway"))

    clock.now += 2000
    depends.advance()

    assert log == ["within never", "before never", "anyway ready"]


def test_a_message_after_an_unseen_deadline_comes_too_late(depends: Depends, clock: Clock, log: Log) -> None:
    atom = Atom()
    depends.register(atom.within("10s"), *log.callbacks())

    clock.now += 11
    atom.set_ready()

    assert log == ["job never"]


def test_held_starts_anew_when_it_lapses(depends: Depends, clock: Clock, log: Log) -> None:
    level = Level(holds=True)
    depends.register(held(level, "60s"), *log.callbacks())

    clock.now += 59
    level.release()
    level.hold()
    clock.now += 59
    depends.advance()
    assert log == []
    clock.now += 1
    depends.advance()

    assert log == ["job ready"]


def test_since_looks_at_which_came_later(depends: Depends, log: Log) -> None:
    trigger, reset = Level(), Level()
    depends.register(since(trigger, reset) & Not(reset), *log.callbacks("after"))
    trigger.hold()
    assert log == ["after ready"]
    reset.hold()

    depends.register(since(trigger, reset), *log.callbacks("again"))
    assert log == ["after ready"]
    trigger.release()
    trigger.hold()

    assert log == ["after ready", "again ready"]


def test_since_knows_what_came_true_before_the_registration(depends: Depends, log: Log) -> None:
    a, b, c = Atom(), Atom(), Atom()
    for atom in (b, a, c):
        atom.set_ready()

    depends.register(since(a, b), *log.callbacks("a since b"))
    depends.register(since(b, a), *log.callbacks("b since a"))
    depends.register(since(a & b, c), *log.callbacks("both since c"))
    depends.register(since(a & c, a | b), *log.callbacks("both since either"))

    assert log == ["a since b ready", "b since a never", "both since c never", "both since either ready"]


def test_what_one_event_brings_about_has_no_order(depends: Depends, log: Log) -> None:
    started, failed, other = IsStarted("j"), IsFailed("j"), Atom()
    depends.register(since(started, failed), *log.callbacks("early"))
    rise = next_rise()
    for atom in (failed, started):
        atom.see(Failed(kind="raised"), rise)
    other.set_ready()

    depends.register(since(started, failed), *log.callbacks("late"))
    depends.register(since(other, failed), *log.callbacks("other since failed"))

    assert log == ["early never", "late never", "other since failed ready"]


def test_since_knows_what_messages_told_before_the_registration(depends: Depends, log: Log) -> None:
    first, second = IsFailed("a"), IsFailed("b")
    for atom in (first, second):
        depends.put(Depends.Notify(id=atom.key, status="ready"))

    depends.register(since(second, first), *log.callbacks("second since first"))
    depends.register(since(first, second), *log.callbacks("first since second"))

    assert log == ["second since first ready", "first since second never"]


def test_a_level_that_closes_settles(depends: Depends, log: Log) -> None:
    level = Level()
    depends.register(level, *log.callbacks("level"))
    depends.register(Never(level), *log.callbacks("never"))

    level.close()

    assert log == ["level never", "never ready"]


def test_the_timer_starts_when_needed_and_ends_by_itself() -> None:
    depends, done = Depends(), threading.Event()
    assert depends._timer is None

    depends.register(after(0.01), done.set, lambda: None)

    assert done.wait(10)
    timer = depends._timer
    if timer is not None:
        timer.join(10)
    assert depends._timer is None


def test_files_are_watched(tmp_path: Any) -> None:
    depends, there, other = Depends(), threading.Event(), threading.Event()
    old = tmp_path / "old"
    old.write_text("1")
    depends.register(exists(tmp_path / "new", poll=0.01), there.set, lambda: None)
    depends.register(changed(old, poll=0.01), other.set, lambda: None)

    (tmp_path / "new").write_text("")
    old.write_text("22")

    assert there.wait(10)
    assert other.wait(10)


def test_a_world_atom_is_looked_at_in_its_period_and_only_while_needed(clock: Clock, log: Log) -> None:
    looks: list[str] = []
    worth = [2]

    def look(atom: WorldAtom) -> int:
        looks.append(atom.target)
        return worth[0]

    depends = Depends(clock=clock, look=look)
    depends.register(exists("/beam", poll="5s"), *log.callbacks())
    looks.clear()
    for _ in range(11):
        depends.advance()
        clock.now += 1
    assert looks == ["/beam"] * 3

    worth[0] = 3
    clock.now += 5
    depends.advance()
    assert log == ["job ready"]
    looks.clear()
    clock.now += 100
    depends.advance()
    assert looks == []


def test_a_waiting_registration_explains_itself(depends: Depends) -> None:
    a, b = Atom("beam"), Atom("model")
    id = depends.register(a & b, lambda: None, lambda: None)
    a.set_ready()

    explanation = depends.explain(id)

    assert [atom.name for atom in explanation.blocking] == ["model"]
    assert "model" in str(explanation)


def test_registering_a_tree_in_which_a_part_stands_twice(depends: Depends, log: Log) -> None:
    a, b, c = Atom(), Atom(), Atom()
    part: Condition = a | b
    depends.register((part & c) | (part & Not(c)), *log.callbacks())

    b.set_ready()

    assert log == ["job ready"]


def test_the_resolver_is_left_empty(depends: Depends, log: Log) -> None:
    atoms = [Atom() for _ in range(10)]
    for k in range(10):
        depends.register(And(*atoms[: k + 1]), *log.callbacks("and"))
        depends.register(atoms[k] | atoms[-1], *log.callbacks("or"))

    for atom in atoms:
        atom.set_ready()

    assert len(log) == 20
    assert len(depends) == 0
    assert not depends._resolver._entries.others
