"""The sampler against Gaussian data, on which it is exact, and against a mixture, where its rivals are not."""

import math

import numpy as np
import pytest
import torch
from test_prior import PRIORS, SHAPE

from benchmarks.rivals import dpm_solver_2m, heun
from sciguide.prior import Spectral
from sciguide.sampler import karras_sigmas, sample

SIGMA_MIN = 0.01


def finish(denoise, prior, noise, steps, **kwargs):
    """The finished field of a chain along `prior`."""
    sigmas = karras_sigmas(steps, SIGMA_MIN, 3 * math.sqrt(prior.largest))
    *_, last = sample(denoise, prior, noise, sigmas, **kwargs)
    return last.x


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("name", [n for n in PRIORS if n != "isotropic"])
def test_linear_map_has_the_covariance(name, steps):
    """On a Gaussian field the sampler is linear: T T^T = C at any number of steps."""
    prior, d = PRIORS[name], math.prod(SHAPE)
    columns = torch.eye(d, dtype=torch.float64).reshape(d, *SHAPE)
    T = (finish(prior.filter, prior, columns, steps) - prior.mean).flatten(1).T
    C = prior.scale_modes(columns, prior.variances).reshape(d, d)
    assert (T @ T.T - C).abs().max() < 1e-12


def power_law(n: int = 16, exponent: float = 2.0) -> torch.Tensor:
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    return (1 + k[:, None] ** 2 + k**2) ** -exponent


def spectral(S: torch.Tensor) -> Spectral:
    """A one-channel periodic prior with variances S (Y, X) and mean 0."""
    ones = torch.ones(1, 1, *S.shape, dtype=torch.complex128)
    return Spectral(torch.zeros(1, *S.shape, dtype=S.dtype), S[None], ones, ("fft", "fft"))


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_wrong_prior_converges_at_second_order(factor):
    """Exact denoiser of the truth, prior wrong by a factor: h is linear and not 0, the std converges as steps^-2.

    The start is the truth's own: one drawn from the wrong prior is off by sqrt((f + 9) / 10), whatever the steps.
    """
    S = 400 * power_law()
    truth, wrong = spectral(S), spectral(factor * S)
    # the map is diagonal in modes: one field whose modes are all 1 gives every mode's gain
    unit = truth.from_modes(torch.ones(1, 1, *S.shape, dtype=torch.complex128))
    considered = S >= 1e4 * SIGMA_MIN**2
    errors = {}
    for steps in (10, 20, 40, 80):
        start = truth.sample(unit, 3 * math.sqrt(wrong.largest))
        gain = truth.to_modes(finish(truth.filter, wrong, unit, steps, start=start)).real[0, 0]
        errors[steps] = (gain / S.sqrt() - 1).abs()[considered]
    assert considered.sum() > 50
    assert errors[10].max() < 0.05
    for coarse in (20, 40):
        assert (errors[coarse] >= 3.3 * errors[2 * coarse]).all()


class Mixture:
    """Six Gaussian fields on a torus (settings of the docstring of `test_mixture_relations`), with its exact denoiser.

    Everything is done in the modes of the real orthonormal Hartley transform, in which all components are diagonal.
    """

    def __init__(self, n: int = 32, components: int = 6, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        k2 = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) ** 2)[:, None] + torch.fft.fftfreq(
            n, 1 / n, dtype=torch.float64
        ) ** 2
        self.n = n
        within, between = (1 + k2) ** -1.5, (1 + k2) ** -2.0
        for spectrum in (within, between):
            spectrum[0, 0] = 0.01 * spectrum[0, 1]
        self.within = (within * 0.3 * n**2 / within.sum()).flatten()
        between = (between * 0.7 * n**2 / between.sum()).flatten()
        means = between.sqrt() * torch.from_numpy(rng.standard_normal((components, n * n)))
        self.means = means - means.mean(0)
        self.rng = rng

    def hartley(self, x: torch.Tensor) -> torch.Tensor:
        f = torch.fft.fft2(x.reshape(-1, self.n, self.n), norm="ortho")
        return (f.real - f.imag).flatten(1)

    def draw(self, samples: int) -> torch.Tensor:
        which = torch.from_numpy(self.rng.integers(len(self.means), size=samples))
        z = torch.from_numpy(self.rng.standard_normal((samples, self.n**2)))
        return self.hartley(self.means[which] + self.within.sqrt() * z).reshape(-1, 1, self.n, self.n)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        s2 = float(sigma[0]) ** 2
        a = self.hartley(x)
        precision = 1 / (self.within + s2)
        # squared Mahalanobis distances up to a term common to all components
        logits = (a * precision) @ self.means.T - 0.5 * (self.means**2 @ precision)
        mean = torch.softmax(logits, 1) @ self.means
        return self.hartley(mean + self.within * precision * (a - mean)).reshape(x.shape)


def w1(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over columns of the one-dimensional Wasserstein distance between equal-sized samples, over b's std."""
    return float(((a.sort(0).values - b.sort(0).values).abs().mean(0) / b.std(0)).mean())


def test_mixture_relations():
    """Against 2M on a mixture of six Gaussian fields, 32 x 32, from the same Gaussian start.

    Within-component variances proportional to (1 + k^2)^-1.5, sum / n^2 = .3; means sqrt of (1 + k^2)^-2 times
    N(0, 1), sum / n^2 = .7, minus their mean; prior: mean and per-mode variance of 20,000 draws. W1 over the 32 leading
    modes; its sampling error is that between two sets of draws.
    """
    mixture, samples = Mixture(), 1024
    modes = mixture.hartley(mixture.draw(20_000))
    S = modes.var(0)
    leading = S.argsort(descending=True)[:32]
    # Hartley modes of k and -k mix: a spectral prior holds their mean variance, the mixture's own is per mode
    prior = Hartley(mixture, modes.mean(0), S)
    data, floor_set = (mixture.hartley(mixture.draw(samples)) for _ in range(2))
    floor = w1(floor_set[:, leading], data[:, leading])
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((samples, 1, 32, 32)))
    sigma_max = 3 * math.sqrt(prior.largest)
    start = prior.sample(noise, sigma_max)
    for steps, tolerance in ((5, 0.05), (10, 0.02), (20, 0.02)):
        ours = mixture.hartley(finish(mixture.denoise, prior, noise, steps))
        theirs = mixture.hartley(dpm_solver_2m(mixture.denoise, start, steps, SIGMA_MIN, sigma_max))
        assert float(ours.var(0).sum() / data.var(0).sum()) ** 0.5 == pytest.approx(1, abs=tolerance)
        mine, rival = (w1(x[:, leading], data[:, leading]) for x in (ours, theirs))
        if steps == 5:
            assert mine <= rival / 2
        if steps == 10:
            assert mine <= rival + floor


class Hartley(Spectral):
    """The mixture's prior, in Hartley modes."""

    def __init__(self, mixture: Mixture, mean: torch.Tensor, S: torch.Tensor) -> None:
        n = mixture.n
        field = mixture.hartley(mean[None]).reshape(1, n, n)
        super().__init__(field, S[None], torch.ones(1, 1, 1), ("fft", "fft"))
        self.hartley = mixture.hartley

    def to_modes(self, v: torch.Tensor) -> torch.Tensor:
        return self.hartley(v)[:, None]

    def from_modes(self, modes: torch.Tensor) -> torch.Tensor:
        return self.hartley(modes).reshape(-1, *self.mean.shape)


def test_rivals_sample_a_gaussian_too():
    """So that a comparison with them is one of samplers: both converge on a Gaussian field."""
    S = power_law(8, 1.0)
    prior = spectral(S)
    unit = prior.from_modes(torch.ones(1, 1, *S.shape, dtype=torch.complex128))
    sigma_max = 3 * math.sqrt(prior.largest)
    for sampler in (heun, dpm_solver_2m):
        out = sampler(prior.filter, prior.sample(unit, sigma_max), 201, 1e-3, sigma_max)
        assert (prior.to_modes(out).real[0, 0] / S.sqrt() - 1).abs().max() < 5e-3


def test_steps_are_yielded_in_order_and_guidance_on_the_finished_field_is_exact():
    prior = PRIORS["spectral periodic/periodic"]
    noise = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = karras_sigmas(4, SIGMA_MIN, 10.0)

    def zero_at_the_end(index, x0, sigma):
        return (torch.zeros_like(x0) if index == len(sigmas) else x0), index

    steps = list(sample(prior.filter, prior, noise, sigmas, zero_at_the_end))
    assert [s.index for s in steps] == [s.decision for s in steps] == [0, 1, 2, 3, 4]
    assert [s.sigma for s in steps] == [*sigmas, 0.0]
    assert steps[0].sigma == pytest.approx(10) and steps[3].sigma == pytest.approx(SIGMA_MIN)
    assert (steps[-1].guided == 0).all() and (steps[-1].x != 0).any()
