"""Policies on trained networks, where problems vary as a config says: whether feedback pays there too.

    python -m benchmarks.policy_trained [--run runs/sparse/poisson_32] [--config configs/policy_problems.yaml]
                                        [--trajectories 8000] [--small] [--runs runs/policy] [--date 2026-01-31]
                                        [--device cuda]

writes benchmarks/results/policy_trained.csv (--small: policy_trained_small.csv). `sciguide tune` itself tunes every
rival of a run with three seeds, on the run's validation samples, and judges them on problems of its own: the same for
all seeds, so a problem's scores are averaged over the seeds before differences are bootstrapped. `energy score`: to the
truth, small is good, in the distance that was tuned for (fields, or point by point the CRPS), the other part of the
score being what residuals exceed the data's by; `energy over fixed`: less that of the formula, `fixed`, which is tuned
on nothing; `trajectories`: that every other rival is tuned on. Beside the rivals of `sciguide tune` a constant by
random search with the same budget, and the learned policy's mean at each level, which sees no member (`schedules.py`).
--run: a run's folder; that of the sparse table's Poisson pairs is trained where it is not there; --trajectories: for
those of the config. What is done is kept in --runs, and rows of other runs and budgets in the table are kept.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import yaml

from benchmarks import schedules
from benchmarks.sparse import PLANS, fit
from benchmarks.sparse_problems import SETS
from benchmarks.tables import RESULTS, add_device, kept_in, read_table, write_table
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.cli import main as sciguide
from sciguide.generate import one_thread
from sciguide.model import Model
from sciguide.training.contest import truths

SEEDS = (0, 1, 2)
DEFAULT = Path("runs/sparse/poisson_32")
SMALL, SMALL_TRAJECTORIES = ("--judged=4", "--members=2", "--steps=3"), 64


def tuned(run: Path, config: Path, folder: Path, extra: tuple[str, ...]) -> dict:
    """The scores of the rivals of `sciguide tune`, from a folder of its own beside links to the run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.pt", "config.yaml"):
        if not (folder / name).exists():
            (folder / name).symlink_to((run / name).resolve())
    scores = folder / "policies" / "scores.json"
    words = ["tune", str(folder), "-c", str(config), *extra]
    if not scores.is_file() and sciguide(words):
        raise SystemExit(f"{folder} could not be tuned")
    return json.loads(scores.read_text())


def beside(folder: Path, device: str) -> dict:
    """The scores of the schedules that stand beside them, once `tuned` has been."""
    path = folder / "policies" / schedules.SCORES
    if not path.is_file():
        model = Model.load(folder / "model.pt", device)
        with one_thread():
            schedules.contest(model, truths(folder, model), path.parent, schedules.rules_of(path.parent), constant=True)
    return json.loads(path.read_text())


def rows(run: Path, config: Path, each: list[dict], trajectories: int) -> list[dict]:
    """One row per rival and seed, and of all seeds together."""
    out = []
    for seed, found in [*zip(SEEDS, ([e] for e in each), strict=False), ("all", each)]:
        names = [name for name in found[0] if name != "front"]
        scores, energies = ({n: np.mean([f[n][k] for f in found], 0) for n in names} for k in ("scores", "energies"))
        for name, values in scores.items():
            row: dict = {"run": run.name, "problems of": config.stem, "seed": seed, "rival": name}
            row |= {"trajectories": trajectories, "problems": len(values)}
            row |= dict(zip(("score", "low", "high"), map(float, bootstrap(values, np.mean)), strict=True))
            for rival in ("fixed", "constant", "scheduled", "linear"):
                ends = map(float, paired_bootstrap(values, scores[rival]))
                row |= dict(zip((f"gain on {rival}", f"{rival} low", f"{rival} high"), ends, strict=True))
            row |= {"energy score": float(energies[name].mean())}
            ends = map(float, paired_bootstrap(energies[name], energies["fixed"]))
            row |= dict(zip(("energy over fixed", "energy low", "energy high"), ends, strict=True))
            row |= {"evaluations": float(np.mean([f[name]["evaluations"] for f in found]))}
            out.append(row)
    return out


def earlier(path: Path, run: Path, config: Path, trajectories: int) -> list[dict]:
    """Rows of other runs, configs and budgets in the table that is there."""
    own = run.name, config.stem, str(trajectories)
    return [r for r in read_table(path) if (r["run"], r["problems of"], r["trajectories"]) != own]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="policies on trained networks")
    parser.add_argument("--run", type=Path, default=DEFAULT, help="a run's folder")
    parser.add_argument("--config", type=Path, default=Path("configs/policy_problems.yaml"), help="of `sciguide tune`")
    parser.add_argument("--trajectories", type=int, help="that each rival is tuned on, for those of the config")
    parser.add_argument("--small", action="store_true", help="one seed, 64 trajectories")
    parser.add_argument("--runs", type=Path, default=Path("runs/policy"), help="where what is done is kept")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    add_device(parser)
    given = parser.parse_args(argv)
    if given.run == DEFAULT and not (DEFAULT / "model.pt").is_file():
        fit(SETS["poisson"], 32, PLANS[32], DEFAULT.parent, given.device)
    seeds, extra = (SEEDS[:1], SMALL) if given.small else (SEEDS, ())
    usual = SMALL_TRAJECTORIES if given.small else yaml.safe_load(given.config.read_text()).get("trajectories", 2000)
    trajectories = given.trajectories or usual
    runs = kept_in(given.runs / "small" if given.small else given.runs, given.device)
    parent, device = runs / f"{given.run.name}_{given.config.stem}_{trajectories}", str(given.device)
    each = []
    for seed in seeds:
        words = (f"--seed={seed}", f"--trajectories={trajectories}", f"--device={device}", *extra)
        scores = tuned(given.run, given.config, parent / str(seed), words)
        each.append(scores | beside(parent / str(seed), device))
    path = RESULTS / f"policy_trained{'_small' if given.small else ''}.csv"
    kept, about = earlier(path, given.run, given.config, trajectories), f"policies on trained networks; {given.date}"
    write_table(path, rows(given.run, given.config, each, trajectories), f"{about}; 1 thread", given.device, kept)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
