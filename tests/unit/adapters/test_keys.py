"""Keys: one seed gives all, in files that nobody else may read, and nothing secret is ever shown."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from trun.adapters.keys import KeyPair, ServiceKeys, fingerprint, from_z85, has_service_keys, user_keys, verified, z85
from trun.errors import BadOption, StateError

PAIR = KeyPair(bytes(range(32)))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_curve_pair_is_one_that_zeromq_takes() -> None:
    assert zmq.curve_public(PAIR.secret.encode()).decode() == PAIR.public
    assert len(PAIR.public) == 40


def test_the_signing_key_is_another_than_the_curve_key() -> None:
    assert from_z85(PAIR.public).hex() != PAIR.verify
    assert verified(PAIR.verify, b"said", PAIR.sign(b"said"))
    assert not verified(PAIR.verify, b"other", PAIR.sign(b"said"))
    assert not verified(KeyPair(b"x" * 32).verify, b"said", PAIR.sign(b"said"))
    for nonsense in ("", "zz", "00" * 31, PAIR.public):
        assert not verified(nonsense, b"said", PAIR.sign(b"said"))


def test_nothing_secret_is_shown() -> None:
    for shown in (repr(PAIR), str(PAIR)):
        assert PAIR.secret not in shown
        assert PAIR.seed.hex() not in shown
    assert PAIR.fingerprint in repr(PAIR)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_written_in_one_way(raw: bytes) -> None:
    assert from_z85(z85(raw)) == raw
    assert len(fingerprint(z85(raw))) == 31


@pytest.mark.parametrize("text", ["", "short", PAIR.public[:-1], PAIR.public + "0", "é" * 40, '"' * 40, "#" * 40])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="40 characters"):
        from_z85(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_thirty_two_bytes(size: int) -> None:
    with pytest.raises(BadOption, match="32 bytes"):
        KeyPair(bytes(size))


def test_the_key_of_a_user_is_made_once_and_private_beside_its_public_half(trun_folders: Path) -> None:
    made = user_keys()
    config = trun_folders / "config"

    assert user_keys().public == made.public
    assert mode(config / "id") == 0o600
    name, key, comment = (config / "id.pub").read_text().split()
    assert (key, comment.partition("@")[0]) == (made.public, name)
    assert mode(config / "id.pub") & 0o022 == 0


def test_a_key_that_is_not_to_be_made_is_not(trun_folders: Path) -> None:
    with pytest.raises(StateError, match="trun keygen"):
        user_keys(make=False)
    assert not (trun_folders / "config" / "id").exists()


def test_a_key_that_others_may_read_is_refused(trun_folders: Path) -> None:
    user_keys()
    (trun_folders / "config" / "id").chmod(0o640)

    with pytest.raises(StateError, match="chmod 600"):
        user_keys()


def test_a_folder_of_keys_that_others_may_write_to_is_refused(trun_folders: Path) -> None:
    user_keys()
    (trun_folders / "config").chmod(0o770)

    with pytest.raises(StateError, match="chmod"):
        user_keys()


def test_a_file_that_holds_something_else_is_no_key(trun_folders: Path) -> None:
    path = trun_folders / "config" / "id"
    path.write_text("trun-key-1 AAAA\n")
    path.chmod(0o600)

    with pytest.raises(StateError, match="holds no key"):
        user_keys()


def test_processes_that_start_at_the_same_time_make_one_key() -> None:
    code = "from trun.adapters.keys import user_keys; print(user_keys().public)"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]

    assert {process.communicate(timeout=60)[0].strip() for process in running} == {user_keys().public}


def test_a_service_has_keys_of_its_own_that_stay(tmp_path: Path) -> None:
    assert not has_service_keys(tmp_path)
    made = ServiceKeys(tmp_path)

    assert has_service_keys(tmp_path)
    assert mode(tmp_path / "keys") == 0o700
    assert [mode(path) for path in (tmp_path / "keys").iterdir()] == [0o600, 0o600]
    assert ServiceKeys(tmp_path).curve.public == made.curve.public
    assert ServiceKeys(tmp_path).root.verify == made.root.verify != made.curve.verify
