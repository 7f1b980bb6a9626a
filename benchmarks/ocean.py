"""Ocean currents off South Africa: the sampler, unconditional members, and reconstruction from sparse observations.

    python -m benchmarks.ocean --data 'PATH/*.nc' [--runs runs/ocean] [--only sampler|unconditional|conditional]

Ten months of daily GlobCurrent fields, about 14 independent states. Everything calibrated or tuned is so on 21 August
to 30 September with a network and prior of January to July; it is carried unchanged to the model of January to
September. October is scored once.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import torch
from torch import Tensor

from benchmarks.reconstruction import MEMBERS, STEPS, Case, conditional_table, physical
from benchmarks.rivals import dpm_solver_2m, heun, white_start
from benchmarks.tables import RESULTS, add_device, kept_in, trained_on, write_table
from sciguide import metrics
from sciguide.bootstrap import bootstrap
from sciguide.cli import main as sciguide
from sciguide.datasets.prepare import prepare
from sciguide.equations import get
from sciguide.model import Model
from sciguide.sampler import sample

CONFIG = "configs/ocean_currents.yaml"
VARIABLES = ["eastward_eulerian_current_velocity", "northward_eulerian_current_velocity"]
SPLITS = {"calibration": ("2002-01-01", "2002-07-31"), "final": ("2002-01-01", "2002-09-30")}
WINDOWS = {"calibration": ("2002-08-21", "2002-09-30"), "final": ("2002-10-01", "2002-10-31")}
EDM = "--model.prior isotropic --model.noise log_normal --model.sigma_max 80 --model.sigma_min 0.002".split()


def fit(run: Path, data: str, train: tuple[str, str], validation: tuple[str, str] | None, *extra: str) -> Path:
    """Train the run unless it is there; `extra`: words of `sciguide fit`."""
    held = "null" if validation is None else str(list(validation)).replace("'", "")
    words = ["fit", "-c", CONFIG, "--run", str(run), "--data.source", data, "--data.test", "null"]
    words += ["--data.train", str(list(train)).replace("'", ""), "--data.validation", held, *extra]
    if not (run / "model.pt").is_file() and sciguide(words):
        raise SystemExit(f"{run} could not be trained")
    return run / "model.pt"


def load(path: Path, data: str, name: str, device: torch.device | str = "cpu") -> Case:
    """The case "calibration" or "final", its model on a device."""
    prepared = prepare(data, VARIABLES, train=list(SPLITS[name]), validation=list(WINDOWS[name]))
    days = np.asarray(prepared.rows("validation"))
    dates = prepared.times_of("validation").astype("datetime64[D]")
    return Case(Model.load(path, device), days, dates.astype(int), np.asarray(prepared.rows("train")))


def anomalies(x: np.ndarray) -> np.ndarray:
    return x - x.mean(0)


# the sampler


def sampler_table(ours: Case, edm: Model, count: int) -> list[dict[str, Any]]:
    """Energy distance of anomalies to the held-out days, at 5, 10 and 20 network evaluations."""
    noise = ours.model.white(1, range(count))
    held = anomalies(ours.days)

    def draw(name: str, steps: int) -> Tensor:
        out = []
        for part in noise.split(32):
            if name == "eof, along the prior":
                *_, last = sample(ours.model.denoise, ours.model.prior, part, ours.model.sigmas(steps))
                out.append(last.x)
            else:
                method = heun if "Heun" in name else dpm_solver_2m
                start = white_start(torch.where(edm.prior.mask, part, 0), edm.sigma_max)
                out.append(method(edm.denoise, start, steps, edm.sigma_min, edm.sigma_max))
        return torch.cat(out)

    rows = []
    draws = ours.model.prior.sample(noise)
    for name in ("N(mu, C), no network", "eof, along the prior", "EDM, Heun", "EDM, 2M"):
        for steps in (0,) if name.startswith("N(") else (5, 10, 20):
            made = physical(ours.model, draws if steps == 0 else draw(name, steps))
            found = bootstrap(
                (anomalies(made), held), lambda a, b: metrics.energy_distance(a, b, ours.weights), n=200, seed=0
            )
            std = metrics.std_ratio(made, ours.days, ours.weights).mean()
            distance = {"energy_distance": float(found.value), "low": float(found.low), "high": float(found.high)}
            rows.append({"method": name, "evaluations": steps, **distance, "std_ratio": float(std), "n": count})
    floor = metrics.energy_distance(anomalies(ours.training[::5]), held, ours.weights)
    about = {"energy_distance": float(floor), "low": float("nan"), "high": float("nan")}
    std = float(metrics.std_ratio(ours.training, ours.days, ours.weights).mean())
    return [
        *rows,
        {"method": "training days", "evaluations": 0, **about, "std_ratio": std, "n": len(ours.training[::5])},
    ]


# unconditional members


def unconditional_table(case: Case) -> list[dict[str, Any]]:
    """Thirty-two members beside the data, random training days, and draws of the prior without a network."""
    model, rng = case.model, np.random.default_rng(0)
    noise = model.white(2, range(MEMBERS))
    *_, last = sample(model.denoise, model.prior, noise, model.sigmas(STEPS))
    random = rng.choice(len(case.training), MEMBERS, replace=False)
    sets = {
        "data, January-September": case.training,
        "data, October": case.days,
        "members": physical(model, last.x),
        "random training days": case.training[random],
        "N(mu, C), no network": physical(model, model.prior.sample(noise)),
    }
    operator = get("nondivergence")().on(model.grid)
    components = metrics.principal_components(case.training, case.weights)
    reference = metrics.eof_spectrum(case.training, case.weights, components)
    rows = []
    for name, x in sets.items():
        u = torch.nan_to_num(torch.from_numpy(np.asarray(x, np.float64)))
        curl = operator.scale_term(u)
        div, vort = operator.mean_square(operator.residual(u)).mean(), operator.scale_square(u).mean()
        kurtosis = metrics.kurtosis(curl[:, None].numpy(), operator.valid.numpy().astype(float))
        spectrum = metrics.spectrum_error(metrics.eof_spectrum(x, case.weights, components), reference)
        near = metrics.novelty(x, case.training, case.days, case.weights) if "data, J" not in name else float("nan")
        row = {"set": name, "n": len(x), "std_ratio": float(metrics.std_ratio(x, case.training, case.weights).mean())}
        row |= {"mean_error": float(metrics.mean_error(x, case.training, case.weights).mean())}
        row |= {"spectrum_error": float(spectrum), "vorticity_kurtosis": float(kurtosis[0])}
        row |= {"div_over_vort": float((div / vort).sqrt()), "novelty": float(near)}
        row |= {"energy_distance_oct": float(metrics.energy_distance(anomalies(x), anomalies(case.days), case.weights))}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the daily files, a quoted pattern")
    parser.add_argument("--runs", type=Path, default=Path("runs/ocean"))
    parser.add_argument("--only", choices=("sampler", "unconditional", "conditional"))
    parser.add_argument("--samples", type=int, default=128, help="of the sampler's table")
    add_device(parser)
    options = parser.parse_args()
    window, device, runs = WINDOWS["calibration"], options.device, kept_in(options.runs, options.device)
    trained = trained_on(device)
    ours = fit(runs / "A", options.data, SPLITS["calibration"], window, *trained)
    calibration = load(ours, options.data, "calibration", device)
    if options.only in (None, "sampler"):
        edm = Model.load(fit(runs / "E", options.data, SPLITS["calibration"], window, *EDM, *trained), device)
        rows = sampler_table(calibration, edm, options.samples)
        about = "anomalies against 21 August to 30 September, equal training"
        write_table(RESULTS / "ocean_sampler.csv", rows, about, device)
    if options.only == "sampler":
        return
    whole = fit(runs / "B", options.data, SPLITS["final"], None, *trained)
    final = load(whole, options.data, "final", device)
    final.model.error = calibration.model.error
    if options.only in (None, "unconditional"):
        rows = unconditional_table(final)
        about = "unconditional members of the January-September model"
        write_table(RESULTS / "ocean_unconditional.csv", rows, about, device)
    if options.only in (None, "conditional"):
        rows = conditional_table(calibration, final, runs / "A")
        about = "every third day of October from 100 noisy points of u and v"
        write_table(RESULTS / "ocean_conditional.csv", rows, about, device)


if __name__ == "__main__":
    main()
