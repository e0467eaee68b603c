"""Examples in docstrings are true: every ``>>>`` of every module is run and compared."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def modules() -> list[str]:
    """Return the dotted names of all modules of trun that show a prompt."""
    found = []
    for path in sorted((ROOT / "trun").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if ">>>" in path.read_text(encoding="utf-8"):
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


@pytest.mark.parametrize("name", modules())
def test_every_example_in_a_docstring_is_true(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)

    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert outcome.failed == 0, capsys.readouterr().out
