"""Slips in ``trun service ...`` are refused before anything is made, and the refusal says what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

import trun.cli as cli
from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.known import known_services

KEY = KeyPair(new_seed()).public


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command says that is refused as a slip of its user."""
    code = cli.main(("service", *words))
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("http://here:80", "tcp://HOST:PORT or ipc:///PATH"),
        ("7711", "tcp://HOST:PORT or ipc:///PATH"),
        ("tcp://127.0.0.1", "tcp://HOST:PORT"),
        ("tcp://:7711", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1:http", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1:99999", "65535"),
    ],
)
def test_an_address_to_listen_at_is_checked_at_once(
    listen: str, said: str, trun_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "start", "--name", "fans", "--listen", listen)

    assert listen in text
    assert said in text
    assert not (trun_folders / "state" / "services" / "fans").exists()


@pytest.mark.parametrize("resources", ["gpu", "gpu=", "=2", "gpu=-1", "gpu=nan", "gpu=inf", "gpu=2,sim=x"])
def test_limits_of_resources_are_numbers(resources: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "start", "--name", "fans", "--resources", resources)

    assert repr(resources.rpartition(",")[2]) in text
    assert "gpu=2" in text


def test_a_folder_to_export_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        assert str(tmp_path / name) in refused(capsys, "start", "--name", "fans", "--export", str(tmp_path / name))


@pytest.mark.parametrize("executor", ["dask:tcp://h:1", "slurm", "ray", "nonsense"])
def test_an_executor_that_is_still_to_come_is_refused(executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "start", "--name", "fans", "--executor", executor)

    assert executor in text
    assert "processes" in text


@pytest.mark.parametrize("name", ["a/b", "a b", "", "a" * 41])
def test_a_name_that_could_not_be_told_from_others_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "letters" in refused(capsys, "start", "--name", name)
    assert "letters" in refused(capsys, "add", name, "tcp://127.0.0.1:7711", "--expect", KEY)


@pytest.mark.parametrize(
    "address", ["http://here", "here:7711", "tcp://here", "tcp://here:0", "tcp://here:70000", "ipc://here.sock"]
)
def test_what_is_no_address_is_not_written_down(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert address in refused(capsys, "add", "sns", address, "--expect", KEY)
    assert known_services() == []


def test_a_service_elsewhere_is_written_down_with_its_key_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--expect KEY" in refused(capsys, "add", "sns", "tcp://here:7711")
    assert "40 characters" in refused(capsys, "add", "sns", "tcp://here:7711", "--expect", "short")
    assert known_services() == []


def test_verbs_and_services_are_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(("service", "add", "compufans", "tcp://here:7711", "--expect", KEY)) == 0
    capsys.readouterr()

    assert "'start'" in refused(capsys, "strat")
    for verb in ("status", "forget"):
        assert "'compufans'" in refused(capsys, verb, "compufan")
