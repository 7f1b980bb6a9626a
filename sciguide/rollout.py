"""Roll-outs: the steps of the one sampler, stacked. There is no environment; generating and learning share the chain.

A *problem* is a held-out truth, what is known of it (its constraints) and a number that keys its noise. Its members are
K noises x A replicas that share the noise and differ in their actions alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide.actions import USUAL, Levers
from sciguide.guidance import EVEN, Constraint, Decision, Guidance
from sciguide.noise import normals
from sciguide.policy import Policy
from sciguide.prior import Prior
from sciguide.sampler import Denoise, sample

STAGES = ("scale", "tune", "judge")


class Chain(NamedTuple):
    """What is sampled from. `start(noise, sigma)`: the state at the first noise level, where not the guidance's own."""

    denoise: Denoise
    prior: Prior
    sigmas: list[float]
    start: Callable[[Tensor, float], Tensor] | None = None


class Members(NamedTuple):
    """What rows of a batch are drawn from and guided by. `energies(x)`: R of the K constraints, (B, C, Y, X) -> (B, K),
    whether or not they guide."""

    chain: Chain
    constraints: Sequence[Constraint]
    energies: Callable[[Tensor], Tensor]


class Problems(NamedTuple):
    """P problems that can be rolled out as one batch.

    `truth`: (P, N, C, Y, X), N draws of what members of the problem should look like; `floors`: (K,) of their energies,
    what the data have; `numbers`: P numbers that key the noise; `members(repeats)`: for a batch of `repeats` rows of
    the first problem, then of the second, and so on.
    """

    truth: Tensor
    floors: Tensor
    numbers: Sequence[int]
    members: Callable[[int], Members]


class Rollout(NamedTuple):
    """T decisions, one per noise level and one on the finished field, of B members.

    `finished`: (B, C, Y, X), on the model's device, all others on the host; `energies`: (T + 1, B, K), of the
    *unguided* estimate of each decision and then of the finished field; `observation` (T, B, O), `action` (T, B, A),
    `log_prob` (T, B); `acted`: (T, B) whether the decision had any effect there; `evaluations` of the denoiser and
    `iterations` of corrections that it cost, (T, B).
    """

    finished: Tensor
    energies: Tensor
    observation: Tensor
    action: Tensor
    log_prob: Tensor
    acted: Tensor
    evaluations: Tensor
    iterations: Tensor


def noise_seed(stage: str, seed: int, number: int) -> int:
    """The 64-bit seed of problem `number`: no two stages share one, nor does any of `generate` below 2^60.

    Raises ValueError for a seed beyond 2^28 or a number beyond 2^32.
    """
    if not (0 <= seed < 2**28 and 0 <= number < 2**32):
        raise ValueError(f"seed {seed} and problem {number} must be below 2^28 and 2^32")
    return (STAGES.index(stage) + 1) << 60 | seed << 32 | number


def draw_noise(stage: str, seed: int, numbers: Sequence[int], noises: int, shape: Sequence[int]) -> Tensor:
    """White noise (P, K, C, Y, X) float64 of the problems `numbers`, K = `noises` members each."""
    drawn = [normals(noise_seed(stage, seed, n), range(noises), 0, shape, np.float64) for n in numbers]
    return torch.from_numpy(np.stack(drawn))


def stages_apart(seed: int, tuned: Sequence[int], judged: Sequence[int]) -> None:
    """Raises ValueError where problems of tuning and of judging share a number or a seed of their noise."""
    seeds = [{noise_seed(stage, seed, n) for n in numbers} for stage, numbers in (("tune", tuned), ("judge", judged))]
    if set(tuned) & set(judged) or seeds[0] & seeds[1]:
        raise ValueError("problems of tuning and of judging must be apart")


@torch.no_grad()
def roll_out(
    problems: Problems,
    policy: Policy | None,
    noise: Tensor,
    replicas: int = 1,
    preference: float | Tensor = EVEN,
    levers: Levers = USUAL,
) -> Rollout:
    """Guide the members of `noise` (P, K, C, Y, X), `replicas` of each, by `policy`, or not at all without one;
    B = P K A in this order. `preference`: the policy's, one for all or (P,) of each problem; `levers`: what it may
    bend."""
    preference = torch.as_tensor(preference).expand(len(noise)).repeat_interleave(noise.shape[1] * replicas)
    chain, constraints, measure = problems.members(noise.shape[1] * replicas)
    rows = noise.flatten(0, 1).repeat_interleave(replicas, 0).to(chain.prior.mean.device)
    constraints, last = constraints if policy else (), len(chain.sigmas)
    names = [str(c) for c in range(rows.shape[1])]
    guidance = Guidance(constraints, policy, names, last, preference, levers if policy else USUAL)
    start = chain.start(rows, chain.sigmas[0]) if chain.start else guidance.start(rows, chain.sigmas[0], chain.prior)
    energies, decisions = [], []
    for step in sample(chain.denoise, chain.prior, rows, chain.sigmas, guidance, start):
        energies.append(measure(step.x0))
        decisions.append(step.decision)
    energies.append(measure(step.guided))
    keys = ("observation", "action", "log_prob", "iterations")
    seen = (torch.stack([getattr(d, key) for d in decisions]).cpu() for key in keys)
    observation, action, log_prob, iterations = seen
    alive, ends = _running(decisions), torch.arange(last + 1) == last
    acts = torch.tensor([any(c.acts(t, last) for c in constraints) for t in range(last + 1)])
    if policy and levers.compute:
        acts = acts | ~ends
    evaluations, iterations = (alive & ~ends[:, None]).to(rows.dtype), torch.where(alive, iterations, 0)
    stacked = observation, action, log_prob, acts[:, None] & alive, evaluations, iterations
    return Rollout(step.guided, torch.stack(energies).cpu(), *stacked)


def _running(decisions: Sequence[Decision]) -> Tensor:
    """(T, B): whether each member's chain goes on up to each decision, and on the finished field, which all have."""
    running = [decisions[0].action.new_ones(len(decisions[0].action), dtype=torch.bool)]
    for decision in decisions[:-2]:
        running.append(running[-1] if decision.stop is None else running[-1] & ~decision.stop)
    return torch.stack([*running, running[0]]).cpu()
