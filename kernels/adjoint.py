"""What a kernel computes, from the stencil alone: values at cells, then what points gather from the cells around them.

With r_k the residuals, D_ko = dr_k / du_o at the cell where r_k stands, and shift(e, -o) the expression e as it stands
at the cell that reads this point with offset o, the adjoint of a stencil is a stencil:

    gradient at a point   sum_k sum_o shift(g_k D_ko, -o),     g_k = 2 omega_k W r_k / scale_k^2

so there is no scatter, and no atomic. A `Plan` holds these expressions; a backend prints them. Cells outside the grid
are 0 on axes that are not periodic. On edges that mirror or extrapolate, ghosts gather like points, and what they
gather goes to the points that they are made of.
"""

from functools import cache
from typing import NamedTuple

import sympy
from sympy import Expr

from .differences import shift
from .geometry import AXES
from .program import Program, Read, Table, Tree
from .stencil import LEAVES, Coefficient, Point, Stencil, slopes
from .tree import encode

KINDS = ("residual", "energy", "gradient", "jvp", "vjp", "hvp", "second")
TANGENT, ROW, CELL = "__d", "__w", "__g"  # suffix of a field's tangent; of the rows given to J^T, of the cells' values


class Cell(NamedTuple):
    """A value at every cell: `expr` times 2 omega_k W / scale_k^2 of residual k where `energy` is set, 0 at cells that
    are not valid."""

    name: str
    expr: Expr
    residual: int
    energy: bool


class Output(NamedTuple):
    """What a point of `field` gathers through reads of that `degree`; a field's outputs add up, each folded at the
    edges by the ghosts of its own degree."""

    field: str
    expr: Expr
    degree: int


class Plan(NamedTuple):
    """`inputs`: names of what is read, fields, then tangents "u__d", then rows "r0__w"; `cells` in the order in which
    they are computed; `outputs`: what points gather, at least one for each field, none where the cells themselves are
    wanted; `tables`: what the coefficients in them stand for; `halo`: (z, y, x)."""

    kind: str
    inputs: tuple[str, ...]
    cells: tuple[Cell, ...]
    outputs: tuple[Output, ...]
    tables: tuple[tuple[Coefficient, Expr], ...]
    halo: tuple[int, int, int]


class guarded(sympy.Function):
    """guarded(g, e): e where g is not zero, else 0. Beside cells that are not valid e need not be finite."""

    nargs = 2


@cache
def hoist(stencil: Stencil) -> tuple[Stencil, tuple[tuple[Coefficient, Expr], ...]]:
    """The stencil with every part that is free of fields and varies along one axis at most replaced by a coefficient
    c0, c1, ...: those are computed once, in float64."""
    tables: dict[Expr, Coefficient] = {}

    def known(expr: Expr) -> Expr:
        if expr not in tables:
            tables[expr] = Coefficient(f"c{len(tables)}", "".join(axes_of(expr)))
        return tables[expr]

    def replaced(expr: Expr) -> Expr:
        if not expr.args or expr.is_number:
            return known(expr) if isinstance(expr, Coefficient) else expr
        if not expr.has(Point) and len(axes_of(expr)) < 2:
            return known(expr)
        if expr.is_Mul or expr.is_Add:
            return regrouped(expr)
        return expr.func(*(replaced(a) for a in expr.args))

    def regrouped(expr: Expr) -> Expr:
        """A sum or product, its field-free parts taken together axis by axis."""
        groups: dict[str, list[Expr]] = {}
        rest = []
        for arg in expr.args:
            single = not arg.has(Point) and len(axes_of(arg)) < 2 and arg.atoms(Coefficient)
            (groups.setdefault("".join(axes_of(arg)), []) if single else rest).append(arg)
        if expr.is_Mul and groups:  # plain numbers and scalars join the first group
            numbers = [abs(a) for a in rest if a.is_number]
            negative = sum(1 for a in rest if a.is_number and a < 0) % 2
            rest = [a for a in rest if not a.is_number] + [sympy.S.NegativeOne] * negative
            scalars = groups.pop("", []) + numbers if len(groups) > 1 else numbers
            first = next(iter(groups))
            groups[first] = groups[first] + scalars
        parts = [known(expr.func(*group)) for group in groups.values()]
        return expr.func(*parts, *(replaced(a) for a in rest))

    exprs = tuple(replaced(e) for e in stencil.exprs)
    return Stencil(exprs, stencil.fields, stencil.positive, stencil.names), tuple((c, e) for e, c in tables.items())


@cache
def make_program(stencil: Stencil) -> Program:
    """`stencil` as plain data."""

    def tree(expr: Expr) -> Tree:
        return encode(expr, LEAVES)

    def read(point: Point) -> Read:
        return Read(point.name, point.dj, point.di, point.dk, point.degree)

    derivatives = tuple(tuple((read(p), tree(d)) for p, d in found.items()) for found in stencil.derivatives)
    curvatures = tuple(
        tuple((read(p), read(q), tree(second)) for p, d in found.items() for q, second in bends(d))
        for found in stencil.derivatives
    )
    return Program(
        fields=stencil.fields,
        positive=stencil.positive,
        names=stencil.names,
        halo=stencil.halo,
        linear=stencil.linear,
        residuals=tuple(tree(e) for e in stencil.exprs),
        derivatives=derivatives,
        curvatures=curvatures,
        tables=tuple(Table(c.name, c.axis, tree(e)) for c, e in hoist(stencil)[1]),
        stencil=stencil.to_json(),
    )


def bends(derivative: Expr) -> list[tuple[Point, Expr]]:
    """The derivatives of a derivative, those that do not vanish."""
    return [(p, d) for p, d in sorted(slopes(derivative, {}).items(), key=lambda item: str(item[0])) if d != 0]


def axes_of(expr: Expr) -> list[str]:
    """The axes along which the coefficients of `expr` vary."""
    found = {c.axis for c in expr.atoms(Coefficient)}
    return [a for a in AXES if a in found]


@cache
def make_plan(stencil: Stencil, kind: str) -> Plan:
    """The plan of one operation on `stencil`. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"no kernel {kind!r}; there are {', '.join(KINDS)}")
    hoisted, tables = hoist(stencil)
    K = range(len(hoisted.exprs))
    tangents = tuple(f + TANGENT for f in hoisted.fields) if kind in ("jvp", "hvp", "second") else ()
    rows = tuple(f"r{k}{ROW}" for k in K) if kind in ("vjp", "second") else ()
    if kind in ("jvp", "hvp"):
        moved = [along(e, d) for e, d in zip(hoisted.exprs, hoisted.derivatives, strict=True)]
    cells = {
        "residual": lambda: [Cell(f"r{k}{CELL}", hoisted.exprs[k], k, False) for k in K],
        "jvp": lambda: [Cell(f"r{k}{CELL}", moved[k], k, False) for k in K],
        "energy": lambda: [Cell(f"r{k}{CELL}", hoisted.exprs[k], k, True) for k in K],
        "gradient": lambda: [Cell(f"r{k}{CELL}", hoisted.exprs[k], k, True) for k in K],
        "vjp": lambda: [Cell(f"r{k}{CELL}", Point(rows[k]), k, False) for k in K],
        "second": lambda: [Cell(f"r{k}{CELL}", Point(rows[k]), k, False) for k in K],
        "hvp": lambda: [
            *(Cell(f"r{k}{CELL}", hoisted.exprs[k], k, True) for k in K if not all_linear(hoisted, k)),
            *(Cell(f"r{k}{CELL}d", moved[k], k, True) for k in K),
        ],
    }[kind]()
    outputs: tuple[Output, ...] = ()
    if kind in ("gradient", "vjp"):
        outputs = gather(hoisted, {k: Point(f"r{k}{CELL}") for k in K}, {})
    elif kind == "second":
        outputs = gather(hoisted, {}, {k: Point(f"r{k}{CELL}") for k in K})
    elif kind == "hvp":
        bent = {k: Point(f"r{k}{CELL}") for k in K if not all_linear(hoisted, k)}
        outputs = gather(hoisted, {k: Point(f"r{k}{CELL}d") for k in K}, bent)
    return Plan(kind, (*hoisted.fields, *tangents, *rows), tuple(cells), outputs, tables, hoisted.halo)


def gather(stencil: Stencil, plain: dict[int, Point], bent: dict[int, Point]) -> tuple[Output, ...]:
    """Per field and degree of its reads sum_k sum_o shift(g_k D_ko + h_k dD_ko, -o): g_k in `plain`, h_k in `bent`,
    dD_ko the derivative of D_ko along the tangents."""
    terms: dict[tuple[str, int], list[Expr]] = {}
    for k, derivatives in enumerate(stencil.derivatives):
        for point, weight in derivatives.items():
            term = product(plain[k], weight) if k in plain else sympy.S.Zero
            if k in bent:
                term += product(bent[k], along(weight, dict(bends(weight))))
            found = terms.setdefault((point.name, point.degree), [])
            found.append(shift(term, -point.dj, -point.di, -point.dk))
    out = []
    for field in stencil.fields:
        degrees = sorted(d for f, d in terms if f == field) or [2]
        out += [Output(field, sympy.Add(*terms.get((field, d), [])), d) for d in degrees]
    return tuple(out)


def product(g: Point, weight: Expr) -> Expr:
    """g times weight, guarded where the weight need not be finite for finite fields."""
    plain = weight.is_polynomial(*weight.atoms(Point))
    return g * weight if plain else guarded(g, g * weight)


def along(expr: Expr, derivatives: dict[Point, Expr]) -> Expr:
    """The derivative of `expr` along the tangents."""
    return sympy.Add(
        *(d * Point(p.name + TANGENT, p.dj, p.di, p.dk, p.degree) for p, d in derivatives.items() if d != 0)
    )


def all_linear(stencil: Stencil, k: int) -> bool:
    """Whether residual k is linear in the fields."""
    return not any(d.has(Point) for d in stencil.derivatives[k].values())
