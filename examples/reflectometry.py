"""Fit measured neutron reflectivity with a workflow of jobs, each run when what it needs is there.

On service `sns` a run measured at two angles is reduced to one curve. On service `compufans` that curve is fetched,
models are simulated, and the fit begins when both are done. Beside it three contrasts of one polymer film are tried one
by one; as soon as two of the three fit well, all three are refined together.

The data are real and come with refnx (`pip install "trun[examples]"`): a silicon wafer in air (PLP0000708, PLP0000709)
and a polymer film on silicon under three waters (e361r, e365r, e366r). Run `python reflectometry.py [FOLDER]`; the plot
goes into FOLDER, or into a new temporary folder. The functions above the workflow are plain science.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from importlib import resources, util
from pathlib import Path
from typing import Any

import numpy as np
from refnx.analysis import GlobalObjective, Objective
from refnx.dataset import ReflectDataset
from refnx.reflect import SLD, ReflectModel
from refnx.util.nsplice import get_scaling_in_overlap
from scipy.optimize import least_squares

import trun

MEASURED = Path(str(resources.files("refnx")))  #: the installed package carries the measured files
WATERS = {  #: file: name, scattering length density in 1e-6/Å² as prepared, lowest and highest that is believed
    "e361r": ("D2O", 6.36, 6.20, 6.40),
    "e365r": ("mix", 3.47, 3.20, 3.70),
    "e366r": ("H2O", -0.56, -0.56, 0.00),
}
Vector = Any  #: an array of numbers
SIMULATED_Q = np.geomspace(0.005, 0.2, 200)  #: 1/Å

# ---------------------------------------------------------------------------------------------------- the science


def splice(low: Path, high: Path) -> tuple[Vector, float, float]:
    """Join two angles of one run: the columns Q, R, dR sorted by Q, and the factor for `high` with its uncertainty."""
    first, second = (np.loadtxt(path, skiprows=1, usecols=(0, 1, 2), unpack=True) for path in (low, high))
    factor, uncertainty, _ = get_scaling_in_overlap(*first, *second)
    if not math.isfinite(factor):
        raise ValueError(f"{low.name} and {high.name} do not overlap in Q, so they cannot be spliced")
    second[1:] *= factor
    joined = np.concatenate([first, second], axis=1)
    return joined[:, np.argsort(joined[0])], float(factor), float(uncertainty)


def wafer(*, resolution: float, thickness: float, roughness: float, scale: float = 1.0) -> ReflectModel:
    """A silicon wafer with its native oxide, in air. Resolution is the FWHM of dQ/Q in percent; lengths are in Å.

    Both faces of the oxide share one roughness, and the background is held at zero: the curve ends at Q = 0.17/Å, where
    the fit cannot tell a background from a smoother surface.
    """
    oxide = SLD(3.47)(thickness, roughness)
    surface = SLD(0)(0, 0) | oxide | SLD(2.07)(0, roughness)
    surface[2].rough = oxide.rough
    model = ReflectModel(surface, bkg=0.0, dq=resolution, scale=scale)
    free(model.scale, "scale", 0.9, 1.1)
    free(model.dq, "resolution [%]", 3, 12)
    free(oxide.thick, "oxide thickness [Å]", 0, 60)
    free(oxide.rough, "oxide roughness [Å]", 0, 10)
    return model


def film(files: Sequence[str], *, thickness: float = 200.0, sld: float = 1.0) -> GlobalObjective:
    """A polymer film on oxidised silicon under one or several waters, everything shared but water and background.

    The files give no resolution; 5 % (FWHM of dQ/Q) is the instrument's usual setting.
    """
    polymer = SLD(sld)
    oxide, layer = SLD(3.47)(12, 3), polymer(thickness, 3)
    last: Any = None
    objectives = []
    for file in files:
        name, nominal, lowest, highest = WATERS[file]
        water = SLD(nominal)
        outside = water(0, 4)
        if last is not None:
            outside.rough = last.rough
        last = outside
        model = ReflectModel(SLD(2.07)(0, 0) | oxide | layer | outside, bkg=2e-5, dq=5.0)
        free(model.bkg, f"{name} background", 1e-6, 5e-5)
        free(water.real, f"{name} SLD [1e-6/Å²]", lowest, highest)
        objectives.append(Objective(model, ReflectDataset(MEASURED / "analysis" / "tests" / f"{file}.txt"), name=name))
    free(oxide.thick, "oxide thickness [Å]", 0, 30)
    free(layer.thick, "film thickness [Å]", 100, 300)
    free(polymer.real, "film SLD [1e-6/Å²]", -0.5, 2)
    free(last.rough, "film/water roughness [Å]", 0, 40)
    if len(files) > 1:  # one contrast alone tells neither the inner face nor water in the film from another polymer
        layer.vfsolv.value = 0.02
        free(layer.rough, "film/oxide roughness [Å]", 0, 20)
        free(layer.vfsolv, "water in the film", 0, 0.5)
    return GlobalObjective(objectives)


def free(parameter: Any, name: str, lowest: float, highest: float) -> None:
    """Let the fit vary a parameter between two bounds."""
    parameter.name = name
    parameter.setp(vary=True, bounds=(lowest, highest))


def fitted(objective: Any, *, relative_step: float = 1e-3) -> dict[str, Any]:
    """Fit by bounded least squares and report chisq (reduced), parameters {name: (value, uncertainty)} and curves.

    Uncertainties are one standard deviation, widened by sqrt(chisq) where chisq > 1, and nan at a bound. A coarse step
    for the derivatives is meant for fits of the resolution: refnx smears on a grid that changes with it.
    """
    varied = objective.varying_parameters()
    start = np.array([float(p.value) for p in varied])
    bounds = np.array([(p.bounds.lb, p.bounds.ub) for p in varied]).T
    size = np.maximum(abs(start), 1e-5)
    found = least_squares(objective.residuals, start, bounds=bounds, x_scale=size, diff_step=relative_step, max_nfev=80)
    objective.setp(found.x)
    chisq = 2 * found.cost / (len(found.fun) - len(start))
    inside = np.minimum(found.x - bounds[0], bounds[1] - found.x) > 1e-3 * (bounds[1] - bounds[0])
    covariance = np.linalg.pinv(found.jac[:, inside].T @ found.jac[:, inside]) * max(chisq, 1.0)
    uncertainty = np.full(len(start), math.nan)
    uncertainty[inside] = np.sqrt(np.diag(covariance))
    curves = {}
    for part in getattr(objective, "objectives", [objective]):
        data = part.data
        curves[part.name] = {"Q": data.x, "R": data.y, "dR": data.y_err, "fit": part.model(data.x)}
        curves[part.name]["depth"], curves[part.name]["SLD"] = part.model.structure.sld_profile()
    return {
        "chisq": float(chisq),
        "points": len(found.fun),
        "parameters": {p.name: (float(v), float(u)) for p, v, u in zip(varied, found.x, uncertainty, strict=True)},
        "curves": curves,
    }


def simulated(thickness: float) -> Iterator[tuple[tuple[float, float, float], Vector]]:
    """Simulate wafers with an oxide of this thickness (Å), at 5 roughnesses and 4 resolutions each."""
    for roughness in (1.0, 3.0, 5.0, 7.0, 9.0):
        for resolution in (4.0, 5.0, 6.0, 7.0):
            model = wafer(resolution=resolution, thickness=thickness, roughness=roughness)
            yield (thickness, roughness, resolution), model(SIMULATED_Q)


def nearest_model(library: dict[str, Vector], data: ReflectDataset) -> dict[str, float]:
    """Name the simulated model that is nearest to the data, each with its best scale: where a fit should begin."""
    best, start = math.inf, {}
    for (thickness, roughness, resolution), curve in zip(library["models"], library["curves"], strict=True):
        expected = np.exp(np.interp(np.log(data.x), np.log(SIMULATED_Q), np.log(curve))) / data.y_err
        measured = data.y / data.y_err
        scale = float(expected @ measured / (expected @ expected))
        chisq = float(np.sum((measured - scale * expected) ** 2)) / len(measured)
        if chisq < best:
            best = chisq
            start = {"resolution": resolution, "thickness": thickness, "roughness": roughness, "scale": scale}
    return {name: float(value) for name, value in start.items()}


# ------------------------------------------------------------------------------- the jobs: science with a word to trun


def reduce_run(low: str, high: str) -> trun.File:
    """Splice two angles and publish the reduced file, so that other services can fetch it."""
    folder = MEASURED / "util" / "tests"
    data, factor, uncertainty = splice(folder / low, folder / high)
    reduced = Path(trun.current_job().scratch) / "wafer.refl"
    np.savetxt(reduced, data.T, header=f"{low} and {high} times {factor:.4f} ± {uncertainty:.4f}\nQ [1/Å], R, dR")
    return trun.publish_file(reduced)


def prefit_simulation(thickest: int) -> dict[str, Vector]:
    """Simulate what oxides up to this thickness (Å) would look like: the models among which a fit may begin."""
    found = [pair for thickness in trun.progress(range(4, thickest + 1, 4)) for pair in simulated(thickness)]
    return {"models": np.array([model for model, _ in found]), "curves": np.array([curve for _, curve in found])}


def define_fit(model: dict[str, Vector], data: str) -> dict[str, Any]:
    """Combine simulated models and measured data to the definition of a fit."""
    return {"data": data, "start": nearest_model(model, ReflectDataset(data))}


def refine(assembly: dict[str, Any]) -> dict[str, Any]:
    """Refine what `define_fit` defined."""
    objective = Objective(wafer(**assembly["start"]), ReflectDataset(assembly["data"]), name="wafer")
    report = fitted(objective, relative_step=0.02)
    trun.current_job().improved(chisq=report["chisq"])
    return report


def fit_film(files: Sequence[str], thicknesses: Sequence[float], slds: Sequence[float]) -> dict[str, Any]:
    """Fit a film under these waters from each start, telling of every improvement; the best fit counts."""
    best: dict[str, Any] = {"chisq": math.inf}
    for thickness, sld in trun.progress([(t, s) for t in thicknesses for s in slds]):
        report = fitted(film(files, thickness=thickness, sld=sld))
        if report["chisq"] < best["chisq"]:
            best = report
            trun.current_job().improved(chisq=report["chisq"], thickness=report["parameters"]["film thickness [Å]"][0])
    return best


# ------------------------------------------------------------------------------------------------- what is printed


def table(title: str, report: dict[str, Any]) -> str:
    """One fit as a table."""
    lines = [f"{title}: {report['points']} points, chi-squared {report['chisq']:.2f}"]
    for name, (value, uncertainty) in report["parameters"].items():
        if math.isnan(uncertainty):
            shown = f"{value:.4g} (at its bound)"
        elif abs(value) < 1e-3:
            shown = f"{value:.2e} ± {uncertainty:.1e}"
        else:
            digits = max(0, 1 - math.floor(math.log10(uncertainty)))
            shown = f"{value:.{digits}f} ± {uncertainty:.{digits}f}"
        lines.append(f"  {name:26}{shown}")
    return "\n".join(lines)


def plot(reports: dict[str, dict[str, Any]], folder: Path) -> str:
    """Draw data, fits and profiles into FOLDER/reflectometry.png, where matplotlib is installed."""
    if util.find_spec("matplotlib") is None:
        return 'no plot: pip install "trun[examples]" brings matplotlib'
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    colours = iter(("tab:gray", "tab:blue", "tab:orange", "tab:green"))
    for axis, (title, report) in zip(axes, reports.items(), strict=False):
        for name, curve in report["curves"].items():
            colour, dots = next(colours), {"fmt": ".", "markersize": 3, "elinewidth": 0.5}
            axis.errorbar(curve["Q"], curve["R"], curve["dR"], color=colour, label=name, **dots)
            axis.plot(curve["Q"], curve["fit"], color="black", linewidth=1, zorder=3)
            axes[2].plot(curve["depth"], curve["SLD"], color=colour, label=name)
        axis.set(xscale="log", yscale="log", xlabel="Q [1/Å]", ylabel="reflectivity")
        axis.set_title(f"{title}, chi-squared {report['chisq']:.2f}")
    axes[0].set_ylim(1e-6, 2)
    axes[2].set(xlabel="depth [Å]", ylabel="scattering length density [1e-6/Å²]", title="profiles")
    for axis in axes:
        axis.legend()
    figure.savefig(folder / "reflectometry.png", dpi=100)
    return f"plot: {folder / 'reflectometry.png'}"


# ---------------------------------------------------------------------------------------------------- the workflow

if __name__ == "__main__":  # two_sites.py uses the functions above
    sns, compufans = trun.local(workers=1, name="sns"), trun.local(workers=2, name="compufans")

    with sns:
        reduction = trun.submit(reduce_run, "PLP0000708.dat", "PLP0000709.dat")

    with compufans:
        fetch = trun.fetch_url(reduction.url, when=reduction.iscompleted)
        model = trun.submit(prefit_simulation, thickest=32)
        assembly = trun.submit(define_fit, model, data=fetch.filename)
        fit = trun.submit(refine, assembly, when=model.iscompleted & fetch.iscompleted)

        starts = [130, 170, 210, 250], [0.5, 1.5]
        trials = [trun.submit(fit_film, [file], *starts, name=f"try-{file}") for file in WATERS]
        two_are_good = trun.at_least(2, *[trial.improved("chisq < 3") for trial in trials])
        together = trun.submit(fit_film, list(WATERS), [190, 210, 230], [0.3, 0.6], when=two_are_good, name="together")

    jobs = [reduction, fetch, model, assembly, fit, *trials, together]
    for _ in trun.progress(as_completed(jobs), total=len(jobs)):
        pass  # a bar, where there is a terminal; the results are wanted in order

    print(table("wafer", fit.result()))
    for file, trial in zip(WATERS, trials, strict=True):
        print(table(f"film under {WATERS[file][0]} alone", trial.result()))
    print(table("film under three waters", together.result()))

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="trun-reflectometry-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(plot({"wafer": fit.result(), "film under three waters": together.result()}, folder))
