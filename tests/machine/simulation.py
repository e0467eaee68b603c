"""A simulated service: one seed is one history, with power cuts, lost connections and late reports at any moment.

The engine, its machine and its streams are the real ones; journal, executor, wire and clock are played by the seed. A
power cut strikes before or after a commit, between two orders to the executor, or while answers go out; what was not
committed is gone, attempts go on (a *lasting* executor) or vanish and sometimes report from the grave (a *mortal* one).
Clients lose connections with all that is under way, come back, and ask for what follows their last entry.

``python tests/machine/simulation.py --seeds 10000`` prints how many histories held, and the seed of each that did not;
``--first SEED --seeds 1`` repeats one. What must hold stands in ``invariants.py``.
Knows nothing of threads and sockets. Rule: every choice comes out of ``World.random``.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.machine import invariants
from tests.machine.simulated import Client, Cuts, PowerCut, SimulatedEndpoint, SimulatedExecutor, SimulatedJournal
from trun.conditions import wire
from trun.conditions.algebra import And, AtLeast, Condition, Never, Not, Or
from trun.conditions.atoms import JOB_ATOMS, IsCompleted, IsMessage, Level
from trun.conditions.timing import After, Deadline, Held, Since
from trun.core.machine import Machine
from trun.engine.loop import Engine
from trun.messages import (
    Call,
    Cancel,
    GroupSpec,
    Hold,
    JobSpec,
    Payload,
    Release,
    Resume,
    Retry,
    SetAtom,
    Submit,
    Suspend,
    Welcome,
)
from trun.testing import ManualClock

GPU = 2
KINDS = ("completed", "completed", "completed", "failed", "ended", "finished", "ok", "started", "aborted", "skipped")


class World:
    """A service, its executor and its clients, all played from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.cuts = Cuts()
        self.journal = SimulatedJournal(self.cuts)
        self.executor = SimulatedExecutor(
            self.cuts, slots=self.random.randint(1, 3), lasting=self.random.random() < 0.5
        )
        self.clients = [Client(name) for name in ("ann", "bob")]
        self.levels = [Level("x"), Level("y")]
        self.uids: list[str] = []
        self.groups: list[str] = []
        #: Jobs that somebody asked to run again: what was decided on their first run stays decided.
        self.retried: set[str] = set()
        #: Conditions that cannot lapse once they hold, by uid: of those it is known when they may fire.
        self.monotone: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.endpoint = SimulatedEndpoint(self.cuts)
        self.engine = self.begin()

    # -- lives of the service

    def begin(self) -> Engine:
        """Start the service on what the journal holds; a power cut can strike here as well."""
        while True:
            self.engine = Engine(
                machine=Machine(resources={"gpu": GPU}),
                journal=self.journal,
                executor=self.executor,
                endpoint=self.endpoint,
                clock=self.clock,
                welcome=Welcome(service_key="k", name="house", epoch=int(self.journal.meta()["epoch"])),
                views={},
            )
            try:
                self.engine.recover()
            except PowerCut:
                self.restart_world()
            else:
                return self.engine

    def restart_world(self) -> None:
        """Let everything go that does not outlive the service."""
        self.counts["power cuts"] += 1
        self.cuts.after = self.random.randint(0, 6) if self.random.random() < 0.2 else None
        self.endpoint.close()
        self.endpoint = SimulatedEndpoint(self.cuts)
        self.journal = self.journal.reopen()
        self.executor.service_died()
        for client in self.clients:
            client.peer = b""

    def step(self) -> None:
        """Let the engine take what has arrived."""
        inputs: list[Any] = [(peer, request) for peer, batch in self.endpoint.receive() for request in batch]
        inputs += [(b"", report) for report in self.executor.poll(self.clock.now())]
        try:
            for peer in self.endpoint.gone():
                self.engine.forget(peer)
            self.engine.step(inputs)
        except PowerCut:
            self.restart_world()
            self.begin()
        else:
            invariants.check_step(self)
        for client in self.clients:
            client.hear(self.endpoint.take(client.peer))

    # -- what may happen

    def live(self) -> None:
        """Do one thing."""
        deeds = (
            (self.submit, 4),
            (self.step, 8),
            (self.work, 8),
            (self.order, 2),
            (self.race, 1),
            (self.pause, 1),
            (self.fill_disk, 1),
            (self.lose_connection, 1),
            (self.connect, 4),
            (self.wait, 1),
            (self.arm, 1),
            (self.haunt, 1),
        )
        (deed,) = self.random.choices([deed for deed, _ in deeds], [weight for _, weight in deeds])
        deed()

    def submit(self) -> None:
        """Submit one to three jobs at once."""
        client = self.random.choice(self.clients)
        specs = []
        group = f"g{len(self.groups) + 1}" if self.random.random() < 0.15 else ""
        for _ in range(self.random.randint(1, 3)):
            uid = f"u{len(self.uids) + 1}"
            specs.append(self.draw_spec(uid, client.name, group))
            self.uids.append(uid)
        groups = [GroupSpec(group, group, len(specs))] if group else []
        self.groups += [group] if group else []
        client.submit(Submit(specs=tuple(specs), groups=tuple(groups)), self.endpoint)

    def race(self) -> None:
        """Let two or three jobs race."""
        if len(self.uids) < 3:
            return
        client = self.random.choice(self.clients)
        choices = tuple(self.random.sample(self.uids[-9:], self.random.randint(2, 3)))
        uid = f"u{len(self.uids) + 1}"
        self.uids.append(uid)
        self.monotone.add(uid)
        spec = JobSpec(
            uid=uid,
            name=uid,
            session=client.name,
            detach=True,
            kind="first",
            choices=choices,
            when=wire.dumps(Or(*[IsCompleted(choice) for choice in choices])),
        )
        client.submit(Submit(specs=(spec,)), self.endpoint)

    def draw_spec(self, uid: str, session: str, group: str) -> JobSpec:
        """Return a job, most times with a condition over earlier ones."""
        when = self.draw_condition() if self.uids and self.random.random() < 0.7 else None
        if when is None or is_monotone(when):
            self.monotone.add(uid)
        return JobSpec(
            uid=uid,
            name=uid,
            session=session,
            detach=True,
            call=Call("f", Payload(b"x")),
            when=wire.dumps(when) if when is not None else b"",
            # What a group with skipped members is worth depends on the order of their ends.
            on_never=self.random.choice(("cancel", "cancel", "cancel" if group else "skip", "run")),
            group=group,
            retries=self.random.choice((0, 0, 2)),
            retry_delay=self.random.choice((0.0, 5.0)),
            priority=self.random.choice((0.0, 1.0)),
            resources={"gpu": 1.0} if self.random.random() < 0.3 else {},
            hold=self.random.random() < 0.05,
        )

    def draw_condition(self, depth: int = 0) -> Condition:
        """Return a random tree."""
        shape = self.random.choice(("atom", "atom", "and", "or", "most", "not", "never") if depth < 2 else ("atom",))
        if shape == "atom":
            if self.random.random() < 0.1:
                return self.random.choice((*self.levels, After(30.0), Deadline(30.0)))
            if self.groups and self.random.random() < 0.2:
                return JOB_ATOMS[self.random.choice(("completed", "failed", "finished"))](self.groups[-1])
            uid = self.random.choice(self.uids[-12:])
            if self.random.random() < 0.1:
                return IsMessage(uid, "note")
            return JOB_ATOMS[self.random.choice(KINDS)](uid)
        children = [self.draw_condition(depth + 1) for _ in range(self.random.randint(1, 3))]
        if shape == "not" and self.random.random() < 0.3:
            return Since(children[0], children[-1]) if self.random.random() < 0.5 else Held(children[0], 5.0)
        if shape in ("not", "never"):
            return (Not if shape == "not" else Never)(children[0])
        if shape == "most":
            return AtLeast(self.random.randint(1, len(children)), *children)
        return And(*children) if shape == "and" else Or(*children)

    def work(self) -> None:
        """Let an attempt say something, or end."""
        self.executor.work(self.random)

    def order(self) -> None:
        """Let a client order something."""
        client = self.random.choice(self.clients)
        if not self.uids or not client.peer:
            return
        uid = self.random.choice(self.uids)
        what = self.random.choice(("cancel", "hold", "release", "release", "level", "level", "retry"))
        if what == "retry":
            self.retried.add(uid)
        if what == "level":
            level = self.random.choice(self.levels)
            client.send(SetAtom(key=level.key, value=self.random.choice((2, 3)), session=client.name), self.endpoint)
        else:
            kind = {"cancel": Cancel, "hold": Hold, "release": Release, "retry": Retry}[what]
            client.send(kind(uids=(uid,)), self.endpoint)

    def pause(self) -> None:
        """Let a running job wait for others, or have its slot again."""
        client = self.random.choice(self.clients)
        if not self.executor.running or not client.peer:
            return
        attempt = self.random.choice(list(self.executor.running.values()))
        uid, epoch = attempt.place
        if attempt.is_suspended:
            client.send(Resume(uid=uid, epoch=epoch, token="t"), self.endpoint)
        else:
            client.send(Suspend(uid=uid, epoch=epoch), self.endpoint)

    def fill_disk(self) -> None:
        """Let the disk be full, or have room again."""
        self.journal.is_short = not self.journal.is_short and self.random.random() < 0.5

    def lose_connection(self) -> None:
        """Let a client's connection break, with all that is under way."""
        client = self.random.choice(self.clients)
        if client.peer:
            self.counts["connections lost"] += 1
            self.endpoint.cut_off(client.peer)
            client.peer = b""

    def connect(self) -> None:
        """Let a client come back that has no connection."""
        for client in self.clients:
            if not client.peer:
                client.connect(self.endpoint, credit=self.random.choice((5, 50, 100_000)))
            elif self.random.random() < 0.5:
                client.grant(self.endpoint)

    def wait(self) -> None:
        """Let time pass."""
        self.clock.advance(self.random.choice((0.1, 1.0, 6.0, 3600.0)))

    def arm(self) -> None:
        """Let the power fail soon."""
        self.cuts.after = self.random.randint(0, 12)

    def haunt(self) -> None:
        """Let something report that nobody waits for any more, or report it twice."""
        self.executor.haunt(self.random)

    # -- the end

    def settle(self) -> None:
        """Let all faults end and everything come to its end."""
        self.cuts.after = None
        self.journal.is_short = False
        for _ in range(60 + 6 * len(self.uids)):
            self.connect()
            for client in self.clients:
                client.grant(self.endpoint)
            self.step()
            records = self.engine.machine.records
            unfinished = [uid for uid, record in records.items() if not record.life.state.is_final]
            if not unfinished and not self.executor.is_busy and not any(client.unacked for client in self.clients):
                break
            ann = self.clients[0]
            for level in self.levels:
                ann.send(SetAtom(key=level.key, value=4, session=ann.name), self.endpoint)
            ann.send(Release(uids=tuple(uid for uid in unfinished if records[uid].life.state == "held")), self.endpoint)
            for attempt in self.executor.running.values():
                if attempt.is_suspended:
                    ann.send(Resume(uid=attempt.place[0], epoch=attempt.place[1], token="t"), self.endpoint)
            self.executor.finish_all()
            self.clock.advance(10.0)
        for _ in range(20):
            for client in self.clients:
                client.grant(self.endpoint)
            self.step()


def is_monotone(condition: Condition) -> bool:
    """Whether a condition that holds cannot lapse."""
    if isinstance(condition, Not | Level | After | Deadline | Since | Held):
        return False
    return all(is_monotone(child) for child in condition.of)


def run(seed: int, *, steps: int = 150) -> World:
    """Play a history to its end and check it; raises AssertionError where something does not hold."""
    world = World(seed)
    try:
        for _ in range(steps):
            world.live()
        world.settle()
        invariants.check_end(world)
    finally:
        world.endpoint.close()
    return world


def main() -> int:
    """Play many histories."""
    parser = argparse.ArgumentParser(description="Play histories of a simulated service, a seed each.")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    logging.disable()
    bad: list[int] = []
    counts: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.seeds):
        try:
            world = run(seed, steps=options.steps)
        except Exception:
            traceback.print_exc()
            bad.append(seed)
            print(f"seed {seed} does not hold", flush=True)
        else:
            counts.update(world.counts)
            counts["jobs"] += len(world.uids)
    print(f"{options.seeds - len(bad)} of {options.seeds} histories held; {dict(counts)}")
    return min(len(bad), 100)


if __name__ == "__main__":
    sys.exit(main())
