"""What tuning rewards beside the residual: that the data's solver finds no more wrong with a member than with data.

The residual that guides ends below what the data have of it, by the formula already, and leaves nothing to decide. What
the solver finds wrong with p, and with the change between the snapshots, no guide has seen.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.flows_data import Fields
from benchmarks.flows_scores import Yardstick
from sciguide.model import Model
from sciguide.training.problems import Terms

QUANTILE = 0.9  # of the training data, as in R_data of an equation
WORST = 100.0  # where the solver finds no step, or no end: ten times the scale


def resolved(model: Model, yardstick: Yardstick, training: Fields) -> Terms:
    """Mean square errors against the solver over the data's own scale, of the change of the winds and of p, down to
    what the `training` samples have."""
    found = _errors(yardstick, training)
    return Terms(_Resolve(model, yardstick), tuple(np.quantile(found, QUANTILE, axis=0).tolist()))


class _Resolve:
    """Of normalised fields (B, C, Y, X), (B, 2)."""

    def __init__(self, model: Model, yardstick: Yardstick) -> None:
        self.decode: Callable[[Tensor], Tensor] = model.normaliser.decode
        self.yardstick = yardstick

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(_errors(self.yardstick, self.decode(x).cpu().numpy())).to(x)


def _errors(yardstick: Yardstick, x: Fields) -> NDArray[np.float64]:
    found = yardstick.restepped(x)
    both = np.stack([found[:, :-1].mean(1), found[:, -1]], 1)
    return np.nan_to_num(both, nan=WORST, posinf=WORST).clip(0, WORST)
