"""Policies: what decides, at every step and for every member, how the formula of guidance is bent.

    policy(observation, action=None) -> action, log_prob, value

`observation` (B, K) and `action` (B, A) are described by `guidance.Guidance`; an action of 0 is the formula itself.
With an `action` given it is scored, without one it is drawn. Actions are clamped to [-6, 6], and what is not finite
becomes 0, so that no policy can harm a field.

- `Fixed`      the formula: 0 everywhere;
- `Scheduled`  one action per noise level, whatever is seen;
- `Linear`     affine feedback of the standardised observation;
- `Learned`    a Gaussian whose mean is a small network of it, on top of a schedule; its mean alone where no `generator`
  is set.

All begin as the formula, or as the schedule that they stand on. A policy file holds plain types and tensors and is read
with `weights_only=True`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sciguide.actions import Levers
from sciguide.archive import read_archive, write_archive
from sciguide.errors import InputError

LIMIT = 6.0
SEEN = 5.0  # standardised observations are clamped to it: what was never seen in tuning is not extrapolated


class Choice(NamedTuple):
    """`action` (B, A); `log_prob` (B,) of it, summed over its numbers; `value` (B,), the policy's own expectation."""

    action: Tensor
    log_prob: Tensor
    value: Tensor


class Policy(Protocol):
    """The one interface of all policies."""

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice: ...


def bounded(action: Tensor) -> Tensor:
    """Clamped to [-6, 6]; 0 where it is not a number."""
    return torch.nan_to_num(action, nan=0.0, posinf=LIMIT, neginf=-LIMIT).clamp(-LIMIT, LIMIT)


def certain(action: Tensor) -> Choice:
    """The choice of a policy that leaves nothing to chance."""
    zero = action.new_zeros(len(action))
    return Choice(bounded(action), zero, zero)


class Fixed:
    """The formula: every action is 0. What it would see is not even worked out, unless it `looks`."""

    def __init__(self, actions: int, looks: bool = False) -> None:
        self.actions, self.looks = actions, looks

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        return certain(observation.new_zeros(len(observation), self.actions))


class Scheduled:
    """A table of actions (S, A) over the noise levels `sigmas` (S,); between two of them the nearer in logarithm.

    The finished field is corrected at the smallest level and shares its row.
    """

    def __init__(self, sigmas: Sequence[float], table: Tensor) -> None:
        self.sigmas, self.table = [float(s) for s in sigmas], table
        self.levels = torch.tensor(self.sigmas, dtype=torch.float64).log()

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        nearest = (observation[:, -1:] - self.levels.to(observation)).abs().argmin(1)
        return certain(self.table.to(observation)[nearest])

    def state(self) -> dict[str, Any]:
        return {"sigmas": self.sigmas, "table": self.table}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Scheduled":
        return cls(**state)


class Standard(NamedTuple):
    """Mean and standard deviation of what the formula sees, (K,) each."""

    mean: Tensor
    std: Tensor

    def __call__(self, observation: Tensor) -> Tensor:
        scaled = (observation - self.mean.to(observation)) / self.std.to(observation)
        return torch.nan_to_num(scaled).clamp(-SEEN, SEEN)


class Linear:
    """action = weights [z; 1] for the standardised observation z; `weights` (A, K + 1)."""

    def __init__(self, standard: Standard, weights: Tensor) -> None:
        self.standard, self.weights = standard, weights

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        weights = self.weights.to(observation)
        return certain(self.standard(observation) @ weights[:, :-1].T + weights[:, -1])

    def state(self) -> dict[str, Any]:
        return {**self.standard._asdict(), "weights": self.weights}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Linear":
        return cls(Standard(state["mean"], state["std"]), state["weights"])


class Learned(nn.Module):
    """N(network(z) + schedule, exp(log_std)^2) for the standardised observation z; float64, on the device of the
    weights, which is the host unless they are moved: what goes there and back is a few numbers.

    `std`: of the actions at first; `schedule`: where none is given it is 0, and it stays as it is. With `generator` set
    actions are drawn from it, without they are the mean. An action is clamped before it is scored, so that it has the
    same log-probability when it is scored again.
    """

    def __init__(
        self,
        standard: Standard,
        actions: int,
        width: int = 32,
        std: float = 0.8,
        seed: int = 0,
        schedule: Scheduled | None = None,
    ) -> None:
        super().__init__()
        self.standard, self.actions, self.width, self.schedule = standard, actions, width, schedule
        self.generator: torch.Generator | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Linear(len(standard.mean), width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
            self.network = nn.Sequential(*layers, nn.Linear(width, actions)).double()
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)
        self.log_std = nn.Parameter(torch.full((actions,), std, dtype=torch.float64).log())

    def forward(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        observation, given = observation.to(self.log_std), observation
        mean = self.network(self.standard(observation))
        if self.schedule:
            mean = mean + self.schedule(observation).action
        std = self.log_std.clamp(-5, 1).exp()
        if action is None:
            if self.generator is None:
                return certain(mean.to(given))
            noise = torch.randn(mean.shape, generator=self.generator, dtype=mean.dtype).to(mean)
            action = bounded(mean + std * noise).detach()
        scaled = (action.to(mean) - mean) / std
        # up to the constant of the normal distribution
        log_prob = -(scaled.square() / 2 + std.log()).sum(1)
        log_prob = log_prob.to(given.device)
        return Choice(action.to(given), log_prob, torch.zeros_like(log_prob))

    def state(self) -> dict[str, Any]:
        told = {"actions": self.actions, "width": self.width, "schedule": self.schedule and self.schedule.state()}
        return {**self.standard._asdict(), **told, "weights": self.state_dict()}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Learned":
        schedule = state["schedule"] and Scheduled.restore(state["schedule"])
        policy = cls(Standard(state["mean"], state["std"]), state["actions"], state["width"], schedule=schedule)
        policy.load_state_dict(state["weights"])
        return policy.eval().requires_grad_(False)


KINDS: dict[str, Any] = {"scheduled": Scheduled, "linear": Linear, "learned": Learned}


def save_policy(
    path: str | os.PathLike,
    policy: Scheduled | Linear | Learned,
    observations: Sequence[str],
    actions: Sequence[str],
    levers: Levers,
) -> None:
    """Write a policy atomically, with what it may bend and the names of what it sees and does."""
    kind = next(name for name, cls in KINDS.items() if isinstance(policy, cls))
    names = {"observations": list(observations), "actions": list(actions)}
    write_archive(path, {"kind": kind, **names, "levers": list(levers), "policy": policy.state()})


def load_policy(
    path: str | os.PathLike, observations: Sequence[str], actions: Callable[[Levers], Sequence[str]]
) -> tuple[Policy, Levers]:
    """The policy in a file that `save_policy` wrote, and what it may bend. `observations`: names of what it will see,
    `actions(levers)`: of what it will do.

    Raises InputError where the file is missing or damaged, or the policy was tuned for other constraints.
    """
    with read_archive(path, "policy", "`sciguide tune RUN` makes it") as state:
        policy, levers = KINDS[state["kind"]].restore(state["policy"]), Levers(*state["levers"])
        known = state["observations"], state["actions"]
    if known != (list(observations), list(actions(levers))):
        was, now = (", ".join(sorted({n.partition(":")[0] for n in names[:-1]})) for names in (known[0], observations))
        raise InputError(f"{path}: tuned for guidance by {was}, not by {now}: tune again, or take --policy fixed")
    return policy, levers
