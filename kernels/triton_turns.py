"""The part of a printed kernel around its march: where each turn looks, and what holds for all of its rows."""

from .triton_names import Names
from .triton_print import indent, moved, suffix
from .triton_rows import body


def count_turns(names: Names) -> list[str]:
    """How often a tile is marched whose points are part of ghosts: once for each of these as well."""
    hz, hy, hx = names.plan.halo
    lines = ["turns_x = 1", "turns_y = 1"]
    if hx:
        lines += [
            "if folds(RULES, 2, HALO, POSITIVE):",
            f"    turns_x = tl.where((x0 < {names.top}) | (x0 + BX + {names.top} > nx), {1 + 2 * hx}, 1)",
            f"    if nx >= {2 * names.top}:  # left and right in one turn",
            f"        turns_x = tl.minimum(turns_x, {1 + hx})",
        ]
    if hy:
        lines += [
            "if folds(RULES, 1, HALO, POSITIVE):",
            f"    turns_y = 1 + tl.where(r0 == 0, {hy}, 0) + tl.where(r1 == ny, {hy}, 0)",
        ]
    lines.append("turns = turns_x * turns_y")
    if hz:
        lines += [
            "if folds(RULES, 0, HALO, POSITIVE):",
            f"    turns = tl.where((k < {names.top}) | (k + {names.top} >= nz), {1 + 2 * hz}, 1) * turns",
        ]
    return lines


def turn(names: Names) -> list[str]:
    """One march: over the tile itself, or over a ghost column, row and plane."""
    lines = ["at_i = i", "at_k = k", "first = r0", "last = r1"]
    if names.plan.outputs:
        groups = sorted({names.group(o.field, o.degree) for o in names.schedule.outputs})
        lines += ["own = True", "aside = False", "to_row = 0", *(f"part__{g} = 1.0" for g in groups)]
        lines += ["if FOLD:", *indent(parts(names, groups), 1)]
    lines += columns(names)
    lines += carried(names)
    lines.append(f"for j in tl.range(first - {names.schedule.warm_up}, last, loop_unroll_factor=UNROLL):")
    return [*lines, *indent(body(names), 1)]


def parts(names: Names, groups: list[int]) -> list[str]:
    """Where this turn looks, and how much of what is gathered there belongs to the points of the tile."""
    hz, hy, hx = names.plan.halo
    lines = ["own = turn == 0", "tl.debug_barrier()"]
    if hx:
        lines += [
            "if folds(RULES, 2, HALO, POSITIVE):",
            "    turn_x = turn % turns_x",
            "    aside = turn_x > 0",
            f"    right = tl.where(nx >= {2 * names.top}, 2 * i >= nx, turn_x > {hx})",
            f"    ghost_x = tl.where(right, {hx} + (turn_x - 1) % {hx}, {hx - 1} - (turn_x - 1) % {hx})",
            f"    ghost_x = tl.minimum(tl.maximum(ghost_x, 0), {2 * hx - 1})",
            f"    at_i = tl.where(turn_x == 0, i, tl.where(right, nx - {hx} + ghost_x, ghost_x - {hx}))",
        ]
        for g in groups:
            lines.append(f"    part__{g} = tl.where(turn_x == 0, 1.0, part_of(i, ghost_x, tables, 2, {g}, HALO))")
    if hy:
        lines += [
            "if folds(RULES, 1, HALO, POSITIVE):",
            "    turn_y = turn // turns_x % turns_y",
            f"    ghost_y = tl.maximum(turn_y - 1, 0) + tl.where(r0 == 0, 0, {hy})",
            f"    first = tl.where(turn_y == 0, r0, tl.where(ghost_y < {hy}, ghost_y - {hy}, ny - {hy} + ghost_y))",
            "    last = tl.where(turn_y == 0, r1, first + 1)",
            "    if sources(RULES, 1, HALO) == 1:",
        ]
        for g in groups:
            lines += [
                f"        at__{g} = (first_ghost(1, {g}, HALO) + ghost_y) * HALO[4]",
                f"        weight__{g} = tl.load(weight_ptr + at__{g})",
                f"        to_row = tl.where(weight__{g} != 0, tl.load(source_ptr + at__{g}), to_row)",
                f"        part__{g} = part__{g} * tl.where(turn_y == 0, 1.0, weight__{g})",
            ]
    if hz:
        lines += [
            "if folds(RULES, 0, HALO, POSITIVE):",
            "    turn_z = turn // (turns_x * turns_y)",
            "    ghost_z = tl.maximum(turn_z - 1, 0)",
            f"    beyond_z = tl.where(ghost_z < {hz}, ghost_z - {hz}, nz - {hz} + ghost_z)",
            "    at_k = tl.where(turn_z == 0, k, beyond_z)",
        ]
        for g in groups:
            weight = f"part_of(k + tl.zeros((1,), tl.int32), ghost_z, tables, 0, {g}, HALO)"
            lines.append(f"    part__{g} = part__{g} * tl.where(turn_z == 0, 1.0, tl.sum({weight}, 0))")
    return lines


def columns(names: Names) -> list[str]:
    """Everything that does not change from row to row."""
    lines = []
    for di in sorted({s.di for s in names.rows if s.kind != "table"}):
        n = suffix(di)
        lines += [
            f"i__{n} = {moved('at_i', di)}",
            f"index__{n} = source(i__{n}, nx, RULES, 2) if EDGE else i__{n}",
            f"column__{n} = column_of(index__{n} if EDGE else i, sx, UNIT)",
            f"ahead__{n} = {di} * (1 if UNIT else sx)",
        ]
    hz, _, hx = names.plan.halo
    for name, di in names.schedule.columns:
        at = moved("at_i", di)
        at = f"tl.minimum(tl.maximum({at}, {-2 * hx}), nx + {2 * hx - 1}) if EDGE else {at}"
        lines.append(f"{name}__{suffix(di)} = tl.load({name}__at + ({at}))")
    for name, dk in names.schedule.planes:
        at = moved("at_k", dk)
        at = f"tl.minimum(tl.maximum({at}, {-2 * hz}), nz + {2 * hz - 1})" if hz else at
        lines.append(f"{name}__{suffix(dk)} = tl.load({name}__at + {at})")
    width = 2 * hx if names.plan.outputs else hx
    elsewhere = " | aside" if names.plan.outputs else ""
    lines.append(f"beyond = (x0 < {width}) | (x0 + BX + {width} > nx){elsewhere}")
    return lines


def carried(names: Names) -> list[str]:
    """Every strand's values at the rows behind its lead, before the first row."""
    zero = "tl.zeros((BX,), x_ptr.dtype.element_ty)"
    lines = []
    for strand, rows in names.rows.items():
        value = "tl.full((), 0.0, x_ptr.dtype.element_ty)" if strand.kind == "table" else zero
        lines += [f"{names.var(strand, row)} = {value}" for row in rows[:-1]]
    for (dk, di), (low, high) in names.flags.items():
        lines += [f"{names.flag(dk, row, di)} = tl.zeros((BX,), tl.int32)" for row in range(low, high)]
    return lines
