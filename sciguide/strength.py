"""How far a nonlinear equation's step points at the truth: its calibrated strength s*(sigma), and which field moves.

On held-out samples x with noise of level sigma, D their estimate and d the full step there, the regression of x - D on
the step,

    s*(sigma) = sum <x - D, -d> / sum <d, d>,

says how much of it lowers the error: 1 where linearisation and posterior are right, less where they are not, 0 where
the step does not point at the truth. Both are taken in the norm of the network's own mean square error per channel.
What the regression explains says whether the step is worth its price: at high noise an equation that compares two close
times says next to nothing of the estimate's error, and where it is less than a hundredth the strength is 0.

V takes the errors of the fields for independent, which those of one field at two close times are not: their difference
is far better known than either, and a residual that divides it by the step of time would be laid on the winds alone,
none of it on the pressure. The same regression field by field says how much too little or too much each moves. V_f is
multiplied by that, in turn, as long as clearly more of the error is explained.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sciguide.equation_step import EquationStep
from sciguide.model import Model

LEVELS = 8
LEAST_EXPLAINED = 0.01  # of the error's mean square
ROUNDS, BOLDEST, WIDEST = 6, 2.0, 6.0  # of dividing V among the fields; |log| of a factor in one of them, and in all
GAIN = 1.05  # of what is explained, that a round has to bring: less is chance


class Calibrated(NamedTuple):
    """At one noise level: s*, the share of the error that is explained, and log factors of V per channel (C,)."""

    strength: float
    explained: float
    tilt: Tensor


def calibrate(model: Model, x: Tensor) -> None:
    """Measure strengths of the model's nonlinear equations, and shares of their fields, on normalised held-out fields x
    (B, C, Y, X), float64, and keep them in its records."""
    for i, equation in enumerate(model.constraints()):
        if EquationStep(model, equation).linear:
            continue
        equation.record = replace(equation.record, strength=[], shares=[])
        step, strength, shares = EquationStep(model, equation), [], []
        for sigma, found in calibrated(model, step, x):
            if found.explained < LEAST_EXPLAINED:
                found = Calibrated(0.0, 0.0, torch.zeros_like(found.tilt))
            strength.append([sigma, found.strength])
            each = [float(found.tilt[c].mean().exp()) if c else 1.0 for c in step.channels]
            shares.append([sigma, *each])
        model.equations[i] = replace(model.equations[i], strength=strength, shares=shares)


def calibrated(model: Model, step: EquationStep, x: Tensor) -> Iterator[tuple[float, Calibrated]]:
    """Noise levels, ascending, and what is best at each for normalised held-out fields x (B, C, Y, X), float64."""
    generator = torch.Generator().manual_seed(3)
    for sigma in model.sigmas(LEVELS)[::-1]:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        noisy = x + sigma * torch.where(model.prior.mask, noise, 0)
        x0 = model.denoise(noisy, x.new_full((len(x),), sigma)).to(x)
        yield sigma, divided(step, x0, x - x0, sigma)


def divided(step: EquationStep, x0: Tensor, error: Tensor, sigma: float) -> Calibrated:
    """The best division of V among the fields for estimates x0 that err by `error`, (B, C, Y, X)."""
    weight = 1 / torch.as_tensor(step.model.error.at(sigma)).to(x0)
    best, tilt = Calibrated(0.0, 0.0, weight.new_zeros(len(weight))), weight.new_zeros(len(weight))
    for _ in range(ROUNDS):
        d = -step.expected(x0, sigma, None, tilt.expand(len(x0), -1))
        pointing, size, whole = ((a * b).sum((0, 2, 3)) for a, b in ((error, d), (d, d), (error, error)))
        strength = float((weight @ pointing) / (weight @ size).clamp(min=1e-300))
        strength = min(max(strength, 0.0), 1.0)
        explained = float(weight @ (strength * (2 * pointing - strength * size)) / (weight @ whole).clamp(min=1e-300))
        if explained <= GAIN * best.explained:
            break
        best = Calibrated(strength, explained, tilt)
        slope = torch.where(size > 0, pointing / size.clamp(min=1e-300), 1).clamp(min=1e-300).log()
        tilt = (tilt + slope.clamp(-BOLDEST, BOLDEST)).clamp(-WIDEST, WIDEST)
    return best
