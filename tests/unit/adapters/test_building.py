"""Whether a project is built with what is here, or with what has to be fetched first."""

from __future__ import annotations

from pathlib import Path

import pytest

from trun.adapters import building, versions


@pytest.mark.parametrize(
    ("here", "is_enough"),
    [
        ({}, False),
        ({"setuptools": "65.5.0"}, False),
        ({"setuptools": "65.5.0", "wheel": "0.41"}, True),
        ({"setuptools": "70.0.0"}, False),
        ({"setuptools": "70.1"}, True),
        ({"setuptools": "82.0.1"}, True),
    ],
)
@pytest.mark.parametrize("text", ["", '[build-system]\nrequires = ["setuptools>=61"]\n'])
def test_an_old_setuptools_makes_no_wheels_by_itself(
    text: str, here: dict[str, str], is_enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(versions, "installed", lambda name: here.get(name, ""))
    assert building._has_backend(tmp_path) == is_enough
