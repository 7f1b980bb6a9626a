"""The table of darcy_smooth: what it measures by resampled counts is what `metrics` measures, and its seeds differ."""

import numpy as np
import pytest
import torch

from benchmarks.darcy import DISTANCES, EVALUATION, TUNING, flux_form, logs, refuse_shared
from benchmarks.darcy_figure import draw, flow, markdown, points
from benchmarks.darcy_measures import FIELDS, Axis, Truth, compare, describe, parts_of, transport
from benchmarks.darcy_methods import low_passed, solved, trivial
from benchmarks.darcy_rivals import fitted
from sciguide import metrics
from sciguide.covariance import fit_prior
from sciguide.simulate import darcy_smooth

N, ONES = 16, np.ones((16, 16))


def fields(count: int, seed: int, shift: float = 0.0, size: float = 1.0) -> np.ndarray:
    """Smooth skewed fields (count, 2, N, N)."""
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, N)
    waves = np.stack([np.outer(np.cos(np.pi * a * y), np.cos(np.pi * b * y)) for a in range(4) for b in range(4)])
    x = np.tensordot(rng.standard_normal((count, 2, len(waves))), waves, 1)
    return (size * (x + 0.1 * x**2) + shift).astype(np.float32)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(fields(300, 0), fields(100, 1), resamples=40)


def test_numbers_are_those_of_the_metrics(truth):
    held, samples = truth.held, fields(60, 2, 0.2, 0.9)
    found = {(n.metric, n.variable): n for n in truth.measure(samples, 3)}
    expected = {
        "W1 x 100": 100 * metrics.wasserstein1(samples, held, ONES),
        "std ratio": metrics.std_ratio(samples, held, ONES),
        "mean error": metrics.mean_error(samples, held, ONES),
        "kurtosis ratio": metrics.kurtosis(samples, ONES) / metrics.kurtosis(held, ONES),
        "q99 ratio": metrics.quantile(samples, ONES) / metrics.quantile(held, ONES),
    }
    tolerance = {"W1 x 100": 1e-3, "q99 ratio": 2e-3}  # of bins; moments are exact
    for metric, values in expected.items():
        for name, value in zip(FIELDS, values, strict=True):
            assert found[metric, name].value == pytest.approx(value, rel=tolerance.get(metric, 1e-9)), metric
    energy = metrics.energy_distance(samples, held, ONES)
    assert found["energy distance", "both"].value == pytest.approx(energy, rel=1e-9)
    novelty = metrics.novelty(samples, truth.training, held, ONES)
    assert found["novelty", "both"].value == pytest.approx(novelty, rel=1e-9)
    for number in found.values():
        assert number.low <= number.value <= number.high


def test_parts_are_the_seeds(truth):
    samples = fields(60, 3)
    thirds = samples.reshape(3, 20, 2, N, N)
    found = {(n.metric, n.variable): n for n in truth.measure(samples, 3)}
    each = [metrics.std_ratio(part, truth.held, ONES)[1] for part in thirds]
    assert found["std ratio", "p"].seeds_std == pytest.approx(np.std(each, ddof=1), rel=1e-9)
    r = np.arange(60.0)
    number = truth.means(("R_MAE", "both"), r, 3, np.ones(100))
    assert (number.value, number.seeds_std, number.floor) == pytest.approx((29.5, 20, 1))
    assert parts_of(4, 2).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_true_sets_are_within_their_floor_and_shifted_ones_are_not(truth):
    for samples, inside in ((fields(60, 4), True), (fields(60, 4, 2.0), False)):
        found = {(n.metric, n.variable): n for n in truth.measure(samples, 1)}
        number = found["W1 x 100", "p"]
        stretched = number.floor + 2 * (number.floor_high - number.floor)
        assert (number.value < stretched) is inside
        assert (found["mean error", "p"].value > 3 * found["mean error", "p"].floor_high) is not inside


def test_resampled_rows_are_those_of_repeated_samples():
    x, axis = fields(20, 5)[:, 0].reshape(20, -1).astype(np.float64), None
    axis = Axis.of(x)
    counts = np.random.default_rng(0).multinomial(20, np.full(20, 0.05), 3).astype(np.float64)
    table = compare(describe(x, counts, axis), describe(x, np.ones((3, 20)), axis), axis)
    for row, c in enumerate(counts.astype(int)):
        again = np.repeat(x, c, 0).reshape(20, 1, N, N)
        expected = metrics.std_ratio(again, x.reshape(20, 1, N, N), ONES)[0]
        assert table["std ratio"][row] == pytest.approx(expected, rel=1e-9)


def test_transport_of_lines_that_cross():
    below = np.array([[0.5, 1.0]]), np.array([[0.0, 1.0]])
    assert transport(*below, 2.0)[0] == pytest.approx(0.5 * 2.0)
    crossing = np.array([[0.6, 0.6, 1.0]]), np.array([[0.5, 0.9, 1.0]])  # gaps .1, -.3: zero a quarter of the way
    assert transport(*crossing, 1.0)[0] == pytest.approx(0.05 + (0.1**2 + 0.3**2) / 0.8 + 0.15)


def test_a_constant_field_has_no_tails(truth):
    copies = np.repeat(fields(1, 6), 12, 0)
    found = {(n.metric, n.variable): n.value for n in truth.measure(copies, 1)}
    assert found["std ratio", "p"] == pytest.approx(0, abs=1e-6) and found["kurtosis ratio", "p"] == 0


def test_trivial_rows_and_both_stencils():
    with np.errstate(all="raise"):
        K = np.exp(0.3 * fields(6, 7)[:, 0].astype(np.float64))
        pairs = np.stack([K, darcy_smooth.solve(K)], 1).astype(np.float32)
        made = {m.name: m.pairs for m in trivial(pairs[:4], pairs[4:], 3)}
        error = {name: float(darcy_smooth.r_mae(m[:, 0], m[:, 1]).mean()) for name, m in made.items()}
        assert error["solver data"] < 0.3 * error["zero p"] < error["mismatched (K_i, p_j)"]
        assert error["random training samples"] < 0.3 * error["zero p"]
        source = np.abs(darcy_smooth.source(N))
        assert error["zero p"] == pytest.approx(source.mean() / 3)
        np.testing.assert_allclose(flux_form(made["zero p"]), source[1:-1, 1:-1].mean(), rtol=1e-6)
        again = solved(pairs[4:, 0])
        np.testing.assert_allclose(again, pairs[4:, 1], atol=1e-5 * np.abs(pairs[4:, 1]).max())
        np.testing.assert_array_equal(logs(pairs)[:, 0], np.log(pairs[:, 0]))


def test_least_squares_ends_where_the_set_is():
    """With its own weights and enough iterations p is the set's, but for the constant, which nothing moves."""
    K = np.exp(0.1 * fields(2, 8)[:, 0].astype(np.float64))
    p = darcy_smooth.solve(K)
    wrong = p + 0.1 * np.abs(p).max() * fields(2, 9)[:, 1] / 4
    found = fitted(np.stack([K, wrong], 1), [(1, 40), (0, 800)])
    centred = [x - x.mean((1, 2), keepdims=True) for x in (found, p)]
    np.testing.assert_allclose(*centred, atol=1e-6 * np.abs(p).max())
    np.testing.assert_allclose(found.mean((1, 2)), wrong.mean((1, 2)), atol=1e-9)


def test_low_pass_keeps_long_waves_alone():
    y = (np.arange(32) + 0.5) / 32
    long, short = np.outer(np.cos(15 * np.pi * y), np.ones(32)), np.outer(np.ones(32), np.cos(16 * np.pi * y))
    np.testing.assert_allclose(low_passed((long + short)[None])[0], long, atol=1e-12)


def test_the_picture_and_the_page_show_the_table(tmp_path):
    path = tmp_path / "darcy.csv"
    lines = [
        '"network, unguided",20,8,R_MAE,both,.2,.3',
        '"network, unguided",20,8,re,p,.1,nan',
        '"network, unguided",20,8,W1 x 100,p,.04,.07',
        "solver data,0,8,R_MAE,both,.001,.002",
        "solver data,0,8,re,p,0,nan",
    ]
    path.write_text("\n".join(["# about", "method,evaluations,n,metric,variable,value,floor_high", *lines]))
    found = points(path)
    assert found == {"data": [(0.0, 0.001, False)], "unguided": [(0.1, 0.2, True)]}
    assert "| network, unguided | 20 | 8 | 0.2 | 0.1 |  | 0.04 (.07) |" in markdown(path)
    K = np.exp(0.1 * fields(1, 8)[:, 0].astype(np.float64))
    pairs = np.stack([K, darcy_smooth.solve(K)], 1)
    assert np.abs(flow(pairs)).mean() < 0.3 * np.abs(darcy_smooth.source(N)).mean()
    draw(path, pairs[0], pairs[0], tmp_path / "darcy.png")
    assert (tmp_path / "darcy.png").stat().st_size > 10_000


def test_seeds_are_disjoint():
    refuse_shared(evaluation=list(EVALUATION), tuning=TUNING, training=0, data=0)
    with pytest.raises(AssertionError, match="share a seed"):
        refuse_shared(evaluation=[1, 2], tuning=2, training=0, data=5)
    with pytest.raises(AssertionError, match="share a seed"):
        refuse_shared(evaluation=[1, 2], tuning=3, training=0, data=1)
    assert "R_MAE" in DISTANCES and "std ratio" not in DISTANCES


@pytest.mark.parametrize("sigma_min", [10.0, 0.5, 0.1])
def test_modes_are_kept_down_to_the_smallest_noise(sigma_min):
    """Independent modes of standard deviations 2^-k: what is left is below a tenth of sigma_min, and a
    thousandth of the mean variance."""
    d, n = 64, 4000
    basis = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    stds = 4 * 2.0 ** -torch.arange(d, dtype=torch.float64)
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = ((z * stds) @ basis.T).reshape(n, 1, 8, 8)
    prior = fit_prior("eof", x, torch.ones(1, 8, 8, dtype=torch.bool), sigma_min=sigma_min)
    kept = prior.vectors.shape[1]
    least = min((0.1 * sigma_min) ** 2, 1e-3 * float(stds.square().sum()) / d)
    left = stds.square().flip(0).cumsum(0).flip(0) / (d - torch.arange(d))
    assert kept == pytest.approx(int((left > least).sum()), abs=1)
    assert float(prior.variances[-1]) <= 4 * least
