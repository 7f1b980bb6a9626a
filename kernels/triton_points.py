"""What every generated Triton kernel calls to store what points have gathered, and to add up energies.

`give` adds to what a point has gathered. On edges that mirror or extrapolate ghosts gather like points, and what they
gathered goes to the points that they are made of: `part_of` says how much. Only the program that owns a point ever
touches it, so the order of the sums is fixed.
"""

import triton
import triton.language as tl

from .triton_device import slope
from .triton_rules import first_ghost


@triton.jit
def part_of(i, e, tables, AXIS: tl.constexpr, GROUP: tl.constexpr, halo: tl.constexpr):
    """The weight of point `i` in ghost `e`, 0 ... 2 H - 1."""
    total = tl.zeros(i.shape, tables[2].dtype.element_ty)
    for s in range(halo[4]):
        at = (first_ghost(AXIS, GROUP, halo) + e) * halo[4] + s
        total += tl.where(tl.load(tables[1] + at) == i, tl.load(tables[2] + at), 0)
    return total


@triton.jit
def give(
    out,
    at,
    flags,
    value,
    i,
    column,
    nx,
    units,
    step,
    own,
    EDGE: tl.constexpr,
    FOLD: tl.constexpr,
    AFFINE: tl.constexpr,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    UPDATE: tl.constexpr,
):
    """Store `value`, d/du at points, as d/dx; or, with UPDATE, as -step d/dx, added to x. Where this is not the points'
    `own` turn it is added to what is there. Off the mask nothing changes. `out`, `at`, `flags`: where the points' row
    begins in what is stored, the field and the flags."""
    here = i < nx
    lane = i.to(tl.uint32)
    if AFFINE:
        value = value * slope(at, column, units, LOG)
    if UPDATE:
        value = -step * value
    if MASK:
        keep = (tl.load(flags + lane, mask=here, other=0) & 1) != 0
        value = tl.where(keep, value, 0)
    if UPDATE:
        value = tl.where(own, tl.load(at + column) + value, value)
    if FOLD:
        value += tl.load(out + lane, mask=here & ~own, other=0)
    if EDGE:
        tl.store(out + lane, value, mask=here, eviction_policy="evict_first")
    else:
        tl.store(out + lane, value, eviction_policy="evict_first")


@triton.jit
def total(partial_ptr, energy_ptr, count, BLOCK: tl.constexpr):
    """The energy of one sample from those of its programs, always in the same order."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    found = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        found += tl.load(partial_ptr + b * count + start + i, mask=start + i < count, other=0.0)
    tl.store(energy_ptr + b, tl.sum(found, 0))
