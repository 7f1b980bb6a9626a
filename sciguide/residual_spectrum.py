"""How the residuals of data are spread over wavenumbers.

s^2 of an equation is the mean square of its residual on the data. Guidance that takes it for white noise trusts the
long waves too much where the residual is smooth: friction, curvature and terrain leave residuals of long waves, whose
mean over a region is not small at all. So `fit` measures the share of s^2 in each octave of the wavenumber.

A residual at the level of rounding stays white: its spectrum is that of the numbers' last digits, which differs between
a simulation and the file it was written to, and says nothing of how members may err. For the same reason no octave of
another residual is taken to hold less than rounding does.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sciguide.equations.operator import Operator
from sciguide.octaves import BANDS, Octaves

MOST_VALUES = 2**26  # of the residuals that are transformed, every n-th sample of more


def energies_of(operator: Operator) -> Callable[[Tensor], Tensor]:
    """For an equation over (y, x), the function from its fields u (B, F, Y, X) to the mean squares of each residual
    over its scale in each octave of the wavenumber, and in all of them, (B, K, BANDS + 1); nan in octaves that the
    grid is too small for."""
    valid = operator.valid.expand(len(operator.components), *operator.grid.shape)
    waves = Octaves(valid, operator.grid.boundary)

    def energies(u: Tensor) -> Tensor:
        found = waves.transform(operator.relative(operator.residual(u))).square()
        return torch.cat([waves.means(found), found.mean((2, 3))[..., None]], -1)

    return energies


def shares(energies: Tensor, s2: Sequence[float], rounding: float) -> list[list[float]]:
    """Of `energies` (N, K, BANDS + 1) of samples, the share of s^2 in each octave over white noise's, (K, BANDS), 1 in
    octaves that the grid is too small for; white where `s2` (K,) is not above `rounding`."""
    told, mean = torch.tensor(s2, dtype=energies.dtype)[:, None], energies.mean(0)
    found = torch.nan_to_num(mean[:, :BANDS] / mean[:, BANDS:], nan=1.0)
    return torch.where(told > rounding, torch.maximum(found, rounding / told), 1.0).tolist()
