"""What one request of anybody may cost a machine: bounds for questions and orders over thousands of jobs.

Without them each of these took minutes; the bound is generous, since the machine that tests may be busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.attackers import DISTURBED_S
from trun.conditions import check, wire
from trun.conditions.algebra import And
from trun.conditions.atoms import IsCompleted, IsFinished
from trun.core.machine import Machine
from trun.engine import intake
from trun.errors import KeyConflict, UnknownName, nearest
from trun.messages import Cancel, Completed, Ended, GroupSpec, JobSpec, Retry, Submit
from trun.ports import Room

JOBS = 6_000


def quickly(do: Callable[[], Any]) -> Any:
    began = time.monotonic()
    found = do()
    assert time.monotonic() - began < DISTURBED_S
    return found


def jobs(prefix: str, count: int = JOBS, **options: Any) -> tuple[JobSpec, ...]:
    return tuple(JobSpec(uid=f"{prefix}{n}", name=prefix, session="s", **options) for n in range(count))


def test_all_jobs_of_a_long_queue_say_their_places() -> None:
    machine = Machine()
    machine.handle(Submit(specs=jobs("q")), 1.0)
    lines = quickly(lambda: [machine.reason(uid, 1.0) for uid in machine.records])
    assert [line.split()[2] for line in lines] == [str(n) for n in range(1, JOBS + 1)]
    machine.handle(Cancel(uids=("q0",)), 2.0)
    assert machine.reason("q1", 2.0).startswith("ready; number 1 of")


def test_many_jobs_begin_a_new_run_while_many_others_wait() -> None:
    machine = Machine()
    machine.handle(Submit(specs=jobs("done", JOBS // 5)), 1.0)
    ended = tuple(machine.records)
    waits = wire.dumps(And(IsCompleted("late"), IsFinished("done7")))
    machine.handle(Submit(specs=(*jobs("late", 1, hold=True), JobSpec(uid="late", name="late", hold=True))), 1.0)
    machine.handle(Submit(specs=jobs("wait", when=waits)), 1.0)
    machine.handle(Cancel(uids=ended), 2.0)
    quickly(lambda: machine.handle(Retry(uids=ended), 3.0))
    assert all(machine.records[uid].life.run == 2 for uid in ended)


def test_many_jobs_with_keys_come_together() -> None:
    machine = Machine()
    specs = tuple(JobSpec(uid=f"k{n}", name="k", session="s", key=f"key{n}", digest="x") for n in range(2 * JOBS))
    quickly(lambda: machine.handle(Submit(specs=specs), 1.0))
    assert len(machine.records) == 2 * JOBS


def test_a_key_that_stands_for_two_contents_of_one_submission_is_refused() -> None:
    machine = Machine()
    specs = tuple(JobSpec(uid=f"k{n}", name="k", session="s", key="key", digest=f"{n}") for n in range(2))
    (order,) = machine.handle(Submit(specs=specs), 1.0)
    assert order.error.type.endswith(KeyConflict.__name__)  # type: ignore[union-attr]


def test_whose_a_group_is_costs_no_look_at_its_members() -> None:
    machine = Machine()
    group = GroupSpec("G", "G", JOBS)
    machine.handle(Submit(specs=jobs("g", group="G", owner="ann"), groups=(group,)), 1.0)
    quickly(lambda: [intake.is_own(machine, "ann", "G") for _ in range(JOBS)])
    assert intake.is_own(machine, "ann", "G")
    assert not intake.is_own(machine, "eve", "G")


@pytest.mark.parametrize(
    "atoms",
    [
        [{"atom": "after", "s": 1.0 + n} for n in range(9_000)],
        [{"atom": "at", "t": 1e9 + n} for n in range(9_000)],
        [{"atom": "job", "is": what, "uid": f"u{n}"} for n in range(4_500) for what in ("completed", "finished")],
    ],
    ids=["after", "at", "jobs"],
)
def test_whether_a_large_condition_can_hold_is_not_asked_at_any_price(atoms: list[dict[str, Any]]) -> None:
    data = msgspec.json.encode({"v": 1, "op": "and", "of": atoms})
    assert quickly(lambda: check.never_reason(wire.loads(data))) == ""


def test_conditions_that_come_together_share_what_may_be_asked() -> None:
    machine = Machine()
    machine.handle(Submit(specs=jobs("u", 3_000, hold=True)), 1.0)
    done = [{"atom": "job", "is": "completed", "uid": f"u{n}"} for n in range(3_000)]
    times = [{"atom": "after", "s": 1e6 + n} for n in range(300)]
    when = [msgspec.json.encode({"v": 1, "op": "and", "of": done[n:] + times}) for n in range(4)]
    specs = tuple(JobSpec(uid=f"c{n}", name="c", session="s", when=data) for n, data in enumerate(when))
    quickly(lambda: machine.handle(Submit(specs=specs), 1.0))
    assert "c3" in machine.records


def test_times_that_exclude_one_another_are_still_found() -> None:
    atoms = [{"atom": "after", "s": 100.0 + n} for n in range(100)]
    data = msgspec.json.encode({"v": 1, "op": "and", "of": [*atoms, {"atom": "deadline", "s": 5.0}]})
    assert "times" in check.never_reason(wire.loads(data))


def test_a_long_or_monotonous_name_is_not_compared_with_all_others() -> None:
    known = ["a" * 40 + str(n) for n in range(100_000)]
    for name in ("a" * 44 + "b", "a" * 100 + "b", "n" * 5_000_000):
        quickly(lambda name=name: UnknownName("there is none.", name=name, known=known))  # type: ignore[misc]
    assert nearest("fitt", ["fit", "x" * 5_000_000]) == " Did you mean 'fit'?"


def test_atoms_over_resources_are_looked_at_when_it_matters() -> None:
    machine = Machine(resources={"cpu": 4})
    amounts = [4 - n / JOBS for n in range(JOBS)]
    when = [
        msgspec.json.encode({"v": 1, "atom": "world", "is": "free", "target": "cpu", "poll": 1.0, "amount": amount})
        for amount in amounts
    ]
    specs = [JobSpec(uid=f"f{n}", name="f", session="s", when=data, hold=True) for n, data in enumerate(when)]
    quickly(lambda: machine.handle(Submit(specs=tuple(specs)), 1.0))
    quickly(lambda: [machine.handle(Submit(specs=jobs(f"x{n}y", 1, hold=True)), 1.0) for n in range(500)])
    machine.handle(Submit(specs=jobs("run", 1, resources={"cpu": 0.5})), 1.0)
    machine.dispatch(Room(idle=1), 1.0)
    fired = [bool(machine.records[spec.uid].life.fired) for spec in specs]
    assert fired == [amount <= 3.5 for amount in amounts]
    machine.handle(Cancel(uids=("run0",)), 2.0)
    machine.handle(Ended(uid="run0", epoch=1, outcome=Completed()), 2.0)
    assert all(machine.records[spec.uid].life.fired for spec in specs)
