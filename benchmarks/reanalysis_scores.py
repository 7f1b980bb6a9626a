"""Members of the judged problems of a reanalysis, however they are made, and how they score window by window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reconstruction import interpolate
from sciguide.actions import USUAL, Actions, Levers
from sciguide.guidance import Guidance, constraints_for
from sciguide.learner import JUDGED
from sciguide.model import Model
from sciguide.policy import Choice, Fixed, Policy, certain, load_policy
from sciguide.rollout import Members, Problems, draw_noise, roll_out
from sciguide.scores import crps_points
from sciguide.training.problems import RunProblems
from sciguide.training.variety import Variety, span

MEMBERS = 8
MOST = 6.0  # |log| of a factor of s^2 that `knows` is given


class Scores(NamedTuple):
    """Of one problem. `crps`: of each channel over its standard deviation, fair; `error`, `variance`: mean squares of
    the members' mean, and theirs with the divisor M - 1, over all channels; `residuals`: mean over members of the rms
    residual of each equation over its scale; `data`: the truth's own."""

    crps: NDArray
    error: float
    variance: float
    residuals: NDArray
    data: NDArray


@dataclass(frozen=True)
class Method:
    """How members are made. `kind`: none, guided, interpolation, nearest; `equations`: which of them guide, none where
    empty; `scales` of the formula; `white`: whether s^2 is taken for white noise, and not for what it is in each octave
    of the training windows' residuals; `observed`: whether the observations guide; `policy`: a file of `sciguide tune`;
    `inflate`: of the interpolation."""

    kind: Literal["none", "guided", "knows", "interpolation", "nearest"] = "guided"
    equations: tuple[str, ...] = ("geostrophic", "nondivergence")
    scales: Literal["told", "ml"] = "told"
    white: bool = False
    observed: bool = True
    policy: Path | None = None
    inflate: tuple[float, float] = (1.0, 1.0)


@dataclass
class Case:
    """A model, its normalised validation windows, of which the last third is for judging, and its training windows;
    `problems`: what varies, as a config of `sciguide tune` says."""

    model: Model
    truths: Tensor
    training: Tensor
    variety: Variety
    made: dict[tuple, RunProblems] = field(default_factory=dict)

    @property
    def area(self) -> Tensor:
        """Weights of the points, in sum 1, (Y, X)."""
        weights = torch.from_numpy(self.model.grid.weights())
        return weights / weights.sum()

    def problems(self, method: Method) -> RunProblems:
        """With the equations and scales of a method."""
        key = method.equations, method.scales, method.white
        if key not in self.made:
            chosen = [e for e in self.model.equations if e.name in method.equations]
            model = replace(self.model, equations=[replace(e, octaves=[]) if method.white else e for e in chosen])
            self.made[key] = RunProblems(model, self.truths, self.variety, method.scales, bool(method.equations))
        return self.made[key]


def variety_of(config: Path, model: Model) -> Variety:
    """What varies, as `sciguide tune` reads it."""
    given = yaml.safe_load(config.read_text())
    channels = tuple(i for i, c in enumerate(model.layout.channels) if c.variable in given["observe"])
    spans = {name: span(name, given[name], 0) for name in ("points", "error", "steps")}
    return Variety(channels=channels, **spans)


class Known:
    """Tells the formula by what its s^2 is to be multiplied, `log_s2` (B, A), at every level."""

    looks = False

    def __init__(self, log_s2: Tensor) -> None:
        self.log_s2 = log_s2

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        return certain(self.log_s2)


def how_well_they_hold(case: Case, truth: Tensor) -> Tensor:
    """The log of what the mean square residual of each equation is in each octave of windows (B, C, Y, X), over the s^2
    that the formula takes there, (B, 4 equations)."""
    (step,) = constraints_for(case.model, None, "told")
    ratio = step.waves.means(step.waves.transform(step.J.rows(truth)).square()) / (step.s2[:, None] * step.shares)
    each = [ratio[:, step.part_of == part].mean(1) for part in range(len(step.parts))]
    return torch.cat(each, 1).log().clamp(-MOST, MOST)


def score(case: Case, method: Method, numbers: Sequence[int], seed: int) -> list[Scores]:
    """Of the problems `numbers`, in their order."""
    stage = "judge" if min(numbers) >= JUDGED else "tune"
    found: dict[int, Scores] = {}
    for batch in case.problems(method)(numbers):
        noise = draw_noise(stage, seed, batch.numbers, MEMBERS, case.model.shape)
        made = _members(case, method, batch, noise, seed)
        for number, members, truth in zip(batch.numbers, made, batch.truth[:, 0], strict=True):
            found[number] = _scores(case, members, truth)
    return [found[n] for n in numbers]


def _members(case: Case, method: Method, batch: Problems, noise: Tensor, seed: int) -> Tensor:
    """(P, M, C, Y, X), normalised."""
    if method.kind in ("interpolation", "nearest"):
        rows = batch.members(1).constraints[-1].observations
        each = [replace(rows, value=value) for value in rows.value]
        if method.kind == "nearest":
            best = [int(o.innovation(case.training).square().mean(1).argmin()) for o in each]
            return case.training[best][:, None]
        pairs = zip(each, noise.to(case.model.device), batch.numbers, strict=True)
        return torch.stack([interpolate(case.model, o, z, method.inflate, n % JUDGED + seed) for o, z, n in pairs])
    if not method.observed:
        batch = batch._replace(members=_without(batch.members, case.problems(method).model, method))
    policy, levers = _policy(case, method, batch)
    finished = roll_out(batch, policy, noise, levers=levers).finished
    return finished.reshape(len(batch.numbers), -1, *case.model.shape)


def _without(members: Callable[[int], Members], model: Model, method: Method) -> Callable[[int], Members]:
    """The same with nothing observed: the equations then act on the finished field."""
    steps = constraints_for(model, None, method.scales)
    return lambda repeats: members(repeats)._replace(constraints=steps)


def _policy(case: Case, method: Method, batch: Problems) -> tuple[Policy | None, Levers]:
    """What decides, and what it may bend."""
    if method.kind == "none":
        return None, USUAL
    constraints, channels = batch.members(1).constraints, case.model.layout.names
    if method.policy:
        seen = Guidance.observation_names(constraints)
        return load_policy(method.policy, seen, lambda levers: Actions(constraints, channels, levers).names)
    actions = Actions(constraints, channels, USUAL).names
    if method.kind == "knows":
        known = how_well_they_hold(case, batch.truth[:, 0]).repeat_interleave(MEMBERS, 0)
        rest = known.new_zeros(len(known), len(actions) - known.shape[1])
        return Known(torch.cat([known, rest], 1)), USUAL
    return Fixed(len(actions)), USUAL


def _scores(case: Case, members: Tensor, truth: Tensor) -> Scores:
    """Of members (M, C, Y, X) of one window (C, Y, X)."""
    equations = case.model.constraints()
    residuals = np.array([float(e.energy(members).sqrt().mean()) for e in equations])
    data = np.array([float(e.energy(truth[None]).sqrt()) for e in equations])
    share, count, members, truth = case.area, len(members), members.cpu(), truth.cpu()
    ensemble = members.numpy() if count > 1 else np.repeat(members.numpy(), 2, 0)  # one certain member: its error
    crps = (crps_points(ensemble, truth.numpy()) * share.numpy()).sum((1, 2))
    error = float(((members.mean(0) - truth).square() * share).sum((1, 2)).mean())
    variance = float((members.var(0) * share).sum((1, 2)).mean()) * (count + 1) / count if count > 1 else float("nan")
    return Scores(crps, error, variance, residuals, data)
