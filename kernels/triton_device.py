"""What every generated Triton kernel calls to read: fields by the boundary rules and in their units, flags, cells.

`read` fetches a field at plane k, row j and a vector of columns i. Tiles away from every edge (EDGE false) load
plainly. At an edge any index is allowed: it is wrapped or mirrored into the grid first, so that no load ever leaves it,
and what was found is then replaced where the rule says otherwise: by zero beyond a Dirichlet or open edge, by a sum
over the nearest points beyond a one-sided one. A value at a masked point is replaced before any arithmetic sees it.

Tuples: `strides` (z, y, x) of the inputs; `grid` (nz, ny, nx); `units` (offset, factor) of a field; `tables` (flags,
source, weight): flags of points (1: exists, 2: its cell is valid), and the ghosts of each axis z, y, x, class of
fields and ghost, S of each; `halo` (z, y, x, classes, S).
"""

import triton
import triton.language as tl

from .triton_rules import (
    ONE_SIDED,
    OPEN,
    PERIODIC,
    below,
    exponential,
    first_ghost,
    inside,
    is_zero,
    rule_of,
    some_one_sided,
    source,
    sources,
    wide_box,
    zeros_beyond,
)


@triton.jit
def slope(at, lane, units, LOG: tl.constexpr):
    """du/dx at addresses in the grid, where u = units[0] + units[1] x, or the exponential of that."""
    found = units[1]
    if LOG:
        found = units[1] * exponential(units[0] + units[1] * tl.load(at + lane))
    return found


@triton.jit
def at_point(
    at,
    primal,
    lane,
    units,
    keep,
    TANGENT: tl.constexpr,
    AFFINE: tl.constexpr,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    FILL: tl.constexpr,
):
    """u at addresses in the grid; of a tangent du, for which `primal` is the field itself."""
    u = tl.load(at + lane)
    if AFFINE:
        if TANGENT:
            u = u * slope(primal, lane, units, LOG)
        else:
            u = units[0] + units[1] * u
            if LOG:
                u = exponential(u)
    if MASK:
        u = tl.where(keep, u, FILL)
    return u


@triton.jit
def ghost(i, n, s, tables, AXIS: tl.constexpr, GROUP: tl.constexpr, halo: tl.constexpr):
    """Point `s` of S that index `i` is made of and its weight: itself inside."""
    H: tl.constexpr = halo[AXIS]
    outside = (i < 0) | (i >= n)
    e = tl.minimum(tl.maximum(tl.where(i < 0, i, i - n) + H, 0), 2 * H - 1)
    at = (first_ghost(AXIS, GROUP, halo) + e) * halo[4] + s
    point = tl.where(outside, tl.load(tables[1] + at), tl.minimum(tl.maximum(i, 0), n - 1))
    return point, tl.where(outside, tl.load(tables[2] + at), tl.where(s == 0, 1.0, 0.0))


@triton.jit
def made_of(i, n, s, tables, AXIS: tl.constexpr, GROUP: tl.constexpr, RULES: tl.constexpr, halo: tl.constexpr):
    """The same under any rule: point and weight."""
    if halo[AXIS] > 0 and rule_of(RULES, AXIS) == ONE_SIDED:
        point, weight = ghost(i, n, s, tables, AXIS, GROUP, halo)
    else:
        point = source(i, n, RULES, AXIS)
        weight = tl.where(s == 0, 1.0, 0.0)
    return point, weight


@triton.jit
def extrapolated(
    at,
    primal,
    strides,
    k,
    j,
    i,
    grid,
    units,
    tables,
    GROUP: tl.constexpr,
    RULES: tl.constexpr,
    TANGENT: tl.constexpr,
    AFFINE: tl.constexpr,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    FILL: tl.constexpr,
    halo: tl.constexpr,
):
    """The values at `i` where some axis is one-sided: a sum over the points on every axis."""
    total = tl.zeros(i.shape, at.dtype.element_ty)
    nz, ny, nx = grid
    SX: tl.constexpr = sources(RULES, 2, halo)
    SY = tl.where(inside(j, ny), 1, sources(RULES, 1, halo))
    SZ = tl.where(inside(k, nz), 1, sources(RULES, 0, halo))
    for s in range(SZ * SY * SX):
        kk, wz = made_of(k, nz, s // (SY * SX), tables, 0, GROUP, RULES, halo)
        jj, wy = made_of(j, ny, s // SX % SY, tables, 1, GROUP, RULES, halo)
        if wz * wy != 0:
            ii, wx = made_of(i, nx, s % SX, tables, 2, GROUP, RULES, halo)
            keep = wx != 0
            if MASK:
                keep = (tl.load(tables[0] + (kk * ny + jj).to(tl.int64) * nx + ii) & 1) != 0
            lane = kk * strides[0] + jj * strides[1] + ii * strides[2]
            u = at_point(at, primal, lane, units, keep, TANGENT, AFFINE, LOG, MASK, FILL)
            total += tl.where(wx != 0, (wz * wy * wx).to(u.dtype) * u, 0)
    return total


@triton.jit
def line(k, j, strides, grid, EDGE: tl.constexpr, RULES: tl.constexpr, halo: tl.constexpr):
    """Where row `j` of plane `k` begins in the inputs; a row inside where there is none."""
    if EDGE:
        if halo[0] > 0:
            k = source(k, grid[0], RULES, 0)
        if halo[1] > 0:
            j = source(j, grid[1], RULES, 1)
    return k * strides[0] + j * strides[1]


@triton.jit
def exists(k, j, grid, EDGE: tl.constexpr, RULES: tl.constexpr, halo: tl.constexpr):
    """Whether fields that are zero beyond edges have a row `j` of plane `k`."""
    found = j == j
    if EDGE:
        if is_zero(RULES, 0, False) and halo[0] > 0:
            found = found & inside(k, grid[0])
        if is_zero(RULES, 1, False) and halo[1] > 0:
            found = found & inside(j, grid[1])
    return found


@triton.jit
def read(
    at,
    primal,
    line,
    there,
    strides,
    k,
    j,
    i,
    ahead,
    column,
    beyond,
    keep,
    grid,
    units,
    tables,
    GROUP: tl.constexpr,
    EDGE: tl.constexpr,
    RULES: tl.constexpr,
    POSITIVE: tl.constexpr,
    TANGENT: tl.constexpr,
    AFFINE: tl.constexpr,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    halo: tl.constexpr,
):
    """A field at row `j` of plane `k`, which begins at `line` and is `there`, and columns `i`, whose addresses within
    it, made possible, are `ahead` (one number, so that it needs no register of every lane) and `column`; `beyond`:
    whether some columns may lie outside."""
    FILL: tl.constexpr = 1.0 if POSITIVE and not TANGENT else 0.0
    if EDGE:
        u = at_point(at + line, primal + line, column, units, keep, TANGENT, AFFINE, LOG, MASK, FILL)
        if some_one_sided(RULES, halo):
            if beyond | ~(inside(k, grid[0]) & inside(j, grid[1])):
                u = extrapolated(
                    at,
                    primal,
                    strides,
                    k,
                    j,
                    i,
                    grid,
                    units,
                    tables,
                    GROUP,
                    RULES,
                    TANGENT,
                    AFFINE,
                    LOG,
                    MASK,
                    FILL,
                    halo,
                )
        if is_zero(RULES, 2, POSITIVE) and halo[2] > 0:
            u = tl.where(below(i, grid[2], there), u, 0)
        elif zeros_beyond(RULES, POSITIVE, halo):
            u = tl.where(there, u, 0)
    else:
        u = at_point(
            at + (line + ahead), primal + (line + ahead), column, units, keep, TANGENT, AFFINE, LOG, MASK, FILL
        )
    return u


@triton.jit
def read_row(at, line, ahead, column, EDGE: tl.constexpr):
    """What was given for a cell; anything where there is no cell."""
    return tl.load(at + line + column) if EDGE else tl.load(at + (line + ahead) + column)


@triton.jit
def read_flags(tables, k, j, index, grid, EDGE: tl.constexpr, RULES: tl.constexpr, MASK: tl.constexpr):
    """The flags of points; 3 where there is no mask."""
    if MASK:
        if EDGE:
            k, j = source(k, grid[0], RULES, 0), source(j, grid[1], RULES, 1)
        found = tl.load(tables[0] + tl.cast(k * grid[1] + j, tl.int64) * grid[2] + index.to(tl.uint32)).to(tl.int32)
    else:
        found = tl.full(index.shape, 3, tl.int32)
    return found


@triton.jit
def cells_exist(k, j, grid, reach: tl.constexpr, EDGE: tl.constexpr, RULES: tl.constexpr):
    """Whether there are cells in row `j` of plane `k`; `reach`: of the reads, back and ahead along z, y, x."""
    found = j == j
    if EDGE:
        found = found & wide_box(k, grid[0], reach[0], reach[1], RULES, 0)
        found = found & wide_box(j, grid[1], reach[2], reach[3], RULES, 1)
    return found


@triton.jit
def where_valid(
    value, there, i, flags, nx, reach: tl.constexpr, EDGE: tl.constexpr, RULES: tl.constexpr, MASK: tl.constexpr
):
    """`value` at cells that exist, 0 at others; `there`: whether their row has any."""
    if EDGE:
        if rule_of(RULES, 2) == PERIODIC:
            value = tl.where(there, value, 0)
        elif rule_of(RULES, 2) == OPEN:
            value = tl.where(below(i - reach[4], tl.maximum(nx - reach[4] - reach[5], 0), there), value, 0)
        else:
            value = tl.where(below(i, nx, there), value, 0)
    if MASK:
        value = tl.where((flags & 2) != 0, value, 0)
    return value
