"""Point observations of the fields: read from a file, turned into rows on normalised tensors.

A row interpolates bilinearly between the four grid points around a position; the four must be valid. Values and errors
are in the units of the variable.
"""

import csv
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sciguide.errors import InputError

COLUMNS = ("variable", "y", "x", "value", "error")


@dataclass(frozen=True)
class Observations:
    """m point observations in normalised units: `index` (m, 4) into the flattened (C, Y, X) field and `weight` (m, 4)
    of the interpolation, `value` (m,), `error` (m,) standard deviations, `channel` (m,); float64."""

    index: Tensor
    weight: Tensor
    value: Tensor
    error: Tensor
    channel: Tensor

    def __len__(self) -> int:
        return len(self.value)

    def to(self, device: torch.device) -> "Observations":
        """The same ones there."""
        return Observations(*(getattr(self, f.name).to(device) for f in fields(self)))

    def innovation(self, x: Tensor) -> Tensor:
        """(A x - y) / s for fields (B, C, Y, X): predicted minus observed in told errors, (B, m)."""
        return (self.interpolate(x) - self.value) / self.error

    def predict(self, v: Tensor) -> Tensor:
        """S^-1 A v without the values, (B, m)."""
        return self.interpolate(v) / self.error

    def interpolate(self, x: Tensor) -> Tensor:
        """Values of fields (B, C, Y, X) where the observations are, (B, m)."""
        return (x.flatten(1)[:, self.index] * self.weight).sum(-1)

    def scatter(self, w: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """A^T S^-1 w, the transpose of `predict`: (B, m) -> (B, *shape)."""
        terms = ((w / self.error)[..., None] * self.weight).flatten(1)
        out = w.new_zeros(len(w), int(np.prod(shape)))
        return out.index_add_(1, self.index.flatten(), terms).reshape(-1, *shape)


def locate(layout, normaliser, channel: np.ndarray, y: np.ndarray, x: np.ndarray, value: np.ndarray, error: np.ndarray):
    """`Observations` of channels (m,) at coordinates y, x (m,), with values and errors in the variables' units.

    Raises InputError where a position lies outside the grid or next to an invalid point, an error is not positive, or
    a variable is log-transformed.
    """
    ny, nx = layout.mask.shape[-2:]
    if np.any(np.asarray(normaliser.log)[channel]):
        name = layout.names[int(channel[np.asarray(normaliser.log)[channel]][0])]
        raise InputError(f"observations of `{name}`: it is log-transformed, its points are no linear constraint")
    if not np.all(error > 0) or not np.isfinite([value, error]).all():
        raise InputError("observations: values must be finite and errors positive; give each its standard deviation")
    (j, fj), (i, fi) = _cell(layout.y, y, layout.y_name), _cell(layout.x, x, layout.x_name)
    index = np.stack([(channel * ny + j + dj) * nx + i + di for dj in (0, 1) for di in (0, 1)], 1)
    weight = np.stack([wj * wi for wj in (1 - fj, fj) for wi in (1 - fi, fi)], 1)
    touched = weight > 1e-9
    index = np.where(touched, index, index[:, :1])
    invalid = ~np.where(touched, layout.mask.flatten()[index], True).all(1)
    if invalid.any():
        first = int(invalid.argmax())
        raise InputError(
            f"observations: {invalid.sum()} of {len(y)} lie beside land or missing points, first at "
            f"({layout.y_name}, {layout.x_name}) = ({y[first]:g}, {x[first]:g}); move or drop them"
        )
    mean, std = (np.asarray(part, np.float64)[channel] for part in (normaliser.mean, normaliser.std))
    to = torch.from_numpy
    arrays = (index, np.where(touched, weight, 0.0), (value - mean) / std, error / std, channel)
    return Observations(*(to(np.ascontiguousarray(a)) for a in arrays))


def _cell(coordinate: np.ndarray, at: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Index of the grid point before each position, and the fraction of the way to the next."""
    span = np.abs(np.diff(coordinate)).min() * 1e-6
    outside = (at < coordinate[0] - span) | (at > coordinate[-1] + span)
    if outside.any():
        first = at[outside][0]
        raise InputError(f"observations: {name} = {first:g} is outside {coordinate[0]:g} to {coordinate[-1]:g}")
    before = np.clip(np.searchsorted(coordinate, at, side="right") - 1, 0, len(coordinate) - 2)
    fraction = (at - coordinate[before]) / (coordinate[before + 1] - coordinate[before])
    return before, np.clip(fraction, 0, 1)


def read_observations(path: str | Path, layout, normaliser) -> Observations:
    """From a CSV file with the columns variable, y, x, value, error (y and x may bear the grid's own names).

    `variable` is a channel's name as `sciguide inspect` prints it. Raises InputError naming the file and the line.
    """
    try:
        with open(path, newline="") as f:
            rows = list(csv.DictReader(f))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); `--obs` wants a CSV file {','.join(COLUMNS)}") from error
    alias = {layout.y_name: "y", layout.x_name: "x"}
    rows = [{alias.get(k, k): v for k, v in row.items()} for row in rows]
    missing = [c for c in COLUMNS if not rows or c not in rows[0]]
    if missing:
        raise InputError(f"{path}: no column or no row of {', '.join(missing)}; the header is {','.join(COLUMNS)}")
    names, columns = list(layout.names), []
    for line, row in enumerate(rows, 2):
        if row["variable"] not in names:
            raise InputError(f"{path}, line {line}: no variable `{row['variable']}`; there are {', '.join(names)}")
        try:
            columns.append([names.index(row["variable"]), *(float(row[c]) for c in COLUMNS[1:])])
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {line}: {error}") from error
    channel, y, x, value, error = np.array(columns).T
    try:
        return locate(layout, normaliser, channel.astype(int), y, x, value, error)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from problem
