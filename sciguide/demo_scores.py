"""How the demo's ensembles compare with the truth and with the exact posterior, problem by problem.

Every number is an array over the test problems first, so that two methods are compared on the same problems: intervals
come from resampling problems, and a difference between two methods from resampling pairs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciguide.bootstrap import Interval, bootstrap, paired_bootstrap
from sciguide.scores import crps_points

RESAMPLES = 1000


class Scores(NamedTuple):
    """Of one method on P problems with fields in the last axis, (P, C): fair `crps` over the points' mean; `error`,
    relative L2 of the ensemble mean; `variance` (ddof 1), `square` error of the mean, both means over the points. And
    `residual` (P,): mean over the members of R."""

    crps: NDArray[np.float64]
    error: NDArray[np.float64]
    variance: NDArray[np.float64]
    square: NDArray[np.float64]
    residual: NDArray[np.float64]
    members: int


def score(ensembles: NDArray, truths: NDArray, residual: NDArray) -> Scores:
    """Of ensembles (P, M, C, Y, X) about truths (P, C, Y, X); `residual` (P, M) is R of every member.

    An ensemble of one member, such as a posterior mean, has no spread, and its CRPS is the absolute error.
    """
    x, truth = np.asarray(ensembles, np.float64), np.asarray(truths, np.float64)
    mean, members = x.mean(1), x.shape[1]
    square = (mean - truth) ** 2
    if members > 1:
        crps = crps_points(np.moveaxis(x, 1, 0), truth).mean((-2, -1))
        variance = x.var(1, ddof=1).mean((-2, -1))
    else:
        crps, variance = np.sqrt(square).mean((-2, -1)), np.full(truth.shape[:2], np.nan)
    error = np.sqrt(square.sum((-2, -1)) / (truth**2).sum((-2, -1)))
    return Scores(crps, error, variance, square.mean((-2, -1)), residual.mean(1), members)


class Line(NamedTuple):
    """One row of the table, each entry an `Interval` over problems, per field (C,) but for `residual`.

    `ratio`: error over the exact posterior mean's, geometric mean over problems; `spread_error`: 1 if calibrated;
    `std_ratio`: spread over the exact posterior's; `residual`: square root of the mean R.
    """

    crps: Interval
    error: Interval
    ratio: Interval
    spread_error: Interval | None
    std_ratio: Interval | None
    residual: Interval


def summarise(scores: Scores, exact_mean: Scores, exact_draws: Scores) -> Line:
    """The row of a method beside the scores of the exact posterior's mean and draws on the same problems."""

    def over(sets: tuple[NDArray, ...], statistic) -> Interval:
        return bootstrap(np.stack(sets, 1), lambda z: statistic(*np.moveaxis(z, 1, 0)), RESAMPLES)

    def root_ratio(a: NDArray, b: NDArray) -> NDArray:
        return np.sqrt(a.mean(0) / b.mean(0))

    log_ratio = over((np.log(scores.error / exact_mean.error),), lambda z: z.mean(0))
    inflated = scores.variance * (scores.members + 1) / scores.members
    spread = scores.members > 1
    return Line(
        crps=over((scores.crps,), lambda z: z.mean(0)),
        error=over((scores.error,), lambda z: z.mean(0)),
        ratio=Interval(*map(np.exp, log_ratio)),
        spread_error=over((inflated, scores.square), root_ratio) if spread else None,
        std_ratio=over((scores.variance, exact_draws.variance), root_ratio) if spread else None,
        residual=over((scores.residual,), lambda z: np.sqrt(z.mean(0))),
    )


def crps_ratio(a: Scores, b: Scores) -> Interval:
    """CRPS of `a` over that of `b`, geometric mean over problems and fields, with its paired interval; below 1 `a` is
    the better."""
    logs = (np.log(s.crps).mean(1) for s in (a, b))
    return Interval(*map(np.exp, paired_bootstrap(*logs, n=RESAMPLES)))


def verdict(name: str, rival: str, ratio: Interval) -> str:
    """In words, whether the method `name` beats `rival` beyond the interval of their CRPS ratio."""
    change, ends = _percent(ratio.value), f"95 % interval {_percent(ratio.low)} to {_percent(ratio.high)}"
    told = f"CRPS changes by {change} ({ends}, paired over problems, mean of both fields)"
    if ratio.high < 1:
        return f"{name} beats {rival} beyond the bootstrap interval: {told}."
    if ratio.low > 1:
        return f"{name} does not beat {rival}; it is worse beyond the bootstrap interval: {told}."
    return f"{name} does not beat {rival} beyond the bootstrap interval: {told}."


def _percent(ratio: float) -> str:
    return f"{100 * (float(ratio) - 1):+.1f} %"


def records(lines: Mapping[str, Line], names: Sequence[str], problems: int) -> list[dict[str, str | float | int]]:
    """Tidy records {method, variable, metric, value, low, high, n} of the table."""
    out = []
    for method, line in lines.items():
        for metric, found in line._asdict().items():
            if found is None:
                continue
            values = np.atleast_1d(np.stack(found, -1)).reshape(-1, 3)
            variables = names if len(values) == len(names) else ["all"]
            for variable, (value, low, high) in zip(variables, values.tolist(), strict=True):
                record = {"method": method, "variable": variable, "metric": metric}
                out.append({**record, "value": value, "low": low, "high": high, "n": problems})
    return out
