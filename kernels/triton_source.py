"""A plan printed as one Triton kernel: a file of named temporaries with the formula above them.

A program of the kernel owns BX columns, a run of rows of one plane and one sample. It marches down its rows: what it
loaded or computed a row ago stays in registers (`triton_schedule.py`). Tiles near an edge run the same march with EDGE
set, in which every index goes through the boundary rule, and, where ghosts are made of points, once more for every
ghost column and plane near the tile (`turn`), to hand on what those have gathered.

Numbers come in one array: offset and factor (F), 1 / scale, 2 omega / (scale total), omega / total (K), the scalar
tables, then those along z, y and x, 2 halo longer at both ends; the widths of cells are the last of each.
"""

from .adjoint import TANGENT, make_plan
from .stencil import Stencil
from .triton_names import Names
from .triton_print import indent
from .triton_turns import count_turns, turn

HEADER = '''"""{kind} of

{formula}

over the fields {fields}, on {axes}. {carried} values a column are kept from row to row; {loads} are loaded.
"""

import triton
import triton.language as tl

from sciguide.kernels.triton_device import (
    cells_exist,
    exists,
    line,
    read,
    read_flags,
    read_row,
    where_valid,
)
from sciguide.kernels.triton_points import give, part_of
from sciguide.kernels.triton_rules import (
    column_of,
    exponential,
    first_ghost,
    folds,
    hyperbolic_tangent,
    offset,
    power,
    sign,
    source,
    sources,
)

HALO: tl.constexpr = tl.constexpr({halo})  # z, y, x, classes of ghosts, points of a ghost
REACH: tl.constexpr = tl.constexpr({reach})  # of the reads, back and ahead along z, y, x
POSITIVE: tl.constexpr = tl.constexpr({positive})  # whether some field is never zero
'''


def make_source(stencil: Stencil, kind: str) -> str:
    """The text of the kernel for `kind`, as in `adjoint.KINDS`."""
    return text(Names(stencil, make_plan(stencil, kind)))


def text(names: Names) -> str:
    lines = [header(names), "", "@triton.jit", f"def march({parameters(names, inner=True)}):"]
    lines += indent(march(names), 1)
    lines += ["", "", decorator(names), f"def kernel({parameters(names, inner=False)}):", *indent(kernel(names), 1)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def header(names: Names) -> str:
    formula = "\n".join(f"    {n} = {e}" for n, e in zip(names.stencil.names, names.stencil.exprs, strict=True))
    reach = []
    for axis in range(3):
        offsets = [p.offset[axis] for p in names.stencil.points]
        reach += [max(0, -min(offsets)), max(0, max(offsets))]
    S = max(names.degrees) + 1
    return HEADER.format(
        kind={"hvp": "Energy's second derivative times a tangent,", "jvp": "J v,", "vjp": "J^T w,"}.get(
            names.plan.kind, names.plan.kind.capitalize()
        ),
        formula=formula,
        fields=", ".join(names.stencil.fields),
        axes="three axes" if names.deep else "rows and columns",
        carried=sum(len(r) - 1 for s, r in names.rows.items() if s.kind != "table"),
        loads=len(names.reads),
        halo=(*names.plan.halo, 2 * len(names.degrees), S),
        reach=tuple(reach),
        positive=bool(names.stencil.positive),
    )


def pointers(names: Names) -> list[str]:
    out = bool(names.plan.outputs) or not names.schedule.energy
    found = ["x_ptr"] + ["v_ptr"] * names.tangents + ["w_ptr"] * names.given + ["out_ptr"] * out
    found += ["energy_ptr"] * names.schedule.energy + ["step_ptr"] * (names.plan.kind == "gradient")
    return [*found, "numbers_ptr", "flags_ptr", "source_ptr", "weight_ptr"]


def sizes(names: Names) -> list[str]:
    strides = ["x_sb", "x_sf"] + ["v_sb", "v_sf"] * names.tangents + ["w_sb", "w_sk"] * names.given
    return ["nz", "ny", "nx", *strides, "sz", "sy", "sx"]


def parameters(names: Names, inner: bool) -> str:
    constants = ["RULES", "MASK", "AFFINE", "LOGS", "WIDTHS", "UNIT", "BIG", "UNROLL", "BX"]
    constants += ["UPDATE"] * (names.plan.kind == "gradient") + ["EDGE"] + ["ALL"] * (not inner)
    place = ["b", "k", "r0", "r1", "x0"] if inner else ["chunks", "tiles"]
    typed = [f"{c}: tl.constexpr" for c in constants]
    return ", ".join([*pointers(names), *sizes(names), *place, *typed])


def arguments(names: Names) -> str:
    constants = ["RULES", "MASK", "AFFINE", "LOGS", "WIDTHS", "UNIT", "BIG", "UNROLL", "BX"]
    constants += ["UPDATE"] * (names.plan.kind == "gradient")
    return ", ".join([*pointers(names), *sizes(names), "b", "k", "r0", "r1", "x0", *constants, "EDGE"])


def decorator(names: Names) -> str:
    plain = [*sizes(names), "chunks", "tiles"]
    return f"@triton.jit(\n    do_not_specialize={plain!r},\n    do_not_specialize_on_alignment={pointers(names)!r},\n)"


def kernel(names: Names) -> list[str]:
    H = [2 * h if names.plan.outputs else h for h in names.plan.halo]
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
        if names.plan.outputs:
            lines.append(f"F{n}: {fold} = folds(RULES, {axis}, HALO, POSITIVE)")
            lines.append(f"M{n}: {fold} = {max(h, names.top)} if F{n} else {h}")
        else:
            lines.append(f"M{n}: {fold} = {h}")
    lines.append("inner = (x0 >= Mx) & (x0 + BX + Mx <= nx) & (r0 >= My) & (r1 + My <= ny)")
    if names.deep:
        lines.append("inner = inner & (k >= Mz) & (k + Mz < nz)")
    lines += ["if ALL | (inner != EDGE):", f"    energy = march({arguments(names)})"]
    if names.schedule.energy:
        lines.append("    tl.store(energy_ptr + pid, tl.sum(energy.to(tl.float64), 0))")
    return lines


def march(names: Names) -> list[str]:
    lines = start(names)
    if names.plan.outputs:
        folds = " or ".join(f"folds(RULES, {axis}, HALO, POSITIVE)" for axis in range(3))
        lines += [
            f"FOLD: tl.constexpr = EDGE and ({folds})",
            "turns = 1",
            "if FOLD:",
            *indent(count_turns(names), 1),
            "for turn in range(turns):",
            *indent(turn(names), 1),
        ]
    else:
        lines += turn(names)
    return [*lines, "return energy"]


def start(names: Names) -> list[str]:
    dtype = "x_ptr.dtype.element_ty"
    lines = [
        "grid = (nz, ny, nx)",
        "tables = (flags_ptr, source_ptr, weight_ptr)",
        "strides = (offset(sz, BIG), offset(sy, BIG), 1 if UNIT else offset(sx, BIG))",
        f"energy = tl.zeros((BX,), {dtype})",
        "i = x0 + tl.arange(0, BX)",
        "column = column_of(tl.minimum(i, nx - 1) if EDGE else i, sx, UNIT)",
    ]
    for f, name in enumerate(names.stencil.fields):
        lines.append(f"{name}__at = x_ptr + b * x_sb + {f} * tl.cast(x_sf, tl.int64)")
        if names.tangents:
            lines.append(f"{name}{TANGENT}__at = v_ptr + b * v_sb + {f} * tl.cast(v_sf, tl.int64)")
        lines.append(f"{name}__units = (0.0, 1.0)")
        lines.append("if AFFINE:")
        lines.append(f"    {name}__units = (tl.load(numbers_ptr + {f}), tl.load(numbers_ptr + {names.F + f}))")
        if names.plan.outputs:
            lines.append(f"{name}__to = out_ptr + (b * {names.F} + {f}) * nz * ny * nx")
            step = f"tl.load(step_ptr + b * {names.F} + {f}) if UPDATE else 0.0"
            lines.append(f"{name}__step = {step if names.plan.kind == 'gradient' else '0.0'}")
    for k in range(names.K if names.given else 0):
        lines.append(f"r{k}__w__at = w_ptr + b * w_sb + {k} * tl.cast(w_sk, tl.int64)")
    base = 2 * names.F
    for k in sorted({cell.residual for _, cell, _ in names.schedule.cells if cell.energy}):
        for n, name in enumerate(("over", "pull", "omega")):
            lines.append(f"{name}__{k} = tl.load(numbers_ptr + {base + n * names.K + k})")
    base += 3 * names.K
    for n, name in enumerate(names.tables[""]):
        if name in names.schedule.scalars:
            lines.append(f"{name}__ = tl.load(numbers_ptr + {base + n})")
    lines += table_starts(names, base + len(names.tables[""]))
    return lines


def table_starts(names: Names, base: int) -> list[str]:
    lines, start = [], f"numbers_ptr + {base}"
    used = {s.name for s in names.rows if s.kind == "table"} | {
        n for n, _ in names.schedule.columns + names.schedule.planes
    }
    for axis, h in zip("zyx", names.plan.halo, strict=True):
        for n, name in enumerate(names.tables[axis]):
            if name in used:
                lines.append(f"{name}__at = {start} + {n} * (n{axis} + {4 * h}) + {2 * h}")
        start += f" + {len(names.tables[axis])} * (n{axis} + {4 * h})"
    return lines
