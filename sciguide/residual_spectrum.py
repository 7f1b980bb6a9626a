"""How the residuals of data are spread over wavenumbers.

s^2 of an equation is the mean square of its residual on the data. Guidance that takes it for white noise trusts the
long waves too much where the residual is smooth: friction, curvature and terrain leave residuals of long waves, whose
mean over a region is not small at all.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sciguide.constraints import EquationRecord
from sciguide.jacobian import Jacobian
from sciguide.model import Model
from sciguide.octaves import Octaves


def with_octaves(model: Model, x: Tensor) -> list[EquationRecord]:
    """The model's equations with `octaves` as normalised training samples x (B, C, Y, X) have them, where J is constant
    and they are over (y, x); the others as they are."""
    found = []
    for equation in model.constraints():
        J = Jacobian(model, equation)
        if not J.constant or equation.record.z is not None:
            found.append(equation.record)
            continue
        waves = Octaves(J.valid, model.grid.boundary)
        energy = waves.transform(J.rows(x)).square()
        share = waves.means(energy).mean(0) / energy.mean((0, 2, 3))[:, None].clamp(min=1e-300)
        found.append(replace(equation.record, octaves=torch.nan_to_num(share, nan=1.0).tolist()))  # none so long
    return found
