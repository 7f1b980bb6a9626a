"""The table of darcy_smooth as a picture, and one member before and after guidance.

    python -m benchmarks.darcy_figure [--run runs/darcy] [--seed 101]

draws docs/figures/darcy.png from benchmarks/results/darcy.csv and the run's model: R_MAE against the distance from p
solved anew, a point for every method, and of the first member of the seed log K, p, and the size of the residual of the
flow, unguided and guided. The chief numbers of the table are printed as Markdown.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.darcy_methods import BEST, PRIOR, chains, corrected, physical
from benchmarks.tables import RESULTS
from sciguide.model import Model
from sciguide.simulate import darcy_smooth

PATH = Path(__file__).parents[1] / "docs" / "figures" / "darcy.png"
KINDS = (  # of methods: what their names hold, label, marker; the first that fits
    ("solver data", "data", "k*"),
    ("re-solved", "p solved anew", "C7D"),
    ("least squares", "least squares of this set at the end", "C2^"),
    (", guided", "guided (kriging step)", "C3o"),
    ("DPS", "DPS", "C4v"),
    ("gradient", "gradient steps", "C1s"),
    ("unguided", "unguided", "C0P"),
    (PRIOR, "draws of N(mu, C)", "C5X"),
)


COLUMNS = (  # of the Markdown table: title, metric, variable
    ("R_MAE", "R_MAE", "both"),
    ("re", "re", "p"),
    ("W1 x 100, log K", "W1 x 100", "log K"),
    ("W1 x 100, p", "W1 x 100", "p"),
    ("std, log K", "std ratio", "log K"),
    ("std, p", "std ratio", "p"),
    ("seconds", "seconds", "member"),
    ("share", "share", "guidance"),
)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def markdown(path: Path) -> str:
    """Its chief numbers, a method a line; of distances also the upper end of the Monte-Carlo interval."""
    found: dict[tuple[str, str, str], dict[tuple[str, str], dict[str, str]]] = {}
    for row in read(path):
        key = row["method"], row["evaluations"], row["n"]
        found.setdefault(key, {})[row["metric"], row["variable"]] = row
    titles = ["method", "evaluations", "n", *(title for title, _, _ in COLUMNS)]
    lines = [titles, ["---"] * len(titles)]
    for key, numbers in found.items():
        cells = []
        for _, *metric in COLUMNS:
            row = numbers.get(tuple(metric))
            ceiling = row and metric[0].startswith("W1") and row["floor_high"] != "nan"
            cells.append((f"{float(row['value']):.3g}" if row else "") + (f" ({row['floor_high']})" if ceiling else ""))
        lines.append([*key, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def points(path: Path) -> dict[str, list[tuple[float, float, bool]]]:
    """Per label (re, R_MAE, whether a network took part) of the rows of the table."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in read(path):
        found.setdefault((row["method"], row["evaluations"]), {})[row["metric"]] = float(row["value"])
    out: dict[str, list[tuple[float, float, bool]]] = {}
    for (method, _), values in found.items():
        label = next((label for words, label, _ in KINDS if words in method), None)
        if label:
            out.setdefault(label, []).append((values["re"], values["R_MAE"], method.startswith("network")))
    return out


def flow(pairs: NDArray) -> NDArray[np.float64]:
    """The residual of the flow of pairs (K, p), (N, Y, X)."""
    n = pairs.shape[-1]
    known = [np.broadcast_to(values, pairs[:, 0].shape) for values, _ in darcy_smooth.static(n).values()]
    u = np.concatenate([pairs, np.stack(known, 1)], 1).astype(np.float64)
    return darcy_smooth.operator(n).residual(torch.from_numpy(u))[:, 0].numpy()


def draw(table: Path, plain: NDArray, guided: NDArray, path: Path) -> None:
    """The picture of the table and of one member (2, Y, X) before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplot_mosaic("AABC;AADE", figsize=(10, 4.6), layout="constrained")
    markers = {label: marker for _, label, marker in KINDS}
    for label, values in points(table).items():
        for network, face in ((True, markers[label][:-1]), (False, "none")):
            chosen = np.array([v[:2] for v in values if v[2] is network]).reshape(-1, 2)
            name = label if network or not any(v[2] for v in values) else None
            style: dict[str, Any] = {"marker": markers[label][-1], "linestyle": "", "color": markers[label][:-1]}
            if len(chosen):
                axes["A"].plot(*chosen.clip(min=1e-4).T, markerfacecolor=face, label=name, **style)
    axes["A"].set(xscale="log", yscale="log", xlabel="distance of p from p solved anew (below 1e-4: at 1e-4)")
    axes["A"].set(ylabel="R_MAE", title="filled: with the network; hollow: without")
    axes["A"].legend(fontsize=7, frameon=False)
    before, after = (np.log10(np.abs(r) + 1e-12) for r in flow(np.stack([plain, guided])))
    for key, values, title, style in (
        ("B", np.log(plain[0]), "log K", {}),
        ("C", guided[1], "p, guided", {"cmap": "RdBu_r"}),
        ("D", before, "log10 |r|, unguided", {"vmin": -5, "vmax": 1, "cmap": "magma"}),
        ("E", after, "log10 |r|, guided", {"vmin": -5, "vmax": 1, "cmap": "magma"}),
    ):
        image = axes[key].imshow(values, origin="lower", **style)
        axes[key].set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=axes[key], shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/darcy"))
    parser.add_argument("--seed", type=int, default=101)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.load(given.run / "model.pt")
    plain = chains(model, [given.seed], 1).x
    guided = corrected(model, plain, BEST).x
    print(markdown(RESULTS / "darcy.csv"))
    draw(RESULTS / "darcy.csv", physical(model, plain)[0], physical(model, guided)[0], PATH)


if __name__ == "__main__":
    main()
