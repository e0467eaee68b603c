"""The command beside a script that runs in another process: while it runs, after its end, and after its violent death.

The script's jobs wait for texts, so that each test moves them when it wants to; nothing sleeps.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import os
import sys

import trun

def gate(pipe):
    job = trun.current_job()
    print("the gate is \\x1b[31mopen\\x1b[0m", flush=True)
    with open(pipe, "w") as file:
        file.write("open")
    while True:
        message = job.inbox.get()
        print("heard", message.content, flush=True)
        message.respond("got " + message.content)
        if message.content == "fail":
            raise RuntimeError("told to fail")
        if message.content == "go":
            return 1

def reduce(marker):
    print("looking for run 42")
    if not os.path.exists(marker):
        raise FileNotFoundError("run42.nxs")
    return 42

def fit(*args):
    return 2

pipe, marker, state = sys.argv[1:]
os.mkfifo(pipe)
with trun.local(workers=2, state=state or None) as service:
    opened = trun.submit(gate, pipe, name="gate")
    bad = trun.submit(reduce, marker)
    chain = [bad]
    for name in ("fit", "plot", "report"):
        chain.append(trun.submit(fit, chain[-1], name=name))
    waits = trun.submit(fit, name="waits", when=opened.iscompleted & (bad.isfailed | bad.iscompleted))
    held = trun.submit(fit, name="later", when=opened.iscompleted)
    held.hold()
    chain[-1].exception()
    with open(pipe) as file:
        file.read()
    print("ready", flush=True)
    waits.exception()
    held.cancel()
"""


class Scene:
    """A script that runs, with the folders that it shares with the command."""

    def __init__(self, folder: Path, environment: dict[str, str], state: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.environment = environment
        self.marker = folder / "run42.nxs"
        self.name = Path(state).name or folder.name
        script = folder / f"{folder.name}.py"
        script.write_text(SCRIPT)
        self.started: list[subprocess.Popen[str]] = []
        self.errors = (folder / "errors").open("w+")
        self.script = subprocess.Popen(
            [sys.executable, str(script), str(folder / "pipe"), str(self.marker), state],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=folder,
        )
        assert self.script.stdout is not None
        assert self.script.stdout.readline() == "ready\n", (folder / "errors").read_text()

    def start(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        process = subprocess.Popen(
            [sys.executable, "-m", "trun", *words],
            env=environment or self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def call(self, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Run a command; return exit code, output and errors."""
        process = self.start(*words, environment=environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def data(self, *words: str) -> Any:
        """Return what a command prints as JSON."""
        code, out, err = self.call(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    def states(self, *words: str) -> dict[str, str]:
        """Return {name: state} of the jobs of the first run that ``ps`` lists."""
        return {job["name"]: job["state"] for job in self.data("ps", *words)["runs"][0]["jobs"]}

    def end(self) -> None:
        """Let the script come to its end."""
        if self.script.poll() is None:
            self.call("send", f"{self.name}/gate", "go")
        self.script.wait(30)

    def kill(self) -> None:
        """Kill the script outright, and wait until its service has noticed."""
        run = self.data("services")["services"][0]
        node = os.pidfd_open(run["pid"])
        self.script.kill()
        self.script.wait()
        signalled = subprocess.run(
            [sys.executable, "-c", f"import select; select.select([{node}], [], [], 30)"], pass_fds=[node], check=True
        )
        os.close(node)
        assert signalled.returncode == 0

    def close(self) -> None:
        """Leave nothing running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        if self.script.poll() is None:
            self.script.send_signal(signal.SIGINT)
            try:
                self.script.wait(20)
            except subprocess.TimeoutExpired:
                self.script.kill()
                self.script.wait()
        assert self.script.stdout is not None
        self.script.stdout.close()
        self.errors.close()


def environment_of(folders: Path) -> dict[str, str]:
    """Return the environment of a command that has these folders, no terminal and no colour."""
    names = {"TRUN_STATE_DIR": "state", "TRUN_RUNTIME_DIR": "run", "TRUN_CONFIG_DIR": "config"}
    found = {**os.environ, **{variable: str(folders / name) for variable, name in names.items()}}
    return {name: value for name, value in found.items() if name not in ("COLUMNS", "NO_COLOR", "TRUN_SERVICE")}


@pytest.fixture
def scene(trun_folders: Path, tmp_path: Path) -> Iterator[Scene]:
    """Return a script that has come to its gate."""
    found = Scene(tmp_path / "scan", environment_of(trun_folders))
    yield found
    found.close()


@pytest.fixture(scope="module")
def standing() -> Iterator[Scene]:
    """Return a script at its gate, for all tests that only look."""
    with tempfile.TemporaryDirectory(prefix="trun-", dir="/tmp") as name:
        for each in ("state", "run", "config"):
            Path(name, each).mkdir(mode=0o700)
        found = Scene(Path(name, "scan"), environment_of(Path(name)))
        yield found
        found.close()


# -- while it runs ----------------------------------------------------------------------------------------------------


def test_ps_lists_the_jobs_of_the_living_script(standing: Scene) -> None:
    states = standing.states()

    assert states == {
        "gate": "running",
        "reduce": "failed",
        "fit": "cancelled",
        "plot": "cancelled",
        "report": "cancelled",
        "waits": "waiting",
        "later": "held",
    }
    code, out, err = standing.call("ps")
    assert (code, err) == (0, "")
    assert f"live, script {standing.script.pid}" in out.splitlines()[0]
    assert re.search(r"✗ failed +reduce#2 +FileNotFoundError: run42.nxs", out)
    assert re.search(r"◷ waiting +waits#6 +needs gate#1", out)
    assert standing.states("--state", "waiting,held") == {"waits": "waiting", "later": "held"}
    assert set(standing.states("--never")) == {"fit", "plot", "report"}
    assert standing.states("--name", "f*") == {"fit": "cancelled"}


def test_ps_keeps_within_forty_columns_and_out_of_colour(standing: Scene) -> None:
    narrow = {**standing.environment, "COLUMNS": "40"}

    _, out, _ = standing.call("ps", environment=narrow)

    assert max(len(text) for text in out.splitlines()) <= 40
    assert "\x1b" not in out
    assert "waits#6" in out


def test_why_marks_what_blocks_and_what_is_missing(standing: Scene) -> None:
    code, out, err = standing.call("why", "waits#6")

    assert (code, err) == (0, "")
    assert "○ gate#1" in out
    assert "✓ reduce#2" in out
    blocking = [text for text in out.splitlines() if "◀" in text]
    assert len(blocking) == 1
    assert "gate#1" in blocking[0]
    data = standing.data("why", "waits")
    assert data["job"]["id"] == "waits#6"
    assert data["run"]["live"]
    assert data["text"].splitlines()[0] in out


def test_data_has_the_fields_that_the_documentation_promises(standing: Scene) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text()

    def promised(name: str) -> set[str]:
        found = re.search(rf"\* {name}: `([^`]+)`", page)
        assert found
        return set(found[1].split())

    why = standing.data("why", "fit#3")
    (run,) = standing.data("ps")["runs"]
    assert promised("RUN") | {"total", "counts", "jobs"} == set(run)
    assert promised("JOB") == set(run["jobs"][0]) == set(why["job"])
    assert promised("RUN") == set(why["run"])
    assert set(why["cause"]) == {"id", "uid", "state", "error", "tail"}
    explanation = {"value", "state", "summary", "tree", "blocking", "blocking_count", "missing", "witness", "extra"}
    assert set(why) - {"text", "job", "cause", "run"} == explanation
    row = {"depth", "value", "text", "key", "blocking", "counts", "left_out", "mark"}
    assert set(why["tree"][0]) == row
    assert set(standing.data("logs", "reduce#2")) == {"job", "run", "attempt", "offset", "text", "final", "path"}
    assert {"from", "to"} <= set(standing.data("graph")["edges"][0])
    assert {"counts", "unfinished"} <= set(standing.data("services")["services"][0])


def test_why_names_the_root_of_a_chain_first_and_within_fifteen_lines(standing: Scene) -> None:
    code, out, _ = standing.call("why", "report#5")

    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 15
    assert "report#5" in lines[0]
    assert "reduce#2" in lines[1]
    assert "FileNotFoundError: run42.nxs" in lines[2]
    assert "looking for run 42" in lines[3]
    assert standing.data("why", "report#5")["cause"]["id"] == "reduce#2"
    assert "cancelled" in standing.call("why", "-v", "report#5")[1]


def test_why_is_never_empty(standing: Scene) -> None:
    for job in ("gate", "reduce", "fit", "waits", "later"):
        code, out, err = standing.call("why", job)

        assert (code, err) == (0, "")
        assert len(out.splitlines()) >= 2


def test_logs_show_what_was_printed_without_its_escape_sequences(standing: Scene) -> None:
    assert standing.call("logs", "gate") == (0, "the gate is open\n", "")
    assert standing.call("logs", "gate", "--raw")[1] == "the gate is \x1b[31mopen\x1b[0m\n"
    assert standing.call("logs", "reduce#2") == (0, "looking for run 42\n", "")
    assert standing.call("logs", "waits")[1] == ""
    assert standing.data("logs", "reduce")["text"] == "looking for run 42\n"
    assert standing.call("logs", "reduce", "--attempt", "2")[0] == 2


def test_logs_follow_a_job_to_its_end(scene: Scene) -> None:
    following = scene.start("logs", "-f", "gate")
    assert following.stdout is not None
    assert following.stdout.readline() == "the gate is open\n"

    scene.call("send", "gate", "hello")
    assert following.stdout.readline() == "heard hello\n"
    scene.call("send", "gate", "go")
    rest, errors = following.communicate(timeout=30)

    assert (following.returncode, rest, errors) == (0, "heard go\n", "")


def test_a_text_is_answered(scene: Scene) -> None:
    assert scene.call("send", "gate", "hello") == (0, "got hello\n", "")
    code, _, err = scene.call("send", "reduce", "hello")
    assert code == 2
    assert "only a running job" in err
    assert scene.call("send", "gate", "fail") == (0, "got fail\n", "")


def test_orders_move_jobs(scene: Scene) -> None:
    assert scene.call("hold", "waits")[:2] == (0, "waits#6 is ‖ held\n")
    assert scene.call("release", "waits", "later")[:2] == (0, "waits#6 is ◷ waiting\nlater#7 is ◷ waiting\n")
    assert scene.call("cancel", "later#7", "--reason", "enough")[:2] == (0, "later#7 is ⊘ cancelled\n")
    assert "enough" in scene.call("why", "later")[1]
    assert scene.call("cancel", "reduce")[0] == 0
    assert scene.call("hold", "gate")[0] == 2
    assert scene.call("release", "gate")[0] == 2


def test_cancelling_a_running_job_stops_it(scene: Scene) -> None:
    watching = scene.start("logs", "-f", "gate")

    code, out, _ = scene.call("cancel", "gate")
    watching.communicate(timeout=30)

    assert code == 0
    assert out.startswith("gate#1 is ")
    scene.script.wait(30)
    assert scene.states()["gate"] == "aborted"


def test_retry_downstream_runs_again_what_failed_and_what_fell_with_it(scene: Scene) -> None:
    would = "reduce#2 would run again (failed)\n" + "".join(
        f"{job} would wait again (cancelled)\n" for job in ("fit#3", "plot#4", "report#5")
    )
    assert scene.call("retry", "reduce", "--downstream", "--dry-run")[:2] == (0, would)
    assert scene.states()["reduce"] == "failed"
    scene.marker.touch()

    code, out, _ = scene.call("retry", "reduce", "--downstream")

    assert code == 0
    assert out.splitlines()[1:] == ["fit#3 waits again", "plot#4 waits again", "report#5 waits again"]
    scene.end()
    states = scene.states()
    assert {states[name] for name in ("reduce", "fit", "plot", "report")} == {"completed"}
    assert scene.call("retry", "gate")[0] == 4


def test_graph_draws_the_same_in_three_languages(standing: Scene) -> None:
    _, mermaid, _ = standing.call("graph")
    _, dot, _ = standing.call("graph", "--dot")
    data = standing.data("graph")

    assert mermaid.splitlines()[0] == "flowchart LR"
    assert 'j1["▶ gate#1"]:::running' in mermaid
    assert "j2 --> j3" in mermaid
    assert dot.startswith("digraph trun {")
    assert {node["kind"] for node in data["nodes"]} == {"job", "and", "or"}
    assert len(standing.data("graph", "plot")["nodes"]) == 3


def test_watch_tells_each_change_and_the_outcome(scene: Scene) -> None:
    watching = scene.start("watch")
    assert watching.stdout is not None
    begin = [watching.stdout.readline() for _ in range(3)]

    scene.end()
    rest, errors = watching.communicate(timeout=30)

    assert [re.sub(r"^\S+ +", "", text).split()[0] for text in begin] == ["gate#1", "waits#6", "later#7"]
    assert re.search(r"gate#1 +✓ completed", rest)
    assert re.search(r"waits#6 +▶ running", rest)
    assert rest.splitlines()[-1].startswith("7 jobs: ✓ 2 completed, ✗ 1 failed")
    assert (watching.returncode, errors) == (1, "")


def test_ctrl_c_ends_the_looking_only(standing: Scene) -> None:
    watching = standing.start("watch")
    assert watching.stdout is not None
    watching.stdout.readline()

    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=30)

    assert (watching.returncode, errors) == (130, "")
    assert standing.states()["gate"] == "running"


def test_services_and_the_names_of_runs(standing: Scene) -> None:
    service = standing.data("services")["services"][0]

    assert service["owner"] == standing.script.pid
    assert service["counts"]["running"] == 1
    assert standing.call("ps", "--service", "scan-")[0] == 0
    assert standing.call("why", f"{service['run']}/waits#6")[0] == 0
    code, _, err = standing.call("resume", service["run"])
    assert code == 5
    assert f"held by process {service['pid']} since" in err


def test_the_same_id_in_two_scripts_is_told_apart(scene: Scene, tmp_path: Path) -> None:
    other = Scene(tmp_path / "other", scene.environment)
    try:
        code, _, err = scene.call("why", "gate#1")
        runs = re.findall(r"(\S+)/gate#1", err)

        assert code == 2
        assert {run.partition("-")[0] for run in runs} == {"scan", "other"}
        assert [scene.call("why", f"{run}/gate#1")[0] for run in runs] == [0, 0]
        assert scene.call("graph")[0] == 2
        assert scene.call("send", "other/gate", "hello")[1] == "got hello\n"
        other.end()
    finally:
        other.close()


def test_a_service_with_a_state_folder_of_its_own_is_found(trun_folders: Path, tmp_path: Path) -> None:
    state = tmp_path / "my state"
    scene = Scene(tmp_path / "apart", environment_of(trun_folders), str(state))
    try:
        assert scene.states()["gate"] == "running"
        assert scene.call("send", "gate", "hello")[1] == "got hello\n"
        scene.end()
        assert scene.call("why", "gate")[0] == 2
        assert scene.states("--state", str(state))["gate"] == "completed"
        assert scene.call("why", "--state", str(state), "gate")[0] == 0
    finally:
        scene.close()


# -- after its end ----------------------------------------------------------------------------------------------------


def test_everything_can_still_be_asked_after_the_end(scene: Scene) -> None:
    before = scene.call("why", "report#5")[1].splitlines()
    drawn = scene.call("graph", "plot#4")[1]
    scene.end()

    states = scene.states()
    after = scene.call("why", "report#5")[1].splitlines()

    assert states["gate"] == states["waits"] == "completed"
    assert after[1:] == before[1:]
    assert "in the ended run scan-" in after[0]
    assert scene.call("logs", "-f", "gate") == (0, "the gate is open\nheard go\n", "")
    assert scene.call("graph", "plot#4")[1] == drawn
    history = scene.data("history")["jobs"]
    assert [job["id"] for job in history][:2] == ["reduce#2", "fit#3"]
    assert scene.data("services")["services"] == []
    for words in (["cancel", "gate"], ["send", "gate", "hello"], ["watch"]):
        code, _, err = scene.call(*words)
        assert code == 4
        assert err.startswith("trun: ")
    assert scene.call("resume")[0] == 2
    assert "nothing unfinished" in scene.call("resume", "scan-")[1]


# -- after kill -9 ----------------------------------------------------------------------------------------------------


def test_a_killed_script_leaves_a_record_that_can_be_carried_on(scene: Scene) -> None:
    following = scene.start("logs", "-f", "gate")
    assert following.stdout is not None
    following.stdout.readline()
    scene.kill()

    states = scene.states()
    following.communicate(timeout=30)
    assert following.returncode == 0
    assert (states["gate"], states["waits"], states["later"]) == ("lost", "waiting", "held")
    assert "trun resume scan-" in scene.call("ps")[1]
    assert "trun resume scan-" in scene.call("why", "waits")[1]

    (scene.folder / "pipe").unlink()
    os.mkfifo(scene.folder / "pipe")
    resuming = scene.start("resume")
    assert resuming.stdout is not None
    assert "3 jobs to carry on" in resuming.stdout.readline()
    assert (scene.folder / "pipe").read_text() == "open"
    assert scene.call("resume")[0] == 2
    assert scene.call("send", "gate", "go")[1] == "got go\n"
    out, err = resuming.communicate(timeout=60)

    assert re.search(r"gate#1 +✓ completed", out)
    assert re.search(r"waits#6 +✓ completed", out)
    assert "later#7 is left: held" in out
    assert (resuming.returncode, err) == (3, "")
    assert scene.states()["waits"] == "completed"


def test_a_killed_service_leaves_what_was_printed(scene: Scene) -> None:
    os.kill(scene.data("services")["services"][0]["pid"], signal.SIGKILL)

    scene.script.wait(30)

    assert scene.states()["gate"] == "lost"
    assert scene.call("logs", "gate")[1] == "the gate is open\n"


def test_ctrl_c_stops_a_resumed_run_without_loss(scene: Scene) -> None:
    scene.kill()
    (scene.folder / "pipe").unlink()
    os.mkfifo(scene.folder / "pipe")
    resuming = scene.start("resume", "scan", "--workers", "1")
    assert (scene.folder / "pipe").read_text() == "open"

    resuming.send_signal(signal.SIGINT)
    _, err = resuming.communicate(timeout=60)

    assert resuming.returncode == 130
    assert "3 jobs left: trun resume scan-" in err
    states = scene.states()
    assert (states["gate"], states["waits"]) == ("lost", "waiting")
    assert scene.data("services")["services"] == []
