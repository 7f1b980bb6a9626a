"""Policies: what decides, at every step and for every member, how the formula of guidance is bent.

    policy(observation, action=None) -> action, log_prob, value

`observation` (B, K) and `action` (B, A) are described by `guidance.Guidance`; an action of 0 is the formula itself.
With an `action` given it is scored, without one it is drawn. Actions are clamped to [-6, 6], and what is not finite
becomes 0, so that no policy can harm a field.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LIMIT = 6.0


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


class Fixed:
    """The formula: every action is 0."""

    def __init__(self, actions: int) -> None:
        self.actions = actions

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        zero = observation.new_zeros(len(observation))
        return Choice(observation.new_zeros(len(observation), self.actions), zero, zero)
