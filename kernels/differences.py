"""From a formula to a stencil: every operator becomes centred differences of shifted points, of order 2 or 4.

Everything that varies with the grid enters as a named coefficient (`geometry.METRICS`), whose numbers the grid
supplies: dy, dx, dz are distances to the next point, scalars where the spacing is uniform, radians on the sphere.

On a plane y and x are lengths. On the sphere they are latitude and longitude, a vector's components are eastward and
northward, and div and curl are in flux form, 1 / (a cos) [d u / d lambda + d (v cos) / d phi], so that what crosses a
parallel leaves one row and enters the next, and the metric terms have the same order as the rest. Order 4 takes five
points on evenly spaced axes: (1, -8, 0, 8, -1) / 12 h, (-1, 16, -30, 16, -1) / 12 h^2, and for fluxes the staggered
(1, -27, 27, -1) / 24 h with face means (-1, 9, 9, -1) / 16.
"""

import sympy
from sympy import Expr, Rational

from .geometry import Geometry
from .stencil import Coefficient, Point, coriolis, curl, ddt, ddx, ddy, ddz, div_flux, div_vector, expand, lap, middle

AXIS_OF = {ddx: "x", ddy: "y", ddz: "z", ddt: "y"}


def shift(expr: Expr, dj: int = 0, di: int = 0, dk: int = 0) -> Expr:
    """`expr` as it stands `dj` rows, `di` columns and `dk` levels further on."""
    moved: dict[Expr, Expr] = {p: p.func(p.name, p.dj + dj, p.di + di, p.dk + dk, p.degree) for p in expr.atoms(Point)}
    for c in expr.atoms(Coefficient):
        if c.axis:
            moved[c] = Coefficient(c.name, c.axis, c.offset + {"y": dj, "x": di, "z": dk}[c.axis])
    return expr.xreplace(moved)


def lower(expr: Expr, geometry: Geometry) -> Expr:
    """Replace every operator in `expr` by differences of points. Raises ValueError for an operator that the geometry
    does not have: a vector's divergence or levels where there are none, order 4 on uneven spacing."""
    expr = sympy.sympify(expr)
    if isinstance(expr, Coefficient) and expr.name == "tan_lat" and not geometry.sphere:
        return sympy.S.Zero
    if isinstance(expr, Coefficient) and expr.name in ("dz", "dy", "dx"):
        return step(spacing(expr.name[1], geometry), expr.name[1], expr.offset)
    if isinstance(expr, expand):
        return lower(product_rule(expr.args[0], geometry), geometry)
    args = [lower(a, geometry) for a in expr.args]
    if type(expr) in AXIS_OF:
        axis = AXIS_OF[type(expr)]
        return difference(args[0], axis, geometry) / length(axis, geometry)
    if isinstance(expr, div_vector | curl):
        cos = Coefficient("cos_lat", "y") if geometry.sphere else sympy.S.One
        along_x, along_y = args[:2] if isinstance(expr, div_vector) else (args[1], -args[0])
        terms = difference(along_x, "x", geometry) + difference(along_y * cos, "y", geometry)
        rest = difference(args[2], "z", geometry) if len(args) == 3 else 0
        return terms / length("x", geometry) + rest
    if isinstance(expr, lap):
        return sympy.Add(*(second(args[0], axis, geometry) for axis in geometry.space))
    if isinstance(expr, div_flux):
        return sympy.Add(*(compact(*args, axis, geometry) for axis in geometry.space))
    if isinstance(expr, middle):
        return (args[0] + args[1]) / 2
    if isinstance(expr, coriolis):
        return Coefficient("coriolis", "y") if geometry.sphere else args[0]
    return expr.func(*args) if args else expr


def product_rule(expr: Expr, geometry: Geometry) -> Expr:
    """div(K grad p) as K lap(p) + grad(K) . grad(p), wherever it stands in `expr`."""
    derivatives = [{"x": ddx, "y": ddy, "z": ddz}[axis] for axis in geometry.space]
    found = expr.atoms(div_flux)
    return expr.xreplace(
        {
            d: d.args[0] * lap(d.args[1]) + sympy.Add(*(dd(d.args[0]) * dd(d.args[1]) for dd in derivatives))
            for d in found
        }
    )


def length(axis: str, geometry: Geometry) -> Expr:
    """Metres per unit of the coordinate along `axis`: a cos(lat) or a on the sphere, else 1."""
    if not geometry.sphere or axis == "z":
        return sympy.S.One
    return Coefficient("radius") * (Coefficient("cos_lat", "y") if axis == "x" else 1)


def step(expr: Expr, axis: str, n: int) -> Expr:
    """`expr` shifted by `n` along `axis`."""
    return shift(expr, **{{"y": "dj", "x": "di", "z": "dk"}[axis]: n})


def spacing(axis: str, geometry: Geometry) -> Expr:
    """Distance to the next point along `axis`, in units of the coordinate. Raises ValueError for an axis that is not
    there, or not even where the order asks for that."""
    if axis not in geometry.axes:
        raise ValueError(f"the axes are {geometry.axes}, a derivative along {axis} asks for another")
    uniform = geometry.uniform[geometry.axes.index(axis)]
    if geometry.order == 4 and not uniform:
        raise ValueError(f"order 4 needs even spacing along {axis}")
    return Coefficient(f"d{axis}", "" if uniform else axis)


def continued(e: Expr, axis: str, degree: int, geometry: Geometry) -> Expr:
    """`e` with its points continued by polynomials of `degree` where the edges of `axis` are one-sided."""
    if not geometry.onesided[geometry.axes.index(axis)]:
        return e
    return e.xreplace({p: Point(p.name, p.dj, p.di, p.dk, degree) for p in e.atoms(Point)})


def difference(e: Expr, axis: str, geometry: Geometry) -> Expr:
    """Derivative with respect to the coordinate. Order 2: the parabola through three points, on any spacing."""
    ahead = spacing(axis, geometry)
    e = continued(e, axis, geometry.order, geometry)
    near = step(e, axis, 1) - step(e, axis, -1)
    if geometry.order == 4:
        far = step(e, axis, 2) - step(e, axis, -2)
        return (Rational(2, 3) * near - Rational(1, 12) * far) / ahead
    behind = step(ahead, axis, -1)
    if ahead == behind:
        return near / (2 * ahead)
    return (behind**2 * (step(e, axis, 1) - e) + ahead**2 * (e - step(e, axis, -1))) / (
        ahead * behind * (ahead + behind)
    )


def second(p: Expr, axis: str, geometry: Geometry) -> Expr:
    """One axis of lap(p)."""
    if geometry.order == 2:
        return compact(sympy.S.One, p, sympy.S.One, axis, geometry)
    ahead, q = spacing(axis, geometry), continued(p, axis, 5, geometry)
    near = (step(q, axis, 1) - q) - (q - step(q, axis, -1))
    far = (step(q, axis, 2) - q) - (q - step(q, axis, -2))
    found = (Rational(4, 3) * near - Rational(1, 12) * far) / (ahead * length(axis, geometry)) ** 2
    if geometry.sphere and axis == "y":
        found -= Coefficient("tan_lat", "y") / Coefficient("radius") ** 2 * difference(p, "y", geometry)
    return found


def compact(K: Expr, p: Expr, mean: Expr, axis: str, geometry: Geometry) -> Expr:
    """One axis of div(K grad p): the difference of the fluxes through two faces over the width of the cell."""
    ahead, order = spacing(axis, geometry), geometry.order
    K, p = continued(K, axis, order, geometry), continued(p, axis, order + 1, geometry)
    K1, slope = step(K, axis, 1), staggered(p, axis, order) / ahead
    if K == 1:
        flux = slope
    elif mean == -1:
        flux = 2 * K * K1 / (K + K1) * slope
    elif order == 4:
        flux = (Rational(9, 16) * (K + K1) - Rational(1, 16) * (step(K, axis, 2) + step(K, axis, -1))) * slope
    else:
        flux = sympy.Mul(Rational(1, 2), K + K1, slope)  # in one product: of two, SymPy multiplies the sum out
    metric = length(axis, geometry) ** 2
    if geometry.sphere and axis == "y":
        flux, metric = flux * Coefficient("cos_face", "y"), metric * Coefficient("cos_lat", "y")
    width = (ahead + step(ahead, axis, -1)) / 2
    return staggered(step(flux, axis, -1), axis, order) / (width * metric)


def staggered(e: Expr, axis: str, order: int) -> Expr:
    """The difference across the face ahead, times the spacing."""
    near = step(e, axis, 1) - e
    if order == 2:
        return near
    return Rational(9, 8) * near - Rational(1, 24) * (step(e, axis, 2) - step(e, axis, -1))
