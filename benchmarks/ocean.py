"""Ocean currents off South Africa: the sampler, unconditional members, and reconstruction from sparse observations.

    python benchmarks/ocean.py --data 'PATH/*.nc' [--runs runs/ocean] [--only sampler|unconditional|conditional]

Ten months of daily GlobCurrent fields, about 14 independent states. Everything calibrated or tuned is so on 21 August
to 30 September with a network and prior of January to July; it is carried unchanged to the model of January to
September. October is scored once.
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.rivals import dpm_solver_2m, heun, white_start
from benchmarks.tables import RESULTS, write_table
from sciguide import metrics, scores
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.cli import main as sciguide
from sciguide.datasets.prepare import prepare
from sciguide.equations import get
from sciguide.guidance import Guidance, constraints_for
from sciguide.kriging import Kriging
from sciguide.model import Model
from sciguide.noise import normals
from sciguide.observations import Observations, locate
from sciguide.policy import Fixed
from sciguide.sampler import sample

CONFIG = "configs/ocean_currents.yaml"
VARIABLES = ["eastward_eulerian_current_velocity", "northward_eulerian_current_velocity"]
SPLITS = {"calibration": ("2002-01-01", "2002-07-31"), "final": ("2002-01-01", "2002-09-30")}
WINDOWS = {"calibration": ("2002-08-21", "2002-09-30"), "final": ("2002-10-01", "2002-10-31")}
EDM = "--model.prior isotropic --model.noise log_normal --model.sigma_max 80 --model.sigma_min 0.002".split()
POINTS, ERROR, MEMBERS, STEPS, EVERY = 100, 0.05, 32, 20, 3
BLOCK = 5  # scored days, three days apart, that are about as long as the currents' memory of two to three weeks


class Case(NamedTuple):
    """A model, the days it has not seen (T, C, Y, X) with their numbers, and its training days."""

    model: Model
    days: np.ndarray
    numbers: np.ndarray
    training: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        return replace(self.model.grid, mask=None).weights() * self.model.layout.mask


def fit(run: Path, data: str, train: tuple[str, str], validation: tuple[str, str] | None, *extra: str) -> Path:
    """Train the run unless it is there."""
    held = "null" if validation is None else str(list(validation)).replace("'", "")
    words = ["fit", "-c", CONFIG, "--run", str(run), "--data.source", data, "--data.test", "null"]
    words += ["--data.train", str(list(train)).replace("'", ""), "--data.validation", held, *extra]
    if not (run / "model.pt").is_file() and sciguide(words):
        raise SystemExit(f"{run} could not be trained")
    return run / "model.pt"


def load(path: Path, data: str, name: str) -> Case:
    """The case "calibration" or "final"."""
    prepared = prepare(data, VARIABLES, train=list(SPLITS[name]), validation=list(WINDOWS[name]))
    days = np.asarray(prepared.rows("validation"))
    dates = prepared.times_of("validation").astype("datetime64[D]")
    return Case(Model.load(path), days, dates.astype(int), np.asarray(prepared.rows("train")))


def physical(model: Model, x: Tensor) -> np.ndarray:
    return np.where(model.layout.mask, model.normaliser.decode(x).numpy(), np.nan)


def anomalies(x: np.ndarray) -> np.ndarray:
    return x - x.mean(0)


# the sampler


def sampler_table(ours: Case, edm: Model, count: int) -> list[dict[str, Any]]:
    """Energy distance of anomalies to the held-out days, at 5, 10 and 20 network evaluations."""
    noise = torch.from_numpy(normals(1, range(count), 0, ours.model.shape, np.float64))
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
    noise = torch.from_numpy(normals(2, range(MEMBERS), 0, model.shape, np.float64))
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


# reconstruction from sparse observations


def observe(case: Case, day: int) -> tuple[Observations, np.ndarray]:
    """u and v at random sea points of a day with noise, seeded by the day; and the mask (Y, X) of the points."""
    model, rng = case.model, np.random.default_rng(int(case.numbers[day]))
    sea = np.argwhere(model.layout.mask.all(0))
    j, i = sea[rng.choice(len(sea), POINTS, replace=False)].T
    truth = case.days[day][:, j, i]
    channel = np.repeat([0, 1], POINTS)
    value = (truth + ERROR * rng.standard_normal(truth.shape)).ravel().astype(float)
    y, x = np.tile(model.layout.y[j], 2), np.tile(model.layout.x[i], 2)
    at = np.zeros(model.layout.mask.shape[1:], bool)
    at[j, i] = True
    error = np.full(len(value), ERROR)
    return locate(model.layout, model.normaliser, channel, y, x, value, error), at


class Method(NamedTuple):
    """How members are made for a day: `kind` none, fixed or interpolation; `scales` of guidance, which is by the
    observations alone; `inflate`: variances of the prior and of the errors of observations, for interpolation."""

    kind: str
    scales: str = "told"
    inflate: tuple[float, float] = (1.0, 1.0)


def members(case: Case, method: Method, observations: Observations, seed: int) -> np.ndarray:
    """The ensemble (M, C, Y, X) of a method, physical."""
    model = case.model
    noise = torch.from_numpy(normals(seed, range(MEMBERS), 0, model.shape, np.float64))
    if method.kind == "interpolation":
        return physical(model, interpolate(model, observations, noise, method.inflate, seed))
    guidance = None
    if method.kind == "fixed":
        constraints = constraints_for(model, observations, method.scales, equations=False)
        actions = len(Guidance.action_names(constraints, model.layout.names))
        guidance = Guidance(constraints, Fixed(actions), len(model.layout.names), STEPS)
    sigmas = model.sigmas(STEPS)
    start = guidance.start(noise, sigmas[0], model.prior) if guidance else None
    *_, last = sample(model.denoise, model.prior, noise, sigmas, guidance, start)
    return physical(model, last.guided)


def interpolate(
    model: Model, observations: Observations, noise: Tensor, inflate: tuple[float, float], seed: int
) -> Tensor:
    """Optimal interpolation with the model's own covariance: draws of N(mu, a C), conditioned on observations whose
    error variances are b times what was told, each draw with its own perturbed observations."""
    a, b = inflate
    prior, told = model.prior, replace(observations, error=observations.error * b**0.5)

    def covariance(v: Tensor, sigma: float) -> Tensor:
        return a * prior.scale_modes(v, prior.variances)

    matrix = Kriging(prior, told, "told", covariance).system(0.0).matrix
    draws = prior.mean + a**0.5 * (prior.sample(noise) - prior.mean)
    perturbed = told.innovation(draws) + torch.from_numpy(normals(seed, range(len(noise)), 1, (len(told),), np.float64))
    weights = torch.linalg.solve(matrix + torch.eye(len(told), dtype=matrix.dtype), perturbed.T).T
    return draws - covariance(told.scatter(weights, model.shape), 0.0)


def score_days(case: Case, method: Method, every: int = EVERY) -> np.ndarray:
    """Fair CRPS, mean square error and mean variance of every scored day at the points not observed, (T, 3)."""
    rows = []
    for day in range(0, len(case.days), every):
        observations, at = observe(case, day)
        elsewhere = case.weights * ~at
        rows.append(score(members(case, method, observations, int(case.numbers[day])), case.days[day], elsewhere))
    return np.array(rows)


def score(ensemble: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    share = weights / weights.sum()
    valid = share > 0
    crps = scores.crps_points(ensemble[:, valid], truth[valid]) @ share[valid]
    variance = ensemble[:, valid].var(0, ddof=1) @ share[valid] * (len(ensemble) + 1) / len(ensemble)
    return float(crps), float((ensemble[:, valid].mean(0) - truth[valid]) ** 2 @ share[valid]), float(variance)


def nearest_day(case: Case) -> np.ndarray:
    """The training day nearest to the observations, as one certain forecast: its CRPS is its absolute error."""
    rows = []
    x = torch.nan_to_num(case.model.normaliser.encode(torch.tensor(case.training, dtype=torch.float64)))
    for day in range(0, len(case.days), EVERY):
        observations, at = observe(case, day)
        best = int(observations.innovation(x).square().mean(1).argmin())
        share = case.weights * ~at
        share, valid = share / share.sum(), share > 0
        error = (case.training[best] - case.days[day])[valid]
        rows.append((np.abs(error) @ share[valid], error**2 @ share[valid], float("nan")))
    return np.array(rows)


def calibrate(case: Case) -> tuple[Method, Method]:
    """The formula's options and the interpolation's scales with the least CRPS on the calibration window."""
    guided = [Method("fixed", s) for s in ("told", "ml")]
    free = [
        Method("interpolation", inflate=s) for s in itertools.product((0.5, 0.7, 1.0, 1.4, 2.0), (0.5, 1.0, 2.0, 4.0))
    ]
    best = []
    for methods in (guided, free):
        found = [float(score_days(case, m)[:, 0].mean()) for m in methods]
        for m, value in zip(methods, found, strict=True):
            print(f"calibration: {m} CRPS {value:.4f}", flush=True)
        best.append(methods[int(np.argmin(found))])
    return tuple(best)


def conditional_table(calibration: Case, final: Case) -> list[dict[str, Any]]:
    """Every third day of October: none, the formula, optimal interpolation and the nearest training day."""
    formula, interpolation = calibrate(calibration)
    found = {
        "none": score_days(final, Method("none")),
        "fixed": score_days(final, formula),
        "optimal interpolation": score_days(final, interpolation),
        "nearest training day": nearest_day(final),
    }
    rows = []
    for name, days in found.items():
        crps = bootstrap(days[:, 0], np.mean, seed=0, block=BLOCK)
        against = paired_bootstrap(days[:, 0], found["optimal interpolation"][:, 0], seed=0, block=BLOCK)
        row = {"method": name, "crps": float(crps.value), "low": float(crps.low), "high": float(crps.high)}
        row |= {"minus_interpolation": float(against.value), "minus_low": float(against.low)}
        row |= {"minus_high": float(against.high), "rmse": float(np.sqrt(days[:, 1].mean()))}
        row |= {"spread_over_error": float(np.sqrt(days[:, 2].mean() / days[:, 1].mean())), "days": len(days)}
        options = {"fixed": formula, "optimal interpolation": interpolation}.get(name)
        row["options"] = "" if options is None else " ".join(map(str, options[1:])).replace(",", "")
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the daily files, a quoted pattern")
    parser.add_argument("--runs", type=Path, default=Path("runs/ocean"))
    parser.add_argument("--only", choices=("sampler", "unconditional", "conditional"))
    parser.add_argument("--samples", type=int, default=256, help="of the sampler's table")
    options = parser.parse_args()
    window = WINDOWS["calibration"]
    ours = fit(options.runs / "A", options.data, SPLITS["calibration"], window)
    calibration = load(ours, options.data, "calibration")
    if options.only in (None, "sampler"):
        edm = Model.load(fit(options.runs / "E", options.data, SPLITS["calibration"], window, *EDM))
        rows = sampler_table(calibration, edm, options.samples)
        write_table(RESULTS / "ocean_sampler.csv", rows, "anomalies against 21 August to 30 September, equal training")
    if options.only == "sampler":
        return
    final = load(fit(options.runs / "B", options.data, SPLITS["final"], None), options.data, "final")
    final.model.error = calibration.model.error
    if options.only in (None, "unconditional"):
        rows = unconditional_table(final)
        write_table(RESULTS / "ocean_unconditional.csv", rows, "unconditional members of the January-September model")
    if options.only in (None, "conditional"):
        rows = conditional_table(calibration, final)
        write_table(
            RESULTS / "ocean_conditional.csv", rows, "every third day of October from 100 noisy points of u and v"
        )


if __name__ == "__main__":
    main()
