"""What every generated CPU kernel does to slabs: reading them into a ring, edges, folding, writing out.

The axes are called (m, r, x): m is the outermost, along which a kernel marches (y on two axes, z on three), r the rows
of a slab (one on two axes, y on three). A slab holds its rows and columns with twice the halo at every end; a ring of
slabs holds one view of one input, or the values at cells. `gm`, `wm`, `gr`, `wr`, `gx`, `wx`: source and weight of the
ghosts along each axis. `sizes`: (nm, nr, nx, halo m, r, x).
"""

from .numba_rows import (
    U,
    add_exponential_row,
    add_input,
    add_row,
    clear,
    compiled,
    finish_row,
    fold_columns,
    ghost_columns,
    ghost_rows,
    read_row,
    write_row,
)


@compiled
def fill(S, to, v, j, b, x, d, w, strides, views, units, special, mask, gr, wr, gx, wx, periodic, sizes):
    """Read slab j of view v of sample b. `views`: which of x, d, w a view reads, its channel, and for the tangent of a
    logarithm the channel of d; `special`: whether more is to be done than to scale, whether columns have ghosts."""
    _, nr, nx, _, hr, hx = sizes
    width, which = nx + 4 * hx, views[v, 0]
    source, stride = x if which == 0 else d if which == 1 else w, U(strides[which, 4])
    for r in range(nr):
        row = to + U((2 * hr + r) * width)
        into, start = row + U(2 * hx), place(strides, which, b, views[v, 1], j, r)
        read_row(S, into, source, start, stride, nx, units[v, 0], units[v, 1])
        if special[v, 0]:
            other = place(strides, 1, b, views[v, 2], j, r)
            finish_row(S, into, nx, units, v, d, other, U(strides[1, 4]), mask, U((j * nr + r) * nx))
        if special[v, 1]:
            ghost_columns(S, row, nx, hx, gx, wx, v, periodic[2])
    if hr > 0:
        ghost_rows(S, to, nr, width, hr, gr, wr, v, periodic[1])


@compiled
def beyond(
    S, to, near, v, j, b, x, d, w, strides, views, units, special, mask, gm, wm, gr, wr, gx, wx, periodic, sizes
):
    """Slab j beyond the grid: what the rule makes of other slabs, read at `near` in turn, or nothing."""
    nm, nr, nx, hm, hr, hx = sizes
    slab = (nr + 4 * hr) * (nx + 4 * hx)
    clear(S, to, slab)
    if -hm <= j < nm + hm:
        e = j + hm if j < 0 else hm + j - nm
        for s in range(gm.shape[2]):
            if wm[v, e, s] != 0:
                source = gm[v, e, s]
                fill(
                    S,
                    near,
                    v,
                    source,
                    b,
                    x,
                    d,
                    w,
                    strides,
                    views,
                    units,
                    special,
                    mask,
                    gr,
                    wr,
                    gx,
                    wx,
                    periodic,
                    sizes,
                )
                add_row(S, to, S, near, slab, wm[v, e, s])


@compiled
def place(strides, which, b, channel, m, r):
    """Where row (m, r) of a channel of an input begins."""
    return U(b * strides[which, 0] + channel * strides[which, 1] + m * strides[which, 2] + r * strides[which, 3])


@compiled
def edges_of_slab(G, to, periodic, gr, wr, gx, wx, box, sizes):
    """The margins of a slab of values at cells: the other side where periodic, else 0."""
    _, nr, nx, _, hr, hx = sizes
    width = nx + 4 * hx
    if periodic[2]:
        for r in range(box[2], box[3]):
            ghost_columns(G, to + U((2 * hr + r) * width), nx, hx, gx, wx, 0, True)
    if hr > 0:
        if periodic[1]:
            ghost_rows(G, to, nr, width, hr, gr, wr, 0, True)
        else:
            clear(G, to, 2 * hr * width)
            clear(G, to + U((2 * hr + nr) * width), 2 * hr * width)


@compiled
def reach(m0, m1, nm, hm, source, weight):
    """The slabs that gather for the points of slabs m0 ... m1: these, and the ghosts that are made of them."""
    lo, hi = m0, m1
    for o in range(source.shape[0]):
        for e in range(source.shape[1]):
            for s in range(source.shape[2]):
                if weight[o, e, s] != 0 and m0 <= source[o, e, s] < m1:
                    lo, hi = min(lo, e - hm if e < hm else m0), max(hi, nm + e - hm + 1 if e >= hm else m1)
    return lo, hi


@compiled
def fold(A, o, gr, wr, gx, wx, sizes):
    """Give what the ghost rows and columns of output o hold to the points that they are made of."""
    _, nr, nx, _, hr, hx = sizes
    width, rows = nx + 4 * hx, hr if gr.size > 0 else 0
    to = U(o * (nr + 4 * hr) * width)
    if gx.size > 0:
        for r in range(-rows, nr + rows):
            fold_columns(A, to + U((2 * hr + r) * width), nx, hx, gx, wx, o)
    for e in range(2 * rows):
        ghost = to + U((hr + e if e < hr else hr + nr + e) * width)
        for s in range(gr.shape[2]):
            if wr[o, e, s] != 0:
                add_row(A, to + U((2 * hr + gr[o, e, s]) * width), A, ghost, width, wr[o, e, s])


@compiled
def put(A, o, f, out, b, m, weight, fresh, whole, x, strides, units, mask, step, sizes, F):
    """Write slab m of output o, a part of the gradient of field f, times `weight`; with steps, minus the step. `fresh`:
    nothing is there yet; `whole`: with steps, add x itself. `units` of the fields."""
    nm, nr, nx, _, hr, hx = sizes
    width, log, masked = nx + 4 * hx, units[f, 3] != 0, units[f, 5] != 0
    scale = weight if step.size == 0 else -weight * step[b * F + f]
    for r in range(nr):
        at, to = U((o * (nr + 4 * hr) + 2 * hr + r) * width + 2 * hx), U((((b * F + f) * nm + m) * nr + r) * nx)
        start, stride, at_mask = place(strides, 0, b, f, m, r), U(strides[0, 4]), U((m * nr + r) * nx)
        if log:
            if fresh:
                clear(out, to, nx)
            offset, factor = units[f, 0], units[f, 1]
            add_exponential_row(out, to, A, at, nx, scale, x, start, stride, offset, factor, mask, at_mask, masked)
        else:
            write_row(out, to, A, at, nx, scale, fresh)
        if whole and step.size > 0:
            add_input(out, to, x, start, stride, nx)
