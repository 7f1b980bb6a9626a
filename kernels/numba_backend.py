"""Fused kernels on a CPU: each operation reads its inputs once and writes its outputs once, on the threads of torch.

There is no threading layer of Numba's, whose forked children die; inside a worker with one torch thread nothing is
shared (numba_call.py). What a row sums up does not depend on who computes it, so repeats are bit-identical.
"""

from collections.abc import Callable
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from . import numba_call, numba_memory, numba_rows, numba_slabs
from .numba_call import Workspace, run
from .numba_numbers import fixed_arrays, turned
from .results import empty
from .site import Site
from .source import digest, load_source
from .tensors import promote

LEAST_SHARE = 20_000  # points of all fields that are worth a thread of their own
LEAST_SLABS = 16  # of one task: at its edges 4 halos are read twice


class NumbaBackend:
    """The program of `site` as compiled CPU code; the operations of `Reference`, for float32 and float64 tensors of any
    strides on a CPU."""

    def __init__(self, site: Site) -> None:
        self.site, self.program = site, site.program
        self._kernels: dict[tuple[str, torch.dtype], _Kernel] = {}

    def residual(self, x: Tensor) -> Tensor:
        """r (B, K, [Z,] Y, X), zero where the cell is not valid."""
        return self._run("residual", x)[1]

    def energy(self, x: Tensor) -> Tensor:
        """(B,)"""
        return self._run("energy", x)[0]

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The energy (B,) and its gradient, like x."""
        return self._run("gradient", x)

    def update(self, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The energy (B,) and x - step * gradient, for `step` (B, F)."""
        return self._run("gradient", x, step=step)

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """J v, like the residual."""
        return self._run("jvp", x, d=v)[1]

    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        """J^T w, like x."""
        return self._run("vjp", x, w=w)[1]

    def hvp(self, x: Tensor, v: Tensor) -> Tensor:
        """The second derivative of the energy times v, like x."""
        out = self._run("hvp", x, d=v)[1]
        return self._bend(out, x, v, lambda: self.energy_and_gradient(x)[1])

    def second(self, x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """d <w, J v> / dx, like x."""
        out = self._run("second", x, d=v, w=w)[1]
        return self._bend(out, x, v, lambda: self.vjp(x, w))

    def source(self, kind: str) -> str:
        """The generated text of one kind of kernel."""
        return _source(self._stencil, kind, self.site.axes, self.site.mask is not None, "float32")[0]

    def _bend(self, out: Tensor, x: Tensor, v: Tensor, slope: Callable[[], Tensor]) -> Tensor:
        """Add what the curvature of exponentials contributes: d2u/dx2 = factor du/dx."""
        if not self.site.log.any():
            return out
        factor = torch.as_tensor(np.where(self.site.log, self.site.factor, 0), dtype=out.dtype)
        bent = factor.reshape(-1, *(1,) * self.site.axes) * v * slope()
        return out + torch.where(bent.isfinite(), bent, 0)

    def _run(self, kind: str, x: Tensor, **others: Tensor) -> tuple[Tensor, Tensor]:
        x = promote(x)
        if (kind, x.dtype) not in self._kernels:
            self._kernels[kind, x.dtype] = _Kernel(self.site, self._stencil, kind, x.dtype)
        return self._kernels[kind, x.dtype](x, **others)

    @cached_property
    def _stencil(self) -> Any:
        from .stencil import Stencil

        return Stencil.from_json(self.program.stencil)


class _Kernel:
    """One kind of kernel on one site in one type: its compiled module, and the numbers that every call takes."""

    def __init__(self, site: Site, stencil: Any, kind: str, dtype: torch.dtype) -> None:
        from .adjoint import make_plan
        from .numba_source import Layout

        self.site, self.kind, self.dtype = site, kind, dtype
        axes, masked = site.axes, site.mask is not None
        plan = make_plan(stencil, kind)
        layout = Layout(plan, axes)
        self.real = torch.empty(0, dtype=dtype).numpy().dtype
        m, constants = _module(stencil, kind, axes, masked, str(self.real))
        self.module = m
        self.nm, self.nr, self.nx = (site.shape[a] for a in turned(site))
        self.outputs = len(site.program.fields) if plan.outputs else len(plan.cells)
        self.fixed = fixed_arrays(site, plan, layout, constants, self.real)
        self.workspaces: list[Workspace] = []
        self.plain = not site.log.any()
        self.needs = m.OWN * (self.nr + 4 * m.HR) * (self.nx + 4 * m.HX), m.COUNTS

    def __call__(
        self, x: Tensor, d: Tensor | None = None, w: Tensor | None = None, step: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        B = len(x)
        strides = (*self._strides(x, "fields"), *(s for t in (d, w) for s in self._strides(t, "tangents and rows")))
        shape = (B, self.outputs, *self.site.shape[3 - self.site.axes :])
        out = empty((0,) if self.kind == "energy" else shape, self.dtype)
        energy = torch.empty(B, self.nm if self.kind in ("energy", "gradient") else 0, dtype=torch.float64)
        steps = None if step is None else step.to(self.dtype).contiguous()
        threads, chunks = self._shares(B)
        given = (x, d, w, out, energy, steps)
        space = self._workspace(threads)
        space.fill(
            [0 if t is None else t.data_ptr() for t in given],
            strides,
            len(x) * chunks,
            chunks,
            self.plain and step is None,
            0 if steps is None else steps.numel(),
        )
        run(self.module.march.address, space.address, threads)
        self.workspaces.append(space)
        return energy.sum(1).to(self.dtype), out

    def _workspace(self, threads: int) -> Workspace:
        """One that nobody uses, kept from an earlier call where there is one for as many threads."""
        try:
            kept = self.workspaces.pop()
            if kept.threads >= threads:
                return kept
        except IndexError:
            pass
        return Workspace(threads, (self.nm, self.nr, self.nx), self.needs, self.real, self.fixed)

    def _shares(self, B: int) -> tuple[int, int]:
        """Threads, and tasks that a sample is cut into."""
        points = B * self.nm * self.nr * self.nx * len(self.site.program.fields)
        threads = max(1, min(torch.get_num_threads(), points // LEAST_SHARE))
        if B % threads == 0:
            return threads, 1
        chunks = max(1, min(threads, self.nm // LEAST_SLABS))
        return min(threads, B * chunks), chunks

    def _strides(self, t: Tensor | None, what: str) -> tuple[int, ...]:
        """Of a tensor along (batch, channel, m, r, x)."""
        if t is None:
            return (0,) * 5
        if t.dtype != self.dtype or t.device.type != "cpu" or t.ndim != 2 + self.site.axes:
            raise ValueError(f"{what}: {t.dtype} on {t.device} of {t.ndim} dimensions, beside fields of {self.dtype}")
        if tuple(t.shape[2:]) != self.site.shape[3 - self.site.axes :]:
            raise ValueError(f"{what} have shape {tuple(t.shape)}, the grid {self.site.shape[3 - self.site.axes :]}")
        batch, channel, *steps = t.stride()
        return batch, channel, *(steps if self.site.axes == 3 else (steps[0], 0, steps[1]))


@cache
def _source(stencil: Any, kind: str, axes: int, masked: bool, real: str) -> tuple[str, list]:
    from .adjoint import make_plan
    from .numba_source import write_source

    title = ",  ".join(f"{name} = 0" for name in stencil.names)
    return write_source(make_plan(stencil, kind), axes, masked, real, title)


@cache
def _module(stencil: Any, kind: str, axes: int, masked: bool, real: str) -> tuple[ModuleType, list]:
    """The compiled module of a kernel, and the numbers of its table C. Its key holds the code that it calls: Numba's
    own cache would not notice a change there."""
    text, constants = _source(stencil, kind, axes, masked, real)
    name = f"numba_{kind}_{real}_{'_'.join(stencil.names)[:40]}"
    module = load_source(name, text, digest(text, _helpers()))
    return module, constants


@cache
def _helpers() -> str:
    texts = []
    for module in (numba_call, numba_memory, numba_rows, numba_slabs):
        with open(module.__file__, encoding="utf-8") as file:
            texts.append(file.read())
    return numba.__version__ + "".join(texts)
