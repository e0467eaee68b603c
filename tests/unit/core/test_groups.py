from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.atoms import IsCompleted, IsEnded, IsFailed, IsFinished, IsOk, IsReached
from trun.core.record import Publish
from trun.messages import Cancel, Completed, Counted, Ended, GroupSpec, Retry


def family(service: Service, count: int, total: int | None = -1) -> list[str]:
    uids = [f"m{n}" for n in range(count)]
    service.submit(
        *[spec(uid, group="g") for uid in uids], groups=[GroupSpec("g", "fits", count if total == -1 else total)]
    )
    return uids


def test_a_group_is_complete_when_all_its_members_are() -> None:
    service = Service()
    uids = family(service, 3)
    service.job("after", IsCompleted("g"))
    service.run()
    for uid in uids[:2]:
        service.complete(uid)
    assert service.state("after") == "waiting"
    service.complete(uids[2])

    assert service.state("after") == "queued"
    assert service.last("g") == Counted(total=3, closed=True, completed=3)


def test_one_failure_decides_a_group_at_once() -> None:
    service = Service()
    uids = family(service, 3)
    service.job("all", IsCompleted("g"))
    service.job("any failed", IsFailed("g"))
    service.run()
    service.fail(uids[1])

    assert service.states("all", "any failed") == ["cancelled", "queued"]
    assert service.life("all").root == uids[1]


def test_a_share_of_a_group_is_enough() -> None:
    service = Service()
    uids = family(service, 5)
    service.job("most", IsReached("g", "60%"))
    service.run()
    for uid in uids[:2]:
        service.complete(uid)
    service.fail(uids[2])
    assert service.state("most") == "waiting"
    service.complete(uids[3])

    assert service.state("most") == "queued"


def test_a_share_that_can_no_longer_be_reached_cancels() -> None:
    service = Service()
    uids = family(service, 3)
    service.job("most", IsReached("g", 2))
    service.run()
    service.fail(uids[0])
    assert service.state("most") == "waiting"
    service.fail(uids[1])

    assert service.state("most") == "cancelled"


def test_an_open_group_waits_for_its_number_of_members() -> None:
    service = Service()
    uids = family(service, 2, total=None)
    service.job("all", IsCompleted("g"))
    service.run()
    for uid in uids:
        service.complete(uid)
    assert service.state("all") == "waiting"
    service.submit(groups=[GroupSpec("g", "fits", 2)])

    assert service.state("all") == "queued"


def test_members_may_come_in_several_batches() -> None:
    service = Service()
    service.submit(spec("a", group="g"), groups=[GroupSpec("g", "g", 2)])
    service.job("all", IsFinished("g"))
    service.run()
    service.complete("a")
    assert service.state("all") == "waiting"
    service.submit(spec("b", group="g"))
    service.send(Cancel(uids=("b",)))

    assert service.state("all") == "queued"


def test_an_empty_group_is_over_at_once() -> None:
    service = Service()
    service.submit(groups=[GroupSpec("g", "g", 0)])
    service.job("all", IsCompleted("g"))

    assert service.state("all") == "queued"
    assert service.kinds("g") == ["Counted"]


def test_a_group_that_is_over_is_known_to_late_conditions() -> None:
    service = Service()
    uids = family(service, 2)
    service.run()
    for uid in uids:
        service.complete(uid)
    service.job("all", IsEnded("g") & IsOk("g"))

    assert service.state("all") == "queued"


def test_nobody_is_told_of_a_group_that_nobody_waits_for_before_it_is_over() -> None:
    service = Service()
    uids = family(service, 3)
    service.run()
    for uid in uids[:2]:
        service.complete(uid)
    assert service.events("g") == []
    service.complete(uids[2])

    assert service.kinds("g") == ["Counted"]


def test_a_large_group_says_how_far_it_is_in_steps() -> None:
    service = Service()
    uids = family(service, 1000)
    service.job("all", IsCompleted("g"))
    service.run()
    for uid in uids:
        for effect in service.machine.handle(Ended(uid=uid, epoch=1, outcome=Completed()), service.now):
            if isinstance(effect, Publish):
                service.keep(effect.entry)

    assert 90 <= len(service.events("g")) <= 110
    assert service.last("g") == Counted(total=1000, closed=True, completed=1000)


def test_a_retried_member_is_counted_anew() -> None:
    service = Service()
    uids = family(service, 2)
    service.job("all", IsCompleted("g"), on_never="hold")
    service.run()
    service.complete(uids[0])
    service.fail(uids[1])
    assert service.state("all") == "held"
    service.send(Retry(uids=(uids[1],), downstream=True))
    assert service.state("all") == "waiting"
    service.run()
    service.complete(uids[1])

    assert service.state("all") == "queued"
    assert service.last("g") == Counted(total=2, closed=True, completed=2)


def test_a_group_with_other_numbers_is_refused() -> None:
    service = Service()
    family(service, 2)

    assert "not 3" in service.refuse(groups=[GroupSpec("g", "fits", 3)]).message
    assert "are there already" in service.refuse(spec("x", group="g")).message
    assert service.submit(groups=[GroupSpec("g", "fits", 2)]) == []


def test_an_open_group_cannot_be_closed_below_its_members() -> None:
    service = Service()
    family(service, 3, total=None)

    assert "only 2" in service.refuse(groups=[GroupSpec("g", "fits", 2)]).message


@pytest.mark.parametrize("uid", ["service", "a:b", ""])
def test_a_group_needs_a_uid_of_its_own(uid: str) -> None:
    assert "uid of its own" in Service().refuse(groups=[GroupSpec(uid, "g", 1)]).message
