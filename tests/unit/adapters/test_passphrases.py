"""Key files with a passphrase: only who knows it reads them, and a damaged one says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trun.adapters.keys import KeyPair, read_seed, write_seed
from trun.adapters.passphrases import is_locked, lock_text, open_seed, set_passphrase, unlock_text
from trun.errors import BadOption, NotAuthorised, StateError

SEED = bytes(range(32))


def cheap(passphrase: str = "quiet river") -> str:
    return lock_text(SEED, passphrase, operations=1, memory_kib=64)


def test_the_passphrase_opens_the_seed() -> None:
    assert unlock_text(cheap(), "quiet river") == SEED
    assert unlock_text(cheap("schöne Größe"), "schöne Größe") == SEED


def test_another_passphrase_does_not() -> None:
    with pytest.raises(NotAuthorised, match="not the passphrase"):
        unlock_text(cheap(), "loud river")


def test_two_files_of_one_seed_differ() -> None:
    assert cheap().split()[3:] != cheap().split()[3:]


@pytest.mark.parametrize(
    "text",
    [
        "", "trun-locked-1", "trun-locked-1 1 64 x y", cheap().replace("trun-locked-1", "trun-locked-2"),
        cheap()[:-8], cheap() + " more", cheap().replace(" 64 ", " 99999999 "), cheap().replace(" 1 ", " 1000 "),
        cheap().replace(" 1 ", " -1 "), cheap().replace(" 64 ", " 1e3 "),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_line_is_refused_at_once(text: str) -> None:
    begin = time.process_time()

    with pytest.raises(StateError, match="damaged"):
        unlock_text(text, "quiet river")

    assert time.process_time() - begin < 1


def test_a_key_file_gets_and_loses_a_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "id"
    write_seed(path, SEED)

    set_passphrase(path, "", "quiet river")

    assert is_locked(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SEED.hex() not in path.read_bytes().hex()
    assert open_seed(path, "quiet river") == SEED
    with pytest.raises(NotAuthorised, match="needs its passphrase"):
        open_seed(path)
    with pytest.raises(StateError):
        read_seed(path)

    set_passphrase(path, "quiet river", "")

    assert not is_locked(path)
    assert KeyPair(read_seed(path)).public == KeyPair(SEED).public
    assert os.listdir(tmp_path) == ["id"]


def test_a_locked_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_text(cheap())
    path.chmod(0o644)

    with pytest.raises(StateError, match="chmod 600"):
        open_seed(path, "quiet river")


def test_an_empty_passphrase_is_none() -> None:
    with pytest.raises(BadOption, match="protects nothing"):
        lock_text(SEED, "")


def test_there_may_be_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "id")
