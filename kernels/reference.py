"""The PyTorch reference of a stencil on a grid: plain tensor operations that define what every other backend computes.

With r the residual, J = dr/du and w the area weights of the valid cells (their sum is 1):

    energy    E = sum_cells w (r / scale)^2                                    per sample
    jvp       (J v)   at a cell  = sum_o dr/du_o v_o                           a gather of the same points as r
    vjp       (J^T g) at a point = sum_o shift(g dr/du_o, -o)                  its transpose, boundary rule included
    gradient  dE/du = J^T (2 w r / scale^2)

What a read beyond the edge finds, per axis:

    periodic    the point on the other side
    dirichlet   zero: the boundary value is 0 one spacing outside the last stored point
    neumann     the mirrored point, u[-1] = u[0] and u[-2] = u[1]: the wall lies half a spacing outside the last point
    open        nothing: a cell whose stencil leaves the grid is not valid

A cell is valid where every point that its stencil reads is (masked points are not). Values off the mask are replaced
before the arithmetic, so NaN there changes no bit elsewhere, nor any derivative. A field named in `stencil.positive`
has no meaningful zero: it is mirrored where others are zero, and 1 where others are filled with 0. Functions take u (B,
F, Y, X) of any floating type (half precision is computed in float32) and can be differentiated twice by autograd.
Coefficients are combined in float64 and rounded once to the type of u.
"""

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np
import sympy
import torch
import torch.nn.functional as F
from sympy import Expr
from torch import Tensor

from .differences import RULES
from .stencil import Coefficient, Point, Stencil

TORCH = {
    sympy.Add: lambda *terms: reduce(torch.add, terms),
    sympy.Mul: lambda *factors: reduce(torch.mul, factors),
    sympy.Pow: torch.pow,
    sympy.exp: torch.exp,
    sympy.log: torch.log,
    sympy.sin: torch.sin,
    sympy.cos: torch.cos,
    sympy.tan: torch.tan,
    sympy.tanh: torch.tanh,
    sympy.Abs: torch.abs,
    sympy.sign: torch.sign,
}
Reads = dict[Point, Tensor]


class Reference:
    """`stencil` on one grid. `values`: the number of every coefficient, a scalar or (Y,) or (X,) along its axis;
    `boundary`: the rule for (y, x); `weights`: (Y, X) area weights; `mask`: bool (Y, X), True where points are valid;
    `scale`: what the residual is divided by in the energy. Raises ValueError for a rule or value that does not fit."""

    def __init__(
        self,
        stencil: Stencil,
        values: Mapping[Coefficient, float | np.ndarray],
        boundary: tuple[str, str],
        weights: np.ndarray,
        mask: np.ndarray | None = None,
        scale: float = 1.0,
    ) -> None:
        if not set(boundary) <= set(RULES):
            raise ValueError(f"boundary {boundary}: the rules are {', '.join(RULES)}")
        self.stencil, self.boundary, self.scale = stencil, tuple(boundary), scale
        self.shape = weights.shape
        self.values = {c: self._value(c, values[c]) for c in stencil.coefficients}
        self._mask = None if mask is None or mask.all() else Constant(torch.from_numpy(np.array(mask, bool)))
        self.valid = self._find_valid()
        self._valid = Constant(self.valid)
        inside = torch.where(self.valid, torch.from_numpy(np.asarray(weights, np.float64)), 0)
        self._weights = Constant(inside / inside.sum().clamp_min(torch.finfo(torch.float64).tiny))
        self._residual = self._compile(stencil.expr)
        self._derivatives = {p: self._compile(d) for p, d in stencil.derivatives.items()}

    def residual(self, u: Tensor) -> Tensor:
        """r (B, Y, X), zero where the cell is not valid."""
        r = self._residual(self._read(u))
        return self._where_valid(r.expand(len(u), *self.shape))

    def mean_square(self, r: Tensor) -> Tensor:
        """Area-weighted mean of r^2 over the valid cells, (B, Y, X) -> (B,)."""
        return (self._weights.like(r) * r.square()).sum((-2, -1))

    def energy(self, u: Tensor) -> Tensor:
        """Area-weighted mean of (r / scale)^2 over the valid cells, (B,)."""
        return self.mean_square(self.residual(u) / self.scale)

    def gradient(self, u: Tensor) -> Tensor:
        """d energy / d u, (B, F, Y, X), zero off the mask."""
        r = self.residual(u) / self.scale
        return self.vjp(u, 2 * self._weights.like(r) * r / self.scale)

    def jvp(self, u: Tensor, v: Tensor) -> Tensor:
        """J v (B, Y, X): how the residual changes along `v`, (B, F, Y, X)."""
        reads, moved = self._read(u), self._read(v, linear=True)
        total = sum((self._derivatives[p](reads) * moved[p] for p in self.stencil.points), torch.zeros_like(v[:, 0]))
        return self._where_valid(total)

    def vjp(self, u: Tensor, g: Tensor) -> Tensor:
        """J^T g (B, F, Y, X) of `g` (B, Y, X), by the transposed gather."""
        reads, g = self._read(u), self._where_valid(promote(g))
        return self._scatter({p: self._where_valid(self._derivatives[p](reads) * g) for p in self.stencil.points}, g)

    def magnitude(self, u: Tensor) -> Tensor:
        """sum_o |dr/du_o| |u_o| (B, Y, X): the size of the terms that cancel in r, against which rounding is judged."""
        reads = self._read(u)
        total = sum(self._derivatives[p](reads).abs() * reads[p].abs() for p in self.stencil.points)
        return self._where_valid(total.expand(len(u), *self.shape))

    def weights(self) -> dict[Point, float]:
        """dr/du_o where it is one number all over the grid. Raises ValueError where it is not."""
        found = {}
        for point, derivative in self.stencil.derivatives.items():
            if derivative.has(Point) or number(derivative, self.values).ndim:
                raise ValueError(f"the weight of {point} varies: {derivative}")
            found[point] = float(number(derivative, self.values))
        return found

    def _read(self, u: Tensor, linear: bool = False) -> Reads:
        """The value at every point that the stencil reads, each (B, Y, X); with `linear` the rule's linear part."""
        if u.ndim != 4 or u.shape[1] != len(self.stencil.fields) or u.shape[-2:] != self.shape:
            fields = f"(B, {len(self.stencil.fields)}, {self.shape[0]}, {self.shape[1]})"
            raise ValueError(f"fields {', '.join(self.stencil.fields)} are {fields}, not {tuple(u.shape)}")
        u, extended = promote(u), {}
        for name, v in zip(self.stencil.fields, u.unbind(1), strict=True):
            if self._mask is not None:
                v = torch.where(self._mask.like(v), v, 0 if linear or name not in self.stencil.positive else 1)
            for dim, halo, rule in self._edges(name):
                v = extend(v, dim, halo, rule)
            extended[name] = v
        (hy, hx), (ny, nx) = self.stencil.halo, self.shape
        return {
            p: extended[p.name][:, hy + p.dj : hy + p.dj + ny, hx + p.di : hx + p.di + nx] for p in self.stencil.points
        }

    def _scatter(self, terms: Reads, like: Tensor) -> Tensor:
        """The transpose of `_read`: add each (B, Y, X) where it was read, fold the edges back, drop masked points."""
        (hy, hx), out = self.stencil.halo, []
        for name in self.stencil.fields:
            parts = [F.pad(t, (hx + p.di, hx - p.di, hy + p.dj, hy - p.dj)) for p, t in terms.items() if p.name == name]
            total = sum(parts) if parts else F.pad(torch.zeros_like(like), (hx, hx, hy, hy))
            for dim, halo, rule in reversed(self._edges(name)):
                total = fold(total, dim, halo, rule)
            out.append(total if self._mask is None else torch.where(self._mask.like(total), total, 0))
        return torch.stack(out, 1)

    def _edges(self, name: str) -> list[tuple[int, int, str]]:
        mirrored = name in self.stencil.positive
        rules = ["neumann" if mirrored and rule != "periodic" else rule for rule in self.boundary]
        return list(zip((-2, -1), self.stencil.halo, rules, strict=True))

    def _find_valid(self) -> Tensor:
        """bool (Y, X): the cells all of whose reads exist."""
        missing = torch.zeros(1, *self.shape) if self._mask is None else 1 - self._mask.value.float()[None]
        for dim, halo, rule in zip((-2, -1), self.stencil.halo, self.boundary, strict=True):
            if rule == "open":
                missing = F.pad(missing, ghost_pad(dim, halo), value=1.0)
            else:
                missing = extend(missing, dim, halo, rule)  # a zero ghost is not missing
        (hy, hx), (ny, nx) = self.stencil.halo, self.shape
        offsets = {(p.dj, p.di) for p in self.stencil.points}
        return sum(missing[0, hy + dj : hy + dj + ny, hx + di : hx + di + nx] for dj, di in offsets) == 0

    def _where_valid(self, r: Tensor) -> Tensor:
        return torch.where(self._valid.like(r), r, 0)

    def _value(self, c: Coefficient, value: float | np.ndarray) -> Tensor:
        """The coefficient in float64, shaped to broadcast over (Y, X)."""
        value = np.asarray(value, np.float64)
        expected = {"": (), "y": self.shape[:1], "x": self.shape[1:]}[c.axis]
        if value.shape != expected:
            raise ValueError(f"coefficient {c} has shape {value.shape}, not {expected}")
        return torch.from_numpy(value[:, None] if c.axis == "y" else value)

    def _compile(self, expr: Expr) -> Callable[[Reads], Tensor]:
        """`expr` as a function of the reads. Parts without a field are computed here, once."""
        if not expr.has(Point):
            constant = Constant(number(expr, self.values))
            return lambda reads: constant.like(next(iter(reads.values())))
        if isinstance(expr, Point):
            return lambda reads: reads[expr]
        if expr.is_Pow:
            base, power = self._compile(expr.base), float(expr.exp)
            return lambda reads: base(reads) ** power
        args = expr.args
        if expr.is_Mul:
            factor, rest = expr.as_independent(Point, as_Add=False)
            args = (*sympy.Mul.make_args(rest), factor)
        parts, function = [self._compile(a) for a in args if a != 1 or not expr.is_Mul], TORCH[expr.func]
        return lambda reads: function(*(part(reads) for part in parts))


class Constant:
    """A tensor that follows the type and device of what it meets; a boolean one only the device."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._copies: dict[tuple, Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The value where `other` lives, converted once."""
        dtype = self.value.dtype if self.value.dtype == torch.bool else other.dtype
        key = dtype, other.device
        if key not in self._copies:
            with torch.inference_mode(False):  # an inference tensor kept here could not be used under autograd later
                self._copies[key] = self.value.to(other.device, dtype)
        return self._copies[key]


def number(expr: Expr, values: Mapping[Coefficient, Tensor]) -> Tensor:
    """A field-free expression in float64, broadcastable over (Y, X)."""
    if isinstance(expr, Coefficient):
        return values[expr]
    if not expr.args:
        return torch.tensor(float(expr), dtype=torch.float64)
    return TORCH[expr.func](*(number(a, values) for a in expr.args))


def extend(v: Tensor, dim: int, halo: int, rule: str) -> Tensor:
    """`v` with `halo` more points at both ends of `dim`, as the boundary rule has them."""
    if rule in ("dirichlet", "open"):
        return F.pad(v, ghost_pad(dim, halo))
    return v.index_select(dim, _sources(v.shape[dim], halo, rule, v.device))


def fold(v: Tensor, dim: int, halo: int, rule: str) -> Tensor:
    """The transpose of `extend`: what was added to a ghost goes to the point it came from."""
    n = v.shape[dim] - 2 * halo
    if rule in ("dirichlet", "open"):
        return v.narrow(dim, halo, n)
    shape = list(v.shape)
    shape[dim] = n
    return v.new_zeros(shape).index_add(dim, _sources(n, halo, rule, v.device), v)


def ghost_pad(dim: int, halo: int) -> tuple[int, ...]:
    """`halo` points at both ends of `dim` (-2 or -1), as `F.pad` wants it."""
    return (halo, halo) if dim == -1 else (0, 0, halo, halo)


def _sources(n: int, halo: int, rule: str, device: torch.device) -> Tensor:
    mode = {"periodic": "wrap", "neumann": "symmetric"}[rule]
    return torch.from_numpy(np.pad(np.arange(n), halo, mode=mode)).to(device)


def promote(u: Tensor) -> Tensor:
    """Half precision to float32: a residual is a small difference of large terms."""
    return u.float() if u.dtype in (torch.float16, torch.bfloat16) else u
