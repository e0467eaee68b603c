from __future__ import annotations

from tests.unit.core.kit import Service, spec
from trun.conditions.atoms import free
from trun.messages import Cancel, ResourcesLowered, Resume, Returned, Suspend


def test_no_more_run_than_resources_allow() -> None:
    service = Service(resources={"gpu": 2})
    service.submit(*[spec(uid, resources={"gpu": 1}) for uid in "abc"])

    assert service.run() == ["a", "b"]
    service.complete("a")
    assert service.run() == ["c"]


def test_a_job_that_fits_passes_one_that_does_not() -> None:
    service = Service(resources={"gpu": 2})
    service.submit(spec("a", resources={"gpu": 1}), spec("big", resources={"gpu": 2}), spec("c"))

    assert service.run() == ["a", "c"]


def test_a_part_given_back_early_lets_another_start() -> None:
    service = Service(resources={"gpu": 3})
    service.submit(spec("a", resources={"gpu": 3}), spec("b", resources={"gpu": 2}))
    assert service.run() == ["a"]
    service.send(ResourcesLowered(uid="a", epoch=1, resources={"gpu": 2}))

    assert service.run() == ["b"]
    assert service.machine.resources()["gpu"]["used"] == 3
    service.complete("a")
    service.complete("b")
    assert service.machine.resources()["gpu"]["used"] == 0


def test_what_was_given_back_is_asked_for_again_by_the_next_attempt() -> None:
    service = Service(resources={"gpu": 2})
    service.job("a", resources={"gpu": 2}, retries=1)
    service.run()
    service.send(ResourcesLowered(uid="a", epoch=1, resources={"gpu": 1}))
    service.fail("a")
    service.run()

    assert service.machine.resources()["gpu"]["used"] == 2
    assert service.life("a").lowered == {}


def test_what_is_given_back_is_taken_once_although_it_is_heard_twice() -> None:
    service = Service(resources={"gpu": 5})
    service.job("a", resources={"gpu": 5})
    service.run()
    for number in (1, 2, 1, 2):  # as after a restart before what was heard had been settled
        service.send(ResourcesLowered(uid="a", epoch=1, resources={"gpu": 1}, number=number))

    assert service.machine.resources()["gpu"]["used"] == 3
    assert service.life("a").lowered == {"gpu": 2}
    assert service.machine.counters["duplicate"] == 2


def test_every_way_to_end_gives_all_back() -> None:
    service = Service(resources={"gpu": 9})
    service.submit(*[spec(uid, resources={"gpu": 2}) for uid in "abc"])
    service.run()
    service.fail("a")
    service.send(Returned(uid="b", epoch=1))
    service.send(Cancel(uids=("b", "c")))
    service.fail("c", kind="died")

    assert service.machine.resources()["gpu"]["used"] == 0


def test_a_suspended_job_lends_its_resources_to_its_children() -> None:
    service = Service(resources={"gpu": 1})
    service.job("parent", resources={"gpu": 1})
    service.run()
    service.send(Suspend(uid="parent", epoch=1))
    service.job("child", resources={"gpu": 1}, parent="parent")
    assert service.run() == ["child"]
    service.send(Resume(uid="parent", epoch=1))
    service.run()
    assert service.turns == []
    service.complete("child")
    service.run()

    assert [turn.uid for turn in service.turns] == ["parent"]
    assert service.machine.resources()["gpu"] == {"limit": 1, "used": 1, "waiting": 0, "holders": ["parent#1"]}


def test_jobs_with_needs_are_not_handed_out_ahead() -> None:
    service = Service(resources={"gpu": 1})
    service.submit(
        spec("a", resources={"gpu": 1}),
        spec("b", timeout=5.0),
        spec("c", memory=1000),
        spec("d", isolation="fresh"),
        spec("e", retries=1, retry_delay=1.0),
        spec("f", retries=1),
        spec("g"),
    )

    assert service.run(idle=0, ahead=10) == ["f", "g"]
    assert service.run(idle=10) == ["a", "b", "c", "d", "e"]


def test_the_best_go_to_idle_workers_and_plain_ones_ahead() -> None:
    service = Service()
    service.submit(spec("a"), spec("b", timeout=5.0), spec("c"), spec("d", priority=1))

    assert service.run(idle=2, ahead=5) == ["d", "a", "c"]


def test_a_condition_may_wait_for_a_free_resource() -> None:
    service = Service(resources={"gpu": 2})
    service.job("a", resources={"gpu": 2})
    service.run()
    service.job("b", free("gpu", 1), on_never="hold")
    assert service.state("b") == "waiting"
    assert service.machine.watch_changes() == ([], [])
    service.complete("a")

    assert service.state("b") == "queued"


def test_one_free_resource_wakes_exactly_one_of_those_that_take_it() -> None:
    service = Service(resources={"gpu": 1})
    service.job("a", resources={"gpu": 1})
    service.run()
    service.submit(*[spec(uid, free("gpu", 1), resources={"gpu": 1}) for uid in "bc"])
    service.complete("a")
    assert service.states("b", "c") == ["queued", "queued"]

    assert service.run() == ["b"]
    assert service.states("b", "c") == ["running", "waiting"]
    service.complete("b")
    assert service.run() == ["c"]


def test_a_free_atom_holds_at_submit_if_it_is_true_then() -> None:
    service = Service(resources={"gpu": 1})
    service.job("a", free("gpu", 1))

    assert service.run() == ["a"]


def test_what_waits_for_a_resource_is_counted() -> None:
    service = Service(resources={"gpu": 1, "net": 5})
    service.submit(*[spec(uid, resources={"gpu": 1}) for uid in "abc"])
    service.run()

    assert service.machine.resources() == {
        "gpu": {"limit": 1, "used": 1, "waiting": 2, "holders": ["a#1"]},
        "net": {"limit": 5, "used": 0, "waiting": 0, "holders": []},
    }


def test_whole_limits_keep_whole_amounts() -> None:
    service = Service(resources={"disk": 1.0})
    service.submit(*[spec(f"a{n}", resources={"disk": 0.1}) for n in range(20)])
    assert len(service.run()) == 10
    for n in range(10):
        service.complete(f"a{n}")

    assert len(service.run()) == 10
