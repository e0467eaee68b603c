"""Depends beside brute force: whatever is registered, set, put, withdrawn and waited for, both call the same."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from brute import Brute, meaning
from strategies import EVENTS, SUBJECTS, Pool, level_values, pool, timed_conditions
from trun.conditions.algebra import Condition
from trun.conditions.atoms import Atom, JobAtom, Level, next_rise
from trun.conditions.depends import Depends
from trun.conditions.value import Value
from trun.errors import ConditionWarning
from trun.messages import Entry, Event

STATUS = {4: "ready", 3: "holds", 2: "waiting", 1: "never", 0: "cancelled"}


class DependsBesideBruteForce(RuleBasedStateMachine):
    registrations: Bundle[int] = Bundle("registrations")

    @initialize()
    def begin(self) -> None:
        self.pool: Pool = pool()
        self.brute = Brute(self.pool.all, knows_rises=True)
        self.depends = Depends(clock=lambda: float(self.brute.now))
        self.seq = 0
        self.calls: list[tuple[str, int]] = []
        self.expected: list[tuple[str, int]] = []
        self.names: dict[int, int] = {}

    def expect(self, decisions: list[tuple[str, Any]]) -> None:
        self.expected += decisions

    @rule(target=registrations, data=st.data())
    def register(self, data: st.DataObject) -> int:
        condition: Condition = data.draw(timed_conditions(self.pool))
        name = len(self.names)
        self.expect(self.brute.register(name, condition))
        self.names[name] = self.depends.register(
            condition, lambda: self.calls.append(("fire", name)), lambda reason: self.calls.append(("drop", name))
        )
        return name

    @rule(target=registrations, name=consumes(registrations))
    def withdraw(self, name: int) -> Any:
        assert self.depends.withdraw(self.names[name]) == (self.brute.waiting.pop(name, None) is not None)
        return multiple()

    @rule(number=st.integers(0, 2), value=st.sampled_from((0, 1, 4)))
    def set_atom(self, number: int, value: int) -> None:
        atom = self.pool.bare[number]
        assert isinstance(atom, Atom)
        self.expect(self.brute.settle(atom.key, value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConditionWarning)
            {0: atom.set_cancelled, 1: atom.set_never, 4: atom.set_ready}[value]()

    @rule(number=st.integers(0, 1), how=st.sampled_from(("hold", "release", "close")))
    def move_level(self, number: int, how: str) -> None:
        level = self.pool.levels[number]
        assert isinstance(level, Level)
        now = self.brute.leaves[level.key]
        value = {"hold": 3, "release": 2, "close": 4 if now == 3 else 1}[how]
        if now in (2, 3):
            self.expect(self.brute.settle(level.key, value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConditionWarning)
            getattr(level, how)()

    @rule(data=st.data(), value=level_values())
    def put_notification(self, data: st.DataObject, value: Value) -> None:
        atom = data.draw(st.sampled_from(self.pool.jobs))
        old = self.brute.leaves[atom.key]
        if old != 2:
            value = Value(old)  # the same once more: a process does not tell of an atom what it knows to be false
        elif value in (2, 3):
            value = Value.TRUE
        self.expect(self.brute.settle(atom.key, value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConditionWarning)
            self.depends.put(Depends.Notify(id=atom.key, status=STATUS[value]))

    @rule(subject=st.sampled_from(SUBJECTS), event=st.sampled_from(EVENTS))
    def see_event(self, subject: str, event: Event) -> None:
        """A client's atoms see the stream: latches move one by one, and report by themselves, at one moment."""
        self.brute.moment += 1
        rise = next_rise()
        for atom in self.pool.jobs:
            if isinstance(atom, JobAtom) and atom.subject == subject:
                value = meaning(atom.what, event)
                if value is not None:
                    self.expect(self.brute.settle(atom.key, value, same_moment=True))
                atom.see(event, rise)

    @rule(subject=st.sampled_from(SUBJECTS), event=st.sampled_from(EVENTS))
    def put_entry_twice(self, subject: str, event: Any) -> None:
        self.seq += 1
        self.expect(self.brute.hear(subject, event))
        entry = Entry(stream=subject, seq=self.seq, epoch=1, time=0.0, event=event)
        self.depends.put(entry)
        self.depends.put(entry)
        for key, value in self.brute.leaves.items():
            # Events settle atoms for those who wait; whoever comes later learns it from a message.
            if value in (0, 1, 4) and key.startswith("job:"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConditionWarning)
                    self.depends.put(Depends.Notify(id=key, status=STATUS[value]))
                    self.brute.learn(key)

    @rule(seconds=st.integers(0, 5))
    def let_time_pass(self, seconds: int) -> None:
        self.expect(self.brute.advance(self.brute.now + seconds))
        self.depends.advance()

    @invariant()
    def both_called_the_same(self) -> None:
        assert getattr(self, "calls", []) == getattr(self, "expected", [])

    @invariant()
    def both_wait_for_the_same(self) -> None:
        if hasattr(self, "depends"):
            assert {self.names[int(str(name))] for name in self.brute.waiting} == set(self.depends._calls)
            assert len(self.depends._resolver) == len(self.depends)
            assert self.depends.errors == []

    def teardown(self) -> None:
        if hasattr(self, "depends"):
            for name in list(self.brute.waiting):
                assert self.depends.withdraw(self.names[int(str(name))])
            self.depends._resolver._plain.sweep()
            entries = self.depends._resolver._entries
            assert not entries.about
            assert not entries.others


DependsBesideBruteForce.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestDependsBesideBruteForce = DependsBesideBruteForce.TestCase
