"""All checks in order, a heading per group, and one line of totals at the end.

Runs ruff, mypy and the import contracts, then the tests, storey by storey: what is cheap and pure comes first, so that
a fault shows at its lowest place. Names of groups as arguments select groups: ``tests/run.py unit docs``.
In groups with real processes a busy machine can fail a test: up to three that failed are tried once more, alone, and
those that pass then are named at the end. What fails twice has failed; what is pure is never tried twice.
It decides nothing about how tests run; that stands in setup.cfg and tests/conftest.py.

Rule: the standard library only, and the last line stays exactly ``N passed, N failed``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: A group that takes longer than this hangs; each single test has its own limit in setup.cfg.
GROUP_LIMIT_S = 40 * 60

#: More failing tests than this are no accident of a busy machine.
MOST_TRIED_AGAIN = 3

#: What pytest returns when it found nothing to run.
NO_TESTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A command that passes or fails as a whole."""

    name: str
    #: Arguments after the interpreter.
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """A folder or file of tests, counted one by one."""

    name: str
    #: Relative to the root.
    path: str
    #: Real processes and servers, which a busy machine can starve.
    real: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What came of one group."""

    passed: int = 0
    failed: int = 0
    #: Tests that passed only when they were tried again, alone.
    doubtful: tuple[str, ...] = ()


GROUPS: tuple[Check | Tests, ...] = (
    Check(name="ruff", command=("-m", "ruff", "check", "--no-cache", ".")),
    Check(name="mypy", command=("-m", "mypy", "--strict", "trun", "services")),
    Check(name="imports", command=("-c", "import importlinter.cli as c; c.lint_imports_command()", "--no-logo")),
    Tests(name="architecture", path="tests/test_architecture.py"),
    Tests(name="unit", path="tests/unit"),
    Tests(name="machine", path="tests/machine"),
    Tests(name="contract", path="tests/contract"),
    Tests(name="integration", path="tests/integration", real=True),
    Tests(name="acceptance", path="tests/acceptance", real=True),
    Tests(name="examples", path="tests/examples", real=True),
    Tests(name="docs", path="tests/docs", real=True),
)


def call(arguments: tuple[str, ...]) -> int:
    """Run the interpreter with these arguments in the root folder and return its exit code; a hanging one is killed."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, start_new_session=True)
    try:
        return process.wait(GROUP_LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"killed after {GROUP_LIMIT_S} s", flush=True)
        return -signal.SIGKILL
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_check(check: Check) -> Count:
    """Run one command."""
    return Count(passed=1) if call(check.command) == 0 else Count(failed=1)


def run_tests(tests: Tests) -> Count:
    """Run one group of tests and count from the report that pytest writes."""
    path = ROOT / tests.path
    if not path.exists() or (path.is_dir() and not any(path.rglob("test_*.py"))):
        print(f"skipped: {tests.path} holds no tests yet", flush=True)
        return Count()
    with tempfile.TemporaryDirectory(prefix="trun-report-") as folder:
        code, count, failing = attempt(tests, Path(folder))
        if tests.real and 0 < count.failed == len(failing) <= MOST_TRIED_AGAIN:
            print(f"tried again, alone: {', '.join(failing)}", flush=True)
            code, again, still = attempt(tests, Path(folder), "--last-failed")
            doubtful = tuple(name for name in failing if name not in still) if again.passed else ()
            count = Count(passed=count.passed + again.passed, failed=again.failed, doubtful=doubtful)
    if code == NO_TESTS:
        print(f"skipped: pytest found no tests in {tests.path}", flush=True)
        return count
    if code != 0 and count.failed == 0:  # a crash or a fault in collection, which no single test stands for
        return Count(passed=count.passed, failed=1)
    return count


def attempt(tests: Tests, folder: Path, *options: str) -> tuple[int, Count, list[str]]:
    """Run pytest over one group; return its exit code, the count, and the names of the tests that failed."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    keep = ("-o", "junit_family=xunit2", f"--junitxml={report}", "-o", f"cache_dir={folder / 'cache'}")
    code = call(("-m", "pytest", "-q", tests.path, *keep, *options))
    return code, *read_report(report)


def read_report(report: Path) -> tuple[Count, list[str]]:
    """Return how many tests of a JUnit file passed, and which failed; a file that is missing counts nothing."""
    if not report.exists():
        return Count(), []
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}.{case.get('name')}" for case in bad]
    return Count(passed=max(len(cases) - len(bad) - skipped, 0), failed=len(bad)), names


def main() -> int:
    """Run the groups that were asked for and return the exit code: 0 if nothing failed."""
    parser = argparse.ArgumentParser(description="Run all checks, or the groups that are named.")
    names = [group.name for group in GROUPS]
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(names))
    wanted = parser.parse_args().groups or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"unknown group {unknown[0]!r}; groups are {', '.join(names)}")

    passed = failed = 0
    failing: list[str] = []
    doubtful: list[str] = []
    for group in GROUPS:
        if group.name not in wanted:
            continue
        print(f"\n== {group.name} ==", flush=True)
        begin = time.monotonic()
        count = run_check(group) if isinstance(group, Check) else run_tests(group)
        seconds = time.monotonic() - begin
        print(f"{group.name}: {count.passed} passed, {count.failed} failed, {seconds:.1f} s", flush=True)
        passed, failed = passed + count.passed, failed + count.failed
        doubtful.extend(count.doubtful)
        if count.failed:
            failing.append(group.name)
    if doubtful:
        print(f"\npassed only when tried again, alone: {', '.join(doubtful)}")
    if failing:
        print(f"\nfailing groups: {', '.join(failing)}")
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
