"""Equations as constraints on a model's normalised channels, with the sizes that they have on the training data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.equations import get
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid

LEAST_FLOOR = 1e-6  # of R_data, where rounding begins


@dataclass(frozen=True)
class EquationRecord:
    """An equation as the training data obey it: what a model keeps of it, in plain types.

    `operator`: `Operator.to_dict()`, its scale the rms of the scale term over the training data; `channels`: of its
    fields, in their order; `s2`: mean over the samples of R = mean (r / scale)^2; `floor`: R_data, the .9 quantile of
    R over the samples, never below 1e-6.
    """

    operator: dict[str, Any]
    channels: list[int]
    s2: float
    floor: float

    @property
    def name(self) -> str:
        return self.operator["name"]


def record_equation(
    name: str, given: Mapping[str, str | float], layout: Layout, grid: Grid, samples: np.ndarray
) -> EquationRecord:
    """Measure the equation `name` on physical training samples (N, C, Y, X).

    `given`: variables of its fields, where their names do not tell, and values of its constants. Raises InputError
    where the layout lacks a field, or a field has levels (one equation speaks of one level).
    """
    from sciguide.matching import match_fields

    equation = get(name)(**{k: v for k, v in given.items() if not isinstance(v, str)})
    fields = match_fields(layout.template, equation, {k: v for k, v in given.items() if isinstance(v, str)}).variables
    channels = []
    for field, variable in fields.items():
        found = [i for i, c in enumerate(layout.channels) if c.variable == variable]
        if len(found) != 1:
            raise InputError(f"equation {name}: its field {field} is `{variable}`, which has {len(found)} levels")
        channels += found
    operator = equation.on(grid)

    def each(measure: Callable[[Tensor], Tensor]) -> Tensor:
        """`measure` of every sample, read in turn: they may not fit into memory."""
        parts = np.array_split(samples, max(1, len(samples) // 64))
        return torch.cat([measure(torch.nan_to_num(torch.tensor(p[:, channels], dtype=torch.float64))) for p in parts])

    scale = each(operator.scale_square).mean(0).sqrt().tolist()
    if not min(scale) > 0:
        raise InputError(f"equation {name}: its scale term vanishes on the training data; it cannot guide")
    operator = operator.scaled(scale)
    R = each(operator.energy)
    return EquationRecord(operator.to_dict(), channels, float(R.mean()), max(float(R.quantile(0.9)), LEAST_FLOOR))


class EquationOnModel:
    """The residual of an equation, over its scale, as a function of normalised fields x (B, C, Y, X)."""

    def __init__(self, record: EquationRecord, normaliser: Normaliser, grid: Grid) -> None:
        self.record, self.normaliser = record, normaliser
        self.operator = Operator.from_dict(record.operator, grid)
        self.name, self.channels = record.name, record.channels

    def physical(self, x: Tensor) -> Tensor:
        """The equation's fields in physical units, (B, F, Y, X)."""
        return self.normaliser.decode(x)[:, self.channels]

    def residual(self, x: Tensor) -> Tensor:
        """r / scale, (B, K, Y, X), zero where not valid."""
        return self.operator.relative(self.operator.residual(self.physical(x)))

    def energy(self, x: Tensor) -> Tensor:
        """R, (B,)."""
        return self.operator.energy(self.physical(x))
