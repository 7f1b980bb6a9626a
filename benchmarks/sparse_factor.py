"""One Cholesky factor of J V J^T + s^2 per noise level, shared by all problems of a model.

`EquationStep` factorises systems of up to 3000 rows, by generalised eigenvectors that serve members whose scales
differ. 64 x 64 points have 3844, and for conjugate gradients each of 125 observations is a right-hand side at every
noise level. Beside observations the scales are as told, so a Cholesky factor says the same.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sciguide.equation_step import EquationStep
from sciguide.guidance import Constraint
from sciguide.model import Model

MOST_ROWS = 6000
PART = 512  # columns at a time


class Told:
    """In the place of `sciguide.equation_factor.Factor`, for members whose scales are all as told, s^2 alike in all
    octaves; `kept`: noise levels at a time."""

    direct = False  # there is none of each member's own

    def __init__(self, step: EquationStep, kept: int) -> None:
        self.J, self.metric = step.J, step.metric
        self.at = lru_cache(maxsize=kept)(self._lower)

    def solve(self, r: Tensor, sigma: float, field: Tensor, least: Tensor) -> Tensor:
        """For rows r (B, L, Y, X)."""
        out = torch.zeros_like(r)
        out[:, self.J.valid] = torch.cholesky_solve(r[:, self.J.valid].T, self.at(sigma, tuple(least[:, 0].tolist()))).T
        return out

    def _lower(self, sigma: float, least: tuple[float, ...]) -> Tensor:
        rows = self.J.valid.nonzero()
        matrix = self.J.std.new_empty(len(rows), len(rows))
        for first in range(0, len(rows), PART):
            part = rows[first : first + PART]
            unit = matrix.new_zeros(len(part), *self.J.valid.shape)
            unit[range(len(part)), *part.T] = 1
            moved = self.J.forward(self.metric(self.J.transpose(unit), sigma))
            matrix[first : first + PART] = moved[:, self.J.valid]
        matrix = (matrix + matrix.T) / 2
        noise = matrix.new_tensor(least).clamp(min=1e-12 * float(matrix.diagonal().mean()))
        matrix.diagonal().add_(noise[rows[:, 0]])
        return torch.linalg.cholesky(matrix)


def factorised(model: Model, constraints: Sequence[Constraint], steps: int) -> list[Constraint]:
    """The constraints, equations that are coupled to observations and have more rows than the package factorises with a
    factor of their own; those of the last number of `steps` are kept."""
    for step in constraints:
        if isinstance(step, EquationStep) and step.when == "always" and step.J.constant and step.system.factor is None:
            if int(step.J.valid.sum()) <= MOST_ROWS:
                key = "told factors", step.name
                if key not in model.steps or model.steps[key][0] != steps:
                    model.steps[key] = [steps, Told(step, steps + 1)]
                step.system.factor = model.steps[key][1]
    return list(constraints)
