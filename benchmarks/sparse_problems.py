"""Sparse reconstruction: one of two fields is given at random points of the grid, the other is wanted.

The recipe of DiffusionPDE and FunDPS (arXiv 2406.17763, 2505.17004): 500 points of 128 x 128, drawn from the whole
grid, edges included. Other sizes have the same share of points, 125 of 64 x 64 and 32 of 32 x 32: as dense on the grid,
but the fields are the same, so fewer points say less of them and errors are larger. `forward` gives the input of the
equation and wants its solution, `inverse` gives the solution and wants the input, on the same points of the same draws;
inverse with noise too.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.observations import Observations, locate
from sciguide.simulate import get, samples
from sciguide.simulate.darcy_twophase import HIGH, LOW
from sciguide.simulate.linear_pair import Posterior

TRAINING, TESTING, TUNING = 0, 1, 2  # seeds of data sets: no draw is in two of them
OBSERVING, DRAWING = 3, 4  # of points and noise; of members
PUBLISHED, SIDE = 500, 128
TINY = 1e-6  # told error of noise-free values, in standard deviations: what is below it is rounding
THRESHOLD = (LOW + HIGH) / 2
PERIODIC = ("--model.prior=spectral", "--model.boundary=[periodic,periodic]")


class Set(NamedTuple):
    """A data set's input and solution, whether it is Gaussian and linear, so that its posterior is known, its equation
    for the config, if it has one, and epochs of training: what is not Gaussian has more to learn. `two_valued`: the
    input; `fit`: what overrides the config."""

    name: str
    input: str
    solution: str
    gaussian: bool
    equation: dict[str, dict[str, Any]]
    epochs: int
    two_valued: bool = False
    fit: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, str]:
        return self.input, self.solution


SETS = {
    s.name: s
    for s in (
        Set("poisson", "f", "phi", True, {"poisson": {}}, 5),
        Set("helmholtz", "f", "psi", True, {"helmholtz": {"k2": 1.0}}, 5),
        Set("darcy_twophase", "K", "p", False, {"darcy": {}}, 15, True),
        Set("navier_stokes_pair", "w0", "wT", False, {}, 8, fit=PERIODIC),
    )
}


class Task(NamedTuple):
    """What is given and what is wanted, and the errors of the values, in standard deviations of the field."""

    name: str
    noise: float

    def given(self, of: Set) -> str:
        return of.input if self.name == "forward" else of.solution

    def wanted(self, of: Set) -> str:
        return of.solution if self.name == "forward" else of.input


TASKS = Task("inverse", 0.0), Task("forward", 0.0), Task("inverse", 0.01)


@dataclass(frozen=True, eq=False)
class Problem:
    """Draw `number` of a set: the `truth` (2, n, n) of its variables; `values` (m,) of the channel `given` at `points`
    (m, 2), rows (j, i), with errors of standard deviation `error`, as is told. `channel`: the one that is wanted."""

    of: Set
    task: Task
    number: int
    truth: NDArray[np.float64]
    points: NDArray[np.intp]
    values: NDArray[np.float64]
    error: float
    given: int
    channel: int

    @property
    def size(self) -> int:
        return self.truth.shape[-1]

    def observations(self, layout: Layout, normaliser: Normaliser) -> Observations:
        """In the units of a model."""
        j, i = self.points.T
        m = len(self.points)
        channel = np.full(m, layout.names.index(self.of.variables[self.given]))
        return locate(layout, normaliser, channel, layout.y[j], layout.x[i], self.values, np.full(m, self.error))

    def posterior(self) -> Posterior:
        """What is known of both fields, where the set is Gaussian."""
        errors = 0.0 if self.task.noise == 0 else self.error
        name = self.of.variables[self.given]
        return get(self.of.name).exact_posterior(self.size, name, self.points, self.values, errors)


def points_of(size: int) -> int:
    """As many per area as published."""
    return ceil(PUBLISHED * size**2 / SIDE**2)


def problems(of: Set, task: Task, size: int, count: int, seed: int = TESTING, first: int = 0) -> list[Problem]:
    """Draws `first` ... `first + count - 1` of the set with that seed, which is not the training's."""
    if seed == TRAINING:
        raise ValueError("the draws of training are no test")
    drawn = samples(of.name, size, seed, count, first)
    truths = np.stack([drawn[v] for v in of.variables], 1)
    return [_problem(of, task, first + k, truth, seed) for k, truth in enumerate(truths)]


def _problem(of: Set, task: Task, number: int, truth: NDArray, seed: int) -> Problem:
    rng, n = np.random.default_rng([OBSERVING, seed, number]), truth.shape[-1]
    points = np.stack(np.divmod(np.sort(rng.choice(n * n, points_of(n), replace=False)), n), 1)
    given, channel = (of.variables.index(part(of)) for part in (task.given, task.wanted))
    std = truth[given].std()
    values = truth[given][*points.T] + task.noise * std * rng.standard_normal(len(points))
    return Problem(of, task, number, truth, points, values, max(task.noise, TINY) * float(std), given, channel)
