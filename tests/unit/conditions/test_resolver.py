"""The resolver, case by case; that it decides rightly in general stands in test_resolver_laws."""

from __future__ import annotations

from typing import Any

import pytest

from trun.conditions.algebra import And, AtLeast, Condition, Leaf, Never, Or
from trun.conditions.atoms import (
    Atom,
    IsCompleted,
    IsFailed,
    IsMessage,
    IsProgress,
    IsReached,
    IsResult,
    IsStarted,
    Level,
    exists,
)
from trun.conditions.decisions import Drop, Fire, Lapse, Reason
from trun.conditions.resolver import Resolver
from trun.conditions.timing import after, before, held, since
from trun.conditions.value import CANCELLED, HOLDS, NEVER, TRUE, WAIT, Value
from trun.errors import InvariantError, UnknownName
from trun.messages import (
    Aborted,
    Cancelled,
    Completed,
    Counted,
    Failed,
    Improved,
    Progress,
    Said,
    Skipped,
    Started,
)


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


def owners(decisions: list[Any]) -> list[Any]:
    return [one.owner for one in decisions]


def failed() -> Failed:
    return Failed(kind="raised")


# -- firing and dropping


def test_a_new_run_of_a_job_leaves_no_mention_behind(resolver: Resolver) -> None:
    beam = Level("beam")
    resolver.register("watches", beam | IsCompleted("a"))  # of five values, and entered before the plain one
    resolver.register("either", IsCompleted("a") | IsCompleted("b"))
    resolver.hear("a", failed())
    resolver.reset("a", 2)
    resolver.hear("a", failed())
    resolver.hear("c", Completed())
    for number in range(5):  # these may have the place of what was given back
        resolver.register(f"both{number}", IsCompleted("x") & IsCompleted("y"))

    assert owners(resolver.hear("b", Completed())) == ["either"]
    assert resolver.hear("x", Completed()) == []
    assert owners(resolver.hear("y", Completed())) == [f"both{number}" for number in range(5)]


def test_an_and_fires_with_its_last_atom(resolver: Resolver) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")

    assert resolver.register("job", a & b) == []
    assert resolver.hear("a", Completed()) == []
    (fire,) = resolver.hear("b", Completed())

    assert isinstance(fire, Fire)
    assert fire == Fire("job", TRUE)
    assert set(fire.witness) == {a.key, b.key}
    assert len(resolver) == 0


def test_an_or_fires_with_its_first_atom_and_forgets_the_other(resolver: Resolver) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")
    resolver.register("job", a | b)

    (fire,) = resolver.hear("b", Completed())

    assert isinstance(fire, Fire)
    assert fire.witness == (b.key,)
    assert not resolver.wanted("a")
    assert resolver.hear("a", Completed()) == []


def test_an_and_drops_with_its_first_dead_atom_and_says_which(resolver: Resolver) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")
    resolver.register("job", a & b)

    (drop,) = resolver.hear("b", Failed(kind="timeout"))

    assert isinstance(drop, Drop)
    assert drop.reason.value is CANCELLED
    assert drop.reason.kind == "cancelled"
    assert drop.reason.keys == (b.key,)
    assert drop.reason.subjects == ("b",)
    assert "timeout" in str(drop.reason)
    assert not resolver.wanted("a")


def test_a_quorum_drops_with_one_minimal_set(resolver: Resolver) -> None:
    atoms = [IsCompleted(name) for name in "abcd"]
    resolver.register("job", AtLeast(3, *atoms))

    assert resolver.hear("a", failed()) == []
    assert resolver.hear("b", Completed()) == []
    (drop,) = resolver.hear("d", Skipped())

    assert isinstance(drop, Drop)
    assert drop.reason.keys == (atoms[0].key, atoms[3].key)
    assert drop.reason.value is NEVER


def test_decisions_come_in_order_of_registration(resolver: Resolver) -> None:
    barrier, other = IsCompleted("barrier"), IsCompleted("other")
    forms: list[Condition] = [barrier, barrier & other, barrier | IsCompleted("x"), Never(IsFailed("barrier"))]
    forms.append((barrier | IsCompleted("y")) & (other | IsCompleted("z")))
    for number in range(50):
        resolver.register(number, forms[number % 5])
    for number in range(0, 50, 7):
        resolver.withdraw(number)
        resolver.register(100 + number, barrier)
    resolver.hear("other", Completed())

    found = owners(resolver.hear("barrier", Completed()))

    assert found == [n for n in range(50) if n % 7] + [100 + n for n in range(0, 50, 7)]


def test_each_row_of_a_batch_is_heard_before_the_decisions(resolver: Resolver) -> None:
    level, a = Level(), Atom()
    resolver.register("pulse", level)
    resolver.register("job", a)

    found = resolver.settle_many([(level.key, HOLDS), (a.key, TRUE), (level.key, WAIT)])

    assert owners(found) == ["job"]


def test_registering_twice_is_our_own_fault(resolver: Resolver) -> None:
    resolver.register("job", IsCompleted("a"))

    with pytest.raises(InvariantError):
        resolver.register("job", IsCompleted("b"))


# -- registering late, withdrawing, unknown news


@pytest.mark.parametrize(
    ("value", "kind"), [(TRUE, Fire), (NEVER, Drop), (CANCELLED, Drop)], ids=["true", "never", "cancelled"]
)
@pytest.mark.parametrize("form", [lambda a: a, lambda a: a & IsCompleted("b"), lambda a: (a | Or()) & And()])
def test_what_is_known_counts_at_registration(resolver: Resolver, value: Value, kind: type, form: Any) -> None:
    atom = IsCompleted("a")

    found = resolver.register("job", form(atom), known=lambda leaf: value)

    assert [type(one) for one in found] == [kind]
    assert len(resolver) == 0
    assert not resolver.wanted("a")


def test_a_late_registration_joins_those_who_wait(resolver: Resolver) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")
    resolver.register("first", a & b)
    resolver.hear("a", Completed())

    assert resolver.register("second", a & b) == []
    assert owners(resolver.hear("b", Completed())) == ["first", "second"]


def test_known_is_asked_with_the_atom_and_none_means_its_latch(resolver: Resolver) -> None:
    asked: list[Leaf] = []
    a = Atom()
    a.set_ready()

    def known(leaf: Leaf) -> Value | None:
        asked.append(leaf)
        return None

    assert owners(resolver.register("job", a, known=known)) == ["job"]
    assert asked == [a]


def test_a_withdrawn_registration_is_never_decided(resolver: Resolver) -> None:
    a, level = IsCompleted("a"), Level()
    resolver.register("plain", a & IsCompleted("b"))
    resolver.register("tree", (a | IsCompleted("b")) & IsCompleted("c"))
    resolver.register("level", a & level)

    assert [resolver.withdraw(owner) for owner in ("plain", "tree", "level", "nobody")] == [True, True, True, False]

    assert not any(resolver.wanted(subject) for subject in "abc")
    assert resolver.hear("a", Completed()) == []


def test_unknown_repeated_and_contradicting_news_is_counted(resolver: Resolver) -> None:
    a, b = Atom(), Atom()
    resolver.register("job", a & b)

    resolver.settle("nobody", TRUE)
    resolver.settle(a.key, TRUE)
    resolver.settle(a.key, TRUE)
    resolver.settle(a.key, CANCELLED)
    resolver.settle(b.key, HOLDS)

    assert (resolver.ignored, resolver.contradicted) == (3, 1)
    assert owners(resolver.settle(b.key, TRUE)) == ["job"]


def test_a_gate_that_was_given_back_is_not_fed_by_old_edges(resolver: Resolver) -> None:
    a, b, c = (IsCompleted(name) for name in "abc")
    resolver.register("or", a | b)
    resolver.hear("a", Completed())
    resolver.register("and", b & c)

    assert resolver.hear("b", Completed()) == []
    assert owners(resolver.hear("c", Completed())) == ["and"]


# -- jobs and groups


def test_several_atoms_about_one_job_are_judged_apart(resolver: Resolver) -> None:
    resolver.register("started", IsStarted("a"))
    resolver.register("completed", IsCompleted("a"))
    resolver.register("half", IsProgress("a", 0.5))
    resolver.register("good", IsResult("a", "chisq < 1"))
    resolver.register("said", IsMessage("a", "hello"))

    assert owners(resolver.hear("a", Started())) == ["started"]
    assert resolver.hear("a", Progress(fraction=0.4)) == []
    assert owners(resolver.hear("a", Progress(fraction=0.6))) == ["half"]
    assert owners(resolver.hear("a", Improved(values={"chisq": 0.5}))) == ["good"]
    assert owners(resolver.hear("a", Said(name="hello"))) == ["said"]
    assert owners(resolver.hear("a", Aborted())) == ["completed"]


def test_one_event_may_decide_and_free_several_atoms(resolver: Resolver) -> None:
    resolver.register("job", IsCompleted("a") & IsStarted("a") & IsMessage("a", "x"))

    (drop,) = resolver.hear("a", Cancelled())

    assert isinstance(drop, Drop)
    assert resolver._entries.about == {}


def test_a_group_is_one_atom(resolver: Resolver) -> None:
    resolver.register("some", IsReached("group", "60%"))
    resolver.register("all", IsCompleted("group"))

    assert resolver.hear("group", Counted(total=5, closed=False, completed=4)) == []
    assert owners(resolver.hear("group", Counted(total=5, closed=True, completed=3))) == ["some"]
    assert owners(resolver.hear("group", Counted(total=5, closed=True, completed=4, failed=1))) == ["all"]


@pytest.mark.parametrize("form", [lambda a, b: a & b, lambda a, b: (a & b) | And(b, a), lambda a, b: a & b & Level()])
def test_a_new_run_makes_those_who_still_wait_wait_anew(resolver: Resolver, form: Any) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")
    resolver.register("decided", a)
    resolver.register("waiting", form(a, b))
    resolver.hear("a", Completed())

    assert resolver.reset("a", 2) == []

    assert resolver.wanted("a")
    assert resolver.hear("b", Completed()) == []
    (drop,) = resolver.hear("a", failed())
    assert drop.owner == "waiting"


def test_a_new_run_revives_a_dead_side(resolver: Resolver) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")
    resolver.register("job", a | b)
    resolver.hear("a", failed())

    resolver.reset("a", 2)

    assert owners(resolver.hear("a", Completed())) == ["job"]


def test_who_mentions_whom_can_be_asked(resolver: Resolver) -> None:
    a, b = IsCompleted("a"), IsCompleted("b")
    resolver.register("x", a & b)
    resolver.register("y", (a | b) & IsStarted("c"))
    resolver.register("z", a & Level())

    assert resolver.subjects_of("y") == {"a", "b", "c"}
    assert resolver.owners_about("a") == ["x", "y", "z"]
    assert resolver.owners_about("c") == ["y"]
    assert resolver.condition_of("x") == a & b
    assert resolver.condition_of("z").depends >= {a}
    assert resolver.value(a.key) is WAIT
    resolver.hear("a", Completed())
    assert resolver.value(a.key) is TRUE
    with pytest.raises(UnknownName, match="nobody"):
        resolver.subjects_of("nobody")


# -- levels


def test_a_level_fires_once_where_levels_are_not_kept(resolver: Resolver) -> None:
    level = Level()
    resolver.register("job", level)

    assert resolver.settle(level.key, HOLDS) == [Fire("job", HOLDS)]
    assert resolver.settle(level.key, WAIT) == []
    assert len(resolver) == 0


def test_a_kept_level_lapses_fires_again_and_drops() -> None:
    resolver, level = Resolver(keep_levels=True), Level()
    resolver.register("job", level & IsCompleted("a"))
    resolver.hear("a", Completed())

    found = [
        resolver.settle(level.key, HOLDS),
        resolver.settle(level.key, WAIT),
        resolver.settle(level.key, HOLDS),
        resolver.settle(level.key, NEVER),
    ]

    assert [owners(one) for one in found] == [["job"]] * 4
    assert [type(one[0]) for one in found] == [Fire, Lapse, Fire, Drop]
    assert len(resolver) == 0


def test_a_kept_level_that_settles_while_up_stays_until_it_is_withdrawn() -> None:
    resolver, level = Resolver(keep_levels=True), Level()
    resolver.register("job", level)
    resolver.settle(level.key, HOLDS)

    assert resolver.settle(level.key, TRUE) == []
    assert resolver.withdraw("job")


def test_since_takes_late_news_where_it_belongs(resolver: Resolver) -> None:
    trigger, reset = Level(), Level()
    resolver.register("job", since(trigger, reset) & IsCompleted("go"))
    resolver.settle(trigger.key, HOLDS, seq=7)
    resolver.settle(reset.key, HOLDS, seq=5)

    assert owners(resolver.hear("go", Completed())) == ["job"]


# -- time


def test_a_new_run_revives_the_dead_side_of_all_who_mention_it(resolver: Resolver) -> None:
    a, b, c = (IsCompleted(name) for name in "abc")
    resolver.register(1, a | b)
    resolver.register(2, (a & b) | c)
    resolver.hear("a", failed())

    assert resolver.reset("a") == []
    resolver.hear("b", Completed())
    assert owners(resolver.hear("a", Completed())) == [2]


def test_deadlines_count_from_the_first_registration(resolver: Resolver) -> None:
    condition = IsCompleted("a").within("10s")

    resolver.register("new", condition, now=100.0)
    resolver.register("restarted", condition, now=100.0, origin=95.0)
    (drop,) = resolver.register("missed", condition, now=100.0, origin=80.0)

    assert drop.owner == "missed"
    assert resolver.next_deadline() == 105.0
    assert owners(resolver.advance(105.0)) == ["restarted"]
    assert resolver.next_deadline() == 110.0


def test_clocks_of_those_who_are_gone_are_forgotten(resolver: Resolver) -> None:
    for number in range(1_000):
        resolver.register(number, IsCompleted("a") | after(1_000 + number))
    resolver.hear("a", Completed())

    assert resolver.next_deadline() is None
    assert len(resolver._clocks._heap) < 100


def test_time_that_passed_unseen_comes_before_news(resolver: Resolver) -> None:
    a = Atom()
    resolver.register("late", a & before(10.0))
    resolver.register("held", held(a, 5.0))

    found = resolver.settle(a.key, TRUE, now=12.0)

    assert owners(found) == ["late"]
    assert resolver.advance(16.9) == []
    assert resolver.advance(17.0) == [Fire("held", TRUE)]


# -- the world


def test_world_atoms_are_watched_while_somebody_waits(resolver: Resolver) -> None:
    there, other = exists("/a"), exists("/b")
    resolver.register("x", there | other)
    resolver.register("y", there & IsCompleted("a"))

    start, stop = resolver.take_watch_changes()
    assert ({atom.key for atom in start}, stop) == ({there.key, other.key}, [])
    assert resolver.take_watch_changes() == ([], [])

    resolver.settle(there.key, HOLDS)
    assert resolver.take_watch_changes() == ([], [other.key])
    resolver.withdraw("y")
    assert resolver.take_watch_changes() == ([], [there.key])
    assert resolver.world() == []


# -- explaining


def test_a_waiting_registration_is_explained_by_what_it_has_heard(resolver: Resolver) -> None:
    a, b, c = (IsCompleted(name) for name in "abc")
    resolver.register("job", a & (b | c))
    resolver.hear("a", Completed())
    resolver.hear("b", failed())

    explanation = resolver.explain("job")

    assert explanation.value is WAIT
    assert explanation.blocking == (c,)
    assert next(explanation.missing) == {c}


def test_held_is_explained_by_its_clock() -> None:
    resolver, level = Resolver(keep_levels=True), Level(holds=True)
    resolver.register("job", held(level, 60.0), now=0.0)
    assert resolver.explain("job", now=1.0).value is WAIT

    resolver.advance(60.0)

    assert resolver.explain("job", now=60.0).value is HOLDS


def test_decisions_and_reasons_are_values() -> None:
    assert Fire("a", TRUE) == Fire("a", TRUE) != Fire("a", HOLDS)
    assert len({Fire("a", TRUE), Fire("a", TRUE), Lapse("a"), Lapse("a")}) == 2
    assert Drop("a", Reason(NEVER)) == Drop("a", Reason(NEVER)) != Drop("a", Reason(CANCELLED))
    assert str(Reason(NEVER)) == "can never hold"
    assert str(Reason(CANCELLED)) == "was cancelled"
    assert "Fire('a', TRUE)" in repr([Fire("a", TRUE)])


# -- size


def test_wide_and_deep_conditions_are_decided_without_recursion(resolver: Resolver) -> None:
    atoms = [IsCompleted(f"j{number}") for number in range(20_000)]
    deep: Condition = atoms[0]
    for number, atom in enumerate(atoms[1:]):
        deep = deep & atom if number % 2 else deep | atom
    level = Level(holds=True)
    for owner, condition in enumerate((And(*atoms), deep, deep & level, AtLeast(20_000, *atoms))):
        resolver.register(owner, condition)
    resolver.register("none", Or(*atoms))

    found = [decision for atom in atoms for decision in resolver.hear(atom.subject, Completed())]

    assert sorted(map(str, owners(found))) == ["0", "1", "2", "3", "none"]


def test_a_condition_that_repeats_itself_is_not_unfolded(resolver: Resolver) -> None:
    chain: Condition = IsCompleted("a") & IsCompleted("b")
    quorum: Condition = IsCompleted("a") | IsCompleted("b")
    for _ in range(60):
        chain = chain & chain
        quorum = AtLeast(1, quorum, Or(quorum, IsCompleted("c")))
    resolver.register("chain", chain)
    resolver.register("quorum", quorum)

    assert owners(resolver.hear("a", Completed())) == ["quorum"]
    assert owners(resolver.hear("b", Completed())) == ["chain"]
