"""Equations as constraints on a model's normalised channels, with the sizes that they have on the training data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciguide.coordinates import vertical
from sciguide.datasets.axes import ascending
from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.equations import Constant, Equation, get
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.kernels.ops import Kernels
from sciguide.matching import Match, conversions, found_units, match_fields

LEAST_FLOOR = 1e-6  # of R_data, where rounding begins


@dataclass(frozen=True)
class EquationRecord:
    """An equation as the training data obey it: what a model keeps of it, in plain types.

    `operator`: `Operator.to_dict()`, its scale the rms of the scale term over the training data; `channels`: of its
    fields, in their order, and of each field's levels, ascending in `z`, where the equation is over levels; `s2`: of
    each residual the mean over the samples of (r / scale)^2; `floor`: R_data, the .9 quantile of R over the samples,
    never below 1e-6; `z`: the third axis, as the equation wants it, where it has one.
    """

    operator: dict[str, Any]
    channels: list[int] | list[list[int]]
    s2: list[float]
    floor: float
    z: list[float] | None = None

    @property
    def name(self) -> str:
        """Of the equation, with @LEVEL where it speaks of one level among several."""
        return self.operator["name"]


def record_equations(
    name: str, given: Mapping[str, str | float], layout: Layout, grid: Grid, samples: np.ndarray
) -> list[EquationRecord]:
    """Measure the equation `name` on physical training samples (N, C, Y, X): one record, or one for each level where
    it is over (y, x) and its fields are on levels.

    `given`: variables of its fields, where their names do not tell, and its constants, values or variables. Raises
    InputError where the layout lacks a field, holds it in other units or on other levels than the rest, or where the
    equation compares two times and the layout has one.
    """
    kind = get(name)
    told = {k: v for k, v in given.items() if not isinstance(v, str) or k in kind.members(Constant)}
    equation = kind(**told)
    match = match_fields(layout.template, equation, {k: v for k, v in given.items() if k not in told})
    _check_times(equation, match, told)
    _check_units(equation, match, layout, grid)
    levels = _levels(equation, match, layout)
    channels = [[i for i, c in enumerate(layout.channels) if c.variable == v] for v in match.variables.values()]
    if "z" in equation.axes:
        if levels is None:
            raise InputError(f"equation {name} is over levels; {', '.join(match.names)} have none")
        values = layout.coordinates[levels]
        order, z = ascending(vertical(levels, values.values, values.attrs, equation.vertical), False)
        return [_record(equation, [[found[k] for k in order] for found in channels], z, grid, samples)]
    if levels is None:
        return [_record(equation, [found[0] for found in channels], None, grid, samples)]
    labels = [layout.names[i].rpartition("_")[2] for i in channels[0]]
    return [
        _record(equation, [found[k] for found in channels], None, grid, samples, f"{equation.name}@{label}")
        for k, label in enumerate(labels)
    ]


def _check_times(equation: Equation, match: Match, told: Mapping[str, Any]) -> None:
    if match.later:
        raise InputError(
            f"equation {equation.name} compares two times, and a model's samples hold one: give variables of the later "
            f"time for {', '.join(sorted(match.later))}, and dt"
        )
    if "dt" in equation.constants and "dt" not in told:
        raise InputError(f"equation {equation.name}: both times are variables of their own: give dt, in seconds")


def _check_units(equation: Equation, match: Match, layout: Layout, grid: Grid) -> None:
    """A model's fields are in the units of its data, all over: they have to be the equation's too."""
    found = found_units(layout.template, equation, match)
    if not grid.sphere and set(found.values()) == {"1"}:
        return
    for (field, variable), how in zip(match.variables.items(), conversions(found, equation, match), strict=True):
        if not np.allclose(how, (1, 0), rtol=1e-12):
            raise InputError(
                f"variable {variable!r} is in {found[field]}: equation {equation.name} guides in "
                f"{getattr(type(equation), field).units}; convert the data first"
            )


def _levels(equation: Equation, match: Match, layout: Layout) -> str | None:
    """The level dimension of all fields. Raises InputError where they differ."""
    found = {variable: layout.variables[variable].level for variable in match.names}
    if len(set(found.values())) > 1:
        each = ", ".join(f"{v} on {d or 'none'}" for v, d in found.items())
        raise InputError(
            f"equation {equation.name}: its fields are on different levels: {each}; select until they agree"
        )
    return next(iter(found.values()))


def _record(
    equation: Equation,
    channels: list[int] | list[list[int]],
    z: np.ndarray | None,
    grid: Grid,
    samples: np.ndarray,
    name: str | None = None,
) -> EquationRecord:
    operator = equation.on(on_levels(grid, z))

    def each(measure: Callable[[Tensor], Tensor]) -> Tensor:
        """`measure` of every sample, read in turn: they may not fit into memory."""
        parts = np.array_split(samples, max(1, len(samples) // 64))
        return torch.cat([measure(torch.nan_to_num(torch.tensor(p[:, channels], dtype=torch.float64))) for p in parts])

    scale = each(operator.scale_square).mean(0).sqrt().tolist()
    if not min(scale) > 0:
        raise InputError(f"equation {equation.name}: its scale term vanishes on the training data; it cannot guide")
    operator = operator.scaled(scale)
    squares = each(lambda u: operator.mean_square(operator.relative(operator.residual(u))))
    R = squares @ torch.tensor(operator.share, dtype=torch.float64)
    state = operator.to_dict() | ({"name": name} if name else {})
    floor = max(float(R.quantile(0.9)), LEAST_FLOOR)
    return EquationRecord(state, channels, squares.mean(0).tolist(), floor, None if z is None else z.tolist())


def on_levels(grid: Grid, z: np.ndarray | list[float] | None) -> Grid:
    """A model's grid with a third axis of levels, or as it is where there are none."""
    if z is None:
        return grid
    mask = None if grid.mask is None else np.broadcast_to(grid.mask, (len(z), *grid.shape))
    return replace(grid, z=np.asarray(z), boundary=("open", *grid.boundary), mask=mask)


class EquationOnModel:
    """The residual of an equation, over its scale, as a function of normalised fields x (B, C, Y, X). The equation's
    own fields are (B, F, Y, X), or (B, F, Z, Y, X) where it is over levels."""

    def __init__(self, record: EquationRecord, normaliser: Normaliser, grid: Grid) -> None:
        self.record, self.normaliser = record, normaliser
        self.operator = Operator.from_dict(record.operator, on_levels(grid, record.z))
        self.name, self.channels = record.name, record.channels

    @property
    def moving(self) -> list[int]:
        """The channels that a guide may move."""
        found = zip(self.operator.fields, np.asarray(self.channels), strict=True)
        return [int(c) for field, own in found if field in self.operator.moves for c in np.ravel(own)]

    @cached_property
    def kernels(self) -> Kernels:
        """The operator's kernels on the equation's normalised channels. Raises InputError where the levels of one field
        have units of their own."""
        units = [v[np.asarray(self.channels)] for v in (self.normaliser.mean, self.normaliser.std, self.normaliser.log)]
        if self.record.z is not None:
            if any((v != v[:, :1]).any() for v in units):
                raise InputError(
                    f"equation {self.name}: levels that are normalised one by one cannot be guided together"
                )
            units = [v[:, 0] for v in units]
        return self.operator.in_units(*units)

    def gather(self, x: Tensor) -> Tensor:
        """The equation's channels of x (B, C, Y, X)."""
        return x[:, torch.as_tensor(self.channels, device=x.device)]

    def scatter(self, u: Tensor, like: Tensor) -> Tensor:
        """The transpose of `gather`: the equation's fields as channels of zeros like x (B, C, Y, X)."""
        channels = torch.as_tensor(self.channels, device=u.device).flatten()
        return torch.zeros_like(like, dtype=u.dtype).index_add(1, channels, u.reshape(len(u), -1, *like.shape[2:]))

    def physical(self, x: Tensor) -> Tensor:
        """The equation's fields in physical units."""
        return self.gather(self.normaliser.decode(x))

    def residual(self, x: Tensor) -> Tensor:
        """r / scale, (B, K, [Z,] Y, X), zero where not valid."""
        return self.operator.relative(self.operator.residual(self.physical(x)))

    def energy(self, x: Tensor) -> Tensor:
        """R, (B,)."""
        return self.operator.energy(self.physical(x))
