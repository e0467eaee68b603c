"""The reflectometry workflow on two services with keys of their own; the script ends after submitting.

`python two_sites.py submit` starts the services `sns` and `compufans` (two daemons on this machine, as they would be on
two), submits reduction, fetch, simulation and fit, and ends. The fit on one service begins when its condition over jobs
of both holds, with nobody but the two services there. `python two_sites.py collect` prints the fitted wafer;
`python two_sites.py stop` ends the services. Without a word the three are done in turn, each as a process of its own.

The science is that of `reflectometry.py` beside this file; the data come with refnx (`pip install "trun[examples]"`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from reflectometry import define_fit, prefit_simulation, reduce_run, refine, table

import trun

SITES = ("sns", "compufans")


def submit() -> None:
    """Submit the workflow to both services, and leave."""
    for name in SITES:
        command("service", "start", "--name", name, "--listen", "tcp://127.0.0.1:0", "--workers", "1")
    sns, compufans = (trun.remote_service(name) for name in SITES)

    reduction = sns.submit(reduce_run, "PLP0000708.dat", "PLP0000709.dat", name="reduction")
    with compufans:
        fetch = trun.fetch_url(reduction.url, when=reduction.iscompleted)
        model = trun.submit(prefit_simulation, thickest=32, name="model")
        assembly = trun.submit(define_fit, model, data=fetch.filename)
        fit = trun.submit(refine, assembly, when=model.iscompleted & fetch.iscompleted, name="fit")
    print(f"submitted {reduction.id} to sns, {fit.id} to compufans; this script ends, the workflow goes on")


def collect() -> None:
    """Print the fit, from a process that submitted nothing."""
    newest = trun.remote_service("compufans").jobs(name="fit")[-1]
    print(table(f"wafer ({newest.id} of compufans)", newest.result()))


def stop() -> None:
    """End both services."""
    for name in SITES:
        command("service", "stop", name, "--drain")


def command(*words: str) -> None:
    """Run the command `trun`, as one would in a terminal."""
    print("$ trun", *words, flush=True)
    subprocess.run([sys.executable, "-m", "trun", *words], check=True)


if __name__ == "__main__":
    verbs = {"submit": submit, "collect": collect, "stop": stop}
    if len(sys.argv) == 1:
        for verb in verbs:
            subprocess.run([sys.executable, str(Path(__file__)), verb], check=True)
    elif sys.argv[1:] and sys.argv[1] in verbs:
        verbs[sys.argv[1]]()
    else:
        sys.exit(f"usage: two_sites.py [{'|'.join(verbs)}]")
