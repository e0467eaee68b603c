"""The machine beside a model that looks at everything after each step; duplicates and restarts at any moment."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tests.machine.model import FINAL, TRUE, Model, ModelJob
from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import And, AtLeast, Condition, Never, Not, Or
from trun.conditions.atoms import JOB_ATOMS, IsMessage, Level
from trun.core.codec import decode_life
from trun.messages import (
    Aborted,
    Cancel,
    Completed,
    Ended,
    Failed,
    GroupSpec,
    Hold,
    Message,
    Missing,
    Notified,
    Release,
    Resume,
    Retry,
    Returned,
    Said,
    SetAtom,
    Submit,
    Suspend,
)

GPU = 3
KINDS = ("completed", "completed", "failed", "aborted", "cancelled", "skipped", "started", "ended", "finished", "ok")
ENDS = ("completed", "completed", "raised", "died", "aborted", "missing", "returned")


def is_monotone(condition: Condition | None) -> bool:
    """Whether a condition that holds cannot lapse: no negation of something undecided, no level."""
    stack = [] if condition is None else [condition]
    while stack:
        node = stack.pop()
        if isinstance(node, Not | Level):
            return False
        stack.extend(node.of)
    return True


class MachineBesideModel(RuleBasedStateMachine):
    """Random lives of a small service."""

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.service = Service(resources={"gpu": GPU})
        self.model = Model(GPU)
        self.levels = [Level("x"), Level("y")]
        self.sent: list[Message] = []
        self.is_monotone = {"u1": True, "u2": True}

    @initialize(target=jobs)
    def begin(self) -> Any:
        """Two jobs and an open group are there from the start, so that there is something to wait for."""
        self.service.submit(groups=[GroupSpec("g", "g")])
        self.model.groups["g"] = None
        for uid in ("u1", "u2"):
            self.service.job(uid)
            self.model.enter(ModelJob(uid, len(self.model.jobs) + 1))
        return multiple("u1", "u2")

    # -- submission

    def draw_atom(self, data: st.DataObject, known: list[str]) -> Condition:
        kind = data.draw(st.sampled_from((*KINDS, "message", "level", "group")))
        if kind == "level":
            return data.draw(st.sampled_from(self.levels))
        if kind == "group":
            return JOB_ATOMS[data.draw(st.sampled_from(("completed", "failed", "finished")))]("g")
        uid = data.draw(st.sampled_from(known))
        if kind == "message":
            return IsMessage(uid, data.draw(st.sampled_from("ab")))
        return JOB_ATOMS[kind](uid)

    def draw_condition(self, data: st.DataObject, known: list[str], depth: int = 0) -> Condition:
        shape = data.draw(
            st.sampled_from(("atom", "atom", "and", "or", "most", "never", "not") if depth < 3 else ("atom",))
        )
        if shape == "atom":
            return self.draw_atom(data, known)
        children = [self.draw_condition(data, known, depth + 1) for _ in range(data.draw(st.integers(1, 3)))]
        if shape == "never":
            return Never(children[0])
        if shape == "not":
            return Not(children[0])
        if shape == "most":
            return AtLeast(data.draw(st.integers(1, len(children))), *children)
        return And(*children) if shape == "and" else Or(*children)

    @rule(
        target=jobs,
        data=st.data(),
        policy=st.sampled_from(("cancel", "cancel", "hold", "skip", "run")),
        retries=st.integers(0, 2),
        priority=st.integers(0, 2),
        gpu=st.integers(0, GPU),
        hold=st.booleans(),
        in_group=st.booleans(),
        conditional=st.sampled_from((True, True, True, False)),
    )
    def submit(
        self, data: st.DataObject, policy: str, conditional: bool, in_group: bool, hold: bool, **more: int
    ) -> Any:
        uid = f"u{len(self.model.jobs) + 1}"
        # A group with skipped members is NEVER complete until one is cancelled: what settled first stays, and the model
        # remembers nothing. So members are not skipped here.
        in_group = in_group and self.model.groups["g"] is None and policy != "skip"
        condition = self.draw_condition(data, list(self.model.jobs)) if conditional else None
        if in_group and condition is not None and self.leads_to_group(condition):
            return multiple()
        slip = spec(
            uid,
            condition,
            on_never=policy,
            retries=more["retries"],
            priority=more["priority"],
            resources={"gpu": more["gpu"]} if more["gpu"] else {},
            hold=hold,
            group="g" if in_group else "",
        )
        before = len(self.service.refused)
        self.service.submit(slip)
        if len(self.service.refused) > before:
            assert policy == "cancel"
            assert self.service.refused[-1].error.type == "trun.errors.NeverCondition"
            return multiple()
        self.sent.append(Submit(specs=(slip,)))
        self.is_monotone[uid] = is_monotone(condition)
        job = ModelJob(uid, len(self.model.jobs) + 1, condition, policy, group=slip.group, **more)
        self.model.enter(job, hold=hold)
        self.model.settle()
        return uid

    def leads_to_group(self, condition: Condition) -> bool:
        """Whether a member with this condition would wait for its own group."""
        stack, seen = [condition], set()
        while stack:
            for leaf in stack.pop().depends:
                subject = getattr(leaf, "subject", "")
                if subject == "g":
                    return True
                if subject and subject not in seen:
                    seen.add(subject)
                    following = self.model.jobs[subject].condition
                    if following is not None:
                        stack.append(following)
        return False

    @rule()
    def close_group(self) -> None:
        if self.model.groups["g"] is None:
            total = sum(job.group == "g" for job in self.model.jobs.values())
            self.service.submit(groups=[GroupSpec("g", "g", total)])
            self.model.groups["g"] = total
            self.model.settle()

    # -- running

    @rule(idle=st.integers(1, 4))
    def dispatch(self, idle: int) -> None:
        assert self.service.run(idle) == self.model.dispatch(idle)

    @rule(uid=jobs, how=st.sampled_from(ENDS))
    def end(self, uid: str, how: str) -> None:
        if self.model.jobs[uid].state != "running":
            return
        epoch = self.service.life(uid).epoch
        outcomes: dict[str, Completed | Failed | Aborted] = {
            "completed": Completed(),
            "raised": Failed(kind="raised"),
            "died": Failed(kind="died"),
            "aborted": Aborted(),
        }
        message: Message
        if how == "missing":
            message = Missing(uid=uid, epoch=epoch)
        elif how == "returned":
            message = Returned(uid=uid, epoch=epoch)
        else:
            message = Ended(uid=uid, epoch=epoch, outcome=outcomes[how])
        self.sent.append(message)
        self.service.send(message)
        self.model.end(self.model.jobs[uid], how)

    @rule(uid=jobs, name=st.sampled_from("ab"))
    def say(self, uid: str, name: str) -> None:
        if self.model.jobs[uid].state == "running":
            self.service.emit(uid, Said(name=name))
            self.model.jobs[uid].said.add(name)
            self.model.settle()

    @rule(uid=jobs)
    def suspend(self, uid: str) -> None:
        job = self.model.jobs[uid]
        if job.state == "running" and not job.is_suspended:
            self.service.send(Suspend(uid=uid, epoch=self.service.life(uid).epoch))
            job.is_suspended = True

    @rule(uid=jobs)
    def resume(self, uid: str) -> None:
        job = self.model.jobs[uid]
        if job.state == "running" and job.is_suspended and job.gpu <= GPU - self.model.used():
            self.service.send(Resume(uid=uid, epoch=self.service.life(uid).epoch))
            before = len(self.service.turns)
            assert self.service.run(1) == []
            assert [turn.uid for turn in self.service.turns[before:]] == [uid]
            job.is_suspended = False

    # -- orders

    @rule(uid=jobs)
    def cancel(self, uid: str) -> None:
        self.service.send(Cancel(uids=(uid,)))
        self.model.cancel(self.model.jobs[uid])

    @rule(uid=jobs)
    def hold(self, uid: str) -> None:
        if self.model.jobs[uid].state in ("waiting", "queued"):
            self.service.send(Hold(uids=(uid,)))
            job = self.model.jobs[uid]
            job.state = "held"
            self.model.settle()

    @rule(uid=jobs)
    def release(self, uid: str) -> None:
        if self.model.jobs[uid].state == "held":
            self.service.send(Release(uids=(uid,)))
            self.model.release(self.model.jobs[uid])

    @rule(uid=jobs)
    def retry(self, uid: str) -> None:
        if self.model.jobs[uid].state in FINAL:
            self.service.send(Retry(uids=(uid,)))
            self.model.retry(self.model.jobs[uid])

    @rule(which=st.integers(0, 1), value=st.sampled_from((2, 3)))
    def move_level(self, which: int, value: int) -> None:
        key = self.levels[which].key
        self.service.send(SetAtom(key=key, value=value, session="me"))
        self.model.levels[key] = value
        self.model.settle()

    # -- disorder

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Whatever was sent before comes again: nothing changes."""
        if not self.sent:
            return
        message = data.draw(st.sampled_from(self.sent))
        before = dict(self.service.lives)
        self.service.send(message)
        assert self.service.lives == before

    @rule()
    def restart(self) -> None:
        """The service goes down and comes up again; clients tell their atoms anew."""
        before = dict(self.service.lives)
        self.service = self.service.restarted()
        if not any(0 < decode_life(life).fired < TRUE for life in before.values()):
            assert self.service.lives == before
        levels, self.model.levels = self.model.levels, {}
        self.model.restart()
        self.model.settle()
        self.states_agree()
        for key, value in levels.items():
            self.service.send(SetAtom(key=key, value=value, session="me"))
            self.model.levels[key] = value
            self.model.settle()

    # -- what always holds

    @invariant()
    def states_agree(self) -> None:
        found = {uid: record.life.state.value for uid, record in self.service.machine.records.items()}
        assert found.keys() == self.model.jobs.keys()
        differ = {uid: (found[uid], job) for uid, job in self.model.jobs.items() if found[uid] != job.state}
        assert not differ, differ

    @invariant()
    def resources_agree(self) -> None:
        assert self.service.machine.ledger.used["gpu"] == self.model.used() <= GPU

    @invariant()
    def who_waits_is_registered_and_nobody_else(self) -> None:
        for uid, record in self.service.machine.records.items():
            waits = record.life.state.value == "waiting"
            assert not waits or uid in self.service.machine.resolver
            if record.life.state.is_final or record.life.state.value == "running":
                assert uid not in self.service.machine.resolver
                assert uid not in self.service.machine.queue or record.life.suspended

    @invariant()
    def there_is_always_an_answer(self) -> None:
        machine = self.service.machine
        for uid in self.service.touched:
            if machine.records[uid].life.state.value not in ("running", "completed"):
                assert machine.reason(uid, self.service.now)
                assert machine.explain(uid, self.service.now).extra
        self.service.touched.clear()

    @invariant()
    def every_change_is_saved(self) -> None:
        self.service.check_saved()

    @invariant()
    def nobody_is_decided_twice(self) -> None:
        """Between two runs a condition is cancelled at most once, and says ready again only after a lapse."""
        decided: Counter[tuple[str, str]] = Counter(
            (event.job, event.status) for event in self.service.events("condition") if isinstance(event, Notified)
        )
        for uid, record in self.service.machine.records.items():
            kinds = self.service.kinds(uid)
            assert record.life.seq == len(kinds)
            runs_and_releases = 1 + kinds.count("Retried") + kinds.count("Released")
            assert decided[uid, "cancelled"] <= runs_and_releases
            if self.is_monotone[uid]:
                assert decided[uid, "ready"] <= runs_and_releases

    def teardown(self) -> None:
        """Once everything has settled nobody waits."""
        for level in self.levels:
            self.service.send(SetAtom(key=level.key, value=4, session="me"))
            self.model.levels[level.key] = 4
        self.close_group() if "g" in self.model.groups else None
        self.model.settle()
        for _ in range(100):
            unfinished = [uid for uid, job in self.model.jobs.items() if job.state not in FINAL]
            if not unfinished:
                break
            for uid in unfinished:
                self.resume(uid)
                self.end(uid, "completed")
                self.release(uid)
                self.states_agree()
            self.dispatch(10)
        assert not any(job.state == "waiting" for job in self.model.jobs.values())
        self.states_agree()
        assert len(self.service.machine.resolver) == 0
        assert self.service.machine.ledger.used["gpu"] == 0


TestMachineBesideModel = MachineBesideModel.TestCase
TestMachineBesideModel.settings = settings(
    # One example is forty steps of a service; more than these take longer than a test may.
    max_examples=min(100, settings().max_examples),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
