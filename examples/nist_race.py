"""Let several methods race for each of NIST's nonlinear regression problems, and keep the first that gets it right.

27 problems of the Statistical Reference Datasets (they come with refnx, `pip install "trun[examples]"`), each from
NIST's far and near start, each by five methods at once: 270 fits, 54 races. A fit tells of every improvement; as soon
as one agrees with NIST's certified values to six digits the other four of its race are stopped. None of the five wins
everywhere: `lm` is stuck on BoxBOD, `dogbox` on MGH10, `BFGS` on ENSO, and Nelder-Mead takes its time.

Run `python nist_race.py [PROBLEM ...]`. The functions above the races are plain science and know nothing of trun.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares, minimize

import trun

FOLDER = Path(str(resources.files("refnx"))) / "analysis" / "tests" / "NIST_STRD"
METHODS = ("lm", "trf", "dogbox", "BFGS", "Nelder-Mead")  #: the last one takes seconds where the others take none
GOOD = 6  #: digits
Vector = Any  #: an array of numbers, real or complex

# ---------------------------------------------------------------------------------------------------- the science


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One file of the reference datasets."""

    name: str
    difficulty: str  #: Lower, Average or Higher
    formula: str  #: the model as NIST writes it, in b1, b2, ... and x (or x1, x2)
    x: dict[str, Vector]  #: predictors by their name in the formula
    y: Vector  #: what the formula describes (the logarithm of the response for Nelson)
    starts: Vector  #: row 0 is the far start, row 1 the near one
    certified: Vector
    rss: float  #: certified residual sum of squares

    def residuals(self, b: Vector) -> Vector:
        """Model minus data at the parameters b, real or complex."""
        names = {"exp": np.exp, "cos": np.cos, "sin": np.sin, "arctan": np.arctan, "pi": np.pi, **self.x}
        names.update({f"b{n}": value for n, value in enumerate(b, start=1)})
        model: Vector = eval(self.formula, {"__builtins__": {}}, names)
        return model - self.y

    def jacobian(self, b: Vector) -> Vector:
        """Exact derivatives of the residuals, by a complex step (Squire and Trapp 1998)."""
        step = 1e-30
        columns = [self.residuals(b + 1j * step * unit).imag / step for unit in np.eye(len(b))]
        return np.stack(columns, axis=1)

    def digits(self, b: Vector) -> float:
        """Digits that all parameters share with the certified ones, 0 to 11 (NIST gives eleven)."""
        apart = np.max(np.abs(b - self.certified) / np.abs(self.certified))
        return float(np.clip(-np.log10(max(apart, 1e-300)), 0, 11)) if np.isfinite(apart) else 0.0


def read(name: str) -> Problem:
    """Read one of NIST's files, its model included."""
    text = (FOLDER / f"{name}.dat").read_text()
    heading = re.search(r"^Data: +(y +x.*)$", text, re.M)
    model = re.search(r"^ *(y|log\[y\]) *=(.*?)\+ *e *$", text, re.M | re.S)
    if heading is None or model is None:
        raise ValueError(f"{name}.dat is not a file of NIST's nonlinear regression datasets")
    columns = np.array([line.split() for line in text[heading.end() :].splitlines() if line.strip()], dtype=float).T
    rows = np.array([row.split() for row in re.findall(r"^ *b\d+ =(.*)$", text, re.M)], dtype=float)
    return Problem(
        name=name,
        difficulty=re.findall(r"(Lower|Average|Higher) Level", text)[0],
        formula="".join(model[2].replace("[", "(").replace("]", ")").split()),
        x=dict(zip(heading[1].split()[1:], columns[1:], strict=True)),
        y=np.log(columns[0]) if "log" in model[1] else columns[0],
        starts=rows[:, :2].T,
        certified=rows[:, 2],
        rss=float(re.findall(r"Residual Sum of Squares: +(\S+)", text)[0]),
    )


def solve(problem: Problem, start: Vector, method: str, tell: Callable[[Vector], None]) -> Vector:
    """Minimise the sum of squares from a start; `tell` hears of every point at which the residuals were asked for."""

    def residuals(b: Vector) -> Vector:
        tell(b)
        return problem.residuals(b)

    def sum_of_squares(scaled: Vector) -> float:
        return float(np.nan_to_num(np.sum(residuals(scaled * size) ** 2), nan=1e300, posinf=1e300))

    def gradient(scaled: Vector) -> Vector:
        return 2 * size * (problem.jacobian(scaled * size).T @ problem.residuals(scaled * size))

    size = np.abs(start)
    if method == "BFGS":
        return size * minimize(sum_of_squares, start / size, jac=gradient, method=method, options={"gtol": 1e-14}).x
    if method == "Nelder-Mead":
        tight = {"xatol": 1e-12, "fatol": 1e-25, "maxfev": 20_000, "adaptive": True}
        return size * minimize(sum_of_squares, start / size, method=method, options=tight).x
    exact = {"jac": problem.jacobian, "x_scale": "jac", "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 3000}
    return least_squares(residuals, start, method=method, **exact).x


# ------------------------------------------------------------------------------- the job: science with a word to trun


def fit(dataset: str, start: int, method: str) -> dict[str, Any]:
    """Fit one problem from start 1 (far) or 2 (near), telling of each further digit that agrees."""
    problem, job, best = read(dataset), trun.current_job(), 0.0

    def tell(b: Vector) -> None:
        nonlocal best
        digits = problem.digits(b)
        if digits >= best + 1:
            best = digits
            job.improved(digits=digits)

    with np.errstate(all="ignore"):  # a far start leads through overflows; the methods cope with them
        b = solve(problem, problem.starts[start - 1], method, tell)
    return {"method": method, "digits": problem.digits(b), "rss": float(np.sum(problem.residuals(b) ** 2))}


# ------------------------------------------------------------------------------------------------------- the races

problems = sorted(file.stem for file in FOLDER.iterdir() if file.suffix == ".dat")
names = sys.argv[1:] or problems
if not set(names) <= set(problems):
    sys.exit(
        f"nist_race: there is no problem {', '.join(sorted(set(names) - set(problems)))} among {', '.join(problems)}"
    )

races = {}
with trun.local():
    for name in names:
        for start in (1, 2):
            turn = len(races) % 4  # the four quick ones take turns at the front, since two cores run two at a time
            methods = (*METHODS[turn:4], *METHODS[:turn], *METHODS[4:])
            fits = [trun.submit(fit, name, start, method, name=f"{name}-{method}") for method in methods]
            races[name, start] = trun.first(*fits, until=f"digits >= {GOOD}")

print(f"{'problem':10}{'level':9}{'start':>5}{'digits':>8}   {'residual sum of squares':25}won by")
for (name, start), race in races.items():
    result, level = race.result(), read(name).difficulty
    print(f"{name:10}{level:9}{start:5}{result['digits']:8.1f}   {result['rss']:<25.10e}{result['method']}")
wins = Counter(race.result()["method"] for race in races.values()).most_common()
print(f"{len(races)} races of {len(METHODS)} methods:", ", ".join(f"{method} won {n}" for method, n in wins))
