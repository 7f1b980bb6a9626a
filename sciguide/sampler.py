"""The reverse process: a generator of steps along the prior.

With y = (x - mu) / sqrt(S + sigma^2) and phi = atan(sigma / sqrt S) per mode, and the denoiser written as
D = W + M^(1/2) h, the probability-flow equation dx/dsigma = (x - D) / sigma (Karras et al. 2022, eq. 1) becomes

    dy/dphi = -h,

so the Gaussian part of the data is integrated exactly and only h is stepped: two-step Adams-Bashforth in phi, the
ratio of successive steps clipped at 1, first order for the first step. On Gaussian data h = 0 and any number of steps
is exact. The start is a draw of N(mu, C + sigma_0^2).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciguide.prior import NEGLIGIBLE, Prior

Denoise = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """One transition of the chain, or with `sigma` = 0 the finished field.

    `x`: the state before the step; `x0`: its unguided estimate D(x, sigma); `guided`: the estimate that was stepped
    with; all (B, C, Y, X). `decision` is whatever the guidance returned beside it (None without guidance).
    """

    index: int
    sigma: float
    x: Tensor
    x0: Tensor
    guided: Tensor
    decision: Any


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """`steps` noise levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return ((high + ramp * (low - high)) ** rho).tolist()


def sample(
    denoise: Denoise,
    prior: Prior,
    noise: Tensor,
    sigmas: list[float],
    guide: Callable[[int, Tensor, float], tuple[Tensor, Any]] | None = None,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Integrate from a Gaussian start through `sigmas` and on to 0; one call of `denoise` per sigma.

    `denoise(x, sigma)`: (B, C, Y, X) and (B,) -> the clean estimate; `noise`: white, (B, C, Y, X), its dtype is that
    of the state; `guide(index, x0, sigma) -> (guided, decision)` is applied to every estimate, and with index
    len(sigmas) and the smallest sigma to the finished field: what acts only there never passes through the multistep
    rule, which would multiply it. `start`: the state at sigmas[0], a draw of the prior made of `noise` where not
    given; guidance by observations starts nearer to its posterior (`Kriging.start`). Where a decision has a `stop`
    (B,), these members take their last step there, from this noise level to 0, exact for the Gaussian part of the data;
    from then on the noise level that `denoise` is given for them is 0, where the estimate is the field itself. Yields a
    `Step` per sigma and a last one that holds the finished field.
    """
    S, root, carries = _modes(prior)
    x = prior.sample(noise, sigmas[0]) if start is None else start
    running = torch.ones(len(x), dtype=torch.bool, device=x.device)
    before = None
    for i, (sigma, after) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        x0 = denoise(x, sigma * running.to(x))
        guided, decision = guide(i, x0, sigma) if guide else (x0, None)
        guided = torch.where(_rows(running), guided, x)
        yield Step(i, sigma, x, x0, guided, decision)
        deviation = prior.to_modes(x - prior.mean)
        wiener = deviation * (S / (S + sigma**2))
        error = torch.where(carries, root * sigma / (S + sigma**2).sqrt(), 1)
        h = torch.where(carries, (prior.to_modes(guided - prior.mean) - wiener) / error, 0)
        y = deviation / (S + sigma**2).sqrt()
        slope, step = _slope(prior, h, before, sigma, after)
        moved = prior.mean + prior.from_modes((y + step * slope) * (S + after**2).sqrt())
        stop = getattr(decision, "stop", None)
        if stop is not None and bool((stop & running).any()):
            last, whole = _slope(prior, h, before, sigma, 0.0)
            moved = torch.where(_rows(stop), prior.mean + prior.from_modes((y + whole * last) * root), moved)
        x = torch.where(_rows(running), moved, x)
        running = running if stop is None else running & ~stop
        before = h, step
    finished, decision = guide(len(sigmas), x, sigmas[-1]) if guide else (x, None)
    yield Step(len(sigmas), 0.0, x, x, finished, decision)


def _modes(prior: Prior) -> tuple[Tensor, Tensor, Tensor]:
    """Variances of the modes, their roots, and which are not negligible."""
    S = prior.variances
    return S, S.sqrt(), S >= NEGLIGIBLE * S.max()


def _slope(
    prior: Prior, h: Tensor, before: tuple[Tensor, Tensor] | None, sigma: float, to: float
) -> tuple[Tensor, Tensor]:
    """What is stepped with from `sigma` to `to`, and the step in phi, for `before` = h and step of the last one."""
    _, root, carries = _modes(prior)
    step = torch.atan2(torch.full_like(root, sigma), root) - torch.atan2(torch.full_like(root, to), root)
    if before is None:
        return h, step
    ratio = torch.where(carries, step / before[1], 0).clamp(max=1)
    return h + ratio / 2 * (h - before[0]), step


def _rows(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]
