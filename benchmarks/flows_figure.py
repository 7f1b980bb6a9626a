"""The picture of Kolmogorov flow in the table of flows: energy spectra of members over the data's, residuals, and what
the data's solver finds wrong with p, against evaluations.

    python -m benchmarks.flows_figure [--runs runs/flows] [--out docs/figures/flows.png]

reads benchmarks/results/flows.csv and, for the spectra, the members that `benchmarks.flows` left in the folder of runs.
Bars and bands are 95 % intervals, of spectra by a bootstrap of the members.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.flows_data import CUTS, FLOWS, Fields, Flow, read
from benchmarks.flows_scores import kinetic_energy
from benchmarks.tables import RESULTS
from sciguide.bootstrap import resample
from sciguide.datasets.store import LOCK
from sciguide.plots import COLOURS

METHODS = {"none": "none", "fixed": "formula", "scheduled": "scheduled", "learned": "learned"}
SET = "kolmogorov"
RESAMPLES, DPI = 200, 110


def table() -> list[dict[str, str]]:
    """Rows of the results."""
    with (RESULTS / "flows.csv").open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def spectra_ratio(members: Fields, held: Fields, flow: Flow) -> tuple[NDArray, NDArray]:
    """Energy of the members by wavenumber over that of held-out data, and its 95 % interval (2, W)."""
    own, data = (kinetic_energy(*(x[:, flow.variables.index(n)] for n in "uv")) for x in (members, held))
    rng = np.random.default_rng(0)
    drawn = [own[resample(len(own), rng)].mean(0) / data[resample(len(data), rng)].mean(0) for _ in range(RESAMPLES)]
    return (own.mean(0) / data.mean(0))[1:], np.quantile(drawn, (0.025, 0.975), axis=0)[:, 1:]


def draw_spectra(axes: Axes, flow: Flow, run: Path) -> None:
    """Of unconditional members at the least number of evaluations."""
    with LOCK, xr.open_dataset(run / "data.nc") as ds:
        cuts = json.loads(ds.attrs[CUTS])
    held = read(run / "data.nc", flow.variables, cuts["test"]).astype(np.float64)
    for colour, (method, label) in zip(COLOURS, METHODS.items(), strict=False):
        folder = run / "members" / f"unconditional_{method.replace(', ', '_')}"
        first = min(folder.glob("*.npz"), key=lambda p: int(p.stem))
        with np.load(first) as found:
            ratio, (low, high) = spectra_ratio(found["fields"].astype(np.float64), held, flow)
        k = np.arange(1, len(ratio) + 1)
        axes.plot(k, ratio, color=colour, label=label)
        axes.fill_between(k, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set(xscale="log", ylim=(0.5, 1.5), xlabel="wavenumber", ylabel="energy over the data's")
    axes.set_title(f"Re 100 to 500, {first.stem} evaluations", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="lower left", ncols=2)


def draw_metric(axes: Axes, rows: list[dict[str, str]], key: tuple[str, str], label: str) -> None:
    """Of unconditional members, and of those beyond the training range, hollow."""
    cases = {"unconditional": True, "nu given, outside": False}
    rows = [r for r in rows if (r["set"], r["metric"], r["of"]) == (SET, *key)]
    for case, filled in cases.items():
        for i, method in enumerate(METHODS):
            own = [r for r in rows if r["case"] == case and r["method"] == method]
            if not own:
                continue
            x = np.array([float(r["evaluations"]) for r in own]) * (1 + 0.03 * (i - 1.5) + 0.1 * (not filled))
            y, low, high = (np.array([float(r[key]) for r in own]) for key in ("value", "low", "high"))
            axes.errorbar(
                x, y, (y - low, high - y), fmt="o", color=COLOURS[i], markerfacecolor=COLOURS[i] if filled else "white",
                markersize=4, linewidth=1,
            )  # fmt: skip
        data = [float(r["data"]) for r in rows if r["case"] == case and r["method"] == "none"]
        if data:
            axes.axhline(data[0], color="0.4", linewidth=0.8, linestyle="-" if filled else ":")
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel=label)
    axes.set_xticks([10, 20], ["10", "20"])
    axes.set_xticks([], minor=True)
    axes.set_xlim(8.5, 26)
    axes.set_title("line: data; hollow: Re to 1000", fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/flows"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/flows.png"), help="the picture")
    given = parser.parse_args()
    rows = table()
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    spectra, residuals, pressures = figure.subplots(1, 3)
    draw_spectra(spectra, FLOWS[SET], given.runs / SET)
    draw_metric(residuals, rows, ("residual", "all"), "rms residual over scale")
    draw_metric(pressures, rows, ("restepped", "p"), "error of p, in its std")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=DPI, metadata={"Software": None})


if __name__ == "__main__":
    main()
