"""The text of a generated CPU kernel around its formulas: two loops over columns, the march over slabs that calls them.

At step j slab j is read, the cells of slab c = j - halo are computed, and the points of slab p = j - 2 halo gather.
"""

HEAD = '''"""{title}

The {kind} kernel. Values at cells, from the fields around them:

{formula}

c0, c1, ... come from the grid, k0, k1, ... are plain numbers, u_1_m1 is u one row on and one column back.
"""

import numpy as np
from numba import cfunc, types

from sciguide.kernels.numba_call import CHUNKS, ENTRY, NM, NR, NX, PLAIN, TASK, TASKS, THREADS, array_at, take_number
from sciguide.kernels.numba_memory import take, writer
from sciguide.kernels.numba_rows import (
    OPTIONS,
    U,
    clear,
    compiled,
    expect_row,
    finish_row,
    ghost_columns,
    ghost_rows,
    read_row,
)
from sciguide.kernels.numba_slabs import beyond, edges_of_slab, fold, place, put, reach

REAL = types.{real}
{sizes}
'''

CELLS = """

@compiled
def cells(S, ring, slots, row, W, G, goes, T, to, at, C, weight, wx, pull, valid, at_valid, first, last):
    zero = C[0] * 0
    energy = zero
    {before}
    for t in range(U(first), U(last)):
        {inside}
    return energy
"""

GATHER = """

@compiled
def gather(S, ring, slots, row, W, G, ring_g, slots_g, A, slab, to_row, factors, T, to, at, C, first, last):
    {before}
    for t in range(U(first), U(last)):
        {inside}
"""

MARCH = """

{readers}


@cfunc(ENTRY, **OPTIONS)
def march(call):
    nm, nr, nx, chunks, plain = call[NM], call[NR], call[NX], call[CHUNKS], call[PLAIN] != 0
    {arrays}
    sizes = (nm, nr, nx, HM, HR, HX)
    W, slab = U(nx + 4 * HX), (nr + 4 * HR) * (nx + 4 * HX)
    ring, ring_g = U((SLOTS + 1) * slab), U(SLOTS_G * slab)
    columns = widths[nm + nr:]
    reach_r, reach_x = HR * (fr.size > 0), HX * (fx.size > 0)
    number = take_number(call, THREADS)
    own = scratch[number * OWN * slab : (number + 1) * OWN * slab]
    S, G, A = own[: RINGS * slab], own[RINGS * slab : (RINGS + CELLS) * slab], own[(RINGS + CELLS) * slab :]
    where = counts[number * COUNTS : (number + 1) * COUNTS]
    at, slots, slots_g, goes = where[:2], where[2 : 4 * HM + 3], where[4 * HM + 3 : 6 * HM + 4], where[6 * HM + 4 :]
    while True:
        task = take_number(call, TASK)
        if task >= call[TASKS]:
            break
        b, m0, m1 = task // chunks, nm * (task % chunks) // chunks, nm * (task % chunks + 1) // chunks
        lo, hi = reach(m0, m1, nm, HM, fm, vm)
        for m in range(m0, m1):
            if pending[m]:
                for f in range(F):
                    clear(out, U(((b * F + f) * nm + m) * nr * nx), nr * nx)
        for j in range(lo - HM - LAG, hi + HM + LAG):
            inside, jm = periodic[0] or 0 <= j < nm, j % nm if periodic[0] else j
            for v in range(V):
                to_slab = U(v) * ring + U(j % SLOTS * slab)
                if not inside:
                    beyond(S, to_slab, U(v) * ring + U(SLOTS * slab), v, j, b, x, d, w, strides, views, units, special,
                           mask, gm, wm, gr, wr, gx, wx, periodic, sizes)
                    continue
                which = views[v, 0]
                source = x if which == 0 else d if which == 1 else w
                begin, stride = b * strides[which, 0] + views[v, 1] * strides[which, 1], U(strides[which, 4])
                for r in range(nr):
                    row = to_slab + U((2 * HR + r) * (nx + 4 * HX))
                    start = U(begin + jm * strides[which, 2] + r * strides[which, 3])
                    read_row(S, row + U(2 * HX), source, start, stride, nx, units[v, 0], units[v, 1])
                    if stride == 1:
                        expect_row(source, start + U(strides[which, 2]), nx)
                    if special[v, 0]:
                        start = place(strides, 1, b, views[v, 2], jm, r)
                        finish_row(S, row + U(2 * HX), nx, units, v, d, start, U(strides[1, 4]), mask,
                                   U((jm * nr + r) * nx))
                    if special[v, 1]:
                        ghost_columns(S, row, nx, HX, gx, wx, v, periodic[2])
                if HR > 0:
                    ghost_rows(S, to_slab, nr, nx + 4 * HX, HR, gr, wr, v, periodic[1])
            c = j - HM
            if c < lo - LAG:
                continue
            cm, g, energy = c % nm if periodic[0] else c, U(c % SLOTS_G * slab), 0.0
            for i in range(2 * HM + 1):
                slots[i] = U((c + i - HM) % SLOTS * slab)
            at[0] = U(c + 2 * HM)
            for r in range(nr):
                row = U((2 * HR + r) * (nx + 4 * HX))
                at[1] = U(r + 2 * HR)
                {into}
                weight = widths[cm] * widths[nm + r]
                energy += cells(S, ring, slots, row, W, {array}, goes, T, to, at, C, weight, columns, pull, valid,
                                U((cm * nr + r) * nx) - U(2 * HX), 2 * HX + box[4], 2 * HX + box[5])
            {energy}
            {calls}
"""
ENERGY = """if m0 <= c < m1:
                E[b * nm + c] = 0.5 * energy
"""
INTO_RING = """for n in range(N):
                    goes[n] = U(n) * ring_g + g + row
                if not (box[0] <= cm < box[1] and box[2] <= r < box[3]):
                    for n in range(N):
                        clear(G, goes[n], W)
                    continue"""
INTO_OUT = """there = box[0] <= cm < box[1] and box[2] <= r < box[3]
                for n in range(N):
                    to_row = U((((b * N + n) * nm + c) * nr + r) * nx)
                    goes[n] = to_row - U(2 * HX)
                    clear(out, to_row, box[4] if there else nx)
                    clear(out, to_row + U(box[5]), nx - box[5] if there else 0)
                if not there:
                    continue"""
GATHERING = """if HR > 0 or periodic[2]:
                for n in range(N):
                    edges_of_slab(G, U(n) * ring_g + g, periodic, gr, wr, gx, wx, box, sizes)
            p = c - HM
            if p < lo or (0 <= p < nm and not m0 <= p < m1):
                continue
            for i in range(4 * HM + 1):
                slots[i] = U((p + i - 2 * HM) % SLOTS * slab)
            for i in range(2 * HM + 1):
                slots_g[i] = U((p + i - HM) % SLOTS_G * slab)
            at[0] = U(p + 2 * HM)
            direct = plain and 0 <= p < nm and pending[p] == 0 and reach_r == reach_x == 0 and OUTPUTS == F
            for r in range(-reach_r, nr + reach_r):
                row = U((2 * HR + r) * (nx + 4 * HX))
                at[1] = U(r + 2 * HR)
                if direct:
                    to_row = U(((b * F * nm + p) * nr + r) * nx) - U(2 * HX)
                    gather(S, ring, slots, row, W, G, ring_g, slots_g, out, U(nm * nr * nx), to_row, field_units, T, to,
                           at, C, 2 * HX, 2 * HX + nx)
                else:
                    gather(S, ring, slots, row, W, G, ring_g, slots_g, A, U(slab), row, field_units, T, to, at, C,
                           2 * HX - reach_x, 2 * HX + nx + reach_x)
            if direct:
                continue
            for o in range(OUTPUTS):
                if reach_r or reach_x:
                    fold(A, o, fr, vr, fx, vx, sizes)
                if 0 <= p < nm:
                    fresh = FIRST[o] and not pending[p]
                    put(A, o, INTO[o], out, b, p, C[0], fresh, FIRST[o], x, strides, field_units, mask, step, sizes, F)
                    continue
                e = p + HM if p < 0 else HM + p - nm
                for s in range(fm.shape[2]):
                    m, weight = fm[o, e, s], vm[o, e, s]
                    if weight != 0 and m0 <= m < m1:
                        put(A, o, INTO[o], out, b, m, weight, False, False, x, strides, field_units, mask, step, sizes,
                            F)"""
