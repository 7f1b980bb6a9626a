"""Run by test_triton_interpreter.py in children with TRITON_INTERPRET=1: kernels against the float64 reference.

Prints one JSON line for each case: its name, the largest errors over the sum of absolute terms, and what was broken.
"""

import json
import mmap
import sys
import time
import zlib
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from triton.runtime import interpreter

from sciguide.equations import get
from sciguide.equations.operator import site_of
from sciguide.grid import Grid
from sciguide.kernels import triton_backend
from sciguide.kernels.differences import lower
from sciguide.kernels.reference import Reference
from sciguide.kernels.site import Site
from sciguide.kernels.stencil import Point, Stencil, ddx, ddy, div, grad, lap
from sciguide.kernels.triton_backend import TritonBackend
from sciguide.kernels.triton_numbers import reach
from sciguide.kernels.triton_tiles import Tile

GUARD = 37
NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux
u, v, K, p = (Point(n) for n in "uvKp")
FORMULAS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "flux": ({"r": -div(K * grad(p)) - 1}, ("K", "p"), ("K",)),
    "wide": (
        {"a": ddx(ddx(u)) + ddy(ddx(v)) ** 2, "b": sympy.exp(p) * sympy.sqrt(K) / sympy.log(3 + K) - sympy.tanh(u * v)},
        ("u", "v", "K", "p"),
        ("K",),
    ),
    "advect": ({"r": u * ddx(u) + sympy.Abs(v) * ddy(u) - lap(u) / 7}, ("u", "v"), ()),
    "across": ({"r": ddx(u) ** 2}, ("u",), ()),
    "down": ({"r": ddy(u) * v}, ("u", "v"), ()),
    "point": ({"r": u * v - 1}, ("u", "v"), ()),
}


class Case(NamedTuple):
    """`columns`, `rows`: of a tile; `how` the inputs lie in memory (`laid_out`); `logs`: fields in other units."""

    formula: str
    shape: tuple[int, ...] = (5, 7)
    rules: tuple[str, ...] = ("open", "open")
    kinds: tuple[str, ...] = ("residual", "gradient")
    dtype: str = "float64"
    batch: int = 1
    columns: int = 8
    rows: int = 8
    masked: bool = False
    logs: bool = False
    how: str = ""
    split: bool = False
    stretched: bool = False
    sphere: bool = False


def grid_of(case: Case) -> Grid:
    mask = None
    if case.masked:
        mask = np.ones(case.shape, bool)
        mask[..., case.shape[-1] // 2] = np.arange(case.shape[-2]) % 4 != 1
        mask[..., 0, 0] = False
    near = [np.arange(n) * 0.3 + (0.04 * np.sin(np.arange(n)) if case.stretched else 0) for n in case.shape]
    if case.sphere:
        near[-2] = 20 + 9 * near[-2]
        near[-1] = 30 * near[-1]
    z = near[0] if len(near) == 3 else None
    return Grid(near[-2], near[-1], case.rules, case.sphere, mask, z)


def site_for(case: Case) -> Site:
    grid = grid_of(case)
    if case.formula in FORMULAS:
        exprs, fields, positive = FORMULAS[case.formula]
        lowered = tuple(lower(e, grid.geometry()) for e in exprs.values())
        scale = [1.7, 0.6][: len(exprs)]
        site = site_of(Stencil(lowered, fields, positive, tuple(exprs)), grid, {}, scale, [1 / len(exprs)] * len(exprs))
    else:
        site = get(case.formula)().on(grid, scale=1.3).kernels.site
    if case.logs:
        n = len(site.program.fields)
        positive = np.array([f in site.program.positive for f in site.program.fields])
        site = site.with_units(np.linspace(-0.1, 0.2, n), np.linspace(0.7, 1.3, n), positive)
    return site


def tensor(case: Case, channels: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(case.batch, channels, *case.shape, generator=g, dtype=torch.float64)


def laid_out(x: torch.Tensor, how: str) -> torch.Tensor:
    """The values of `x` at other strides and offsets."""
    if how == "sliced":
        wide = torch.full((*x.shape[:1], x.shape[1] + 2, *x.shape[2:-1], x.shape[-1] + 5), torch.nan, dtype=x.dtype)
        view = wide[:, 1:-1, ..., 3:-2]
    elif how == "transposed":
        view = torch.empty_like(x.transpose(-1, -2), memory_format=torch.contiguous_format).transpose(-1, -2)
    elif how == "every other":
        view = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)[..., ::2]
    elif how in ("far fields", "far rows"):
        view = far(x, 1 if how == "far fields" else 2)
    else:
        return x
    return view.copy_(x)


def far(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Memory for `x` where neighbours along `dim` lie 2^31 elements apart; only pages that are touched exist."""
    strides, span = list(x.stride()), 2**31 + 11
    strides[dim] = span
    strides[:dim] = [span * x.shape[dim] * int(np.prod(x.shape[n + 1 : dim])) for n in range(dim)]
    size = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    memory = mmap.mmap(-1, size * x.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    flat = torch.frombuffer(memory, dtype=x.dtype)
    return flat.as_strided(x.shape, strides)


class Guarded(TritonBackend):
    """Outputs lie between bands of NaN, and are NaN until they are written."""

    def _empty(self, x: torch.Tensor, channels: int) -> torch.Tensor:
        shape = (len(x), channels, *x.shape[2:])
        size = int(np.prod(shape))
        self.band = torch.full((size + 2 * GUARD,), torch.nan, dtype=x.dtype)
        return self.band[GUARD : GUARD + size].view(shape)

    def broken(self) -> bool:
        """Whether a band was written to, or a value was not."""
        return not (self.band[:GUARD].isnan().all() and self.band[-GUARD:].isnan().all())


def run(case: Case) -> dict[str, Any]:
    site = site_for(case)
    ref, backend = Reference(site), Guarded(site)
    tile = Tile(case.columns, max(case.rows, reach(site.program)), 1, split=case.split)
    triton_backend.choose = lambda *_: tile
    F, K_ = len(site.program.fields), len(site.program.names)
    seed = zlib.crc32(repr(case).encode())
    x, d, w = tensor(case, F, seed), tensor(case, F, seed + 1), tensor(case, K_, seed + 2)
    for f, name in enumerate(site.program.fields):
        if name in site.program.positive and not case.logs:
            x[:, f] = (0.5 * x[:, f]).exp()
    dtype = getattr(torch, case.dtype)
    x, d, w, step = (t.to(dtype) for t in (x, d, w, torch.rand(case.batch, F, dtype=torch.float64)))
    exact = [t.double() for t in (x, d, w, step)]
    if case.masked:
        land = torch.from_numpy(~np.asarray(site.mask).reshape(case.shape))
        x[..., land], d[..., land], w[..., land] = torch.nan, torch.inf, torch.nan
    given = [laid_out(t, case.how) for t in (x, d, w)] + [step]
    kept = [t.clone() for t in given]
    errors, faults = {}, []
    for kind in case.kinds:
        got, again = compute(backend, kind, *given), compute(backend, kind, *given)
        if kind != "energy" and backend.broken():
            faults.append(f"{kind}: guard")
        for part, (a, b) in enumerate(zip(got, again, strict=True)):
            if not torch.equal(a.nan_to_num(7), b.nan_to_num(7)):
                faults.append(f"{kind}: repeats differ")
            wanted, sizes = expected(ref, kind, *exact)[part]
            if kind == "update" and part == 1 and case.masked:  # off the mask x stays what it was
                a, wanted, sizes = a[..., ~land], wanted[..., ~land], sizes[..., ~land]
            error = ((a.double() - wanted).abs() / sizes.clamp_min(sizes.max() * 1e-3 + 1e-300)).max()
            errors[kind] = max(errors.get(kind, 0.0), float(error.nan_to_num(torch.inf)))
    if not all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(given, kept, strict=True)):
        faults.append("inputs changed")
    return {"case": str(case), "dtype": case.dtype, "errors": errors, "faults": faults}


def compute(backend: TritonBackend, kind: str, x, d, w, step) -> tuple[torch.Tensor, ...]:
    if kind == "gradient":
        return backend.energy_and_gradient(x)
    if kind == "update":
        return backend.update(x, step)
    rest = {"jvp": (d,), "vjp": (w,), "hvp": (d,), "second": (d, w)}.get(kind, ())
    return (getattr(backend, kind)(x, *rest),)


def expected(ref: Reference, kind: str, x, d, w, step) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the reference gives, and the size of its terms."""
    energy, pulled = ref.energy(x), None
    if kind in ("gradient", "update"):
        shape = (-1, *(1,) * ref.site.axes)
        pull = torch.from_numpy(2 * ref.site.share / ref.site.scale**2).reshape(shape)
        weights = torch.from_numpy(ref.site.cell_weight).reshape(x.shape[2:])
        pulled = ref.magnitude_transposed(x, pull * weights * (ref.magnitude(x) + ref.residual(x).abs()))
    if kind == "residual":
        return [(ref.residual(x), ref.magnitude(x) + 1)]
    if kind == "energy":
        return [(energy, energy)]
    if kind == "gradient":
        return [(energy, energy), (ref.gradient(x), pulled)]
    if kind == "update":
        return [(energy, energy), (ref.update(x, step)[1], x.abs() + pulled)]
    if kind == "vjp":
        return [(ref.vjp(x, w), ref.magnitude_transposed(x, w))]
    if kind == "jvp":
        return [(ref.jvp(x, d), ref.magnitude_along(x, d))]
    rest = {"hvp": (d,), "second": (d, w)}[kind]
    wanted = getattr(ref, kind)(x, *rest)
    return [(wanted, torch.full_like(wanted, float(wanted.abs().max()) + 1e-300))]


def quicken() -> None:
    """Interpreted functions look up what they call once, not at every call, and sums of integers are not checked: that
    takes most of the time."""
    seen = set()
    interpreter.GridExecutor._restore_args_dev = lambda *_: None  # all tensors are here already

    def call(self, *args, **kwargs):
        module = self.fn.__module__
        if module.startswith("triton.") and module not in seen:
            seen.add(module)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    quicken()
    for text in json.loads(sys.stdin.read()):
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in text.items()}
        start = time.process_time()
        print(json.dumps({**run(Case(**options)), "seconds": round(time.process_time() - start, 2)}), flush=True)
