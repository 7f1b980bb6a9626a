"""The Triton backend: generated kernels for one stencil at its site, launched on the tensors' own device.

At run time it needs torch, Triton and NumPy where the generated files are in the cache folder already; only to print
them it imports SymPy. With TRITON_INTERPRET=1 in the environment before Triton is imported, tensors may lie on a CPU.
"""

from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from torch import Tensor

from .program import Program
from .site import Site
from .source import digest, load_source
from .triton_numbers import Numbers, Settings, pack, settings
from .triton_points import total
from .triton_tiles import Tile, choose, options

BACKEND = "hip" if torch.version.hip else "cuda"


class TritonBackend:
    """The operations of `Reference` on x (B, F, [Z,] Y, X) of float32 or float64, of any strides."""

    def __init__(self, site: Site) -> None:
        self.site, self.program = site, site.program
        self.fields, self.rows = len(self.program.fields), len(self.program.names)
        self._numbers: dict[tuple[torch.dtype, torch.device], Numbers] = {}
        self._tiles: dict[tuple, Tile] = {}
        self._kernels: dict[str, Any] = {}

    @cached_property
    def settings(self) -> Settings:
        return settings(self.site)

    def source(self, kind: str) -> str:
        """The text of the kernel."""
        return Path(load(self.program, kind).__file__).read_text()

    def residual(self, x: Tensor) -> Tensor:
        """r (B, K, [Z,] Y, X), zero where the cell is not valid."""
        out = self._empty(x, self.rows)
        self._launch("residual", x, out=out)
        return out

    def energy(self, x: Tensor) -> Tensor:
        """(B,)."""
        return self._launch("energy", x)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The energy and d energy / dx, like x."""
        out = self._empty(x, self.fields)
        return self._launch("gradient", x, out=out, UPDATE=False), out

    def update(self, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The energy and x - step * gradient, `step` (B, F)."""
        out = self._empty(x, self.fields)
        step = step.to(x.device, x.dtype).expand(len(x), self.fields).contiguous()
        return self._launch("gradient", x, out=out, step=step, UPDATE=True), out

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """J v, like the residual."""
        out = self._empty(x, self.rows)
        self._launch("jvp", x, v=v, out=out)
        return out

    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        """J^T w, like x."""
        out = self._empty(x, self.fields)
        self._launch("vjp", x, w=w, out=out)
        return out

    def hvp(self, x: Tensor, v: Tensor) -> Tensor:
        """(d2 energy / dx2) v per sample, like x."""
        out = self._empty(x, self.fields)
        self._launch("hvp", x, v=v, out=out)
        return self._bend(out, v, lambda: self.energy_and_gradient(x)[1])

    def second(self, x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """d<w, J(x) v> / dx, like x."""
        out = self._empty(x, self.fields)
        self._launch("second", x, v=v, w=w, out=out)
        return self._bend(out, v, lambda: self.vjp(x, w))

    def _bend(self, out: Tensor, v: Tensor, pulled) -> Tensor:
        """Add what a logarithmic field's own curvature does, d2u/dx2 = factor du/dx."""
        logs = [f for f, log in enumerate(self.site.log) if log]
        if logs:
            found = pulled()
            for f in logs:
                more = float(self.site.factor[f]) * v[:, f] * found[:, f]
                if self.settings.MASK:
                    more = torch.where(found[:, f] == 0, 0, more)
                out[:, f] += more
        return out

    def _empty(self, x: Tensor, channels: int) -> Tensor:
        return x.new_empty(len(x), channels, *x.shape[2:])

    def _launch(self, kind: str, x: Tensor, out=None, v=None, w=None, step=None, **more: bool) -> Tensor | None:
        """Run the kernel of `kind`; the energy (B,) where it gives one."""
        x, v, w = aligned(self._five(x), v if v is None else self._five(v), w if w is None else self._five(w))
        B, (nz, ny, nx) = len(x), self.site.shape
        numbers, given = self._on(x), [(n, t) for n, t in (("x", x), ("v", v), ("w", w)) if t is not None]
        kernel = self._kernels.get(kind)
        if kernel is None:
            kernel = self._kernels[kind] = load(self.program, kind).kernel

        def start(tile: Tile) -> Tensor | None:
            tiles, chunks = -(-nx // tile.columns), max(1, ny // tile.rows)
            count = tiles * chunks * nz
            partial = (
                torch.empty(B, count, dtype=torch.float64, device=x.device) if kind in ("energy", "gradient") else None
            )
            step_or_any = numbers.numbers_ptr if step is None else step
            tensors = dict(x_ptr=x, v_ptr=v, w_ptr=w, out_ptr=out, energy_ptr=partial, step_ptr=step_or_any)
            strides = {f"{n}_s{c}": t.stride(d) for n, t in given for d, c in enumerate("bk" if n == "w" else "bf")}
            sizes = dict(
                nz=nz, ny=ny, nx=nx, sz=x.stride(2), sy=x.stride(3), sx=x.stride(4), chunks=chunks, tiles=tiles
            )
            span = sum((n - 1) * abs(s) for n, s in zip(self.site.shape, x.stride()[2:], strict=True))
            big = max(span, nz * ny * nx) >= 2**31 - 2**16
            constants = dict(self.settings._asdict(), UNIT=x.stride(-1) == 1 or nx == 1, BIG=big, **more)
            # tiles at edges need more registers: on large grids they are launched apart
            for edge in (False, True) if tile.split else (True,):
                told = dict(constants, EDGE=edge, ALL=not tile.split, BX=tile.columns, UNROLL=tile.unroll)
                every = {**tensors, **numbers._asdict(), **strides, **sizes, **told}
                kernel[(B * count,)](**{name: every[name] for name in kernel.arg_names}, **options(tile, edge, BACKEND))
            if partial is None:
                return None
            energy = torch.empty(B, dtype=x.dtype, device=x.device)
            total[(B,)](partial, energy, count, BLOCK=min(1024, triton.next_power_of_2(count)), num_warps=4)
            return energy

        if B == 0:
            return x.new_empty(0)
        with torch.cuda.device(x.device) if x.is_cuda else torch.no_grad():
            return start(choose(self._tiles, self.program, kind, self.settings, x, start))

    def _five(self, x: Tensor) -> Tensor:
        return x if x.ndim == 5 else x.unsqueeze(2)

    def _on(self, x: Tensor) -> Numbers:
        key = x.dtype, x.device
        if key not in self._numbers:
            self._numbers[key] = pack(self.site, x.dtype, x.device)
        return self._numbers[key]


def aligned(x: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors with common strides along z, y and x, copied where they differ."""
    if all(t is None or t.stride()[2:] == x.stride()[2:] for t in others):
        return x, *others
    return tuple(t if t is None else t.contiguous() for t in (x, *others))


@cache
def printer_key() -> str:
    """A name for the code that prints the kernels."""
    names = ["adjoint", "differences", "stencil", *(f.stem for f in sorted(Path(__file__).parent.glob("triton_*.py")))]
    return digest(*((Path(__file__).parent / f"{name}.py").read_bytes() for name in names))


def load(program: Program, kind: str) -> ModuleType:
    """The generated module of one operation, from the cache folder, printed there first where it is missing."""

    def text() -> str:
        from .stencil import Stencil
        from .triton_source import make_source

        return make_source(Stencil.from_json(program.stencil), kind)

    return load_source(f"triton_{kind}", text, digest(program.key, kind, printer_key()))
