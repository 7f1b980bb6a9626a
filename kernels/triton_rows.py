"""The part of a printed kernel that is done at every row: reads, cells, what points gather, and the step ahead."""

from sympy import Expr

from .adjoint import TANGENT, Cell, Output
from .triton_names import Names
from .triton_print import indent, moved, suffix, write
from .triton_schedule import Strand, renamed, shared


def body(names: Names) -> list[str]:
    lines = []
    for (dk, di), (_, high) in names.flags.items():
        at = f"tables, {moved('at_k', dk)}, {moved('j', high)}, index__{suffix(di)}, grid, EDGE, RULES, MASK"
        lines.append(f"{names.flag(dk, high, di)} = read_flags({at})")
    lines += row_lines(names)
    lines += [line for strand in names.reads for line in load(names, strand)]
    hy = names.plan.halo[1]
    for strand in (s for s in names.rows if s.kind == "table"):
        row = moved("j", names.lead(strand))
        clamped = f"tl.minimum(tl.maximum({row}, {-2 * hy}), ny + {2 * hy - 1}) if EDGE else {row}"
        lines.append(f"{names.var(strand, names.lead(strand))} = tl.load({strand.name}__at + ({clamped}))")
    exprs = [e for _, _, e in names.schedule.cells] + [o.expr for o in names.schedule.outputs]
    temporaries, left = shared([renamed(e, names.deep, names.many) for e in exprs])
    waiting = dict(temporaries)
    for (strand, cell, _), expr in zip(names.schedule.cells, left, strict=False):
        lines += define(expr, waiting)
        lines += cell_lines(names, strand, cell, expr)
    results = left[len(names.schedule.cells) :]
    if names.schedule.outputs:
        given = [
            line
            for o, e in zip(names.schedule.outputs, results, strict=True)
            for line in gathered(names, o, e, waiting)
        ]
        lines += ["if j >= first:", *indent([*given, *stores(names)], 1)]
    elif not names.schedule.energy:
        lines += ["if j >= first:", *indent(cell_stores(names), 1)]
    return lines + rotate(names)


def row_lines(names: Names) -> list[str]:
    """What all reads, and all cells, of a row have in common."""
    lines = []
    for dk, row in sorted({(s.dk, names.lead(s)) for s in names.reads}):
        place, n = f"{moved('at_k', dk)}, {moved('j', row)}", names.row(dk, row)
        lines.append(f"line__{n} = line({place}, strides, grid, EDGE, RULES, HALO)")
        lines.append(f"there__{n} = exists({place}, grid, EDGE, RULES, HALO)")
    for dk, row in sorted({(s.dk, names.lead(s)) for s, _, _ in names.schedule.cells}):
        place = f"{moved('at_k', dk)}, {moved('j', row)}"
        lines.append(f"cells__{names.row(dk, row)} = cells_exist({place}, grid, REACH, EDGE, RULES)")
    return lines


def load(names: Names, strand: Strand) -> list[str]:
    lead = names.lead(strand)
    name, n, row = names.var(strand, lead), suffix(strand.di), names.row(strand.dk, lead)
    if strand.kind == "row":
        return [f"{name} = read_row({strand.name}__at, line__{row}, ahead__{n}, column__{n}, EDGE)"]
    place = f"line__{row}, there__{row}, strides, {moved('at_k', strand.dk)}, {moved('j', lead)}"
    tangent = strand.kind == "tangent"
    field = strand.name.removesuffix(TANGENT) if tangent else strand.name
    f = names.stencil.fields.index(field)
    keep = f"({names.flag(strand.dk, lead, strand.di)} & 1) != 0"
    group = names.group(field, strand.degree)
    columns = f"i__{n}, ahead__{n}, column__{n}, beyond, {keep}, grid, {field}__units, tables"
    constants = f"{group}, EDGE, RULES, {field in names.stencil.positive}, {tangent}, AFFINE"
    constants += f", (LOGS >> {f}) & 1 == 1, MASK, HALO"
    call = f"{name} = read({strand.name}__at, {field}__at, {place}, {columns}, {constants})"
    twin = next((s for s in names.reads if s[:4] == strand[:4] and s.degree < strand.degree), None)
    if twin is not None and names.lead(twin) == lead:  # they differ at one-sided edges only
        return ["if EDGE:", f"    {call}", "else:", f"    {name} = {names.var(twin, lead)}"]
    return [call]


def cell_lines(names: Names, strand: Strand, cell: Cell, expr: Expr) -> list[str]:
    lead, k = names.lead(strand), cell.residual
    name, n = names.var(strand, lead), suffix(strand.di)
    valid = f"cells__{names.row(strand.dk, lead)}, i__{n}, {names.flag(strand.dk, lead, strand.di)}"
    valid += ", nx, REACH, EDGE, RULES, MASK"
    if not cell.energy:
        return [f"{name} = where_valid({write(expr)}, {valid})"]
    weight = f"wz__{suffix(strand.dk)} * wy__{suffix(lead)}"
    lines = [
        f"{name} = where_valid({write(expr)}, {valid}) * over__{k}",
        f"weight = {weight}",
        "if WIDTHS:",
        f"    weight = weight * wx__{n}",
    ]
    if names.schedule.energy and (strand.dk, strand.di) == (0, 0):
        row = moved("j", lead)
        counted = f"({row} >= r0) & ({row} < r1)" + (" & own" if names.plan.outputs else "")
        lines += [
            f"counted = {counted}",
            "if EDGE:",
            "    counted = counted & (i < nx)",
            f"energy += tl.where(counted, weight * omega__{k} * {name} * {name}, 0)",
        ]
    return [*lines, f"{name} = weight * pull__{k} * {name}"]


def gathered(names: Names, output: Output, expr: Expr, waiting: dict[Expr, Expr]) -> list[str]:
    name = f"{output.field}__out{output.degree}"
    value = write(expr) if expr != 0 else "tl.zeros((BX,), x_ptr.dtype.element_ty)"
    return [*define(expr, waiting), f"{name} = {value}"]


def stores(names: Names) -> list[str]:
    """What points gathered goes to them; what a ghost row gathered, to the rows that it is made of."""
    place = ["place = offset(k * ny + row, BIG) * nx", "origin = k * strides[0] + row * strides[1]"]
    if not names.plan.halo[1]:
        return ["row = j", *place, *given(names, "part")]
    at_most = "sources(RULES, 1, HALO)"
    many = [f"for s in range(tl.where(turn_y == 0, 1, {at_most})):"]
    for g in sorted({names.group(o.field, o.degree) for o in names.schedule.outputs}):
        many += [
            f"    at__{g} = (first_ghost(1, {g}, HALO) + ghost_y) * HALO[4] + s",
            f"    weight__{g} = tl.load(weight_ptr + at__{g})",
            f"    to_row = tl.where(weight__{g} != 0, tl.load(source_ptr + at__{g}), to_row)",
            f"    share__{g} = part__{g} * tl.where(turn_y == 0, 1.0, weight__{g})",
        ]
    many += indent(["row = tl.where(turn_y == 0, j, to_row)", *place, *given(names, "share")], 1)
    one = ["row = tl.where((j < 0) | (j >= ny), to_row, j) if FOLD else j", *place, *given(names, "part")]
    return [f"if FOLD and {at_most} > 1:", *indent(many, 1), "else:", *indent(one, 1)]


def given(names: Names, part: str) -> list[str]:
    """One call for each field; `part`: the variables that hold the weights of the classes of ghosts."""
    update = "UPDATE" if names.plan.kind == "gradient" else "False"
    lines = []
    for f, field in enumerate(names.stencil.fields):
        found = [o for o in names.schedule.outputs if o.field == field]
        total = " + ".join(f"{field}__out{o.degree}" for o in found)
        parts = " + ".join(f"{field}__out{o.degree} * {part}__{names.group(field, o.degree)}" for o in found)
        at = f"{field}__to + place, {field}__at + origin, flags_ptr + place"
        rest = f"i, column, nx, {field}__units, {field}__step"
        flags = f"EDGE, FOLD, AFFINE, (LOGS >> {f}) & 1 == 1, MASK, {update}"
        lines.append(f"give({at}, {parts} if FOLD else {total}, {rest}, own, {flags})")
    return lines


def cell_stores(names: Names) -> list[str]:
    lines = []
    for strand, cell, _ in names.schedule.cells:
        place = f"((b * {names.K} + {cell.residual}) * nz + k) * ny * nx + tl.cast(j, tl.int64) * nx"
        to = f"out_ptr + ({place}) + i.to(tl.uint32)"
        name = names.var(strand, 0)
        lines += [
            "if EDGE:",
            f'    tl.store({to}, {name}, mask=i < nx, eviction_policy="evict_first")',
            "else:",
            f'    tl.store({to}, {name}, eviction_policy="evict_first")',
        ]
    return lines


def rotate(names: Names) -> list[str]:
    lines = []
    for strand, rows in names.rows.items():
        lines += [f"{names.var(strand, a)} = {names.var(strand, b)}" for a, b in zip(rows, rows[1:], strict=False)]
    for (dk, di), (low, high) in names.flags.items():
        lines += [f"{names.flag(dk, r, di)} = {names.flag(dk, r + 1, di)}" for r in range(low, high)]
    return lines


def define(expr: Expr, waiting: dict[Expr, Expr]) -> list[str]:
    """Those of the temporaries `waiting` that `expr` needs, in order; they wait no longer."""
    lines = []
    for name in sorted(expr.free_symbols & waiting.keys(), key=lambda s: int(s.name.removeprefix("t__"))):
        if name in waiting:
            value = waiting.pop(name)
            lines += [*define(value, waiting), f"{name} = {write(value)}"]
    return lines
