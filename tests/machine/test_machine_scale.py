"""Sizes that must not matter: long chains, wide fans, large families. No recursion, no scan per event."""

from __future__ import annotations

import pytest

from trun.conditions import wire
from trun.conditions.algebra import And, Condition
from trun.conditions.atoms import IsCompleted
from trun.core.machine import Machine
from trun.core.record import RefuseJobs
from trun.messages import Cancel, Completed, Ended, Failed, GroupSpec, JobSpec, OwnerLeft, Submit
from trun.ports import Room

CHAIN = 50_000
FAN = 100_000


def slip(uid: str, when: Condition | None = None, **options: object) -> JobSpec:
    return JobSpec(uid=uid, name="f", when=b"" if when is None else wire.dumps(when), session="s", **options)  # type: ignore[arg-type]


def chain(length: int) -> Machine:
    machine = Machine()
    specs = [slip("u0"), *[slip(f"u{n}", IsCompleted(f"u{n - 1}")) for n in range(1, length)]]
    machine.handle(Submit(specs=tuple(specs)), 1.0)
    return machine


def end(machine: Machine, uid: str, outcome: Completed | Failed) -> None:
    machine.handle(Ended(uid=uid, epoch=1, outcome=outcome), 2.0)


def states(machine: Machine) -> set[str]:
    return {record.life.state.value for record in machine.records.values()}


@pytest.mark.timeout(300)
def test_a_chain_of_fifty_thousand_falls_at_once() -> None:
    machine = chain(CHAIN)
    machine.dispatch(Room(1), 1.0)
    end(machine, "u0", Failed(kind="raised"))

    last = machine.records[f"u{CHAIN - 1}"].life
    assert states(machine) == {"failed", "cancelled"}
    assert last.root == "u0"
    assert len(machine.resolver) == 0


@pytest.mark.timeout(300)
def test_a_chain_of_fifty_thousand_runs_link_by_link() -> None:
    machine = chain(CHAIN)
    for n in range(CHAIN):
        assert len(machine.queue) == 1
        machine.dispatch(Room(1), 1.0)
        end(machine, f"u{n}", Completed())

    assert states(machine) == {"completed"}


@pytest.mark.timeout(300)
def test_a_circle_through_fifty_thousand_jobs_is_found() -> None:
    machine = Machine()
    specs = [slip(f"u{n}", IsCompleted(f"u{(n - 1) % CHAIN}")) for n in range(CHAIN)]
    (effect,) = machine.handle(Submit(specs=tuple(specs)), 1.0)

    assert isinstance(effect, RefuseJobs)
    assert effect.error.type == "trun.errors.CycleError"
    assert len(effect.error.message) < 5000
    assert not machine.records


@pytest.mark.timeout(300)
def test_a_hundred_thousand_members_are_one_atom() -> None:
    machine = Machine()
    group = GroupSpec("g", "family", FAN)
    for start in range(0, FAN, 1000):
        specs = tuple(slip(f"u{n}", group="g") for n in range(start, start + 1000))
        machine.handle(Submit(specs=specs, groups=(group,) if start == 0 else ()), 1.0)
    machine.handle(Submit(specs=(slip("after", IsCompleted("g")),)), 1.0)
    machine.dispatch(Room(FAN), 1.0)
    for n in range(FAN):
        end(machine, f"u{n}", Completed())

    assert machine.records["after"].life.state.value == "queued"


@pytest.mark.timeout(300)
def test_a_condition_over_ten_thousand_jobs_fires_once_and_explains_itself() -> None:
    machine = Machine()
    machine.handle(Submit(specs=tuple(slip(f"u{n}") for n in range(10_000))), 1.0)
    machine.handle(Submit(specs=(slip("after", And(*[IsCompleted(f"u{n}") for n in range(10_000)])),)), 1.0)
    machine.dispatch(Room(10_000), 1.0)
    for n in range(9_999):
        end(machine, f"u{n}", Completed())
    assert machine.reason("after", 2.0).startswith("needs f#10000.completed")
    end(machine, "u9999", Completed())

    life = machine.records["after"].life
    assert life.state.value == "queued"
    assert len(life.witness) == 1000


@pytest.mark.timeout(300)
def test_a_hundred_thousand_may_wait_for_one() -> None:
    machine = Machine()
    condition = IsCompleted("hub")
    machine.handle(Submit(specs=(slip("hub"),)), 1.0)
    machine.handle(Submit(specs=tuple(slip(f"u{n}", condition) for n in range(FAN))), 1.0)
    machine.dispatch(Room(1), 1.0)
    end(machine, "hub", Completed())
    assert len(machine.queue) == FAN
    machine.handle(Cancel(uids=tuple(f"u{n}" for n in range(0, FAN, 2))), 3.0)
    machine.handle(OwnerLeft(session="s"), 4.0)

    assert len(machine.queue) == 0
    assert states(machine) == {"completed", "cancelled"}
