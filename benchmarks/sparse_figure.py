"""The figure of the sparse tables: what evaluations cost, and one reconstruction.

    python -m benchmarks.sparse_figure [--runs runs/sparse] [--out docs/figures/sparse.png]

From what `python -m benchmarks.sparse` left in --runs. Left: error over the exact posterior's, inverse, without noise,
by evaluations of the denoiser, all on those draws that every row has. Right: the first test draw of two-phase Darcy
flow, its conductivity from the head at the points shown.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.sparse import PLANS, Part
from benchmarks.sparse_methods import guided
from benchmarks.sparse_problems import SETS, Task, problems
from benchmarks.sparse_rows import EXACT, USUAL
from benchmarks.sparse_table import Score, rows
from sciguide.generate import one_thread
from sciguide.model import Model

LINES = ("network, observations", "network, observations + equation", "exact prior, observations")
MOST = 4.0  # of the ratio: what is above stands at the edge
SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/sparse"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/sparse.png"))
    given = parser.parse_args()
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), width_ratios=(1.7, 1, 1, 1), layout="constrained")
    ratios(axes[0], same_draws(given.runs))
    with one_thread():
        example(axes[1:], Model.load(given.runs / f"darcy_twophase_{SIZE}" / "model.pt"))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=90)


def same_draws(runs: Path) -> list[dict[str, Any]]:
    """Rows of Poisson's inverse task without noise, of the draws that dear rows have."""
    plan = PLANS[SIZE]
    kept = Part(SETS["poisson"], SIZE, plan, runs).kept
    found = {}
    for key, scores in kept.items():
        task, noise, method, evaluations = key.split("|")
        if (task, float(noise)) == ("inverse", 0.0):
            found[method, int(evaluations)] = [Score(*s) for s in scores[: plan.few]]
    return rows({}, found, (EXACT, 0), False)


def ratios(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """Lines over evaluations, and rivals as points, of the best that was tried."""

    def number(r: dict[str, Any], end: str) -> float:
        return r[f"ratio_to_exact{end}"]

    for shift, name in zip((0.96, 1.0, 1.04), LINES, strict=True):
        line = sorted((r for r in rows if r["method"] == name), key=lambda r: r["evaluations"])
        at = [shift * r["evaluations"] for r in line]
        value = np.array([number(r, "") for r in line])
        ends = np.abs(np.array([[number(r, "_low"), number(r, "_high")] for r in line]).reshape(-1, 2).T - value)
        ax.errorbar(at, value, ends, marker="o", capsize=3, label=name)
    best = {}
    for r in rows:
        kind = r["method"].removeprefix("network, ").split(",")[0]
        if kind in ("DPS", "SDA", "PiGDM", "pixel errors") and number(r, "") < best.get(kind, (np.inf,))[0]:
            best[kind] = number(r, ""), r["evaluations"]
    for marker, (kind, (value, at)) in zip("^svD", sorted(best.items()), strict=False):
        ax.plot(at, min(value, MOST), marker, color="gray", label=f"{kind}: {value:.2f}")
    draws = next(number(r, "") for r in rows if r["method"] == "exact posterior, draws")
    ax.axhline(draws, color="black", lw=0.8, ls=":", label="16 draws of the exact posterior")
    ax.axhline(1.1, color="tab:red", lw=0.8, ls="--", label="1.1")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations",
        ylabel="error over the exact posterior mean's",
        title="Poisson, inverse",
    )
    ax.set_xticks([10, 20, 50], labels=["10", "20", "50"])
    ax.set_yticks([1, 1.1, 1.5, 2, 3, 4], labels=["1", "1.1", "1.5", "2", "3", "4"])
    ax.minorticks_off()
    ax.legend(fontsize=6)


def example(axes: np.ndarray, model: Model) -> None:
    """Truth with the points, mean and standard deviation of an ensemble."""
    (problem,) = problems(SETS["darcy_twophase"], Task("inverse", 0.0), SIZE, 1)
    variance = "learned" if model.variance else "prior"
    drawn = guided(model, problem, USUAL, equations=False, variance=variance)[:, problem.channel]
    fields = problem.truth[problem.channel], drawn.mean(0), drawn.std(0, ddof=1)
    names = f"conductivity, {len(problem.points)} points of the head", "mean of 16 members", "their standard deviation"
    for ax, field, name in zip(axes, fields, names, strict=True):
        image = ax.imshow(field, origin="lower", cmap="viridis" if ax is not axes[2] else "magma")
        ax.figure.colorbar(image, ax=ax, shrink=0.75)
        ax.set(title=name, xticks=[], yticks=[])
        ax.title.set_fontsize(9)
    axes[0].plot(problem.points[:, 1], problem.points[:, 0], "r.", ms=4)


if __name__ == "__main__":
    main()
