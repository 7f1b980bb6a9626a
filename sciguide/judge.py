"""Measures one method after another by the same evidence, in records that say one number each.

Residuals are root mean squares over the scale of the equation in the training data, in float64, by the operator that
guides; distribution metrics are those of `comparison`, scores against a truth those of `scores`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sciguide import metrics, scores
from sciguide.baselines import MISMATCHED, Method
from sciguide.bootstrap import PERCENT, disjoint, interval, resample
from sciguide.comparison import Row, compare
from sciguide.evidence import Evidence

DATA = "held-out data"
LEAST, LEAST_REFERENCE = 2, 8  # samples for distribution metrics
MOST_TRAINING = 512  # training samples, evenly spaced, that principal components come from
WORK = 1.3e7  # values per resample times resamples, which decides how many there are
CHEAP = 200  # resamples of what costs nothing to resample


class Record(NamedTuple):
    """One number: `value` with the ends of its 95 % interval (NaN where there is none), of `n` samples."""

    method: str
    variable: str
    metric: str
    value: float
    low: float
    high: float
    n: int


class Judge:
    """`resamples`: of the bootstrap, and splits of the data; by default from the size of the fields."""

    def __init__(self, evidence: Evidence, resamples: int | None, seed: int) -> None:
        self.evidence, self.seed, self.weights = evidence, seed, evidence.weights
        self.names = evidence.layout.names
        self.equations = evidence.model.constraints() if evidence.model else []
        held = len(evidence.reference.fields) if evidence.reference else 0
        self.distributions = len(evidence.samples) >= LEAST and held >= LEAST_REFERENCE
        size = (len(evidence.samples) + held) * np.count_nonzero(self.weights)
        self.resamples = resamples or int(np.clip(WORK / size, 10, 100))
        self.fewer = max(2, self.resamples // 4)
        grid = evidence.grid
        whole = bool((self.weights > 0).all()) and not grid.sphere and all(grid.geometry().uniform)
        self.periodic = tuple(b == "periodic" for b in grid.boundary) if whole else None
        self.held_near: NDArray | None = None

    def all_of(self, method: Method) -> list[Record]:
        """Everything that can be said of a trivial method, with fewer resamples than the ensemble gets."""
        out = self.residuals(method)
        if self.distributions and len(method.fields) >= LEAST:
            out += [Record(method.name, r.variable, r.metric, *r[2:5], r.n) for r in self.compared(method.fields, True)]
        return out + self.scored(method)

    def residuals(self, method: Method, block: int = 1) -> list[Record]:
        """Root mean square of each equation's residual over its scale, over samples, area and valid cells."""
        x = torch.from_numpy(np.where(self.evidence.layout.mask, method.fields, 0).astype(np.float64))
        out = []
        for equation in self.equations:
            parts = [equation.operator.energy(equation.channels.fields(part)) for part in x.split(32)]
            square = torch.cat(parts).numpy()
            found = self._bootstrap(lambda i, r=square: np.sqrt(r[i].mean(keepdims=True)), len(square), CHEAP, block)
            out += [Record(method.name, equation.name, "residual", *found[0], len(square))]
        return out

    def compared(self, fields: NDArray, few: bool = False) -> list[Row]:
        """The table of `compare`; its novelty is among all training samples, not among those of the components."""
        e, n = self.evidence, self.fewer if few else self.resamples
        options: dict[str, Any] = {"periodic": self.periodic, "spacing": e.grid.spacing, "block": e.block}
        if e.training is not None:
            options["training"] = np.asarray(e.training[:: -(-len(e.training) // MOST_TRAINING)])
        held, splits = e.reference.fields, 1 if few else n
        rows = compare(fields, held, self.weights, self.names, **options, resamples=n, splits=splits, seed=self.seed)
        rows = [row for row in rows if row.metric != "novelty"]
        return rows if e.training is None else [*rows, self._novelty(fields)]

    def floors(self, rows: list[Row]) -> list[Record]:
        """The data against itself, from the table of the ensemble."""
        return [Record(DATA, r.variable, r.metric, r.floor, r.floor_low, r.floor_high, r.n) for r in rows]

    def _novelty(self, fields: NDArray) -> Row:
        e, generator = self.evidence, np.random.default_rng(self.seed)
        if self.held_near is None:
            self.held_near = metrics.nearest_distance(e.reference.fields, e.training, self.weights)
        near, held = metrics.nearest_distance(fields, e.training, self.weights), self.held_near

        def ratio(a: NDArray, b: NDArray) -> float:
            return float(np.median(a) / np.median(b))

        draws = [(resample(len(near), generator), resample(len(held), generator, e.block)) for _ in range(CHEAP)]
        value, low, high = interval(ratio(near, held), [ratio(near[i], held[j]) for i, j in draws])
        half = len(held) // 2
        pairs = [disjoint(len(held), (half, len(held) - half), generator, e.block) for _ in range(CHEAP)]
        floor = np.percentile([ratio(held[i], held[j]) for i, j in pairs], PERCENT)
        ends = float(value), max(float(low), 0.0), float(high)
        return Row("novelty", "all", *ends, float(floor[1]), float(floor[0]), float(floor[2]), len(near))

    def scored(self, method: Method) -> list[Record]:
        """Fair CRPS, rms error of the mean and spread over error against the truth, if there is one."""
        truth = self.evidence.truth
        if truth is None or method.name == MISMATCHED:
            return []  # pairs of held-out samples, among which the truth may be
        functions: dict[str, Callable] = {"rmse": rmse}
        if len(method.fields) >= 2:
            functions |= {"crps": scores.crps, "spread_error": scores.spread_error}
        out = []
        for metric, function in functions.items():
            of = lambda i, f=function: f(method.fields[i], truth[0], self.weights)  # noqa: E731
            found = self._bootstrap(of, len(method.fields), self.fewer)
            n = len(method.fields)
            out += [Record(method.name, v, metric, *f, n) for v, f in zip(self.names, found, strict=True)]
        return out

    def _bootstrap(
        self, of: Callable[[NDArray], NDArray], n: int, times: int, block: int = 1
    ) -> list[tuple[float, float, float]]:
        """Values (K,) of a function of the samples' indices, each with its interval."""
        value = of(np.arange(n))
        if n < 2:
            return [(float(v), np.nan, np.nan) for v in value]
        generator = np.random.default_rng(self.seed)
        drawn = [of(resample(n, generator, min(block, n))) for _ in range(times)]
        _, low, high = interval(value, drawn)
        return [(float(v), max(float(a), 0.0), float(b)) for v, a, b in zip(value, low, high, strict=True)]


def rmse(ensemble: NDArray, truth: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Root mean square error of the ensemble's mean, (C,), in the unit of each field."""
    mean = np.mean(ensemble, 0, dtype=np.float64, keepdims=True)
    pairs = zip(metrics.valid_points(mean, weights), metrics.valid_points(truth[None], weights), strict=True)
    return np.array([np.sqrt(((a - b) ** 2 @ w)[0]) for (a, w), (b, _) in pairs])
