"""What a record of an ended run answers: the same questions by the same functions, with nobody there."""

from __future__ import annotations

from pathlib import Path

import pytest

from trun.adapters.sqlite import SqliteJournal
from trun.core.codec import encode
from trun.core.record import JobState, Life
from trun.engine.offline import Record
from trun.engine.views import whole_characters
from trun.errors import StateError, UnknownName
from trun.messages import Cancelled, Entry, ErrorInfo, Failed, JobSpec, Started, Submitted
from trun.ports import Batch


def spec(uid: str, name: str, **more: object) -> JobSpec:
    """Return a slip of paper."""
    return JobSpec(uid=uid, name=name, **more)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a state folder: one job failed, one fell with it, one ran when its service was killed, 20 are done."""
    error = ErrorInfo(type="builtins.ValueError", message="no")
    lives = [
        (spec("a", "reduce"), Life(number=1, state=JobState.FAILED, attempt=1, error=error, final_seq=3)),
        (spec("b", "fit"), Life(number=2, state=JobState.CANCELLED, reason="reduce#1 failed", root="a", final_seq=2)),
        (spec("c", "scan", resources={"gpu": 1.0}), Life(number=3, state=JobState.RUNNING, attempt=1, changed=50.0)),
    ]
    lives += [(spec(f"u{n}", "step"), Life(number=n, state=JobState.COMPLETED, attempt=1)) for n in range(4, 24)]
    entries = [
        (1, Entry("a", 1, 1, 1.0, Submitted(id="reduce#1"))),
        (1, Entry("a", 2, 1, 2.0, Started())),
        (1, Entry("a", 3, 1, 4.5, Failed(kind="raised", error=error))),
        (2, Entry("b", 1, 1, 1.0, Submitted(id="fit#2"))),
        (2, Entry("b", 2, 1, 4.5, Cancelled(kind="never", root="a"))),
    ]
    journal = SqliteJournal(tmp_path)
    journal.commit(
        Batch(
            specs=[(life.number, each) for each, life in lives],
            lives=[(life.number, encode(life)) for _, life in lives],
            entries=entries,
        )
    )
    journal.close()
    return tmp_path


def test_what_ran_is_lost_and_time_stands_still(folder: Path) -> None:
    record = Record(folder)

    job = record.ask("job", job="scan#3")

    assert (job["state"], job["reason"]) == ("lost", "its service ended without a word while it ran")
    assert record.ask("changes")["cursor"] == (50.0, 3)
    record.close()


def test_what_matters_is_kept_where_not_all_can_be_shown(folder: Path) -> None:
    record = Record(folder)

    answer = record.ask("ps", limit=4)

    assert [job["id"] for job in answer["jobs"]] == ["reduce#1", "scan#3", "step#22", "step#23"]
    assert answer["total"] == 23
    assert answer["counts"] == {"failed": 1, "cancelled": 1, "lost": 1, "completed": 20}
    assert [job["id"] for job in record.ask("ps", never=True)["jobs"]] == ["fit#2"]
    assert [job["id"] for job in record.ask("downstream", job="reduce")] == ["fit#2"]
    record.close()


def test_moves_and_story_come_from_the_stream(folder: Path) -> None:
    record = Record(folder)

    changed = record.ask("changes", cursor=[-1, 0])["jobs"]
    moves = {job["id"]: [(move["state"], move["text"]) for move in job["moves"]] for job in changed}
    story = record.ask("story", job="reduce#1")

    assert moves["reduce#1"] == [("running", ""), ("failed", "ValueError: no")]
    assert moves["fit#2"] == [("cancelled", "never")]
    assert len(story) == 3
    assert "ValueError: no" in story[-1]
    record.close()


def test_several_meanings_of_a_name_are_all_given(folder: Path) -> None:
    record = Record(folder)

    assert len(record.ask("which", job="step")["jobs"]) == 20
    assert record.ask("which", job="reduc#1") == {"jobs": [], "near": ["reduce#1"]}
    assert [job["id"] for job in record.ask("which", job="a")["jobs"]] == ["reduce#1"]
    record.close()


def test_asking_writes_nothing(folder: Path) -> None:
    before = (folder / "journal.sqlite").read_bytes()
    record = Record(folder)
    for verb in ("ps", "jobs", "summary", "graph", "resources", "changes"):
        record.ask(verb)
    record.ask("why", job="fit#2")
    record.close()

    assert (folder / "journal.sqlite").read_bytes() == before


def test_a_verb_that_is_unknown_names_the_nearest(folder: Path) -> None:
    record = Record(folder)

    with pytest.raises(UnknownName, match="Did you mean 'ps'"):
        record.ask("pss")
    record.close()


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no journal"):
        Record(tmp_path)


@pytest.mark.parametrize("text", ["a", "ü", "質", "𝄞", "aü質𝄞"])
def test_a_log_is_never_cut_inside_a_character(text: str) -> None:
    data = text.encode()

    for end in range(len(data) + 1):
        assert text.startswith(whole_characters(data[:end]).decode())
    assert whole_characters(data) == data
