"""How an ensemble forecast compares with what came true, point by point: CRPS, spread over error, ranks.

`ensemble` is (M, ..., C, Y, X), its members first, `truth` (..., C, Y, X) with the same cases in the middle;
`weights`, (C, Y, X) or (Y, X), are cell areas, zero off the mask, where both may hold anything. Results are per
channel, averaged over cases and area.
"""

import numpy as np
from numpy.typing import NDArray

from sciguide.metrics import Array, valid_points


def _points(ensemble: Array, truth: Array, weights: Array) -> list[tuple[NDArray, NDArray, NDArray]]:
    """Per channel the ensemble (M, cases, P), the truth (cases, P) and the weights (P,), of the points that count."""
    if len(ensemble) < 2 or ensemble.shape[1:] != truth.shape:
        raise ValueError(f"an ensemble {ensemble.shape} of at least two does not fit the truth {truth.shape}")
    grid = truth.shape[-3:]
    forecasts = valid_points(ensemble.reshape(-1, *grid), weights)
    truths = valid_points(truth.reshape(-1, *grid), weights)
    pairs = zip(forecasts, truths, strict=True)
    return [(f.reshape(len(ensemble), -1, f.shape[1]), t, w) for (f, w), (t, _) in pairs]


def crps_points(ensemble: Array, truth: Array) -> NDArray[np.float64]:
    """Fair CRPS of each value: (M, ...) and (...) to (...), in the unit of the field.

    mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1)): its expectation over ensembles does not depend on M. The
    double sum is 2 sum_i (2 i - M - 1) x_(i) over the sorted members. Ferro, QJRMS 140 (2014).
    """
    x = np.sort(np.asarray(ensemble, np.float64), axis=0)
    m = len(x)
    rank = 2.0 * np.arange(1, m + 1) - m - 1
    return np.abs(x - truth).mean(0) - np.tensordot(rank, x, 1) / (m * (m - 1))


def crps(ensemble: Array, truth: Array, weights: Array) -> NDArray[np.float64]:
    """The mean of `crps_points` over cases and area, (C,), in the unit of each field."""
    return np.array([crps_points(f, t).mean(0) @ w for f, t, w in _points(ensemble, truth, weights)])


def spread_error(ensemble: Array, truth: Array, weights: Array) -> NDArray[np.float64]:
    """Spread over error, (C,): sqrt(mean variance (ddof 1) x (M + 1) / M) over the rms error of the ensemble mean.

    1 for a calibrated ensemble, below 1 it is too sure. M >= 16 for a ratio of use. Fortin et al., J. Hydrometeorol. 15
    (2014).
    """
    out = []
    for forecast, truth_, w in _points(ensemble, truth, weights):
        m = len(forecast)
        variance = forecast.var(0, ddof=1).mean(0) @ w * (m + 1) / m
        out.append(np.sqrt(variance / (((forecast.mean(0) - truth_) ** 2).mean(0) @ w)))
    return np.array(out)


def rank_histogram(ensemble: Array, truth: Array, weights: Array) -> NDArray[np.float64]:
    """Share of the area where the truth has each rank among the members, (C, M + 1); flat, 1 / (M + 1), if calibrated.

    A tie with t members shares its weight among the t + 1 ranks. Hamill, Mon. Wea. Rev. 129 (2001).
    """
    out = []
    for forecast, truth_, w in _points(ensemble, truth, weights):
        below, ties = (forecast < truth_).sum(0), (forecast == truth_).sum(0)
        share = w / (ties + 1) / len(truth_)
        edges = np.bincount(below.ravel(), share.ravel(), len(forecast) + 2)
        edges -= np.bincount((below + ties + 1).ravel(), share.ravel(), len(forecast) + 2)
        out.append(np.cumsum(edges)[:-1])
    return np.array(out)
