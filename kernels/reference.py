"""The PyTorch reference of a stencil at its site: plain tensor operations that define what every backend computes.

With r_k the K residuals, J = dr/dx, W the share of each valid cell in the area, omega_k the share of each residual:

    energy    E = sum_k omega_k sum_cells W (r_k / scale_k)^2              per sample
    jvp       (J v)   at a cell  = sum_o dr/du_o v_o                       a gather of the same points as r
    vjp       (J^T w) at a point = sum_k sum_o shift(w_k dr_k/du_o, -o)    its transpose, boundary rule included
    gradient  dE/dx = J^T (2 omega W r / scale^2)
    second    d<w, J v>/dx;        hvp  (d2E/dx2) v = J^T (2 omega W J v / scale^2) + second(v, 2 omega W r / scale^2)

What a read beyond an edge finds is in `geometry.py`. A cell is valid where it and every point that its stencil reads
exist (masked points do not). Values off the mask are replaced before the arithmetic, so NaN there changes no bit
elsewhere, nor any derivative. A field named in `positive` has no meaningful zero: it is mirrored where others are zero,
and 1 where others are filled with 0. Functions take x (B, F, Y, X), or (B, F, Z, Y, X), of any floating type (half
precision is computed in float32) and can be differentiated by autograd. Coefficients are combined in float64 and
rounded once.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Ghosts
from .program import Read, Tree, number, reads_fields
from .site import Site
from .tensors import Constant, extend, fold, promote

TORCH: dict[str, Callable[..., Any]] = {
    "add": lambda *terms: reduce(torch.add, terms),
    "mul": lambda *factors: reduce(torch.mul, factors),
    "pow": torch.pow,
    **{name: getattr(torch, name) for name in ("exp", "log", "sin", "cos", "tan", "tanh", "abs", "sign")},
}
Reads = dict[Read, Tensor]
Function = Callable[[Reads], Tensor]


class Reference:
    """The program of `site`, evaluated there. Tensors inside have five dimensions, (B, ., Z, Y, X)."""

    def __init__(self, site: Site) -> None:
        self.site, self.program = site, site.program
        self._valid = Constant(torch.from_numpy(site.valid))
        self.valid = self._valid.value.reshape(site.shape[3 - site.axes :])
        self._mask = None if site.mask is None or site.mask.all() else Constant(torch.from_numpy(site.mask))
        self._weights = Constant(torch.from_numpy(site.cell_weight))
        self._pull = Constant(torch.from_numpy(2 * site.share / site.scale**2)[:, None, None, None])
        self._residuals = [self._compile(tree) for tree in self.program.residuals]
        self._derivatives = [[(r, self._compile(t)) for r, t in found] for found in self.program.derivatives]
        self._curvatures = [[(r, s, self._compile(t)) for r, s, t in found] for found in self.program.curvatures]
        units = (site.offset, site.factor, site.log)
        self._units = [Constant(torch.from_numpy(np.asarray(v))[:, None, None, None]) for v in units]
        self._ghosts = lru_cache(maxsize=None)(site.ghosts)
        self._plain = not (site.offset.any() or site.log.any() or (site.factor != 1).any())

    def residual(self, x: Tensor) -> Tensor:
        """r (B, K, [Z,] Y, X), zero where the cell is not valid."""
        return self._leave(self._residual(self._physical(self._enter(x))))

    def mean_square(self, r: Tensor) -> Tensor:
        """Area-weighted mean of r^2 over the valid cells, (B, K, [Z,] Y, X) -> (B, K)."""
        r = self._unfold(r)
        return (self._weights.like(r) * r.square()).sum((-3, -2, -1))

    def energy(self, x: Tensor) -> Tensor:
        """sum_k omega_k mean (r_k / scale_k)^2 over the valid cells, (B,)."""
        r = self._residual(self._physical(self._enter(x)))
        return (self._pull.like(r) / 2 * self._weights.like(r) * r.square()).sum((1, 2, 3, 4))

    def gradient(self, x: Tensor) -> Tensor:
        """d energy / dx, like x, zero off the mask."""
        inner = self._enter(x)
        return self._leave(self._vjp(inner, self._pulled(self._residual(self._physical(inner)))))

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.energy(x), self.gradient(x)

    def update(self, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The energy (B,) and x - step * gradient, for `step` (B, F)."""
        energy, gradient = self.energy_and_gradient(x)
        return energy, promote(x) - step.reshape(*step.shape, *(1,) * self.site.axes) * gradient

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """J v, like the residual: how it changes along `v`, which is like x."""
        inner = self._enter(x)
        return self._leave(self._jvp(inner, self._enter(v)))

    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        """J^T w, like x, for `w` like the residual."""
        return self._leave(self._vjp(self._enter(x), self._unfold(promote(w))))

    def second(self, x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """d <w, J(x) v> / dx, like x."""
        return self._leave(self._second(self._enter(x), self._enter(v), self._unfold(promote(w))))

    def hvp(self, x: Tensor, v: Tensor) -> Tensor:
        """(d2E / dx2) v per sample, like x."""
        inner, along = self._enter(x), self._enter(v)
        r = self._residual(self._physical(inner))
        return self._leave(
            self._vjp(inner, self._pulled(self._jvp(inner, along))) + self._second(inner, along, self._pulled(r))
        )

    def magnitude(self, x: Tensor) -> Tensor:
        """sum_o |dr/du_o| |u_o|, like the residual: the size of what cancels in r, against which rounding is judged."""
        reads = self._read(self._physical(self._enter(x)))
        return self._leave(self._each(lambda k: [(d(reads).abs(), reads[r].abs()) for r, d in self._derivatives[k]], x))

    def magnitude_along(self, x: Tensor, v: Tensor, fields: Sequence[str] | None = None) -> Tensor:
        """sum_o |dr/du_o| |du/dx v_o|, like the residual: the same for J v. A derivative that is a sum itself enters
        with the sum of its absolute terms: where r multiplies differences, dr/du_o is one, and cancels too. `fields`:
        where v is not zero."""
        inner, v = self._enter(x), self._enter(v)
        fields = self.program.fields if fields is None else fields
        reads = self._read(self._physical(inner))
        moved = self._read(self._slope(inner) * self._masked(v), linear=True, fields=fields)
        nothing = inner.new_zeros(()), inner.new_zeros(())

        def terms(k: int) -> list[tuple[Tensor, Tensor]]:
            found = [(size(reads), moved[r].abs()) for r, size in self._sizes[k] if r.name in fields]
            return found or [nothing]

        return self._leave(self._each(terms, inner))

    def magnitude_transposed(self, x: Tensor, w: Tensor) -> Tensor:
        """sum_k sum_o |shift(w_k dr_k/du_o, -o)| |du/dx|, like x: the same for J^T w, derivatives as there."""
        inner, w = self._enter(x), self._where_valid(self._unfold(promote(w)))
        reads = self._read(self._physical(inner))
        terms = [
            (r, self._where_valid(size(reads)) * w[:, k].abs())
            for k, found in enumerate(self._sizes)
            for r, size in found
        ]
        return self._leave(self._scatter(terms, inner, absolute=True) * self._slope(inner).abs())

    @cached_property
    def _sizes(self) -> list[list[tuple[Read, Function]]]:
        return [[(r, self._compile_size(t)) for r, t in found] for found in self.program.derivatives]

    def partials(self, u: Tensor, fields: Sequence[str]) -> list[list[tuple[Read, Tensor]]]:
        """Per residual its reads of `fields` and dr/du_o at every cell, (B, Z, Y, X)."""
        reads, shape = self._read(self._enter(u)), (len(u), *self.site.shape)
        return [[(r, d(reads).expand(shape)) for r, d in found if r.name in fields] for found in self._derivatives]

    def weights(self) -> list[dict[Read, float]]:
        """Per residual dr/du_o where it is one number all over the grid. Raises ValueError where it is not."""
        out = []
        for found in self.program.derivatives:
            for read, tree in found:
                if reads_fields(tree) or np.ndim(number(tree, self.site.broadcast)):
                    raise ValueError(f"the weight of {read.name} {read[1:4]} varies")
            out.append({read: float(number(tree, self.site.broadcast)) for read, tree in found})
        return out

    # between x and the physical fields u, all of five dimensions

    def _enter(self, x: Tensor) -> Tensor:
        shape, names = self.site.shape[3 - self.site.axes :], self.program.fields
        if x.ndim != 2 + self.site.axes or x.shape[1] != len(names) or tuple(x.shape[2:]) != shape:
            wanted = ", ".join(str(n) for n in ("B", len(names), *shape))
            raise ValueError(f"fields {', '.join(names)} are ({wanted}), not {tuple(x.shape)}")
        return self._unfold(promote(x))

    def _unfold(self, x: Tensor) -> Tensor:
        return x if self.site.axes == 3 else x.unsqueeze(2)

    def _leave(self, x: Tensor) -> Tensor:
        return x if self.site.axes == 3 else x.squeeze(2)

    def _physical(self, x: Tensor) -> Tensor:
        if self._plain:
            return x
        offset, factor, log = (c.like(x) for c in self._units)
        u = offset + factor * x
        if self._mask is not None:  # before the exponential: NaN on land must not reach a derivative
            u = torch.where(self._mask.like(u), u, 0)
        return torch.where(log, torch.where(log, u, 0).exp(), u) if self.site.log.any() else u

    def _slope(self, x: Tensor) -> Tensor:
        """du/dx, that broadcasts against x."""
        if self._plain:
            return torch.ones_like(x[:1, :, :1, :1, :1])
        _, factor, log = (c.like(x) for c in self._units)
        return torch.where(log, self._physical(x) * factor, factor) if self.site.log.any() else factor[None]

    # the five operations

    def _residual(self, u: Tensor) -> Tensor:
        reads = self._read(u)
        found = [f(reads).expand(len(u), *self.site.shape) for f in self._residuals]
        return self._where_valid(torch.stack(found, 1))

    def _jvp(self, x: Tensor, v: Tensor) -> Tensor:
        reads = self._read(self._physical(x))
        moved = self._read(self._slope(x) * self._masked(v), linear=True)
        return self._each(lambda k: [(d(reads), moved[r]) for r, d in self._derivatives[k]], x)

    def _vjp(self, x: Tensor, w: Tensor) -> Tensor:
        reads, w = self._read(self._physical(x)), self._where_valid(w)
        terms = [
            (r, self._where_valid(d(reads)) * w[:, k]) for k, found in enumerate(self._derivatives) for r, d in found
        ]
        return self._scatter(terms, x) * self._slope(self._masked(x))

    def _second(self, x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        u, slope, w = self._physical(x), self._slope(self._masked(x)), self._where_valid(w)
        reads, v = self._read(u), self._masked(v)
        moved = self._read(slope * v, linear=True)
        terms = [
            (r, self._where_valid(d(reads) * moved[s]) * w[:, k])
            for k, found in enumerate(self._curvatures)
            for r, s, d in found
        ]
        out = self._scatter(terms, x) * slope
        if self.site.log.any():  # d2u/dx2 = factor^2 u
            _, factor, log = (c.like(x) for c in self._units)
            out = out + torch.where(log, factor * v * self._vjp(x, w), 0)
        return out

    def _pulled(self, r: Tensor) -> Tensor:
        return self._pull.like(r) * self._weights.like(r) * r

    def _each(self, terms: Callable[[int], list[tuple[Tensor, Tensor]]], x: Tensor) -> Tensor:
        """Per residual the sum of products, (B, K, Z, Y, X)."""
        found = [reduce(torch.add, (a * b for a, b in terms(k))) for k in range(len(self._residuals))]
        return self._where_valid(torch.stack([f.expand(len(x), *self.site.shape) for f in found], 1))

    # reads and their transpose

    def _read(self, u: Tensor, linear: bool = False, fields: Sequence[str] | None = None) -> Reads:
        """The value at every point that the stencil reads of `fields`, or of all, each (B, Z, Y, X); with `linear` the
        rule's linear part."""
        extended: dict[tuple[str, int], Tensor] = {}
        wanted = [r for r in self.program.reads if fields is None or r.name in fields]
        for read in wanted:
            if (read.name, read.degree) not in extended:
                f = self.program.fields.index(read.name)
                v = self._masked(u, 0 if linear or read.name not in self.program.positive else 1)[:, f]
                for dim in range(3):
                    v = extend(v, dim - 3, self.program.halo[dim], self._ghosts(dim, read.name, read.degree))
                extended[read.name, read.degree] = v
        return {r: extended[r.name, r.degree][(slice(None), *self._window(r))] for r in wanted}

    def _window(self, read: Read) -> tuple[slice, ...]:
        offsets = zip(self.program.halo, (read.dk, read.dj, read.di), self.site.shape, strict=True)
        return tuple(slice(h + d, h + d + n) for h, d, n in offsets)

    def _scatter(self, terms: list[tuple[Read, Tensor]], like: Tensor, absolute: bool = False) -> Tensor:
        """The transpose of `_read`: add each (B, Z, Y, X) where it was read, fold the edges back, drop the masked."""
        out = []
        sizes = [n + 2 * h for n, h in zip(self.site.shape, self.program.halo, strict=True)]
        for name in self.program.fields:
            total = like.new_zeros(len(like), *self.site.shape)
            for degree in sorted({r.degree for r, _ in terms if r.name == name}):
                part = like.new_zeros(len(like), *sizes)
                for read, term in terms:
                    if (read.name, read.degree) == (name, degree):
                        part = part + F.pad(term.expand(len(like), *self.site.shape), self._margins(read))
                for dim in reversed(range(3)):
                    found = self._ghosts(dim, name, degree)
                    found = Ghosts(found.source, np.abs(found.weight)) if absolute else found
                    part = fold(part, dim - 3, self.program.halo[dim], found)
                total = total + part
            out.append(total)
        return self._masked(torch.stack(out, 1))

    def _margins(self, read: Read) -> list[int]:
        pairs = list(zip(self.program.halo, (read.dk, read.dj, read.di), strict=True))
        return [m for h, d in reversed(pairs) for m in (h + d, h - d)]

    def _masked(self, v: Tensor, fill: float = 0.0) -> Tensor:
        return v if self._mask is None else torch.where(self._mask.like(v), v, fill)

    def _where_valid(self, r: Tensor) -> Tensor:
        return torch.where(self._valid.like(r), r, 0)

    def _compile(self, tree: Tree) -> Function:
        """`tree` as a function of the reads. Parts without a field are computed here, once."""
        if not reads_fields(tree):
            constant = Constant(torch.as_tensor(np.array(number(tree, self.site.broadcast))))
            return lambda reads: constant.like(next(iter(reads.values())))
        kind, *args = tree
        if kind == "field":
            read = Read(*args)
            return lambda reads: reads[read]
        if kind == "pow":
            base, power = self._compile(args[0]), float(number(args[1], self.site.broadcast))
            return lambda reads: base(reads) ** power
        if kind == "mul":
            free = [a for a in args if not reads_fields(a)]
            args = [a for a in args if reads_fields(a)] + ([["mul", *free]] if free else [])
        parts, function = [self._compile(a) for a in args], TORCH[kind]
        return lambda reads: function(*(part(reads) for part in parts))

    def _compile_size(self, tree: Tree) -> Function:
        """The sum of the absolute terms of `tree`, as a function of the reads."""
        kind, *args = tree
        if kind in ("add", "mul") and reads_fields(tree):
            parts, function = [self._compile_size(a) for a in args], TORCH[kind]
            return lambda reads: function(*(part(reads) for part in parts))
        value = self._compile(tree)
        return lambda reads: value(reads).abs()
