"""Reconstruction of ocean currents from sparse observations: members given 100 points, and their scores."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide import scores
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.cli import main as sciguide
from sciguide.guidance import Guidance, constraints_for
from sciguide.kriging import Kriging
from sciguide.model import Model
from sciguide.noise import normals
from sciguide.observations import Observations, locate
from sciguide.sampler import sample

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


def physical(model: Model, x: Tensor) -> np.ndarray:
    return np.where(model.layout.mask, model.normaliser.decode(x).cpu().numpy(), np.nan)


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
    """How members are made for a day: `kind` none, fixed, interpolation, or a policy's, whose file is `tuned`.

    `scales` of guidance, which is by the observations alone; `inflate`: variances of the prior and of the errors of
    observations, for interpolation.
    """

    kind: str
    scales: str = "told"
    inflate: tuple[float, float] = (1.0, 1.0)
    tuned: Path | None = None


def members(case: Case, method: Method, observations: Observations, seed: int) -> np.ndarray:
    """The ensemble (M, C, Y, X) of a method, physical."""
    model, observations = case.model, observations.to(case.model.device)
    noise = model.white(seed, range(MEMBERS))
    if method.kind == "interpolation":
        return physical(model, interpolate(model, observations, noise, method.inflate, seed))
    guidance = None
    if method.kind != "none":
        constraints = constraints_for(model, observations, method.scales, equations=False)
        names = model.layout.names
        if method.tuned:
            guidance = Guidance.tuned(method.tuned, constraints, names, STEPS)
        else:
            guidance = Guidance(constraints, None, names, STEPS)
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
    errors = torch.from_numpy(normals(seed, range(len(noise)), 1, (len(told),), np.float64)).to(draws)
    perturbed = told.innovation(draws) + errors
    weights = torch.linalg.solve(matrix + torch.eye(len(told), dtype=matrix.dtype).to(matrix), perturbed.T).T
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


def tune(run: Path, scales: str, device: torch.device) -> dict[str, Path]:
    """The tuned policies of the calibration run, made unless they are there."""
    words = ["tune", str(run), "--points", str(POINTS), "--error", "0.12", "--no-equations", "--scales", scales]
    words += ["--device", str(device)]
    if sciguide([*words, "--trajectories", "384", "--judged", "14"]):
        raise SystemExit("the policies could not be tuned")
    return {name: run / "policies" / f"{name}.pt" for name in ("scheduled", "linear", "learned")}


def conditional_table(calibration: Case, final: Case, run: Path) -> list[dict[str, Any]]:
    """Every third day of October: none, the formula, the tuned policies, optimal interpolation with the same
    covariance, and the nearest training day."""
    formula, interpolation = calibrate(calibration)
    tuned = {
        n: formula._replace(kind=n, tuned=path)
        for n, path in tune(run, formula.scales, calibration.model.device).items()
    }
    found = {
        "none": score_days(final, Method("none")),
        "fixed": score_days(final, formula),
        **{name: score_days(final, method) for name, method in tuned.items()},
        "optimal interpolation": score_days(final, interpolation),
        "nearest training day": nearest_day(final),
    }
    options = {name: f"scales {formula.scales}" for name in ("fixed", *tuned)}
    options["optimal interpolation"] = "variances x {} and {}".format(*interpolation.inflate)
    return [{**summary(name, days, found), "options": options.get(name, "")} for name, days in found.items()]


def summary(name: str, days: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """A row: CRPS and its differences to interpolation and to the formula, by block bootstrap over the same days."""
    value, low, high = (float(v) for v in bootstrap(days[:, 0], np.mean, seed=0, block=BLOCK))
    row = {"method": name, "days": len(days), "crps": value, "low": low, "high": high}
    for other, rival in (("interpolation", "optimal interpolation"), ("fixed", "fixed")):
        difference = paired_bootstrap(days[:, 0], found[rival][:, 0], seed=0, block=BLOCK)
        keys = (f"minus_{other}", f"minus_{other}_low", f"minus_{other}_high")
        row |= dict(zip(keys, map(float, difference), strict=True))
    error, spread = np.sqrt(days[:, 1].mean()), np.sqrt(days[:, 2].mean())
    return row | {"rmse": float(error), "spread_over_error": float(spread / error)}
