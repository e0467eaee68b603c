"""Known services: found by name, key, fingerprint or address; another key under a known name is a hard stop."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trun.adapters.keys import KeyPair, fingerprint
from trun.adapters.known import Known, by_key, find, forget, key_changed, known_services, remember
from trun.errors import BadOption, ServiceKeyChanged, StateError, UnknownName

ONE, TWO = (KeyPair(bytes([number]) * 32).public for number in (1, 2))


def fans(key: str = ONE) -> Known:
    return Known(name="compufans", address="tcp://fans:7711", key=key)


def test_a_service_is_found_by_name_key_fingerprint_and_address() -> None:
    written = remember(fans())

    for name in ("compufans", ONE, fingerprint(ONE), "tcp://fans:7711"):
        assert find(name) == written
    assert by_key(ONE) == written
    assert by_key(TWO) is None
    assert by_key("") is None


def test_an_unknown_name_is_answered_with_the_nearest_and_how_to_add_it() -> None:
    remember(fans())

    with pytest.raises(UnknownName, match=r"service add compufan .*compufans") as caught:
        find("compufan")
    assert caught.value.suggestions == ("compufans",)


def test_another_key_under_a_known_name_is_a_hard_stop_and_changes_nothing() -> None:
    remember(fans())

    with pytest.raises(ServiceKeyChanged) as caught:
        remember(fans(TWO))

    assert fingerprint(ONE) in str(caught.value)
    assert fingerprint(TWO) in str(caught.value)
    assert "trun service forget compufans" in str(caught.value)
    assert find("compufans").key == ONE


def test_a_key_that_is_not_shown_any_more_is_a_hard_stop_too() -> None:
    remember(fans())

    with pytest.raises(ServiceKeyChanged, match="found none"):
        remember(fans(""))
    assert "found none" in str(key_changed(fans(), ""))


def test_a_new_key_counts_once_the_old_one_was_forgotten() -> None:
    remember(fans())
    forget("compufans")
    remember(fans(TWO))

    assert [service.key for service in known_services()] == [TWO]


def test_what_is_no_key_is_not_written_down() -> None:
    with pytest.raises(BadOption, match="40 characters"):
        remember(fans("short"))
    assert known_services() == []


def test_the_file_is_its_owners_alone(trun_folders: Path) -> None:
    remember(fans())

    assert stat.S_IMODE((trun_folders / "config" / "known_services").stat().st_mode) == 0o600


def test_a_damaged_line_is_named_and_nothing_is_believed(trun_folders: Path) -> None:
    remember(fans())
    path = trun_folders / "config" / "known_services"
    path.write_bytes(path.read_bytes() + b'{"name": \n')

    for ask in (known_services, lambda: find("compufans"), lambda: remember(fans())):
        with pytest.raises(StateError, match=r"line 2 of .*known_services"):
            ask()


def test_processes_that_add_at_the_same_time_lose_nothing(trun_folders: Path) -> None:
    code = (
        "import sys; from trun.adapters.known import Known, remember\n"
        "for n in range(10): remember(Known(name=f'{sys.argv[1]}-{n}', address='ipc:///x'))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b", "c")]

    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert {service.name for service in known_services()} == {f"{name}-{n}" for name in "abc" for n in range(10)}
