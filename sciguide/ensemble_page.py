"""The page of an ensemble of `sciguide generate`: members, mean, spread, residuals, what the policy did, the table."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sciguide.cf import variable_name
from sciguide.datasets.layout import Layout
from sciguide.errors import InputError
from sciguide.generate import MODEL, find_model
from sciguide.model import Model
from sciguide.plots import Frame, action_panel, amount_scale, colour_bar, decade_scale, map_panel, value_scale
from sciguide.provenance import provenance
from sciguide.report import Cell, Group, Page, Section, Table, write_page
from sciguide.writer import open_ensemble

MEMBERS = 4  # drawn of each channel
CHANNELS = 6  # drawn at most; of the others the page says that they are there
TABLES = 6


class Ensemble(NamedTuple):
    """The Dataset of a folder, the model that drew it, and its fields (M, C, Y, X), NaN on land."""

    ds: xr.Dataset
    model: Model
    fields: NDArray[np.float32]


def write_ensemble_page(
    folder: Path, run: str | None, evaluation: str | None, out: Path, command: Sequence[str]
) -> Path:
    """The page of the ensemble in `folder` as the file `out`.

    `run`: folder of the run that drew it, where it does not lie in it; `evaluation`: JSON of `sciguide evaluate`, by
    default the ones in `folder`. Raises InputError where the ensemble is not whole or its model is not found.
    """
    tables = table_sections(folder, evaluation)
    ds = open_ensemble(folder).load()
    model = Model.load(find_model(run) if run else nearest_model(folder))
    missing = [name for name in model.layout.variables if name not in ds]
    if missing:
        raise InputError(f"{folder} has no {missing[0]}, which the model draws: give the --run that drew it")
    ensemble = Ensemble(ds, model, model.layout.to_tensor(ds))
    sections = [what(ensemble), *map_sections(ensemble), *residual_sections(ensemble), *choice_sections(ds)]
    return write_page(
        out,
        Page(
            f"Ensemble {folder.resolve().name}", [lead(ensemble)], [*sections, *tables], provenance(shlex.join(command))
        ),
    )


def nearest_model(folder: Path) -> Path:
    """The model of the run in whose folder `folder` lies."""
    for parent in folder.resolve().parents:
        if (parent / MODEL).is_file():
            return parent / MODEL
    raise InputError(f"{folder} lies in no run's folder: give the one that drew it with --run")


def lead(ensemble: Ensemble) -> str:
    """Members, policy and residual in a sentence."""
    ds, model = ensemble.ds, ensemble.model
    text = f"{ds.sizes['realization']} members. {ds.attrs.get('summary', '')}."
    for equation in model.equations:
        values = ds[f"pde_residual_{variable_name(equation.name)}"].values
        text += (
            f" Residual of {equation.name}: median {np.median(values):.3g}, largest {values.max():.3g}; nine in ten "
            f"training samples are below {equation.floor**0.5:.3g}."
        )
    return text


def what(ensemble: Ensemble) -> Section:
    """The files' own words, and the equations."""
    layout, ds = ensemble.model.layout, ensemble.ds
    text = [
        f"Channels {', '.join(map(labelled, layout.names, layout.units))} on "
        f"{layout.mask.shape[1]} x {layout.mask.shape[2]} points, {layout.mask.mean():.0%} of them valid.",
        f"Source: {ds.attrs.get('source', 'unknown')}. Options: {options(ds)}.",
    ]
    return Section("What it is", text, [f"{e.name}: {e.operator['formula']}" for e in ensemble.model.equations])


def labelled(name: str, unit: str) -> str:
    """The name with its unit."""
    return f"{name} ({'dimensionless' if unit == '1' else unit})"


def options(ds: xr.Dataset) -> str:
    """What `generate` was told, digests shortened."""
    given = json.loads(ds.attrs.get("sciguide_config", "{}"))
    return ", ".join(f"{name} {str(value)[:12]}" for name, value in given.items() if value is not None) or "unknown"


def frame_of(layout: Layout) -> Frame:
    """Coordinates with units; on the sphere a degree of longitude as wide as it is at the middle latitude."""
    units = {
        name: {"degrees_north": "degrees north", "degrees_east": "degrees east", "1": ""}.get(unit, unit)
        for name, unit in ((layout.y_name, layout.y_attrs["units"]), (layout.x_name, layout.x_attrs["units"]))
    }
    labels = [f"{name} ({unit})" if unit else name for name, unit in units.items()]
    sphere = layout.y_attrs["units"] == "degrees_north"
    aspect = 1 / max(np.cos(np.radians(np.mean(layout.y))), 0.2) if sphere else 1.0
    return Frame(layout.y, layout.x, labels[0], labels[1], float(aspect))


def map_sections(ensemble: Ensemble) -> list[Section]:
    """Members, mean and spread of each channel; members and mean share their colours."""
    layout, at, out = ensemble.model.layout, frame_of(ensemble.model.layout), []
    for c, (name, unit) in enumerate(zip(layout.names[:CHANNELS], layout.units, strict=False)):
        x = ensemble.fields[:, c]
        shown, mean = x[:MEMBERS], x.mean(0)
        scale = value_scale([*shown, mean], labelled(name, unit))
        panels = {f"member {m}": field for m, field in enumerate(shown)} | {"mean": mean}
        pictures = [map_panel(field, at, scale, k, f"Map of {name}, {k}") for k, field in panels.items()]
        bars = [colour_bar(scale)]
        if len(x) > 1:
            spread = x.std(0, ddof=1)
            amount = amount_scale([spread], f"standard deviation of {labelled(name, unit)}")
            pictures.append(map_panel(spread, at, amount, "spread", f"Map of the spread of {name}"))
            bars.append(colour_bar(amount))
        out.append(Section(name, groups=[Group("", pictures, bars)]))
    if len(layout.names) > CHANNELS:
        out.append(Section("Other channels", [f"Not drawn: {', '.join(layout.names[CHANNELS:])}."]))
    return out


def residual_sections(ensemble: Ensemble) -> list[Section]:
    """|r| over its scale of some members, for each equation: the root mean square of its residuals and levels."""
    out, at = [], frame_of(ensemble.model.layout)
    for equation in ensemble.model.constraints():
        u = equation.channels.fields(torch.nan_to_num(torch.from_numpy(ensemble.fields[:MEMBERS]).double()))
        share = torch.tensor(equation.operator.share, dtype=u.dtype)
        square = equation.operator.relative(equation.operator.residual(u)).square()
        square = torch.where(equation.operator.valid, torch.einsum("k,bk...->b...", share, square), torch.nan)
        r = (square if square.ndim == 3 else square.nanmean(1)).sqrt().numpy()
        scale = decade_scale(list(r), f"|residual of {equation.name}| over its scale in the training data")
        rms = equation.operator.energy(u).sqrt().tolist()
        pictures = [
            map_panel(field, at, scale, f"member {m}, rms {rms[m]:.3g}", f"Map of the residual of member {m}")
            for m, field in enumerate(r)
        ]
        text = [equation.operator.formula, "Grey: land, missing points, and edges where the stencil does not fit."]
        out.append(Section(f"Residual of {equation.name}", text, groups=[Group("", pictures, [colour_bar(scale)])]))
    return out


def action_names(ds: xr.Dataset) -> list[str]:
    """The names of the numbers of an action, as `writer` states them."""
    return [text.partition(": ")[2] for text in ds["action"].attrs["comment"].split("; ")]


def choice_sections(ds: xr.Dataset) -> list[Section]:
    """What the policy did over the noise level; nothing for unguided members."""
    if "policy_action" not in ds:
        return []
    sigma, actions = ds["policy_sigma"].values, ds["policy_action"].values
    policy = json.loads(ds.attrs.get("sciguide_config", "{}")).get("policy", "policy")
    names = action_names(ds)
    pictures = [action_panel(name, sigma, {policy: actions[..., a]}) for a, name in enumerate(names)]
    text = [
        "An action multiplies the formula: log s2 the variance that a constraint is given (positive trusts it less), "
        "metric how far a field may move to meet it. Zero is the formula itself. Lines are medians over the members, "
        "bands hold 80 % of them; the chain runs from left to right."
    ]
    return [Section("What the policy chose", text, groups=[Group("", pictures, maps=False)])]


def table_sections(folder: Path, evaluation: str | None) -> list[Section]:
    """The records of `sciguide evaluate --json`, a table a variable, methods down and metrics across."""
    if evaluation and not Path(evaluation).is_file():
        raise InputError(f"{evaluation}: no such file; `sciguide evaluate PATH --json FILE` writes it")
    files = [Path(evaluation)] if evaluation else sorted(folder.glob("*.json"))
    out = []
    for file in files:
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            records = held["records"]
            tables = [table(records, v) for v in dict.fromkeys(r["variable"] for r in records)]
        except (ValueError, KeyError, TypeError) as error:
            if evaluation:
                raise InputError(
                    f"{file} is no evaluation ({error!r}); `sciguide evaluate --json` writes one"
                ) from error
            continue
        words = [str(line) for key in ("flags", "notes") for line in held.get(key, [])]
        out.append(Section("Evaluation", [f"From {file.name}.", *words], tables=tables[:TABLES]))
    return out


def table(records: Sequence[Mapping[str, Any]], variable: str) -> Table:
    """The records of one variable."""
    here = {(r["method"], r["metric"]): r for r in records if r["variable"] == variable}
    metrics = list(dict.fromkeys(metric for _, metric in here))
    rows = []
    for method in dict.fromkeys(method for method, _ in here):
        cells = [_cell(here.get((method, metric))) for metric in metrics]
        rows.append([Cell(method), *cells])
    return Table(variable, "", ["method", *metrics], rows)


def _cell(record: Mapping[str, Any] | None) -> Cell:
    if record is None or record["value"] is None:
        return Cell("-")
    ends = [record.get(end) for end in ("low", "high")]
    known = all(end is not None and np.isfinite(end) for end in ends)
    return Cell(f"{record['value']:.3g}", f"{ends[0]:.3g} to {ends[1]:.3g}" if known else "")
