"""The picture of the reanalysis table: CRPS by level, and residuals beside the data's own.

    python benchmarks/reanalysis_figure.py

reads benchmarks/results/reanalysis.csv and writes docs/figures/reanalysis.png.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.tables import RESULTS, read_table

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "reanalysis.png"
CASE = "winds from heights"
SHOWN = {
    "observations alone": "#bbbbbb",
    "optimal interpolation": "#777777",
    "nearest training window": "#e6ab02",
    "observations, geostrophic": "#0072b2",
    "formula": "#000000",
    "formula, white s2": "#cc79a7",
    "scheduled": "#009e73",
    "linear": "#56b4e9",
    "learned": "#d55e00",
}
LEVELS = ("200", "500", "850")
EQUATIONS = ("geostrophic", "nondivergence")


def scores(axes: Axes, table: list[dict[str, str]]) -> None:
    """CRPS of each method at each level, with intervals."""
    for place, (name, colour) in enumerate(SHOWN.items()):
        own = {r["level"]: r for r in table if r["method"] == name}
        at = [k + 0.085 * (place - len(SHOWN) / 2) for k in range(len(LEVELS))]
        value, low, high = ([float(own[level][k]) for level in LEVELS] for k in ("crps", "low", "high"))
        axes.vlines(at, low, high, color=colour, linewidth=2)
        axes.plot(at, value, "o", color=colour, markersize=4, label=name)
    axes.set_yscale("log")
    axes.set_xticks(range(len(LEVELS)), [f"{level} hPa" for level in LEVELS])
    axes.set_ylabel("CRPS, in standard deviations, 95 % intervals")
    axes.legend(fontsize=7, frameon=False, ncols=2)


def residuals(axes: Axes, table: list[dict[str, str]]) -> None:
    """The rms residuals of members, one equation against the other, and the data's own, which are not zero."""
    for name, colour in SHOWN.items():
        own = [next(r for r in table if r["method"] == name and r["level"] == level) for level in LEVELS]
        axes.plot(*([float(r[e]) for r in own] for e in EQUATIONS), "o", color=colour, markersize=4)
    data = [next(r for r in table if r["method"] == "formula" and r["level"] == level) for level in LEVELS]
    x, y = ([float(r[f"{e}, data"]) for r in data] for e in EQUATIONS)
    axes.plot(x, y, "x", color="#cc0000", markersize=8, label="data")
    for level, a, b in zip(LEVELS, x, y, strict=True):
        axes.annotate(level, (a, b), xytext=(5, 3), textcoords="offset points", fontsize=7, color="#cc0000")
    axes.set(xscale="log", yscale="log", xlabel="geostrophic residual over the wind")
    axes.set_ylabel("divergence over the vorticity")
    axes.legend(fontsize=7, frameon=False)


def main() -> int:
    table = [r for r in read_table(RESULTS / "reanalysis.csv") if r["problems"] == CASE]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), width_ratios=(3, 2), layout="constrained")
    scores(left, table)
    residuals(right, table)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)
    print(FIGURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
