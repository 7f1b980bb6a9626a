"""How large an equation's transformed residuals are to be expected: the diagonals of J V J^T and of J J^T."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciguide.equation_metric import Metric, only
from sciguide.jacobian import Jacobian
from sciguide.octaves import Octaves

PROBES = 16


class Spectrum(NamedTuple):
    """Diagonals in the transform of the L residuals, on their box (Y', X'): `fields` (F, L, Y', X') of J_f V_f J_f^T,
    in sum that of J V J^T, of which each field that moves has the same where V is joint, and `white` (L, Y', X') of
    J J^T."""

    fields: Tensor
    white: Tensor


def spectrum_of(J: Jacobian, metric: Metric, waves: Octaves, sigma: float) -> Spectrum:
    """By probes of one residual at a time: what others leave in it would be noise."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(0, 2, (PROBES, *waves.band.shape), generator=generator).to(J.std) * 2 - 1
    fields, white = [], []
    for k in range(len(J.valid)):
        probe = z.new_zeros(PROBES, len(J.valid), *waves.band.shape)
        probe[:, k] = z
        back = J.transpose(waves.inverse(probe, z.new_zeros(PROBES, *J.valid.shape)))

        def diagonal(moved: Tensor, k: int = k) -> Tensor:
            found = (z * waves.transform(J.forward(moved)[:, k])).mean(0)
            # what few probes leave of off-diagonal noise is bounded by the mean over the octave
            means = waves.means(found).clamp(min=1e-300)
            return torch.maximum(found, 0.05 * means[waves.band])

        if metric.joint:
            share = z.new_tensor([f in J.moving for f in range(len(J.channels.of))]) / len(J.moving)
            parts = share[:, None, None] * diagonal(metric(back, sigma))
        else:
            parts = torch.stack([diagonal(metric(only(back, c), sigma)) for c in J.channels.of])
        fields.append(parts)
        white.append(diagonal(back))
    return Spectrum(torch.stack(fields, 1), torch.stack(white))
