"""How pairs (log K, p) compare with the solver's: numbers with intervals, and what perfect samples score.

A set is resampled by counts, how often each sample is in it. The moments at all points, the distribution of all values
and the mean distances of hundreds of resampled sets are then products of matrices. Row 0 of the counts is the set
itself, the rest are resamples; the parts of a set (one for each seed) are rows of their own.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciguide import metrics
from sciguide.bootstrap import PERCENT, disjoint, interval

FIELDS = ("log K", "p")
BINS = 4096  # of the values of a field, over twice their range
MOST = 512  # samples whose distances are measured
NONE = (np.nan,) * 3

Array = NDArray[np.float64]


class Number(NamedTuple):
    """`value` with the ends of its 95 % interval and its standard deviation over the parts of the set; and the median
    and interval of what true sets of the same sizes score."""

    metric: str
    variable: str
    value: float
    low: float = np.nan
    high: float = np.nan
    seeds_std: float = np.nan
    floor: float = np.nan
    floor_low: float = np.nan
    floor_high: float = np.nan


class Axis(NamedTuple):
    """Even bins of a field's values; `centre` (P,): what is taken off before moments, so that nothing cancels."""

    low: float
    width: float
    centre: Array

    @classmethod
    def of(cls, x: Array) -> "Axis":
        """Over twice the range of x (N, P)."""
        low, high = x.min(), x.max()
        return cls(low - (high - low) / 2, 2 * (high - low) / BINS, x.mean(0))

    def counts(self, x: Array) -> NDArray[np.float32]:
        """Values of each sample (N, P) in every bin, (N, BINS); the outermost take what lies beyond."""
        out = np.empty((len(x), BINS), np.float32)
        for found, values in zip(out, x, strict=True):
            index = np.clip((values - self.low) / self.width, 0, BINS - 1).astype(int)
            found[:] = np.bincount(index, minlength=BINS)
        return out


class Described(NamedTuple):
    """A field of B resampled sets: mean field (B, P), anomaly standard deviation, kurtosis and .99 quantile of the
    anomalies (B,), and the distribution of all values at the upper ends of the bins (B, BINS)."""

    mean: Array
    std: Array
    kurtosis: Array
    q99: Array
    below: Array

    def rows(self, index: NDArray[np.intp]) -> "Described":
        return Described(*(part[index] for part in self))


def describe(x: Array, counts: Array, axis: Axis) -> Described:
    """The samples x (N, P) counted as often as `counts` (B, N) says."""
    total = counts.sum(1, keepdims=True)
    away = x - axis.centre
    first, second, third, fourth = (counts @ away**k / total for k in (1, 2, 3, 4))
    variance = np.maximum(second - first**2, 0)
    fourth = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    square = variance.mean(1)
    varies = square > 1e-12 * (axis.width * BINS) ** 2
    kurtosis = np.where(varies, fourth.mean(1) / np.where(varies, square, 1) ** 2, 0)
    unbiased = np.sqrt(square * (total / (total - 1))[:, 0])
    anomalies = Axis(-axis.width * BINS / 2, axis.width, axis.centre)
    q99 = _quantile(_distribution(anomalies.counts(x - x.mean(0)), counts), 0.99, anomalies)
    below = _distribution(axis.counts(x), counts)
    return Described(first + axis.centre, unbiased, kurtosis, q99, below)


def _distribution(binned: NDArray[np.float32], counts: Array) -> Array:
    found = np.cumsum((counts.astype(np.float32) @ binned).astype(np.float64), 1)
    return found / found[:, -1:]


def _quantile(below: Array, q: float, axis: Axis) -> Array:
    """Linear within its bin."""
    bin_ = (below < q).sum(1)
    rows = np.arange(len(below))
    before = np.where(bin_ > 0, below[rows, bin_ - 1], 0)
    share = (q - before) / np.maximum(below[rows, bin_] - before, 1e-12)
    return axis.low + axis.width * (bin_ + share)


def compare(a: Described, b: Described, axis: Axis) -> dict[str, Array]:
    """Row by row of both, (B,): W1 of all values in hundredths, as the literature has it; anomaly standard deviation,
    kurtosis and quantile over those of b; and rms difference of the mean fields over the standard deviation of b."""
    return {
        "W1 x 100": 100 * transport(a.below, b.below, axis.width),
        "std ratio": a.std / b.std,
        "mean error": np.sqrt(((a.mean - b.mean) ** 2).mean(1)) / b.std,
        "kurtosis ratio": a.kurtosis / b.kurtosis,
        "q99 ratio": a.q99 / b.q99,
    }


def transport(a: Array, b: Array, width: float) -> Array:
    """The integral of |F_a - F_b| of distributions (B, BINS) that are linear within bins of that width."""
    gap = np.concatenate([np.zeros((len(a), 1)), a - b], 1)
    left, right = np.abs(gap[:, :-1]), np.abs(gap[:, 1:])
    total = np.maximum(left + right, 1e-300)
    crosses = gap[:, :-1] * gap[:, 1:] < 0
    return width * np.where(crosses, (left**2 + right**2) / (2 * total), (left + right) / 2).sum(1)


def parts_of(n: int, parts: int) -> Array:
    """Counts (parts, n) of consecutive equal parts."""
    return np.kron(np.eye(parts), np.ones(n // parts))


class Truth:
    """Training and held-out data, (N, 2, Y, X) of log K and p, with what is measured of them once."""

    def __init__(self, training: NDArray, held: NDArray, resamples: int = 200, seed: int = 0) -> None:
        self.training, self.held, self.resamples, self.seed = training, held, resamples, seed
        self.ones = np.ones(training.shape[-2:])
        self.true = np.concatenate([training, held]).reshape(len(training) + len(held), 2, -1)
        self.axes = [Axis.of(self.true[:, c].astype(np.float64)) for c in range(2)]
        self.counts = self.resampled(len(held), 1)
        flat = held.reshape(len(held), 2, -1).astype(np.float64)
        self.described = [describe(flat[:, c], self.counts, self.axes[c]) for c in range(2)]
        self.scale = metrics.anomaly_std(held, self.ones)
        self.vectors = metrics.vectors(held, self.ones, self.scale)
        self.within = metrics.distances(self.vectors, self.vectors)
        self.near = metrics.nearest_distance(held[:MOST], training, self.ones)
        self.floors: dict[int, dict[tuple[str, str], Array]] = {}

    def resampled(self, n: int, stream: int) -> Array:
        """Counts (1 + resamples, n), the first all one."""
        generator = np.random.default_rng([self.seed, stream])
        drawn = generator.multinomial(n, np.full(n, 1 / n), self.resamples)
        return np.concatenate([np.ones((1, n)), drawn])

    def measure(self, fields: NDArray, parts: int) -> Iterator[Number]:
        """Everything that compares a set (N, 2, Y, X), log K and p, of equal parts with the held-out data."""
        n = len(fields)
        counts = np.concatenate([self.resampled(n, 2), parts_of(n, parts)])
        index = np.concatenate([np.arange(1 + self.resamples), np.zeros(parts, int)])
        flat = fields.reshape(n, 2, -1)
        found: dict[tuple[str, str], Array] = {}
        for c, name in enumerate(FIELDS):
            a = describe(flat[:, c].astype(np.float64), counts, self.axes[c])
            table = compare(a, self.described[c].rows(index), self.axes[c])
            found |= {(metric, name): values for metric, values in table.items()}
        few = np.unique(np.linspace(0, n - 1, min(n, MOST)).astype(int))
        found["energy distance", "both"] = self._energy(fields[few], counts[:, few], self.counts[index])
        near = metrics.nearest_distance(fields[few], self.training, self.ones)
        found["novelty", "both"] = self._novelty(near)
        floors = self.floor(n)
        for key, values in found.items():
            yield self.number(key, values, floors.get(key))

    def number(self, key: tuple[str, str], values: Array, floor: Array | None = None) -> Number:
        """From the value, its resamples, and its parts in a row."""
        ends = interval(values[0], values[1 : 1 + self.resamples])
        parts = values[1 + self.resamples :]
        spread = parts.std(ddof=1) if len(parts) > 1 else np.nan
        floors = NONE if floor is None else np.percentile(floor, PERCENT)[[1, 0, 2]]
        return Number(*key, *map(float, (*ends, spread, *floors)))

    def means(self, key: tuple[str, str], values: Array, parts: int, held: Array | None = None) -> Number:
        """The mean of a number of each sample (N,), with its interval; `held`: that of held-out data."""
        values = np.asarray(values, np.float64)
        counts = np.concatenate([self.resampled(len(values), 2), parts_of(len(values), parts)])
        if held is not None:
            generator = np.random.default_rng([self.seed, 3])
            held = held[generator.integers(len(held), size=(self.resamples, len(values)))].mean(1)
        return self.number(key, counts @ values / counts.sum(1), held)

    def _energy(self, fields: NDArray, counts: Array, held: Array) -> Array:
        v = metrics.vectors(fields, self.ones, self.scale)
        cross, own = metrics.distances(v, self.vectors), metrics.distances(v, v)
        some = np.flatnonzero(counts.sum(1) > 1)
        out = np.full(len(counts), np.nan)
        for i in some:
            out[i] = metrics.energy_from_distances(cross, own, self.within, counts[i], held[i])
        return out

    def _novelty(self, near: Array) -> Array:
        generator = np.random.default_rng([self.seed, 4])
        draws = [near[generator.integers(len(near), size=len(near))] for _ in range(self.resamples)]
        held = [self.near[generator.integers(len(self.near), size=len(self.near))] for _ in range(self.resamples)]
        pairs = [(near, self.near), *zip(draws, held, strict=True)]
        return np.array([np.median(a) / np.median(b) for a, b in pairs])

    def floor(self, n: int) -> dict[tuple[str, str], Array]:
        """The same of disjoint true sets of n samples and as many as are held out, drawn `resamples` times."""
        if n not in self.floors:
            self.floors[n] = self._floor(n)
        return self.floors[n]

    def _floor(self, n: int) -> dict[tuple[str, str], Array]:
        generator = np.random.default_rng([self.seed, 5])
        sizes = (n, min(len(self.held), len(self.true) - n))
        found: dict[tuple[str, str], Array] = {}
        a, b = (np.zeros((self.resamples, len(self.true))) for _ in range(2))
        for i in range(self.resamples):
            for counts, chosen in zip((a, b), disjoint(len(self.true), sizes, generator), strict=True):
                counts[i, chosen] = 1
        for c, name in enumerate(FIELDS):
            x, axis = self.true[:, c].astype(np.float64), self.axes[c]
            table = compare(describe(x, a, axis), describe(x, b, axis), axis)
            found |= {(metric, name): values for metric, values in table.items()}
        # distances among the held-out data alone, whose matrix is there: pairs in the same ratio of sizes
        held, few = len(self.held), min(n, MOST)
        small = max(2, round(held * few / (few + held)))
        pairs = [disjoint(held, (small, held - small), generator) for _ in range(self.resamples)]
        within = self.within
        found["energy distance", "both"] = np.array(
            [metrics.energy_from_distances(within[np.ix_(i, j)], *(within[np.ix_(k, k)] for k in (i, j)))
             for i, j in pairs]
        )  # fmt: skip
        return found
