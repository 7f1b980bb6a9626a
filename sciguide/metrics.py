"""How an ensemble compares with data: amplitudes, marginals, joint structure, copies. Pure numpy, no tables, no files.

Fields are (N, C, Y, X) in any real dtype; `weights`, (C, Y, X) or (Y, X), are cell areas, zero off the mask, where the
fields may hold anything, NaN included. Within a channel the weights are made to sum to 1: mean_w below. Moments are of
*anomalies* about each set's own mean field, so a shift of the mean is seen by `mean_error` and by nothing else, and a
varied mean field never passes for variability. What mixes channels divides each by its anomaly standard deviation in
the reference. All arithmetic is in float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, fft

NEGLIGIBLE = 1e-8  # share of the variance below which a band of a spectrum is rounding
CHUNK = 2**24  # numbers held at once by `distances` and `nearest_distance`
ENOUGH = 2000  # samples from which principal components are estimated, evenly spaced if there are more

Array = NDArray[np.floating]


def cell_weights(weights: Array, channels: int) -> NDArray[np.float64]:
    """`weights` (C, Y, X) or (Y, X) as (C, Y * X), each channel summing to 1; ValueError if negative or all zero."""
    w = np.asarray(weights, np.float64)
    w = np.broadcast_to(w, (channels, *w.shape[-2:])).reshape(channels, -1)
    if not (np.isfinite(w).all() and (w >= 0).all() and (w.sum(1) > 0).all()):
        raise ValueError("weights must be finite, not negative, and positive somewhere in every channel")
    return w / w.sum(1, keepdims=True)


def valid_points(x: Array, weights: Array) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Per channel the values (N, P) at its P points of positive weight, and their weights (P,).

    ValueError where a value there is not finite: a metric of the rest would hide a broken member.
    """
    out = []
    for channel, w in enumerate(cell_weights(weights, x.shape[1])):
        values = np.asarray(x[:, channel].reshape(len(x), -1), np.float64)
        values = values if w.all() else values[:, w > 0]
        if not np.isfinite(values).all():
            broken = np.flatnonzero(~np.isfinite(values).all(1))
            raise ValueError(
                f"channel {channel}: not finite inside the mask in {len(broken)} samples, first {broken[0]}"
            )
        out.append((values, w[w > 0]))
    return out


def _even(weights: Array) -> bool:
    return bool(np.ptp(weights) <= 1e-12 * weights.max())


def anomaly_std(x: Array, weights: Array) -> NDArray[np.float64]:
    """sqrt(mean_w of the variance over samples (ddof 1)), (C,), in the unit of each field."""
    return np.array([np.sqrt(v.var(0, ddof=1) @ w) for v, w in valid_points(x, weights)])


def std_ratio(samples: Array, reference: Array, weights: Array) -> NDArray[np.float64]:
    """`anomaly_std` of the samples over that of the reference, (C,); 1 is right, below 1 the samples are collapsed."""
    return anomaly_std(samples, weights) / anomaly_std(reference, weights)


def mean_error(samples: Array, reference: Array, weights: Array) -> NDArray[np.float64]:
    """sqrt(mean_w of the squared difference of the mean fields) over `anomaly_std` of the reference, (C,)."""
    pairs = zip(valid_points(samples, weights), valid_points(reference, weights), strict=True)
    error = [np.sqrt((a.mean(0) - b.mean(0)) ** 2 @ w) for (a, w), (b, _) in pairs]
    return np.array(error) / anomaly_std(reference, weights)


def kurtosis(x: Array, weights: Array) -> NDArray[np.float64]:
    """mean_w and mean over samples of the anomalies' 4th power, over the square of that of their 2nd, (C,).

    3 for a Gaussian field of equal variance everywhere, more where variances differ from place to place; 0 where
    nothing varies.
    """
    out = []
    for values, w in valid_points(x, weights):
        squares = (values - values.mean(0)) ** 2
        variance = squares.mean(0) @ w
        out.append((squares**2).mean(0) @ w / variance**2 if variance else 0.0)
    return np.array(out)


def quantile(x: Array, weights: Array, q: float = 0.99) -> NDArray[np.float64]:
    """The `q` quantile of all anomalies pooled, each weighing as its cell, (C,), in the unit of each field."""
    out = []
    for values, w in valid_points(x, weights):
        pooled = (values - values.mean(0)).ravel()
        if _even(w):
            rank = min(max(int(np.ceil(q * len(pooled))), 1), len(pooled)) - 1
            out.append(np.partition(pooled, rank)[rank])
            continue
        order = np.argsort(pooled)
        mass = np.cumsum(np.broadcast_to(w, values.shape).ravel()[order])
        out.append(pooled[order[min(np.searchsorted(mass, q * mass[-1]), len(order) - 1)]])
    return np.array(out)


def wasserstein(a: Array, b: Array, a_weights: Array | None = None, b_weights: Array | None = None) -> float:
    """1-Wasserstein distance of two samples of numbers (n,) and (m,): integral of |F_a^-1 - F_b^-1| over [0, 1].

    Exact for any sizes and weights; in the unit of the numbers. Villani, Optimal Transport (2009), section 6.
    """
    if a_weights is None or b_weights is None:
        # The quantile functions step at i / n and j / m: whole numbers in units of 1 / (n m).
        n, m = len(a), len(b)
        steps = np.sort(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
        gap = np.abs(np.sort(a)[(steps - 1) // m] - np.sort(b)[(steps - 1) // n])
        return float(gap @ np.diff(steps, prepend=0) / (n * m))
    values, mass = (
        np.concatenate([a, b]),
        np.concatenate([a_weights / np.sum(a_weights), -b_weights / np.sum(b_weights)]),
    )
    order = np.argsort(values)
    # The same integral taken over the values: |F_a - F_b| between one value and the next.
    return float(np.abs(np.cumsum(mass[order])[:-1]) @ np.diff(values[order]))


def wasserstein1(samples: Array, reference: Array, weights: Array) -> NDArray[np.float64]:
    """`wasserstein` of all values pooled over samples and points, each weighing as its cell, (C,), units of the fields.

    Of the values themselves, means included, as the literature has it: blind to how they are arranged.
    """
    out = []
    for (a, w), (b, _) in zip(valid_points(samples, weights), valid_points(reference, weights), strict=True):
        spread = (None, None) if _even(w) else (np.tile(w, len(a)), np.tile(w, len(b)))
        out.append(wasserstein(a.ravel(), b.ravel(), *spread))
    return np.array(out)


def vectors(x: Array, weights: Array, scale: Array) -> NDArray[np.float64]:
    """Samples as vectors (N, D) with |v|^2 = mean over channels of mean_w (x / scale)^2; `scale`: (C,)."""
    parts = zip(valid_points(x, weights), scale, strict=True)
    return np.concatenate([v * np.sqrt(w / len(scale)) / s for (v, w), s in parts], axis=1)


class Components(NamedTuple):
    """Leading principal components: orthonormal `axes` (K, D) in the space of `vectors`, the standard deviations `std`
    (K,) on them, and the `scale` (C,) of that space."""

    axes: NDArray[np.float64]
    std: NDArray[np.float64]
    scale: NDArray[np.float64]


def principal_components(reference: Array, weights: Array, count: int = 64) -> Components:
    """The `count` leading components of all channels of the reference (N, C, Y, X) together, N / 2 at most.

    The variances on them are inflated for the very samples that they come from, and what is left is deflated: two sets
    are best compared on the components of a third, such as the training data.
    """
    reference = reference[:: -(-len(reference) // ENOUGH)]
    scale = anomaly_std(reference, weights)
    v = vectors(reference, weights, scale)
    v = v - v.mean(0)
    variance, left = np.linalg.eigh(v @ v.T / (len(v) - 1))
    variance, left = variance[::-1], left[:, ::-1]
    count = min(count, max(len(v) // 2, 1), int((variance > 1e-10 * variance[0]).sum()))
    std = np.sqrt(variance[:count])
    return Components((left[:, :count] / (std * np.sqrt(len(v) - 1))).T @ v, std, scale)


def project(x: Array, weights: Array, components: Components) -> NDArray[np.float64]:
    """Anomalies about the set's own mean on each component, in the components' `std`, (N, K)."""
    v = vectors(x, weights, components.scale)
    return (v - v.mean(0)) @ components.axes.T / components.std


def wasserstein1_components(
    samples: Array, reference: Array, weights: Array, components: Components, count: int = 8
) -> NDArray[np.float64]:
    """`wasserstein` of the anomalies on each of the `count` leading components, in the components' `std`, (count,)."""
    a, b = (project(x, weights, components)[:, :count] for x in (samples, reference))
    return np.array([wasserstein(a[:, k], b[:, k]) for k in range(a.shape[1])])


def eof_spectrum(x: Array, weights: Array, components: Components) -> NDArray[np.float64]:
    """The spectrum of masked grids: variance (ddof 1) on component 1, 2 to 3, 4 to 7, ..., and on all that is left.

    (B,), the set of the components having 1 in total. Smooth fields come first, so a blur shows in the last bands.
    """
    v = vectors(x, weights, components.scale)
    v = v - v.mean(0)
    variance = ((v @ components.axes.T) ** 2).sum(0) / (len(v) - 1)
    rest = max((v**2).sum() / (len(v) - 1) - variance.sum(), 0.0)
    starts = 2 ** np.arange(int(np.log2(len(variance))) + 1) - 1
    return np.append(np.add.reduceat(variance, starts), rest)


def spectrum(x: Array, periodic: tuple[bool, bool], spacing: tuple[float, float]) -> tuple[Array, Array]:
    """Isotropic power spectrum of the anomalies on a whole grid: wavenumbers (K,) and power (C, K).

    FFT along periodic axes (y, x), DCT-II along others; wavenumbers in cycles per unit of `spacing` (dy, dx), rounded
    to multiples of the largest fundamental one. The powers of a channel add up to the anomaly variance (ddof 1).
    """
    z = np.asarray(x, np.float64)
    if not np.isfinite(z).all():
        raise ValueError("a Fourier spectrum needs a grid without land or NaN: take `eof_spectrum`")
    z = z - z.mean(0)
    squares, fundamental = [], []
    for axis, (wrap, step) in enumerate(zip(periodic, spacing, strict=True)):
        n = z.shape[2 + axis]
        z = fft(z, axis=2 + axis, norm="ortho") if wrap else dct(z, axis=2 + axis, norm="ortho")
        k = np.abs(np.fft.fftfreq(n, step)) if wrap else np.arange(n) / (2 * n * step)
        squares.append(k**2)
        fundamental.append(k[1] if n > 1 else 0.0)
    power = (np.abs(z) ** 2).sum(0) / (len(z) - 1) / squares[0].size / squares[1].size
    band = np.rint(np.sqrt(squares[0][:, None] + squares[1]) / max(fundamental)).astype(int).ravel()
    kept = np.flatnonzero(np.bincount(band))
    sums = np.stack([np.bincount(band, p.ravel())[kept] for p in power])
    return kept * max(fundamental), sums


def spectrum_error(power: Array, reference: Array) -> NDArray[np.float64]:
    """Rms over bands of log10(power / reference), (..., K) to (...,); bands that are rounding are left out."""
    used = reference > NEGLIGIBLE * reference.sum(-1, keepdims=True)
    tiny = np.finfo(np.float64).tiny
    ratio = np.where(used, np.log10(np.maximum(power, tiny)) - np.log10(np.maximum(reference, tiny)), 0.0)
    return np.sqrt((ratio**2).sum(-1) / used.sum(-1))


def distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances (n, m) of the `vectors` (n, D) and (m, D), in pieces of bounded memory."""
    centre = b.mean(0)  # keeps the cancellation in |a|^2 + |b|^2 - 2 a.b small
    b = b - centre
    b2 = (b**2).sum(1)
    out = np.empty((len(a), len(b)))
    step = max(1, CHUNK // (a.shape[1] + len(b)))
    for i in range(0, len(a), step):
        piece = a[i : i + step] - centre
        square = (piece**2).sum(1)[:, None] + b2 - 2 * piece @ b.T
        out[i : i + step] = np.sqrt(np.where(square > 1e-13 * b2.max(), square, 0.0))
    return out


def energy_from_distances(xy: Array, xx: Array, yy: Array, p: Array | None = None, q: Array | None = None) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| from the matrices of distances, pairs of a sample with itself left out.

    `p` (n,), `q` (m,): how often each sample counts, as in a bootstrap; a sample drawn twice is no pair either, so
    resampling adds no bias. A set that is one sample over and over has no pairs, and no distance within.
    """
    p = np.ones(len(xx)) if p is None else np.asarray(p, np.float64)
    q = np.ones(len(yy)) if q is None else np.asarray(q, np.float64)
    cross = p @ xy @ q / (p.sum() * q.sum())
    within = [c @ d @ c / max(c.sum() ** 2 - (c**2).sum(), 1.0) for c, d in ((p, xx), (q, yy))]
    return float(2 * cross - within[0] - within[1])


def energy_distance(samples: Array, reference: Array, weights: Array) -> float:
    """The energy distance of the joint distributions: an unbiased U-statistic, so negative at times for equal ones.

    Dimensionless: |.| is that of `vectors`, the reference's total standard deviation being 1. Szekely and Rizzo,
    J. Stat. Plan. Inference 143 (2013).
    """
    scale = anomaly_std(reference, weights)
    x, y = (vectors(z, weights, scale) for z in (samples, reference))
    return energy_from_distances(distances(x, y), distances(x, x), distances(y, y))


def nearest_distance(x: Array, training: Array, weights: Array) -> NDArray[np.float64]:
    """Distance of each sample to the nearest training sample, (N,), in standard deviations of the training data."""
    scale = anomaly_std(training, weights)
    v = vectors(x, weights, scale)
    step = max(2, CHUNK // v.shape[1])
    pieces = (vectors(training[i : i + step], weights, scale) for i in range(0, len(training), step))
    return np.min([distances(v, piece).min(1) for piece in pieces], axis=0)


def novelty(samples: Array, training: Array, held_out: Array, weights: Array) -> float:
    """Median `nearest_distance` of the samples over that of held-out data; about 1 if new, below .5 is copying.

    Held-out data that follow the training data in time are near it as well; then so is what counts as new.
    """
    nearest = [np.median(nearest_distance(x, training, weights)) for x in (samples, held_out)]
    return float(nearest[0] / nearest[1])
