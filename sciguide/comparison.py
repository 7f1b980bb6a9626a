"""The table that says how an ensemble differs from data, with intervals and floors, and what of it is alarming.

Of each metric stand side by side the value, its bootstrap interval, and the floor: the same metric between two
disjoint sets of the data itself, their sizes in the ratio of samples to data. The floor's sets are smaller than the
real ones, so it errs on the side of silence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciguide import metrics
from sciguide.bootstrap import PERCENT, disjoint, interval, resample

MARGIN = 2.0  # an alarm is outside the floor's interval stretched by this factor about its median: about 4 sigma
COPYING = 0.5  # novelty below which samples are copies
# Ratios, right at 1: alarming on either side. The others are distances, right at 0.
RATIOS = ("std_ratio", "kurtosis_ratio", "q99_ratio")

Values = dict[tuple[str, str], float]
Indices = Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]


class Row(NamedTuple):
    """One number of the table: `value` with its interval, the floor with its interval, and `n` samples."""

    metric: str
    variable: str
    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float
    n: int


def _values(
    samples: NDArray,
    reference: NDArray,
    weights: NDArray,
    names: Sequence[str],
    components: metrics.Components,
    periodic: tuple[bool, bool] | None,
    spacing: tuple[float, float],
) -> Values:
    """Every metric that is a function of two sets of fields."""
    per_field = {
        "std_ratio": metrics.std_ratio(samples, reference, weights),
        "mean_error": metrics.mean_error(samples, reference, weights),
        "w1": metrics.wasserstein1(samples, reference, weights),
        "kurtosis_ratio": metrics.kurtosis(samples, weights) / metrics.kurtosis(reference, weights),
        "q99_ratio": metrics.quantile(samples, weights) / metrics.quantile(reference, weights),
    }
    if periodic is None:
        spectra = [metrics.eof_spectrum(x, weights, components) for x in (samples, reference)]
        out: Values = {("spectrum_error", "all"): float(metrics.spectrum_error(*spectra))}
    else:
        spectra = [metrics.spectrum(x, periodic, spacing)[1] for x in (samples, reference)]
        per_field["spectrum_error"] = metrics.spectrum_error(*spectra)
        out = {}
    for metric, values in per_field.items():
        out |= {(metric, name): float(v) for name, v in zip(names, values, strict=True)}
    w1 = metrics.wasserstein1_components(samples, reference, weights, components)
    return out | {("w1_component", str(k + 1)): float(v) for k, v in enumerate(w1)}


def compare(
    samples: NDArray,
    reference: NDArray,
    weights: NDArray,
    names: Sequence[str],
    *,
    training: NDArray | None = None,
    periodic: tuple[bool, bool] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    resamples: int = 100,
    splits: int = 100,
    block: int = 1,
    seed: int = 0,
) -> list[Row]:
    """All distribution metrics of `samples` (N, C, Y, X) against held-out data `reference` (M, C, Y, X), M >= 8.

    names: of the C channels. training: what the model saw, for `novelty` and for the principal components; without it
    these come from the reference, and notice less. periodic, spacing: of a grid without land, for its Fourier spectrum;
    None takes the spectrum on principal components. block: correlation length of the data in samples.
    """
    if len(samples) < 2 or len(reference) < 8:
        raise ValueError(f"{len(samples)} samples and {len(reference)} data: at least 2 and 8 are needed")
    samples, reference = np.asarray(samples, np.float64), np.asarray(reference, np.float64)
    share = len(reference) / (len(samples) + len(reference))
    small = max(2, round(share * len(samples)))
    sizes = (min(small, len(reference) - 4), len(reference) - min(small, len(reference) - 4))
    generator = np.random.default_rng(seed)
    draws = [(resample(len(samples), generator), resample(len(reference), generator, block)) for _ in range(resamples)]
    pairs = [disjoint(len(reference), sizes, generator, block) for _ in range(splits)]
    components = metrics.principal_components(reference if training is None else training, weights)

    def values(a: NDArray, b: NDArray) -> Values:
        return _values(a, b, weights, names, components, periodic, spacing)

    found = values(samples, reference)
    drawn = [values(samples[i], reference[j]) for i, j in draws]
    floors = [values(reference[i], reference[j]) for i, j in pairs]
    tables = [found, *drawn, *floors]
    for table, value in zip(tables, _energies(samples, reference, weights, draws, pairs), strict=True):
        table["energy_distance", "all"] = value
    if training is not None:
        for table, value in zip(tables, _novelties(samples, reference, training, weights, draws, pairs), strict=True):
            table["novelty", "all"] = value
    return [_row(key, found, drawn, floors, len(samples)) for key in found]


def _energies(samples: NDArray, reference: NDArray, weights: NDArray, draws: Indices, pairs: Indices) -> list[float]:
    """The energy distance of the sets, of each draw and of each split, from one matrix of distances."""
    scale = metrics.anomaly_std(reference, weights)
    x, y = (metrics.vectors(z, weights, scale) for z in (samples, reference))
    xy, xx, yy = metrics.distances(x, y), metrics.distances(x, x), metrics.distances(y, y)
    counts = [(np.bincount(i, minlength=len(x)), np.bincount(j, minlength=len(y))) for i, j in draws]
    splits = [(yy[np.ix_(i, j)], yy[np.ix_(i, i)], yy[np.ix_(j, j)]) for i, j in pairs]
    drawn = [metrics.energy_from_distances(xy, xx, yy, p, q) for p, q in counts]
    return [metrics.energy_from_distances(xy, xx, yy), *drawn, *(metrics.energy_from_distances(*m) for m in splits)]


def _novelties(
    samples: NDArray, reference: NDArray, training: NDArray, weights: NDArray, draws: Indices, pairs: Indices
) -> list[float]:
    """`metrics.novelty` of the sets, of each draw and of each split, from one search for the nearest."""
    near, held = (metrics.nearest_distance(z, training, weights) for z in (samples, reference))
    sets = [(near, held), *((near[i], held[j]) for i, j in draws), *((held[i], held[j]) for i, j in pairs)]
    return [float(np.median(a) / np.median(b)) for a, b in sets]


def _row(key: tuple[str, str], found: Values, drawn: list[Values], floors: list[Values], n: int) -> Row:
    value, low, high = map(float, interval(found[key], [table[key] for table in drawn]))
    if key[0] != "energy_distance":
        low = max(low, 0.0)  # laid about its median, the interval of a small distance may reach below
    floor_low, floor, floor_high = map(float, np.percentile([table[key] for table in floors], PERCENT))
    return Row(*key, value, low, high, floor, floor_low, floor_high, n)


def flags(table: Sequence[Row]) -> list[str]:
    """What is alarming in a table, one line each; empty if the samples cannot be told from the data.

    Ratios (compared as logarithms) and distances: outside the floor's 95 % interval stretched `MARGIN` times about its
    median, distances only above it. Novelty: below `COPYING`. Of 75 tables of fresh true samples one raised an alarm.
    """
    out = []
    for row in table:
        if row.metric == "novelty":
            wrong = row.value < COPYING
        else:
            numbers = np.array([row.value, row.floor, row.floor_low, row.floor_high])
            ratio = row.metric in RATIOS
            value, middle, low, high = np.log(np.maximum(numbers, 1e-300)) if ratio else numbers
            wrong = value > middle + MARGIN * (high - middle) or (ratio and value < middle - MARGIN * (middle - low))
        if wrong:
            floor = f"{row.floor_low:.3g} to {row.floor_high:.3g}"
            out.append(f"{row.metric} of {row.variable}: {row.value:.3g}, data against data {floor}")
    return out
