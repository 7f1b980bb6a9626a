"""The prior against dense linear algebra: its modes are those of a covariance matrix."""

import pytest
import torch

from sciguide import covariance, modes
from sciguide.covariance import fit_eof, fit_prior, fit_spectral
from sciguide.prior import EOF, Isotropic, Spectral, prior_from_dict
from sciguide.shrinkage import Shrinkage

SHAPE = (2, 6, 7)
BOUNDARIES = [("periodic", "periodic"), ("open", "periodic"), ("neumann", "open")]


def correlated_fields(n: int, seed: int = 0) -> torch.Tensor:
    """Smooth periodic fields with a mean, the second channel a shifted part of the first plus its own."""
    generator = torch.Generator().manual_seed(seed)
    ky, kx = torch.fft.fftfreq(SHAPE[1], 1 / SHAPE[1]), torch.fft.fftfreq(SHAPE[2], 1 / SHAPE[2])
    spectrum = (1 + ky[:, None] ** 2 + kx**2) ** -1
    white = torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)
    x = torch.fft.ifft2(torch.fft.fft2(white) * spectrum).real
    x[:, 1] += 0.5 * x[:, 0].roll(1, -1)
    return x + 1


def smooth_beside_rough(x: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor) -> EOF:
    """The prior of fields whose second channel has three modes, the first all of them, of which few are kept."""
    second = x[:, 1:] * mask[1]
    low = torch.linalg.svd(second.flatten(1), full_matrices=False)
    second = (low.U[:, :3] * low.S[:3] @ low.Vh[:3]).reshape(second.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "MOST_MODES", 15)
        patch.setattr(covariance, "choose_shrinkage", lambda *_: Shrinkage(0.0, 1.0, 0.0))
        return fit_eof(torch.cat([x[:, :1], second], 1), mask, weights, 100)


def priors() -> dict[str, object]:
    x = correlated_fields(400)
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) > 0.3
    weights = torch.linspace(0.5, 1.5, SHAPE[1], dtype=torch.float64)[:, None].expand(SHAPE[1:])
    out = {f"spectral {'/'.join(b)}": fit_spectral(x, b) for b in BOUNDARIES}
    return {
        **out,
        "eof": fit_eof(x * mask, mask, weights, 100),
        "eof by channel": smooth_beside_rough(x * mask, mask, weights),
        "isotropic": Isotropic(mask, torch.tensor(0.7).double()),
    }


PRIORS = priors()


def dense(prior, scale) -> torch.Tensor:
    """f(C) as a matrix."""
    d = prior.mask.numel()
    return prior.scale_modes(torch.eye(d, dtype=torch.float64).reshape(d, *SHAPE), scale).reshape(d, d)


@pytest.mark.parametrize("name", PRIORS)
def test_functions_of_the_covariance(name):
    prior, sigma = PRIORS[name], 0.3
    C = dense(prior, prior.variances)
    valid = torch.diag(prior.mask.flatten().double())
    assert (C - C.T).abs().max() < 1e-14
    assert (dense(prior, torch.ones_like(prior.variances)) - valid).abs().max() < 1e-14
    gain = C @ torch.linalg.inv(C + sigma**2 * torch.eye(len(C), dtype=C.dtype))
    x = correlated_fields(3, seed=2) * prior.mask
    wiener = prior.mean.flatten() + (x - prior.mean).flatten(1) @ gain
    torch.testing.assert_close(prior.filter(x, sigma).flatten(1), wiener, atol=1e-12, rtol=0)
    columns = torch.eye(prior.mask.numel(), dtype=torch.float64).reshape(-1, *SHAPE)
    M, root = prior.apply_M(columns, sigma).flatten(1), prior.sqrt_M(columns, sigma).flatten(1)
    torch.testing.assert_close(M, sigma**2 * gain, atol=1e-12, rtol=0)
    torch.testing.assert_close(root @ root, M, atol=1e-12, rtol=0)
    torch.testing.assert_close(prior.diagonal(prior.error_variances(sigma)).flatten(), M.diagonal(), atol=1e-12, rtol=0)
    weights = torch.tensor([[[1.0, 0], [0, 0]], [[2, 0.5], [0.5, 0.7]], [[1, 1], [1, 1]]]).double()
    points = SHAPE[1] * SHAPE[2]
    whole = torch.stack([M * w.kron(torch.ones(points, points)) for w in weights])
    expected = (whole @ x.flatten(1)[..., None])[..., 0]
    found = prior.apply_weighted(x, sigma, weights, [[0], [1]])
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-12, rtol=0)
    found = prior.apply_weighted(x, sigma, weights[:1], [[0]])
    torch.testing.assert_close(found.flatten(1), x.flatten(1) @ whole[0], atol=1e-12, rtol=0)
    found = prior.apply_weighted(x, sigma, weights[2:], [[0, 1]])
    torch.testing.assert_close(found, prior.apply_M(x, sigma), atol=1e-12, rtol=0)
    points = prior.mask.flatten(1).sum(1)
    diagonal = M.diagonal().reshape(SHAPE).sum((1, 2)) / points
    torch.testing.assert_close(prior.error_std(sigma).flatten() ** 2, diagonal, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_have_mean_and_cross_covariance(name):
    prior, n = PRIORS[name], 20_000
    noise = torch.randn(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    draws = prior.sample(noise).flatten(1)
    C = dense(prior, prior.variances)
    scale = C.diagonal().clamp(min=1e-12).sqrt()
    error = (draws.T.cov() - C) / (scale[:, None] * scale)
    valid = prior.mask.flatten()
    # the largest of d^2 entries, each with a standard error of at most sqrt(2 / n)
    assert error[valid][:, valid].abs().max() < 6 * (2 / n) ** 0.5
    assert (draws[:, ~valid] == 0).all()


def test_spectral_is_the_periodic_covariance_of_the_data():
    x = correlated_fields(400)
    C = dense(PRIORS["spectral periodic/periodic"], PRIORS["spectral periodic/periodic"].variances)
    anomalies = x - x.mean(0)
    shifts = [torch.roll(anomalies, (j, i), (2, 3)).flatten(1) for j in range(SHAPE[1]) for i in range(SHAPE[2])]
    empirical = sum(s.T @ s for s in shifts) / len(shifts) / (len(x) - 1)
    torch.testing.assert_close(C, empirical, atol=1e-12, rtol=0)


def test_eof_recovers_a_low_rank_covariance():
    generator = torch.Generator().manual_seed(4)
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    basis = torch.linalg.qr(torch.randn(64, 3, generator=generator, dtype=torch.float64))[0]
    amplitudes = torch.randn(4000, 3, generator=generator, dtype=torch.float64) * torch.tensor([6.0, 4.0, 2.0])
    x = amplitudes @ basis.T + 0.1 * torch.randn(4000, 64, generator=generator, dtype=torch.float64)
    prior = fit_eof(x.reshape(-1, 1, 8, 8), mask, None, None)
    assert prior.variances[:3].tolist() == pytest.approx([36, 16, 4], rel=0.06)
    assert float(prior.variances[3:63].mean()) == pytest.approx(0.01, rel=0.05)


def test_what_modes_leave_is_of_each_channel():
    """A field of three modes keeps its own smoothness beside one of which half the variance is not in any mode kept."""
    prior = PRIORS["eof by channel"]
    rough, smooth = prior.tau2.tolist()
    assert smooth < 1e-12 * rough and prior.vectors.shape[1] == 15
    drawn = prior.sample(torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    spectrum = torch.linalg.svdvals((drawn - prior.mean)[:, 1].flatten(1)) ** 2
    assert float(spectrum[3:].sum()) < 1e-10 * float(spectrum.sum())


def test_few_samples_shrink_towards_a_homogeneous_covariance():
    """Twelve smooth fields on a grid with land: held-out fields are far likelier than by the sample's own variances."""
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[:, 2:4, 2:5] = False
    few, held_out = correlated_fields(12, seed=5) * mask, correlated_fields(200, seed=6) * mask
    prior = fit_eof(few, mask, None, 12.0)
    anomalies = prior.to_modes(held_out - prior.mean)
    r = prior.vectors.shape[1]
    ratio = anomalies[:, :r].square().mean(0) / prior.variances[:r]
    assert 0.3 < float(ratio.median()) < 3
    sample = torch.linalg.svd((few - few.mean(0))[:, mask], full_matrices=False)
    alone = ((held_out - few.mean(0))[:, mask] @ sample.Vh[:11].T).square().mean(0) / (sample.S[:11] ** 2 / 11)
    assert float(alone.min()) < 0.5


@pytest.mark.parametrize("name", PRIORS)
def test_round_trip_and_precision(name):
    prior = PRIORS[name]
    again = prior_from_dict(prior.to_dict())
    x = correlated_fields(2) * prior.mask
    assert torch.equal(again.filter(x, 0.5), prior.filter(x, 0.5))
    single = prior.cast(torch.float32).filter(x.float(), torch.tensor([0.5, 0.5]))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), prior.filter(x, 0.5), atol=1e-5, rtol=0)


def test_auto_takes_modes_from_the_grid():
    x, whole = correlated_fields(300), torch.ones(SHAPE, dtype=torch.bool)
    assert isinstance(fit_prior("auto", x, whole, boundary=("periodic", "open")), Spectral)
    assert fit_prior("auto", x[:50], whole).kind == "eof"
    with pytest.raises(ValueError, match="white"):
        fit_prior("white", x, whole)
