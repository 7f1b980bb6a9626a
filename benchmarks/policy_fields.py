"""Two fields u, f with f = lap(u) - k2 u, and a generator that errs on both, by more or less from sample to sample.

The truth of a problem is a Gaussian field u on a torus with its f. What generates members knows both fields with errors
of standard deviations of their own, in each octave of the wavenumber, and not that they belong together: its denoiser
is exact for N(truth + error, V), a slightly wrong Gaussian. Conditioning that on the equation, the best that can be
done, is the project's step V J^T (J V J^T)^-1 r with this V: which field moves, and at which scale, is all that
matters. The formula is told the averages of V, or estimates one number a field by maximum likelihood. What differs from
sample to sample shows in the residual's octaves, so a policy that looks can turn the metric, and a schedule cannot.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, squared_wavenumbers
from sciguide.actions import Levers
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.datasets.normaliser import Normaliser
from sciguide.device import CPU
from sciguide.equation_step import EquationStep
from sciguide.equations import Constant, Equation, Field, lap
from sciguide.grid import Grid
from sciguide.model import NetworkError
from sciguide.octaves import BANDS, Octaves
from sciguide.policy import Choice, Policy, certain
from sciguide.prior import Spectral
from sciguide.rollout import Chain, Members, Problems
from sciguide.sampler import karras_sigmas

N, K2 = 16, 0.5
ERROR = 0.1  # median standard deviation of the errors, in those of the fields
NAMES = ("u", "f")


class Elliptic(Equation):
    """lap(u) - k2 u = f."""

    u = Field()
    f = Field()
    k2 = Constant(K2)
    moves = ("u", "f")
    scale = "source"

    def residual(self) -> Any:
        return lap(self.u) - self.k2 * self.u - self.f

    def source(self) -> Any:
        return 1 * self.f


class Relation(NamedTuple):
    """On the torus of N points: variances of the modes of u (N, N), the symbol of u to f with both normalised, and the
    standard deviations of u and f."""

    S: Tensor
    symbol: Tensor
    std: list[float]

    def to(self, device: torch.device) -> "Relation":
        """The same there."""
        return self._replace(S=self.S.to(device), symbol=self.symbol.to(device))


def relation(exponent: float = 3.0) -> Relation:
    """For u with variances (1 + k^2)^(-exponent / 2), 1 on average."""
    theta = 2 * torch.pi * torch.fft.fftfreq(N, 1 / N, dtype=torch.float64) / N
    symbol = -(4 * (theta[:, None] / 2).sin() ** 2 + 4 * (theta / 2).sin() ** 2 + K2)
    S = (1 + squared_wavenumbers(N)) ** (-exponent / 2)
    S = S / S.mean()
    std = float((symbol**2 * S).mean().sqrt())
    return Relation(S, symbol / std, [1.0, std])


def joint(C: Tensor) -> Spectral:
    """The prior with mean 0 and covariance C (N, N, 2, 2) of the modes of both fields."""
    values, vectors = torch.linalg.eigh(C)
    vectors = vectors.permute(2, 3, 0, 1).to(torch.complex128)
    return Spectral(torch.zeros(2, N, N).double(), values.permute(2, 0, 1), vectors, ("fft", "fft")).to(C.device)


def filtered(white: Tensor, factor: Tensor) -> Tensor:
    """White noise (..., N, N) with its modes multiplied, `factor` (..., N, N) even in the wavenumber."""
    return torch.fft.ifft2(torch.fft.fft2(white, norm="ortho") * factor, norm="ortho").real


def on_model(r: Relation, s2: float, floor: float) -> EquationOnModel:
    """The equation on both fields, normalised."""
    grid = Grid.uniform((N, N), boundary=("periodic", "periodic"))
    normaliser = Normaliser(np.zeros(2), np.array(r.std), np.zeros(2, bool), NAMES)
    operator = Elliptic().on(grid, scale=r.std[1])
    return EquationOnModel(EquationRecord(operator.to_dict(), [0, 1], s2, floor), normaliser, grid)


def stand_in(prior: Spectral, equation: EquationOnModel, error: NetworkError) -> Any:
    """What `EquationStep` asks of a model."""
    return SimpleNamespace(
        prior=prior, normaliser=equation.normaliser, grid=equation.operator.grid, shape=(2, N, N), error=error,
        sigma_max=3 * prior.largest**0.5, sigma_min=SIGMA_MIN, layout=SimpleNamespace(names=list(NAMES)),
    )  # fmt: skip


class Generator:
    """N(mean, V) of every row, `mean` (B, 2, N, N) and `std` (B, 2, 4) by octave: its denoiser, and the prior along
    which its chain is exact."""

    def __init__(self, waves: Octaves, mean: Tensor, std: Tensor) -> None:
        self.waves, self.mean, self.variances = waves, mean, std.square()[..., waves.band]

    def to_modes(self, v: Tensor) -> Tensor:
        return self.waves.transform(v)

    def from_modes(self, modes: Tensor) -> Tensor:
        return self.waves.inverse(modes, modes)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x], (B, 2, N, N)."""
        share = self.variances / (self.variances + sigma[:, None, None, None] ** 2)
        return self.mean + self.from_modes(share * self.to_modes(x - self.mean))

    def sample(self, noise: Tensor, sigma: float) -> Tensor:
        """A draw of N(mean, V + sigma^2) from white noise."""
        return self.mean + self.from_modes((self.variances + sigma**2).sqrt() * self.to_modes(noise))


class TwoFields:
    """`spread`: half the range of the logarithm of each field's errors, log-uniform; `slope`: of their change from one
    octave to the next; `scales`, `when`, `s2`: of the formula; `exponent`: of the spectrum of u; `device`: that all of
    it is on."""

    channels, shape = NAMES, (2, N, N)

    def __init__(
        self,
        spread: float,
        slope: float = 0.0,
        scales: str = "told",
        when: str = "end",
        steps: int = 5,
        exponent: float = 3.0,
        s2: float = 1e-12,
        device: torch.device = CPU,
    ) -> None:
        self.spread, self.slope, self.relation = spread, slope, relation(exponent).to(device)
        self.waves = Octaves(torch.ones(2, N, N, dtype=torch.bool, device=device), ("periodic", "periodic"))
        drawn = np.stack([self._errors(np.random.default_rng([n, 6])) for n in range(4096)])
        self.told = torch.from_numpy(np.mean(drawn**2, 0)).to(device)  # mean variances, (2, 4)
        mse = self.told[:, self.waves.band].mean((1, 2)).tolist()
        S, symbol, _ = self.relation
        both = torch.stack([torch.ones_like(symbol), symbol], -1)
        C = S[..., None, None] * both[..., None] * both[..., None, :] + torch.diag(torch.tensor(mse)).double().to(
            device
        )
        prior = joint(C)
        self.equation = on_model(self.relation, s2, 1e-6)
        self.error = NetworkError([SIGMA_MIN, 10.0], [mse, mse])
        self.model = stand_in(prior, self.equation, self.error)
        widest = ERROR * np.exp(spread + slope * (BANDS - 1) / 2)
        self.sigmas = karras_sigmas(steps, SIGMA_MIN, 3 * float(widest))
        self.constraints = [EquationStep(self.model, self.equation, scales=scales, when=when)]

    def _errors(self, rng: np.random.Generator) -> np.ndarray:
        """Standard deviations (2, 4) of the errors by octave."""
        level, slope = rng.uniform(-self.spread, self.spread, 2), rng.uniform(-self.slope, self.slope, 2)
        return ERROR * np.exp(level[:, None] + slope[:, None] * (np.arange(BANDS) - (BANDS - 1) / 2))

    def draw(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Truth and the generator's mean (2, N, N), and its errors' standard deviations (2, 4)."""
        rng, (S, symbol, _) = np.random.default_rng([number, 7]), self.relation
        u = filtered(torch.from_numpy(rng.standard_normal((N, N))).to(S), S.sqrt())
        truth = torch.stack([u, filtered(u, symbol)])
        std = torch.from_numpy(self._errors(rng)).to(S)
        white = torch.from_numpy(rng.standard_normal(self.shape)).to(S)
        return truth, truth + self.waves.inverse(std[:, self.waves.band] * white, truth), std

    def problems(self, numbers: Sequence[int]) -> list[Problems]:
        """One batch, as all share the constraint."""
        truth, means, std = (torch.stack(column) for column in zip(*map(self.draw, numbers), strict=True))

        def members(repeats: int) -> Members:
            known = Generator(self.waves, means.repeat_interleave(repeats, 0), std.repeat_interleave(repeats, 0))
            chain = Chain(known.denoise, known, self.sigmas, known.sample)
            return Members(chain, self.constraints, lambda x: self.equation.energy(x)[:, None])

        floors = torch.tensor([self.equation.record.floor], dtype=torch.float64)
        return [Problems(truth[:, None], floors, list(numbers), members)]

    def knowing(self, numbers: Sequence[int], noises: int) -> tuple[Policy, Levers]:
        """The formula that is told each member's own errors, for a world of `scales` told: it turns the metric."""
        std = torch.stack([self.draw(n)[2] for n in numbers]).repeat_interleave(noises, 0)
        mse = torch.tensor(self.error.mse[0])[:, None].to(std.device)
        return Told(torch.cat([std.new_zeros(len(std), 1), (std.square() / mse).log().flatten(1)], 1)), Levers(1, 4)


class Told:
    """The same action (B, A) for each member, whatever is seen."""

    def __init__(self, action: Tensor) -> None:
        self.action = action

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        return certain(self.action)
