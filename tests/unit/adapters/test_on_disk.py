"""What survives a power cut: content is on the disk before it gets its name, and the name before anybody is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.adapters.test_packages import _CODE, wheel_of
from trun.adapters.blobs import BlobFolder
from trun.adapters.packages import unpack
from trun.adapters.parts import receiving
from trun.adapters.sqlite import SqliteJournal

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux which file was synced")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Path, list[str]]]:
    """Note each sync: of which path, and what could be found by its name at that moment."""
    found: list[tuple[Path, list[str]]] = []
    real = os.fsync

    def note(fd: int) -> None:
        real(fd)
        shown = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
        found.append((Path(os.readlink(f"/proc/self/fd/{fd}")), shown))

    monkeypatch.setattr(os, "fsync", note)
    return found


def keep_blob(folder: Path) -> str:
    return BlobFolder(folder).write([b"result"]).name


def receive(folder: Path) -> str:
    with receiving(folder / "fit.dat", "key") as part:
        part.write(b"result")
        part.finish()
    return "fit.dat"


def unpack_wheel(folder: Path) -> str:
    unpack(wheel_of(_CODE), folder / "one")
    return "one"


def begin_journal(folder: Path) -> str:
    SqliteJournal(folder).close()
    return "journal.sqlite"


@pytest.mark.parametrize("write", [keep_blob, receive, unpack_wheel, begin_journal])
def test_content_is_on_the_disk_before_it_has_its_name_and_then_the_name(
    write: Callable[[Path], str], tmp_path: Path, synced: list[tuple[Path, list[str]]]
) -> None:
    name = write(tmp_path)

    before = [path.relative_to(tmp_path).parts for path, shown in synced if name not in shown]
    after = [path for path, shown in synced if name in shown]
    assert any(parts and parts[0].startswith(".") for parts in before), "the content got its name before it was synced"
    assert tmp_path in after, "the folder was not synced after the name was in it"


def test_every_file_of_a_package_is_on_the_disk_before_it_can_be_found(
    tmp_path: Path, synced: list[tuple[Path, list[str]]]
) -> None:
    unpack_wheel(tmp_path)

    files = {path.name for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert files <= {path.name for path, shown in synced if "one" not in shown}
