"""From a formula to a stencil: every operator becomes second-order centred differences of shifted points.

Everything that varies with the grid enters as a named coefficient, whose numbers the grid supplies:

    dy, dx      distance to the next row, column: a scalar where the spacing is uniform; radians on the sphere
    radius      of the sphere;    cos_lat, cos_face   cosine of the latitude of row j, of the face between j and j + 1

On a plane y and x are lengths. On the sphere they are latitude and longitude, a vector's components are eastward and
northward, and div and curl are in flux form, 1 / (a cos) [d u / d lambda + d (v cos) / d phi], so that what crosses a
parallel leaves one row and enters the next, and the metric terms have the same order as the rest.
"""

from typing import NamedTuple

import sympy
from sympy import Expr

from .stencil import Coefficient, Point, curl, ddx, ddy, div_flux, div_vector, lap

RULES = ("periodic", "dirichlet", "neumann", "open")  # what lies beyond an edge, see reference.py
METRICS = ("dy", "dx", "radius", "cos_lat", "cos_face")  # the coefficients that a grid supplies


class Geometry(NamedTuple):
    """What of a grid changes the formula, not only its numbers. `uniform`: along (y, x)."""

    sphere: bool = False
    uniform: tuple[bool, bool] = (True, True)


def shift(expr: Expr, dj: int = 0, di: int = 0) -> Expr:
    """`expr` as it stands `dj` rows and `di` columns further on."""
    moved: dict[Expr, Expr] = {p: Point(p.name, p.dj + dj, p.di + di) for p in expr.atoms(Point)}
    for c in expr.atoms(Coefficient):
        if c.axis:
            moved[c] = Coefficient(c.name, c.axis, c.offset + (dj if c.axis == "y" else di))
    return expr.xreplace(moved)


def lower(expr: Expr, geometry: Geometry) -> Expr:
    """Replace every operator in `expr` by differences of points."""
    expr = sympy.sympify(expr)
    args = [lower(a, geometry) for a in expr.args]
    if isinstance(expr, ddx):
        return difference(args[0], "x", geometry) / length("x", geometry)
    if isinstance(expr, ddy):
        return difference(args[0], "y", geometry) / length("y", geometry)
    if isinstance(expr, div_vector | curl):
        cos = Coefficient("cos_lat", "y") if geometry.sphere else sympy.S.One
        along_x, along_y = args if isinstance(expr, div_vector) else (args[1], -args[0])
        terms = difference(along_x, "x", geometry) + difference(along_y * cos, "y", geometry)
        return terms / length("x", geometry)
    if isinstance(expr, lap | div_flux):
        K, p = args if isinstance(expr, div_flux) else (sympy.S.One, args[0])
        return compact(K, p, "y", geometry) + compact(K, p, "x", geometry)
    return expr.func(*args) if args else expr


def length(axis: str, geometry: Geometry) -> Expr:
    """Metres per unit of the coordinate along `axis`: a cos(lat) or a on the sphere, else 1."""
    if not geometry.sphere:
        return sympy.S.One
    return Coefficient("radius") * (Coefficient("cos_lat", "y") if axis == "x" else 1)


def step(expr: Expr, axis: str, n: int) -> Expr:
    """`expr` shifted by `n` along `axis`."""
    return shift(expr, n, 0) if axis == "y" else shift(expr, 0, n)


def spacing(axis: str, geometry: Geometry) -> Expr:
    """Distance to the next point along `axis`, in units of the coordinate."""
    return Coefficient(f"d{axis}", "" if geometry.uniform["yx".index(axis)] else axis)


def difference(e: Expr, axis: str, geometry: Geometry) -> Expr:
    """Derivative with respect to the coordinate: the parabola through three points, second order on any spacing."""
    ahead = spacing(axis, geometry)
    behind = step(ahead, axis, -1)
    after, before = step(e, axis, 1), step(e, axis, -1)
    if ahead == behind:
        return (after - before) / (2 * ahead)
    return (behind**2 * (after - e) + ahead**2 * (e - before)) / (ahead * behind * (ahead + behind))


def compact(K: Expr, p: Expr, axis: str, geometry: Geometry) -> Expr:
    """One axis of div(K grad p): the difference of two face fluxes over the width of the cell."""
    ahead = spacing(axis, geometry)
    flux = (K + step(K, axis, 1)) / 2 * (step(p, axis, 1) - p) / ahead
    metric = length(axis, geometry) ** 2
    if geometry.sphere and axis == "y":
        flux, metric = flux * Coefficient("cos_face", "y"), metric * Coefficient("cos_lat", "y")
    width = (ahead + step(ahead, axis, -1)) / 2
    return (flux - step(flux, axis, -1)) / (width * metric)
