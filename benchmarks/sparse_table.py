"""How reconstructions compare with the truth, draw by draw, and the rows of the table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.sparse_problems import THRESHOLD, Problem
from sciguide.bootstrap import Interval, bootstrap
from sciguide.scores import crps_points

RESAMPLES = 1000
LEARNED = ", learned variance"
KRIGING = "N(mu, C), kriging, draws", 0
NONE = Interval(*(np.float64(np.nan),) * 3)


class Score(NamedTuple):
    """Of one ensemble in the wanted field: relative L2 `error` of the mean; fair `crps` over the truth's rms, averaged
    over the points, for a single field its mean absolute error; `variance` (ddof 1, times (M + 1) / M) and `square`
    error of the mean, both means over the points; `wrong`: share of points where mean and truth are on different sides
    of the threshold; `residual`: mean R of the members; `seconds` that it took."""

    error: float
    crps: float
    variance: float
    square: float
    wrong: float
    residual: float
    seconds: float


def score(problem: Problem, ensemble: NDArray, residual: NDArray, seconds: float) -> Score:
    """Of an ensemble (M, 2, n, n) whose members have `residual` (M,)."""
    truth, x = problem.truth[problem.channel], np.asarray(ensemble[:, problem.channel], np.float64)
    mean, members = x.mean(0), len(x)
    square = ((mean - truth) ** 2).mean()
    single = members == 1
    crps = np.abs(x[0] - truth).mean() if single else crps_points(x, truth).mean()
    variance = np.nan if single else x.var(0, ddof=1).mean() * (members + 1) / members
    wrong = ((mean >= THRESHOLD) != (truth >= THRESHOLD)).mean()
    size = np.sqrt((truth**2).mean())
    found = (np.sqrt(square) / size, crps / size, variance, square, wrong, np.mean(residual), seconds)
    return Score(*map(float, found))


Key = tuple[str, int]  # a method and its evaluations


def rows(about: Mapping[str, Any], found: Mapping[Key, list[Score]], exact: Key | None, pixels: bool) -> list[dict]:
    """A row for each method's scores of the first of the same draws, numbers in %, intervals over draws.

    `exact`: the method that no other can beat, if there is one: `ratio_to_exact` is the geometric mean over draws of
    the errors over its own. `pixels`: the wanted field has two values, so wrong points count.
    `crps_by_variance_percent`: what the learned variance changes, draw by draw; `crps_over_kriging_percent`: what a row
    has more than the prior alone, conditioned on the same values.
    """
    out, kriging = [], _stacked(found[KRIGING]) if KRIGING in found else None
    for (method, evaluations), scores in found.items():
        s, n = _stacked(scores), len(scores)
        best = _stacked(found[exact][:n]).error if exact else None
        plain = found.get((method.removesuffix(LEARNED), evaluations)) if method.endswith(LEARNED) else None
        intervals = {
            "error_percent": _mean(100 * s.error),
            "wrong_percent": _mean(100 * s.wrong) if pixels else NONE,
            "ratio_to_exact": Interval(*map(np.exp, _mean(np.log(s.error / best)))) if exact else NONE,
            "spread_over_error": bootstrap(np.stack([s.variance, s.square], 1), _spread_over_error, RESAMPLES),
            "crps_percent": _mean(100 * s.crps),
            "crps_by_variance_percent": _mean(100 * (s.crps - _stacked(plain).crps)) if plain else NONE,
            "crps_over_kriging_percent": _mean(100 * (s.crps - kriging.crps[:n])) if kriging else NONE,
        }
        row = {**about, "method": method, "evaluations": evaluations, "draws": n}
        for name, interval in intervals.items():
            row |= _ends(name, interval)
        out.append(row | {"residual": float(np.sqrt(s.residual.mean())), "seconds": float(np.median(s.seconds))})
    return out


def _stacked(scores: list[Score]) -> Score:
    """Each number of all draws, (n,)."""
    return Score(*map(np.array, zip(*scores, strict=True)))


def _mean(values: NDArray) -> Interval:
    return bootstrap(values, np.mean, RESAMPLES)


def _spread_over_error(pairs: NDArray) -> float:
    """Root mean variance over root mean square error, over all draws."""
    return float(np.sqrt(pairs[:, 0].mean() / pairs[:, 1].mean()))


def _ends(name: str, found: Interval) -> dict[str, float]:
    return {name: float(found.value), f"{name}_low": float(found.low), f"{name}_high": float(found.high)}
