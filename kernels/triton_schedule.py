"""The order in which a Triton kernel marches down the rows of a tile, and what it keeps in registers meanwhile.

A read, cell value or table is a *strand*: one input at one column offset, at some rows j + d. Only the row farthest
ahead, the strand's lead, is fetched or computed when the march reaches row j; the others were, some rows ago. Triton
cannot shift registers sideways, so a cell's value at another column is another strand, computed again.
"""

from collections import defaultdict
from typing import NamedTuple

from sympy import Expr, Symbol, cse, numbered_symbols

from .adjoint import CELL, ROW, TANGENT, Cell, Output, Plan
from .differences import shift
from .stencil import Coefficient, Point
from .triton_print import symbol


class Strand(NamedTuple):
    """`kind`: field, tangent, row, cell or table; `degree` of the polynomial beyond one-sided edges, for reads."""

    kind: str
    name: str
    dk: int = 0
    di: int = 0
    degree: int = 0


class Schedule(NamedTuple):
    """`rows`: of every strand, in ascending order, without gaps; `cells`: (strand, cell, its expression at the lead);
    `columns`, `planes`: tables along x and z with the offsets at which they are read; `scalars`: tables without an
    axis; `warm_up`: rows marched before the first that counts; `deep`: whether planes are read apart; `energy`:
    whether it is added up."""

    rows: dict[Strand, tuple[int, ...]]
    cells: tuple[tuple[Strand, Cell, Expr], ...]
    outputs: tuple[Output, ...]
    columns: tuple[tuple[str, int], ...]
    planes: tuple[tuple[str, int], ...]
    scalars: tuple[str, ...]
    warm_up: int
    deep: bool
    energy: bool


def schedule(plan: Plan) -> Schedule:
    """How `plan` is marched."""
    outputs, deep = plan.outputs, plan.halo[0] > 0
    rows: defaultdict[Strand, set[int]] = defaultdict(set)
    for point in set().union(*(o.expr.atoms(Point) for o in outputs)):
        rows[strand_of(point)].add(point.dj)
    energy = plan.kind in ("energy", "gradient")
    for cell in plan.cells:
        if energy or not outputs:
            rows[Strand("cell", cell.name)].add(0)
    found = []
    for cell in plan.cells:
        for strand in sorted(s for s in rows if s.kind == "cell" and s.name == cell.name):
            lead = max(rows[strand])
            expr = shift(cell.expr, lead, strand.di, strand.dk)
            found.append((strand, cell, expr))
            for point in expr.atoms(Point):
                rows[strand_of(point)].add(point.dj)
    coefficients = set().union(*(e.atoms(Coefficient) for e in [o.expr for o in outputs] + [c[2] for c in found]))
    for c in coefficients:
        if c.axis == "y":
            rows[Strand("table", c.name)].add(c.offset)
    scaled = [s for s, cell, _ in found if cell.energy]
    for strand in scaled:
        rows[Strand("table", "wy")].add(max(rows[strand]))
    spans = {s: (min(r), max(r)) for s, r in rows.items()}
    needs = [spans[s][1] - p.dj for _, _, e in found for p in e.atoms(Point) for s in [strand_of(p)]]
    ahead = max([0, *needs])  # rows before a cell at its lead is right
    warm_up = max(
        [0, *(high - low + (ahead if s.kind == "cell" else 0) for s, (low, high) in spans.items())], default=0
    )
    return Schedule(
        rows={s: tuple(range(low, high + 1)) for s, (low, high) in sorted(spans.items())},
        cells=tuple(found),
        outputs=outputs,
        columns=_tables(coefficients, "x", {("wx", s.di) for s in scaled}),
        planes=_tables(coefficients, "z", {("wz", s.dk) for s in scaled}),
        scalars=tuple(sorted(c.name for c in coefficients if not c.axis)),
        warm_up=warm_up,
        deep=deep,
        energy=energy,
    )


def _tables(coefficients: set[Coefficient], axis: str, more: set[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted({(c.name, c.offset) for c in coefficients if c.axis == axis} | more))


def strand_of(point: Point) -> Strand:
    """The strand of a read, or of a cell's value."""
    if CELL in point.name:
        return Strand("cell", point.name, point.dk, point.di)
    kind = "tangent" if point.name.endswith(TANGENT) else "row" if point.name.endswith(ROW) else "field"
    return Strand(kind, point.name, point.dk, point.di, 0 if kind == "row" else point.degree)


def name_of(strand: Strand, row: int, deep: bool, degrees: bool) -> str:
    """The variable that holds a strand at row j + `row`."""
    if strand.kind == "table":
        return symbol(strand.name, row).name
    place = (strand.dk, row, strand.di) if deep else (row, strand.di)
    return symbol(strand.name, *place).name + (f"_d{strand.degree}" if degrees and strand.degree else "")


def renamed(expr: Expr, deep: bool, degrees: bool) -> Expr:
    """`expr` with every read and table replaced by its variable."""
    names: dict[Expr, Expr] = {
        p: Symbol(name_of(strand_of(p), p.dj, deep, degrees), real=True) for p in expr.atoms(Point)
    }
    for c in expr.atoms(Coefficient):
        names[c] = symbol(c.name, c.offset) if c.axis else Symbol(f"{c.name}__", real=True)
    return expr.xreplace(names)


def shared(exprs: list[Expr]) -> tuple[list[tuple[Expr, Expr]], list[Expr]]:
    """Temporaries and what is left of `exprs`, so that nothing is computed twice."""
    return cse(exprs, symbols=numbered_symbols("t__", real=True), order="canonical")
