"""An ensemble against held-out data and against the trivial methods, and what of it is alarming.

evaluate("runs/last/ensemble").records
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciguide.baselines import KRIGED, MOST, NETWORK, PRIOR, Method, kriged, prior_draws, trivial_methods, unguided
from sciguide.comparison import MARGIN, RATIOS, flags
from sciguide.errors import InputError
from sciguide.evidence import Evidence, gather
from sciguide.judge import DATA, LEAST, LEAST_REFERENCE, Judge, Record
from sciguide.kernels.backends import computed_by
from sciguide.observations import read_observations
from sciguide.provenance import provenance
from sciguide.receipts import sha256

ENSEMBLE = "ensemble"
SCORES = ("crps", "rmse", "spread_error")
NO_GAIN = ("novelty", "w1_component", "spread_error")
WORDS = {
    "std_ratio": ("too little variability", "too much variability"),
    "kurtosis_ratio": ("tails too light", "tails too heavy"),
    "q99_ratio": ("extremes too weak", "extremes too strong"),
    "mean_error": ("mean field is off",) * 2,
    "w1": ("values are distributed otherwise",) * 2,
    "w1_component": ("a leading pattern is distributed otherwise",) * 2,
    "spectrum_error": ("variance at wrong scales",) * 2,
    "energy_distance": ("joint distribution is another",) * 2,
    "novelty": ("copies of the training data",) * 2,
}


@dataclass(frozen=True)
class Evaluation:
    """`flags`: what is alarming about the ensemble; `notes`: how the numbers came about; `units` of each variable."""

    records: list[Record]
    flags: list[str]
    notes: list[str]
    units: dict[str, str]

    def to_dict(self, command: str) -> dict[str, Any]:
        """Plain JSON types, None for what is not a number."""
        plain = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in r._asdict().items()}
            for r in self.records
        ]
        about = {"units": self.units, "flags": self.flags, "notes": self.notes}
        return {"header": provenance(command), **about, "records": plain}


def evaluate(
    path: str | Path,
    reference: Sequence[str | Path] = (),
    run: str | Path | None = None,
    truth: str | Path | None = None,
    obs: str | Path | None = None,
    resamples: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Measure the samples at `path`: an ensemble's folder, a run's, a NetCDF file or a Zarr store.

    reference: held-out data; by default the test, else the validation samples of the run's config. run: where the
    model is, if not beside the samples. truth: a file of the one field that conditional samples should have met. obs:
    the observations that the prior is conditioned on for comparison. resamples: of the bootstrap, by default from the
    size. tell: called with what is being done. Raises InputError for what does not fit together.
    """
    tell("reading")
    evidence = gather(path, reference, run, truth)
    judge, notes = Judge(evidence, resamples, seed), [*evidence.notes]
    held, conditional = evidence.reference, bool(evidence.options.get("observations"))
    if not judge.equations and not judge.distributions and truth is None:
        raise InputError(f"{path}: {_too_few(evidence)}, and no equation to measure by")
    if judge.equations:
        notes.append(computed_by())
    ensemble, alarms = Method(ENSEMBLE, evidence.samples), []
    tell(ENSEMBLE)
    records = judge.residuals(ensemble) + judge.scored(ensemble)
    if held:
        records += judge.residuals(Method(DATA, held.fields), evidence.block)
        notes.append(_sizes(evidence))
        alarms += residual_flags(records)
    if judge.distributions:
        rows = judge.compared(evidence.samples)
        records += [Record(ENSEMBLE, r.variable, r.metric, *r[2:5], r.n) for r in rows] + judge.floors(rows)
        alarms += [in_words(line) for line in flags([r for r in rows if r.metric == "novelty" or not conditional])]
        notes.append(
            f"95 % intervals from {judge.resamples} bootstrap resamples, {judge.fewer} for the trivial methods; "
            f"{DATA} in the tables: two disjoint parts of it against each other, {judge.resamples} times"
        )
        if conditional:
            notes.append("given observations, members should be narrower than the data: not flagged; --truth scores it")
    else:
        notes.append(f"residuals only: {_too_few(evidence)}")
    if truth is not None and len(evidence.samples) < 16:
        notes.append(f"spread over error of {len(evidence.samples)} members is rough: 16 make it a number of use")
    for method in _beside(evidence, obs, seed, tell, notes):
        tell(method.name)
        records += judge.all_of(method)
    units = dict(zip(evidence.layout.names, evidence.layout.units, strict=True))
    return Evaluation(records + gains(records), alarms, notes, units)


def _too_few(evidence: Evidence) -> str:
    held = len(evidence.reference.fields) if evidence.reference else 0
    sizes = f"{len(evidence.samples)} members and {held} held-out samples"
    return f"{sizes}, where distribution metrics need {LEAST} and {LEAST_REFERENCE}"


def _sizes(evidence: Evidence) -> str:
    held, block = evidence.reference, evidence.block
    blocks = f", correlated over {block} of them and resampled in blocks of that length" if block > 1 else ""
    return f"{len(evidence.samples)} members; {DATA}: {held.name}, {len(held.fields)} samples{blocks}"


def _beside(
    evidence: Evidence, obs: str | Path | None, seed: int, tell: Callable[[str], None], notes: list[str]
) -> Iterator[Method]:
    """The methods beside the ensemble, one at a time."""
    yield from trivial_methods(evidence, seed)
    model, options, n = evidence.model, evidence.options, min(len(evidence.samples), MOST)
    if model is None:
        if obs is not None:
            raise InputError(f"--obs {obs}: without a model there is no prior to condition; give its folder with --run")
        return
    if options.get("policy", "none") != "none":
        tell(f"drawing: {NETWORK}")
        yield unguided(model, options, n)
    yield prior_draws(model, n, seed)
    if obs is not None:
        points = read_observations(obs, evidence.layout, model.normaliser)
        if options.get("observations") not in (None, sha256(Path(obs))):
            notes.append(f"warning: the ensemble was given other observations than {obs}")
        yield from kriged(model, points, n, seed, options.get("scales") == "told")


def errors(record: Record, floor: float) -> tuple[float, float, float]:
    """How far from right a number is, and the least and the most over its interval. Ratios are compared with 1 and
    residuals with `floor`, those of the data, as logarithms; the rest are distances."""
    ends = np.array([record.value, record.low, record.high])
    if record.metric in RATIOS or record.metric == "residual":
        target = 1.0 if record.metric in RATIOS else floor
        ends = np.log(np.maximum(ends, 1e-300) / max(target, 1e-300))
    value, low, high = ends if record.metric in (*RATIOS, "residual") else np.maximum(ends, 0)
    return abs(value), 0.0 if low < 0 < high else min(abs(low), abs(high)), max(abs(low), abs(high))


def gains(records: Sequence[Record]) -> list[Record]:
    """`gain_X`: the share of the error in X of the prior without a network that the network takes away.

    1 - error / error of N(mu, C), for the network's unguided members; for scores against a truth those of the ensemble
    against N(mu, C) given the observations, if there are any. Nil on Gaussian data. The interval is from the worse ends
    of both numbers to the better ones, so wider than 95 %.
    """
    table = {(r.method, r.variable, r.metric): r for r in records}
    methods = {r.method for r in records}
    network = NETWORK if NETWORK in methods else ENSEMBLE
    out = []
    for (method, variable, metric), prior in table.items():
        own = table.get((ENSEMBLE if metric in SCORES else network, variable, metric))
        rival = PRIOR if metric not in SCORES or KRIGED not in methods else KRIGED
        data = table.get((DATA, variable, "residual"))
        if method != rival or own is None or metric in NO_GAIN or (metric == "residual" and data is None):
            continue
        floor = data.value if data else np.nan
        (here, least, most), (there, lowest, highest) = errors(own, floor), errors(prior, floor)
        if there > 0:
            low = 1 - most / lowest if lowest > 0 else -np.inf
            out.append(
                Record(own.method, variable, f"gain_{metric}", 1 - here / there, low, 1 - least / highest, own.n)
            )
    return out


def residual_flags(records: Sequence[Record]) -> list[str]:
    """Residuals of the ensemble outside the interval of the data's, stretched as in `comparison.flags`."""
    table = {(r.method, r.variable): r for r in records if r.metric == "residual"}
    out = []
    for (method, name), row in table.items():
        data = table.get((DATA, name))
        if method != ENSEMBLE or data is None or data.low != data.low:
            continue
        low, high = (data.value + MARGIN * (end - data.value) for end in (data.low, data.high))
        if not low <= row.value <= high:
            what = "disobeys the equation" if row.value > high else "obeys the equation better than the data do"
            out.append(f"{what}: residual of {name}: {row.value:.3g}, data {data.low:.3g} to {data.high:.3g}")
    return out


def in_words(line: str) -> str:
    """A line of `comparison.flags` with what it means before it."""
    metric, value = line.split(" of ", 1)[0], float(line.rsplit(": ", 1)[1].split(",")[0])
    return f"{WORDS[metric][int(metric in RATIOS and value > 1)]}: {line}"
