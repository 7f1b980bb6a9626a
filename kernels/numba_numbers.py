"""The numbers of a site as the generated CPU kernels read them: the arrays of `numba_call.FIXED`, in their order."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import numba_call
from .site import Site

if TYPE_CHECKING:
    from sympy import Expr

    from .adjoint import Plan
    from .numba_source import Layout


class Views(NamedTuple):
    """Per view: which of x, d, w it reads, its channel, the channel of d; the units of its rows; its field."""

    where: NDArray[np.int64]
    units: NDArray
    names: list[tuple[str, int]]


def turned(site: Site) -> tuple[int, int, int]:
    """Which of the axes (z, y, x) are (m, r, x): the one that a kernel marches along, rows, columns."""
    return (1, 0, 2) if site.axes == 2 else (0, 1, 2)


def fixed_arrays(site: Site, plan: "Plan", layout: "Layout", constants: "list[Expr]", real: np.dtype) -> list[NDArray]:
    """What every call of a kernel of `plan` takes, numbers in type `real`."""
    program, masked = site.program, site.mask is not None
    views = read_views(site, layout.views)
    tables = [site.table(t) for t in program.tables]
    wm, wr, wx = (site.widths[a] for a in turned(site))
    valid = site.valid if site.axes == 3 else site.valid.swapaxes(0, 1)
    folds = ghosts(site, [(o.field, o.degree) for o in plan.outputs], folded=True)
    pending = np.zeros(len(wm))
    pending[folds[0][folds[1] != 0]] = 1
    arrays = (
        views.where,
        views.units,
        special(site, views),
        field_units(site),
        *ghosts(site, views.names),
        *folds,
        pending,
        np.array([site.rules[a] == "periodic" for a in turned(site)]),
        np.concatenate([*tables, np.zeros(1)]),
        np.cumsum([0, *(len(t) for t in tables)])[:-1],
        np.array([float(c) for c in constants]),
        np.concatenate([wm / site.total, wr, np.pad(wx, 2 * layout.halo[2])]),
        2 * site.share / site.scale**2,
        flat(site, site.valid) if masked else np.zeros(0),
        box(valid),
        flat(site, site.mask) if masked else np.zeros(0),
    )
    kinds = {numba_call.REAL: real, numba_call.WORDS: "i8", numba_call.INDEX: "u8", numba_call.BYTES: "u1"}
    return [np.ascontiguousarray(a, kinds[k]) for a, (_, k, _) in zip(arrays, numba_call.FIXED, strict=True)]


def read_views(site: Site, names: list[tuple[str, int]]) -> Views:
    """Of the fields, tangents and rows that a plan reads."""
    program, where, units = site.program, [], []
    masked = float(site.mask is not None)
    for name, _ in names:
        field, _, suffix = name.partition("__")
        if suffix == "w":
            where.append((2, int(field[1:]), 0))
            units.append((0, 1, 0, 0, 0, 0))
            continue
        f = program.fields.index(field)
        offset, factor, log = site.offset[f], site.factor[f], float(site.log[f])
        if suffix == "d":
            where.append((0 if log else 1, f, f))
            units.append((offset if log else 0, factor, 0, log, log, masked))
        else:
            where.append((0, f, 0))
            units.append((offset, factor, float(field in program.positive), log, 0, masked))
    return Views(np.array(where, np.int64).reshape(-1, 3), np.array(units).reshape(-1, 6), names)


def special(site: Site, views: Views) -> NDArray[np.bool_]:
    """Per view: whether its rows take more than scaling, and whether its columns have ghosts that are not zero."""
    weight = ghosts(site, views.names)[5]
    around = site.rules[2] == "periodic"
    return np.stack([views.units[:, 3:].any(1), weight.any((1, 2)) | around], 1)


def field_units(site: Site) -> NDArray:
    """Of the fields, as `read_views` gives them."""
    zero = np.zeros(len(site.program.fields))
    return np.stack([site.offset, site.factor, zero, site.log, zero, zero + (site.mask is not None)], 1)


def ghosts(site: Site, names: list[tuple[str, int]], folded: bool = False) -> tuple[NDArray, ...]:
    """(source, weight) of the ghosts along m, r, x, (views, 2 halo, S). Folded, only those that pass on what they
    gather: none on periodic axes. Beyond open edges there are none: no valid cell reads them."""
    out: list[NDArray] = []
    for axis in turned(site):
        halo, rule, found = site.program.halo[axis], site.rules[axis], []
        for name, degree in names:
            field = name.partition("__")[0]
            none = name.endswith("__w") or rule == "open" or (folded and rule == "periodic")
            there = not none and field in site.program.fields
            found.append(site.ghosts(axis, field, degree) if there else None)
        width = max((g.source.shape[1] for g in found if g is not None), default=1)
        source = np.zeros((len(names), 2 * halo, width), np.int64)
        weight = np.zeros(source.shape)
        for v, g in enumerate(found):
            if g is not None:
                source[v, :, : g.source.shape[1]], weight[v, :, : g.source.shape[1]] = g
        if folded and not weight.any():
            source, weight = source[:0], weight[:0]
        out += [source, weight]
    return tuple(out)


def flat(site: Site, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (Z, Y, X) in the order of the march."""
    return np.ascontiguousarray(mask.transpose(turned(site))).reshape(-1)


def box(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and one past the last valid cell along (m, r, x)."""
    ends = []
    for axis in range(3):
        there = np.flatnonzero(valid.any(tuple({0, 1, 2} - {axis})))
        ends += [there[0], there[-1] + 1] if len(there) else [0, 0]
    return np.array(ends, np.int64)
