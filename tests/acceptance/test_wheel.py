"""What is installed is what was meant: a wheel built from a clean copy, looked into and used."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

#: What a source tree needs for a wheel.
SOURCES = ("trun", "services", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel with the setuptools of this environment; nothing is fetched."""
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_nothing_generic(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "trun").rglob("*.py")}
    expected |= {f"trun/daemons/{path.relative_to(ROOT / 'services')}" for path in (ROOT / "services").rglob("*.py")}

    assert expected - names == set()
    assert "trun/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]} == {"trun"}


def test_the_daemons_can_be_imported_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import trun, trun.daemons; print(trun.__file__); print(trun.daemons.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert outcome.stdout.split() == [
        str(tmp_path / "site/trun/__init__.py"),
        str(tmp_path / "site/trun/daemons/__init__.py"),
    ]


def test_the_version_of_the_metadata_is_that_of_the_package() -> None:
    from trun.version import __version__

    assert importlib.metadata.version("trun") == __version__
