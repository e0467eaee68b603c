"""What is kept back for bad times."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trun.adapters import space
from trun.adapters.space import BALLAST_BYTES, Ballast, is_out_of_space


def test_the_reserve_is_made_of_blocks_and_a_sparse_file_does_not_count(tmp_path: Path) -> None:
    with open(tmp_path / "ballast", "wb") as file:
        file.truncate(BALLAST_BYTES)
    assert (tmp_path / "ballast").stat().st_blocks * 512 < BALLAST_BYTES

    assert Ballast(tmp_path).load()

    assert (tmp_path / "ballast").stat().st_blocks * 512 >= BALLAST_BYTES


def test_without_fallocate_the_reserve_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")

    assert Ballast(tmp_path).load()

    assert (tmp_path / "ballast").stat().st_size == BALLAST_BYTES


def test_a_reserve_can_be_given_up_once(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    ballast.load()

    assert ballast.drop()
    assert not ballast.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_reserve_for_which_there_is_no_space_is_not_kept_by_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, offset: int, size: int) -> None:
        os.pwrite(fd, b"x" * 100_000, 0)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)

    assert not Ballast(tmp_path).load()
    assert list(tmp_path.iterdir()) == []


def test_space_is_looked_for_once_in_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    looks: list[Path] = []

    def look(folder: Path) -> bool:
        looks.append(folder)
        return len(looks) < 2

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(space, "is_out_of_space", look)
    ballast = Ballast(tmp_path)

    assert not ballast.try_again()
    assert not ballast.path.exists()
    assert not ballast.try_again()
    assert len(looks) == 1
    now[0] += space.LOOK_AGAIN_S
    assert ballast.try_again()
    assert ballast.path.exists()


def test_a_disk_with_space_is_not_out_of_space_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    assert not is_out_of_space(tmp_path)
    assert not is_out_of_space(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
