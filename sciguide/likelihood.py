"""How large errors really are: scales of what was told by maximum likelihood of the innovations, for each member."""

import math

import torch
from torch import Tensor

A_RANGE, B_RANGE = (1e-2, 1e2), (1e-3, 1e3)  # how far the scales of M and of s^2 may be from what was told
FINENESS = {1: 13, 2: 13, 3: 7}  # ratios of scales that are tried, by the number of fields; 5 for more


def observation_scales(eigenvalues: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (a, b), each (B,), of M and of s^2 = 1 by maximum likelihood of the innovations `rho` (B, m).

    They minimise sum_i log(a l_i + b) + rho_i^2 / (a l_i + b) with l_i the `eigenvalues`, (m,) or (B, m): for a given
    ratio q = b / a the best a is the mean of rho_i^2 / (l_i + q); q runs over a grid, both are clipped to their ranges.
    """
    q = torch.logspace(-5, 5, 41, dtype=rho.dtype, device=rho.device)[:, None]
    eigenvalues = eigenvalues[..., None, :]
    variance = eigenvalues + q
    a = (rho.square()[:, None] / variance).mean(-1).clamp(*A_RANGE)
    b = (q[:, 0] * a).clamp(*B_RANGE)
    scaled = a[..., None] * eigenvalues + b[..., None]
    loss = (scaled.log() + rho.square()[:, None] / scaled).sum(-1)
    best = loss.argmin(1, keepdim=True)
    return a.gather(1, best)[:, 0], b.gather(1, best)[:, 0]


def equation_scales(spectra: Tensor, energy: Tensor, s2: float | Tensor) -> tuple[Tensor, Tensor]:
    """Scales of V_f (B, F) and of s^2 (B,) by maximum likelihood of the transformed residual.

    `spectra`: (F, ...) predicted variances of each field; `energy`: (B, ...), squares of the residual; `s2`: one number
    or (...). Minimises sum_k log v_k + energy_k / v_k, v = a (sum_f q_f spectra_f + q s2): the best a has a closed
    form, the ratios q (one is 1) run over a grid from e^-6 to e^6.
    """
    fields = len(spectra)
    ratios = torch.linspace(-6, 6, FINENESS.get(fields, 5), dtype=spectra.dtype).exp().to(spectra)
    grids = torch.cartesian_prod(*[ratios] * fields).reshape(-1, fields)
    shares = torch.cat([grids.new_ones(len(grids), 1), grids], 1)  # first field, the others, s^2
    noise = torch.as_tensor(s2, dtype=spectra.dtype, device=spectra.device).expand(spectra.shape[1:])
    predicted = shares @ torch.cat([spectra.flatten(1), noise.reshape(1, -1)])  # (G, K)
    count = predicted.shape[1]
    a = (energy.flatten(1) @ (1 / predicted).T / count).clamp(1e-300)  # (B, G)
    loss = count * a.log() + predicted.log().sum(1)
    best = loss.argmin(1)
    found = (a.gather(1, best[:, None]) * shares[best]).clamp(math.exp(-8), math.exp(8))
    return found[:, :fields], found[:, fields]
