"""Rows beside the policies that need no learning: what costs no network, and what repairs its members afterwards.

`projected` takes the divergence out of both snapshots by Fourier series (Leray's projection), `stepped` keeps the first
snapshot's winds and lets the data's own solver make the rest of the sample: the re-solve of a flow.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flows_data import Fields, Flow
from sciguide import baselines
from sciguide.guidance import Guidance, constraints_for
from sciguide.model import Model
from sciguide.simulate import get, kolmogorov, rotating_layer

Row = tuple[str, Fields]
BLOCK = 16  # samples that are stepped together


def before_drawing(flow: Flow, model: Model, held: Fields, training: Fields, seed: int) -> Iterator[Row]:
    """Name and fields of what needs no members of the network."""
    rng, n = np.random.default_rng(seed), len(held)
    yield "mismatched pairs", baselines.mismatched(held, model.layout)
    yield "random training samples", training[np.sort(rng.choice(len(training), n, replace=False))]
    yield "N(mu, C)", prior_draws(model, n, seed, guided=False)
    yield "N(mu, C), formula", prior_draws(model, n, seed, guided=True)
    yield "data, stepped", stepped(flow, held)


def after_drawing(flow: Flow, model: Model, members: Fields, training: Fields) -> Iterator[Row]:
    """What is made of the network's unguided members."""
    yield "none, low-passed", baselines.low_passed(members, model.layout.mask, model.grid.boundary)
    weights = np.ones(members.shape[-2:])
    yield "nearest training samples", training[baselines.nearest(members, training, weights)]
    if flow.viscous:
        yield "none, projected", projected(flow, members)
    yield "none, stepped", stepped(flow, members)


def prior_draws(model: Model, n: int, seed: int, guided: bool) -> Fields:
    """Draws of N(mu, C); guided by the formula as finished fields are, at the smallest noise level."""
    x = model.prior.sample(model.white(seed, range(n)))
    if guided:
        constraints = constraints_for(model, None)
        guide = Guidance(constraints, None, model.layout.names, 1)
        x = torch.cat([guide(1, part, model.sigma_min)[0] for part in x.split(BLOCK)])
    return baselines.physical(model, x).astype(np.float32)


def projected(flow: Flow, fields: Fields) -> Fields:
    """Both winds less the gradient that holds their divergence, exact for the waves of the grid."""
    out = np.asarray(fields, np.float64).copy()
    n = fields.shape[-1]
    k = np.fft.fftfreq(n, 1 / n) * (np.arange(n) != n // 2)  # the shortest wave has no derivative
    ky, kx = k[:, None], k[None, :]
    square = np.where(kx**2 + ky**2 > 0, kx**2 + ky**2, 1)
    for later in ("", "_next"):
        u, v = (flow.variables.index(name + later) for name in "uv")
        u_hat, v_hat = np.fft.fft2(out[:, u]), np.fft.fft2(out[:, v])
        along = (kx * u_hat + ky * v_hat) / square
        out[:, u], out[:, v] = np.fft.ifft2(u_hat - kx * along).real, np.fft.ifft2(v_hat - ky * along).real
    return out


def stepped(flow: Flow, fields: Fields) -> Fields:
    """The winds (and depths) of the first snapshot as they are, the rest by the solver that made the data."""
    step = {"kolmogorov": _step_kolmogorov, "shallow_water": _step_shallow_water}[flow.name]
    x = np.asarray(fields, np.float64)
    return np.concatenate([step(x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)])


def _step_kolmogorov(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the vorticity of u and v and the viscosity of each; u and v lose their divergence and mean."""
    n, nu = x.shape[-1], x[:, 6].mean((1, 2)).clip(1e-4)[:, None, None]
    at, solver = kolmogorov.torus(n), kolmogorov.stages(n)[-1][0]
    ky, kx = at.waves
    w = at.modes(x[:, 1]) * (1j * kx) - at.modes(x[:, 0]) * (1j * ky)
    w = at.resampled(w, solver.n).astype(np.complex64)
    now = kolmogorov.snapshot(solver, w, n)
    later = kolmogorov.snapshot(solver, kolmogorov.advance(solver, w, nu, 1), n)
    return np.stack([*now, *later, np.broadcast_to(nu, now[0].shape)], 1)


def _step_shallow_water(x: NDArray[np.float64]) -> NDArray[np.float64]:
    s = torch.from_numpy(x[:, :3])
    later = rotating_layer.midpoint_step(get("shallow_water").operator(x.shape[-1]), s)
    return torch.cat([s, later], 1).numpy()
