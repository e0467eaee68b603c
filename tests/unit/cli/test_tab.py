"""Tab completion: what it offers of the records, and how little it loads to do so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samples import life
from trun.adapters.sqlite import SqliteJournal
from trun.cli import completing
from trun.core.record import JobState
from trun.messages import JobSpec
from trun.ports import Batch

NAMES = ["fit", "a" * 40, "b" * 300, "größe", "two words", "reduce"]
STATES = [JobState.RUNNING, JobState.COMPLETED, JobState.WAITING, JobState.HELD, JobState.CANCELLED, JobState.FAILED]
#: What costs too much for an answer within 100 ms.
HEAVY = ("msgspec", "logging", "trun.errors", "trun.messages", "argparse", "pathlib")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUN_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(completing, "PATIENCE_S", 60.0)
    journal = SqliteJournal(tmp_path / "runs" / "play-1")
    numbers = [1, 2, 127, 128, 256, 70_000]
    jobs = list(zip(numbers, NAMES, STATES, strict=True))
    journal.commit(
        Batch(
            specs=[(number, JobSpec(uid=f"uid-{number}", name=name)) for number, name, _ in jobs],
            lives=[(number, life(number, state)) for number, _, state in jobs],
        )
    )
    journal.close()
    return tmp_path


def test_ids_are_those_of_the_record_the_newest_first(state: Path) -> None:
    assert completing.job_ids(()) == [
        "reduce#70000", "two words#256", "größe#128", f"{'b' * 300}#127", f"{'a' * 40}#2", "fit#1",
    ]  # fmt: skip
    assert completing.candidates(["release", "g"]) == ["größe#128"]
    assert completing.candidates(["send", ""]) == ["fit#1"]
    assert completing.candidates(["resume", ""]) == ["play-1"]


def test_tab_loads_next_to_nothing(state: Path) -> None:
    script = (
        "import sys; old = set(sys.modules)\n"
        "from trun.cli import completing, main; completing.PATIENCE_S = 60.0; main(['__complete', 'why', 'f'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules and name not in old])"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.splitlines() == ["fit#1", "[]"]


def test_a_record_that_cannot_be_read_is_passed_over(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = state / "runs" / "play-2"
    bad.mkdir()
    (bad / "journal.sqlite").write_bytes(b"no database" * 500)

    assert "fit#1" in completing.job_ids(())
    assert completing.complete(["why", "fi"]) == 0
    assert capsys.readouterr().out == "fit#1\n"
