"""What is measured of a set of flows: residuals by two stencils, spectra, amplitudes, joint distribution, tails, speed.

Every number is a function of samples drawn from the set and samples drawn from the held-out data, so that one pair of
index lists serves as a resample of all of them, the same pair of several methods compares them member by member, and
disjoint halves of the data are the floor. By name:

- residual, residual_4     root mean square over the scale of the training data, of each residual of the equation (of
                           second and of fourth order) and of `all`, the energy that guides
- divergence_spectral      of both snapshots by Fourier series, over the rms vorticity
- restepped                what is left where the data's solver is started from the member's first winds: of p in the
                           data's std, of the change between the snapshots over the data's. A residual can be laundered
                           into the change, which a step of time divides by; this cannot
- std_ratio, mean_error    of anomalies, and of the mean field over the data's std
- energy_ratio             kinetic energy of waves k to k', over the data's
- spectrum_error           rms over the bands of log10 of the energy spectrum over the data's
- energy_distance          of all channels together, an unbiased estimate
- w1, w1_components        of pooled values in the data's std; mean over 8 leading components of the training data
- kurtosis_ratio, q99_ratio   of the vorticity
- speed_ratio, speed_spread   rms |u| over what its own viscosity has in long runs, geometric mean and scatter
- novelty                  distance to the nearest training sample over that of held-out data, medians
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flows_data import Fields, Flow, reynolds
from benchmarks.flows_rivals import stepped
from sciguide import metrics
from sciguide.bootstrap import disjoint, interval, resample
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.model import Model
from sciguide.simulate.kolmogorov import SPEED, SPEED_POWER

COMPONENTS = 8
MOST_TRAINING = 512  # training samples, evenly spaced, that principal components come from
EVERY = 3  # row and column whose values are pooled for W1 and tails: 3 leaves no alias with the force
LAW = (10.0, 1e4)  # Reynolds numbers at which the law of the speed is taken, where members have others
BANDS = ((1, 3), (4, 7), (8, 15), (16, 31))

Table = dict[tuple[str, str], float]


class Features(NamedTuple):
    """Of N samples: mean square residuals of both stencils (N, K) and their energies (N,), mean square spectral
    divergence over squared vorticity (N,), mean square errors against the solver (N, 3), `fields` (N, C, P), kinetic
    energy by wavenumber (N, W), amplitudes on the components (N, 8), pooled values (N, C + 1, P') with the vorticity
    last, Reynolds numbers and log of speed over the law's (N,), distance to the nearest training sample (N,), and all
    of it as vectors (N, D) for distances."""

    squares: tuple[NDArray, NDArray]
    energies: tuple[NDArray, NDArray]
    divergence: NDArray
    restepped: NDArray
    fields: NDArray
    spectrum: NDArray
    components: NDArray
    pooled: NDArray
    reynolds: NDArray
    speed: NDArray
    near: NDArray
    vectors: NDArray

    def __len__(self) -> int:
        return len(self.divergence)


class Yardstick:
    """What sets are measured against: the model's own equation and the same of order 4, both over the scale of the
    training data, and the training samples (T, C, Y, X)."""

    def __init__(self, flow: Flow, model: Model, training: Fields) -> None:
        self.flow, self.names = flow, list(model.layout.names)
        self.equation = model.constraints()[0]
        second = self.equation.operator
        self.operators: tuple[Operator, Operator] = (second, flow.fourth.on(model.grid, scale=second.scale))
        self.spacing = model.grid.spacing
        self.weights, self.training = np.ones(training.shape[-2:]), training
        few = training[:: -(-len(training) // MOST_TRAINING)]
        self.basis = metrics.principal_components(few, self.weights)
        change = (few[:, 3:6] - few[:, :3]).astype(np.float64)
        moves = [0, 1] if flow.viscous else [0, 1, 2]
        self.checks = {f"change of {self.names[c]}": (change[:, c] ** 2).mean() for c in moves}
        if flow.viscous:
            self.checks["p"] = few[:, 2].var(0, dtype=np.float64).mean()

    def features(self, x: Fields) -> Features:
        """Of physical fields (N, C, Y, X)."""
        squares, energies = zip(*(self._residuals(x, operator) for operator in self.operators), strict=True)
        u, v = (np.asarray(x[:, self.names.index(name)], np.float64) for name in "uv")
        vectors = metrics.vectors(x, self.weights, self.basis.scale)
        pooled = np.concatenate([x, self._vorticity(u, v)[:, None]], 1)[..., ::EVERY, ::EVERY]
        Re = reynolds(x, self.names) if self.flow.viscous else np.full(len(x), np.inf)
        return Features(
            squares,
            energies,
            self._divergence(x),
            self.restepped(x),
            np.asarray(x, np.float32).reshape(*x.shape[:2], -1),
            kinetic_energy(u, v),
            vectors @ self.basis.axes[:COMPONENTS].T / self.basis.std[:COMPONENTS],
            pooled.reshape(*pooled.shape[:2], -1).astype(np.float32),
            Re,
            np.log(np.sqrt((u**2 + v**2).mean((1, 2))) / (SPEED * (Re.clip(*LAW) / 100) ** SPEED_POWER)),
            metrics.nearest_distance(x, self.training, self.weights),
            vectors,
        )

    def _residuals(self, x: Fields, operator: Operator) -> tuple[NDArray, NDArray]:
        found = []
        for part in np.array_split(x, -(-len(x) // 32)):
            fields = self.equation.channels.fields(torch.tensor(part, dtype=torch.float64))
            found.append(operator.mean_square(operator.relative(operator.residual(fields))))
        squares = torch.cat(found).numpy()
        return squares, squares @ np.asarray(operator.share)

    def _vorticity(self, u: NDArray, v: NDArray) -> NDArray:
        """By centred differences on the torus."""
        dy, dx = self.spacing
        along_x = (np.roll(v, -1, -1) - np.roll(v, 1, -1)) / (2 * dx)
        return along_x - (np.roll(u, -1, -2) - np.roll(u, 1, -2)) / (2 * dy)

    def _divergence(self, x: Fields) -> NDArray:
        total = np.zeros(len(x))
        for later in ("", "_next"):
            u, v = (np.fft.fft2(x[:, self.names.index(name + later)].astype(np.float64)) for name in "uv")
            n = x.shape[-1]
            k = np.fft.fftfreq(n, 1 / n) * (np.arange(n) != n // 2)
            div, curl = k * u + k[:, None] * v, k * v - k[:, None] * u
            total += (np.abs(div) ** 2).sum((1, 2)) / (np.abs(curl) ** 2).sum((1, 2)) / 2
        return total

    def restepped(self, x: Fields) -> NDArray:
        """What the data's solver finds wrong over the data's own scale, mean squares (N, checks). NaN where it finds
        no step."""
        try:
            wrong = stepped(self.flow, x) - x
        except InputError:
            return np.full((len(x), len(self.checks)), np.nan)
        first, later = wrong[:, :3], wrong[:, 3:6]
        found = {"p": first[:, 2], **{f"change of {n}": (later - first)[:, c] for c, n in enumerate(self.names[:3])}}
        return np.stack([(found[k] ** 2).mean((1, 2)) / self.checks[k] for k in self.checks], 1)

    def compare(self, a: Features, i: NDArray, b: Features, j: NDArray) -> Table:
        """All metrics of the samples `i` of `a` against samples `j` of the data `b`, but for the energy distance."""
        out = self.physics(a, i)
        x, y = a.fields[i].astype(np.float64), b.fields[j].astype(np.float64)
        std, own = (np.sqrt(z.var(0, ddof=1).mean(1)) for z in (y, x))
        error = np.sqrt(((x.mean(0) - y.mean(0)) ** 2).mean(1)) / std
        for name, ratio, shift in zip(self.names, own / std, error, strict=True):
            if not name.endswith("_next"):
                out |= {("std_ratio", name): ratio, ("mean_error", name): shift}
        energy, data = a.spectrum[i].mean(0), b.spectrum[j].mean(0)
        out["spectrum_error", "kinetic energy"] = metrics.spectrum_error(energy[1:], data[1:])
        for low, high in BANDS:
            if high < len(energy):
                ratio = energy[low : high + 1].sum() / data[low : high + 1].sum()
                out["energy_ratio", f"k {low} to {high}"] = ratio
        out |= self._marginals(a, i, b, j, std)
        out["novelty", "all"] = np.median(a.near[i]) / np.median(b.near[j])
        return {key: float(value) for key, value in out.items()}

    def physics(self, a: Features, i: NDArray) -> Table:
        """What needs no data beside it."""
        out: Table = {}
        for metric, squares, energies in zip(("residual", "residual_4"), a.squares, a.energies, strict=True):
            for name, square in zip(self.operators[0].components, squares[i].mean(0), strict=True):
                out[metric, name] = np.sqrt(square)
            out[metric, "all"] = np.sqrt(energies[i].mean())
        for name, square in zip(self.checks, a.restepped[i].mean(0), strict=True):
            out["restepped", name] = np.sqrt(square)
        if self.flow.viscous:
            out["divergence_spectral", "both"] = np.sqrt(a.divergence[i].mean())
            out["speed_ratio", "u"], out["speed_spread", "u"] = np.exp(a.speed[i].mean()), a.speed[i].std(ddof=1)
        return out

    def _marginals(self, a: Features, i: NDArray, b: Features, j: NDArray, std: NDArray) -> Table:
        out: Table = {}
        p, q = (z - z.mean(0) for z in (a.components[i], b.components[j]))
        each = [metrics.wasserstein(p[:, k], q[:, k]) for k in range(p.shape[1])]
        out["w1_components", "all"] = np.mean(each)
        x, y = a.pooled[i], b.pooled[j]
        for c, name in enumerate(self.names):
            if not name.endswith("_next"):
                out["w1", name] = metrics.wasserstein(x[:, c].ravel(), y[:, c].ravel()) / std[c]
        curl = [z[:, -1:, None].astype(np.float64) for z in (x, y)]
        even = np.ones(curl[0].shape[2:])
        for metric, of in (("kurtosis_ratio", metrics.kurtosis), ("q99_ratio", metrics.quantile)):
            top, bottom = (of(z, even)[0] for z in curl)
            out[metric, "vorticity"] = top / bottom
        return out


def kinetic_energy(u: NDArray, v: NDArray) -> NDArray[np.float64]:
    """(N, W) by rounded wavenumber, waves that fit in both directions alike."""
    n = u.shape[-1]
    k = np.fft.fftfreq(n, 1 / n)
    ring = np.rint(np.hypot(k[:, None], k)).astype(int).ravel()
    power = (np.abs(np.fft.fft2(u)) ** 2 + np.abs(np.fft.fft2(v)) ** 2).reshape(len(u), -1) / (2 * n**4)
    return np.stack([np.bincount(ring, p)[: n // 2] for p in power])


class Measured(NamedTuple):
    """The `value` of each metric, and those of resamples; of two methods alike the resamples are the same."""

    value: Table
    drawn: list[Table]
    n: int

    def minus(self, other: "Measured") -> "Measured":
        """What differs, member by member."""
        drawn = [{k: t[k] - s[k] for k in t} for t, s in zip(self.drawn, other.drawn, strict=True)]
        return Measured({k: v - other.value[k] for k, v in self.value.items()}, drawn, self.n)

    def ends(self, key: tuple[str, str]) -> tuple[float, float, float]:
        """Value, and the ends of its 95 % interval."""
        return tuple(float(v) for v in interval(self.value[key], [t[key] for t in self.drawn]))


def measure(yardstick: Yardstick, a: Features, b: Features, resamples: int, seed: int = 0) -> Measured:
    """A set against the data, with a bootstrap of both."""
    rng = np.random.default_rng(seed)
    draws = [(resample(len(a), rng), resample(len(b), rng)) for _ in range(resamples)]
    whole = np.arange(len(a)), np.arange(len(b))
    xy, xx, yy = (metrics.distances(p.vectors, q.vectors) for p, q in ((a, b), (a, a), (b, b)))
    found = []
    for i, j in [whole, *draws]:
        table = yardstick.compare(a, i, b, j)
        counts = np.bincount(i, minlength=len(a)), np.bincount(j, minlength=len(b))
        table["energy_distance", "all"] = metrics.energy_from_distances(xy, xx, yy, *counts)
        found.append(table)
    return Measured(found[0], found[1:], len(a))


def floor(yardstick: Yardstick, b: Features, splits: int, seed: int = 0) -> Measured:
    """The data against itself, by disjoint halves: the median as the value. Residuals are those of all of it."""
    rng, tables = np.random.default_rng(seed), []
    yy = metrics.distances(b.vectors, b.vectors)
    for _ in range(splits):
        i, j = disjoint(len(b), (len(b) // 2, len(b) - len(b) // 2), rng)
        table = yardstick.compare(b, i, b, j)
        pieces = yy[np.ix_(i, j)], yy[np.ix_(i, i)], yy[np.ix_(j, j)]
        table["energy_distance", "all"] = metrics.energy_from_distances(*pieces)
        tables.append(table)
    value = {key: float(np.median([t[key] for t in tables])) for key in tables[0]}
    return Measured(value | yardstick.physics(b, np.arange(len(b))), tables, len(b))
