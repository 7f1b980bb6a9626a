"""Two equations that cannot both hold, on a reanalysis: geostrophic balance and non-divergence beside observations.

    python -m benchmarks.reanalysis --data FILE [--runs runs/reanalysis] [--only table|settings]
                                    [--small] [--date 2026-01-31] [--device cuda]

`--data`: a NetCDF file of monthly means z, u, v over (month, level, latitude, longitude), global, every .75 degrees, or
the folder it is in. Windows are cut (`reanalysis_data.py`), a small model is trained on those of one sector of
longitudes, policies are tuned on those of another, with three seeds (`policy_trained.py`), and all methods are scored
on those of a third, which do not overlap (`reanalysis_scores.py`). Writes benchmarks/results/reanalysis.csv, and
reanalysis_settings.csv, the settings that were looked at before, on windows for tuning. `--small`: a synthetic file of
the same form where no data are given, few steps, one seed; reanalysis_small.csv.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.policy_trained import tuned
from benchmarks.reanalysis_data import Window, cut, open_reanalysis, synthetic
from benchmarks.reanalysis_scores import Case, Method, Scores, score, variety_of
from benchmarks.tables import RESULTS, add_device, kept_in, trained_on, write_table
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.cli import main as sciguide
from sciguide.datasets.module import GridData
from sciguide.device import CPU
from sciguide.learner import JUDGED
from sciguide.model import Model
from sciguide.training.contest import truths
from sciguide.training.variety import Variety

CONFIG = "configs/reanalysis.yaml"
CASES = {  # what varies, and whether policies are tuned: where knowing how well each equation holds gains something
    "winds from heights": (Path("configs/reanalysis_problems.yaml"), True),
    "few stations": (Path("configs/reanalysis_stations.yaml"), False),
}
SEEDS = (0, 1, 2)
RIVALS = ("scheduled", "linear", "learned")
BOTH = ("geostrophic", "nondivergence")
UNTUNED: dict[str, Method | None] = {
    "none": Method("none"),
    "observations alone": Method(equations=()),
    "equations alone": Method(observed=False, scales="ml"),
    "observations, geostrophic": Method(equations=BOTH[:1]),
    "observations, nondivergence": Method(equations=BOTH[1:]),
    "formula, likelihood": Method(scales="ml"),
    "formula, knows how well each holds": Method("knows"),
    "formula, white s2": Method(white=True),
    "optimal interpolation": None,
    "nearest training window": Method("nearest"),
}
LOOKED = 48  # problems of tuning, of each setting
CALIBRATION = 32  # problems of tuning, for the scales of optimal interpolation
INFLATIONS = list(itertools.product((0.3, 0.5, 1.0, 2.0), (0.5, 1.0, 4.0)))
TRAINING = 396  # windows
SETTINGS = [(10, 0.1, "z"), (10, 0.1, "zu"), (10, 0.1, "uv"), (40, 0.03, "z"), (100, 0.01, "z")]  # stations, error, of
SMALL_FIT = ("--trainer.max_epochs=1", "--data.steps_per_epoch=20", "--model.width=8")
SMALL_TUNE = ("--trajectories=64", "--judged=4", "--members=2", "--steps=3")


def fit(data: Path | None, runs: Path, small: bool, device: torch.device = CPU) -> list[Window]:
    """Cut the windows and train the run, unless they are there; where each window is from."""
    runs.mkdir(parents=True, exist_ok=True)
    ds, windows = cut(synthetic() if data is None else open_reanalysis(data))
    if not (runs / "windows.nc").is_file():
        ds.to_netcdf(runs / "windows.nc")
    words = ["fit", "-c", CONFIG, f"--run={runs / 'run'}", f"--data.source={runs / 'windows.nc'}", *trained_on(device)]
    if not (runs / "run" / "model.pt").is_file() and sciguide([*words, *(SMALL_FIT if small else ())]):
        raise SystemExit(f"{runs / 'run'} could not be trained")
    return windows


def case_of(run: Path, config: Path | Variety, steps: int | None = None, device: torch.device = CPU) -> Case:
    """The problems of a config on a run, on a device."""
    model = Model.load(run / "model.pt", device)
    variety = config if isinstance(config, Variety) else variety_of(config, model)
    if steps:
        variety = Variety(variety.points, variety.channels, variety.error, steps=(steps, steps))
    data = GridData(source=str(run.parent / "windows.nc"), variables=["z", "u", "v"], train=[0, TRAINING])
    training = model.normaliser.encode(torch.tensor(data.split("train"), dtype=torch.float64))
    return Case(model, truths(run, model), training.to(device), variety)


def calibrated(case: Case, numbers: Sequence[int]) -> Method:
    """Optimal interpolation with the scales of least CRPS on problems of tuning."""
    tried = [Method("interpolation", inflate=scales) for scales in INFLATIONS]
    found = [np.mean([s.crps.mean() for s in score(case, method, numbers, 0)]) for method in tried]
    return tried[int(np.argmin(found))]


def keep(path: Path, case: Case, method: Method | None, numbers: Sequence[int], seed: int) -> list[Scores]:
    """Scores from a file, made unless it is there; without a method of optimal interpolation."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = score(case, method or calibrated(case, range(CALIBRATION)), numbers, seed)
        np.save(path, np.array([np.r_[s.crps, s.error, s.variance, s.residuals, s.data] for s in found]))
        print(path, flush=True)
    return [Scores(r[:3], r[3], r[4], r[5:7], r[7:9]) for r in np.load(path)]


def scored(case: Case, folders: Sequence[Path], numbers: Sequence[int], kept: Path) -> dict[str, list[list[Scores]]]:
    """Per method the scores of every seed, `folders` holding its policies; what nothing is tuned for has the noise of
    the first seed only, the formula that of all."""
    seeds = range(max(1, len(folders)))
    found = {"formula": [keep(kept / f"formula_{s}.npy", case, Method(), numbers, s) for s in seeds]}
    for rival in RIVALS if folders else ():
        tuned_ones = [Method(policy=folder / f"{rival}.pt") for folder in folders]
        found[rival] = [
            keep(kept / f"{rival}_{s}.npy", case, m, numbers, s) for s, m in zip(seeds, tuned_ones, strict=True)
        ]
    for other, method in UNTUNED.items():
        path = kept / f"{other.replace(' ', '_').replace(',', '')}.npy"
        found[other] = [keep(path, case, method, numbers, 0)]
    return found


def rows(name: str, found: dict[str, list[list[Scores]]], windows: Sequence[Window]) -> list[dict[str, Any]]:
    """One row per method, over all levels and at each that has windows. Differences are bootstrapped over places: the
    levels of one column, month and hemisphere are not independent, windows of other columns do not overlap."""
    out = []
    for method, seeds in found.items():
        for level in (None, *sorted({w.level for w in windows})):
            here = [i for i, w in enumerate(windows) if level in (None, w.level)]
            place = places([windows[i] for i in here])
            own, formula = (
                place(np.mean([[f[i].crps.mean() for i in here] for f in s], 0))
                for s in (seeds, found["formula"][: len(seeds)])
            )
            every = [f[i] for f in seeds for i in here]
            row: dict[str, Any] = {"problems": name, "method": method, "level": level or "all", "seeds": len(seeds)}
            row |= {"windows": len(here), "places": len(own)}
            row |= dict(zip(("crps", "low", "high"), map(float, bootstrap(own, np.mean)), strict=True))
            ends = map(float, paired_bootstrap(own, formula))
            row |= dict(zip(("minus formula", "minus low", "minus high"), ends, strict=True))
            if method in RIVALS:
                rival = place(np.mean([[f[i].crps.mean() for i in here] for f in found["scheduled"]], 0))
                ends = map(float, paired_bootstrap(own, rival))
            else:
                ends = iter([float("nan")] * 3)
            row |= dict(zip(("minus scheduled", "scheduled low", "scheduled high"), ends, strict=True))
            row |= {f"crps {c}": float(np.mean([s.crps[k] for s in every])) for k, c in enumerate("zuv")}
            row |= {"spread over error": spread(every)}
            for k, equation in enumerate(BOTH):
                row |= {f"{equation}": float(np.mean([s.residuals[k] for s in every]))}
                row |= {f"{equation}, data": float(np.mean([s.data[k] for s in every]))}
            out.append(row)
    return out


def spread(scores: Sequence[Scores]) -> float:
    """The members' standard deviation over the error of their mean."""
    return float(np.sqrt(np.mean([s.variance for s in scores]) / np.mean([s.error for s in scores])))


def places(windows: Sequence[Window]) -> Callable[[NDArray], NDArray]:
    """The mean over the windows of each column, month and hemisphere, as a function of values (windows,)."""
    keys = [(w.column, w.month, w.north) for w in windows]
    order = {k: n for n, k in enumerate(dict.fromkeys(keys))}
    index = np.array([order[k] for k in keys], int)

    def mean(values: NDArray) -> NDArray:
        return np.bincount(index, values) / np.bincount(index)

    return mean


def settings(
    run: Path, steps: int, numbers: Sequence[int], kept: Path, device: torch.device = CPU
) -> list[dict[str, Any]]:
    """What there is to gain by knowing how well each equation holds, setting by setting, on windows for tuning."""
    out = []
    for points, error, what in SETTINGS:
        channels = tuple("zuv".index(c) for c in what)
        case = case_of(run, Variety((points, points), channels, (error, error), steps=(steps, steps)), device=device)
        found = {"formula": np.zeros(0)}
        for method in ("formula", "observations alone", "formula, knows how well each holds", "formula, white s2"):
            path = kept / f"{points}_{what}_{error}_{method.replace(' ', '_').replace(',', '')}.npy"
            scores = keep(path, case, UNTUNED.get(method, Method()), numbers, 0)
            found[method] = np.array([s.crps.mean() for s in scores])
            row: dict[str, Any] = {"stations": points, "of": what, "told error": error, "method": method}
            row |= {"problems": len(scores), "crps": float(found[method].mean())}
            ends = map(float, paired_bootstrap(found[method], found["formula"]))
            out.append(
                row
                | dict(zip(("minus formula", "low", "high"), ends, strict=True))
                | {"spread over error": spread(scores)}
            )
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="competing equations on a reanalysis")
    parser.add_argument("--data", type=Path, help="a file of z, u, v, or the folder it is in")
    parser.add_argument("--runs", type=Path, default=Path("runs/reanalysis"), help="where what is done is kept")
    parser.add_argument("--small", action="store_true", help="few steps, one seed")
    parser.add_argument("--only", choices=("table", "settings"), help="one of the two")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    add_device(parser)
    given = parser.parse_args(argv)
    device = given.device
    if given.data is None and not given.small:
        parser.error("--data FILE: the full table needs a reanalysis; --small takes synthetic fields without it")
    runs = kept_in(given.runs / "small" if given.small else given.runs, device)
    windows = [w for w in fit(given.data, runs, given.small, device) if w.sector == "judge"]
    count, seeds, steps = (6, SEEDS[:1], 3) if given.small else (len(windows), SEEDS, None)
    numbers = [JUDGED + i for i in range(count)]
    judged = [windows[n % len(windows)] for n in numbers]
    table = []
    for name, (config, contest) in CASES.items() if given.only != "settings" else ():
        parents = [runs / f"run_{config.stem}" / str(seed) for seed in seeds] if contest else []
        for seed, folder in zip(seeds, parents, strict=False):
            words = (f"--seed={seed}", f"--device={device}", *(SMALL_TUNE if given.small else ()))
            tuned(runs / "run", config, folder, words)
        folders = [folder / "policies" for folder in parents]
        case = case_of(runs / "run", config, steps, device)
        table += rows(name, scored(case, folders, numbers, runs / f"scores_{config.stem}"), judged)
    end = "_small" if given.small else ""
    about = f"{given.date}; 1 thread"
    if table:
        whole = f"two equations and observations on a reanalysis; {about}"
        write_table(RESULTS / f"reanalysis{end}.csv", table, whole, device)
    if given.only == "table":
        return 0
    looked = settings(runs / "run", steps or 8, range(count if given.small else LOOKED), runs / "settings", device)
    about = f"settings looked at, on windows for tuning; {about}"
    write_table(RESULTS / f"reanalysis_settings{end}.csv", looked, about, device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
