"""The rules of the house that no linter can say.

The storeys themselves are checked by import-linter (setup.cfg); here stands what it does not see: which room may use
which library, the folder mapping ``trun.daemons = services``, sizes, the public face, and what ``import trun`` costs.

Rule: an exception needs an entry with a reason in one of the tables below, and an entry that is no longer needed
fails too.
"""

from __future__ import annotations

import ast
import configparser
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: {library: what it is for}: each occurs in exactly one module, and that module is an adapter.
ONE_ROOM = {
    "cloudpickle": "functions and values as bytes",
    "zmq": "messages between processes",
    "sqlite3": "the durable journal",
}

#: What ``import trun`` must not load: a script that only submits should not pay for it.
NOT_AT_IMPORT = ("tornado", "psutil", "asyncio", "IPython", "numpy")

FILE_LIMIT = 500
FUNCTION_LIMIT = 60

#: {path: why this file is longer than FILE_LIMIT lines}
LONG_FILES: dict[str, str] = {
    "trun/messages.py": "the whole vocabulary of the wire stands on one page",
}

#: {"path:function": why this function is longer than FUNCTION_LIMIT lines, its docstring not counted}
LONG_FUNCTIONS: dict[str, str] = {}


@functools.cache
def sources() -> dict[str, str]:
    """Return {path relative to the root: text} of all code that is shipped."""
    files = sorted(path for room in ("trun", "services") for path in (ROOT / room).rglob("*.py"))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return {path: syntax tree}."""
    return {path: ast.parse(text, path) for path, text in sources().items()}


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give (line, full name) of every import, also those inside functions; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def modules_that_import(library: str) -> list[str]:
    """Return the paths of modules that import a library or something in it."""
    return [
        path
        for path, tree in trees().items()
        if any(name == library or name.startswith(f"{library}.") for _, name in imports(tree))
    ]


@pytest.mark.parametrize("library", ONE_ROOM)
def test_a_library_with_windows_lives_in_one_adapter(library: str) -> None:
    found = modules_that_import(library)

    assert len(found) <= 1, f"{library} ({ONE_ROOM[library]}) belongs in one module, found in {found}"
    assert all(path.startswith("trun/adapters/") for path in found), f"{library} outside the adapters: {found}"


def test_nobody_imports_the_daemons() -> None:
    found = [
        f"{path}:{line}"
        for path, tree in trees().items()
        for line, name in imports(tree)
        if name.startswith(("trun.daemons", "services.")) or name == "services"
    ]

    assert found == [], "a daemon is started as a process (python -m trun.daemons.NAME), never imported"


def test_the_package_never_imports_through_its_own_front_door() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and node.module == "trun")
        or (isinstance(node, ast.Import) and any(alias.name == "trun" for alias in node.names))
    ]

    assert found == [], "import the submodule instead: import trun.errors as errors; from trun.errors import TrunError"


def test_files_are_short_enough_to_hold_one_idea() -> None:
    long = {path: len(text.splitlines()) for path, text in sources().items() if len(text.splitlines()) > FILE_LIMIT}

    assert set(long) == set(LONG_FILES), f"files over {FILE_LIMIT} lines: {long}; with a reason: {sorted(LONG_FILES)}"


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first = function.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_functions_are_short_enough_to_read_at_once() -> None:
    long = {
        f"{path}:{node.name}": length_of(node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length_of(node) > FUNCTION_LIMIT
    }

    assert set(long) == set(LONG_FUNCTIONS), f"functions over {FUNCTION_LIMIT} lines: {long}"


def public_names() -> list[str]:
    """Return ``trun.__all__``."""
    return list(importlib.import_module("trun").__all__)


def documented_names() -> list[str]:
    """Return the names that docs/reference.md lists: ``* `name...`: sentence`` under the heading "Names of trun"."""
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    section = re.search(r"^## Names of trun\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None, 'docs/reference.md has no heading "## Names of trun"'
    lines = re.findall(r"^\* ((?:`[^`]+`(?:, )?)+)", section[1], re.MULTILINE)
    return [name for line in lines for name in re.findall(r"`@?(\w+)[^`]*`", line)]


def test_every_public_name_is_documented_and_the_other_way_round() -> None:
    exported, documented = set(public_names()), set(documented_names())

    assert sorted(exported - documented) == [], "in trun.__all__, but not in docs/reference.md"
    assert sorted(documented - exported) == [], "in docs/reference.md, but not in trun.__all__"


def test_every_public_name_exists_and_is_listed_once() -> None:
    trun = importlib.import_module("trun")

    assert len(public_names()) == len(set(public_names()))
    assert len(documented_names()) == len(set(documented_names()))
    assert [name for name in public_names() if not hasattr(trun, name)] == []


def is_module(name: str, package: str = "trun") -> bool:
    """Whether a package has a module or package of this name."""
    folder = ROOT / Path(*package.split("."))
    return (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


def packages() -> list[str]:
    """Return the dotted names of the packages below trun."""
    return [".".join(path.parent.relative_to(ROOT).parts) for path in sorted((ROOT / "trun").rglob("__init__.py"))]


@pytest.mark.parametrize("package", packages())
def test_no_public_callable_shares_its_name_with_a_module(package: str) -> None:
    names = getattr(importlib.import_module(package), "__all__", [])

    assert [name for name in names if is_module(name, package)] == []


def test_importing_trun_stays_cheap() -> None:
    code = f"import sys, trun; print([name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert loaded == "[]"


def test_every_package_of_the_tree_is_shipped() -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    shipped = settings["options"]["packages"].split()

    assert sorted(shipped) == sorted([*packages(), "trun.daemons"])


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path, tree in trees().items() if not ast.get_docstring(tree)]

    assert silent == []
