"""Members of the flow models, timed: without an equation, by the formula, and by policies tuned with one budget.

Unconditional members are guided by the equation alone. Where viscosities are `given`, each member has its own, observed
at `POINTS` points of the channel nu with a small error, and the observations guide whatever the policy. The formula,
`fixed`, and the policies on top of it go in one `DIRECTION`, that of `sciguide tune`, whose own entry tunes them on
validation samples, once for all numbers of evaluations; other formulas stand beside.
"""

import json
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import schedules
from benchmarks.flows_data import Fields
from sciguide.generate import one_thread
from sciguide.guidance import Constraint, Direction, Guidance, constraints_for
from sciguide.kriging import Kriging
from sciguide.learner import JUDGED, own_numbers
from sciguide.model import Model
from sciguide.observations import Observations, locate
from sciguide.policy import KINDS
from sciguide.receipts import sha256
from sciguide.reward import Norm
from sciguide.rollout import STAGES, noise_seed, stages_apart
from sciguide.sampler import sample
from sciguide.training.contest import Rules, compete, take_up, truths
from sciguide.training.problems import Terms
from sciguide.training.variety import Variety

POINTS, ERROR = 4, 0.02  # where viscosity is seen, and with which error, in standard deviations of nu
POLICIES = ("none", "fixed", *schedules.FILES, "scheduled", "linear", "learned")
DIRECTION: Direction = "kriging"  # Gauss-Newton's, where the equation is not linear
FORMULAS: dict[str, tuple[Direction, bool]] = {  # direction, and whether on the finished field alone
    "formula at the end": ("kriging", True),
    "formula, gradient": ("gradient", False),
    "formula, gradient at the end": ("gradient", True),
}
BATCH, SEED = 8, 11  # of the members that are compared; the next seeds are those of repetitions
NORM: Norm = "spectra"


class Drawn(NamedTuple):
    """Physical fields (N, C, Y, X) float32, and seconds per member."""

    fields: Fields
    seconds: float


def tune(
    run: Path, model: Model, steps: int, points: int, trajectories: int, judged: int, terms: Terms | None, seed: int = 0
) -> Path:
    """The folder of the policies, with or without observed viscosity, whose reward has `terms` of its own; they are
    made with `steps` evaluations, or resumed, where they are not there. Asserts that nothing tuned or judged by shares
    its noise with what is drawn."""
    numbers = [JUDGED + i for i in range(judged)]
    tuned = own_numbers(seed, 0, trajectories)
    stages_apart(seed, tuned, numbers)
    used = {noise_seed(stage, seed, n) for stage in STAGES for n in (*tuned, *numbers)}
    assert not used & set(range(SEED, SEED + 100))
    channels = (model.layout.names.index("nu"),) if points else ()
    variety = Variety((points, points), channels, (ERROR, ERROR), steps=(steps, steps))
    told = {
        "direction": DIRECTION,
        "norm": NORM,
        "terms": terms,
        "trajectories": trajectories,
        "judged": judged,
        "members": 4,
        "seed": seed,
    }
    rules = Rules(variety, **told)
    parent = run / f"tuned{'_given' if points else ''}{f'_{seed}' if seed else ''}"
    parent.mkdir(exist_ok=True)
    if not (parent / "model.pt").exists():
        (parent / "model.pt").symlink_to((run / "model.pt").resolve())
    folder = take_up(parent, parent / "model.pt", rules, model.device)
    with one_thread():
        if not (folder / "scores.json").is_file():
            compete(model, truths(run, model), folder, rules)
        schedules.contest(model, truths(run, model), folder, rules, constant=not points and not seed)
    return folder


def policy_file(tuned: Path, method: str) -> Path | None:
    """Where the policy of a method is kept, if it has one."""
    name = schedules.FILES.get(method, f"{method}.pt" if method in KINDS else None)
    return tuned / name if name else None


def seen(model: Model, given: np.ndarray) -> tuple[Observations, Tensor]:
    """Viscosity at a few points, the same for all members, and the values of each member (N, POINTS), without error."""
    names, (ny, nx) = list(model.layout.names), model.shape[1:]
    channel = np.full(POINTS, names.index("nu"))
    j, i = (np.random.default_rng(SEED + axis).choice(n, POINTS, replace=False) for axis, n in enumerate((ny, nx)))
    y, x = np.sort(model.layout.y)[j], np.sort(model.layout.x)[i]
    error = np.full(POINTS, ERROR * model.normaliser.std[channel[0]])
    rows = locate(model.layout, model.normaliser, channel, y, x, np.zeros(POINTS), error)
    mean, std = model.normaliser.mean[channel[0]], model.normaliser.std[channel[0]]
    return rows, torch.from_numpy((given - mean) / std).to(model.device)[:, None].expand(-1, POINTS)


def guides(model: Model, method: str, given: np.ndarray | None) -> tuple[list[Constraint], Tensor | None]:
    """What guides the members of a method, and the values that belong to each member."""
    direction, end = FORMULAS.get(method, (DIRECTION, False))
    if given is None:
        found, values = [] if method == "none" else constraints_for(model, None, direction=direction), None
    else:
        rows, values = seen(model, given)
        found = constraints_for(model, rows, equations=method != "none", direction=direction)
    for step in found:
        if end and not isinstance(step, Kriging):
            step.when = "end"
    return found, values


def draw(
    model: Model,
    method: str,
    steps: int,
    tuned: Path,
    members: Sequence[int],
    given: np.ndarray | None = None,
    seed: int = 0,
) -> Drawn:
    """The `members` of a method, BATCH together on one thread; `given`: the viscosity of each of them; `seed`: another
    one has other noise."""
    constraints, values = guides(model, method, given)
    names, sigmas = list(model.layout.names), model.sigmas(steps)
    parts, begun = [], time.perf_counter()
    with one_thread(), torch.no_grad():
        for first in range(0, len(members), BATCH):
            rows = slice(first, first + BATCH)
            noise = model.white(SEED + seed, members[rows])
            own = [c if values is None else with_values(c, values[rows]) for c in constraints]
            guidance = None
            if own and (path := policy_file(tuned, method)):
                guidance = Guidance.tuned(path, own, names, steps)
            elif own:
                guidance = Guidance(own, None, names, steps)
            start = guidance.start(noise, sigmas[0], model.prior) if guidance else None
            *_, last = sample(model.denoise, model.prior, noise, sigmas, guidance, start)
            parts.append(model.normaliser.decode(last.guided).cpu().numpy().astype(np.float32))
    return Drawn(np.concatenate(parts), (time.perf_counter() - begun) / len(members))


def with_values(constraint: Constraint, values: Tensor) -> Constraint:
    """Observations with values of each member; any other constraint as it is."""
    if not isinstance(constraint, Kriging):
        return constraint
    known = copy(constraint)  # shares the factorised covariance, which values do not enter
    known.observations = replace(constraint.observations, value=values)
    return known


def kept(path: Path, model: Path, tuned: Path, method: str, make: Any) -> Drawn:
    """What `make()` draws, from the file `path` where it is there and of this model and policy."""
    file = policy_file(tuned, method)
    own = sha256(file) if file else ""
    key = json.dumps([sha256(model), own])
    if path.is_file():
        with np.load(path) as found:
            if str(found["key"]) == key:
                return Drawn(found["fields"], float(found["seconds"]))
    drawn = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, fields=drawn.fields, seconds=drawn.seconds, key=key)
    return drawn
