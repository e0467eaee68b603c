"""Where things lie, who may write there, and which run folders go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from trun.adapters import folders
from trun.adapters.folders import FolderLock, Holder
from trun.errors import BadOption, StateError, StateHeld

DAY_S = 24 * 3600.0


# -- places -----------------------------------------------------------------------------------------------------------


def test_the_variables_name_the_three_places(trun_folders: Path) -> None:
    assert folders.state_folder() == trun_folders / "state"
    assert folders.runtime_folder() == trun_folders / "run"
    assert folders.config_folder() == trun_folders / "config"


def test_without_variables_the_places_are_those_of_the_platform(
    trun_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE", "CONFIG", "RUNTIME"):
        monkeypatch.delenv(f"TRUN_{name}_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", str(trun_folders / "xs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(trun_folders / "xc"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(trun_folders))

    found = [folders.state_folder(), folders.config_folder(), folders.runtime_folder()]

    assert found == [trun_folders / "xs" / "trun", trun_folders / "xc" / "trun", trun_folders / "trun"]
    assert {path.stat().st_mode & 0o777 for path in found} == {0o700}


def test_without_xdg_the_home_folder_and_the_temporary_one_serve(
    trun_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "TRUN_STATE_DIR",
        "TRUN_CONFIG_DIR",
        "TRUN_RUNTIME_DIR",
        *(f"XDG_{n}_HOME" for n in ("STATE", "CONFIG")),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(trun_folders))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(trun_folders))

    assert folders.state_folder() == trun_folders / ".local/state/trun"
    assert folders.config_folder() == trun_folders / ".config/trun"
    assert folders.runtime_folder() == trun_folders / f"trun-{os.getuid()}"


def test_a_folder_that_others_may_write_to_is_refused_with_the_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)

    with pytest.raises(StateError, match=rf"others may write to the folder {tmp_path}; run `chmod go-w"):
        folders.private_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)

    with pytest.raises(StateError, match=r"belongs to the user with uid 65534; choose another with TRUN_STATE_DIR"):
        folders.private_folder(tmp_path, variable="TRUN_STATE_DIR")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StateError, match="cannot be made"):
        folders.private_folder(tmp_path / "file" / "below")


def test_a_socket_address_lies_in_the_runtime_folder_and_is_short(
    trun_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folders.socket_address("fit") == f"ipc://{trun_folders}/run/fit.sock"

    long = trun_folders / ("x" * 100)
    monkeypatch.setenv("TRUN_RUNTIME_DIR", str(long))
    with pytest.raises(BadOption, match="at most 107"):
        folders.socket_address("fit")


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "prefix"),
    [
        ("/home/me/my fit.py", "my_fit"),
        ("-c", "python"),
        ("", "python"),
        ("/usr/lib/ipykernel_launcher.py", "ipykernel_launch"),
        ("ünï/$(rm).py", "rm"),
    ],
)
def test_a_run_is_named_after_its_script(monkeypatch: pytest.MonkeyPatch, script: str, prefix: str) -> None:
    monkeypatch.setattr(sys, "argv", [script])

    name = folders.run_name()

    assert re.fullmatch(rf"{prefix}-\d{{6}}-\d{{6}}-[0-9a-f]{{4}}", name)
    assert len(name) <= 40


def test_each_run_has_a_folder_of_its_own_and_the_newest_comes_first(trun_folders: Path) -> None:
    made = [folders.new_run_folder() for _ in range(3)]
    for age, (path, _) in enumerate(made):
        os.utime(path, (1000.0 - age, 1000.0 - age))

    assert [path for path, _ in made] == folders.run_folders()
    assert len({name for _, name in made}) == 3
    assert all(path == trun_folders / "state" / "runs" / name for path, name in made)


def make_run(age_s: float, *, size: int = 0) -> Path:
    """Make a run folder that was last touched so long before the time 10_000_000."""
    path, _ = folders.new_run_folder()
    (path / "data").write_bytes(b"x" * size)
    for place in (path / "data", path):
        os.utime(place, (10_000_000 - age_s, 10_000_000 - age_s))
    return path


def test_old_runs_are_pruned_by_age() -> None:
    old, young = make_run(31 * DAY_S), make_run(1 * DAY_S)

    removed = folders.prune_runs(now=10_000_000, keep_s=30 * DAY_S)

    assert removed == [old]
    assert folders.run_folders() == [young]


def test_the_oldest_runs_are_pruned_when_all_take_too_much_space() -> None:
    runs = [make_run(age * DAY_S, size=100_000) for age in range(5)]

    removed = folders.prune_runs(now=10_000_000, keep_bytes=350_000)

    assert removed == runs[3:]
    assert folders.run_folders() == runs[:3]


def test_a_run_that_lives_is_never_pruned_however_old() -> None:
    run = make_run(1000 * DAY_S)
    lock = FolderLock(run)
    for place in (run / "lock", run):
        os.utime(place, (0, 0))

    assert folders.prune_runs(now=10_000_000) == []
    lock.release()
    os.utime(run / "lock", (0, 0))
    os.utime(run, (0, 0))
    assert folders.prune_runs(now=10_000_000) == [run]


# -- one owner --------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(StateHeld) as caught:
        FolderLock(tmp_path)
    assert caught.value.pid == os.getpid()
    assert folders.holder(tmp_path) == Holder(os.getpid(), caught.value.since)

    lock.release()
    lock.release()

    assert folders.holder(tmp_path) is None
    FolderLock(tmp_path).release()


def test_nobody_holds_a_folder_without_a_lock_file(tmp_path: Path) -> None:
    assert folders.holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_holder_has_not_said_who_it_is_is_held_all_the_same(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / "lock").write_text("{half")

    assert folders.holder(tmp_path) == Holder()
    with pytest.raises(StateHeld, match="held by another process since an unknown time"):
        FolderLock(tmp_path)
    lock.release()


def test_a_started_program_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)

    lock.release()

    FolderLock(tmp_path).release()
    child.communicate(b"\n")


def test_whoever_looks_who_holds_a_folder_keeps_nobody_out(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            folders.holder(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(100):
            FolderLock(tmp_path).release()
    finally:
        done.set()
        thread.join()


def test_the_file_system_is_known_by_name(tmp_path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9._-]+", folders.file_system(tmp_path))
    assert folders.file_system(tmp_path / "nowhere") == ""
