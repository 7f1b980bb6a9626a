"""Spectra by octave: waves fall into theirs, and a distance between them scores what whole fields hardly notice."""

import math

import numpy as np
import pytest
import torch

from sciguide import reward
from sciguide.spectra import OCTAVES, Spectra

N = 16
TORUS, BOX = ("periodic", "periodic"), ("open", "open")
WAVES = {7: 0, 4: 0, 3: 1, 2: 1, 1: 2}  # octave of each number of waves; the shortest has 8


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def wave(k: int, boundary: tuple[str, str]) -> torch.Tensor:
    """One period or half a period k times, of mean square 1/2, along x and then along y, (2, 1, N, N)."""
    x = torch.arange(N, dtype=torch.float64)
    line = torch.cos(2 * math.pi * k * x / N) if boundary == TORUS else torch.cos(2 * math.pi * k * (x + 0.5) / N)
    return torch.stack([line.expand(N, N), line.expand(N, N).T])[:, None]


def flows(n: int, seed: int, short: float = 1.0) -> torch.Tensor:
    """Fields (n, 2, N, N) of a long wave of random phase and noise a tenth as large, times `short`, both of them larger
    in some fields than in others, and a constant."""
    rng = np.random.default_rng(seed)
    phase, size = rng.uniform(0, 2 * np.pi, n), np.exp(0.3 * rng.standard_normal(n))
    x = np.cos(2 * np.pi * np.arange(N) / N + phase[:, None])[:, None] + np.zeros((n, N, N))
    field = size[:, None, None] * (x + 0.1 * short * rng.standard_normal((n, N, N)))
    return torch.from_numpy(np.stack([field, np.broadcast_to(rng.standard_normal((n, 1, 1)), field.shape)], 1))


@pytest.mark.parametrize("boundary", [TORUS, BOX])
def test_a_wave_falls_into_its_octave(boundary):
    spectra = Spectra(draws(8, 1, N, N), boundary)
    for k, octave in WAVES.items():
        expected = torch.zeros(2, 1, OCTAVES, dtype=torch.float64)
        expected[..., octave] = 0.5
        torch.testing.assert_close(spectra.energies(3 + wave(k, boundary)), expected)  # the mean does not count


@pytest.mark.parametrize("boundary", [TORUS, BOX, ("open", "periodic")])
def test_octaves_hold_the_variance(boundary):
    x = draws(5, 3, N, N + 4)
    variance = x.var((2, 3), unbiased=False)
    torch.testing.assert_close(Spectra(x, boundary).energies(x).sum(2), variance)


def test_distances_are_in_standard_deviations_of_the_logarithm():
    """Two waves whose energies vary by factors e^2 and e^4: amplitudes times e are one standard deviation of the first
    and half of one of the second. The mean of the field and a channel that does not vary are not seen."""

    def fields(a: float, b: float) -> torch.Tensor:
        live = math.exp(a) * wave(7, TORUS)[:1] + math.exp(b) * wave(1, TORUS)[:1]
        return torch.cat([live, torch.full_like(live, 2.0)], 1)

    truths = torch.cat([fields(s / 2**0.5, 2 * s / 2**0.5) for s in (1, -1)])  # std of the logs: 2 and 4
    spectra = Spectra(truths, TORUS)
    a, b, moved = fields(0, 0), fields(1, 1), fields(0, 0) + 5
    expected = math.sqrt((1 + 0.25) / 2)
    torch.testing.assert_close(
        spectra(a, torch.cat([b, moved])), torch.tensor([[expected, 0.0]]).double(), atol=1e-5, rtol=1e-4
    )


def test_pairs_are_taken_across_noises():
    """Against sums written out, of members whose replicas differ."""
    truths = flows(6, 0)
    spectra, x = Spectra(truths, TORUS), flows(6, 1).reshape(3, 2, 2, N, N)

    def d(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((spectra.logs(a[None]) - spectra.logs(b[None])).square().sum().sqrt())

    found = reward.contributions(x, truths, spectra)
    for i in range(3):
        for j in range(2):
            to_truth = np.mean([d(x[i, j], y) for y in truths])
            pairs = np.mean([d(x[i, j], x[k, a]) for k in range(3) if k != i for a in range(2)])
            assert float(found[i, j]) == pytest.approx(pairs - to_truth)


def test_short_waves_score_best_as_they_are():
    """Too weak and too strong, alike in all or not varying as they should; the whole fields' score says a tenth of it
    or less."""
    truths, x = flows(200, 0), flows(200, 1)
    steady = x / x[:, :1].std((2, 3), keepdim=True) * x[:, :1].std()
    wrong = flows(200, 1, short=0.8), flows(200, 1, short=1.25), steady
    loss = {}
    for name, distance in {"spectra": Spectra(truths, TORUS), "fields": reward.Pointwise(torch.ones(2, N, N))}.items():
        best, *rest = (float(reward.energy_score(f[:, None], truths, distance)) for f in (x, *wrong))
        loss[name] = [r / best - 1 for r in rest]
    assert min(loss["spectra"]) > 0.02
    assert max(loss["fields"][:2]) < 0.1 * min(loss["spectra"][:2])


def test_land_is_zero_in_members_and_truths_alike():
    mask = torch.ones(2, N, N, dtype=torch.bool)
    mask[:, 4:9, 2:6] = False
    truths, x = (torch.where(mask, flows(40, seed), 0) for seed in (0, 1))
    found = Spectra(truths, BOX)(x, truths)
    assert found.shape == (40, 40) and found.isfinite().all() and found.min() > 0
