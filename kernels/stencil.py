"""The stencil language: a formula over fields, lowered to shifted reads of grid points.

A field is the symbol `Point(name, dj, di)`, the value of field `name` at row j + dj and column i + di; unshifted it
stands for the field itself. The operators below act on any expression of fields:

    ddx(e), ddy(e)         first derivatives            lap(p)               div(grad(p))
    div(u, v)              divergence of a vector       div(K * grad(p))     compact flux form, face means of K
    curl(u, v)             vertical vorticity           grad(p)              only inside div

`differences.lower` replaces them by differences of points, once the geometry is known. The result is a `Stencil`, the
one object from which residual, energy, gradient, J v and J^T w are made, by the reference and by generated kernels.
"""

import keyword
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
from sympy import Expr

from .tree import decode, encode


class Point(sympy.AtomicExpr):
    """Field `name` read at row j + dj and column i + di."""

    _diff_wrt = True
    is_real = True

    def __new__(cls, name: str, dj: int = 0, di: int = 0) -> "Point":
        self = super().__new__(cls)
        self.name, self.dj, self.di = check_name(name), int(dj), int(di)
        return self

    def __getnewargs__(self) -> tuple:
        return self.name, self.dj, self.di

    def _hashable_content(self) -> tuple:
        return self.name, self.dj, self.di

    def _sympystr(self, printer: Any) -> str:
        return self.name if (self.dj, self.di) == (0, 0) else f"{self.name}[{self.dj}, {self.di}]"


class Coefficient(sympy.AtomicExpr):
    """A number that the grid or the equation supplies: `axis` "" is one scalar, "y" one value per row, "x" one per
    column, read `offset` rows or columns away."""

    is_real = True

    def __new__(cls, name: str, axis: str = "", offset: int = 0) -> "Coefficient":
        if axis not in ("", "y", "x") or (axis == "" and offset):
            raise ValueError(f"coefficient {name}: no axis {axis!r} with offset {offset}")
        self = super().__new__(cls)
        self.name, self.axis, self.offset = check_name(name), axis, int(offset)
        return self

    def __getnewargs__(self) -> tuple:
        return self.name, self.axis, self.offset

    def _hashable_content(self) -> tuple:
        return self.name, self.axis, self.offset

    def _sympystr(self, printer: Any) -> str:
        return f"{self.name}[{self.offset}]" if self.axis else self.name


class ddx(sympy.Function):
    """Derivative along x (eastward on the sphere), per unit length."""

    nargs = 1


class ddy(sympy.Function):
    """Derivative along y (northward on the sphere), per unit length."""

    nargs = 1


class curl(sympy.Function):
    """Vertical vorticity of the vector (u, v): ddx(v) - ddy(u), with the metric term on the sphere."""

    nargs = 2


class lap(sympy.Function):
    """Laplacian, the five-point compact form."""

    nargs = 1


class div_vector(sympy.Function):
    """Divergence of the vector (u, v); written `div(u, v)`."""

    nargs = 2

    def _sympystr(self, printer: Any) -> str:
        return f"div({printer._print(self.args[0])}, {printer._print(self.args[1])})"


class div_flux(sympy.Function):
    """Divergence of K grad p in the compact form; written `div(K * grad(p))`."""

    nargs = 2

    def _sympystr(self, printer: Any) -> str:
        return f"div({printer.parenthesize(self.args[0], 50)}*grad({printer._print(self.args[1])}))"


class grad:
    """K grad p as `div` takes it: `grad(p)`, or `K * grad(p)`."""

    def __init__(self, p: Expr, factor: Expr = sympy.S.One) -> None:
        self.p, self.factor = p, factor

    def __mul__(self, factor: Expr) -> "grad":
        return grad(self.p, self.factor * factor)

    __rmul__ = __mul__

    def __neg__(self) -> "grad":
        return grad(self.p, -self.factor)


def div(flux: grad | Expr, v: Expr | None = None) -> Expr:
    """`div(K * grad(p))` or `div(u, v)`. Raises TypeError for anything else."""
    if isinstance(flux, grad) and v is None:
        return div_flux(flux.factor, flux.p)
    if isinstance(flux, grad) or v is None:
        raise TypeError("div takes K * grad(p), or the two components u, v")
    return div_vector(flux, v)


def check_name(name: str) -> str:
    """`name` if it may stand in generated source. Raises ValueError."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z_0-9]{0,63}", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name for a field or coefficient")
    return name


@dataclass(frozen=True)
class Stencil:
    """A lowered residual. `fields`: the channels in their order; `positive`: those of them that are never zero, which
    are filled with 1 and mirrored where the others get zeros."""

    expr: Expr
    fields: tuple[str, ...]
    positive: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := ({p.name for p in self.points} | set(self.positive)) - set(self.fields):
            raise ValueError(f"the stencil reads {', '.join(sorted(unknown))}, but its fields are {self.fields}")
        if not self.points or self.expr.atoms(*OPERATORS):
            raise ValueError(f"not a lowered residual of fields: {str(self.expr)[:80]}")

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Every read, in a fixed order."""
        return tuple(sorted(self.expr.atoms(Point), key=lambda p: (p.name, p.dj, p.di)))

    @cached_property
    def coefficients(self) -> tuple[Coefficient, ...]:
        return tuple(sorted(self.expr.atoms(Coefficient), key=lambda c: (c.name, c.axis, c.offset)))

    @cached_property
    def derivatives(self) -> dict[Point, Expr]:
        """dr/du_o for every read u_o, at the cell where r stands."""
        return {p: self.expr.diff(p) for p in self.points}

    @cached_property
    def halo(self) -> tuple[int, int]:
        """How many rows and columns away the farthest read lies."""
        return max((abs(p.dj) for p in self.points), default=0), max((abs(p.di) for p in self.points), default=0)

    @property
    def linear(self) -> bool:
        """Whether J does not depend on the fields (a constant term is allowed)."""
        return not any(d.has(Point) for d in self.derivatives.values())

    def to_json(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, from which `from_json` makes the same stencil."""
        return {"fields": list(self.fields), "positive": list(self.positive), "residual": encode(self.expr, LEAVES)}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "Stencil":
        """Raises ValueError for anything that `to_json` does not write."""
        fields, positive = (tuple(check_name(n) for n in state[k]) for k in ("fields", "positive"))
        return cls(decode(state["residual"], LEAVES), fields, positive)


OPERATORS = (ddx, ddy, curl, lap, div_vector, div_flux)
LEAVES = {"field": (Point, ("name", "dj", "di")), "coefficient": (Coefficient, ("name", "axis", "offset"))}
