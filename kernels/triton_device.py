"""What every generated Triton kernel calls: reads by the boundary rules, units, and what goes back to points.

`read` fetches a field at plane k, row j and a vector of columns i. Tiles away from every edge (EDGE false) load
plainly. At an edge any index is allowed: it is wrapped or mirrored into the grid first, so that no load ever leaves it,
and what was found is then replaced where the rule says otherwise: by zero beyond a Dirichlet or open edge, by a sum
over the nearest points beyond a one-sided one. A value at a masked point is replaced before any arithmetic sees it.

`give` adds to what a point has gathered. On edges that mirror or extrapolate ghosts gather like points, and what they
gathered goes to the points that they are made of: `part_of` and `target` say how much, and to which. Only the program that owns a point ever touches it, so the
order of the sums is fixed.

Tuples: `strides` (z, y, x) of the inputs; `grid` (nz, ny, nx); `units` (offset, factor) of a field; `tables` (flags,
source, weight): flags of points (1: exists, 2: its cell is valid), and the ghosts of each axis z, y, x, class of
fields and ghost, S of each; `halo` (z, y, x, classes, S).
"""

import triton
import triton.language as tl

PERIODIC: tl.constexpr = tl.constexpr(0)
DIRICHLET: tl.constexpr = tl.constexpr(1)
OPEN: tl.constexpr = tl.constexpr(2)
NEUMANN: tl.constexpr = tl.constexpr(3)
ONE_SIDED: tl.constexpr = tl.constexpr(4)
RULES = ("periodic", "dirichlet", "open", "neumann", "one-sided")


@triton.constexpr_function
def rule_of(rules, axis):
    """The rule of axis 0, 1, 2 = z, y, x: three digits in base 5; 125 is added where an axis is tiny."""
    return rules // 5 ** (2 - axis) % 5


@triton.constexpr_function
def is_tiny(rules):
    """Whether some axis is shorter than twice its halo, so that indices wrap more than once."""
    return rules >= 125


@triton.constexpr_function
def is_zero(rules, axis, positive):
    """Whether a field is zero beyond the edges of an axis; one that is never zero is mirrored there."""
    return rule_of(rules, axis) in (1, 2) and not positive


@triton.constexpr_function
def zeros_beyond(rules, positive, halo):
    return any(is_zero(rules, axis, positive) and halo[axis] > 0 for axis in range(3))


@triton.constexpr_function
def folds(rules, axis, halo, positive):
    """Whether ghosts on an axis are made of points other than those across; `positive`: whether any field is."""
    return halo[axis] > 0 and (rule_of(rules, axis) in (3, 4) or (rule_of(rules, axis) != 0 and positive))


@triton.constexpr_function
def some_one_sided(rules, halo):
    return any(rule_of(rules, axis) == 4 and halo[axis] > 0 for axis in range(3))


@triton.constexpr_function
def sources(rules, axis, halo):
    """Of how many points a ghost on an axis is made at most."""
    return halo[4] if rule_of(rules, axis) == 4 and halo[axis] > 0 else 1


@triton.constexpr_function
def first_ghost(axis, group, halo):
    """Where the ghosts of an axis and a class begin in the tables."""
    return 2 * (halo[3] * sum(halo[:axis]) + group * halo[axis])


@triton.jit
def source(i, n, RULES: tl.constexpr, AXIS: tl.constexpr):
    """Where in 0 ... n - 1 index `i` lies: wrapped on periodic axes, mirrored on others. Anything where no read that
    counts goes, beyond twice the halo; on axes shorter than that every index is right."""
    if rule_of(RULES, AXIS) == PERIODIC:
        if is_tiny(RULES):
            m = i % n
            found = tl.where(m < 0, m + n, m)
        else:
            found = tl.where(i < 0, i + n, tl.where(i >= n, i - n, i))
            found = tl.minimum(tl.maximum(found, 0), n - 1)
    elif is_tiny(RULES):
        m = i % (2 * n)
        m = tl.where(m < 0, m + 2 * n, m)
        found = tl.minimum(m, 2 * n - 1 - m)
    else:
        found = tl.maximum(i, -1 - i)
        found = tl.maximum(tl.minimum(found, 2 * n - 1 - found), 0)
    return found


@triton.jit
def inside(i, n):
    return (i >= 0) & (i < n)


@triton.jit
def column_of(index, sx, UNIT: tl.constexpr):
    """The addresses of columns within a row; 32 unsigned bits where they lie side by side, which a load takes as is."""
    return index.to(tl.uint32) if UNIT else index.to(tl.int64) * sx


@triton.jit
def wide_box(i, n, low, high, RULES: tl.constexpr, AXIS: tl.constexpr):
    """Whether cells exist at row or plane `i`, whose reads reach `low` points back and `high` ahead."""
    if rule_of(RULES, AXIS) == PERIODIC:
        found = n > 0
    elif rule_of(RULES, AXIS) == OPEN:
        found = (i >= low) & (i < n - high)
    else:
        found = inside(i, n)
    return found


@triton.jit
def below(i, n, condition):
    """0 <= i < n for columns, and a condition on their row. One comparison that hangs on the row: those that hang on
    columns alone would be kept in registers all the way down."""
    return i.to(tl.uint32) < tl.where(condition, n, 0).to(tl.uint32)


@triton.jit
def exponential(x):
    """exp(x). In float32 the argument is reduced first, or its rounding would be multiplied by x."""
    if x.dtype == tl.float64:
        found = tl.exp(x)
    else:
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        found = tl.exp2(n) * tl.exp(x - n * 0.693359375 + n * 2.12194440e-4)
    return found


@triton.jit
def power(x, P: tl.constexpr):
    """`x` to a power that is neither whole nor a half."""
    return tl.exp2(tl.log2(x) * P)


@triton.jit
def hyperbolic_tangent(x):
    e = tl.exp(-2 * tl.abs(x))
    t = (1 - e) / (1 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def slope(at, offset, units, LOG: tl.constexpr):
    """du/dx at addresses in the grid, where u = units[0] + units[1] x, or the exponential of that."""
    found = units[1]
    if LOG:
        found = units[1] * exponential(units[0] + units[1] * tl.load(at + offset))
    return found


@triton.jit
def at_point(at, primal, offset, units, keep, TANGENT: tl.constexpr, AFFINE: tl.constexpr, LOG: tl.constexpr, MASK: tl.constexpr, FILL: tl.constexpr):  # fmt: skip
    """u at addresses in the grid; of a tangent du, for which `primal` is the field itself."""
    u = tl.load(at + offset)
    if AFFINE:
        if TANGENT:
            u = u * slope(primal, offset, units, LOG)
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
def extrapolated(at, primal, strides, k, j, i, grid, units, tables, GROUP: tl.constexpr, RULES: tl.constexpr, TANGENT: tl.constexpr, AFFINE: tl.constexpr, LOG: tl.constexpr, MASK: tl.constexpr, FILL: tl.constexpr, halo: tl.constexpr):  # fmt: skip
    """The values at `i` where some axis is one-sided: a sum over the points on every axis."""
    total = tl.zeros(i.shape, at.dtype.element_ty)
    nz, ny, nx = grid
    SZ: tl.constexpr = sources(RULES, 0, halo)
    SY: tl.constexpr = sources(RULES, 1, halo)
    SX: tl.constexpr = sources(RULES, 2, halo)
    for s in range(SZ * SY * SX):
        kk, wz = made_of(k, nz, s // (SY * SX), tables, 0, GROUP, RULES, halo)
        jj, wy = made_of(j, ny, s // SX % SY, tables, 1, GROUP, RULES, halo)
        if wz * wy != 0:
            ii, wx = made_of(i, nx, s % SX, tables, 2, GROUP, RULES, halo)
            keep = wx != 0
            if MASK:
                keep = (tl.load(tables[0] + (kk * ny + jj).to(tl.int64) * nx + ii) & 1) != 0
            offset = kk * strides[0] + jj * strides[1] + ii * strides[2]
            u = at_point(at, primal, offset, units, keep, TANGENT, AFFINE, LOG, MASK, FILL)
            total += tl.where(wx != 0, (wz * wy * wx).to(u.dtype) * u, 0)
    return total


@triton.jit
def read(at, primal, strides, k, j, i, ahead, column, beyond, keep, grid, units, tables, GROUP: tl.constexpr, EDGE: tl.constexpr, RULES: tl.constexpr, POSITIVE: tl.constexpr, TANGENT: tl.constexpr, AFFINE: tl.constexpr, LOG: tl.constexpr, MASK: tl.constexpr, halo: tl.constexpr):  # fmt: skip
    """A field at plane `k`, row `j` and columns `i`, whose addresses within a row, made possible, are `ahead` (one
    number, so that it needs no register of every lane) and `column`; `beyond`: whether some columns may lie outside."""
    FILL: tl.constexpr = 1.0 if POSITIVE and not TANGENT else 0.0
    if EDGE:
        nz, ny, nx = grid
        row = source(k, nz, RULES, 0) * strides[0] + source(j, ny, RULES, 1) * strides[1]
        u = at_point(at + row, primal + row, column, units, keep, TANGENT, AFFINE, LOG, MASK, FILL)
        if some_one_sided(RULES, halo):
            if beyond | ~(inside(k, nz) & inside(j, ny)):
                u = extrapolated(at, primal, strides, k, j, i, grid, units, tables, GROUP, RULES, TANGENT, AFFINE, LOG, MASK, FILL, halo)  # fmt: skip
        if zeros_beyond(RULES, POSITIVE, halo):
            exists = nx > 0
            if is_zero(RULES, 0, POSITIVE) and halo[0] > 0:
                exists = exists & inside(k, nz)
            if is_zero(RULES, 1, POSITIVE) and halo[1] > 0:
                exists = exists & inside(j, ny)
            if is_zero(RULES, 2, POSITIVE) and halo[2] > 0:
                u = tl.where(below(i, nx, exists), u, 0)
            else:
                u = tl.where(exists, u, 0)
    else:
        row = k * strides[0] + j * strides[1] + ahead
        u = at_point(at + row, primal + row, column, units, keep, TANGENT, AFFINE, LOG, MASK, FILL)
    return u


@triton.jit
def read_row(at, strides, k, j, ahead, column, grid, EDGE: tl.constexpr, RULES: tl.constexpr):
    """What was given for a cell, at plane `k` and row `j`; anything where there is no cell."""
    if EDGE:
        k, j = source(k, grid[0], RULES, 0), source(j, grid[1], RULES, 1)
        ahead = 0
    return tl.load(at + (k * strides[0] + j * strides[1] + ahead) + column)


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
def where_valid(value, k, j, i, flags, grid, reach: tl.constexpr, EDGE: tl.constexpr, RULES: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """`value` at cells that exist, 0 at others; `reach`: of the reads, back and ahead along z, y, x."""
    if EDGE:
        exists = wide_box(k, grid[0], reach[0], reach[1], RULES, 0)
        exists = exists & wide_box(j, grid[1], reach[2], reach[3], RULES, 1)
        if rule_of(RULES, 2) == PERIODIC:
            value = tl.where(exists, value, 0)
        elif rule_of(RULES, 2) == OPEN:
            value = tl.where(below(i - reach[4], tl.maximum(grid[2] - reach[4] - reach[5], 0), exists), value, 0)
        else:
            value = tl.where(below(i, grid[2], exists), value, 0)
    if MASK:
        value = tl.where((flags & 2) != 0, value, 0)
    return value


@triton.jit
def part_of(i, e, tables, AXIS: tl.constexpr, GROUP: tl.constexpr, halo: tl.constexpr):
    """The weight of point `i` in ghost `e`, 0 ... 2 H - 1."""
    total = tl.zeros(i.shape, tables[2].dtype.element_ty)
    for s in range(halo[4]):
        at = (first_ghost(AXIS, GROUP, halo) + e) * halo[4] + s
        total += tl.where(tl.load(tables[1] + at) == i, tl.load(tables[2] + at), 0)
    return total


@triton.jit
def give(out, at, strides, value, k, j, i, column, grid, units, step, tables, touched, own, EDGE: tl.constexpr, AFFINE: tl.constexpr, LOG: tl.constexpr, MASK: tl.constexpr, UPDATE: tl.constexpr):  # fmt: skip
    """Store `value`, d/du at points, as d/dx; or, with UPDATE, as -step d/dx, added to x where `own`. It is added to
    what is there where `touched`. Off the mask nothing changes."""
    here = i < grid[2]
    row = tl.cast(k * grid[1] + j, tl.int64) * grid[2]
    at = at + (k * strides[0] + j * strides[1])
    if AFFINE:
        value = value * slope(at, column, units, LOG)
    if UPDATE:
        value = -step * value
    lane = i.to(tl.uint32)
    if MASK:
        keep = (tl.load(tables[0] + row + lane, mask=here, other=0) & 1) != 0
        value = tl.where(keep, value, 0)
    if UPDATE:
        value = tl.where(own, tl.load(at + column) + value, value)
    if EDGE:
        if touched:
            value += tl.load(out + row + lane, mask=here, other=0)
        tl.store(out + row + lane, value, mask=here, eviction_policy="evict_first")
    else:
        tl.store(out + row + lane, value, eviction_policy="evict_first")


@triton.jit
def target(j, s, ghost_row, tables, GROUP: tl.constexpr, ny, halo: tl.constexpr):
    """Row `s` of those that row `j` is made of, and its weight: itself where it is no ghost."""
    e = tl.minimum(tl.maximum(tl.where(j < 0, j, j - ny) + halo[1], 0), 2 * halo[1] - 1)
    at = (first_ghost(1, GROUP, halo) + e) * halo[4] + s
    row, weight = tl.load(tables[1] + at), tl.load(tables[2] + at)
    return tl.where(ghost_row, row, j), tl.where(ghost_row, weight, 1.0)


@triton.jit
def total(partial_ptr, energy_ptr, count, BLOCK: tl.constexpr):
    """The energy of one sample from those of its programs, always in the same order."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    found = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        found += tl.load(partial_ptr + b * count + start + i, mask=start + i < count, other=0.0)
    tl.store(energy_ptr + b, tl.sum(found, 0))
