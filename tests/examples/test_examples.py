"""The examples, run as a user runs them, and the science inside them, called directly.

Each script runs once in a process of its own, in an empty working folder, with state, configuration and sockets in
temporary folders; the tests read what it printed. Numbers are compared with what refnx and NIST publish for the data.
The science stands in each script above the line that is named in `science`; it is loaded without running the workflow.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is left of a script that has ended."""

    exit_code: int
    output: str
    errors: str
    litter: list[str]  #: names in the working folder
    temporary: Path  #: the script's TMPDIR


def run(script: str, *arguments: str) -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="trun-") as root:  # short: names of sockets have at most 108 bytes
        folders = {name: Path(root) / name for name in ("work", "state", "config", "runtime", "tmp")}
        for folder in folders.values():
            folder.mkdir(mode=0o700)
        environment = {
            **os.environ,
            "TRUN_STATE_DIR": str(folders["state"]),
            "TRUN_CONFIG_DIR": str(folders["config"]),
            "TRUN_RUNTIME_DIR": str(folders["runtime"]),
            "TMPDIR": str(folders["tmp"]),
            "PYTHONUTF8": "1",
        }
        ended = subprocess.run(
            [sys.executable, str(EXAMPLES / script), *arguments],
            cwd=folders["work"],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=100,
            check=False,
        )
        yield Run(
            exit_code=ended.returncode,
            output=ended.stdout,
            errors=ended.stderr,
            litter=sorted(path.name for path in folders["work"].iterdir()),
            temporary=folders["tmp"],
        )


def science(script: str, *, above: str) -> types.ModuleType:
    """Load what stands above the rule that names the workflow."""
    pytest.importorskip("refnx")
    text, workflow = re.split(rf"^# -+ {above}$", (EXAMPLES / script).read_text(encoding="utf-8"), flags=re.M)
    assert "with trun.local()" in workflow or "with compufans" in workflow
    module = types.ModuleType(f"science_of_{Path(script).stem}")
    sys.modules[module.__name__] = module
    exec(compile(text, script, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def first() -> Iterator[Run]:
    yield from run("first.py")


@pytest.fixture(scope="module")
def reflectometry() -> Iterator[Run]:
    pytest.importorskip("refnx")
    yield from run("reflectometry.py")


@pytest.fixture(scope="module")
def two_sites() -> Iterator[Run]:
    pytest.importorskip("refnx")
    yield from run("two_sites.py")


@pytest.fixture(scope="module")
def nist_race() -> Iterator[Run]:
    pytest.importorskip("refnx")
    yield from run("nist_race.py")


# ------------------------------------------------------------------------------------------------------------ first


def test_first_prints_the_guess_that_is_nearest_to_the_measurement(first: Run) -> None:
    assert first.exit_code == 0, first.errors
    assert first.output.splitlines()[-1] == "best guess: 0.13436424411240122"


def test_first_prints_at_most_eight_lines_and_leaves_no_file(first: Run) -> None:
    assert len((first.output + first.errors).splitlines()) <= 8
    assert first.litter == []


# ---------------------------------------------------------------------------------------------------- reflectometry


def tables(output: str) -> dict[str, dict[str, float]]:
    """Read the printed tables: {title: {name: value, "chisq": value, "points": value}}."""
    found: dict[str, dict[str, float]] = {}
    title = ""
    for line in output.splitlines():
        if heading := re.fullmatch(r"(.*): (\d+) points, chi-squared ([\d.]+)", line):
            title = heading[1]
            found[title] = {"points": float(heading[2]), "chisq": float(heading[3])}
        elif row := re.fullmatch(r"  (\S.*?)  +(\S+) (?:± \S+|\(at its bound\))", line):
            found[title][row[1]] = float(row[2])
    return found


def test_reflectometry_finds_the_native_oxide_of_the_wafer(reflectometry: Run) -> None:
    assert reflectometry.exit_code == 0, reflectometry.errors
    wafer = tables(reflectometry.output)["wafer"]

    # refnx's own fit of the same wafer, with a third angle, stored beside its data: 11.37 and 4.01 Å
    assert wafer["oxide thickness [Å]"] == pytest.approx(11.37, abs=1.0)
    assert wafer["oxide roughness [Å]"] == pytest.approx(4.01, abs=1.2)
    assert wafer["scale"] == pytest.approx(1.0, abs=0.03)
    assert wafer["points"] == 1426
    assert wafer["chisq"] < 1.1


def test_reflectometry_refines_three_contrasts_to_one_film(reflectometry: Run) -> None:
    together = tables(reflectometry.output)["film under three waters"]

    # refnx's tests of co-refinement begin at a film of 212 Å, an oxide of 10 Å
    assert together["film thickness [Å]"] == pytest.approx(213, abs=2)
    assert together["film SLD [1e-6/Å²]"] == pytest.approx(0.35, abs=0.06)
    assert together["oxide thickness [Å]"] == pytest.approx(13, abs=2)
    assert together["D2O SLD [1e-6/Å²]"] == pytest.approx(6.38, abs=0.04)
    assert together["points"] == 297
    assert together["chisq"] < 4


def test_reflectometry_tries_each_contrast_alone(reflectometry: Run) -> None:
    alone = {title: table for title, table in tables(reflectometry.output).items() if title.endswith("alone")}

    assert list(alone) == ["film under D2O alone", "film under mix alone", "film under H2O alone"]
    assert sum(table["chisq"] < 3 for table in alone.values()) >= 2
    assert alone["film under D2O alone"]["film thickness [Å]"] == pytest.approx(212, abs=1.5)


def test_reflectometry_saves_a_plot_outside_the_working_folder(reflectometry: Run) -> None:
    pytest.importorskip("matplotlib")
    (plot,) = re.findall(r"^plot: (.*)$", reflectometry.output, re.M)

    assert Path(plot).is_relative_to(reflectometry.temporary)
    assert Path(plot).read_bytes().startswith(b"\x89PNG")
    assert reflectometry.litter == []


def test_splicing_two_angles_gives_the_factor_that_refnx_publishes() -> None:
    module = science("reflectometry.py", above="the workflow")
    folder = module.MEASURED / "util" / "tests"

    data, factor, uncertainty = module.splice(folder / "PLP0000708.dat", folder / "PLP0000709.dat")

    assert (factor, uncertainty) == pytest.approx((0.1697804743373886, 0.0018856527316943896))
    assert data.shape == (3, 1426)
    assert (data[0, 1:] >= data[0, :-1]).all()


def test_angles_without_overlap_are_refused_by_name() -> None:
    module = science("reflectometry.py", above="the workflow")
    folder = module.MEASURED / "util" / "tests"

    with pytest.raises(ValueError, match=r"PLP0000709.dat and PLP0000708.dat do not overlap"):
        module.splice(*low_above_high(folder, module))


def low_above_high(folder: Path, module: Any) -> tuple[Path, Path]:
    """Two files of which the second begins where the first has ended."""
    temporary = Path(tempfile.mkdtemp())
    low, high = temporary / "PLP0000709.dat", temporary / "PLP0000708.dat"
    lines = (folder / "PLP0000708.dat").read_text().splitlines(keepends=True)
    low.write_text("".join(lines[:100]))
    high.write_text("".join(lines[:1] + lines[200:]))
    return low, high


def test_the_pre_fit_simulation_names_a_start_near_the_fit(tmp_path: Path) -> None:
    module = science("reflectometry.py", above="the workflow")
    folder = module.MEASURED / "util" / "tests"
    data, _, _ = module.splice(folder / "PLP0000708.dat", folder / "PLP0000709.dat")
    module.np.savetxt(tmp_path / "wafer.refl", data.T)
    pairs = [pair for thickness in (4, 12, 20) for pair in module.simulated(thickness)]
    library = {"models": module.np.array([p[0] for p in pairs]), "curves": module.np.array([p[1] for p in pairs])}

    start = module.nearest_model(library, module.ReflectDataset(tmp_path / "wafer.refl"))

    assert start["thickness"] == 12
    assert start["resolution"] in (6.0, 7.0)


# -------------------------------------------------------------------------------------------------------- two sites


def test_two_sites_fit_the_wafer_after_the_script_has_ended(two_sites: Run) -> None:
    assert two_sites.exit_code == 0, two_sites.errors
    (wafer,) = tables(two_sites.output).values()
    assert 10.5 < wafer["oxide thickness [Å]"] < 12.5
    assert wafer["chisq"] < 1.2


def test_two_sites_submits_collects_and_stops_and_leaves_no_file(two_sites: Run) -> None:
    assert "this script ends" in two_sites.output
    assert two_sites.output.rstrip().endswith("compufans stopped")
    assert two_sites.litter == []


# -------------------------------------------------------------------------------------------------------- nist_race


def test_every_race_agrees_with_nist_to_six_digits(nist_race: Run) -> None:
    assert nist_race.exit_code == 0, nist_race.errors
    rows = re.findall(r"^(\w+) +(?:Lower|Average|Higher) +([12]) +([\d.]+) +(\S+) +\S+$", nist_race.output, re.M)

    assert len({name for name, *_ in rows}) == 27
    assert len({(name, start) for name, start, *_ in rows}) == len(rows) == 54
    assert all(float(digits) >= 6.0 for _, _, digits, _ in rows)


def test_the_sums_of_squares_are_those_that_nist_certifies(nist_race: Run) -> None:
    module = science("nist_race.py", above="the races")
    rows = re.findall(r"^(\w+) +(?:Lower|Average|Higher) +[12] +[\d.]+ +(\S+) +\S+$", nist_race.output, re.M)

    for name, rss in rows:
        if name != "Lanczos1":  # its residuals are those of rounding
            assert float(rss) == pytest.approx(module.read(name).rss, rel=1e-6), name


def test_no_method_wins_every_race(nist_race: Run) -> None:
    summary = nist_race.output.splitlines()[-1]

    assert re.match(r"54 races of 5 methods: .* won \d+, ", summary)
    assert nist_race.litter == []


def test_an_unknown_problem_is_named_with_what_there_is() -> None:
    pytest.importorskip("refnx")
    (refused,) = run("nist_race.py", "Misra9z")

    assert refused.exit_code == 1
    assert re.match("nist_race: there is no problem Misra9z among Bennett5, ", refused.errors)


def test_models_are_read_from_the_files_of_nist() -> None:
    module = science("nist_race.py", above="the races")

    for file in sorted(module.FOLDER.glob("*.dat")):
        problem = module.read(file.stem)
        if file.stem != "Lanczos1":
            rss = float((problem.residuals(problem.certified) ** 2).sum())
            assert rss == pytest.approx(problem.rss, rel=1e-8), file.stem


@pytest.mark.parametrize(("name", "method", "solved"), [("BoxBOD", "lm", False), ("BoxBOD", "dogbox", True)])
def test_no_method_solves_all(name: str, method: str, solved: bool) -> None:
    module = science("nist_race.py", above="the races")
    problem = module.read(name)

    with module.np.errstate(all="ignore"):
        found = module.solve(problem, problem.starts[0], method, lambda b: None)

    assert (problem.digits(found) >= 6) is solved
