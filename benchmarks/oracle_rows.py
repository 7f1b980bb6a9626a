"""Rows of the table of relations, one number each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciguide.bootstrap import Interval, bootstrap, paired_bootstrap


class Row(NamedTuple):
    """`value` of a `metric`, with the ends of its 95 % interval where it is an estimate from `n` samples; without an
    interval it is exact. `steps`: evaluations of the denoiser; Heun, which needs an odd number, leaves one unused."""

    study: str
    case: str
    method: str
    steps: int | str
    seed: int | str
    metric: str
    value: float
    low: float | str = ""
    high: float | str = ""
    n: int | str = ""


class Sheet:
    """Rows of one study, case by case."""

    def __init__(self, study: str) -> None:
        self.study = study
        self.rows: list[Row] = []

    def exact(self, case: str, method: str, steps: int | str, seed: int | str, **metrics: float) -> None:
        """Numbers that are no estimates."""
        for metric, value in metrics.items():
            self.rows.append(Row(self.study, case, method, steps, seed, metric, float(value)))

    def estimate(
        self, case: str, method: str, steps: int | str, seed: int | str, metric: str, found: Interval, n: int
    ) -> None:
        ends = map(float, found)
        self.rows.append(Row(self.study, case, method, steps, seed, metric, *ends, n))

    def mean(self, case: str, method: str, steps: int | str, seed: int | str, **metrics: NDArray[np.floating]) -> None:
        """Means over samples, arrays (N,), with bootstrap intervals."""
        for metric, values in metrics.items():
            self.estimate(case, method, steps, seed, metric, bootstrap(np.asarray(values), np.mean, 500), len(values))

    def statistic(
        self,
        case: str,
        method: str,
        steps: int | str,
        seed: int | str,
        metric: str,
        samples: NDArray | tuple[NDArray, ...],
        function: Callable[..., ArrayLike],
        n: int = 200,
    ) -> None:
        """A function of whole sets of samples."""
        first = samples[0] if isinstance(samples, tuple) else samples
        self.estimate(case, method, steps, seed, metric, bootstrap(samples, function, n), len(first))

    def difference(
        self, case: str, method: str, steps: int | str, seed: int | str, metric: str, a: NDArray, b: NDArray
    ) -> None:
        """Mean of a - b over the same cases."""
        self.estimate(case, method, steps, seed, metric, paired_bootstrap(np.asarray(a), np.asarray(b), n=500), len(a))

    def __getitem__(self, key: tuple[Any, ...]) -> float:
        """The value of the row whose fields hold all of `key`, which must be one. For tests and for reading."""
        found = [r for r in self.rows if all(k in (r.case, r.method, r.steps, r.seed, r.metric) for k in key)]
        if len(found) != 1:
            raise KeyError(f"{len(found)} rows for {key}")
        return found[0].value
