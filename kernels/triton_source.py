"""A plan printed as one Triton kernel: a file of named temporaries with the formula above them.

A program of the kernel owns BX columns, a run of rows of one plane and one sample. It marches down its rows: what it
loaded or computed a row ago stays in registers (`triton_schedule.py`). Tiles near an edge run the same march with EDGE
set, in which every index goes through the boundary rule, and, where ghosts are made of points, once more for every
ghost column and plane near the tile (`turn`), to hand on what those have gathered.

Numbers come in one array: offset and factor (F), 1 / scale, 2 omega / (scale total), omega / total (K), the scalar
tables, then those along z, y and x, 2 halo longer at both ends; the widths of cells are the last of each.
"""

from sympy import Expr

from .adjoint import TANGENT, Plan, make_plan
from .stencil import Stencil
from .triton_print import moved, suffix, write
from .triton_schedule import Schedule, Strand, name_of, renamed, schedule, shared

HEADER = '''"""{kind} of

{formula}

over the fields {fields}, on {axes}. {carried} values a column are kept from row to row; {loads} are loaded.
"""

import triton
import triton.language as tl

from sciguide.kernels.triton_device import (
    exponential,
    folds,
    give,
    hyperbolic_tangent,
    column_of,
    part_of,
    power,
    read,
    read_flags,
    read_row,
    target,
    sign,
    source,
    where_valid,
)

HALO: tl.constexpr = tl.constexpr({halo})  # z, y, x, classes of ghosts, points of a ghost
REACH: tl.constexpr = tl.constexpr({reach})  # of the reads, back and ahead along z, y, x
POSITIVE: tl.constexpr = tl.constexpr({positive})  # whether some field is never zero
'''


def make_source(stencil: Stencil, kind: str) -> str:
    """The text of the kernel for `kind`, as in `adjoint.KINDS`."""
    return Printer(stencil, make_plan(stencil, kind)).text()


class Printer:
    def __init__(self, stencil: Stencil, plan: Plan) -> None:
        self.stencil, self.plan, self.schedule = stencil, plan, schedule(plan)
        self.rows, self.deep = self.schedule.rows, self.schedule.deep
        self.degrees = sorted({p.degree for p in stencil.points})
        self.many = len(self.degrees) > 1
        self.F, self.K = len(stencil.fields), len(stencil.exprs)
        tables = [c for c, _ in plan.tables]
        self.tables = {
            a: [c.name for c in tables if c.axis == a] + ([f"w{a}"] if a else []) for a in ("", "z", "y", "x")
        }
        self.top = max(self.degrees[-1] + 1, *plan.halo)  # points this near to an edge may be part of a ghost
        self.tangents, self.given = (any(s.kind == k for s in self.rows) for k in ("tangent", "row"))
        self.reads = [s for s in self.rows if s.kind in ("field", "tangent", "row")]

    # names

    def var(self, strand: Strand, row: int) -> str:
        return name_of(strand, row, self.deep, self.many)

    def lead(self, strand: Strand) -> int:
        return self.rows[strand][-1]

    def flag(self, dk: int, row: int, di: int) -> str:
        return "flag__" + suffix(*((dk, row, di) if self.deep else (row, di)))

    @property
    def flags(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Lowest and highest row at which the flags of a column offset are wanted."""
        found: dict[tuple[int, int], list[int]] = {}
        for strand in self.rows:
            if strand.kind in ("field", "tangent", "cell"):
                found.setdefault((strand.dk, strand.di), []).append(self.lead(strand))
        return {place: (min(rows), max(rows)) for place, rows in sorted(found.items())}

    # the file

    def text(self) -> str:
        lines = [self.header(), "", "@triton.jit", f"def march({self.parameters(inner=True)}):"]
        lines += indent(self.march(), 1)
        lines += ["", "", self.decorator(), f"def kernel({self.parameters(inner=False)}):", *indent(self.kernel(), 1)]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def header(self) -> str:
        names = self.stencil.names
        formula = "\n".join(f"    {n} = {e}" for n, e in zip(names, self.stencil.exprs, strict=True))
        reach = []
        for axis in range(3):
            offsets = [p.offset[axis] for p in self.stencil.points]
            reach += [max(0, -min(offsets)), max(0, max(offsets))]
        S = max(self.degrees) + 1
        return HEADER.format(
            kind={"hvp": "Energy's second derivative times a tangent,", "jvp": "J v,", "vjp": "J^T w,"}.get(
                self.plan.kind, self.plan.kind.capitalize()
            ),
            formula=formula,
            fields=", ".join(self.stencil.fields),
            axes="three axes" if self.deep else "rows and columns",
            carried=sum(len(r) - 1 for s, r in self.rows.items() if s.kind != "table"),
            loads=len(self.reads),
            halo=(*self.plan.halo, 2 * len(self.degrees), S),
            reach=tuple(reach),
            positive=bool(self.stencil.positive),
        )

    def pointers(self) -> list[str]:
        out = bool(self.plan.outputs) or not self.schedule.energy
        names = ["x_ptr"] + ["v_ptr"] * self.tangents + ["w_ptr"] * self.given + ["out_ptr"] * out
        names += ["energy_ptr"] * self.schedule.energy + ["step_ptr"] * (self.plan.kind == "gradient")
        return [*names, "numbers_ptr", "flags_ptr", "source_ptr", "weight_ptr"]

    def sizes(self) -> list[str]:
        strides = ["x_sb", "x_sf"] + ["v_sb", "v_sf"] * self.tangents + ["w_sb", "w_sk"] * self.given
        return ["nz", "ny", "nx", *strides, "sz", "sy", "sx"]

    def parameters(self, inner: bool) -> str:
        constants = ["RULES", "MASK", "AFFINE", "LOGS", "WIDTHS", "UNIT", "UNROLL", "BX"]
        constants += ["UPDATE"] * (self.plan.kind == "gradient") + ["EDGE"] + ["ALL"] * (not inner)
        place = ["b", "k", "r0", "r1", "x0"] if inner else ["chunks", "tiles"]
        typed = [f"{c}: tl.constexpr" for c in constants]
        return ", ".join([*self.pointers(), *self.sizes(), *place, *typed])

    def arguments(self) -> str:
        constants = ["RULES", "MASK", "AFFINE", "LOGS", "WIDTHS", "UNIT", "UNROLL", "BX"]
        constants += ["UPDATE"] * (self.plan.kind == "gradient")
        return ", ".join([*self.pointers(), *self.sizes(), "b", "k", "r0", "r1", "x0", *constants, "EDGE"])

    def decorator(self) -> str:
        plain = [*self.sizes(), "chunks", "tiles"]
        return (
            f"@triton.jit(\n    do_not_specialize={plain!r},\n"
            f"    do_not_specialize_on_alignment={self.pointers()!r},\n)"
        )

    def kernel(self) -> list[str]:
        H = [2 * h if self.plan.outputs else h for h in self.plan.halo]
        fold = "tl.constexpr"
        lines = [
            "pid = tl.program_id(0)",
            "x0 = pid % tiles * BX",
            "rest = pid // tiles",
            "chunk = rest % chunks",
            "rest = rest // chunks",
            "k = rest % nz",
            "b = (rest // nz).to(tl.int64)",
            "r0 = (chunk.to(tl.int64) * ny // chunks).to(tl.int32)",
            "r1 = ((chunk + 1).to(tl.int64) * ny // chunks).to(tl.int32)",
        ]
        for axis, n, h in ((2, "x", H[2]), (1, "y", H[1]), (0, "z", H[0])):
            if self.plan.outputs:
                lines.append(f"F{n}: {fold} = folds(RULES, {axis}, HALO, POSITIVE)")
                lines.append(f"M{n}: {fold} = {max(h, self.top)} if F{n} else {h}")
            else:
                lines.append(f"M{n}: {fold} = {h}")
        lines.append("inner = (x0 >= Mx) & (x0 + BX + Mx <= nx) & (r0 >= My) & (r1 + My <= ny)")
        if self.deep:
            lines.append("inner = inner & (k >= Mz) & (k + Mz < nz)")
        lines += ["if ALL | (inner != EDGE):", f"    energy = march({self.arguments()})"]
        if self.schedule.energy:
            lines.append("    tl.store(energy_ptr + pid, tl.sum(energy.to(tl.float64), 0))")
        return lines

    # the march

    def march(self) -> list[str]:
        lines = self.start()
        outputs = bool(self.plan.outputs)
        if outputs:
            lines += [
                "FOLD: tl.constexpr = EDGE and (folds(RULES, 0, HALO, POSITIVE) or folds(RULES, 1, HALO, POSITIVE) "
                "or folds(RULES, 2, HALO, POSITIVE))",
                "FOLD_Y: tl.constexpr = EDGE and folds(RULES, 1, HALO, POSITIVE)",
                "first = r0",
                "last = r1",
                "turns_x = 1",
                "turns = 1",
                "if FOLD:",
                *indent(self.folded_range(), 1),
                "for turn in range(turns):",
                *indent(self.turn(), 1),
            ]
        else:
            lines += ["first = r0", "last = r1", *self.turn()]
        return [*lines, "return energy"]

    def start(self) -> list[str]:
        dtype = "x_ptr.dtype.element_ty"
        lines = [
            "grid = (nz, ny, nx)",
            "tables = (flags_ptr, source_ptr, weight_ptr)",
            "strides = (tl.cast(sz, tl.int64), tl.cast(sy, tl.int64), 1 if UNIT else tl.cast(sx, tl.int64))",
            f"energy = tl.zeros((BX,), {dtype})",
            "i = x0 + tl.arange(0, BX)",
            "column = column_of(tl.minimum(i, nx - 1) if EDGE else i, sx, UNIT)",
        ]
        for f, name in enumerate(self.stencil.fields):
            lines.append(f"{name}__at = x_ptr + b * x_sb + {f} * tl.cast(x_sf, tl.int64)")
            if self.tangents:
                lines.append(f"{name}{TANGENT}__at = v_ptr + b * v_sb + {f} * tl.cast(v_sf, tl.int64)")
            lines.append(f"{name}__units = (0.0, 1.0)")
            lines.append("if AFFINE:")
            lines.append(f"    {name}__units = (tl.load(numbers_ptr + {f}), tl.load(numbers_ptr + {self.F + f}))")
            if self.plan.outputs:
                lines.append(f"{name}__to = out_ptr + (b * {self.F} + {f}) * nz * ny * nx")
                step = f"tl.load(step_ptr + b * {self.F} + {f}) if UPDATE else 0.0"
                lines.append(f"{name}__step = {step if self.plan.kind == 'gradient' else '0.0'}")
        for k in range(self.K if self.given else 0):
            lines.append(f"r{k}__w__at = w_ptr + b * w_sb + {k} * tl.cast(w_sk, tl.int64)")
        base = 2 * self.F
        for k in sorted({cell.residual for _, cell, _ in self.schedule.cells if cell.energy}):
            for n, name in enumerate(("over", "pull", "omega")):
                lines.append(f"{name}__{k} = tl.load(numbers_ptr + {base + n * self.K + k})")
        base += 3 * self.K
        for n, name in enumerate(self.tables[""]):
            if name in self.schedule.scalars:
                lines.append(f"{name}__ = tl.load(numbers_ptr + {base + n})")
        lines += self.table_starts(base + len(self.tables[""]))
        return lines

    def table_starts(self, base: int) -> list[str]:
        lines, start = [], f"numbers_ptr + {base}"
        used = {s.name for s in self.rows if s.kind == "table"} | {
            n for n, _ in self.schedule.columns + self.schedule.planes
        }
        for axis, h in zip("zyx", self.plan.halo, strict=True):
            for n, name in enumerate(self.tables[axis]):
                if name in used:
                    lines.append(f"{name}__at = {start} + {n} * (n{axis} + {4 * h}) + {2 * h}")
            start += f" + {len(self.tables[axis])} * (n{axis} + {4 * h})"
        return lines

    def folded_range(self) -> list[str]:
        """Which rows and how many turns a tile has whose points are part of ghosts."""
        hz, hy, hx = self.plan.halo
        lines = [
            "if FOLD_Y:",
            f"    first = tl.where(r0 == 0, {-hy}, r0)",
            f"    last = tl.where(r1 == ny, ny + {hy}, r1)",
            "if folds(RULES, 2, HALO, POSITIVE):",
            f"    turns_x = tl.where((x0 < {self.top}) | (x0 + BX + {self.top} > nx), {1 + 2 * hx}, 1)",
            f"    if nx >= {2 * self.top}:  # left and right in one turn",
            f"        turns_x = tl.minimum(turns_x, {1 + hx})",
            "turns = turns_x",
        ]
        if hz:
            lines += [
                "if folds(RULES, 0, HALO, POSITIVE):",
                f"    turns = tl.where((k < {self.top}) | (k + {self.top} >= nz), {1 + 2 * hz}, 1) * turns_x",
            ]
        return lines

    def turn(self) -> list[str]:
        """One march: over the tile itself, or over a ghost column and plane."""
        lines = ["at_i = i", "at_k = k"]
        if self.plan.outputs:
            lines += ["own = True", *self.parts()]
        lines += self.columns()
        lines += self.carried()
        if self.plan.outputs:
            lines += self.clear()
        lines += [
            f"for j in tl.range(first - {self.schedule.warm_up}, last, loop_unroll_factor=UNROLL):",
            *indent(self.body(), 1),
        ]
        return lines

    def parts(self) -> list[str]:
        """Where this turn looks, and how much of what is gathered there belongs to the points of the tile."""
        hz, _, hx = self.plan.halo
        lines = []
        groups = sorted({self.group(o.field, o.degree) for o in self.schedule.outputs})
        lines += [f"part__{g} = 1.0" for g in groups]
        inner = ["own = turn == 0"]
        if hx:
            inner += [
                "if folds(RULES, 2, HALO, POSITIVE):",
                "    turn_x = turn % turns_x",
                f"    right = tl.where(nx >= {2 * self.top}, 2 * i >= nx, turn_x > {hx})",
                f"    ghost_x = tl.where(right, {hx - 1} + (turn_x - 1) % {hx} + 1, {hx} - 1 - (turn_x - 1) % {hx})",
                f"    ghost_x = tl.minimum(tl.maximum(ghost_x, 0), {2 * hx - 1})",
                f"    at_i = tl.where(turn_x == 0, i, tl.where(right, nx - {hx} + ghost_x, ghost_x - {hx}))",
            ]
            for g in groups:
                lines_g = f"    part__{g} = tl.where(turn_x == 0, 1.0, part_of(i, ghost_x, tables, 2, {g}, HALO))"
                inner.append(lines_g)
        if hz:
            inner += [
                "if folds(RULES, 0, HALO, POSITIVE):",
                "    turn_z = turn // turns_x",
                "    ghost_z = tl.maximum(turn_z - 1, 0)",
                f"    beyond_z = tl.where(ghost_z < {hz}, ghost_z - {hz}, nz - {hz} + ghost_z)",
                "    at_k = tl.where(turn_z == 0, k, beyond_z)",
            ]
            for g in groups:
                weight = f"part_of(k + tl.zeros((1,), tl.int32), ghost_z, tables, 0, {g}, HALO)"
                inner.append(f"    part__{g} = part__{g} * tl.where(turn_z == 0, 1.0, tl.sum({weight}, 0))")
        return [*lines, "if FOLD:", *indent(inner, 1)]

    def columns(self) -> list[str]:
        """Everything that does not change from row to row."""
        lines = []
        for di in sorted({s.di for s in self.rows if s.kind != "table"}):
            n = suffix(di)
            lines += [
                f"i__{n} = {moved('at_i', di)}",
                f"index__{n} = source(i__{n}, nx, RULES, 2) if EDGE else i__{n}",
                f"column__{n} = column_of(index__{n} if EDGE else i, sx, UNIT)",
                f"ahead__{n} = {di} * (1 if UNIT else sx)",
            ]
        hz, _, hx = self.plan.halo
        for name, di in self.schedule.columns:
            at = moved("at_i", di)
            at = f"tl.minimum(tl.maximum({at}, {-2 * hx}), nx + {2 * hx - 1}) if EDGE else {at}"
            lines.append(f"{name}__{suffix(di)} = tl.load({name}__at + ({at}))")
        for name, dk in self.schedule.planes:
            at = moved("at_k", dk)
            at = f"tl.minimum(tl.maximum({at}, {-2 * hz}), nz + {2 * hz - 1})" if hz else at
            lines.append(f"{name}__{suffix(dk)} = tl.load({name}__at + {at})")
        width = 2 * hx if self.plan.outputs else hx
        elsewhere = " | (turn > 0)" if self.plan.outputs else ""
        lines.append(f"beyond = (x0 < {width}) | (x0 + BX + {width} > nx){elsewhere}")
        return lines

    def carried(self) -> list[str]:
        """Every strand's values at the rows behind its lead, before the first row."""
        zero = "tl.zeros((BX,), x_ptr.dtype.element_ty)"
        lines = []
        for strand, rows in self.rows.items():
            plain = "(0.0).to" if strand.kind == "table" else zero
            value = "tl.full((), 0.0, x_ptr.dtype.element_ty)" if strand.kind == "table" else plain
            lines += [f"{self.var(strand, row)} = {value}" for row in rows[:-1]]
        for (dk, di), (low, high) in self.flags.items():
            lines += [f"{self.flag(dk, row, di)} = tl.zeros((BX,), tl.int32)" for row in range(low, high)]
        return lines

    def clear(self) -> list[str]:
        """The rows that ghosts above give to before their own turn comes start from zero."""
        lines = [
            "if FOLD_Y:",
            "    if (first < 0) & (turn == 0):",
            f"        for j in range(0, tl.minimum({self.top}, r1)):",
        ]
        for f in range(self.F):
            place = f"((b * {self.F} + {f}) * nz + k) * ny * nx + j * nx + i"
            lines.append(
                f"            tl.store(out_ptr + {place}, tl.zeros((BX,), x_ptr.dtype.element_ty), mask=i < nx)"
            )
        return [*lines, "        tl.debug_barrier()"]

    def body(self) -> list[str]:
        lines = []
        for (dk, di), (_, high) in self.flags.items():
            at = f"tables, {moved('at_k', dk)}, {moved('j', high)}, index__{suffix(di)}, grid, EDGE, RULES, MASK"
            lines.append(f"{self.flag(dk, high, di)} = read_flags({at})")
        lines += [line for strand in self.reads for line in self.load(strand)]
        hy = self.plan.halo[1]
        for strand in (s for s in self.rows if s.kind == "table"):
            row = moved("j", self.lead(strand))
            clamped = f"tl.minimum(tl.maximum({row}, {-2 * hy}), ny + {2 * hy - 1}) if EDGE else {row}"
            lines.append(f"{self.var(strand, self.lead(strand))} = tl.load({strand.name}__at + ({clamped}))")
        exprs = [e for _, _, e in self.schedule.cells] + [o.expr for o in self.schedule.outputs]
        temporaries, left = shared([renamed(e, self.deep, self.many) for e in exprs])
        waiting = dict(temporaries)
        for (strand, cell, _), expr in zip(self.schedule.cells, left, strict=False):
            lines += define(expr, waiting)
            lines += self.cell(strand, cell, expr)
        results = left[len(self.schedule.cells) :]
        if self.schedule.outputs:
            given = [
                line
                for o, e in zip(self.schedule.outputs, results, strict=True)
                for line in self.gathered(o, e, waiting)
            ]
            lines += ["if j >= first:", *indent([*given, *self.stores()], 1)]
        elif not self.schedule.energy:
            lines += ["if j >= first:", *indent(self.cell_stores(), 1)]
        return lines + self.rotate()

    def load(self, strand: Strand) -> list[str]:
        lead = self.lead(strand)
        name, n = self.var(strand, lead), suffix(strand.di)
        place = f"strides, {moved('at_k', strand.dk)}, {moved('j', lead)}"
        if strand.kind == "row":
            return [f"{name} = read_row({strand.name}__at, {place}, ahead__{n}, column__{n}, grid, EDGE, RULES)"]
        tangent = strand.kind == "tangent"
        field = strand.name.removesuffix(TANGENT) if tangent else strand.name
        f = self.stencil.fields.index(field)
        keep = f"({self.flag(strand.dk, lead, strand.di)} & 1) != 0"
        group = self.group(field, strand.degree)
        constants = f"{group}, EDGE, RULES, {field in self.stencil.positive}, {tangent}, AFFINE, (LOGS >> {f}) & 1 == 1, MASK, HALO"
        call = (
            f"{name} = read({strand.name}__at, {field}__at, {place}, i__{n}, ahead__{n}, column__{n}, beyond, {keep}, grid, "
            f"{field}__units, tables, {constants})"
        )
        twin = next((s for s in self.reads if s[:4] == strand[:4] and s.degree < strand.degree), None)
        if twin is not None and self.lead(twin) == lead:  # they differ at one-sided edges only
            return ["if EDGE:", f"    {call}", "else:", f"    {name} = {self.var(twin, lead)}"]
        return [call]

    def group(self, field: str, degree: int) -> int:
        """The class of ghosts of a field read with a degree."""
        return 2 * (self.degrees.index(degree) if degree in self.degrees else 0) + (field in self.stencil.positive)

    def cell(self, strand: Strand, cell, expr: Expr) -> list[str]:
        lead, k = self.lead(strand), cell.residual
        name, n = self.var(strand, lead), suffix(strand.di)
        valid = (
            f"{moved('at_k', strand.dk)}, {moved('j', lead)}, i__{n}, {self.flag(strand.dk, lead, strand.di)}, "
            "grid, REACH, EDGE, RULES, MASK"
        )
        if not cell.energy:
            return [f"{name} = where_valid({write(expr)}, {valid})"]
        weight = f"wz__{suffix(strand.dk)} * wy__{suffix(lead)}"
        lines = [
            f"{name} = where_valid({write(expr)}, {valid}) * over__{k}",
            f"weight = {weight}",
            "if WIDTHS:",
            f"    weight = weight * wx__{n}",
        ]
        if self.schedule.energy and (strand.dk, strand.di) == (0, 0):
            row = moved("j", lead)
            counted = f"({row} >= r0) & ({row} < r1)" + (" & own" if self.plan.outputs else "")
            lines += [
                f"counted = {counted}",
                "if EDGE:",
                "    counted = counted & (i < nx)",
                f"energy += tl.where(counted, weight * omega__{k} * {name} * {name}, 0)",
            ]
        return [*lines, f"{name} = weight * pull__{k} * {name}"]

    def gathered(self, output, expr: Expr, waiting: dict[Expr, Expr]) -> list[str]:
        name = f"{output.field}__out{output.degree}"
        value = write(expr) if expr != 0 else "tl.zeros((BX,), x_ptr.dtype.element_ty)"
        return [*define(expr, waiting), f"{name} = {value}"]

    def stores(self) -> list[str]:
        """What points gathered goes to them, at edges apart for each class of ghosts."""
        update = "UPDATE" if self.plan.kind == "gradient" else "False"
        plain, folded, groups = [], [], sorted({self.group(o.field, o.degree) for o in self.schedule.outputs})
        for f, field in enumerate(self.stencil.fields):
            parts = [o for o in self.schedule.outputs if o.field == field]
            at = f"{field}__to, {field}__at, strides"
            rest = f"i, column, grid, {field}__units, {field}__step, tables"
            flags = f"EDGE, AFFINE, (LOGS >> {f}) & 1 == 1, MASK, {update}"
            total = " + ".join(f"{field}__out{o.degree}" for o in parts)
            plain.append(f"give({at}, {total}, k, j, {rest}, False, True, {flags})")
            for n, o in enumerate(parts):
                g = self.group(field, o.degree)
                value = f"{field}__out{o.degree} * part__{g} * weight__{g}"
                state = "touched, owned" if n == 0 else "True, False"
                folded += [f"if weight__{g} != 0:", f"    give({at}, {value}, k, row__{g}, {rest}, {state}, {flags})"]
        lines = ["touched = turn > 0", "owned = own"]
        targets = [f"row__{g}, weight__{g} = j, 1.0" for g in groups]
        if self.plan.halo[1]:
            lines = [
                "ghost_row = (j < 0) | (j >= ny)",
                f"touched = (turn > 0) | ghost_row | ((j < {self.top}) & (first < 0))",
                "owned = own & ~ghost_row",
                "if ghost_row:",
                "    tl.debug_barrier()",
            ]
            find = [f"row__{g}, weight__{g} = target(j, s, ghost_row, tables, {g}, ny, HALO)" for g in groups]
            targets += ["if FOLD_Y:", *indent(find, 1)]
        count = f"tl.where(ghost_row, {self.degrees[-1] + 1}, 1)" if self.plan.halo[1] else "1"
        lines += [f"for s in range({count}):", *indent([*targets, *folded], 1)]
        if self.plan.halo[1]:
            lines += ["if ghost_row:", "    tl.debug_barrier()"]
        return ["if FOLD:", *indent(lines, 1), "else:", *indent(plain, 1)]

    def cell_stores(self) -> list[str]:
        lines = []
        for strand, cell, _ in self.schedule.cells:
            place = f"((b * {self.K} + {cell.residual}) * nz + k) * ny * nx + tl.cast(j, tl.int64) * nx"
            to = f"out_ptr + ({place}) + i.to(tl.uint32)"
            name = self.var(strand, 0)
            lines += [
                "if EDGE:",
                f'    tl.store({to}, {name}, mask=i < nx, eviction_policy="evict_first")',
                "else:",
                f'    tl.store({to}, {name}, eviction_policy="evict_first")',
            ]
        return lines

    def rotate(self) -> list[str]:
        lines = []
        for strand, rows in self.rows.items():
            lines += [f"{self.var(strand, a)} = {self.var(strand, b)}" for a, b in zip(rows, rows[1:], strict=False)]
        for (dk, di), (low, high) in self.flags.items():
            lines += [f"{self.flag(dk, r, di)} = {self.flag(dk, r + 1, di)}" for r in range(low, high)]
        return lines


def define(expr: Expr, waiting: dict[Expr, Expr]) -> list[str]:
    """Those of the temporaries `waiting` that `expr` needs, in order; they wait no longer."""
    lines = []
    for name in sorted(expr.free_symbols & waiting.keys(), key=lambda s: int(s.name.removeprefix("t__"))):
        if name in waiting:
            value = waiting.pop(name)
            lines += [*define(value, waiting), f"{name} = {write(value)}"]
    return lines


def indent(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]
