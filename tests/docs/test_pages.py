"""The documentation is true: every snippet runs, every link leads somewhere, the README's commands are the ones we run.

A page runs as a script in a process of its own, from an empty folder, as a reader would run it. Services that it names
run as daemons of that name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import snippets
from tests.sites import Site

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [str(path.relative_to(ROOT)) for path in snippets.pages(ROOT)]


def run_as_script(text: str, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python source as a script of this name in a folder."""
    script = folder / name
    script.write_text(text, encoding="utf-8")
    work = folder / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(snippets.__file__).parent)}
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=work, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PAGES if snippets.script((ROOT / name).read_text(encoding="utf-8"))])
def test_every_snippet_of_a_page_runs(name: str, tmp_path: Path) -> None:
    text = snippets.script((ROOT / name).read_text(encoding="utf-8"))

    named = re.findall(r'remote_service\("(\w+)"\)', text)
    sites = [Site(service) for service in dict.fromkeys(named)]
    try:
        outcome = run_as_script(text, Path(name).stem + ".py", tmp_path)
    finally:
        for site in sites:
            site.stop("--kill")

    assert outcome.returncode == 0, f"{name} (lines are those of the page)\n{outcome.stdout}{outcome.stderr}"


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))

    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_block_runs_past_the_end_of_its_page(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0


def test_the_readme_has_two_commands_and_ci_calls_the_second() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [block.lines for block in snippets.blocks(readme) if block.language == "sh"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert [len(lines) for lines in commands] == [1, 1]
    assert commands[0][0].endswith("examples/reflectometry.py")
    assert ci[-1] == commands[1][0]


def test_the_hello_of_the_readme_is_the_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hello = next("\n".join(block.lines) for block in snippets.blocks(readme) if block.language == "python")

    assert hello in (ROOT / "examples" / "first.py").read_text(encoding="utf-8")


def test_a_session_that_shows_other_output_is_noticed() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}

    snippets.run_session(">>> one = 1\n>>> one + 1\n2\n", names, 1)

    assert names["one"] == 1
    with pytest.raises(AssertionError, match="line 11"):
        snippets.run_session(">>> 1\n1\n>>> one\n2\n", names, 9)


def test_lines_of_a_script_have_the_numbers_of_the_page() -> None:
    text = "# T\n\n```python\nx = 1\n```\n\n<!-- not run: no cluster -->\n```python\n1 / 0\n```\n\n```python\ny\n```\n"

    lines = snippets.script(text).splitlines()

    assert [(number, line) for number, line in enumerate(lines, 1) if line] == [(4, "x = 1"), (13, "y")]
