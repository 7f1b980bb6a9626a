"""What is measured on a prepared array: mask, mean and spread by channel, and how many samples are independent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from sciguide.errors import InputError

_BLOCK_BYTES = 2**24
_COLUMNS = 2048
_UNDECLARED_FILL = 1e30
_KNOWN_FILLS = (np.float32(1e20), np.float32(-1e20))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each channel over the valid points of the training samples, all (C,).

    `mean` and `std`, area-weighted, are of the logarithm where `log` is set; `minimum` and `maximum` are physical;
    `count` is the number of values.
    """

    mean: np.ndarray
    std: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    count: np.ndarray
    log: np.ndarray

    def to_dict(self) -> dict[str, list[Any]]:
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_dict(cls, state: dict[str, list[Any]]) -> "Statistics":
        return cls(**{key: np.array(values) for key, values in state.items()})


def blocks(array: np.ndarray, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive samples of an array (T, ...), about 16 MiB at a time, as (slice, values in memory)."""
    stop = len(array) if stop is None else stop
    step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(start, stop, step):
        rows = slice(first, min(first + step, stop))
        yield rows, np.asarray(array[rows])


def refuse_bad_values(array: np.ndarray, names: Sequence[str], labels: Sequence[Any]) -> None:
    """Raises InputError for Inf and for numbers that only a fill value can be, naming variable and sample.

    `array`: (T, C, Y, X); `names`: of the channels; `labels`: of the samples, times where there are.
    """
    for rows, block in blocks(array):
        with np.errstate(invalid="ignore"):
            bad = (np.abs(block) >= _UNDECLARED_FILL) | np.isin(block, _KNOWN_FILLS)
        if bad.any():
            t, c = np.argwhere(bad.any((2, 3)))[0]
            value = block[t, c][bad[t, c]][0]
            kind = "infinite values" if np.isinf(value) else f"the value {value:g}, a fill value that is not declared"
            raise InputError(
                f"`{names[c]}` holds {kind} ({bad[t, c].sum()} points of sample {labels[rows.start + t]}): "
                "set its attribute _FillValue, or repair it"
            )


def measure(
    array: np.ndarray, log: np.ndarray, weights: np.ndarray, names: Sequence[str], labels: Sequence[Any]
) -> tuple[Statistics, np.ndarray, np.ndarray]:
    """Statistics of the training samples, the mask and the points that are missing in some samples only.

    `array`: (T, C, Y, X) physical, NaN where missing; `log`: (C,) bool; `weights`: (Y, X) area weights.
    Returns (statistics, mask (C, Y, X), partial (C, Y, X)). Raises InputError for a channel without a value, with one
    value only, or not positive where its logarithm is asked for.
    """
    always = np.ones(array.shape[1:], bool)
    ever = np.zeros(array.shape[1:], bool)
    low, high = (np.full(array.shape[1:], np.nan, np.float32) for _ in range(2))
    origin = None
    first, second = np.zeros(array.shape[1:]), np.zeros(array.shape[1:])
    for _, block in blocks(array):
        finite = np.isfinite(block)
        always &= finite.all(0)
        ever |= finite.any(0)
        low, high = np.fmin(low, np.fmin.reduce(block)), np.fmax(high, np.fmax.reduce(block))
        values = _logarithm(block, log)
        # Sums about the first sample: the variance of 300 +- 0.1 K survives, which that about zero would not.
        origin = np.where(np.isfinite(values[0]), values[0], 0).astype(np.float64) if origin is None else origin
        anomaly = np.where(finite & np.isfinite(values), values - origin, 0)
        first += anomaly.sum(0)
        second += np.square(anomaly).sum(0)
    _refuse_empty(array, always, ever, names, labels)
    for c in np.flatnonzero(log):
        if np.min(low[c], where=always[c], initial=np.inf) <= 0:
            raise InputError(
                f"`log:` names `{names[c]}`, which is not positive everywhere (minimum {np.nanmin(low[c]):g})"
            )
    total = len(array)
    weight = np.where(always, weights, 0)
    weight /= weight.sum((1, 2), keepdims=True)
    point = np.where(always, origin + first / total, 0)
    mean = (weight * point).sum((1, 2))
    within = np.where(always, np.maximum(second / total - (first / total) ** 2, 0), 0)
    variance = (weight * (within + np.square(np.where(always, point - mean[:, None, None], 0)))).sum((1, 2))
    low = np.array([low[c][always[c]].min() for c in range(len(low))])
    high = np.array([high[c][always[c]].max() for c in range(len(high))])
    for c in np.flatnonzero(low == high):
        raise InputError(f"`{names[c]}` is constant ({low[c]:g}) in the training samples: leave it out of `variables:`")
    count = always.sum((1, 2)) * total
    return Statistics(mean, np.sqrt(variance), low, high, count, np.asarray(log)), always, ever & ~always


def _logarithm(block: np.ndarray, log: np.ndarray) -> np.ndarray:
    """`block` (n, C, ...) with the logarithm in the channels that `log` (C,) flags; NaN or -inf where not positive."""
    if not log.any():
        return block
    block = block.copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        block[:, log] = np.log(block[:, log])
    return block


def _refuse_empty(
    array: np.ndarray, always: np.ndarray, ever: np.ndarray, names: Sequence[str], labels: Sequence[Any]
) -> None:
    for c in np.flatnonzero(~always.any((1, 2))):
        if not ever[c].any():
            raise InputError(f"`{names[c]}` is all missing (NaN) in the training samples: leave it out of `variables:`")
        empty = next(
            (
                labels[rows.start + int(t)]
                for rows, block in blocks(array)
                for t in np.flatnonzero(np.isnan(block[:, c]).all((1, 2)))
            ),
            None,
        )
        which = f"sample {empty} is all missing" if empty is not None else "other points are missing each time"
        raise InputError(f"`{names[c]}` has no point with a value in every training sample ({which}): leave those out")


def effective_samples(x: np.ndarray) -> float:
    """The number of independent samples that T correlated ones, (T, D...), are worth.

    T / (1 + 2 sum_k rho_k): rho_k is the autocorrelation at lag k of the anomalies about the time mean, pooled over
    the other dimensions (each counts by its variance) and with the divisor T, which is the factor (1 - k / T) of
    Thiebaux and Zwiers (1984, J. Climate Appl. Meteor. 23, 800); the sum ends where pairs of lags stop being positive,
    the initial positive sequence of Geyer (1992, Statistical Science 7, 473). At most T. Columns with NaN are left out.
    """
    total = len(x)
    flat = np.asarray(x, np.float64).reshape(total, -1)
    flat = flat[:, np.isfinite(flat).all(0)]
    covariance = np.zeros(total)
    for column in range(0, flat.shape[1], 256):
        anomaly = flat[:, column : column + 256]
        spectrum = np.fft.rfft(anomaly - anomaly.mean(0), 2 * total, axis=0)
        covariance += np.fft.irfft(np.square(np.abs(spectrum)).sum(1))[:total]
    if total < 2 or covariance[0] == 0:
        return float(total)
    rho = covariance / covariance[0]
    pairs = rho[0 : total - 1 : 2] + rho[1:total:2]
    stop = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
    return float(min(total, total / max(2 * pairs[:stop].sum() - 1, 1e-12)))


def thinned(array: np.ndarray, statistics: Statistics, mask: np.ndarray) -> np.ndarray:
    """Some valid points of every sample in units of their channel's std, (T, D) float32: for `effective_samples`."""
    columns = np.flatnonzero(mask)
    limit = int(np.clip(_BLOCK_BYTES // max(1, len(array)), 16, _COLUMNS))
    columns = columns[:: max(1, len(columns) // limit)]
    scale = np.broadcast_to(statistics.std[:, None, None], mask.shape).reshape(-1)[columns]
    parts = []
    for _, block in blocks(array):
        values = _logarithm(block, statistics.log).reshape(len(block), -1)[:, columns]
        parts.append(values / scale.astype(np.float32))
    return np.concatenate(parts)
