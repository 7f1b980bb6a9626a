"""Boundary rules, indices and functions of one number, as the generated Triton kernels call them.

The rules of a site are one constant, three digits in base 5; `halo` is (z, y, x, classes of ghosts, points of a ghost).
Comparisons that only hang on constants are made when a kernel is compiled.
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
    """Whether cells read ghosts on an axis that are made of points other than those across; `positive`: whether any
    field is mirrored where others are zero. Beyond open edges nothing is read by a cell that counts."""
    rule = rule_of(rules, axis)
    return halo[axis] > 0 and (rule in (3, 4) or (rule == 1 and positive))


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
def offset(i, BIG: tl.constexpr):
    """A number to make offsets within one field of: of 64 bits where a field has 2^31 elements or more."""
    return tl.cast(i, tl.int64) if BIG else tl.cast(i, tl.int32)


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
        found = i == i
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
