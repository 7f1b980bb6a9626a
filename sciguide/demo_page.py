"""The demo's page: what was asked, what each policy drew, how far each is from the best possible answer."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sciguide.bootstrap import Interval
from sciguide.demo_problems import EXACT, EXACT_MEAN, FIELDS, POLICIES, PRIOR, Plan, Problem
from sciguide.demo_scores import Line
from sciguide.ensemble_page import action_names
from sciguide.generate import Generator
from sciguide.plots import (
    Frame,
    Picture,
    action_panel,
    amount_scale,
    colour_bar,
    decade_scale,
    interval_panel,
    map_panel,
    value_scale,
)
from sciguide.provenance import provenance
from sciguide.report import Cell, Group, Page, Section, Table, write_page
from sciguide.writer import open_ensemble

SHOWN = 2  # members of each ensemble that are drawn
WHAT = {
    "none": "unguided: the base model alone, which sees no observations",
    "fixed": "the formula, a kriging step on observations and equation",
    "scheduled": "the formula times a tuned schedule, linear between four noise levels, the same for every member",
    "linear": "the formula times a linear function of what is seen of each member",
    "learned": "the formula times what the learned policy decides for each member and step",
    PRIOR: "the Gaussian that the network corrects, conditioned on the observations by linear algebra",
    EXACT: "draws of the true posterior, from the generator's own covariance",
    EXACT_MEAN: "nobody's mean error can be lower on average",
}


class Found(NamedTuple):
    """What a demo found: `ensembles` (P, M, C, Y, X) and table `lines` by method, `verdicts` in words, and the seconds
    that each stage took."""

    plan: Plan
    generator: Generator
    problems: list[Problem]
    ensembles: Mapping[str, NDArray[np.float32]]
    lines: Mapping[str, Line]
    verdicts: Sequence[str]
    seconds: Mapping[str, float]


def write_demo_page(folder: Path, found: Found, command: Sequence[str]) -> Path:
    """`report.html` in the demo's folder."""
    sections = [task(found), scores(found), *fields(found), residuals(found), choices(folder, found), times(found)]

    title = f"sciguide demo: Poisson's equation from {found.plan.points} noisy points"
    return write_page(folder / "report.html", Page(title, found.verdicts, sections, provenance(shlex.join(command))))


def frame(found: Found) -> Frame:
    """The unit square."""
    layout = found.generator.model.layout
    return Frame(layout.y, layout.x, "y (side = 1)", "x (side = 1)")


def task(found: Found) -> Section:
    """The problem, and the truth that is shown."""
    plan, problem, at = found.plan, found.problems[0], frame(found)
    (equation,) = found.generator.model.equations
    text = [
        f"A base model learned pairs (f, phi) on {plan.size} x {plan.size} points of the unit square from "
        f"{plan.training} samples, so few that its error differs by field and by sample. f is a Gaussian random field, "
        "phi is zero on the edges, and both solve the equation below.",
        f"Each of {plan.problems} test problems asks for f and phi from {plan.points} observations of phi, with errors "
        f"of {plan.noise:.0%} of the standard deviation of phi. Everything is linear and Gaussian, so the exact "
        "posterior is known from the generator's own covariance: no method can do better. Each method draws "
        f"{plan.members} members per problem, by a chain of {plan.steps} steps where there is one. The pictures show "
        "the first problem.",
    ]
    pictures = []
    for c, name in enumerate(FIELDS):
        scale = value_scale([problem.truth[c]], f"{name} (dimensionless)")
        points = (problem.y, problem.x, problem.values) if name == "phi" else None
        caption = f"true {name}" + (f" and the {plan.points} observations" if points else ", not observed")
        pictures.append(map_panel(problem.truth[c], at, scale, caption, f"Map of the {caption}", points, bar=True))
    return Section("The problem", text, [equation.operator["formula"]], groups=[Group("", pictures, maps=False)])


def scores(found: Found) -> Section:
    """A table for each field, and what says it at a glance."""
    text = [
        f"Means over {found.plan.problems} problems, in small print 95 % bootstrap intervals over them. CRPS: fair, "
        "lower is better; of a single field it is the mean absolute error. Error: relative L2 of the ensemble mean. "
        "Error / exact: over that of the exact posterior mean, problem by problem, geometric mean. Spread / error: 1 "
        "if calibrated. Std ratio: spread over that of the exact posterior's draws. Residual: rms of lap(phi) - f over "
        "the rms of lap(phi) in the training data; the exact posterior has what rounding to float32 leaves.",
        *(f"{method}: {WHAT[method]}." for method in found.lines),
    ]
    tables, pictures = [], []
    for c, name in enumerate(FIELDS):
        rows = []
        for method, line in found.lines.items():
            fields = (line.crps, line.error, line.ratio, line.spread_error, line.std_ratio)
            rows.append([Cell(method), *(_cell(i and _field(i, c)) for i in fields), _cell(line.residual)])
        head = ["method", "CRPS", "error", "error / exact", "spread / error", "std ratio", "residual"]
        tables.append(Table(f"Scores of {name}", "", head, rows))
        ratios = {m: _field(x.ratio, c) for m, x in found.lines.items() if m not in ("none", EXACT_MEAN)}
        pictures.append(interval_panel(f"error of {name} over the exact posterior mean's", ratios, 1.0))
    return Section("How good are they?", text, tables=tables, groups=[Group("", pictures, maps=False)])


def fields(found: Found) -> list[Section]:
    """Per field the truth, then members, mean and spread of each method, in the same colours."""
    at, methods = frame(found), [m for m in found.ensembles if m != EXACT_MEAN]
    out = []
    for c, name in enumerate(FIELDS):
        truth = found.problems[0].truth[c]
        sets = {m: found.ensembles[m][0, :, c] for m in methods}
        scale = value_scale([truth], f"{name} (dimensionless)")
        spreads = {m: x.std(0, ddof=1) for m, x in sets.items()}
        guided = amount_scale([s for m, s in spreads.items() if m != "none"], f"standard deviation of {name}")
        bars = [colour_bar(scale), colour_bar(guided)]
        groups = [Group("truth", [map_panel(truth, at, scale, f"true {name}", f"Map of the true {name}")], bars)]
        for method, x in sets.items():
            panels = {f"member {m}": x[m] for m in range(min(SHOWN, len(x)))} | {"mean": x.mean(0)}
            pictures = [map_panel(v, at, scale, k, f"Map of {name}, {k} of {method}") for k, v in panels.items()]
            spread = map_panel(spreads[method], at, guided, "spread", f"Map of the spread of {name}, {method}")
            groups.append(Group(method, [*pictures, spread]))
        text = [f"Members and means of {name} in the colours of the truth; the spread has its own."]
        if "none" in sets:
            text.append("The unguided spread goes beyond its colours: it is that of all possible fields.")
        out.append(Section(f"Members of {name}", text, groups=groups))
    return out


def residuals(found: Found) -> Section:
    """|r| of the first member of each method, on one logarithmic scale."""
    (equation,) = found.generator.equations
    order = [FIELDS.index(name) for name in equation.operator.fields]
    valid = equation.operator.valid.numpy()
    maps = {}
    for method, x in found.ensembles.items():
        r = equation.operator.residual(torch.from_numpy(x[0, :1, order].reshape(1, -1, *valid.shape)).double())
        maps[method] = np.where(valid, equation.operator.relative(r)[0, 0].numpy(), np.nan)
    scale = decade_scale(list(maps.values()), "|lap(phi) - f| over the rms of lap(phi) in the training data")
    at = frame(found)
    pictures = [map_panel(r, at, scale, m, f"Map of the residual of a member of {m}") for m, r in maps.items()]
    text = ["By how much member 0 misses the equation; on the edges, in grey, the stencil does not fit."]
    return Section("Residuals", text, groups=[Group("", pictures, [colour_bar(scale)])])


def choices(folder: Path, found: Found) -> Section:
    """What every policy did over sigma, from the files of its ensemble."""
    sets = {p: open_ensemble(folder / "run" / "ensembles" / p) for p in POLICIES if p != "none"}
    first = next(iter(sets.values()))
    names = action_names(first)
    sigma = first["policy_sigma"].values
    pictures: list[Picture] = []
    for a, name in enumerate(names):
        pictures.append(action_panel(name, sigma, {p: ds["policy_action"].values[..., a] for p, ds in sets.items()}))
    text = [
        "An action multiplies the formula: log s2 the variance that a constraint is given (positive trusts it less), "
        "metric how far a field may move to meet it. Zero is the formula itself. Lines are medians over the members "
        "of the first problem, bands hold 80 % of them; the chain runs from left to right."
    ]
    return Section("What the policies chose", text, groups=[Group("", pictures, maps=False)])


def times(found: Found) -> Section:
    """Seconds of every stage before this page."""
    total = sum(found.seconds.values())
    rows = [[Cell(name), Cell(f"{s:.1f}")] for name, s in [*found.seconds.items(), ("all of these", total)]]
    return Section(
        "Time per stage",
        tables=[Table("", "Seconds of wall time until this page was written.", ["stage", "seconds"], rows)],
    )


def _field(interval: Interval, c: int) -> Interval:
    return Interval(*(np.asarray(part)[c] for part in interval))


def _cell(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("-")
    value, low, high = map(float, interval)
    return Cell(f"{value:.3g}", f"{low:.3g} to {high:.3g}")
