"""Gaps of data: which cells of an equation they cost.

Each sample may miss other values, and each field others than the next one. A cell is kept where all of its own values
exist, and every value that its stencil reads: of each field only the points that are read of it.
"""

from functools import reduce

import torch
from torch import Tensor

from sciguide.equations.operator import Operator, site_of
from sciguide.kernels.geometry import AXES
from sciguide.kernels.site import Site
from sciguide.kernels.stencil import Stencil
from sciguide.kernels.tensors import extend


class Gaps:
    """Of samples u (B, F, [Z,] Y, X) with NaN where there is no value, on the grid of `operator`, which has no mask."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.sites = [_site(operator, stencil) for stencil in operator.stencils]
        widths = [torch.from_numpy(w) for w in operator.grid.widths()]
        self.area = reduce(lambda a, w: a[..., None] * w, widths)
        positive = operator.stencils[0].positive
        # what stands for a missing value: finite, and never zero where that has no meaning
        filled = [1.0 if name in positive else 0.0 for name in operator.fields]
        self.fill = torch.tensor(filled, dtype=torch.float64).reshape(-1, *(1,) * len(operator.grid.axes))

    def measure(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals (B, K, [Z,] Y, X), their mean squares and those of the scale terms (B, K), as the operator has
        them, NaN where there are none."""
        gaps = torch.isnan(u)
        u = torch.where(gaps, self.fill, u)
        found = [self.operator.residual(u), self.operator.scale_term(u)]
        squares = []
        for i, (values, site) in enumerate(zip(found, self.sites, strict=True)):
            kept = self.kept(site, gaps)
            found[i] = torch.where(kept, values, torch.nan)
            weight = torch.where(kept, self.area, 0)
            total = torch.where(kept, weight * values.square(), 0).flatten(2).sum(2) / weight.flatten(2).sum(2)
            squares.append(total)
        for group in self.operator.groups:
            squares[1][:, group] = squares[1][:, group].mean(1, keepdim=True)
        return found[0], squares[0], squares[1]

    def kept(self, site: Site, gaps: Tensor) -> Tensor:
        """(B, 1, [Z,] Y, X): the cells of `site` that no gap (B, F, [Z,] Y, X) costs."""
        lost = gaps.any(1)
        if lost.any():
            lost = lost | _read(site, gaps if site.axes == 3 else gaps[:, :, None]).reshape(lost.shape)
        valid = torch.from_numpy(site.valid).reshape(lost.shape[1:])
        return (valid & ~lost)[:, None]


def _site(operator: Operator, stencil: Stencil) -> Site:
    return site_of(stencil, operator.grid, operator.constants, operator.scale, operator.share)


def _read(site: Site, gaps: Tensor) -> Tensor:
    """(B, Z, Y, X): whether a stencil reads a gap (B, F, Z, Y, X), itself or through what an edge makes of it."""
    program, halo = site.program, site.program.halo
    out = torch.zeros_like(gaps[:, 0])
    for name, degree in sorted({(r.name, r.degree) for r in program.reads}):
        wide = gaps[:, program.fields.index(name)].float()
        for axis in range(len(AXES)):
            ghosts = site.ghosts(axis, name, degree)
            wide = extend(wide, axis + 1, halo[axis], ghosts._replace(weight=abs(ghosts.weight)))
        for r in program.reads:
            if (r.name, r.degree) == (name, degree):
                starts = [h + o for h, o in zip(halo, (r.dk, r.dj, r.di), strict=True)]
                z, y, x = (slice(s, s + n) for s, n in zip(starts, site.shape, strict=True))
                out |= wide[:, z, y, x] > 0
    return out
