"""Rows of the table of flows: one number each, beside the same of held-out data."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import schedules
from benchmarks.flows_data import RE_TRAINED, Cuts, Fields, Flow, read
from benchmarks.flows_members import POLICIES
from benchmarks.flows_scores import Features, Measured, Yardstick, floor, measure
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.model import Model

COLUMNS = ("set", "case", "method", "evaluations", "metric", "of", "value", "low", "high", "data", "n")
RE_BINS = (0.0, 100.0, 224.0, RE_TRAINED, 1000.0, np.inf)
PAIRED = {("residual", "all"), ("residual_4", "all"), ("energy_distance", "all"), ("spectrum_error", "kinetic energy")}
PAIRED |= {("w1_components", "all"), ("restepped", "p"), ("restepped", "change of u")}
PAIRED |= {("energy_ratio", "k 8 to 15"), ("divergence_spectral", "both")}
NOTHING = float("nan")


class Size(NamedTuple):
    """How large a run is: sets are `made` on so many points a side, of which every second one is taken where `points`
    are half as many; `members` are drawn in each case, or fewer where there are fewer held-out flows; `seeds`: of
    repetitions; `fit`: words for the command line."""

    flows: dict[str, Flow]
    made: dict[str, int]
    points: int
    samples: dict[str, int]
    trajectories: dict[str, int]
    judged: int
    members: int
    steps: tuple[int, ...]
    seeds: tuple[int, ...]
    resamples: int
    fit: tuple[str, ...]


class Setting(NamedTuple):
    """One set, its trained model in the folder `run`, and its data file."""

    flow: Flow
    size: Size
    run: Path
    model: Model
    path: Path
    cuts: Cuts
    yardstick: Yardstick

    def fields(self, cut: tuple[int, int]) -> Fields:
        return read(self.path, self.flow.variables, cut)


class Sheet:
    """Rows of one case of one set, against its held-out data."""

    def __init__(self, setting: Setting, case: str, data: Features) -> None:
        self.setting, self.case, self.data = setting, case, data
        self.rows: list[dict[str, Any]] = []
        self.measured: dict[tuple[str, int], Measured] = {}
        self.floor = floor(setting.yardstick, data, setting.size.resamples)
        self.add("held-out data", 0, self.floor)

    def row(self, method: str, steps: int, key: tuple[str, str], ends: Any, n: int, beside: bool = True) -> None:
        """One number."""
        beside = self.floor.value.get(key, "") if beside else ""
        about = self.setting.flow.name, self.case, method, steps, *key
        self.rows.append(dict(zip(COLUMNS, (*about, *(float(e) for e in ends), beside, n), strict=True)))

    def add(self, method: str, steps: int, found: Measured) -> None:
        """All metrics of a method."""
        self.measured[method, steps] = found
        for key in found.value:
            self.row(method, steps, key, found.ends(key), found.n)

    def score(self, method: str, steps: int, fields: Fields, seconds: float | None = None) -> Features:
        """Physical fields against the data, and what they cost."""
        yardstick = self.setting.yardstick
        features = yardstick.features(fields)
        self.add(method, steps, measure(yardstick, features, self.data, self.setting.size.resamples))
        if seconds is not None:
            self.row(method, steps, ("seconds", "member"), (seconds, NOTHING, NOTHING), len(fields), beside=False)
        return features

    def pair(self, steps: int, method: str = "learned") -> None:
        """What a method has less than its rivals, member by member."""
        own = self.measured[method, steps]
        for rival in (name for name in POLICIES if name != method and (name, steps) in self.measured):
            found = own.minus(self.measured[rival, steps])
            for key in found.value:
                if key in PAIRED:
                    self.row(f"{method} minus {rival}", steps, key, found.ends(key), found.n, beside=False)

    def rewards(self, steps: int, tuned: Path) -> None:
        """What the policies were tuned for, on problems that none was tuned on, and what `learned` gains."""
        files = tuned / "scores.json", tuned / schedules.SCORES
        found = [json.loads(file.read_text()) for file in files if file.is_file()]
        scores = {k: np.array(v["scores"]) for part in found for k, v in part.items()}
        for name, own in scores.items():
            self.row(name, steps, ("reward", "judged problems"), bootstrap(own, np.mean), len(own), beside=False)
        for rival in (name for name in scores if name != "learned"):
            gain = paired_bootstrap(scores["learned"], scores[rival])
            key = ("reward", "judged problems")
            self.row(f"learned minus {rival}", steps, key, gain, len(scores["learned"]), beside=False)


def by_reynolds(setting: Setting, method: str, steps: int, members: Features, data: Features) -> list[dict[str, Any]]:
    """Residuals and speed of the members whose own viscosity lies in each bin, beside the held-out flows alike."""
    rows = []
    for low, high in zip(RE_BINS, RE_BINS[1:], strict=False):
        inside, alike = (np.flatnonzero((f.reynolds > low) & (f.reynolds <= high)) for f in (members, data))
        found = {("share", "of the members"): (len(inside) / len(members), NOTHING, NOTHING)}
        beside = {("share", "of the members"): (len(alike) / len(data), NOTHING, NOTHING)}
        found |= physics_of(setting.yardstick, members, inside)
        beside |= physics_of(setting.yardstick, data, alike)
        for key, ends in found.items():
            about = setting.flow.name, f"Re {low:g} to {high:g}", method, steps, *key, *ends
            row = (*about, beside.get(key, ("",))[0], len(inside))
            rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def physics_of(yardstick: Yardstick, features: Features, some: np.ndarray) -> dict[tuple[str, str], tuple]:
    """Of the samples `some` what needs no data beside it, with intervals; nothing of a single one."""
    if len(some) < 2:
        return {}
    keys = [k for k in yardstick.physics(features, some) if k[0] in ("residual", "speed_ratio")]
    found = bootstrap(some, lambda i: [yardstick.physics(features, i)[k] for k in keys], 200)
    return {key: tuple(map(float, ends)) for key, ends in zip(keys, zip(*found, strict=True), strict=True)}
