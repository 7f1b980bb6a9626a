"""The rows of the sparse table, by set and task."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.sparse_methods import (
    FORMS,
    MEMBERS,
    exact_draws,
    exact_mean,
    exact_prior,
    guided,
    resolved,
    rival,
    unguided,
    without_network,
)
from benchmarks.sparse_problems import Problem, Set, Task
from sciguide.baselines import kriged
from sciguide.model import Model

EXACT = "exact posterior, mean"
USUAL = 20  # evaluations of rows that are there once
MOST_EXACT = 64  # points along a side up to which the exact prior's modes are computed


class Plan(NamedTuple):
    """Of one size: samples of training and validation; `draws` to reconstruct, `few` of them by rows that are dear;
    evaluations of the chains, and of those that take the equation at every step, `coupled`; `fit`: what overrides the
    config; `trained`: whether there is a network."""

    training: int
    validation: int
    draws: int
    few: int
    steps: tuple[int, ...]
    coupled: tuple[int, ...]
    fit: tuple[str, ...] = ()
    trained: bool = True


class Row(NamedTuple):
    """A method: `make` the ensemble (M, 2, n, n) of a problem, with so many evaluations of a denoiser; `dear`: of few
    draws only."""

    method: str
    evaluations: int
    make: Callable[[Problem], np.ndarray]
    dear: bool = False


class Models(NamedTuple):
    """The `trained` model, its prior alone as `plain`, and the `exact` prior's where there is one."""

    trained: Model
    plain: Model
    exact: Model | None


def models_of(of: Set, model: Model) -> Models:
    """What the rows of all tasks share: at 64 x 64 the exact prior's modes take a minute."""
    exact = None
    if of.gaussian and model.shape[-1] <= MOST_EXACT:
        exact = without_network(model, exact_prior(of.name, model))
    return Models(model, without_network(model), exact)


def rows_of(of: Set, plan: Plan, models: Models, task: Task) -> Iterator[Row]:
    """All rows of one task."""
    model = models.trained
    if of.gaussian:
        yield Row(EXACT, 0, exact_mean)
        yield Row("exact posterior, draws", 0, exact_draws)
    yield from _without_chain(of, model, task)
    if models.exact:
        for steps in plan.steps:
            make = partial(guided, models.exact, steps=steps, equations=False)
            yield Row("exact prior, observations", steps, make, True)
    once = tuple(count for count in plan.coupled if count == USUAL)
    yield from _formula("N(mu, C), ", models.plain, (USUAL,), once, False)
    if plan.trained:
        yield Row("network, unguided", USUAL, partial(unguided, model, steps=USUAL), True)
        yield from _formula("network, ", model, plan.steps, plan.coupled, True)
        if task.name == "forward":
            yield Row(
                "network, observations, re-solved", USUAL, _again(partial(guided, model, steps=USUAL, equations=False))
            )
        for form in FORMS:
            yield Row(f"network, {form}", USUAL, partial(rival, model, form=form, steps=USUAL), True)


def _without_chain(of: Set, model: Model, task: Task) -> Iterator[Row]:
    """Of the prior that was fitted, without a chain."""

    def kriging(p: Problem, part: int) -> np.ndarray:
        return kriged(model, p.observations(model.layout, model.normaliser), MEMBERS, p.number, True)[part].fields

    yield Row("N(mu, C), draws", 0, partial(unguided, model))
    yield Row("N(mu, C), kriging, mean", 0, partial(kriging, part=1))
    yield Row("N(mu, C), kriging, draws", 0, partial(kriging, part=0))
    if task.name == "forward" and of.gaussian:
        yield Row("N(mu, C), kriging, draws, re-solved", 0, _again(partial(kriging, part=0)))


def _formula(name: str, model: Model, steps: tuple[int, ...], coupled: tuple[int, ...], whole: bool) -> Iterator[Row]:
    """Observations alone, with the equation, and with scales by maximum likelihood; of all draws, where `whole`, with
    the usual number of evaluations."""
    for count in steps:
        make = partial(guided, model, steps=count, equations=False)
        yield Row(f"{name}observations", count, make, not whole or count != USUAL)
    likely = partial(guided, model, steps=USUAL, scales="ml")
    yield Row(f"{name}observations, scales ml", USUAL, partial(likely, equations=False), True)
    for count in coupled:
        make = partial(guided, model, steps=count)
        yield Row(f"{name}observations + equation", count, make, not whole or count != USUAL)
    if USUAL in coupled:
        yield Row(f"{name}observations + equation, scales ml", USUAL, likely, True)


def _again(make: Callable[[Problem], np.ndarray]) -> Callable[[Problem], np.ndarray]:
    return lambda p: resolved(p, make(p))
