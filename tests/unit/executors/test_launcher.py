"""The launcher and the current job, in this process, over a channel that records."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trun.adapters import pickles
from trun.adapters.blobs import BlobFolder
from trun.errors import BadOption, UnknownName
from trun.executors import context
from trun.executors.context import CurrentJob, Place, current_job
from trun.executors.launcher import Launcher
from trun.executors.protocol import Envelope, Tell
from trun.messages import (
    Completed,
    Emitted,
    Ended,
    Failed,
    Improved,
    Payload,
    Progress,
    Replied,
    ResourcesLowered,
    Said,
)


class Channel:
    """Keeps what is sent; gives what was put in."""

    def __init__(self) -> None:
        self.sent: list[Emitted | ResourcesLowered] = []
        self.waiting: deque[Tell] = deque()
        self.grew = threading.Condition()

    def send(self, report: Emitted | ResourcesLowered) -> None:
        with self.grew:
            self.sent.append(report)
            self.grew.notify_all()

    def receive(self, timeout: float | None) -> Tell | None:
        return self.waiting.popleft() if self.waiting else None

    @property
    def events(self) -> list[Any]:
        return [event for report in self.sent if isinstance(report, Emitted) for event in report.events]


def envelope(fn: Any, *args: Any, **changes: Any) -> Envelope:
    digest, data = pickles.dump_function(fn)
    payload, _ = pickles.dump_call(args, {})
    facts: dict[str, Any] = {
        "uid": "u1",
        "epoch": 3,
        "run": 1,
        "attempt": 2,
        "id": "fit#7",
        "session": "s",
        "function": digest,
        "function_data": data,
        "context": "",
        "context_data": None,
        "arguments": payload,
    }
    return Envelope(**{**facts, **changes})


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    """The launcher goes elsewhere; come back."""
    folder, path = os.getcwd(), list(sys.path)
    yield
    os.chdir(folder)
    sys.path[:] = path


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def launcher(channel: Channel, tmp_path: Path) -> Launcher:
    return Launcher(Place(str(tmp_path), "KEY"), channel)


@pytest.fixture
def job(channel: Channel, tmp_path: Path) -> CurrentJob:
    return CurrentJob(envelope(len, resources={"gpu": 2.0}), channel, Place(str(tmp_path), "KEY"))


def value_of(ended: Ended) -> Any:
    assert isinstance(ended.outcome, Completed), ended
    assert ended.outcome.result is not None
    return pickles.load_result(ended.outcome.result)


def test_a_large_argument_can_be_read_again_by_the_next_attempt(launcher: Launcher, tmp_path: Path) -> None:
    blob = BlobFolder(tmp_path / "blobs").write([pickle.dumps(((b"x" * 100_000,), {}))])

    for _ in range(2):
        assert value_of(launcher.launch(envelope(len, arguments=Payload(None, blob)))) == 100_000


def test_a_payload_runs_where_its_client_stands(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    digest, data = pickles.dump_context(str(tmp_path / "there"), ["/my/modules"])

    found = launcher.launch(envelope(lambda: (os.getcwd(), sys.path[0]), context=digest, context_data=data))
    after = launcher.launch(envelope(os.getcwd))

    assert value_of(found) == (str(tmp_path / "there"), "/my/modules")
    assert value_of(after) != str(tmp_path / "there")
    assert "/my/modules" not in sys.path


def test_a_folder_that_is_not_here_is_passed_over(launcher: Launcher) -> None:
    digest, data = pickles.dump_context("/no/such/folder", [])

    assert isinstance(launcher.launch(envelope(os.getcwd, context=digest, context_data=data)).outcome, Completed)


def test_a_function_is_sent_once_and_known_by_its_digest(launcher: Launcher) -> None:
    first = envelope(len, "abc")
    again = envelope(len, "abcd", function_data=None)
    launcher.launch(first)

    assert value_of(launcher.launch(again)) == 4

    launcher.launch(envelope(max, "x", forget=True))
    assert isinstance(launcher.launch(again).outcome, Failed)


def test_there_is_a_current_job_inside_and_none_outside(launcher: Launcher) -> None:
    def facts() -> tuple[str, str, int, str]:
        found = current_job()
        assert found is not None
        return found.id, found.fence, found.attempt, found.service_key

    assert value_of(launcher.launch(envelope(facts))) == ("fit#7", "u1:3", 2, "KEY")
    assert current_job() is None


def test_every_thread_of_a_payload_sees_the_job(launcher: Launcher) -> None:
    def facts() -> list[str]:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(current_job().id))  # type: ignore[union-attr]
        thread.start()
        thread.join()
        return found

    assert value_of(launcher.launch(envelope(facts))) == ["fit#7"]


def test_a_failing_payload_leaves_no_job_behind(launcher: Launcher) -> None:
    ended = launcher.launch(envelope(lambda: 1 / 0))

    assert isinstance(ended.outcome, Failed)
    assert current_job() is None


def test_what_is_said_is_numbered_within_the_attempt(job: CurrentJob, channel: Channel) -> None:
    job.say("a", 1)
    job.improved(chisq=2)
    job.say("b")

    assert [report.first for report in channel.sent if isinstance(report, Emitted)] == [1, 2, 3]
    assert channel.events == [Said(name="a", value=1), Improved(values={"chisq": 2}), Said(name="b")]


def test_progress_is_thinned_out_and_its_last_value_sent(job: CurrentJob, channel: Channel) -> None:
    for i in range(500):
        job.set_progress(i / 500)
    job.end()

    assert 2 <= len(channel.events) < 100
    assert channel.events[-1].fraction == 499 / 500


def test_late_progress_is_sent_by_itself(job: CurrentJob, channel: Channel) -> None:
    job.set_progress(0.1)
    job.set_progress(0.2, "two")

    with channel.grew:
        arrived = channel.grew.wait_for(lambda: Progress(fraction=0.2, note="two") in channel.events, timeout=20)

    assert arrived


def test_progress_comes_before_what_is_said_after_it(job: CurrentJob, channel: Channel) -> None:
    job.set_progress(0.1)
    job.set_progress(0.2)
    job.say("then")

    assert [type(event) for event in channel.events] == [Progress, Progress, Said]
    job.end()


def test_nothing_is_sent_after_the_end(job: CurrentJob, channel: Channel) -> None:
    job.end()
    job.say("too late")
    job.set_progress(0.5)

    assert channel.events == []


@pytest.mark.parametrize("fraction", [-0.1, 1.1, "half", True, float("nan"), None])
def test_a_fraction_is_from_nought_to_one(job: CurrentJob, fraction: Any) -> None:
    with pytest.raises(BadOption, match="fraction from 0 to 1"):
        job.set_progress(fraction)


def test_improved_wants_values_by_name(job: CurrentJob) -> None:
    with pytest.raises(BadOption, match="at least one value"):
        job.improved()


def test_resources_are_given_back_within_what_is_held(job: CurrentJob, channel: Channel) -> None:
    job.lower_resources(gpu=1.5)

    assert channel.sent == [ResourcesLowered(uid="u1", epoch=3, resources={"gpu": 1.5}, number=1)]
    assert job.resources == {"gpu": 0.5}
    with pytest.raises(BadOption, match=r"holds 0\.5 of 'gpu'"):
        job.lower_resources(gpu=1)
    with pytest.raises(UnknownName, match="Did you mean 'gpu'"):
        job.lower_resources(gpus=1)


def test_messages_wait_in_order_and_are_answered(job: CurrentJob, channel: Channel) -> None:
    channel.waiting.extend(Tell(uid="u1", epoch=3, token=f"t{i}", text=f"m{i}") for i in range(2))

    assert not job.inbox.empty()
    first, second = job.inbox.get(), job.inbox.get(timeout="1s")
    second.respond("yes")

    assert (first.content, second.content) == ("m0", "m1")
    assert channel.events == [Replied(token="t1", text="yes")]
    assert job.inbox.empty()
    with pytest.raises(queue.Empty):
        job.inbox.get(timeout=0)


def test_scratch_is_there_when_asked_for_and_gone_at_the_end(job: CurrentJob, tmp_path: Path) -> None:
    assert not (tmp_path / "scratch").exists()
    folder = job.scratch
    (folder / "file").write_text("x")

    job.end()

    assert not folder.exists()
    assert folder.parent == tmp_path / "scratch"


def test_a_uid_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    path = Path(context.scratch_path(str(tmp_path), "../../etc", 1))

    assert path.parent == tmp_path / "scratch"
