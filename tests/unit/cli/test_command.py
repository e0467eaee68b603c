"""The command as a whole: verbs, exit codes, and what an error looks like."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trun.cli as cli
import trun.errors as errors
from trun.cli import completing, explaining
from trun.version import __version__

VISIBLE = [verb for verb in cli.VERBS if not verb.startswith("_")]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a command."""
    code = cli.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_function(verb: str) -> None:
    room = importlib.import_module(f"trun.cli.{cli.VERBS[verb][0]}")

    assert list(inspect.signature(getattr(room, verb.lstrip("_").replace("-", "_"))).parameters) == ["words"]


@pytest.mark.parametrize("verb", VISIBLE)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: trun {verb}")


@pytest.mark.parametrize("verb", VISIBLE)
def test_tab_offers_the_options_that_a_verb_has(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out

    offered = set(completing.OPTIONS.get(verb, "").split())
    listed = {word.rstrip(",") for word in shown.split() if word.startswith("--")} - {"--help"}
    assert offered == {word.strip("[],") for word in listed} - {"--help"}


def test_help_names_every_verb_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")

    assert code == 0
    assert [verb for verb in VISIBLE if f"\n  {verb} " not in out] == []
    assert "130 interrupted" in out


def test_every_verb_and_option_stands_in_the_documentation() -> None:
    page = (_root() / "docs" / "commands.md").read_text(encoding="utf-8")

    options = {option for words in completing.OPTIONS.values() for option in words.split()}
    assert sorted(option for option in options if option not in page) == []
    assert [verb for verb in VISIBLE if f"`{verb}" not in page] == []
    assert [state for state in completing.STATES if state not in page] == []


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"trun {__version__}\n", "")


def test_help_and_version_import_next_to_nothing() -> None:
    heavy = ("argparse", "zmq", "msgspec", "sqlite3", "trun.errors", "json")
    script = (
        "import sys; from trun.cli import main; main(['--help']); main(['--version']);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, cwd=_root(), check=False
    )

    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def _root() -> Path:
    return Path(cli.__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["p"], "unknown verb 'p'. Did you mean 'ps'?"),
        (["cancle", "fit#1"], "Did you mean 'cancel'?"),
        (["--verson"], "unknown option '--verson'. Did you mean '--version'?"),
        (["MyStep", "--date", "2026-11-21"], "steps (`trun MyStep ...`) are not in this version"),
        (["--module", "report", "Report"], "steps"),
        (["memo", "list"], "the verb 'memo' is not in this version"),
        (["ps", "--sate", "waiting"], "unknown option '--sate'. Did you mean '--state'?"),
        (["ps", "--state", "waitin"], "'waitin' is neither a state of a job nor a folder. Did you mean 'waiting'?"),
        (["ps", "more"], "'more' is one word too many"),
        (["ps", "--limit", "0"], "'0' is no whole number of at least 1"),
        (["why"], "the following arguments are required: JOB"),
        (["history", "--since", "2 weaks"], "weaks"),
        (["explain", "T1O1"], "there is no error 'T1O1'."),
        (["completion", "bahs"], "Did you mean 'bash'?"),
        (["why", "fit#7"], "there is no job 'fit#7': no service answers and no run is on record."),
        (["ps", "--service", "compufans"], "there is no service and no run 'compufans'."),
        (["resume", "nothing-here"], "there is no service and no run 'nothing-here'."),
        (["resume"], "no ended run has left anything unfinished."),
        (["graph"], "there is nothing to draw"),
    ],
)
def test_bad_words_are_answered_in_two_lines_and_with_exit_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *words)

    assert (code, out) == (2, "")
    assert err.startswith("trun: ")
    assert said in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize("words", [["ps"], ["history"], ["services"]])
def test_nothing_on_record_is_no_fault(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words)

    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1


def test_a_folder_without_a_journal_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ps", "--state", str(tmp_path))

    assert code == 4
    assert str(tmp_path) in err


def test_watching_where_nobody_answers_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "watch")

    assert code == 4
    assert "no service answers now" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownName("x"), 2),
        (errors.BadOption("x"), 2),
        (errors.JobFailed("x"), 1),
        (errors.ServiceUnavailable("x"), 4),
        (errors.StateHeld("x"), 5),
        (errors.StateDamaged("x"), 4),
        (errors.InvariantError("x"), 70),
        (KeyError("x"), 70),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert cli.code_of(error) == code


def test_a_fault_of_trun_points_to_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trun.cli.listing.chosen_places", lambda *_: 1 / 0)

    code, out, err = run(capsys, "ps")

    assert (code, out) == (70, "")
    assert "ZeroDivisionError" in err
    assert len(err.splitlines()) == 2


def test_a_closed_pipe_is_no_fault() -> None:
    command = f"{sys.executable} -m trun explain | head -1"

    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_error_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    known = explaining.classes()

    assert sorted(explaining.ADVICE) == sorted(known)
    assert len({kind.code for kind in known.values()}) == len(known)
    code, out, _ = run(capsys, "explain", "NeverCondition")
    assert code == 0
    assert out.startswith("T102 NeverCondition: The condition can never hold")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["wa"], ["watch"]),
        (["logs", "--f"], ["--follow"]),
        (["ps", "--state", "waiting,ru"], ["waiting,running"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["explain", "T10"], [f"T10{n}" for n in range(10)]),
        (["nonsense", ""], []),
    ],
)
def test_tab_offers_what_may_follow(words: list[str], offered: list[str]) -> None:
    assert completing.candidates(words) == offered


@pytest.mark.parametrize("shell", completing.SCRIPTS)
def test_completion_scripts_call_the_hidden_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "completion", shell)

    assert code == 0
    assert "trun __complete" in out


def test_doctor_finds_an_unwritable_folder(capsys: pytest.CaptureFixture[str], trun_folders: Path) -> None:
    (trun_folders / "state").chmod(0o777)

    code, out, _ = run(capsys, "doctor")

    assert code == 1
    assert "✗ state folder cannot be used" in out
    assert "chmod go-w" in out


def test_help_keeps_every_verb_apart_from_its_words() -> None:
    for verb, (_, words) in cli.VERBS.items():
        assert not words or re.search(rf"^  {re.escape(verb)} +{re.escape(words)}$", cli.help_text(), re.MULTILINE)
