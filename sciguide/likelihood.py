"""How large errors really are: scales of what was told by maximum likelihood of the innovations, for each member."""

import math

import torch
from torch import Tensor

A_RANGE, B_RANGE = (1e-2, 1e2), (1e-3, 1e3)  # how far the scales of M and of s^2 may be from what was told
RATIOS = torch.linspace(-6, 6, 13, dtype=torch.float64).exp()  # of the scales of fields and of s^2


def observation_scales(eigenvalues: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (a, b), each (B,), of M and of s^2 = 1 by maximum likelihood of the innovations `rho` (B, m).

    They minimise sum_i log(a l_i + b) + rho_i^2 / (a l_i + b) with l_i the `eigenvalues` (m,): for a given ratio
    q = b / a the best a is the mean of rho_i^2 / (l_i + q); q runs over a grid, both are clipped to their ranges.
    """
    q = torch.logspace(-5, 5, 41, dtype=rho.dtype, device=rho.device)[:, None]
    variance = eigenvalues + q
    a = (rho.square()[:, None] / variance).mean(-1).clamp(*A_RANGE)
    b = (q[:, 0] * a).clamp(*B_RANGE)
    scaled = a[..., None] * eigenvalues + b[..., None]
    loss = (scaled.log() + rho.square()[:, None] / scaled).sum(-1)
    best = loss.argmin(1, keepdim=True)
    return a.gather(1, best)[:, 0], b.gather(1, best)[:, 0]


def equation_scales(spectra: Tensor, energy: Tensor, s2: float) -> tuple[Tensor, Tensor]:
    """Scales of V_f (B, F) and of s^2 (B,) by maximum likelihood of the transformed residual.

    `spectra`: (F, Y', X') predicted variances of each field; `energy`: (B, Y', X'), squares of the residual. Minimises
    sum_k log v_k + energy_k / v_k, v = a (sum_f q_f spectra_f + q s2): the best a has a closed form, the ratios q (one
    is 1) run over a grid from e^-6 to e^6.
    """
    fields = len(spectra)
    grids = torch.cartesian_prod(*[RATIOS] * fields).reshape(-1, fields)
    shares = torch.cat([torch.ones(len(grids), 1, dtype=grids.dtype), grids], 1)  # first field, the others, s^2
    parts = torch.cat([spectra.flatten(1), torch.full_like(spectra[:1].flatten(1), s2)])
    predicted = shares @ parts  # (G, K)
    count = predicted.shape[1]
    a = (energy.flatten(1) @ (1 / predicted).T / count).clamp(1e-300)  # (B, G)
    loss = count * a.log() + predicted.log().sum(1)
    best = loss.argmin(1)
    found = (a.gather(1, best[:, None]) * shares[best]).clamp(math.exp(-8), math.exp(8))
    return found[:, :fields], found[:, fields]
