"""Late registrations, atoms of clients, the world, other services, owners that leave."""

from __future__ import annotations

from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import Or
from trun.conditions.atoms import (
    Atom,
    IsCompleted,
    IsFailed,
    IsMessage,
    IsProgress,
    IsQueued,
    IsResult,
    IsStarted,
    Level,
    exists,
)
from trun.conditions.timing import after, since
from trun.messages import (
    AtomMoved,
    Cancel,
    Cancelled,
    Completed,
    Entry,
    Failed,
    Hold,
    Improved,
    OwnerLeft,
    Progress,
    Relay,
    Release,
    Replayed,
    Retried,
    Retry,
    Said,
    SetAtom,
    Started,
)

# -- conditions that come late


def test_a_late_condition_hears_what_was_said_before() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.emit("a", Said(name="ready"), Improved(values={"chisq": 3.0}), Improved(values={"chisq": 9.0}))
    service.submit(
        spec("b", IsMessage("a", "ready")), spec("c", IsResult("a", "chisq < 5")), spec("d", IsMessage("a", "other"))
    )

    assert service.states("b", "c", "d") == ["queued", "queued", "waiting"]


def test_a_late_since_knows_which_job_ended_later() -> None:
    service = Service()
    service.job("a")
    service.job("b")
    service.run()
    service.complete("a")
    service.wait(1)
    service.complete("b")

    service.submit(
        spec("c", since(IsCompleted("b"), IsCompleted("a"))), spec("d", since(IsCompleted("a"), IsCompleted("b")))
    )

    assert service.states("c", "d") == ["queued", "cancelled"]


def test_a_late_since_knows_when_a_level_was_told() -> None:
    service = Service()
    level = Level("beam")
    service.job("a")
    service.run()
    service.complete("a")
    service.wait(1)
    service.send(SetAtom(key=level.key, value=3, session="me"))

    service.submit(spec("b", since(level, IsCompleted("a"))), spec("c", since(IsCompleted("a"), level)))

    assert service.states("b", "c") == ["queued", "cancelled"]


def test_a_late_condition_hears_an_ended_job_too() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.emit("a", Said(name="ready"), Improved(values={"chisq": 3.0}))
    service.complete("a", chisq=9.0)
    service.submit(
        spec("b", IsMessage("a", "ready")),
        spec("c", IsResult("a", "chisq < 5")),
        spec("d", IsResult("a", "chisq > 8")),
        spec("e", IsMessage("a", "other")),
    )

    assert service.states(*"bcde") == ["queued", "queued", "queued", "cancelled"]


def test_the_end_of_a_stream_does_not_overtake_its_replay() -> None:
    service = Service()
    service.replay_late = True
    service.job("a")
    service.run()
    service.emit("a", Said(name="ready"))
    service.job("b", IsMessage("a", "ready"))
    service.job("c", IsMessage("a", "ready") | IsFailed("a"))
    service.job("d", IsMessage("a", "last words"))
    service.emit("a", Said(name="last words"))
    service.complete("a")
    assert [replay.stream for replay in service.asked] == ["a"]
    assert service.states("b", "c", "d") == ["waiting", "waiting", "waiting"]
    seen = tuple(entry for entry in service.entries["a"] if entry.seq <= 4)
    service.asked.clear()
    service.send(Replayed(stream="a", entries=seen))

    assert service.states("b", "c", "d") == ["queued", "queued", "queued"]


def test_a_job_that_has_said_nothing_needs_no_replay() -> None:
    service = Service()
    service.replay_late = True
    service.job("a")
    service.run()
    service.job("b", IsMessage("a", "ready"))
    service.complete("a", chisq=1.0)
    service.submit(spec("c", IsResult("a", "chisq < 2")), spec("d", IsMessage("a", "ready")))

    assert service.asked == []
    assert service.states("b", "c", "d") == ["cancelled", "queued", "cancelled"]


def test_late_conditions_know_starts_and_progress() -> None:
    service = Service()
    service.submit(spec("a"), spec("z", IsCompleted("a")))
    service.submit(spec("q", IsQueued("a")), spec("w", IsQueued("z")))
    service.run(1)
    service.emit("a", Progress(fraction=0.6), Progress(fraction=0.1))
    service.submit(spec("b", IsStarted("a")), spec("c", IsProgress("a", 0.5)), spec("d", IsProgress("a", 0.7)))

    assert service.states(*"qwbcd") == ["queued", "waiting", "queued", "queued", "waiting"]
    service.complete("a")
    assert service.state("d") == "queued"


def test_only_the_present_run_counts_for_late_conditions() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.emit("a", Said(name="ready"), Progress(fraction=0.9))
    service.fail("a")
    service.send(Retry(uids=("a",)))
    service.run()
    service.emit("a", Said(name="other"))
    service.submit(spec("b", IsMessage("a", "ready")), spec("c", IsProgress("a", 0.5)))
    assert service.states("b", "c") == ["waiting", "waiting"]
    service.complete("a")

    assert service.states("b", "c") == ["cancelled", "queued"]


def test_a_negation_of_what_was_said_does_not_fire_before_the_replay() -> None:
    service = Service()
    service.replay_late = True
    service.job("a")
    service.run()
    service.emit("a", Said(name="stop"))
    service.submit(spec("b", ~IsMessage("a", "stop")), spec("c", ~IsMessage("a", "other")))
    assert service.states("b", "c") == ["waiting", "waiting"]
    service.answer_replays()

    assert service.states("b", "c") == ["cancelled", "queued"]
    assert "Queued" not in service.kinds("b")


# -- atoms that live in a client


def test_an_atom_that_was_set_before_the_submit_is_known() -> None:
    service = Service()
    atom = Atom("go")
    service.send(SetAtom(key=atom.key, value=4, session="me"))
    service.job("a", atom)

    assert service.run() == ["a"]


def test_an_atom_starts_what_waits_for_it_once() -> None:
    service = Service()
    atom = Atom("go")
    service.job("a", atom)
    service.send(SetAtom(key=atom.key, value=4, session="me"))
    assert service.state("a") == "queued"

    assert service.send(SetAtom(key=atom.key, value=4, session="me")) == []
    assert service.send(SetAtom(key=atom.key, value=0, session="me")) == []
    service.job("b", atom)
    assert service.state("b") == "queued"


def test_absurd_values_are_brought_into_the_chain() -> None:
    service = Service()
    high, low = Atom("high"), Atom("low")
    service.submit(spec("a", high), spec("b", low))
    service.send(SetAtom(key=high.key, value=99, session="me"))
    service.send(SetAtom(key=low.key, value=-99, session="me"))

    assert service.states("a", "b") == ["queued", "cancelled"]


def test_an_owner_that_leaves_takes_its_jobs_and_undecided_atoms_along() -> None:
    service = Service()
    gone, kept = Atom("gone"), Atom("kept")
    for atom, session in ((gone, "me"), (kept, "other")):
        service.send(SetAtom(key=atom.key, value=2, session=session))
    service.submit(
        spec("runs"),
        spec("waits", IsCompleted("runs")),
        spec("detached", detach=True),
        spec("theirs", gone, session="other"),
        spec("also theirs", kept, session="other"),
    )
    service.run()
    service.send(OwnerLeft(session="me"))

    assert service.states("waits", "theirs", "also theirs") == ["cancelled", "cancelled", "waiting"]
    assert isinstance(service.last("waits"), Cancelled)
    assert service.last("waits").kind == "owner"  # type: ignore[attr-defined]
    assert "owner left" in service.last("theirs").reason  # type: ignore[attr-defined]
    assert [stop.uid for stop in service.stops] == ["runs"]
    assert service.state("detached") == "running"
    said = service.last("service")
    assert isinstance(said, Said)
    assert said.value == {"session": "me", "jobs": 2, "atoms": 1}


def test_an_owner_that_leaves_nothing_behind_is_not_worth_an_entry() -> None:
    service = Service()

    assert service.send(OwnerLeft(session="me")) == []


def test_a_level_of_a_client_may_move_before_anybody_waits() -> None:
    service = Service()
    level = Level("beam")
    service.send(SetAtom(key=level.key, value=3, session="me"))
    service.send(SetAtom(key=level.key, value=2, session="me"))
    service.job("a", level)
    assert service.state("a") == "waiting"
    service.send(SetAtom(key=level.key, value=3, session="me"))

    assert service.state("a") == "queued"


# -- the world


def test_atoms_over_the_world_are_watched_as_long_as_somebody_waits() -> None:
    service = Service()
    atom = exists("/tmp/data.ort")
    service.job("a", atom)
    start, stop = service.machine.watch_changes()
    assert [one.key for one in start] == [atom.key]
    assert stop == []
    assert service.machine.watch_changes() == ([], [])
    service.send(AtomMoved(key=atom.key, value=3))
    assert service.run() == ["a"]

    assert service.machine.watch_changes() == ([], [atom.key])


def test_what_a_watcher_saw_is_known_to_the_next_who_asks() -> None:
    service = Service()
    atom = exists("/tmp/data.ort")
    service.job("a", atom, hold=True)
    service.machine.watch_changes()
    service.send(AtomMoved(key=atom.key, value=3))
    service.job("b", atom)

    assert service.state("b") == "queued"


def test_nothing_is_taken_for_absent_before_somebody_has_looked() -> None:
    service = Service()
    lock = exists("/tmp/lock")
    service.job("a", ~lock)
    assert service.state("a") == "waiting"
    assert "nobody has looked at 1 of its atoms yet" in service.machine.reason("a", service.now) + str(
        service.machine.explain("a", service.now)
    )
    assert [one.key for one in service.machine.watch_changes()[0]] == [lock.key]
    service.send(AtomMoved(key=lock.key, value=2))

    assert service.run() == ["a"]


def test_what_was_there_at_the_first_look_was_never_absent() -> None:
    service = Service()
    lock = exists("/tmp/lock")
    service.job("a", ~lock)
    service.send(AtomMoved(key=lock.key, value=3))
    assert service.kinds("a") == ["Submitted", "Waiting"]
    service.send(AtomMoved(key=lock.key, value=2))

    assert service.kinds("a") == ["Submitted", "Waiting", "Queued"]


def test_all_atoms_must_have_been_looked_at() -> None:
    service = Service()
    one, two = exists("/tmp/one"), exists("/tmp/two")
    service.job("a", ~one & ~two)
    service.job("b", ~one | ~two)
    service.send(AtomMoved(key=one.key, value=2))
    assert service.states("a", "b") == ["waiting", "waiting"]
    service.send(AtomMoved(key=two.key, value=3))

    assert service.states("a", "b") == ["waiting", "queued"]


def test_a_doubtful_condition_that_comes_to_hold_for_good_needs_no_look_any_more() -> None:
    service = Service()
    service.job("x")
    lock = exists("/tmp/lock")
    service.submit(spec("a", ~lock | IsCompleted("x")), spec("b", ~lock | after("10s")), spec("c", ~lock))
    assert service.states("a", "b", "c") == ["waiting", "waiting", "waiting"]
    service.run()
    service.complete("x")
    assert service.states("a", "b", "c") == ["queued", "waiting", "waiting"]
    service.wait(10)

    assert service.states("a", "b", "c") == ["queued", "queued", "waiting"]
    service.send(AtomMoved(key=lock.key, value=3))
    assert service.states("a", "b", "c") == ["queued", "queued", "waiting"]


def test_a_doubtful_job_may_be_cancelled_held_or_dropped() -> None:
    service = Service()
    lock = exists("/tmp/lock")
    service.submit(*[spec(uid, ~lock) for uid in "abc"], spec("d", ~lock & IsCompleted("a")))
    service.send(Cancel(uids=("a",)))
    service.send(Hold(uids=("b",)))
    service.send(AtomMoved(key=lock.key, value=2))
    assert service.states(*"abcd") == ["cancelled", "held", "queued", "cancelled"]
    service.send(Release(uids=("b",)))

    assert service.state("b") == "queued"


def test_what_holds_for_good_needs_no_look() -> None:
    service = Service()
    service.job("x")
    service.job("a", exists("/tmp/lock") | IsCompleted("x"))
    service.run()
    service.complete("x")

    assert service.state("a") == "queued"


# -- other services


def far(seq: int, event: object) -> Relay:
    return Relay(service_key="theirs", entries=(Entry("far", seq, 7, 5.0, event),))  # type: ignore[arg-type]


def test_entries_of_another_service_decide_what_waits_for_them() -> None:
    service = Service(key="mine")
    service.job("a", IsCompleted("far", service_key="theirs"))
    service.send(far(1, Started()))
    service.send(far(2, Completed(values={"x": 1})))

    assert service.state("a") == "queued"


def test_entries_of_another_service_are_remembered_for_those_who_come_late() -> None:
    service = Service(key="mine")
    service.send(far(1, Started()))
    service.send(far(2, Improved(values={"chisq": 1.0})))
    service.send(far(3, Improved(values={"chisq": 7.0})))
    service.send(far(4, Failed(kind="raised")))
    service.submit(
        spec("a", IsCompleted("far", service_key="theirs")),
        spec("b", IsResult("far", "chisq < 2", service_key="theirs")),
        spec("c", IsFailed("far", service_key="theirs")),
        spec("d", IsMessage("far", "x", service_key="theirs")),
    )

    assert service.states(*"abcd") == ["cancelled", "queued", "queued", "cancelled"]


def test_entries_that_come_twice_or_out_of_order_are_dropped() -> None:
    service = Service(key="mine")
    service.send(far(1, Started()))
    service.send(far(2, Failed(kind="raised")))
    service.send(far(2, Completed()))
    service.send(far(1, Started()))
    service.job("a", IsFailed("far", service_key="theirs"))

    assert service.state("a") == "queued"
    assert service.machine.counters["duplicate"] == 2


def test_silence_of_another_service_is_no_answer() -> None:
    service = Service(key="mine")
    service.job("a", ~IsFailed("far", service_key="theirs"))
    assert service.state("a") == "waiting"
    service.send(far(1, Started()))

    assert service.state("a") == "queued"


def test_a_new_run_elsewhere_begins_anew() -> None:
    service = Service(key="mine")
    service.send(far(1, Failed(kind="raised")))
    service.send(far(2, Retried(run=2)))
    service.job("a", IsCompleted("far", service_key="theirs"))
    assert service.state("a") == "waiting"
    service.send(far(3, Completed()))

    assert service.state("a") == "queued"


def test_nobody_can_relay_entries_of_our_own_jobs() -> None:
    service = Service(key="mine")
    service.job("a")
    service.job("b", IsCompleted("a"))
    service.send(Relay(service_key="theirs", entries=(Entry("a", 9, 1, 5.0, Completed()),)))

    assert service.states("a", "b") == ["queued", "waiting"]


def test_either_side_of_an_or_may_be_elsewhere() -> None:
    service = Service(key="mine")
    service.job("x")
    service.job("a", Or(IsCompleted("x"), IsCompleted("far", service_key="theirs")))
    service.send(far(1, Completed()))

    assert service.state("a") == "queued"
