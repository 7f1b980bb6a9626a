"""How far a nonlinear equation's step points at the truth: its calibrated strength s*(sigma).

On held-out samples x with noise of level sigma, D their estimate and d the full step there, the regression of x - D on
the step,

    s*(sigma) = sum <x - D, -d> / sum <d, d>,

says how much of it lowers the error: 1 where linearisation and posterior are right, less where they are not, 0 where
the step does not point at the truth. Both are taken in the norm of the network's own mean square error per channel.
What the regression explains says whether the step is worth its price: at high noise an equation that compares two close
times says next to nothing of the estimate's error, and where it is less than a hundredth the strength is 0.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sciguide.equation_step import EquationStep
from sciguide.model import Model

LEVELS = 8
LEAST_EXPLAINED = 0.01  # of the error's mean square


def calibrate(model: Model, x: Tensor) -> None:
    """Measure the strengths of the model's nonlinear equations on normalised held-out fields x (B, C, Y, X), float64,
    and keep them in its records."""
    for i, equation in enumerate(model.constraints()):
        step = EquationStep(model, equation)
        if not step.linear:
            model.equations[i] = replace(model.equations[i], strength=calibrated(model, step, x))


def calibrated(model: Model, step: EquationStep, x: Tensor) -> list[list[float]]:
    """Pairs (sigma, s*), clipped to [0, 1] and 0 where hardly any error is explained, from normalised held-out fields x
    (B, C, Y, X), float64."""
    generator = torch.Generator().manual_seed(3)
    out = []
    for sigma in model.sigmas(LEVELS)[::-1]:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        noisy = x + sigma * torch.where(model.prior.mask, noise, 0)
        x0 = model.denoise(noisy, x.new_full((len(x),), sigma)).to(x)
        d = -step.expected(x0, sigma)
        weight = 1 / torch.as_tensor(model.error.at(sigma)).to(x)[:, None, None]
        pointing, size = (float((weight * v * d).sum()) for v in (x - x0, d))
        error = float((weight * (x - x0).square()).sum())
        share = min(max(pointing / max(size, 1e-300), 0.0), 1.0)
        explained = share * (2 * pointing - share * size)
        out.append([sigma, share if explained >= LEAST_EXPLAINED * error else 0.0])
    return out
