"""What the operator has set: which file wins, what is no setting, what workers find."""

from __future__ import annotations

from pathlib import Path

import pytest

from trun.adapters.bulk import port_of
from trun.adapters.settings import KEPT, keep, load, of_service
from trun.errors import BadOption


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path / "config"


def test_without_files_nothing_is_set(here: Path, config: Path) -> None:
    assert load(here, config, {"PATH": "/bin", "TRUN_STATE_DIR": "/x", "TRUN_WORKERS__SUSPENDED": "3"}) == {}


def test_later_places_win(here: Path, config: Path) -> None:
    first = "[fetch]\nallow = ['*']\nmax_size = 5\n[install]\nwheels = '/a'\nindex = 'https://a'\n"
    (here / "trun.toml").write_text(first)
    second = "[project]\nname = 'x'\n[tool.trun.fetch]\nallow = ['https://a', '10.0.0.0/8']\n"
    (here / "pyproject.toml").write_text(second)
    (config / "trun.toml").write_text("[install]\nwheels = '/b'\n")

    assert load(here, config, {"TRUN_INSTALL__INDEX": "https://b"}) == {
        "TRUN_FETCH__ALLOW": "https://a, 10.0.0.0/8",
        "TRUN_FETCH__MAX_SIZE": "5",
        "TRUN_INSTALL__WHEELS": "/b",
        "TRUN_INSTALL__INDEX": "https://b",
    }


def test_sections_of_others_are_left_alone(here: Path, config: Path) -> None:
    (here / "trun.toml").write_text("[core]\nworkers = 3\n[Family]\nx = [1]\n")

    assert load(here, config, {}) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[fetch]\nalow = []", r"trun\.toml: \[fetch\] has no setting 'alow'\. Did you mean 'allow'"),
        ("fetch = 3", r"\[fetch\] is a section, not 3"),
        ("[fetch]\nallow = [1]", r"\[fetch\] allow is a text, a number or a list of texts, not \[1\]"),
        ("[bulk]\nport = true", r"\[bulk\] port is a text"),
        ("[fetch", r"trun\.toml cannot be read as settings"),
    ],
)
def test_a_slip_is_named_with_its_place(here: Path, config: Path, text: str, words: str) -> None:
    (config / "trun.toml").write_text(text)

    with pytest.raises(BadOption, match=words):
        load(here, config, {})


def test_a_variable_that_is_no_setting_is_named_with_the_nearest(here: Path, config: Path) -> None:
    with pytest.raises(BadOption, match=r"TRUN_FETCH__ALOW is no setting\. Did you mean 'TRUN_FETCH__ALLOW'"):
        load(here, config, {"TRUN_FETCH__ALOW": "*"})


def test_workers_have_what_the_daemon_found_and_nothing_older(tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "TRUN_FETCH__ALLOW": "*", "TRUN_INSTALL__WHEELS": "/old"}
    assert of_service(tmp_path, environment) == environment

    keep(tmp_path, {"TRUN_INSTALL__WHEELS": "/new"})

    assert of_service(tmp_path, environment) == {"PATH": "/bin", "TRUN_INSTALL__WHEELS": "/new"}
    assert (tmp_path / KEPT).stat().st_mode & 0o777 == 0o600


def test_the_port_for_large_data_may_be_fixed() -> None:
    assert port_of({}) == 0
    assert port_of({"TRUN_BULK__PORT": "8790"}) == 8790
    for wrong in ("x", "-1", "70000"):
        with pytest.raises(BadOption, match=r"\[bulk\] port"):
            port_of({"TRUN_BULK__PORT": wrong})
