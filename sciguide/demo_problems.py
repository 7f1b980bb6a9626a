"""The demo's data: pairs to learn from, test problems with noisy observations, and what is known without a network."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sciguide.cli import dispatch
from sciguide.datasets.store import LOCK, open_fields
from sciguide.kriging import Kriging
from sciguide.model import Model
from sciguide.noise import normals
from sciguide.observations import COLUMNS, Observations, read_observations
from sciguide.simulate.poisson import Posterior, exact_posterior

TRAINING, TESTING, OBSERVING, DRAWING, TUNING = 0, 1, 2, 3, 4  # seeds
FIELDS = ("f", "phi")
EXACT, EXACT_MEAN, PRIOR = "exact posterior, draws", "exact posterior, mean", "prior N(mu, C), no network"
FLAT = 1e4  # sigma over the prior's largest deviation, where M is C to rounding


class Plan(NamedTuple):
    """Sizes of a demo: `size` points along a side; samples for `training` and `validation`; test `problems`, each with
    `points` observations of phi whose errors are `noise` standard deviations of phi; `members` of each ensemble and
    `steps` of the chain; `scales` of `generate`: the errors are known here, so the formula takes them as told, which is
    its best; `trajectories` that each policy is tuned on, and problems that `tune` judges them by; `fit`:
    options that override the config."""

    size: int = 32
    training: int = 96
    validation: int = 48
    problems: int = 16
    points: int = 40
    noise: float = 0.05
    members: int = 16
    steps: int = 10
    scales: str = "told"
    trajectories: int = 512
    judged: int = 8
    fit: tuple[str, ...] = ()


SMALL = Plan(
    size=12,
    training=24,
    validation=12,
    problems=3,
    points=10,
    members=4,
    steps=3,
    trajectories=64,
    judged=2,
    fit=("--data.batch_size=8", "--data.steps_per_epoch=5", "--trainer.max_epochs=1", "--model.width=8"),
)
POLICIES = ("none", "fixed", "scheduled", "learned")


class Problem(NamedTuple):
    """A test problem: the `truth` (C, Y, X) of FIELDS, the `file` of the observations, their places (y, x) and values,
    (m,) each, and the exact posterior."""

    truth: NDArray[np.float32]
    file: Path
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    values: NDArray[np.float64]
    posterior: Posterior


def make_data(folder: Path, plan: Plan) -> list[Problem]:
    """Write the pairs to learn from and the true ones, and a CSV file of observations for each of these."""
    for name, samples, seed in (
        ("train.nc", plan.training + plan.validation, TRAINING),
        ("truth.nc", plan.problems, TESTING),
    ):
        words = ["--size", str(plan.size), "--samples", str(samples), "--seed", str(seed)]
        dispatch(["data", "make", "poisson", "--out", str(folder / name), *words])
    ds, _ = open_fields(str(folder / "truth.nc"))
    with LOCK:
        truths = np.stack([ds[name].values for name in FIELDS], 1)
        y, x = ds["y"].values, ds["x"].values
    ds.close()
    (folder / "observations").mkdir()
    error = plan.noise * float(truths[:, FIELDS.index("phi")].std())
    return [_observe(folder, plan, i, truth, y, x, error) for i, truth in enumerate(truths)]


def _observe(folder: Path, plan: Plan, index: int, truth: NDArray, y: NDArray, x: NDArray, error: float) -> Problem:
    """Noisy values of phi at distinct random grid points inside the edges, written as a file for `--obs`."""
    rng = np.random.default_rng([OBSERVING, index])
    inside = plan.size - 2
    j, i = np.divmod(rng.choice(inside**2, plan.points, replace=False), inside)
    j, i = j + 1, i + 1
    values = truth[FIELDS.index("phi"), j, i] + error * rng.standard_normal(plan.points)
    file = folder / "observations" / f"problem_{index:02d}.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(["phi", *row, error] for row in zip(y[j], x[i], values.tolist(), strict=True))
    posterior = exact_posterior(plan.size, "phi", np.stack([j, i], 1), values, error)
    return Problem(truth, file, y[j], x[i], values, posterior)


def references(model: Model, problems: list[Problem], members: int) -> dict[str, NDArray[np.float32]]:
    """What is known without a network, ensembles (P, M, C, Y, X): the exact posterior's mean (M = 1) and draws, and
    the model's own prior N(mu, C) conditioned on the observations."""
    means, draws, kriged = [], [], []
    for index, problem in enumerate(problems):
        posterior = problem.posterior
        drawn = posterior.draw(np.random.default_rng([DRAWING, index]), members)
        means.append(np.stack([posterior.mean[name] for name in FIELDS])[None])
        draws.append(np.stack([drawn[name] for name in FIELDS], 1))
        observations = read_observations(problem.file, model.layout, model.normaliser)
        kriged.append(conditional_draws(model, observations, members, index))
    found = {PRIOR: kriged, EXACT: draws, EXACT_MEAN: means}
    return {name: np.stack(ensembles).astype(np.float32) for name, ensembles in found.items()}


def conditional_draws(model: Model, observations: Observations, members: int, seed: int) -> NDArray[np.float64]:
    """Draws (M, C, Y, X) of the model's N(mu, C) given the observations, physical: prior draws x, corrected by
    -C A^T (A C A^T + 1)^-1 (A x + e - y), rows in told errors and e ~ N(0, 1)."""
    prior, sigma = model.prior, FLAT * model.prior.largest**0.5
    x = prior.sample(torch.from_numpy(normals(seed, range(members), 0, model.shape, np.float64)), 0.0)
    e = torch.from_numpy(np.random.default_rng([DRAWING, seed, 1]).standard_normal((members, len(observations))))
    matrix = Kriging(prior, observations, "told").system(sigma).matrix
    weights = torch.linalg.solve(matrix + torch.eye(len(matrix)).to(matrix), observations.innovation(x) + e, left=False)
    x = x - prior.apply_M(observations.scatter(weights, model.shape), sigma)
    return model.normaliser.decode(x).numpy()
