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
    through_network,
    unguided,
    without_network,
)
from benchmarks.sparse_problems import Problem, Set, Task
from sciguide.baselines import kriged
from sciguide.model import Model

EXACT = "exact posterior, mean"
USUAL = 20  # evaluations of rows that are there once
STRENGTHS = (0.3, 1.0, 3.0)  # of DPS
MOST_EXACT = 32  # points along a side up to which the exact prior's modes are computed


class Plan(NamedTuple):
    """Of one size: samples of training and validation; `draws` to reconstruct, `few` of them by rows that are dear;
    evaluations of the chains, and of those that take the equation at every step, `coupled`; `share` of a set's epochs
    that its network is trained for; `fit`: what overrides the config."""

    training: int
    validation: int
    draws: int
    few: int
    steps: tuple[int, ...]
    coupled: tuple[int, ...]
    share: float = 1.0
    fit: tuple[str, ...] = ()


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
    """What the rows of all tasks share: at 64 x 64 the exact prior's modes take a minute, and its chains 16 s each."""
    exact = None
    if of.gaussian and model.shape[-1] <= MOST_EXACT:
        exact = without_network(model, exact_prior(of.name, model))
    return Models(model, without_network(model), exact)


def rows_of(of: Set, plan: Plan, models: Models, task: Task) -> Iterator[Row]:
    """All rows of one task; rivals, and what evaluations cost, of the inverse one without noise alone."""
    model, whole = models.trained, task == Task("inverse", 0.0)
    if of.gaussian:
        yield Row(EXACT, 0, exact_mean)
        yield Row("exact posterior, draws", 0, exact_draws)
    yield from _without_chain(of, model, task)
    if models.exact and whole:
        for steps in plan.steps:
            make = partial(guided, models.exact, steps=steps, equations=False)
            yield Row("exact prior, observations", steps, make, True)
    plain = partial(guided, models.plain, steps=USUAL)
    yield Row("N(mu, C), observations", USUAL, partial(plain, equations=False), True)
    if USUAL in plan.coupled and whole and of.gaussian:
        yield Row("N(mu, C), observations + equation", USUAL, plain, True)
    yield from _alone(model, plan, whole)
    if plan.coupled and (of.gaussian or (of.equation and task.name == "forward")):  # Darcy's equation moves p alone
        yield from _together(model, plan, whole)
    if task.name == "forward" and of.equation:
        make = _again(partial(guided, model, steps=USUAL, equations=False))
        yield Row("network, observations, re-solved", USUAL, make)
    if whole:
        yield from _rivals(model)


def _alone(model: Model, plan: Plan, whole: bool) -> Iterator[Row]:
    """With the network, by observations alone, and with the variance that a network tells; where `whole`, with other
    numbers of evaluations and scales by maximum likelihood."""
    alone = partial(guided, model, equations=False)
    for count in plan.steps if whole else (USUAL,):
        yield Row("network, observations", count, partial(alone, steps=count), count != USUAL)
    likely = partial(alone, steps=USUAL, scales="ml")
    if whole:
        yield Row("network, observations, scales ml", USUAL, likely, True)
    if model.variance:
        yield Row("network, observations, learned variance", USUAL, partial(alone, steps=USUAL, variance="learned"))
        if whole:
            name = "network, observations, scales ml, learned variance"
            yield Row(name, USUAL, partial(likely, variance="learned"), True)


def _together(model: Model, plan: Plan, whole: bool) -> Iterator[Row]:
    """The same with the equation."""
    usual = USUAL if USUAL in plan.coupled else plan.coupled[0]
    for count in plan.coupled if whole else (usual,):
        yield Row("network, observations + equation", count, partial(guided, model, steps=count), count != usual)
    if model.variance:
        make = partial(guided, model, steps=usual, variance="learned")
        yield Row("network, observations + equation, learned variance", usual, make)


def _rivals(model: Model) -> Iterator[Row]:
    """Other forms of guidance, and none."""
    yield Row("network, unguided", USUAL, partial(unguided, model, steps=USUAL), True)
    for form in FORMS:
        yield Row(f"network, {form}", USUAL, partial(rival, model, form=form, steps=USUAL), True)
    for strength in STRENGTHS:
        make = partial(through_network, model, strength=strength, steps=USUAL)
        yield Row(f"network, DPS, strength {strength:g}", USUAL, make, True)


def _without_chain(of: Set, model: Model, task: Task) -> Iterator[Row]:
    """Of the prior that was fitted, without a chain."""

    def kriging(p: Problem, part: int) -> np.ndarray:
        return kriged(model, p.observations(model.layout, model.normaliser), MEMBERS, p.number, True)[part].fields

    yield Row("N(mu, C), draws", 0, partial(unguided, model))
    yield Row("N(mu, C), kriging, mean", 0, partial(kriging, part=1))
    yield Row("N(mu, C), kriging, draws", 0, partial(kriging, part=0))
    if task.name == "forward" and of.gaussian:
        yield Row("N(mu, C), kriging, draws, re-solved", 0, _again(partial(kriging, part=0)))


def _again(make: Callable[[Problem], np.ndarray]) -> Callable[[Problem], np.ndarray]:
    return lambda p: resolved(p, make(p))
