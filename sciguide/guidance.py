"""Guidance: the policy decides, the constraints correct the clean estimate.

At every noise level each constraint says what it sees of the estimate x0 (`features`), the policy turns that into a few
bounded numbers per member (`actions.py`), and each constraint moves x0 (`correct`) with its variance s^2 multiplied by
exp(a) and the metric M turned into E M E, E = exp(c / 2) per channel, or per channel and octave. Zero is the formula
itself. The sampler is never seen.
"""

import os
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from sciguide.actions import USUAL, Actions, Levers
from sciguide.equation_step import EquationStep
from sciguide.errors import InputError
from sciguide.gradient_step import GradientStep
from sciguide.kriging import Kriging
from sciguide.model import Model
from sciguide.observations import Observations
from sciguide.policy import Fixed, Policy, bounded, load_policy
from sciguide.prior import Prior
from sciguide.together import grouped

EVEN = 0.5  # the preference that weighs physics and distribution alike
MOST = 1e3  # root mean square of an estimate in the data's standard deviations: beyond it a correction has failed

Direction = Literal["kriging", "gradient"]
Errors = Literal["learned", "prior"]


class Constraint(Protocol):
    """What guidance asks of a constraint. `bands`: that its s^2 can be told apart in; `octaves`: that it can tell a
    metric apart in, 1 or 4; `iterative`: whether it takes an effort; `feature_names`: of what a policy sees. One of
    several equations has their names in `parts`, and s^2 of each."""

    name: str
    bands: int
    octaves: int
    iterative: bool
    feature_names: tuple[str, ...]

    def acts(self, index: int, last: int) -> bool:
        """Whether the formula applies at step `index`; `last` is the index of the finished field."""

    def features(self, x0: Tensor, sigma: float) -> Tensor:
        """(B, len(feature_names)), of order one."""

    def correct(self, x0: Tensor, sigma: float, log_s2: Tensor | None, tilt: Tensor | None) -> Tensor:
        """The corrected estimate for log_s2 (B, 1) or (B, bands) and tilt (B, C) or (B, C, 4); None is zero. An
        iterative one takes `effort` (B,) too, the logarithm of a factor of its iterations, and keeps them in
        `taken` (B,)."""


class Decision(NamedTuple):
    """What was seen (B, K), done (B, A), how likely that was and what it was thought to be worth, (B,); the iterations
    that corrections took, (B,), and whether the chain ends here, (B,) or None."""

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    iterations: Tensor
    stop: Tensor | None = None


class Guidance:
    """`guide(index, x0, sigma) -> (guided, Decision)` for `sampler.sample`, with `constraints` applied in order.

    `policy`: None is the formula; `channels`: names of the fields'; `last`: the index of the finished field, the number
    of noise levels; `preference`: (), or (B,) of each member; `levers`: what the policy may bend.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint],
        policy: Policy | None,
        channels: Sequence[str],
        last: int,
        preference: float | Tensor = EVEN,
        levers: Levers = USUAL,
    ) -> None:
        self.constraints, self.last, self.preference = tuple(constraints), last, torch.as_tensor(preference)
        self.actions = Actions(constraints, channels, levers)
        self.policy = policy or Fixed(len(self.actions.names))

    @classmethod
    def tuned(
        cls,
        path: str | os.PathLike,
        constraints: Sequence[Constraint],
        channels: Sequence[str],
        last: int,
        preference: float | Tensor = EVEN,
    ) -> "Guidance":
        """By the policy in a file of `sciguide tune`. Raises InputError where it is missing, damaged, or was tuned for
        other constraints."""
        names = cls.observation_names(constraints)
        policy, levers = load_policy(path, names, lambda levers: Actions(constraints, channels, levers).names)
        return cls(constraints, policy, channels, last, preference, levers)

    @staticmethod
    def observation_names(constraints: Sequence[Constraint]) -> tuple[str, ...]:
        """Names of what a policy sees."""
        seen = (f"{c.name}: {f}" for c in constraints for f in c.feature_names)
        return (*seen, "share of the evaluations left", "preference", "log sigma")

    def __call__(self, index: int, x0: Tensor, sigma: float) -> tuple[Tensor, Decision]:
        seen = [self._seen(c, x0, sigma) for c in self.constraints]
        level = torch.full_like(x0[:, :1, 0, 0], sigma).log()
        left = torch.full_like(level, 1 - index / self.last)
        preference = self.preference.to(level).expand(len(x0))[:, None]
        observation = torch.cat([*seen, left, preference, level], 1)
        choice = self.policy(observation)
        action = bounded(choice.action)
        guided, iterations = x0, torch.zeros_like(level[:, 0])
        for constraint, bend in zip(self.constraints, self.actions.bends(action), strict=True):
            if constraint.acts(index, self.last):
                effort = {} if bend.effort is None else {"effort": bend.effort}
                corrected = constraint.correct(guided, sigma, bend.log_s2, bend.tilt, **effort)
                # a correction that fails for a member leaves that member unguided, and the others alone
                good = (corrected.flatten(1).square().mean(1) < MOST**2)[:, None, None, None]
                guided = torch.where(good, corrected, guided)
                iterations = iterations + (constraint.taken if constraint.iterative else 0)
        stop = self.actions.stops(action)
        return guided, Decision(observation, action, choice.log_prob, choice.value, iterations, stop)

    def _seen(self, constraint: Constraint, x0: Tensor, sigma: float) -> Tensor:
        """Zeros for a policy that does not look."""
        if getattr(self.policy, "looks", True):
            return constraint.features(x0, sigma)
        return x0.new_zeros(len(x0), len(constraint.feature_names))

    def start(self, noise: Tensor, sigma: float, prior: Prior) -> Tensor:
        """The state at the first noise level: a draw of the prior, moved by the constraints that know how."""
        for constraint in self.constraints:
            if hasattr(constraint, "start"):
                return constraint.start(noise, sigma)
        return prior.sample(noise, sigma)


def constraints_for(
    model: Model,
    observations: Observations | None,
    scales: Literal["told", "ml"] = "ml",
    equations: bool = True,
    direction: Direction = "kriging",
    variance: Errors = "learned",
    **solver: Any,
) -> list[Constraint]:
    """The model's equations and the observations as constraints, in the order in which they act.

    `direction`: of equations, kriging or down the gradient. A kriging step of a linear equation acts on the finished
    field; beside observations, one that the prior does not know acts at every step, with its scales as told, and the
    observations then work with the metric conditioned on it, which members share. Linear equations that move a field
    in common are one (`sciguide/together.py`). `variance`: of the estimates' errors, by the model's network of it where
    it has one, or the prior's. `solver`: `hard` and `iterations` of both kinds of step. Raises InputError for
    observations beside more than one such equation.
    """
    steps = equation_steps(model, scales, direction, variance, observations is not None, **solver) if equations else []
    if observations is None:
        return steps
    coupled = [s for s in steps if isinstance(s, EquationStep) and s.coupled]
    if len(coupled) > 1:
        names = " and ".join(s.name for s in coupled)
        raise InputError(f"observations can be combined with one equation that the prior does not know, not {names}")
    if coupled:
        return [*steps, Kriging(model.prior, observations, scales, coupled[0].conditional)]
    return [*steps, Kriging(model.prior, observations, scales, ratio=_ratio(model, variance))]


def _ratio(model: Model, variance: Errors) -> Callable[[Tensor, float], Tensor] | None:
    return model.variance.ratio if model.variance and variance == "learned" else None


def equation_steps(
    model: Model,
    scales: Literal["told", "ml"],
    direction: Direction = "kriging",
    variance: Errors = "learned",
    beside: bool = False,
    **solver: Any,
) -> list[EquationStep | GradientStep]:
    """The steps of the model's equations, alone or `beside` observations, one of all those that are solved together:
    copies, which share the factors that depend on the model alone."""
    key, ratio = (scales, direction, variance, beside, *sorted(solver.items())), _ratio(model, variance)
    if key not in model.steps:
        equations = model.constraints()
        if direction == "kriging":
            together = grouped(equations, model.normaliser, model.grid)
            model.steps[key] = [EquationStep(model, e, scales, ratio=ratio, beside=beside, **solver) for e in together]
        else:
            model.steps[key] = [GradientStep(model, e, **solver) for e in equations]
    return [copy(step) for step in model.steps[key]]
