"""The stencil language: a formula over fields, lowered to shifted reads of grid points.

A field is the symbol `Point(name, dj, di, dk)`, the value of field `name` at row j + dj, column i + di, level k + dk;
unshifted it stands for the field itself. The operators below act on any expression of fields:

    ddx(e), ddy(e), ddz(e)  first derivatives           lap(p)               div(grad(p))
    ddt(e)                  in time, over axes (t, x)   div(K * grad(p))     compact flux form, face means of K
    div(u, v), div(u, v, w) divergence of a vector      expand(div(K * grad(p)))   K lap(p) + grad(K) . grad(p)
    curl(u, v)              vertical vorticity          grad(p)              only inside div
    coriolis(f0)            2 Omega sin(lat) on the sphere, f0 on a plane
    curvature()             tan(lat) / radius on the sphere, 0 on a plane
    middle(u, u_next)       (u + u_next) / 2, printed as mean(u)

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
    """Field `name` read at row j + dj, column i + di, level k + dk. `degree`: of the polynomial that continues it
    beyond a one-sided edge; it matters nowhere else."""

    _diff_wrt = True
    is_real = True

    def __new__(cls, name: str, dj: int = 0, di: int = 0, dk: int = 0, degree: int = 2) -> "Point":
        self = super().__new__(cls)
        self.name, self.degree = check_name(name), int(degree)
        self.dj, self.di, self.dk = int(dj), int(di), int(dk)
        return self

    @property
    def offset(self) -> tuple[int, int, int]:
        """Along (z, y, x)."""
        return self.dk, self.dj, self.di

    def __getnewargs__(self) -> tuple:
        return self.name, self.dj, self.di, self.dk, self.degree

    def _hashable_content(self) -> tuple:
        return self.__getnewargs__()

    def _sympystr(self, printer: Any) -> str:
        if self.offset == (0, 0, 0):
            return self.name
        return f"{self.name}[{', '.join(str(d) for d in (self.offset if self.dk else self.offset[1:]))}]"


class Coefficient(sympy.AtomicExpr):
    """A number that the grid or the equation supplies: `axis` "" is one scalar, "y" one value per row, "x" one per
    column, "z" one per level, read `offset` rows, columns or levels away."""

    is_real = True

    def __new__(cls, name: str, axis: str = "", offset: int = 0) -> "Coefficient":
        if axis not in ("", "z", "y", "x") or (axis == "" and offset):
            raise ValueError(f"coefficient {name}: no axis {axis!r} with offset {offset}")
        self = super().__new__(cls)
        self.name, self.axis, self.offset = check_name(name), axis, int(offset)
        return self

    def __getnewargs__(self) -> tuple:
        return self.name, self.axis, self.offset

    def _hashable_content(self) -> tuple:
        return self.__getnewargs__()

    def _sympystr(self, printer: Any) -> str:
        return f"{self.name}[{self.offset}]" if self.axis else self.name


class ddx(sympy.Function):
    """Derivative along x (eastward on the sphere), per unit length."""

    nargs = 1


class ddy(sympy.Function):
    """Derivative along y (northward on the sphere), per unit length."""

    nargs = 1


class ddz(sympy.Function):
    """Derivative along z, the axis of the levels, per unit of its coordinate."""

    nargs = 1


class ddt(sympy.Function):
    """Derivative in time, for equations over the axes (t, x)."""

    nargs = 1


class curl(sympy.Function):
    """Vertical vorticity of the vector (u, v): ddx(v) - ddy(u), with the metric term on the sphere."""

    nargs = 2


class lap(sympy.Function):
    """Laplacian over the equation's axes, the compact form."""

    nargs = 1


class div_vector(sympy.Function):
    """Divergence of the vector (u, v) or (u, v, w); written `div(u, v)`."""

    nargs = (2, 3)

    def _sympystr(self, printer: Any) -> str:
        return f"div({', '.join(printer._print(a) for a in self.args)})"


class div_flux(sympy.Function):
    """Divergence of K grad p in the compact form; written `div(K * grad(p))`. The third argument names the mean of K
    on faces: 1 arithmetic, -1 harmonic."""

    nargs = 3

    def _sympystr(self, printer: Any) -> str:
        mean = ", mean='harmonic'" if self.args[2] == -1 else ""
        return f"div({printer.parenthesize(self.args[0], 50)}*grad({printer._print(self.args[1])}{mean}))"


class middle(sympy.Function):
    """The mean of a field and the same a time step later."""

    nargs = 2

    def _sympystr(self, printer: Any) -> str:
        return f"mean({printer._print(self.args[0])})"


class coriolis(sympy.Function):
    """The Coriolis parameter: 2 Omega sin(lat) on the sphere, the argument on a plane."""

    nargs = 1


class grad:
    """K grad p as `div` takes it: `grad(p)`, or `K * grad(p)`; `mean` of K on faces: "arithmetic" or "harmonic"."""

    def __init__(self, p: Expr, factor: Expr = sympy.S.One, mean: str = "arithmetic") -> None:
        if mean not in ("arithmetic", "harmonic"):
            raise ValueError(f"mean {mean!r}: the means of a face are arithmetic and harmonic")
        self.p, self.factor, self.mean = p, factor, mean

    def __mul__(self, factor: Expr) -> "grad":
        return grad(self.p, self.factor * factor, self.mean)

    __rmul__ = __mul__

    def __neg__(self) -> "grad":
        return self * -1


def div(flux: grad | Expr, *others: Expr) -> Expr:
    """`div(K * grad(p))`, `div(u, v)` or `div(u, v, w)`. Raises TypeError for anything else."""
    if isinstance(flux, grad) and not others:
        return div_flux(flux.factor, flux.p, 1 if flux.mean == "arithmetic" else -1)
    if isinstance(flux, grad) or len(others) not in (1, 2):
        raise TypeError("div takes K * grad(p), or the components u, v or u, v, w")
    return div_vector(flux, *others)


class expand(sympy.Function):
    """The product-rule form of a flux divergence, K lap(p) + grad(K) . grad(p): of second order, but what leaves a cell
    need not enter its neighbour."""

    nargs = 1

    def __new__(cls, flux: Expr) -> Expr:
        found = flux.atoms(div_flux)
        if not found:
            raise TypeError("expand takes an expression with div(K * grad(p))")
        return super().__new__(cls, flux)


def curvature() -> Expr:
    """tan(lat) / radius, of the metric terms on the sphere; 0 on a plane."""
    return Coefficient("tan_lat", "y") / Coefficient("radius")


def check_name(name: str) -> str:
    """`name` if it may stand in generated source. Raises ValueError."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z_0-9]{0,63}", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name for a field or coefficient")
    return name


@dataclass(frozen=True)
class Stencil:
    """A lowered system of K residuals. `names`: of the residuals; `fields`: the channels in their order; `positive`:
    those of them that are never zero, which are filled with 1 and mirrored where the others get zeros."""

    exprs: tuple[Expr, ...]
    fields: tuple[str, ...]
    positive: tuple[str, ...] = ()
    names: tuple[str, ...] = ("residual",)

    def __post_init__(self) -> None:
        if unknown := ({p.name for p in self.points} | set(self.positive)) - set(self.fields):
            raise ValueError(f"the stencil reads {', '.join(sorted(unknown))}, but its fields are {self.fields}")
        if clash := [n for n in self.fields if "__" in n]:
            raise ValueError(f"field {clash[0]!r}: two underscores are kept for what the kernels make")
        if not self.exprs or len(self.exprs) != len(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError(f"{len(self.exprs)} residuals are called {self.names}")
        for expr in self.exprs:
            if not expr.atoms(Point) or expr.atoms(*OPERATORS):
                raise ValueError(f"not a lowered residual of fields: {str(expr)[:80]}")

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Every read, in a fixed order."""
        found = set().union(*(e.atoms(Point) for e in self.exprs))
        return tuple(sorted(found, key=order))

    @cached_property
    def coefficients(self) -> tuple[Coefficient, ...]:
        found = set().union(*(e.atoms(Coefficient) for e in self.exprs))
        return tuple(sorted(found, key=lambda c: (c.name, c.axis, c.offset)))

    @cached_property
    def derivatives(self) -> tuple[dict[Point, Expr], ...]:
        """dr_k/du_o for every read u_o of residual k, at the cell where r_k stands."""
        return tuple(dict(sorted(slopes(e, {}).items(), key=lambda item: order(item[0]))) for e in self.exprs)

    @cached_property
    def halo(self) -> tuple[int, int, int]:
        """How many levels, rows and columns away the farthest read lies, (z, y, x)."""
        return tuple(max(abs(p.offset[a]) for p in self.points) for a in range(3))

    @property
    def linear(self) -> bool:
        """Whether J does not depend on the fields (a constant term is allowed)."""
        return not any(d.has(Point) for found in self.derivatives for d in found.values())

    def to_json(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, from which `from_json` makes the same stencil."""
        return {
            "fields": list(self.fields),
            "positive": list(self.positive),
            "names": list(self.names),
            "residuals": [encode(e, LEAVES) for e in self.exprs],
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "Stencil":
        """Raises ValueError for anything that `to_json` does not write."""
        fields, positive, names = (tuple(check_name(n) for n in state[k]) for k in ("fields", "positive", "names"))
        return cls(tuple(decode(tree, LEAVES) for tree in state["residuals"]), fields, positive, names)


def order(point: Point) -> tuple:
    """By which points are sorted."""
    return point.name, point.offset, point.degree


def slopes(expr: Expr, known: dict[Expr, dict[Point, Expr]]) -> dict[Point, Expr]:
    """The derivative with respect to every point of `expr`, in one pass: a hundred times faster than `diff` of each.
    `known`: of parts that were met before, filled here."""
    if isinstance(expr, Point):
        return {expr: sympy.S.One}
    if not expr.args:
        return {}
    if expr not in known:
        found: dict[Point, list[Expr]] = {}
        for i, arg in enumerate(expr.args):
            for point, inner in slopes(arg, known).items():
                found.setdefault(point, []).append(outer(expr, i) * inner)
        known[expr] = {point: sympy.Add(*terms) for point, terms in found.items()}
    return known[expr]


def outer(expr: Expr, i: int) -> Expr:
    """The derivative of `expr` with respect to its argument i, which holds points."""
    if expr.is_Add:
        return sympy.S.One
    if expr.is_Mul:
        return sympy.Mul(*expr.args[:i], *expr.args[i + 1 :])
    if expr.is_Pow and i == 0:
        return expr.exp * expr.base ** (expr.exp - 1)
    if isinstance(expr, sympy.sign):
        return sympy.S.Zero  # its spike at 0 is left out
    return expr.fdiff(i + 1)


OPERATORS = (ddx, ddy, ddz, ddt, curl, lap, div_vector, div_flux, expand, coriolis, middle)
LEAVES = {
    "field": (Point, ("name", "dj", "di", "dk", "degree")),
    "coefficient": (Coefficient, ("name", "axis", "offset")),
}
