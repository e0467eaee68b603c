"""Door 1 on a real local service: real node, real workers, real journal."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trun
from trun.errors import KeyConflict

WAIT_S = 60.0


@pytest.fixture(scope="module")
def service() -> Iterator[trun.Service]:
    """One service for the tests of this file: they must not disturb one another."""
    with tempfile.TemporaryDirectory(prefix="trun-") as folder, pytest.MonkeyPatch.context() as patch:
        for kind in ("STATE", "RUNTIME", "CONFIG"):
            patch.setenv(f"TRUN_{kind}_DIR", f"{folder}/{kind.lower()}")
        made = trun.local(workers=2, resources={"gpu": 1})
        yield made
        made.close(cancel=True, timeout=30.0)


@pytest.fixture(autouse=True)
def selected(service: trun.Service) -> Iterator[trun.Service]:
    with service:
        yield service


def add(a: int, b: int) -> int:
    return a + b


def fail(text: str = "boom") -> None:
    raise ValueError(text)


def wait_for_file(path: str) -> str:
    """Poll in the payload: the test decides when it goes on."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return Path(path).read_text()


def test_a_job_gives_its_result() -> None:
    job = trun.submit(add, 2, 3)

    assert job.result(WAIT_S) == 5
    assert job.id.startswith("add#")
    assert job.state is trun.JobState.COMPLETED
    assert job.done()
    assert job.exception() is None
    assert job.created <= job.started <= job.ended


def test_lambdas_closures_and_partials_travel_by_value() -> None:
    factor = 7

    def scaled(x: int) -> int:
        return factor * x

    assert trun.submit(lambda x: x + 1, 1).result(WAIT_S) == 2
    assert trun.submit(scaled, 6).result(WAIT_S) == 42
    assert trun.submit(functools.partial(add, 1), 2).result(WAIT_S) == 3


def test_an_error_raises_again_with_its_own_type_and_the_remote_traceback() -> None:
    job = trun.submit(fail, "no beam")

    with pytest.raises(ValueError, match="no beam") as caught:
        job.result(WAIT_S)

    assert "in fail" in str(caught.value.__cause__)
    assert job.state is trun.JobState.FAILED
    assert job.iscompleted.cancelled
    assert job.isfailed.ready


def test_a_condition_gates_a_job(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = trun.submit(wait_for_file, str(gate))
    second = trun.submit(add, 1, 1, when=first.iscompleted)
    assert second.id
    assert not second.done()

    gate.write_text("open")

    assert second.result(WAIT_S) == 2
    assert first.ended <= second.started


def test_a_job_as_argument_means_its_output_also_inside_containers() -> None:
    @dataclasses.dataclass
    class Box:
        inside: Any

    numbers = trun.submit(lambda: {"low": [1, 2], "high": (3, 4)})

    def gather(a: Any, b: Any, c: Any) -> Any:
        return a, b, c.inside

    job = trun.submit(gather, numbers["low"][1], [{"x": numbers["high"]}], Box(numbers))

    assert job.result(WAIT_S) == (2, [{"x": (3, 4)}], {"low": [1, 2], "high": (3, 4)})


def test_pieces_of_results_raise_where_they_are_used_too_early() -> None:
    job = trun.submit(lambda: (1, 2))

    for use in (bool, len, iter):
        with pytest.raises(TypeError, match="not known yet"):
            use(job[0])
    with pytest.raises(AttributeError, match="iscompleted"):
        _ = job.iscomplete
    with pytest.raises(AttributeError):
        _ = job._hidden


def test_the_root_cause_comes_first_in_a_chain() -> None:
    first = trun.submit(fail, "root", name="root")
    chain = [first]
    for _ in range(4):
        chain.append(trun.submit(add, chain[-1], 1))

    with pytest.raises(trun.JobCancelled) as caught:
        chain[-1].result(WAIT_S)

    assert str(caught.value).startswith(f"{first.id} failed: ValueError: root")
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    assert chain[-1].cancelled()


def test_a_fallback_runs_when_a_job_fails() -> None:
    job = trun.submit(fail)
    fallback = trun.submit(add, 4, 4, when=job.isfailed)
    unused = trun.submit(add, 0, 0, when=job.iscancelled)

    assert fallback.result(WAIT_S) == 8
    with pytest.raises(trun.JobCancelled):
        unused.result(WAIT_S)


def test_retries_run_a_failing_job_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"

    def flaky() -> int:
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) < 3:
            raise RuntimeError("not yet")
        return len(marks.read_text())

    job = trun.submit(flaky, retries=3)

    assert job.result(WAIT_S) == 3
    assert job.attempts == 3


def test_a_timeout_kills_and_says_so() -> None:
    job = trun.submit(time.sleep, 600, timeout=0.2)

    with pytest.raises(trun.JobTimeout):
        job.result(WAIT_S)


def test_a_dead_worker_is_blamed_exactly() -> None:
    bad = trun.submit(os._exit, 3)
    good = [trun.submit(add, i, i) for i in range(20)]

    with pytest.raises(trun.WorkerDied) as caught:
        bad.result(WAIT_S)

    assert caught.value.exitcode == 3
    assert [job.result(WAIT_S) for job in good] == [2 * i for i in range(20)]


def test_cancel_stops_a_running_job_and_those_that_wait_for_it(tmp_path: Path) -> None:
    job = trun.submit(wait_for_file, str(tmp_path / "never"))
    after = trun.submit(add, 1, 1, when=job.iscompleted)
    started = trun.submit(add, 0, 1, when=job.isstarted)
    assert started.result(WAIT_S) == 1

    assert job.cancel()

    with pytest.raises(trun.JobAborted):
        job.result(WAIT_S)
    with pytest.raises(trun.JobCancelled):
        after.result(WAIT_S)
    assert not job.cancel()


def test_progress_words_and_improvements_fire_conditions(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def fit(path: str) -> dict[str, float]:
        job = trun.current_job()
        assert job is not None
        job.set_progress(0.5, "half")
        job.improved(chisq=5.0)
        job.improved(chisq=1.5)
        job.say("ready", 42)
        wait_for_file(path)
        return {"chisq": 1.0}

    job = trun.submit(fit, str(gate))
    good = trun.submit(add, 1, 0, when=job.improved("chisq < 2"))
    half = trun.submit(add, 2, 0, when=job.reaches(0.5))
    said = trun.submit(add, 3, 0, when=job.said("ready"))
    best = trun.submit(add, 4, 0, when=job.improved("chisq < 1.2"))
    assert [good.result(WAIT_S), half.result(WAIT_S), said.result(WAIT_S)] == [1, 2, 3]
    late = trun.submit(add, 5, 0, when=job.improved("chisq > 4"))
    assert late.result(WAIT_S) == 5
    assert not best.done()

    gate.write_text("go")

    assert best.result(WAIT_S) == 4
    assert job.progress == 1.0


def test_messages_are_answered() -> None:
    def listen() -> list[str]:
        job = trun.current_job()
        assert job is not None
        seen = []
        while True:
            message = job.inbox.get(timeout=WAIT_S)
            seen.append(message.content)
            message.respond(message.content.upper())
            if message.content == "stop":
                return seen

    job = trun.submit(listen)
    started = trun.submit(add, 0, 0, when=job.isstarted)
    started.result(WAIT_S)

    assert job.send("hello", timeout=WAIT_S) == "HELLO"
    assert job.send("stop", timeout=WAIT_S) == "STOP"
    assert job.result(WAIT_S) == ["hello", "stop"]


def test_map_is_a_group_and_one_atom() -> None:
    group = trun.map(add, range(50), range(50))
    total = trun.submit(lambda *parts: sum(parts), *group, when=group.iscompleted)

    assert group.results(WAIT_S) == [2 * i for i in range(50)]
    assert total.result(WAIT_S) == sum(2 * i for i in range(50))
    assert group.iscompleted.ready
    assert len(group) == 50
    assert {job.result() for job in group.as_completed(WAIT_S)} == {2 * i for i in range(50)}


def test_map_in_chunks_gives_flat_results() -> None:
    assert trun.map(add, range(10), range(10), chunk=4).results(WAIT_S) == [2 * i for i in range(10)]


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_group_as_argument_means_the_list_of_its_results(chunk: int) -> None:
    group = trun.map(abs, range(-10, 0), chunk=chunk)

    assert trun.submit(sum, group, when=group.iscompleted).result(WAIT_S) == 55
    assert trun.submit(dict, {"all": group}).result(WAIT_S) == {"all": list(range(10, 0, -1))}


def test_a_keyword_that_is_nearly_an_option_is_refused() -> None:
    with pytest.raises(trun.errors.UnknownName, match=r"add\(\) takes no 'wen'.*'when'"):
        trun.submit(add, 1, 2, wen=3)
    with pytest.raises(TypeError, match="unexpected keyword"):
        trun.submit(add, 1, 2, third=3).result(WAIT_S)


def test_what_is_no_service_is_refused() -> None:
    with pytest.raises(trun.errors.BadOption, match="service must be a service"):
        trun.submit(add, 1, 2, service="compufans")  # type: ignore[arg-type]
    with pytest.raises(trun.errors.UsageError, match="argument 0 is int"):
        trun.first(7)  # type: ignore[arg-type]


def test_a_group_reaches_a_share(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    group = trun.map(lambda path: wait_for_file(path) if path else "", ["", "", "", str(gate)])
    enough = trun.submit(add, 1, 1, when=group.reaches("60%"))

    assert enough.result(WAIT_S) == 2
    assert not group[3].done()
    gate.write_text("x")
    group.results(WAIT_S)


def test_first_takes_the_winner_and_stops_the_losers(tmp_path: Path) -> None:
    slow = trun.submit(wait_for_file, str(tmp_path / "never"))
    quick = trun.submit(add, 20, 1)

    race = trun.first(slow, quick)

    assert race.result(WAIT_S) == 21
    assert race.winner is quick
    with pytest.raises(trun.JobCancelled):
        slow.result(WAIT_S)


def test_first_keeps_a_loser_that_is_needed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = trun.submit(wait_for_file, str(gate))
    quick = trun.submit(add, 1, 1)
    needs = trun.submit(len, slow)
    race = trun.first(slow, quick)
    assert race.result(WAIT_S) == 2

    gate.write_text("abc")

    assert needs.result(WAIT_S) == 3


def test_resources_are_never_exceeded(tmp_path: Path) -> None:
    def alone(path: str) -> int:
        lock = Path(path)
        fd = os.open(lock, os.O_CREAT | os.O_EXCL)
        time.sleep(0.01)
        os.close(fd)
        lock.unlink()
        return 1

    jobs = [trun.submit(alone, str(tmp_path / "lock"), resources={"gpu": 1}) for _ in range(6)]

    assert sum(job.result(WAIT_S) for job in jobs) == 6


def test_held_jobs_wait_for_release(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = trun.submit(wait_for_file, str(gate))
    job = trun.submit(add, 1, 2, when=first.iscompleted)
    job.hold()
    gate.write_text("x")
    first.result(WAIT_S)
    assert job.state is trun.JobState.HELD

    job.release()

    assert job.result(WAIT_S) == 3


def test_retry_starts_a_new_run(tmp_path: Path) -> None:
    switch = tmp_path / "switch"

    def sometimes() -> str:
        return switch.read_text()

    job = trun.submit(sometimes)
    after = trun.submit(len, job)
    with pytest.raises(FileNotFoundError):
        job.result(WAIT_S)
    with pytest.raises(trun.JobCancelled):
        after.result(WAIT_S)
    switch.write_text("four")

    job.retry(downstream=True)

    assert job.result(WAIT_S) == "four"
    assert trun.submit(len, job).result(WAIT_S) == 4


def test_bare_atoms_and_levels_of_this_process_gate_jobs() -> None:
    atom, level = trun.Atom("sample in"), trun.Level("beam")
    job = trun.submit(add, 1, 1, when=atom & level)
    assert job.id

    atom.set_ready()
    level.hold()

    assert job.result(WAIT_S) == 2


def test_time_and_files_gate_jobs(tmp_path: Path) -> None:
    path = tmp_path / "data"
    job = trun.submit(add, 1, 1, when=trun.exists(str(path), poll="20ms") & trun.after("50ms"))
    assert job.id
    path.write_text("x")

    assert job.result(WAIT_S) == 2


def test_a_deadline_ends_the_waiting(tmp_path: Path) -> None:
    slow = trun.submit(wait_for_file, str(tmp_path / "gate"))
    job = trun.submit(add, 1, 1, when=slow.iscompleted.within("100ms"))
    anyway = trun.submit(add, 2, 2, when=slow.iscompleted | trun.after("100ms"))

    with pytest.raises(trun.JobCancelled):
        job.result(WAIT_S)
    assert anyway.result(WAIT_S) == 4
    slow.cancel()


def test_jobs_are_awaitable_and_work_with_wait_and_as_completed() -> None:
    async def both() -> list[int]:
        return list(await asyncio.gather(trun.submit(add, 1, 2), trun.submit(add, 3, 4)))

    assert asyncio.run(both()) == [3, 7]
    jobs = [trun.submit(add, i, 0) for i in range(5)]
    done, waiting = concurrent.futures.wait(jobs, WAIT_S)
    assert (len(done), len(waiting)) == (5, 0)
    assert sorted(job.result() for job in concurrent.futures.as_completed(jobs)) == [0, 1, 2, 3, 4]


def test_a_job_may_submit_and_wait_for_jobs_of_its_own() -> None:
    def parent(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(trun.submit(parent, depth - 1).result() for _ in range(2))

    assert trun.submit(parent, 3).result(WAIT_S) == 8


def test_why_names_what_blocks(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = trun.submit(wait_for_file, str(gate))
    second = trun.submit(add, 1, 1, when=first.iscompleted)

    text = str(second.why())

    assert first.id in text
    gate.write_text("x")
    second.result(WAIT_S)
    assert str(second.why())


def test_the_log_holds_what_was_printed() -> None:
    def talk() -> None:
        print("hello from python")
        os.system("echo hello from a child")

    job = trun.submit(talk)
    job.result(WAIT_S)

    assert "hello from python" in job.log
    assert "hello from a child" in job.log


def test_the_stream_is_numbered_without_gaps() -> None:
    job = trun.submit(add, 1, 1)
    job.result(WAIT_S)

    entries = job.messages()

    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.seq for entry in job.messages(since=3)] == list(range(3, len(entries) + 1))


def test_the_service_finds_its_jobs_again(service: trun.Service) -> None:
    job = trun.submit(add, 40, 2, name="answer")
    assert job.result(WAIT_S) == 42

    assert service.job(job.id).result(WAIT_S) == 42
    assert job.uid in {found.uid for found in service.jobs(name="ans*")}
    with pytest.raises(trun.UnknownName, match="answer#"):
        service.job(job.id + "9")


def test_the_executor_facade_runs_calls(service: trun.Service) -> None:
    with service.executor() as pool:
        assert list(pool.map(add, [1, 2], [3, 4])) == [4, 6]
        assert pool.submit(add, 1, b=1).result(WAIT_S) == 2


def test_job_functions_submit_when_called() -> None:
    @trun.job(name="double", retries=1)
    def twice(x: int) -> int:
        return 2 * x

    job = twice(21)

    assert job.result(WAIT_S) == 42
    assert job.id.startswith("double#")
    assert twice.call(4) == 8
    assert trun.submit(twice, 5).name == "double"


def test_what_the_condition_says_of_an_argument_is_not_said_twice() -> None:
    a, b, c = (trun.submit(add, 1, i, name=f"side{i}") for i in range(3))
    wanted = trun.submit(sum, [a, b], when=a.iscompleted & b.iscompleted & c.isended)
    alone = trun.submit(add, a, 1, when=a.iscompleted)

    assert (wanted.result(WAIT_S), alone.result(WAIT_S)) == (3, 2)
    assert str(wanted.why()).splitlines()[0] == "✓ all of 3"
    assert str(alone.why()).startswith("✓ side0#")


def test_a_long_log_is_given_in_full() -> None:
    def chatter() -> None:
        for _ in range(25):
            print("é" * 50_000)

    job = trun.submit(chatter)
    job.result(WAIT_S)

    assert job.log == ("é" * 50_000 + "\n") * 25


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_result_that_cannot_be_read_says_whose_it_is() -> None:
    job = trun.submit(lambda: [Unreadable()], name="odd")

    with pytest.raises(ValueError, match="no number") as caught:
        job.result(WAIT_S)

    assert caught.value.__notes__ == [f"trun: the result of {job.id} cannot be read here"]


def test_an_idempotency_key_gives_the_same_job() -> None:
    one = trun.submit(add, 1, 2, key="one plus two")
    two = trun.submit(add, 1, 2, key="one plus two")

    assert one.result(WAIT_S) == two.result(WAIT_S) == 3
    assert one.id == two.id
    with pytest.raises(ValueError, match="other content"):
        trun.submit(add, 2, 2, key="one plus two").result(WAIT_S)


def test_a_key_with_another_call_is_refused_at_once_and_disturbs_nobody() -> None:
    one = trun.submit(add, 1, 2, key="disputed")

    with pytest.raises(KeyConflict, match="'disputed'"):
        trun.submit(add, 2, 2, key="disputed")
    two = trun.submit(add, 1, 2, key="disputed")

    assert one.id == two.id
    assert one.result(WAIT_S) == two.result(WAIT_S) == 3


@pytest.mark.parametrize(
    "use", [lambda a, b: a & b, lambda a, b: a | b.iscompleted, lambda a, b: ~a, lambda a, b: a.x & b]
)
def test_operators_between_jobs_ask_for_conditions(use: Any) -> None:
    a, b = trun.submit(add, 1, 2, name="a"), trun.submit(add, 3, 4, name="b")

    with pytest.raises(TypeError, match=r"combines conditions, and <.*> is none; write a\.iscompleted"):
        use(a, b)


def test_big_arrays_go_there_and_back() -> None:
    np = pytest.importorskip("numpy")
    data = np.arange(1_250_000, dtype=float)

    found = trun.submit(lambda a: a * 2, data).result(WAIT_S)

    assert (found == data * 2).all()
    found[0] = 1.0


def test_an_inline_job_runs_in_this_process_when_its_condition_holds() -> None:
    first = trun.submit(add, 1, 1)

    job = trun.submit(lambda x: (os.getpid(), x), first, isolation="inline", when=first.iscompleted)
    bad = trun.submit(fail, "here", isolation="inline")

    assert job.result(WAIT_S) == (os.getpid(), 2)
    with pytest.raises(ValueError, match="here"):
        bad.result(WAIT_S)


def test_why_speaks_of_atoms() -> None:
    first, second = trun.submit(add, 1, 2, when=trun.after("1h")), trun.submit(add, 1, 2)
    both = trun.submit(add, 3, 4, when=first.iscompleted & second.iscompleted)
    second.result(WAIT_S)

    found = both.why()

    assert found.blocking == (first.iscompleted,)
    assert list(found.missing) == [frozenset({first.iscompleted})]
    first.cancel()
    with pytest.raises(trun.JobCancelled):
        both.result(WAIT_S)
    assert both.why().blocking == (first.iscompleted,)


def test_why_of_a_job_that_ran_says_what_let_it_run() -> None:
    first, other = trun.submit(add, 1, 1), trun.submit(time.sleep, 0.01)
    job = trun.submit(add, 1, 2, when=first.iscompleted & ~other.isfailed)
    job.result(WAIT_S)

    text = str(job.why())

    assert "can never hold" not in text
    assert "⊘" not in text


def test_limits_of_resources_are_on_record(tmp_path: Path) -> None:
    first = trun.local(workers=1, state=tmp_path / "state", resources={"beam": 2})
    first.close()

    again = trun.local(workers=1, state=tmp_path / "state")

    assert again.resources()["beam"]["limit"] == 2
    assert trun.submit(add, 1, 1, resources={"beam": 1}, service=again).result(WAIT_S) == 2
    again.close()


def test_atoms_made_directly_follow_the_job_too() -> None:
    job = trun.submit(add, 1, 1)
    direct = trun.IsCompleted(job)
    again = trun.IsCompleted(job)
    job.result(WAIT_S)

    assert direct.ready
    assert again.ready
    assert job.iscompleted is job.iscompleted
    assert trun.IsFailed(job).never
