"""Flow through smooth random media, 64 x 64, unconditional: the table of the physics-informed diffusion models.

    sciguide data make darcy_smooth --size 64 --samples 6000
    python -m benchmarks.darcy --data darcy_smooth.nc [--run runs/darcy] [--members 1024] [--seeds 3] [--small]

writes benchmarks/results/darcy.csv (--small: darcy_small.csv, a set of 32 x 32 and a network of two minutes), one
number a row. The network is trained first unless it is there. Of every method:

- `R_MAE`: the measure of the published tables (`sciguide.simulate.darcy_smooth`), of float32 fields;
- `re`: |p - solve(K)| / |solve(K)| of up to 64 members, and `flux form`: mean |r| inside by another stencil (`darcy`);
- against held-out data: W1 of all values, anomaly std, mean, tails, energy distance, novelty (`darcy_measures.py`);
- `evaluations` of the network, `seconds` of a member on one thread, and guidance's `share` of them.

Rows with a smaller `n` are of a quarter of the first seed, DPS of an eighth. Distributions are of log K and p. Guided
rows are the package's own step, at most so many iterations of it; they also end where the residual is 1e-6 of the
first. Least squares at the end knows this one equation, its preconditioner included. `low`, `high`: 95 % bootstrap
interval; `seeds_std`: over the seeds; `floor`: median and 95 % interval of 200 pairs of true sets of the same sizes.
`gain`: how many times smaller the number is than that of N(mu, C), the prior without a network, after the same
correction. Published, 1024 samples: PBFM .838 and flow matching 4.159 at 20 evaluations, PIDM .022 and
CoCoGen 1.320 at 100, DiffusionPDE 3.388.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from benchmarks.darcy_measures import Number, Truth
from benchmarks.darcy_methods import (
    DATA,
    PLAIN,
    PRIOR,
    STEPS,
    Made,
    few,
    solved,
    trivial,
    with_network,
    without_network,
)
from benchmarks.darcy_rivals import least_squares, rivals, sampler_2m
from benchmarks.tables import RESULTS, add_device, trained_on, write_table
from sciguide.cli import main as sciguide
from sciguide.equations import get
from sciguide.evidence import data_section, training_data
from sciguide.grid import Grid
from sciguide.model import Model
from sciguide.simulate import darcy_smooth

CONFIG = "configs/darcy_smooth.yaml"
EVALUATION, TUNING, TRAINING = range(101, 111), 11, 0  # seeds of the members, of what is tuned, of the network
RESOLVED = 64  # members of a row whose p is solved anew
ADDITIVE = ("R_MAE", "re", "flux form")  # means over members
DISTANCES = (*ADDITIVE, "W1 x 100", "mean error", "energy distance")  # zero is right
SMALL = {
    "--data.train": "[0, 640]",
    "--data.validation": "[640, 800]",
    "--data.steps_per_epoch": "40",
    "--trainer.max_epochs": "3",
    "--model.width": "8",
}


def fit(run: Path, data: str, small: bool, device: torch.device | str = "cpu") -> Model:
    """The model of the run on a device, trained there unless it is there. Raises SystemExit where that fails."""
    words = ["fit", "-c", CONFIG, "--run", str(run), "--data.source", data]
    words += [*([word for pair in SMALL.items() for word in pair] if small else []), *trained_on(device)]
    if not (run / "model.pt").is_file() and sciguide(words):
        raise SystemExit(f"{run} could not be trained")
    return Model.load(run / "model.pt", device)


def read(run: Path, data: str, model: Model) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Training and held-out pairs (N, 2, Y, X), as the run's config splits them."""
    prepared, problem = training_data({**data_section(run), "source": data}, model)
    if prepared is None:
        raise SystemExit(f"{run} was not trained on {data}: {problem}")
    return np.array(prepared.rows("train")), np.array(prepared.rows("validation"))


def refuse_shared(**seeds: Any) -> None:
    """Raises AssertionError where two groups of seeds share one."""
    groups = {name: set(np.ravel(given).tolist()) for name, given in seeds.items()}
    for a, b in ((a, b) for a in groups for b in groups if a < b):
        assert not groups[a] & groups[b] or {a, b} == {"data", "training"}, f"{a} and {b} share a seed"


def logs(pairs: NDArray) -> NDArray[np.float32]:
    """log K and p."""
    out = pairs.copy()
    out[:, 0] = np.log(pairs[:, 0])
    return out


@cache
def flux_operator(n: int):
    y = darcy_smooth.axes(n)["y"][0]
    return get("darcy")().on(Grid(y, y))


def flux_form(pairs: NDArray) -> NDArray[np.float64]:
    """The mean over the points inside of |r| of the conservative stencil, (N,)."""
    n = pairs.shape[-1]
    operator, f = flux_operator(n), np.broadcast_to(darcy_smooth.source(n), (len(pairs), 1, n, n))
    r = operator.residual(torch.from_numpy(np.concatenate([pairs.astype(np.float64), f], 1)))
    return r.abs()[:, 0, operator.valid].mean(1).numpy()


class Table:
    """Measures one method after another; `peers`: the numbers of N(mu, C) by correction."""

    def __init__(self, truth: Truth, held: NDArray, members: int) -> None:
        self.truth, self.members = truth, members
        self.held = {"R_MAE": darcy_smooth.r_mae(held[:, 0], held[:, 1]), "flux form": flux_form(held)}
        self.p: dict[tuple[str, int], NDArray[np.float64]] = {}
        self.peers: dict[tuple[str, str, str], float] = {}
        self.rows: list[dict[str, Any]] = []

    def add(self, made: Made) -> None:
        """The rows of a method."""
        for number in self.numbers(made):
            key = made.correction, number.metric, number.variable
            if made.name.startswith(PRIOR) and number.metric in DISTANCES:
                self.peers[key] = number.value
            gain = self.peers.get(key, np.nan) / number.value if number.value > 0 else np.nan
            about = {"method": made.name, "evaluations": made.evaluations, "n": len(made.pairs)}
            self.rows.append({**about, **number._asdict(), "gain": gain})
        print(f"{made.name}, {made.evaluations}: R_MAE {self.value(made, 'R_MAE'):.4g}", flush=True)

    def numbers(self, made: Made) -> Iterator[Number]:
        p, n = made.pairs[:, 1], len(made.pairs)
        parts = max(1, n // self.members) if made.correction or made.evaluations else 1
        each = {"R_MAE": darcy_smooth.r_mae(made.pairs[:, 0], p), "flux form": flux_form(made.pairs)}
        for metric, values in each.items():
            yield self.truth.means((metric, "both"), values, parts, self.held[metric])
        some = np.unique(np.linspace(0, n - 1, min(n, RESOLVED)).astype(int))
        if (made.key, n) not in self.p:
            self.p[made.key, n] = solved(made.pairs[some, 0])
        right = self.p[made.key, n]
        error = np.linalg.norm(p[some] - right, axis=(1, 2)) / np.linalg.norm(right, axis=(1, 2))
        yield self.truth.means(("re", "p"), error[np.isfinite(error)], 1)
        if made.name != DATA:
            yield from self.truth.measure(logs(made.pairs), parts)
        if np.isfinite(made.seconds):
            yield Number("seconds", "member", made.seconds)
            yield Number("share", "guidance", made.share)

    def value(self, made: Made, metric: str, variable: str = "") -> float:
        """Of the row that was added last with this metric."""
        found = [r for r in self.rows if r["metric"] == metric and r["variable"].startswith(variable)]
        return next(r["value"] for r in reversed(found) if r["method"] == made.name)


def overview(rows: list[dict[str, Any]]) -> str:
    """The chief numbers, a method a line."""
    chosen = {
        "R_MAE": ("R_MAE", "both"), "re": ("re", "p"), "flux": ("flux form", "both"),
        "W1 logK": ("W1 x 100", "log K"), "W1 p": ("W1 x 100", "p"),
        "std logK": ("std ratio", "log K"), "std p": ("std ratio", "p"), "mean p": ("mean error", "p"),
        "energy": ("energy distance", "both"), "novelty": ("novelty", "both"),
        "s": ("seconds", "member"), "share": ("share", "guidance"),
    }  # fmt: skip
    found = {(r["method"], r["evaluations"], r["metric"], r["variable"]): r["value"] for r in rows}
    lines = [f"{'':<52}" + "".join(f"{name:>10}" for name in chosen)]
    for method, evaluations in dict.fromkeys((r["method"], r["evaluations"]) for r in rows):
        values = [found.get((method, evaluations, *key), np.nan) for key in chosen.values()]
        lines.append(f"{f'{method}, {evaluations}':<52}" + "".join(f"{v:>10.3g}" for v in values))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file of `sciguide data make darcy_smooth`; made where --small")
    parser.add_argument("--run", type=Path, default=Path("runs/darcy"))
    parser.add_argument("--members", type=int, default=1024, help="of each seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="32 x 32, a tiny network, 16 members: two minutes")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    add_device(parser)
    given = parser.parse_args()
    if not given.small and given.data is None:
        parser.error("--data FILE, or --small")
    torch.set_num_threads(1)
    run, members, seeds = given.run, given.members, list(EVALUATION[: given.seeds])
    if given.small:
        run, members = run.with_name(f"{run.name}_small"), min(members, 16)
        run.parent.mkdir(parents=True, exist_ok=True)
        given.data = given.data or str(run.with_suffix(".nc"))
        if sciguide(["data", "make", "darcy_smooth", "--size", "32", "--samples", "800", "--out", given.data]):
            raise SystemExit(f"{given.data} could not be made")
    with xr.open_dataset(given.data) as ds:
        refuse_shared(evaluation=seeds, tuning=TUNING, training=TRAINING, data=int(ds.attrs["seed"]))
    model = fit(run, given.data, given.small, given.device)
    training, held = read(run, given.data, model)
    quarter = few(members)
    table = Table(Truth(logs(training), logs(held)), held, members)
    for made in trivial(training, held, given.seeds * members):
        table.add(made)
    for rows in (without_network(model, seeds, members), with_network(model, seeds, members)):
        for made in rows:
            table.add(made)
            if made.correction == PLAIN and made.evaluations in (0, STEPS):
                plain = made
        for made in least_squares(plain._replace(pairs=plain.pairs[:quarter])):
            table.add(made)
    table.add(sampler_2m(model, seeds[:1], quarter))
    for made in rivals(model, TUNING, seeds[0], quarter):
        table.add(made)
    print(overview(table.rows))
    size = f"{training.shape[-1]} x {training.shape[-1]}, {len(training)} training samples"
    about = f"{given.seeds} seeds of {members} members, rows of a smaller n of one seed; {size}; {given.date}; 1 thread"
    name = f"darcy{'_small' if given.small else ''}.csv"
    write_table(RESULTS / name, table.rows, about, given.device)


if __name__ == "__main__":
    main()
