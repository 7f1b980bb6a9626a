"""How sure a number is: bootstrap intervals, and the Monte-Carlo floor that two sets of the same data reach.

Samples that follow each other in time are resampled in blocks, longer than they remember, of a circle closed by joining
the end to the beginning (Politis and Romano 1992). Intervals are percentiles, 2.5 to 97.5 %, of the resampled values
*about their median*: a distance of resampled sets is larger than that of the sets themselves, whatever they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERCENT = (2.5, 50.0, 97.5)


class Interval(NamedTuple):
    """A value, or an array of values, with the ends of its 95 % interval."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def resample(n: int, generator: np.random.Generator, block: int = 1) -> NDArray[np.intp]:
    """`n` indices in [0, n), drawn with replacement in circular runs of `block`."""
    if not 1 <= block <= n:
        raise ValueError(f"block length {block} is not in 1 to {n}")
    starts = generator.integers(n, size=-(-n // block))
    return ((starts[:, None] + np.arange(block)) % n).ravel()[:n]


def interval(value: ArrayLike, resampled: ArrayLike) -> Interval:
    """The interval of `value` from its resampled values (n, ...)."""
    value = np.asarray(value, np.float64)
    low, middle, high = np.percentile(np.asarray(resampled, np.float64), PERCENT, axis=0)
    return Interval(value, value + low - middle, value + high - middle)


def bootstrap(
    samples: NDArray | tuple[NDArray, ...],
    statistic: Callable[..., ArrayLike],
    n: int = 1000,
    seed: int = 0,
    block: int = 1,
) -> Interval:
    """`statistic` of `samples`, an array (N, ...) or several resampled independently, with its interval."""
    sets = samples if isinstance(samples, tuple) else (samples,)
    generator = np.random.default_rng(seed)
    drawn = [statistic(*(x[resample(len(x), generator, block)] for x in sets)) for _ in range(n)]
    return interval(statistic(*sets), drawn)


def _mean_difference(a: NDArray, b: NDArray) -> NDArray:
    return np.mean(a - b, axis=0)


def paired_bootstrap(
    a: NDArray,
    b: NDArray,
    statistic: Callable[[NDArray, NDArray], ArrayLike] = _mean_difference,
    n: int = 1000,
    seed: int = 0,
    block: int = 1,
) -> Interval:
    """`statistic(a, b)` of two methods' values (N, ...) on the same cases, drawn together; by default mean(a - b).

    For the geometric mean of ratios give logarithms and take the exponential of the interval.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are not pairs")
    generator = np.random.default_rng(seed)
    draws = (resample(len(a), generator, block) for _ in range(n))
    return interval(statistic(a, b), [statistic(a[i], b[i]) for i in draws])


def disjoint(
    n: int, sizes: tuple[int, int], generator: np.random.Generator, block: int = 1
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two disjoint sets of indices in [0, n) of the given `sizes`, whole blocks of time going to one or the other."""
    if min(sizes) < 2 or sum(sizes) > n:
        raise ValueError(f"{n} samples cannot be split into {sizes[0]} and {sizes[1]}")
    # Shuffled blocks in a row, cut once: at most one block is shared between the two.
    starts = np.arange(generator.integers(block), n + block, block)
    blocks = [np.arange(max(0, s - block), min(s, n)) for s in starts]
    order = np.concatenate([blocks[i] for i in generator.permutation(len(blocks))])
    return order[: sizes[0]], order[len(order) - sizes[1] :]


def monte_carlo_floor(
    reference: NDArray,
    metric: Callable[[NDArray, NDArray], ArrayLike],
    n: int = 200,
    seed: int = 0,
    sizes: tuple[int, int] | None = None,
    block: int = 1,
) -> Interval:
    """Median and 95 % interval of `metric(a, b)` for two disjoint sets of the reference: what perfect samples score.

    `sizes`: of a, in place of the samples, and b, in place of the reference; by default two halves.
    """
    sizes = sizes or (len(reference) // 2, len(reference) // 2)
    generator = np.random.default_rng(seed)
    pairs = (disjoint(len(reference), sizes, generator, block) for _ in range(n))
    low, middle, high = np.percentile([metric(reference[a], reference[b]) for a, b in pairs], PERCENT, axis=0)
    return Interval(middle, low, high)
