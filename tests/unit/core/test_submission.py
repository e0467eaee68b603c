from __future__ import annotations

import pytest

from tests.unit.core.kit import Service, spec
from trun.conditions.algebra import And, Or
from trun.conditions.atoms import IsCompleted, IsFailed, IsMessage, IsReached, free
from trun.core.record import RefuseJobs
from trun.messages import GroupSpec, Submit


def test_a_job_without_a_condition_is_queued_started_and_ended() -> None:
    service = Service()
    service.job("a")
    assert service.run() == ["a"]
    service.complete("a", chisq=1.5)

    assert service.kinds("a") == ["Submitted", "Queued", "Started", "Completed"]
    assert service.state("a") == "completed"
    assert service.life("a").values == {"chisq": 1.5}
    assert service.life("a").final_seq == 4
    assert "condition" not in service.entries


def test_numbers_count_from_one_and_make_the_display_name() -> None:
    service = Service()
    service.submit(spec("u1", name="fit"), spec("u2", name="fit"))

    assert [service.record(uid).id for uid in ("u1", "u2")] == ["fit#1", "fit#2"]
    assert service.machine.numbered(2) is service.record("u2")
    assert service.machine.numbered(3) is None


def test_a_job_waits_for_its_condition() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))

    assert service.state("b") == "waiting"
    assert service.run() == ["a"]
    assert service.run() == []
    service.complete("a")

    assert service.kinds("b") == ["Submitted", "Waiting", "Queued"]
    assert service.life("b").witness == ("job:a:completed",)
    assert service.run() == ["b"]


def test_a_condition_that_holds_already_fires_at_submit() -> None:
    service = Service()
    service.job("a")
    service.run()
    service.complete("a")
    service.job("b", IsCompleted("a"))

    assert service.kinds("b") == ["Submitted", "Queued"]


def test_the_condition_stream_says_how_each_condition_was_decided() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))
    service.job("c", IsFailed("a"))
    service.run()
    service.complete("a")

    notified = [(event.job, event.status) for event in service.events("condition")]  # type: ignore[union-attr]
    assert notified == [("b", "ready"), ("c", "cancelled")]


def test_jobs_of_one_batch_may_wait_for_later_ones() -> None:
    service = Service()
    service.submit(spec("b", IsCompleted("a")), spec("a"))

    assert service.states("b", "a") == ["waiting", "queued"]


def test_an_unknown_job_refuses_the_whole_batch_and_names_the_nearest() -> None:
    service = Service()
    service.job("model")
    error = service.refuse(spec("x"), spec("y", IsCompleted("u9", label="modle")))

    assert error.type == "trun.errors.UnknownName"
    assert "y waits for the job 'modle'" in error.message
    assert "Did you mean 'model'?" in error.message
    assert error.suggestions == ("model",)
    assert service.refused[-1].uids == ("x", "y")
    assert service.refused[-1].session == "me"
    assert "x" not in service.machine.records


def test_an_unknown_job_of_another_service_waits() -> None:
    service = Service(key="mine")
    service.job("b", IsCompleted("far", service_key="theirs"))

    assert service.state("b") == "waiting"


def test_an_unknown_job_of_the_own_service_by_key_is_refused() -> None:
    service = Service(key="mine")

    assert service.refuse(spec("b", IsCompleted("a", service_key="mine"))).type.endswith("UnknownName")


def test_a_circle_is_named() -> None:
    service = Service()
    error = service.refuse(spec("a", IsCompleted("c")), spec("b", IsCompleted("a")), spec("c", IsCompleted("b")))

    assert error.type == "trun.errors.CycleError"
    assert "a -> c -> b -> a" in error.message


def test_a_job_that_waits_for_itself_is_refused() -> None:
    assert Service().refuse(spec("a", IsCompleted("a"))).type == "trun.errors.CycleError"


def test_a_circle_through_a_group_is_refused() -> None:
    service = Service()
    error = service.refuse(
        spec("a", IsCompleted("b"), group="g"), spec("b", IsCompleted("g")), groups=[GroupSpec("g", "family", 1)]
    )

    assert error.type == "trun.errors.CycleError"
    assert "family" in error.message


def test_a_circle_through_a_group_that_is_still_open_is_refused() -> None:
    service = Service()
    service.submit(spec("a", group="g"), groups=[GroupSpec("g", "family")])
    service.job("b", IsCompleted("g"))
    service.job("c", IsCompleted("b"))

    assert service.refuse(spec("d", IsCompleted("c"), group="g")).type == "trun.errors.CycleError"
    service.job("e", IsCompleted("a"), group="g")


def test_a_diamond_is_no_circle() -> None:
    service = Service()
    service.submit(
        spec("a"),
        spec("b", IsCompleted("a")),
        spec("c", IsCompleted("a")),
        spec("d", IsCompleted("b") & IsCompleted("c")),
    )

    assert service.state("d") == "waiting"


def test_a_condition_that_can_never_hold_is_refused() -> None:
    service = Service()
    service.job("a")

    assert service.refuse(spec("b", IsCompleted("a") & IsFailed("a"))).type == "trun.errors.NeverCondition"


def test_a_condition_that_can_never_hold_may_be_held_or_skipped_instead() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a") & IsFailed("a"), on_never="skip")
    service.run()
    service.complete("a")

    assert service.state("b") == "skipped"


def test_the_same_job_again_is_no_news() -> None:
    service = Service()
    service.job("a")
    service.job("b", IsCompleted("a"))
    before = dict(service.lives)

    assert service.send(Submit(specs=(spec("a"), spec("b", IsCompleted("a"))))) == []
    assert service.lives == before
    assert service.machine.counters["duplicate"] == 2


def test_a_known_job_in_a_batch_leaves_the_new_ones() -> None:
    service = Service()
    service.job("a")
    service.submit(spec("a"), spec("b", IsCompleted("a")))

    assert service.state("b") == "waiting"
    assert service.kinds("a") == ["Submitted", "Queued"]


def test_other_content_under_the_same_uid_is_refused() -> None:
    service = Service()
    service.job("a")

    error = service.refuse(spec("a", priority=3))
    assert error.type == "trun.errors.KeyConflict"
    assert "a#1" in error.message


def test_the_same_key_is_the_same_job_whatever_its_uid() -> None:
    service = Service()
    service.job("u1", key="fit 7", digest="abc")

    assert service.submit(spec("u2", key="fit 7", digest="abc")) == []
    assert service.refuse(spec("u3", key="fit 7", digest="other")).type == "trun.errors.KeyConflict"
    assert list(service.machine.records) == ["u1"]


def test_a_key_twice_in_one_batch_is_one_job() -> None:
    service = Service()
    service.submit(spec("u1", key="k", digest="d"), spec("u2", key="k", digest="d"))

    assert list(service.machine.records) == ["u1"]


def test_inputs_without_a_condition_are_waited_for() -> None:
    service = Service()
    service.job("a")
    service.job("b", inputs=("a",))

    assert service.state("b") == "waiting"


def test_an_unknown_input_is_refused() -> None:
    assert Service().refuse(spec("b", inputs=("a",))).type == "trun.errors.UnknownName"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": -1}, "retries"),
        ({"retry_delay": float("nan")}, "retry_delay"),
        ({"backoff": 0.0}, "backoff"),
        ({"priority": float("inf")}, "priority"),
        ({"timeout": 0.0}, "timeout"),
        ({"memory": 0}, "memory"),
        ({"on_never": "cancle"}, "Did you mean 'cancel'?"),
        ({"isolation": "cage"}, "isolation"),
        ({"kind": "scan"}, "kind"),
        ({"kind": "first"}, "no choices"),
        ({"choices": ("a", "b")}, "of kind 'first', and no other, has choices"),
        ({"uid": "a" * 201}, "at most 200 characters"),
        ({"resources": {"gup": 1}}, "Did you mean 'gpu'?"),
        ({"resources": {"gpu": 3}}, "could never run"),
        ({"resources": {"gpu": -1}}, "at least 0"),
        ({"group": "nobody"}, "does not know"),
        ({"when": b"nonsense"}, "not a condition"),
        ({"uid": "condition"}, "no reserved word"),
        ({"uid": "a:b"}, "no colon"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], words: str) -> None:
    service = Service(resources={"gpu": 2})
    slip = spec(str(options.pop("uid", "a")))
    import msgspec

    error = service.refuse(msgspec.structs.replace(slip, **options))

    assert words in error.message


def test_an_atom_over_an_unknown_resource_is_refused() -> None:
    error = Service(resources={"gpu": 1}).refuse(spec("a", free("gup", 1)))

    assert "Did you mean 'gpu'?" in error.message


def test_a_share_of_one_job_and_words_of_a_group_are_refused() -> None:
    service = Service()
    service.submit(spec("a", group="g"), groups=[GroupSpec("g", "g", 1)])

    assert "by a group" in service.refuse(spec("b", IsReached("a", 1))).message
    assert "not of a group" in service.refuse(spec("b", IsMessage("g", "hello"))).message


def test_refusal_names_what_is_refused_even_when_all_was_there_before() -> None:
    service = Service()
    service.job("a")
    service.send(Submit(specs=(spec("a", priority=1),)))

    assert isinstance(service.refused[-1], RefuseJobs)
    assert service.refused[-1].uids == ("a",)


def test_the_submitted_entry_shows_the_condition() -> None:
    service = Service()
    service.submit(spec("a"), spec("b"))
    service.job("c", IsCompleted("a") | IsFailed("b"))
    service.submit(*[spec(f"x{n}") for n in range(200)])
    service.job("wide", And(*[IsCompleted(f"x{n}") for n in range(200)]))

    assert service.events("c")[0].when == "a.iscompleted | b.isfailed"  # type: ignore[union-attr]
    assert service.events("wide")[0].when == "a condition over 200 atoms"  # type: ignore[union-attr]


def test_many_jobs_with_one_condition_read_it_once() -> None:
    service = Service()
    service.job("a")
    service.submit(*[spec(f"x{n}", IsCompleted("a")) for n in range(50)])
    service.run()
    service.complete("a")

    assert {service.state(f"x{n}") for n in range(50)} == {"queued"}


def test_an_empty_or_is_refused_and_an_empty_and_runs() -> None:
    service = Service()
    service.job("a", And())

    assert service.state("a") == "queued"
    assert service.refuse(spec("b", Or())).type == "trun.errors.NeverCondition"
