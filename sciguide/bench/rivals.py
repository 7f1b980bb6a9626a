"""What a user writes without this package: each case's residual in plain torch, its gradient by autograd.

Every equation is written on shifted views, which are made in two ways: `slices` of a tensor padded around periodic
axes, and `rolls`. A third way is the package's own reference under autograd. Which is fastest depends on the size, so
the benchmark times all and compares with the best.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward
import torch.nn.functional as F
from torch import Tensor

from sciguide.kernels.reference import Reference
from sciguide.kernels.site import Site

Shift = Callable[..., Tensor]  # (v, *offsets) -> v on the inner points, read so much further on
FORMS = ("slices", "rolls", "reference")


@cache
def start_forward() -> None:
    """The first forward derivative of a process has torch say that a part of its own is deprecated."""
    with warnings.catch_warnings(), forward.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward.make_dual(torch.zeros(1), torch.zeros(1)).sin()


class Eager:
    """One case in one form. x (B, F, ...) -> residual (B, K, ...) on the `box` of valid cells, and what autograd makes
    of it. Methods are named like a backend's."""

    def __init__(self, operator: str, site: Site, form: str, device: str) -> None:
        start_forward()
        self.site, self.form = site, form
        self.axes = range(3 - site.axes, 3)
        self.periodic = [site.rules[a] == "periodic" for a in self.axes]
        inner = tuple(slice(None) if p else slice(1, -1) for p in self.periodic)
        self.box = (...,) if form == "reference" else (..., *inner)
        self._reference = Reference(site) if form == "reference" else None
        self._equation = darcy_rolls if (operator, form) == ("darcy", "rolls") else EQUATIONS[operator]
        weight = site.cell_weight[tuple(slice(None) for _ in range(3 - site.axes))]
        weight = weight.reshape(site.shape[3 - site.axes :])[inner]
        flat = bool((weight == weight.flat[0]).all())
        part = weight.flat[0] if flat else weight[..., :1]  # it varies with the latitude alone
        pull = [float(s / q**2) for s, q in zip(site.share, site.scale, strict=True)]
        self._weights = [torch.as_tensor(p * part, dtype=torch.float32, device=device) for p in pull]
        self._numbers = {k: self._number(k, v, device) for k, v in site.numbers.items()}

    def _number(self, name: str, value: Any, device: str) -> Any:
        """A float, or a column over the rows for what varies with the latitude."""
        if np.ndim(value) == 0:
            return float(value)
        inside = value[self.site.pad : -self.site.pad]
        return torch.as_tensor(inside[:, None], dtype=torch.float32, device=device)

    def _enter(self, x: Tensor) -> Tensor:
        if self.form == "rolls" or not any(self.periodic):
            return x
        pads = [n for p in reversed(self.periodic) for n in (int(p), int(p))]
        return F.pad(x, pads, mode="circular")

    def _at(self, v: Tensor, *offsets: int) -> Tensor:
        dims = range(-len(offsets), 0)
        if self.form == "slices":
            return v[(..., *(slice(1 + o, v.shape[d] - 1 + o) for o, d in zip(offsets, dims, strict=True)))]
        moved = [(o, d) for o, d in zip(offsets, dims, strict=True) if o]
        if moved:
            v = torch.roll(v, [-o for o, _ in moved], [d for _, d in moved])
        return v[self.box]

    def compile(self, operation: str) -> "Eager":
        """The same with the energy, the residual or J v compiled. Raises RuntimeError without a compiler."""
        from torch._inductor import config

        config.compile_threads = 1  # a pool of them slows everything else that runs
        name = {"energy_and_gradient": "energy", "jvp": "jvp"}.get(operation, "residual")
        plain = self.compilable_jvp if operation == "jvp" else getattr(self, name)
        setattr(self, name, torch.compile(plain, dynamic=False))
        return self

    def residuals(self, x: Tensor) -> list[Tensor]:
        """Each (B, ...), on the box."""
        if self._reference is not None:
            return list(self._reference.residual(x).unbind(1))
        return self._equation(self._enter(x), self._at, self._numbers)

    def residual(self, x: Tensor) -> Tensor:
        return torch.stack(self.residuals(x), 1)

    def energy(self, x: Tensor) -> Tensor:
        """(B,)"""
        if self._reference is not None:
            return self._reference.energy(x)
        dims = tuple(range(-self.site.axes, 0))
        parts = [(w * r.square()).sum(dims) for w, r in zip(self._weights, self.residuals(x), strict=True)]
        return sum(parts)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), gradient

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        with forward.dual_level():
            return forward.unpack_dual(self.residual(forward.make_dual(x, v))).tangent

    def compilable_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.func.jvp(self.residual, (x,), (v,))[1]

    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.residual(x), x, w[self.box])[0]


def central(at: Shift, v: Tensor, axis: int, h: float, axes: int = 2) -> Tensor:
    """The centred first difference along `axis`."""
    ahead = [int(a == axis) for a in range(axes)]
    return (at(v, *ahead) - at(v, *(-a for a in ahead))) / (2 * h)


def laplacian(at: Shift, v: Tensor, spacing: tuple[float, ...]) -> Tensor:
    axes, total = len(spacing), 0
    middle = 2 * at(v, *(0,) * axes)
    for axis, h in enumerate(spacing):
        ahead = [int(a == axis) for a in range(axes)]
        total = total + (at(v, *ahead) - middle + at(v, *(-a for a in ahead))) / h**2
    return total


def darcy(x: Tensor, at: Shift, n: dict[str, Any]) -> list[Tensor]:
    """By fluxes through faces, each computed once."""
    K, p, f = x.unbind(1)
    east = (K[:, 1:-1, 1:] + K[:, 1:-1, :-1]) * (p[:, 1:-1, 1:] - p[:, 1:-1, :-1]) / (2 * n["dx"] ** 2)
    north = (K[:, 1:, 1:-1] + K[:, :-1, 1:-1]) * (p[:, 1:, 1:-1] - p[:, :-1, 1:-1]) / (2 * n["dy"] ** 2)
    return [east[..., :-1] - east[..., 1:] + north[:, :-1] - north[:, 1:] - f[:, 1:-1, 1:-1]]


def darcy_rolls(x: Tensor, at: Shift, n: dict[str, Any]) -> list[Tensor]:
    K, p, f = x.unbind(1)
    total = -at(f, 0, 0)
    for offset, h in (((0, 1), n["dx"]), ((1, 0), n["dy"])):
        for sign in (1, -1):
            o = [sign * a for a in offset]
            total = total - (at(K, *o) + at(K, 0, 0)) * (at(p, *o) - at(p, 0, 0)) / (2 * h**2)
    return [total]


def vorticity(x: Tensor, at: Shift, n: dict[str, Any]) -> list[Tensor]:
    w, psi, w_next, psi_next = x.unbind(1)
    spacing, middle, stream = (n["dy"], n["dx"]), (w + w_next) / 2, (psi + psi_next) / 2
    here, after = at(w, 0, 0), at(w_next, 0, 0)
    rate = (after - here) / n["dt"] + n["drag"] * at(middle, 0, 0) - n["nu"] * laplacian(at, middle, spacing)
    return [
        rate + transport(at, stream, middle, spacing),
        here - laplacian(at, psi, spacing),
        after - laplacian(at, psi_next, spacing),
    ]


def transport(at: Shift, p: Tensor, q: Tensor, spacing: tuple[float, float]) -> Tensor:
    """div(-q dp/dy, q dp/dx)."""
    pne, pnw, pse, psw = (at(p, *o) for o in ((1, 1), (1, -1), (-1, 1), (-1, -1)))
    qn, qs, qe, qw = (at(q, *o) for o in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    total = qn * (pne - pnw) - qs * (pse - psw) - qe * (pne - pse) + qw * (pnw - psw)
    return total / (4 * spacing[0] * spacing[1])


def navier_stokes(x: Tensor, at: Shift, n: dict[str, Any]) -> list[Tensor]:
    dy, dx = n["dy"], n["dx"]
    before, after = x[:, :3], x[:, 3:]
    u, v, p = ((before + after) / 2).unbind(1)
    rate = (after[:, :2] - before[:, :2]) / n["dt"]
    u_here, v_here = at(u, 0, 0), at(v, 0, 0)
    momentum = [
        at(rate[:, i], 0, 0)
        + u_here * central(at, c, 1, dx)
        + v_here * central(at, c, 0, dy)
        + central(at, p, axis, h)
        - n["nu"] * laplacian(at, c, (dy, dx))
        - n[force]
        for i, (c, axis, h, force) in enumerate(((u, 1, dx, "force_x"), (v, 0, dy, "force_y")))
    ]
    divergence = [central(at, s[:, 0], 1, dx) + central(at, s[:, 1], 0, dy) for s in (before, after)]
    return [*momentum, *divergence]


def shallow_water(x: Tensor, at: Shift, n: dict[str, Any]) -> list[Tensor]:
    """On the sphere, rows from pole to pole, the first and last of them given."""
    dy, dx, a, cos = n["dy"], n["dx"], n["radius"], n["cos_lat"]
    before, after = x[:, :3], x[:, 3:]
    u, v, h = ((before + after) / 2).unbind(1)
    rate = [at(r, 0, 0) for r in ((after - before) / n["dt"]).unbind(1)]
    parallel = a * cos[1:-1]

    def divergence(east: Tensor, north: Tensor) -> Tensor:
        return (central(at, east, 1, dx) + central(at, north * cos, 0, dy)) / parallel

    head = n["g"] * h + (u.square() + v.square()) / 2
    spin = n["coriolis"][1:-1] + divergence(v, -u)
    return [
        rate[0] - spin * at(v, 0, 0) + central(at, head, 1, dx) / parallel,
        rate[1] + spin * at(u, 0, 0) + central(at, head, 0, dy) / a,
        rate[2] + divergence(u * h, v * h),
    ]


def poisson3(x: Tensor, at: Shift, n: dict[str, Any]) -> list[Tensor]:
    phi, f = x.unbind(1)
    return [laplacian(at, phi, (n["dz"], n["dy"], n["dx"])) - at(f, 0, 0, 0)]


EQUATIONS: dict[str, Callable[[Tensor, Shift, dict[str, Any]], list[Tensor]]] = {
    "darcy": darcy,
    "vorticity": vorticity,
    "navier_stokes": navier_stokes,
    "shallow_water": shallow_water,
    "poisson3": poisson3,
}
