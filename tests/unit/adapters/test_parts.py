"""Files on their way."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from trun.adapters.parts import is_part, receiving, sweep, sweep_below
from trun.errors import TransferRefused


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def break_off(target: Path, key: str, data: bytes, error: BaseException) -> None:
    with receiving(target, key) as part:
        part.write(data)
        raise error


def test_a_file_shows_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with receiving(target, "key") as part:
        part.write(b"ab")
        part.write(b"c")
        assert not target.exists()
        assert is_part(part.path.name)
        part.finish()

        assert part.digest() == hashlib.blake2b(b"abc", digest_size=32).hexdigest()
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["target"]


def test_a_later_attempt_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(ConnectionResetError):
        break_off(target, "key", b"abc", ConnectionResetError())

    with receiving(target, "key") as part:
        assert part.size == 3
        part.write(b"def")
        assert part.digest() == hashlib.blake2b(b"abcdef", digest_size=32).hexdigest()
        part.finish()
    assert target.read_bytes() == b"abcdef"


@pytest.mark.parametrize(("key", "target"), [("other key", "target"), ("key", "other target")])
def test_what_is_meant_for_something_else_is_not_taken(tmp_path: Path, key: str, target: str) -> None:
    with pytest.raises(ConnectionResetError):
        break_off(tmp_path / "target", "key", b"abc", ConnectionResetError())

    with receiving(tmp_path / target, key) as part:
        assert part.size == 0


def test_nothing_is_left_of_what_nobody_can_find_again(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        break_off(tmp_path / "target", "", b"abc", ConnectionResetError())
    with pytest.raises(OSError, match="full"):
        break_off(tmp_path / "target", "key", b"abc", OSError("full"))

    assert names(tmp_path) == []


def test_a_restart_forgets_what_was_there(tmp_path: Path) -> None:
    with receiving(tmp_path / "target", "key") as part:
        part.write(b"wrong")
        part.restart()
        part.write(b"abc")
        part.finish()

        assert part.digest() == hashlib.blake2b(b"abc", digest_size=32).hexdigest()
    assert (tmp_path / "target").read_bytes() == b"abc"


def test_two_cannot_receive_the_same(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with receiving(target, "key"):
        with pytest.raises(TransferRefused, match="somebody else") as caught, receiving(target, "key"):
            pass

        assert caught.value.reason == "busy"


def test_a_link_in_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    with receiving(tmp_path / "target", "key") as part:
        name = part.path
    (tmp_path / "victim").write_text("old")
    name.symlink_to(tmp_path / "victim")

    with pytest.raises(OSError, match=name.name), receiving(tmp_path / "target", "key"):
        pass

    assert (tmp_path / "victim").read_text() == "old"


def test_only_old_parts_are_swept(tmp_path: Path) -> None:
    for key in ("old", "new"):
        with pytest.raises(ConnectionResetError):
            break_off(tmp_path / "target", key, b"abc", ConnectionResetError())
    (tmp_path / ".something.part").touch()
    old = next(path for path in tmp_path.iterdir() if is_part(path.name))
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(old, (long_ago, long_ago))

    assert sweep(tmp_path) == 1
    assert not old.exists()
    assert len(names(tmp_path)) == 2
    assert sweep(tmp_path / "missing") == 0


def test_what_was_given_up_is_swept_from_the_folders_below_too(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "job", tmp_path / "job" / "deeper"):
        folder.mkdir(exist_ok=True)
        for name in (f".{'a' * 32}.part", "published.part", f".{'b' * 32}.part"):
            (folder / name).touch()
            if "b" not in name:
                os.utime(folder / name, (1, 1))
    (tmp_path / "link").symlink_to(tmp_path / "job" / "deeper")

    assert sweep_below(tmp_path) == 2

    assert names(tmp_path / "job") == [f".{'b' * 32}.part", "deeper", "published.part"]
    assert len(names(tmp_path / "job" / "deeper")) == 3
    assert sweep_below(tmp_path / "missing") == 0
