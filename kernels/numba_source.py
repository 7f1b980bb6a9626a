"""A plan printed as a Numba module: two row functions with the formula, and the march that calls them.

Both read rings of slabs (see `numba_rows.py`): S holds the views of the inputs, G the values at cells. At step j slab j
is read, the cells of slab j - halo are computed, and the points of slab j - 2 halo gather, so that every number comes
from memory once and goes there once.
"""

import textwrap
from collections.abc import Iterable

import sympy
from sympy import Expr
from sympy.printing.str import StrPrinter

from .adjoint import CELL, Plan, guarded
from .numba_call import ARRAYS, WORD
from .numba_templates import CELLS, ENERGY, GATHER, GATHERING, HEAD, INTO_OUT, INTO_RING, MARCH
from .stencil import Coefficient, Point

FUNCTIONS = {"exp": "np.exp", "log": "np.log", "sin": "np.sin", "cos": "np.cos", "tan": "np.tan", "tanh": "np.tanh"}
LARGEST_INTEGER_POWER = 4


class Printer(StrPrinter):
    """Expressions over names already assigned. Numbers come from the table C, in the type of the fields: a literal
    would turn the arithmetic into float64."""

    printmethod = "_numba"  # not _sympystr, by which points write themselves for people

    def __init__(self, names: dict[Expr, str], constants: list[Expr]) -> None:
        super().__init__()
        self.known, self.constants = names, constants

    def constant(self, value: Expr) -> str:
        """The name of a positive number."""
        if value not in self.constants:
            self.constants.append(value)
        return f"k{self.constants.index(value)}"

    def _print_Point(self, expr: Point) -> str:
        return self.known[expr]

    def _print_Coefficient(self, expr: Coefficient) -> str:
        return self.known[expr]

    def _print_Number(self, expr: Expr) -> str:
        return f"-{self.constant(-expr)}" if expr < 0 else self.constant(expr)

    _print_Integer = _print_Rational = _print_Float = _print_Half = _print_One = _print_NegativeOne = _print_Number
    _print_Zero = _print_Pi = _print_Number

    def _print_Pow(self, expr: Expr, rational: bool = False) -> str:
        base, power = self.parenthesize(expr.base, 100), expr.exp
        if power == sympy.Rational(1, 2):
            return f"np.sqrt({self._print(expr.base)})"
        if power.is_Integer and 0 < abs(power) <= LARGEST_INTEGER_POWER:
            product = "*".join([base] * abs(int(power)))
            return f"({product})" if power > 0 else f"({self.constant(sympy.S.One)}/({product}))"
        return f"{base}**({self._print(power)})"

    def _print_Function(self, expr: Expr) -> str:
        return f"{FUNCTIONS[expr.func.__name__]}({self._print(expr.args[0])})"

    def _print_exp(self, expr: Expr) -> str:
        return f"np.exp({self._print(expr.args[0])})"

    def _print_Abs(self, expr: Expr) -> str:
        return f"abs({self._print(expr.args[0])})"

    def _print_sign(self, expr: Expr) -> str:
        return f"np.sign({self._print(expr.args[0])})"

    def _print_guarded(self, expr: guarded) -> str:
        g, value = expr.args
        return f"({self._print(value)} if {self._print(g)} != 0 else {self.constant(sympy.S.Zero)})"

    def _print_Mul(self, expr: Expr) -> str:
        """Divisions are gathered into one."""
        sign, factors = ("-", [-1 * expr.args[0], *expr.args[1:]]) if expr.args[0].is_negative else ("", [*expr.args])
        factors = [f for f in factors if f != 1]
        above = [f for f in factors if not (f.is_Pow and f.exp.is_Integer and f.exp < 0)]
        below = [1 / f for f in factors if f not in above]
        text = "*".join(self.parenthesize(f, 50) for f in above) or self.constant(sympy.S.One)
        return sign + text + "".join(f"/({self._print(f)})" for f in below)


class Layout:
    """Where the numbers of a plan stand: `views`, pairs (input, degree) that are read; offsets by axis (m, r, x)."""

    def __init__(self, plan: Plan, axes: int) -> None:
        self.plan, self.axes = plan, axes
        found = {(p.name, p.degree) for e in expressions(plan) for p in e.atoms(Point) if CELL not in p.name}
        self.views = sorted(found, key=lambda v: (plan.inputs.index(v[0]), v[1]))
        self.cells = [c.name for c in plan.cells]
        self.halo = self.turn(plan.halo)

    def turn(self, offset: tuple[int, int, int]) -> tuple[int, int, int]:
        """(z, y, x) as (m, r, x)."""
        dk, dj, di = offset
        return (dj, 0, di) if self.axes == 2 else (dk, dj, di)

    def index(self, axis: str) -> int:
        """Which of (m, r, x) the axis "z", "y" or "x" is."""
        return {"z": 0, "y": 0 if self.axes == 2 else 1, "x": 2}[axis]


def expressions(plan: Plan) -> list[Expr]:
    """All of a plan."""
    return [c.expr for c in plan.cells] + [o.expr for o in plan.outputs]


def offset_name(offset: Iterable[int]) -> str:
    return "_".join(f"m{-d}" if d < 0 else str(d) for d in offset)


def row_body(
    layout: Layout, exprs: list[Expr], names: list[str], reach: int, constants: list[Expr]
) -> tuple[list[str], list[str]]:
    """Lines before the loop over columns t, and lines in it that assign `names` to `exprs`. `reach`: how many halos the
    slots of S go to each side; `constants` grows by what they use."""
    points = sorted({p for e in exprs for p in e.atoms(Point)}, key=lambda p: (p.name, p.degree, p.offset))
    tables = sorted({c for e in exprs for c in e.atoms(Coefficient)}, key=lambda c: (c.name, c.offset))
    before, inside, known, bases = [], [], {}, {}
    for p in points:
        dm, dr, dx = layout.turn(p.offset)
        known[p] = f"{p.name}{'' if p.degree == 2 else f'_d{p.degree}'}_{offset_name(p.offset[3 - layout.axes :])}"
        key = p.name, p.degree, dm, dr
        if key not in bases:
            bases[key] = f"at{len(bases)}"
            before.append(f"{bases[key]} = {base(layout, p, dm, dr, reach)}")
        array = "G" if CELL in p.name else "S"
        inside.append(f"{known[p]} = take({array}, {bases[key]} + t{shifted(dx)})")
    for c in tables:
        known[c] = c.name if not c.axis else f"{c.name}_{offset_name([c.offset])}"
        number = int(c.name[1:])
        if not c.axis:
            before.append(f"{known[c]} = T[to[{number}]]")
        elif c.axis == "x":
            before.append(f"from{number} = to[{number}]")
            inside.append(f"{known[c]} = take(T, from{number} + t{shifted(c.offset)})")
        else:
            before.append(f"{known[c]} = T[to[{number}] + at[{layout.index(c.axis)}]{shifted(c.offset)}]")
    temporaries, reduced = sympy.cse(exprs, symbols=(sympy.Symbol(f"x{n}") for n in range(10_000)), order="none")
    printer = Printer(known, constants)
    inside += [f"{name} = {printer.doprint(e)}" for name, e in temporaries]
    inside += [f"{name} = {printer.doprint(e)}" for name, e in zip(names, reduced, strict=True)]
    before += [f"k{n} = C[{n}]  # {c}" for n, c in enumerate(constants)]
    return before, inside


def base(layout: Layout, p: Point, dm: int, dr: int, reach: int) -> str:
    """Where the row of a read begins."""
    rows = "" if dr == 0 else f" {'-' if dr < 0 else '+'} U({abs(dr)}) * W"
    if CELL in p.name:
        return f"U({layout.cells.index(p.name)}) * ring_g + slots_g[{dm + layout.halo[0]}] + row{rows}"
    return f"U({layout.views.index((p.name, p.degree))}) * ring + slots[{dm + reach * layout.halo[0]}] + row{rows}"


def shifted(n: int) -> str:
    return "" if n == 0 else f" {'-' if n < 0 else '+'} U({abs(n)})"


def write_source(plan: Plan, axes: int, masked: bool, real: str, title: str) -> tuple[str, list[Expr]]:
    """The text of the module of `plan`, for grids of 2 or 3 `axes` with a mask or without, in numbers of type `real`
    ("float32" or "float64"), and the numbers of its table C."""
    layout, constants = Layout(plan, axes), [sympy.S.One]
    names = [f"v{n}" for n in range(len(plan.cells))]
    before, inside = row_body(layout, [c.expr for c in plan.cells], names, 1, constants)
    functions = [
        CELLS.format(before=joined(before + cell_names(plan), 1), inside=joined(inside + cell_lines(plan, masked), 2))
    ]
    if plan.outputs:
        names = [f"a{n}" for n in range(len(plan.outputs))]
        before, inside = row_body(layout, [o.expr for o in plan.outputs], names, 2, constants)
        fields = [f for f in plan.inputs if "__" not in f]
        for n, output in enumerate(plan.outputs):
            before += [f"f{n} = factors[{fields.index(output.field)}, 1]", f"to{n} = U({n}) * slab + to_row"]
            inside.append(f"give{n}(A, to{n} + t, f{n} * a{n})")
        functions.append(GATHER.format(before=joined(before, 1), inside=joined(inside, 2)))
    head = HEAD.format(title=title, kind=plan.kind, formula=formula(plan), sizes=sizes(layout), real=real)
    return head + "".join(functions) + march(plan), constants


def march(plan: Plan) -> str:
    """The loops around the formulas, and what Python calls."""
    kept = plan.kind in ("residual", "jvp")
    return MARCH.format(
        into=INTO_OUT if kept else INTO_RING,
        array="out" if kept else "G",
        energy=ENERGY if plan.kind in ("energy", "gradient") else "",
        calls=GATHERING if plan.outputs else "",
        readers="\n".join(f"at_{name} = array_at({WORD[name]}, {kind}, {ndim})" for name, kind, ndim in ARRAYS),
        arrays=joined([f"{name} = at_{name}(call)" for name, _, _ in ARRAYS], 1),
    )


def joined(lines: list[str], depth: int) -> str:
    return ("\n" + "    " * depth).join(lines or ["pass"])


def cell_lines(plan: Plan, masked: bool) -> list[str]:
    """From the values v0, v1, ... at a cell to what is kept of them."""
    lines = ["w = weight * take(wx, t)"] if any(c.energy for c in plan.cells) else []
    lines += ["valid_here = take(valid, at_valid + t)"] * masked
    for n, cell in enumerate(plan.cells):
        value = f"pull{cell.residual} * w * v{n}" if cell.energy else f"v{n}"
        lines.append(f"g{n} = {value} if valid_here else zero" if masked else f"g{n} = {value}")
        if plan.kind in ("energy", "gradient"):
            term = f"g{n} * v{n} if valid_here else zero" if masked else f"g{n} * v{n}"
            lines.append(f"energy += {term}")
        if plan.kind != "energy":
            lines.append(f"give{n}(G, go{n} + t, g{n})")
    return lines


def cell_names(plan: Plan) -> list[str]:
    """What the loop over cells keeps in registers: a load from an array in it might be changed by its stores."""
    lines = [f"go{n} = goes[{n}]" for n in range(len(plan.cells)) if plan.kind != "energy"]
    return lines + [f"pull{k} = pull[{k}]" for k in sorted({c.residual for c in plan.cells if c.energy})]


def formula(plan: Plan) -> str:
    """What the coefficients are, and the values at cells."""
    lines = [f"{c} = {e}" for c, e in plan.tables] + [f"r{c.residual} = {c.expr}" for c in plan.cells]
    return "\n".join(textwrap.fill(line, 116, initial_indent="    ", subsequent_indent=" " * 8) for line in lines)


def sizes(layout: Layout) -> str:
    """The constants of the module: numbers of views, values at cells, fields, outputs; halos; slots of the rings; which
    field each output belongs to, and whether it is the field's first."""
    plan, fields = layout.plan, [f for f in layout.plan.inputs if "__" not in f]
    into = [fields.index(o.field) for o in plan.outputs]
    hm, hr, hx = layout.halo
    lag = hm if plan.outputs else 0
    numbers = {"V": len(layout.views), "N": len(plan.cells), "F": len(fields), "OUTPUTS": len(into)}
    numbers |= {"HM": hm, "HR": hr, "HX": hx, "LAG": lag, "SLOTS": 2 * (hm + lag) + 1, "SLOTS_G": 2 * lag + 1}
    rings, cells = numbers["V"] * (numbers["SLOTS"] + 1), numbers["N"] * numbers["SLOTS_G"]
    numbers |= {"RINGS": rings, "CELLS": cells, "OWN": rings + cells + len(into), "COUNTS": 6 * hm + 4 + numbers["N"]}
    first = [f not in into[:o] for o, f in enumerate(into)]
    arrays = f"INTO = np.array({into or [0]})\nFIRST = np.array({first or [True]})"
    streams = range(max(len(into), len(plan.cells)))
    arrays += "".join(f"\ngive{n} = writer({n})" for n in streams)
    return "\n".join(f"{name} = {value}" for name, value in numbers.items()) + "\n" + arrays
