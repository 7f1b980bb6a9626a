"""What a roll-out was worth: pure functions of stacked tensors, time first, members second.

Potential of a state from its unguided estimate, R_k the energy of constraint k and floor_k what the data have:

    Phi = -sum_k w_k log max(R_k / floor_k, 1) / scale_k,        sum_k w_k = 1,

scale_k the mean of that logarithm over unguided samples, at least 1. The reward of step t is Phi_{t+1} - Phi_t, and the
last state is the finished field. Below the floor there is nothing to win: pushing further is how physics-guided
generators ruin their samples. What holds the distribution is the terminal term, the energy distance to held-out truth
(or the fair CRPS) over its unguided value. Members of a problem are K noises x A replicas that share a noise and differ
in their actions, noise by noise; truth comes apart from generation, and pairs within a noise never count.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["energy", "crps", "spectra"]
Distance = Callable[[Tensor, Tensor], Tensor]  # of fields (M, C, Y, X) and (N, C, Y, X), (M, N)


def excess(R: Tensor, floors: Tensor) -> Tensor:
    """log max(R / floor, 1) of each constraint, (..., K)."""
    return (R / floors).clamp(min=1).log()


def potential(R: Tensor, floors: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """Phi (...) of energies R (..., K); `floors`, `weights` and `scales` are (K,)."""
    return -(weights / scales * excess(R, floors)).sum(-1)


def rewards(phi: Tensor) -> Tensor:
    """(T, B) of potentials (T + 1, B), the last of them the finished field's: they sum to Phi_end - Phi_0."""
    return phi[1:] - phi[:-1]


def returns_to_go(reward: Tensor, terminal: Tensor) -> Tensor:
    """Sum of what comes from step t on, (T, B), for rewards (T, B) and a terminal reward (B,)."""
    return reward.flip(0).cumsum(0).flip(0) + terminal


def advantages(returns: Tensor, replicas: int) -> Tensor:
    """Returns (T, B) minus their mean at t over each `replicas` consecutive members: those of one problem and noise."""
    groups = returns.unflatten(1, (-1, replicas))
    return (groups - groups.mean(2, keepdim=True)).flatten(1)


class Pointwise:
    """Distances between fields by their points, weighted by `weights` (C, Y, X), zero off the mask: "energy" is the
    root of the mean square difference, "crps" the mean absolute one."""

    def __init__(self, weights: Tensor, norm: Literal["energy", "crps"] = "energy") -> None:
        self.share, self.norm = (weights / weights.sum()).flatten(), norm

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        share = self.share.to(a.device)
        if self.norm == "crps":
            return torch.cdist(a.flatten(1) * share, b.flatten(1) * share, p=1)
        return euclidean(a.flatten(1) * share.sqrt(), b.flatten(1) * share.sqrt())


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Of vectors (M, D) and (N, D), (M, N), exact also between close ones."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def contributions(x: Tensor, truth: Tensor, distance: Distance) -> Tensor:
    """What each member adds to the negative energy score of its problem, (K, A), for members x (K, A, C, Y, X) and
    truth (N, C, Y, X): minus its mean distance to the truth, plus its mean distance to the members of other noises.

    The score holds half of the mean over ordered pairs, and each member stands in it twice: hence the full pair term.
    Raises ValueError for a single noise.
    """
    to_truth, across = _terms(x, truth, distance)
    return across - to_truth


def energy_score(x: Tensor, truth: Tensor, distance: Distance) -> Tensor:
    """E |x - y| - E |x - x'| / 2 for members x (K, A, C, Y, X) and truth y (N, C, Y, X), pairs across noises: up to a
    constant half the energy distance, in expectation free of the number of members. A scalar, small is good."""
    to_truth, across = _terms(x, truth, distance)
    return (to_truth - across / 2).mean()


def _terms(x: Tensor, truth: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
    K, A = x.shape[:2]
    if K < 2:
        raise ValueError("an energy score needs members of at least two noises")
    members = x.flatten(0, 1)
    pairs = distance(members, members).reshape(K, A, K, A)
    other = ~torch.eye(K, dtype=torch.bool, device=x.device)[:, None, :, None]
    across = torch.where(other, pairs, 0).sum((2, 3)) / ((K - 1) * A)
    return distance(members, truth).mean(1).reshape(K, A), across
