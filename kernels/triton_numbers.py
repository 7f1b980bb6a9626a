"""The numbers of a site as the generated Triton kernels read them: one array, and the tables of ghosts and flags."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import AXES, field_rule, ghosts
from .program import Program
from .site import Site
from .triton_rules import RULES


class Numbers(NamedTuple):
    """On one device: numbers (see `triton_source.py`), uint8 flags of points, sources and weights of ghosts."""

    numbers_ptr: Tensor
    flags_ptr: Tensor
    source_ptr: Tensor
    weight_ptr: Tensor


class Settings(NamedTuple):
    """What of a site changes the code: constants of the kernels."""

    RULES: int
    MASK: bool
    AFFINE: bool
    LOGS: int
    WIDTHS: bool


def settings(site: Site) -> Settings:
    """The constants of `site`."""
    codes = [RULES.index(r) for r in site.rules]
    affine = bool(site.offset.any() or site.log.any() or (site.factor != 1).any())
    logs = sum(1 << f for f, log in enumerate(site.log) if log)
    widths = site.widths[2]
    masked = site.mask is not None and not site.mask.all()
    tiny = any(n < 2 * h for n, h in zip(site.shape, site.program.halo, strict=True))
    rules = codes[0] * 25 + codes[1] * 5 + codes[2] + 125 * tiny
    return Settings(rules, masked, affine, logs, bool((widths != widths[0]).any()))


def degrees(program: Program) -> list[int]:
    """The degrees of the polynomials that continue fields beyond one-sided edges."""
    return sorted({read.degree for read in program.reads})


def reach(program: Program) -> int:
    """How near to an edge points may be part of a ghost."""
    return max(degrees(program)[-1] + 1, *program.halo)


def pack(site: Site, dtype: torch.dtype, device: torch.device) -> Numbers:
    """The numbers of `site`, each rounded once."""
    source, weight = ghost_tables(site)
    flags = np.zeros(1, np.uint8)
    if settings(site).MASK:
        flags = site.mask.astype(np.uint8) + 2 * site.valid.astype(np.uint8)
    with torch.inference_mode(False):
        return Numbers(
            torch.from_numpy(values(site)).to(device, dtype),
            torch.from_numpy(flags.reshape(-1)).to(device),
            torch.from_numpy(source.astype(np.int32)).to(device),
            torch.from_numpy(weight).to(device, dtype),
        )


def values(site: Site) -> NDArray[np.float64]:
    """Units, scales, then tables without an axis, along z, y and x."""
    program, K = site.program, len(site.program.names)
    scale, share = np.broadcast_to(site.scale, (K,)), np.broadcast_to(site.share, (K,))
    parts = [site.offset, site.factor, 1 / scale, 2 * share / (scale * site.total), share / site.total]
    parts += [site.table(t) for t in program.tables if not t.axis]
    for axis, name in enumerate(AXES):
        parts += [site.table(t) for t in program.tables if t.axis == name]
        parts.append(padded(site, axis))
    return np.concatenate([np.asarray(p, np.float64).reshape(-1) for p in parts])


def padded(site: Site, axis: int) -> NDArray[np.float64]:
    """Widths of the cells along an axis, with twice the halo at both ends."""
    mode = "wrap" if site.rules[axis] == "periodic" else "edge"
    widths = np.pad(site.widths[axis], 2 * site.program.halo[axis], mode=mode)
    if AXES[axis] == "y" and not settings(site).WIDTHS:  # equal widths along x are multiplied here, not in the kernel
        widths = widths * site.widths[2][0]
    return widths


def ghost_tables(site: Site) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sources and weights of every axis, class (degree and whether the field is never zero), ghost: S of each."""
    program, found = site.program, []
    known = degrees(program)
    S = max(known) + 1
    for axis, (n, halo) in enumerate(zip(site.shape, program.halo, strict=True)):
        near = site.coordinates[axis][site.pad - halo : site.pad + n + halo]
        for degree in known:
            for positive in (False, True):
                rule = field_rule(site.rules[axis], positive)
                made = ghosts(rule, n, halo, near, degree) if halo and rule != "periodic" else None
                source, weight = np.zeros((2 * halo, S), np.int64), np.zeros((2 * halo, S))
                if made is not None:
                    source[:, : made.source.shape[1]], weight[:, : made.weight.shape[1]] = made
                found.append((source.reshape(-1), weight.reshape(-1)))
    empty = [(np.zeros(1, np.int64), np.zeros(1))]  # never an empty tensor
    source, weight = zip(*(found + empty), strict=True)
    return np.concatenate(source), np.concatenate(weight)
