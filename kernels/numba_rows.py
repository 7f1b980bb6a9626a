"""What every generated CPU kernel does to single rows: reading, ghosts, folding, writing.

Indices are unsigned and arrays flat: else the loops would not become vector code. A row has twice the halo at both
ends. `source` and `weight` of ghosts are (views or outputs, 2 halo, S).
"""

import numpy as np
from numba import njit

from .numba_memory import prefetch

U = np.uint64
LINE = 16  # numbers that are loaded together, or half of them
FAST = {"reassoc", "contract", "nsz", "arcp"}  # not nnan, ninf: what lies off the mask may be anything
# _nrt: with it arrays are counted, atomically, in every call for every row, which takes longer than the row itself
OPTIONS = {
    "cache": True,
    "fastmath": FAST,
    "error_model": "numpy",
    "_nrt": False,
}
compiled = njit(**OPTIONS, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@compiled
def read_row(S, to, source, start, stride, n, offset, factor):
    """S[to + i] = offset + factor x_i."""
    if stride == 1:  # else no vector code would be made
        for i in range(U(n)):
            S[to + i] = offset + factor * source[start + i]
    else:
        for i in range(U(n)):
            S[to + i] = offset + factor * source[start + i * stride]


@compiled
def expect_row(source, start, n):
    """Begin to load n numbers from source[start] on, the next row: a processor looks ahead by itself within a page
    only, which a row often is."""
    for line in range(U(n // LINE + 1)):
        prefetch(source, start + line * U(LINE))


@compiled
def finish_row(S, to, n, units, v, d, start, stride, mask, at_mask):
    """What few rows need after `read_row`. `units[v]`: offset, factor, what stands off the mask, and 1 or 0 for the
    exponential of what was read, the tangent d of a logarithm, masked."""
    factor, fill = units[v, 1], units[v, 2]
    if units[v, 3] != 0:
        for i in range(U(n)):
            S[to + i] = np.exp(S[to + i])
    if units[v, 4] != 0:
        for i in range(U(n)):
            S[to + i] *= factor * d[start + i * stride]
    if units[v, 5] != 0:
        for i in range(U(n)):
            S[to + i] = S[to + i] if mask[at_mask + i] else fill


@compiled
def ghost_columns(S, row, n, halo, source, weight, v, periodic):
    """Fill the 2 halo columns at both ends of the row of n columns that starts at S[row]."""
    margin = 2 * halo
    for e in range(margin):
        left, right = row + U(margin - 1 - e), row + U(margin + n + e)
        if periodic:
            S[left] = S[row + U(margin + (n - 1 - e) % n)]
            S[right] = S[row + U(margin + e % n)]
        else:
            S[left] = S[right] = 0
            if e < halo:
                for s in range(source.shape[2]):
                    S[left] += weight[v, halo - 1 - e, s] * S[row + U(margin + source[v, halo - 1 - e, s])]
                    S[right] += weight[v, halo + e, s] * S[row + U(margin + source[v, halo + e, s])]


@compiled
def ghost_rows(S, slab, rows, width, halo, source, weight, v, periodic):
    """Fill the 2 halo rows at both ends of a slab of `rows` rows of `width`, margins included."""
    margin = 2 * halo
    for e in range(margin):
        for side in range(2):
            to = slab + U((margin - 1 - e if side == 0 else margin + rows + e) * width)
            if periodic:
                near = (rows - 1 - e) % rows if side == 0 else e % rows
                copy_row(S, to, S, slab + U((margin + near) * width), width)
                continue
            clear(S, to, width)
            if e < halo:
                g = halo - 1 - e if side == 0 else halo + e
                for s in range(source.shape[2]):
                    if weight[v, g, s] != 0:
                        add_row(S, to, S, slab + U((margin + source[v, g, s]) * width), width, weight[v, g, s])


@compiled
def copy_row(A, to, B, at, n):
    """A = B over n numbers."""
    for i in range(U(n)):
        A[to + i] = B[at + i]


@compiled
def add_row(A, to, B, at, n, weight):
    """A += weight B over n numbers."""
    for i in range(U(n)):
        A[to + i] += weight * B[at + i]


@compiled
def clear(A, to, n):
    """A = 0 over n numbers."""
    for i in range(U(n)):
        A[to + i] = 0


@compiled
def fold_columns(A, row, n, halo, source, weight, o):
    """Give what the ghost columns of a gathered row hold to the columns that they are made of."""
    margin = 2 * halo
    for e in range(2 * halo):
        ghost = row + U(margin - halo + e if e < halo else margin + n + e - halo)
        for s in range(source.shape[2]):
            A[row + U(margin + source[o, e, s])] += weight[o, e, s] * A[ghost]


@compiled
def write_row(out, to, A, at, n, weight, fresh):
    """out = weight A, or out += weight A."""
    if fresh:
        for i in range(U(n)):
            out[to + i] = weight * A[at + i]
    else:
        for i in range(U(n)):
            out[to + i] += weight * A[at + i]


@compiled
def add_exponential_row(out, to, A, at, n, weight, source, start, stride, offset, factor, mask, at_mask, masked):
    """out += weight A exp(offset + factor x), where not masked: the slope of a field that is a logarithm."""
    for i in range(U(n)):
        term = weight * A[at + i] * np.exp(offset + factor * source[start + i * stride])
        out[to + i] += term if not masked or mask[at_mask + i] else 0


@compiled
def add_input(out, to, source, start, stride, n):
    """out += x, for the guided update."""
    for i in range(U(n)):
        out[to + i] += source[start + i * stride]
