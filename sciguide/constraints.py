"""Equations as constraints on a model's normalised channels, with the sizes that they have on the training data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciguide.channels import Channels
from sciguide.coordinates import vertical
from sciguide.datasets.axes import ascending
from sciguide.datasets.layout import Layout, Static
from sciguide.datasets.normaliser import Normaliser
from sciguide.equations import Constant, Equation, get
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.kernels.ops import Kernels
from sciguide.matching import Match, conversions, found_units, match_fields
from sciguide.residual_spectrum import MOST_VALUES, energies_of, shares

if TYPE_CHECKING:
    import xarray as xr

LEAST_FLOOR = 1e-6  # of R_data, where rounding begins


@dataclass(frozen=True)
class EquationRecord:
    """An equation as the training data obey it: what a model keeps of it, in plain types.

    `operator`: `Operator.to_dict()`, its scale the rms of the scale term over the training data; `channels`: of its
    fields, in their order, and of each field's levels, ascending in `z`, where the equation is over levels; `s2`: of
    each residual the mean over the samples of (r / scale)^2; `floor`: R_data, the .9 quantile of R over the samples,
    never below 1e-6; `z`: the third axis, as the equation wants it, where it has one; `static`: of the fields that are
    the same in all samples, and have no channel, the names in the layout; `strength` and `shares`, see
    `sciguide/strength.py`: pairs (sigma, s*) of a nonlinear equation, and (sigma, one factor of V_f for each field);
    `octaves`: of each residual of a linear equation over (y, x), the share of s2 in each octave of the wavenumber over
    white noise's, from the shortest waves to the longest; none where it is taken for white, being at the level of
    rounding, nonlinear, or over levels (`sciguide/residual_spectrum.py`).
    """

    operator: dict[str, Any]
    channels: list[int] | list[list[int]]
    s2: list[float]
    floor: float
    z: list[float] | None = None
    static: dict[str, str] = field(default_factory=dict)
    strength: list[list[float]] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)
    octaves: list[list[float]] = field(default_factory=list)

    def share_at(self, f: int, sigma: float) -> float:
        """By which V of field `f` is multiplied, log-linear; 1 where it was not measured."""
        if not self.shares:
            return 1.0
        sigmas, found = np.log(self.shares)[:, [0, f + 1]].T
        return float(np.exp(np.interp(np.log(sigma), sigmas, found)))

    def strength_at(self, sigma: float) -> float:
        """s*(sigma), log-linear in sigma; 1 where it was not measured."""
        if not self.strength:
            return 1.0
        sigmas, found = np.transpose(self.strength)
        return float(np.interp(np.log(sigma), np.log(sigmas), found))

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
    match = match_fields(with_static(layout), equation, {k: v for k, v in given.items() if k not in told})
    _check_times(equation, match, told)
    _check_units(equation, match, layout, grid)
    levels = _levels(equation, match, layout)
    static = {f: v for f, v in match.variables.items() if v in layout.static}
    live = [v for f, v in match.variables.items() if f not in static]
    channels = [[i for i, c in enumerate(layout.channels) if c.variable == v] for v in live]
    same = {f: layout.static[v].values for f, v in static.items()}

    def record(channels: list, z: np.ndarray | None = None, name: str | None = None) -> EquationRecord:
        where = Channels(list(equation.fields), channels, same)
        measured = _record(equation, where, z, grid, samples)
        state = measured.operator | ({"name": name} if name else {})
        return replace(measured, operator=state, channels=channels, static=static)

    if "z" in equation.axes:
        if levels is None:
            raise InputError(f"equation {name} is over levels; {', '.join(match.names)} have none")
        values = layout.coordinates[levels]
        order, z = ascending(vertical(levels, values.values, values.attrs, equation.vertical), False)
        return [record([[found[k] for k in order] for found in channels], z)]
    if levels is None:
        return [record([found[0] for found in channels])]
    labels = [layout.names[i].rpartition("_")[2] for i in channels[0]]
    return [record([found[k] for found in channels], name=f"{equation.name}@{label}") for k, label in enumerate(labels)]


def _check_times(equation: Equation, match: Match, told: Mapping[str, Any]) -> None:
    if match.later:
        raise InputError(
            f"equation {equation.name} compares two times, and a model's samples hold one: give variables of the later "
            f"time for {', '.join(sorted(match.later))}, and dt"
        )
    if "dt" in equation.constants and "dt" not in told:
        raise InputError(f"equation {equation.name}: both times are variables of their own: give dt, in seconds")


def with_static(layout: Layout) -> "xr.Dataset":
    """The template, with the fields that are the same in all samples as variables too."""
    fields = {n: ((layout.y_name, layout.x_name), s.values, s.attrs) for n, s in layout.static.items()}
    return layout.template.assign(fields)


def _check_units(equation: Equation, match: Match, layout: Layout, grid: Grid) -> None:
    """A model's fields are in the units of its data, all over: they have to be the equation's too."""
    found = found_units(with_static(layout), equation, match)
    if not grid.sphere and set(found.values()) == {"1"}:
        return
    for (name, variable), how in zip(match.variables.items(), conversions(found, equation, match), strict=True):
        if not np.allclose(how, (1, 0), rtol=1e-12):
            raise InputError(
                f"variable {variable!r} is in {found[name]}: equation {equation.name} guides in "
                f"{equation.fields[name].units}; convert the data first"
            )


def _levels(equation: Equation, match: Match, layout: Layout) -> str | None:
    """The level dimension of all fields. Raises InputError where they differ."""
    found = {v: layout.variables[v].level for v in match.names if v not in layout.static}
    if len(set(found.values())) > 1:
        each = ", ".join(f"{v} on {d or 'none'}" for v, d in found.items())
        raise InputError(
            f"equation {equation.name}: its fields are on different levels: {each}; select until they agree"
        )
    return next(iter(found.values()))


def _record(
    equation: Equation, where: Channels, z: np.ndarray | None, grid: Grid, samples: np.ndarray
) -> EquationRecord:
    operator = equation.on(on_levels(grid, z))

    def each(measure: Callable[[Tensor], Tensor], step: int = 1) -> Tensor:
        """`measure` of every sample, or of each `step`-th, read in turn: they may not fit into memory."""
        chosen = samples[::step]
        parts = np.array_split(chosen, max(1, len(chosen) // 64))
        whole = (torch.nan_to_num(torch.tensor(p, dtype=torch.float64)) for p in parts)
        return torch.cat([measure(where.fields(p)) for p in whole])

    scale = each(operator.scale_square).mean(0).sqrt().tolist()
    if not min(scale) > 0:
        raise InputError(f"equation {equation.name}: its scale term vanishes on the training data; it cannot guide")
    operator = operator.scaled(scale)
    squares = each(lambda u: operator.mean_square(operator.relative(operator.residual(u))))
    R = squares @ torch.tensor(operator.share, dtype=torch.float64)
    floor, s2 = max(float(R.quantile(0.9)), LEAST_FLOOR), squares.mean(0).tolist()
    octaves: list[list[float]] = []
    if operator.linear and z is None and max(s2) > LEAST_FLOOR:
        values = len(samples) * len(s2) * operator.valid.numel()
        octaves = shares(each(energies_of(operator), -(-values // MOST_VALUES)), s2, LEAST_FLOOR)
    return EquationRecord(operator.to_dict(), [], s2, floor, None if z is None else z.tolist(), octaves=octaves)


def on_levels(grid: Grid, z: np.ndarray | list[float] | None) -> Grid:
    """A model's grid with a third axis of levels, or as it is where there are none."""
    if z is None:
        return grid
    mask = None if grid.mask is None else np.broadcast_to(grid.mask, (len(z), *grid.shape))
    return replace(grid, z=np.asarray(z), boundary=("open", *grid.boundary), mask=mask)


class EquationOnModel:
    """The residual of an equation, over its scale, as a function of normalised fields x (B, C, Y, X). The equation's
    own fields are (B, F, Y, X), or (B, F, Z, Y, X) where it is over levels."""

    def __init__(
        self, record: EquationRecord, normaliser: Normaliser, grid: Grid, static: Mapping[str, Static] | None = None
    ) -> None:
        self.record, self.normaliser, self.name = record, normaliser, record.name
        self.operator = Operator.from_dict(record.operator, on_levels(grid, record.z))
        values = {f: (static or {})[v].values for f, v in record.static.items()}
        self.channels = Channels(self.operator.fields, record.channels, values)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the equations in it, one."""
        return (self.name,)

    @property
    def part_of(self) -> list[int]:
        """Of each residual, to which of them it belongs."""
        return [0] * len(self.operator.components)

    @property
    def moving(self) -> list[int]:
        """The channels that a guide may move."""
        found = zip(self.operator.fields, self.channels.of, strict=True)
        return [c for field, own in found if field in self.operator.moves for c in own]

    @cached_property
    def kernels(self) -> Kernels:
        """The operator's kernels on the equation's normalised channels. Raises InputError where the levels of one field
        have units of their own."""
        given = ((self.normaliser.mean, 0.0), (self.normaliser.std, 1.0), (self.normaliser.log, False))
        units = [self.channels.each(v, otherwise) for v, otherwise in given]
        if self.record.z is not None:
            if any((v != v[:, :1]).any() for v in units):
                raise InputError(
                    f"equation {self.name}: levels that are normalised one by one cannot be guided together"
                )
            units = [v[:, 0] for v in units]
        return self.operator.in_units(*units)

    def physical(self, x: Tensor) -> Tensor:
        """The equation's fields in physical units."""
        return self.channels.fields(self.normaliser.decode(x))

    def residual(self, x: Tensor) -> Tensor:
        """r / scale, (B, K, [Z,] Y, X), zero where not valid."""
        return self.operator.relative(self.operator.residual(self.physical(x)))

    def energy(self, x: Tensor) -> Tensor:
        """R, (B,)."""
        return self.operator.energy(self.physical(x))
