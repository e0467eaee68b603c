"""A service without a world: a machine, a clock that is set by hand, and a journal in memory.

``Service`` does what an engine does with effects (saves, publishes, replays) and checks on the way what must always
hold: streams without gaps, at most one end per run, starts only of what was started under a new epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trun.conditions import wire
from trun.conditions.algebra import Condition
from trun.core.codec import decode_event, decode_life, encode
from trun.core.machine import Machine
from trun.core.record import (
    Deliver,
    Effect,
    JobRecord,
    Life,
    Publish,
    RefuseJobs,
    Replay,
    Save,
    SaveSpec,
    Start,
    Stop,
    Turn,
)
from trun.messages import (
    FINAL,
    Aborted,
    AnyEvent,
    Completed,
    Emitted,
    Ended,
    Entry,
    ErrorInfo,
    Event,
    Failed,
    GroupSpec,
    JobSpec,
    Message,
    Replayed,
    Retried,
    Submit,
    Tick,
)
from trun.ports import Room

#: From so many jobs on, looking at all after each message takes too long.
CHECKED = 12


def spec(uid: str, when: Condition | None = None, **options: Any) -> JobSpec:
    """Return a slip of paper; the name is the uid."""
    data = b"" if when is None else wire.dumps(when)
    return JobSpec(uid=uid, when=data, **{"name": uid, "session": "me", **options})


class Service:
    """A machine and what became of its effects."""

    def __init__(self, *, resources: dict[str, float] | None = None, key: str = "", epoch: int = 1) -> None:
        self.resources = dict(resources or {})
        self.machine = Machine(resources=self.resources, service_key=key, epoch=epoch)
        self.epoch = epoch
        self.now = 1000.0
        self.entries: dict[str, list[Entry]] = {}
        self.specs: dict[str, JobSpec] = {}
        self.lives: dict[str, bytes] = {}
        self.groups: dict[str, GroupSpec] = {}
        self.starts: list[tuple[str, int]] = []
        self.stops: list[Stop] = []
        self.turns: list[Turn] = []
        self.delivered: list[Deliver] = []
        self.refused: list[RefuseJobs] = []
        #: Jobs that were saved since somebody cleared this.
        self.touched: set[str] = set()
        #: Replays that are not answered at once: (stream, since).
        self.replay_late = False
        self.asked: list[Replay] = []

    # -- in

    def send(self, message: Message) -> list[Effect]:
        effects = self.machine.handle(message, self.now)
        self.perform(effects)
        if len(self.lives) < CHECKED:
            self.check_saved()
        return effects

    def submit(self, *specs: JobSpec, groups: Iterable[GroupSpec] = ()) -> list[Effect]:
        effects = self.send(Submit(specs=specs, groups=tuple(groups)))
        if not any(type(effect) is RefuseJobs for effect in effects):
            self.groups.update({group.uid: group for group in groups})
        return effects

    def job(self, uid: str, when: Condition | None = None, **options: Any) -> None:
        """Submit one job, which must be accepted."""
        before = len(self.refused)
        self.submit(spec(uid, when, **options))
        assert len(self.refused) == before, self.refused[-1]

    def refuse(self, *specs: JobSpec, groups: Iterable[GroupSpec] = ()) -> ErrorInfo:
        """Submit jobs, which must be refused without a trace; return the error."""
        before = (dict(self.lives), {stream: len(kept) for stream, kept in self.entries.items()})
        effects = self.submit(*specs, groups=groups)
        assert [type(effect) for effect in effects] == [RefuseJobs], effects
        assert before == (self.lives, {stream: len(kept) for stream, kept in self.entries.items()})
        return self.refused[-1].error

    def run(self, idle: int = 1000, ahead: int = 0) -> list[str]:
        """Give out ready jobs; return the uids that were started, in order."""
        before = len(self.starts)
        self.perform(self.machine.dispatch(Room(idle, ahead), self.now))
        return [uid for uid, _ in self.starts[before:]]

    def end(self, uid: str, outcome: Completed | Failed | Aborted, *, epoch: int | None = None) -> list[Effect]:
        return self.send(Ended(uid=uid, epoch=self.life(uid).epoch if epoch is None else epoch, outcome=outcome))

    def complete(self, uid: str, **values: Any) -> list[Effect]:
        return self.end(uid, Completed(values=values))

    def fail(self, uid: str, kind: str = "raised", message: str = "boom") -> list[Effect]:
        return self.end(uid, Failed(kind=kind, error=ErrorInfo(type="builtins.ValueError", message=message)))

    def emit(self, uid: str, *events: Any, first: int | None = None) -> list[Effect]:
        life = self.life(uid)
        number = life.heard + 1 if first is None else first
        return self.send(Emitted(uid=uid, epoch=life.epoch, first=number, events=events))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    # -- out

    def perform(self, effects: list[Effect]) -> None:
        lists: dict[type, list[Any]] = {
            Stop: self.stops,
            Turn: self.turns,
            Deliver: self.delivered,
            RefuseJobs: self.refused,
            Replay: self.asked,
        }
        saved: set[str] = set()
        for effect in effects:
            if isinstance(effect, SaveSpec):
                self.specs[effect.uid] = self.record(effect.uid).spec
            if isinstance(effect, Save | SaveSpec):
                saved.add(effect.uid)
            elif isinstance(effect, Publish):
                self.keep(effect.entry)
            elif isinstance(effect, Start):
                assert (effect.uid, effect.epoch) not in self.starts
                self.starts.append((effect.uid, effect.epoch))
            else:
                lists[type(effect)].append(effect)
        for uid in saved:
            self.lives[uid] = encode(self.life(uid))
        self.touched |= saved
        if not self.replay_late:
            self.answer_replays()

    def answer_replays(self) -> None:
        while self.asked:
            stream, since = self.asked.pop(0)
            kept = [entry for entry in self.entries.get(stream, ()) if entry.seq >= since]
            self.send(Replayed(stream=stream, entries=tuple(kept)))

    def keep(self, entry: Entry) -> None:
        kept = self.entries.setdefault(entry.stream, [])
        assert entry.seq == len(kept) + 1, f"{entry.stream}: {entry.seq} after {len(kept)}"
        assert entry.epoch == self.epoch
        assert decode_event(encode(entry.event)) == entry.event
        if isinstance(entry.event, FINAL):
            ends = 0
            for other in kept:
                ends = 0 if isinstance(other.event, Retried) else ends + isinstance(other.event, FINAL)
            assert not ends, f"{entry.stream} ended twice"
        kept.append(entry)

    def check_saved(self) -> None:
        """Every change of a record was followed by an order to save it."""
        for uid in self.machine.records:
            assert encode(self.life(uid)) == self.lives[uid], f"{uid} was changed and not saved"

    # -- facts

    def record(self, uid: str) -> JobRecord:
        return self.machine.records[uid]

    def life(self, uid: str) -> Life:
        return self.record(uid).life

    def state(self, uid: str) -> str:
        return self.life(uid).state.value

    def states(self, *uids: str) -> list[str]:
        return [self.state(uid) for uid in uids]

    def events(self, stream: str) -> list[AnyEvent]:
        return [entry.event for entry in self.entries.get(stream, ())]

    def kinds(self, stream: str) -> list[str]:
        return [type(event).__name__ for event in self.events(stream)]

    def last(self, stream: str) -> Event:
        return self.events(stream)[-1]

    # -- restart

    def restarted(self) -> Service:
        """Return the same service as a new incarnation would find it in the journal."""
        again = Service(resources=self.resources, key=self.machine.service_key, epoch=self.epoch + 1)
        again.now = self.now
        for group in self.groups.values():
            again.machine.restore_group(group)
            again.groups[group.uid] = group
        for uid, slip in self.specs.items():
            again.specs[uid] = slip
            again.lives[uid] = self.lives[uid]
            again.machine.restore(slip, decode_life(self.lives[uid]))
        again.entries = {stream: list(kept) for stream, kept in self.entries.items()}
        for stream, kept in again.entries.items():
            if stream not in again.specs:
                again.machine.restore_stream(stream, len(kept))
        again.perform(again.machine.resume_all(again.now))
        return again
