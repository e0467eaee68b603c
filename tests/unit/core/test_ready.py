from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.core.ready import PLAIN, Ledger, Needs, ReadyQueue


def queue_of(**limits: float) -> tuple[ReadyQueue, Ledger]:
    ledger = Ledger(limits)
    return ReadyQueue(ledger), ledger


def needs(**amounts: float) -> Needs:
    return Needs(tuple(sorted(amounts.items())), plain=False)


def drain(queue: ReadyQueue) -> list[str]:
    found = []
    while (uid := queue.pop()) is not None:
        found.append(uid)
    return found


def test_the_first_seen_starts_first() -> None:
    queue, _ = queue_of()
    for number, uid in enumerate("abc"):
        queue.push(uid, 0, number)

    assert drain(queue) == ["a", "b", "c"]


def test_a_higher_priority_starts_before_an_earlier_number() -> None:
    queue, _ = queue_of()
    queue.push("low", 0, 1)
    queue.push("high", 5, 2)

    assert drain(queue) == ["high", "low"]


def test_order_holds_across_different_needs() -> None:
    queue, _ = queue_of(gpu=4)
    for number, uid in enumerate("abcd"):
        queue.push(uid, 0, number, PLAIN if number % 2 else needs(gpu=1))

    assert drain(queue) == ["a", "b", "c", "d"]


def test_what_lacks_a_resource_waits_for_its_release() -> None:
    queue, ledger = queue_of(gpu=1)
    queue.push("a", 0, 1, needs(gpu=1))
    queue.push("b", 0, 2, needs(gpu=1))
    assert queue.pop() == "a"
    ledger.take("a", {"gpu": 1})

    assert queue.pop() is None

    queue.released(ledger.give_back("a"))
    assert queue.pop() == "b"


def test_what_fits_passes_what_does_not() -> None:
    queue, ledger = queue_of(gpu=2)
    ledger.take("other", {"gpu": 1})
    queue.push("big", 9, 1, needs(gpu=2))
    queue.push("small", 0, 2, needs(gpu=1))

    assert drain(queue) == ["small"]


def test_a_job_that_lacks_two_resources_waits_for_both() -> None:
    queue, ledger = queue_of(gpu=1, net=1)
    ledger.take("x", {"gpu": 1})
    ledger.take("y", {"net": 1})
    queue.push("a", 0, 1, needs(gpu=1, net=1))
    assert queue.pop() is None

    queue.released(ledger.give_back("x"))
    assert queue.pop() is None

    queue.released(ledger.give_back("y"))
    assert queue.pop() == "a"


def test_a_release_that_serves_nobody_leaves_the_next_in_line_where_it_can_be_found() -> None:
    queue, ledger = queue_of(gpu=1, net=1)
    ledger.take("x", {"gpu": 1})
    ledger.take("y", {"net": 1})
    queue.push("both", 0, 1, needs(gpu=1, net=1))
    queue.push("one", 0, 2, needs(gpu=1))
    assert queue.pop() is None

    queue.released(ledger.give_back("x"))

    assert drain(queue) == ["one"]


def test_a_discarded_job_is_not_given_out_and_may_come_again() -> None:
    queue, _ = queue_of()
    queue.push("a", 0, 1)
    queue.push("b", 0, 2)
    queue.discard("a")
    queue.discard("a")
    assert "a" not in queue

    queue.push("a", 0, 1)

    assert drain(queue) == ["a", "b"]


def test_plain_jobs_can_be_taken_ahead_without_the_others() -> None:
    queue, _ = queue_of(gpu=1)
    queue.push("a", 0, 1, needs(gpu=1))
    queue.push("b", 0, 2, Needs(plain=False))
    queue.push("c", 0, 3)

    assert queue.pop_plain() == "c"
    assert queue.pop_plain() is None
    assert drain(queue) == ["a", "b"]


def test_heads_do_not_pile_up_when_only_plain_jobs_are_taken() -> None:
    queue, _ = queue_of()
    for number in range(10_000):
        queue.push(f"u{number}", 0, number)
    for _ in range(9_000):
        queue.pop_plain()

    assert len(queue._heads) < 200
    assert queue.pop() == "u9000"


def test_memory_follows_the_jobs_that_are_there() -> None:
    queue, _ = queue_of()
    for number in range(10_000):
        queue.push(f"u{number}", 0, number)
        queue.discard(f"u{number}")

    assert sum(map(len, queue._heaps.values())) < 200


def test_the_position_counts_those_that_come_before() -> None:
    queue, _ = queue_of()
    for number, uid in enumerate("abc"):
        queue.push(uid, number, number)

    assert [queue.position(uid) for uid in "abc"] == [3, 2, 1]


def test_a_part_of_a_resource_can_be_given_back_while_running() -> None:
    _, ledger = queue_of(gpu=4)
    ledger.take("a", {"gpu": 3})

    assert ledger.lower("a", {"gpu": 2, "net": 1}) == {"gpu": 2}
    assert ledger.free("gpu") == 3
    assert ledger.lower("a", {"gpu": 5}) == {"gpu": 1}
    assert list(ledger.give_back("a")) == ["gpu"]
    assert ledger.used["gpu"] == 0


def test_fractions_add_up_to_nothing_when_all_is_given_back() -> None:
    _, ledger = queue_of(gpu=1)
    for uid, amount in (("a", 0.1), ("b", 0.2), ("c", 0.7)):
        assert ledger.scarce(needs(gpu=amount)) is None
        ledger.take(uid, {"gpu": amount})
    for uid in "abc":
        ledger.give_back(uid)

    assert ledger.used["gpu"] == 0.0


@pytest.mark.parametrize("name", ["gpu", "net"])
def test_an_unknown_resource_is_never_free(name: str) -> None:
    _, ledger = queue_of()

    assert ledger.free(name) == 0
    assert ledger.scarce(needs(**{name: 1})) == name


JOBS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-2, 2))


@given(
    st.lists(
        st.one_of(
            JOBS.map(lambda job: ("push", job)), st.tuples(st.sampled_from(["pop", "end", "drop"]), st.integers(0, 9))
        )
    )
)
def test_the_queue_always_gives_the_best_that_fits(steps: list[tuple[str, object]]) -> None:
    queue, ledger = queue_of(gpu=3, net=3)
    waiting: dict[str, tuple[tuple[float, int], dict[str, float]]] = {}
    running: list[str] = []
    for number, (step, what) in enumerate(steps):
        if step == "push":
            gpu, net, priority = what  # type: ignore[misc]
            wanted = {name: amount for name, amount in (("gpu", gpu), ("net", net)) if amount}
            waiting[f"u{number}"] = ((-priority, number), wanted)
            queue.push(f"u{number}", priority, number, needs(**wanted) if wanted else PLAIN)
        elif step == "pop":
            fitting = [
                (rank, uid)
                for uid, (rank, wanted) in waiting.items()
                if all(ledger.free(name) >= amount for name, amount in wanted.items())
            ]
            best = min(fitting)[1] if fitting else None
            assert queue.pop() == best
            if best is not None:
                ledger.take(best, waiting.pop(best)[1])
                running.append(best)
        elif step == "end" and running:
            queue.released(ledger.give_back(running.pop(int(what) % len(running))))  # type: ignore[call-overload]
        elif step == "drop" and waiting:
            uid = list(waiting)[int(what) % len(waiting)]  # type: ignore[call-overload]
            del waiting[uid]
            queue.discard(uid)
        assert len(queue) == len(waiting)
        assert all(0 <= ledger.used[name] <= 3 for name in ledger.limits)
