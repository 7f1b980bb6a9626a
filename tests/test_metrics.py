"""Metrics against closed forms, scipy, scoringrules and brute force; then every cheat is flagged and truth is not."""

import numpy as np
import pytest
import scipy.stats
import scoringrules

from sciguide import metrics, scores
from sciguide.bootstrap import Interval, bootstrap, disjoint, monte_carlo_floor, paired_bootstrap, resample
from sciguide.comparison import compare, flags

Y, X = 12, 14
rng = np.random.default_rng(5)
LAND = rng.random((Y, X)) < 0.2
LAT = np.broadcast_to(np.cos(np.deg2rad(np.linspace(10, 70, Y)))[:, None], (Y, X))
SEA = np.where(LAND, 0.0, LAT)
FLAT = np.ones((Y, X))


def fields(n, seed, smooth=2.0):
    """(n, 2, Y, X): K, a periodic field with a mean, and p, another with part of K in it, of ten times its size."""
    generator = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(Y, 1 / Y)[:, None], np.fft.fftfreq(X, 1 / X)
    amplitude = (1 + ky**2 + kx**2) ** (-smooth / 2)
    z = np.fft.ifft2(amplitude * np.fft.fft2(generator.normal(size=(n, 2, Y, X)))).real
    k = z[:, 0] / z[:, 0].std() + 2 + np.sin(np.arange(X))
    return np.stack([k, 10 * (0.8 * (k - 2) + 0.6 * z[:, 1] / z[:, 1].std())], axis=1)


def masked(x, land=np.nan):
    return np.where(LAND, land, x)


def test_amplitudes_by_construction():
    x = fields(40, 0)
    mean = x.mean(0)
    assert metrics.std_ratio(mean + 0.5 * (x - mean), x, SEA) == pytest.approx(0.5)
    by_hand = [np.sqrt(np.average(x[:, c].var(0, ddof=1), weights=SEA)) for c in range(2)]
    assert metrics.anomaly_std(x, SEA) == pytest.approx(by_hand)
    shift = np.array([0.3, -4.0])
    assert metrics.mean_error(x + shift[:, None, None], x, SEA) == pytest.approx(np.abs(shift) / by_hand)
    # Copies of the mean field: the pooled spread is nearly that of the data, the spread between samples is nothing.
    copies = np.repeat(100 * np.arange(X) + mean[None], 30, 0)
    assert copies.std() / (x + 100 * np.arange(X)).std() > 0.9
    assert metrics.std_ratio(copies, x, SEA) == pytest.approx(0, abs=1e-10)


def test_tails_against_scipy():
    x = fields(50, 1)
    anomalies = (x - x.mean(0)).transpose(1, 0, 2, 3).reshape(2, -1)
    expected = (anomalies**4).mean(1) / (anomalies**2).mean(1) ** 2
    assert metrics.kurtosis(x, FLAT) == pytest.approx(expected)
    assert metrics.kurtosis(np.repeat(x[:1], 4, 0), FLAT).tolist() == pytest.approx([0, 0], abs=10)
    assert metrics.quantile(x, FLAT) == pytest.approx(np.quantile(anomalies, 0.99, axis=1, method="inverted_cdf"))
    nearly_flat = FLAT * np.linspace(1, 1 + 1e-6, X)  # takes the way of unequal weights
    assert metrics.quantile(x, nearly_flat) == pytest.approx(metrics.quantile(x, FLAT), rel=1e-2)
    heavy = np.random.default_rng(0).laplace(size=(400, 1, Y, X))
    assert metrics.kurtosis(heavy, FLAT)[0] == pytest.approx(6, rel=0.05)
    assert metrics.quantile(heavy, LAT)[0] == pytest.approx(np.log(50), rel=0.02)


@pytest.mark.parametrize("n, m", [(1, 1), (7, 7), (5, 8), (100, 31)])
def test_wasserstein_against_scipy(n, m):
    generator = np.random.default_rng(n)
    a, b = generator.normal(size=n), generator.integers(-2, 3, size=m).astype(float)
    u, v = generator.random(n) + 0.1, generator.random(m) + 0.1
    assert metrics.wasserstein(a, b) == pytest.approx(scipy.stats.wasserstein_distance(a, b))
    assert metrics.wasserstein(a, b, u, v) == pytest.approx(scipy.stats.wasserstein_distance(a, b, u, v))


@pytest.mark.parametrize("weights", [FLAT, SEA])
def test_pooled_wasserstein(weights):
    a, b = fields(6, 2), fields(9, 3)
    for c, found in enumerate(metrics.wasserstein1(a, b, weights)):
        tiled = [np.tile(weights.ravel(), len(z)) for z in (a, b)]
        assert found == pytest.approx(scipy.stats.wasserstein_distance(a[:, c].ravel(), b[:, c].ravel(), *tiled))
    assert metrics.wasserstein1(a + 3.0, a, weights) == pytest.approx(3.0)


def test_principal_components_of_a_known_covariance():
    generator = np.random.default_rng(7)
    patterns = np.linalg.qr(generator.normal(size=(2 * Y * X, 2)))[0].T
    z = generator.normal(size=(60, 2))
    z = np.linalg.qr(z - z.mean(0))[0] * np.sqrt(59) * [3.0, 1.0]  # uncorrelated with variances 9 and 1, exactly
    x = (z @ patterns).reshape(60, 2, Y, X) + 5
    found = metrics.principal_components(x, FLAT)
    assert len(found.std) == 2 and found.axes @ found.axes.T == pytest.approx(np.eye(2), abs=1e-9)
    v = metrics.vectors(x, FLAT, found.scale)
    assert (found.std**2).sum() == pytest.approx((v.var(0, ddof=1)).sum()) == pytest.approx(1.0)
    shares = [0.9, 0.1, 0.0]  # component 1, component 2, the rest
    assert metrics.eof_spectrum(x, FLAT, found) == pytest.approx(shares, abs=1e-3)  # channels weigh alike
    half = x.mean(0) + 0.5 * (x - x.mean(0))
    assert metrics.eof_spectrum(half, FLAT, found) == pytest.approx(np.array(shares) / 4, abs=1e-3)
    p = metrics.project(x, FLAT, found)
    assert metrics.wasserstein1_components(half, x, FLAT, found) == pytest.approx(0.5 * np.abs(p).mean(0))


@pytest.mark.parametrize("periodic", [(True, True), (False, True), (False, False)])
def test_spectrum(periodic):
    dy, dx = 0.5, 0.25
    y, x = np.arange(Y) * dy, np.arange(X) * dx
    # One mode with three periods in x (or six half-periods), of random sign.
    wave = np.cos(2 * np.pi * 3 * x / (X * dx)) if periodic[1] else np.cos(np.pi * 6 * (x + dx / 2) / (X * dx))
    sign = np.array([1.0, -1.0, 1.0, -1.0])
    k, power = metrics.spectrum(sign[:, None, None, None] * wave * np.ones((1, Y, 1)), periodic, (dy, dx))
    assert power.sum() == pytest.approx(power.max()) == pytest.approx(0.5 * 4 / 3)
    assert k[power[0].argmax()] == pytest.approx(3 / (X * dx), abs=0.5 * k[1])
    noise = np.random.default_rng(1).normal(size=(30, 2, Y, X)) * y[:, None]
    k, power = metrics.spectrum(noise, periodic, (dy, dx))
    assert power.sum(1) == pytest.approx(metrics.anomaly_std(noise, FLAT) ** 2)
    assert metrics.spectrum_error(power / 100, power) == pytest.approx([2, 2])
    with pytest.raises(ValueError, match="eof_spectrum"):
        metrics.spectrum(masked(noise), periodic, (dy, dx))


def test_spectrum_of_white_noise_is_flat_per_mode():
    noise = np.random.default_rng(2).normal(size=(300, 1, 16, 16))
    _, power = metrics.spectrum(noise, (True, True), (1.0, 1.0))
    k = np.fft.fftfreq(16, 1 / 16)
    modes = np.bincount(np.rint(np.hypot(k[:, None], k)).astype(int).ravel())
    assert power[0] * 256 / modes == pytest.approx(np.ones(len(modes)), rel=0.15)


def test_energy_distance_against_brute_force(monkeypatch):
    a, b = masked(fields(9, 1)), masked(fields(7, 2) + 0.5)
    std = metrics.anomaly_std(b, SEA)[:, None, None]

    def distance(x, y):
        square = (((x - y) / std) ** 2)[:, ~LAND]
        return np.sqrt(np.mean([np.average(s, weights=SEA[~LAND]) for s in square]))

    def mean(u, v, same):
        return np.mean([distance(x, y) for i, x in enumerate(u) for j, y in enumerate(v) if not (same and i == j)])

    expected = 2 * mean(a, b, False) - mean(a, a, True) - mean(b, b, True)
    assert metrics.energy_distance(a, b, SEA) == pytest.approx(expected)
    monkeypatch.setattr(metrics, "CHUNK", 1000)
    assert metrics.energy_distance(a, b, SEA) == pytest.approx(expected)


def test_energy_distance_of_normals_in_closed_form():
    # E|N(m, s)| = s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2)
    def absolute(m, s):
        return s * np.sqrt(2 / np.pi) * np.exp(-(m**2) / (2 * s**2)) + m * scipy.special.erf(m / (s * np.sqrt(2)))

    generator = np.random.default_rng(3)
    one = np.ones((1, 1))
    shifted, same = [], []
    for _ in range(200):
        a, b = generator.normal(size=(2, 60, 1, 1, 1))
        b = b / b.std(ddof=1)
        shifted.append(metrics.energy_distance(a + 1, b, one))
        same.append(metrics.energy_distance(a, b, one))
    expected = 2 * absolute(1.0, np.sqrt(2)) - 2 * absolute(0.0, np.sqrt(2))
    assert np.mean(shifted) == pytest.approx(expected, abs=4 * np.std(shifted) / np.sqrt(200) + 0.01)
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / np.sqrt(200) + 0.002) and min(same) < 0


def test_resampled_energy_counts_no_sample_against_itself():
    v, w = metrics.vectors(fields(12, 1), FLAT, [1, 10]), metrics.vectors(fields(10, 2), FLAT, [1, 10])
    xy, xx, yy = metrics.distances(v, w), metrics.distances(v, v), metrics.distances(w, w)
    counts = np.array([2, 0, 1] * 4)
    i = np.repeat(np.arange(12), counts)
    within = np.mean([xx[a, b] for a in i for b in i if a != b])
    expected = 2 * xy[i].mean() - within - yy.sum() / 90
    assert metrics.energy_from_distances(xy, xx, yy, counts) == pytest.approx(expected)
    generator = np.random.default_rng(0)
    value = metrics.energy_from_distances(xy, xx, yy)
    counts = [[np.bincount(resample(n, generator), minlength=n) for n in (12, 10)] for _ in range(4000)]
    drawn = [metrics.energy_from_distances(xy, xx, yy, p, q) for p, q in counts]
    assert np.mean(drawn) == pytest.approx(value, abs=5 * np.std(drawn) / np.sqrt(4000) + 0.02 * abs(value))


def test_novelty(monkeypatch):
    training, held_out, fresh = fields(60, 1), fields(40, 2), fields(50, 3)
    assert metrics.novelty(fresh, training, held_out, SEA) == pytest.approx(1, abs=0.1)
    assert metrics.novelty(training[:20], training, held_out, SEA) < 1e-6
    std = metrics.anomaly_std(training, FLAT)[:, None, None]
    by_hand = [np.sqrt((((x - training) / std) ** 2).mean((1, 2, 3)).min()) for x in fresh]
    assert metrics.nearest_distance(fresh, training, FLAT) == pytest.approx(by_hand)
    monkeypatch.setattr(metrics, "CHUNK", 1000)
    assert metrics.nearest_distance(fresh, training, FLAT) == pytest.approx(by_hand)
    assert metrics.novelty(training[:20] + 0.01 * fresh[:20], training, held_out, SEA) < 0.5


@pytest.mark.parametrize("land", [0.0, np.nan, np.inf, 1e36])
def test_land_never_leaks(land):
    x, y = fields(10, 1).astype(np.float32), fields(12, 2).astype(np.float32)
    functions = [
        lambda a, b: metrics.std_ratio(a, b, SEA),
        lambda a, b: metrics.mean_error(a, b, SEA),
        lambda a, b: metrics.wasserstein1(a, b, SEA),
        lambda a, b: metrics.kurtosis(a, SEA),
        lambda a, b: metrics.quantile(a, SEA),
        lambda a, b: metrics.energy_distance(a, b, SEA),
        lambda a, b: metrics.novelty(a, b[:6], b[6:], SEA),
        lambda a, b: metrics.wasserstein1_components(a, b, SEA, metrics.principal_components(b, SEA)),
        lambda a, b: scores.crps(a, b[0], SEA),
        lambda a, b: scores.spread_error(a, b[0], SEA),
        lambda a, b: scores.rank_histogram(a, b[0], SEA),
    ]
    for function in functions:
        assert np.array_equal(function(masked(x, land), masked(y, land)), function(x, y))


def test_broken_members_and_weights_are_refused():
    x = fields(5, 1)
    x[3, 1, 4, 5] = np.nan
    with pytest.raises(ValueError, match="channel 1: not finite inside the mask in 1 samples, first 3"):
        metrics.anomaly_std(x, FLAT)
    for weights in (-FLAT, 0 * FLAT, FLAT * np.nan):
        with pytest.raises(ValueError, match="weights"):
            metrics.anomaly_std(fields(3, 1), weights)


@pytest.mark.parametrize("members", [2, 5, 20])
def test_crps_against_scoringrules(members):
    ensemble, truth = fields(members, 1), fields(1, 2)[0]
    expected = scoringrules.crps_ensemble(truth, ensemble, m_axis=0, estimator="fair")
    assert scores.crps_points(ensemble, truth) == pytest.approx(expected)
    assert scores.crps(ensemble, truth, SEA) == pytest.approx([np.average(e, weights=SEA) for e in expected])


def test_fair_crps_does_not_reward_size():
    generator = np.random.default_rng(0)
    found = [
        scores.crps_points(generator.normal(size=(m, 40000)), generator.normal(size=40000)).mean() for m in (2, 20)
    ]
    assert found == pytest.approx([1 / np.sqrt(np.pi)] * 2, rel=0.03)  # E|X - Y| / 2 for normals


def test_spread_and_ranks_of_a_calibrated_ensemble():
    generator = np.random.default_rng(4)
    signal = generator.normal(size=(30, 1, Y, X))
    ensemble = signal + generator.normal(size=(16, 30, 1, Y, X))
    truth = signal + generator.normal(size=(30, 1, Y, X))
    assert scores.spread_error(ensemble, truth, SEA) == pytest.approx([1.0], rel=0.05)
    sure = signal + 0.5 * (ensemble - signal)
    assert scores.spread_error(sure, truth, SEA) < 0.6
    flat, u_shaped = scores.rank_histogram(ensemble, truth, SEA)[0], scores.rank_histogram(sure, truth, SEA)[0]
    assert flat == pytest.approx(np.full(17, 1 / 17), rel=0.2) and flat.sum() == pytest.approx(1)
    assert u_shaped[0] > 2 / 17 and u_shaped[8] < 1 / 17


def test_ranks_by_hand():
    ensemble = np.array([0.0, 0.0, 1.0]).reshape(3, 1, 1, 1) * np.ones((1, 1, 1, 2))
    truth = np.array([[[0.0, 2.0]]])
    assert scores.rank_histogram(ensemble, truth, np.array([[3.0, 1.0]])) == pytest.approx(
        np.array([[0.25, 0.25, 0.25, 0.25]])
    )
    with pytest.raises(ValueError, match="does not fit"):
        scores.crps(ensemble[:1], truth, np.ones((1, 2)))


def test_bootstrap_covers_the_mean():
    generator = np.random.default_rng(6)
    hits = 0
    for trial in range(200):
        found = bootstrap(generator.normal(size=50), np.mean, n=200, seed=trial)
        hits += found.low < 0 < found.high
    assert 0.88 <= hits / 200 <= 0.98
    assert bootstrap(np.arange(9.0), np.mean, seed=1) == bootstrap(np.arange(9.0), np.mean, seed=1)
    two = bootstrap((np.arange(9.0), np.arange(5.0)), lambda a, b: a.mean() - b.mean(), n=50)
    assert isinstance(two, Interval) and two.value == 2.0


def test_blocks_for_what_remembers():
    # AR(1) with coefficient .9: the mean of n values has the variance of n / 19 independent ones.
    generator = np.random.default_rng(0)
    series, noise = np.zeros(4000), generator.normal(size=4000) * np.sqrt(1 - 0.81)
    for t in range(1, 4000):
        series[t] = 0.9 * series[t - 1] + noise[t]
    width = {b: np.ptp(bootstrap(series, np.mean, n=400, block=b)[1:]) for b in (1, 100)}
    theory = 2 * 1.96 * series.std() * np.sqrt(19 / 4000)
    assert width[100] == pytest.approx(theory, rel=0.25) and width[1] < 0.35 * theory
    with pytest.raises(ValueError, match="block"):
        resample(5, generator, 6)


def test_pairs_are_drawn_together():
    generator = np.random.default_rng(0)
    difficulty = 10 * generator.normal(size=60)
    a, b = difficulty + 1 + 0.1 * generator.normal(size=60), difficulty + 0.1 * generator.normal(size=60)
    paired, free = paired_bootstrap(a, b), bootstrap((a, b), lambda x, y: x.mean() - y.mean())
    assert paired.value == pytest.approx(1, abs=0.1) and paired.low > 0.9 and free.low < 0
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap(a, b[1:])


def test_the_floor_is_what_two_true_sets_score():
    reference = np.random.default_rng(0).normal(size=400)
    floor = monte_carlo_floor(reference, metrics.wasserstein, n=100)
    fresh = np.random.default_rng(1)
    true = [metrics.wasserstein(fresh.normal(size=200), fresh.normal(size=200)) for _ in range(100)]
    assert floor.value == pytest.approx(np.median(true), rel=0.2)
    assert floor.low < floor.value < floor.high < 3 * np.median(true)
    for block in (1, 7):
        a, b = disjoint(40, (15, 20), fresh, block)
        assert (len(a), len(b)) == (15, 20) and not set(a) & set(b) and set(a) | set(b) <= set(range(40))
        assert (np.diff(a) == 1).mean() > (0.6 if block > 1 else -1)
    with pytest.raises(ValueError, match="cannot be split"):
        disjoint(10, (6, 5), fresh)


def cheats(training, reference, generator):
    n = 120
    fresh = fields(n, 99)
    mean = training.mean(0)
    pixels = np.stack([generator.permuted(fresh[:, c].reshape(n, -1), axis=0).reshape(n, Y, X) for c in range(2)], 1)
    return {
        "collapsed": np.repeat(mean[None], n, 0) + 1e-3 * (fresh - mean),
        "the same field over and over": np.repeat(mean[None], n, 0),
        "half amplitude": mean + 0.5 * (fresh - mean),
        "one field at 0.8": np.stack([fresh[:, 0], mean[1] + 0.8 * (fresh[:, 1] - mean[1])], 1),
        "shuffled pairs": np.stack([fresh[:, 0], fresh[generator.permutation(n), 1]], 1),
        "shuffled pixels": pixels,
        "copied": training[:n],
        "nearly copied": training[:n] + 0.03 * (fresh - mean),
        "shifted": fresh + 0.5 * fresh.std((0, 2, 3))[:, None, None],
        "smoothed": (fresh + np.roll(fresh, 1, 2) + np.roll(fresh, 1, 3)) / 3,
        "clipped": np.clip(fresh, *np.quantile(fresh, [0.1, 0.9], axis=(0, 2, 3))[:, :, None, None]),
    }


@pytest.mark.parametrize("grid", ["masked", "periodic"])
def test_every_cheat_is_flagged_and_the_truth_is_not(grid):
    training, reference = fields(200, 11), fields(160, 12)
    weights, periodic = (SEA, None) if grid == "masked" else (FLAT, (True, True))
    land = masked if grid == "masked" else (lambda x: x)
    settings = {"training": land(training), "periodic": periodic, "resamples": 2, "splits": 25}

    def raised(samples):
        return flags(compare(land(samples), land(reference), weights, ["K", "p"], **settings))

    for seed in (21, 22):
        assert raised(fields(120, seed)) == []
    expected = {
        "collapsed": "std_ratio",
        "half amplitude": "std_ratio",
        "copied": "novelty",
        "nearly copied": "novelty",
    }
    expected |= {"shifted": "mean_error", "shuffled pairs": "w1_component", "shuffled pixels": "w1_component"}
    expected |= {"clipped": "kurtosis", "one field at 0.8": "std_ratio of p"}
    for name, samples in cheats(training, reference, np.random.default_rng(1)).items():
        found = raised(samples)
        assert found, name
        assert any(line.startswith(expected.get(name, "")) for line in found), (name, found)


def test_the_table():
    table = compare(fields(30, 1), fields(40, 2), SEA, ["K", "p"], training=fields(50, 3), resamples=20, splits=20)
    assert {(r.metric, r.variable) for r in table} >= {
        ("std_ratio", "K"),
        ("energy_distance", "all"),
        ("novelty", "all"),
    }
    for row in table:
        assert np.isfinite(row[2:]).all() and row.low <= row.value <= row.high and row.n == 30
        assert row.floor_low <= row.floor <= row.floor_high
    again = compare(fields(30, 1), fields(40, 2), SEA, ["K", "p"], training=fields(50, 3), resamples=20, splits=20)
    assert table == again
    with pytest.raises(ValueError, match="at least"):
        compare(fields(30, 1), fields(5, 2), SEA, ["K", "p"])
