"""What an evaluation looks at: the samples, the model that drew them, held-out data, and what the model was trained on.

All fields are physical, (N, C, Y, X) float32 in the order of one layout, NaN off its mask.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from sciguide.datasets.files import LOCK
from sciguide.datasets.layout import Layout
from sciguide.datasets.prepare import prepare
from sciguide.datasets.prepared import Prepared
from sciguide.datasets.split import are_times, sample_labels
from sciguide.datasets.statistics import effective_samples
from sciguide.datasets.store import load_fields, open_fields
from sciguide.errors import InputError
from sciguide.generate import MODEL, find_model
from sciguide.grid import Grid, grid_of
from sciguide.model import Model
from sciguide.receipts import FOLDER
from sciguide.writer import open_ensemble

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = 1024  # points from which the correlation time of the reference is told


class Reference(NamedTuple):
    """Held-out data: `fields` (M, C, Y, X), their `times` (or numbers) (M,), and where they come from in words."""

    fields: np.ndarray
    times: np.ndarray
    name: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """`options`: how the members were drawn, as their files say; empty if unknown. `training`: (T, C, Y, X) or None.
    `block`: correlation length of the reference in samples. `notes`: what the reader of the table should know."""

    samples: np.ndarray
    layout: Layout
    grid: Grid
    model: Model | None
    options: dict[str, Any]
    reference: Reference | None
    training: np.ndarray | None
    truth: np.ndarray | None
    block: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def weights(self) -> np.ndarray:
        """Cell areas, (C, Y, X), zero off the mask."""
        return replace(self.grid, mask=None).weights() * self.layout.mask


def gather(
    path: str | Path,
    reference: Sequence[str | Path] = (),
    run: str | Path | None = None,
    truth: str | Path | None = None,
) -> Evidence:
    """Open everything that belongs to the samples at `path`; see `evaluate` for the arguments.

    Raises InputError for what is missing, unfinished, on another grid, or not finite.
    """
    notes: list[str] = []
    path = Path(path)
    found = find_model(run) if run else beside(path)
    model = Model.load(found) if found else None
    section = data_section(found.parent) if found else {}
    ds = read_samples(path, model.layout if model else None)
    layout, grid = (model.layout, model.grid) if model else _layout_of(ds, path)
    samples = finite(_tensor(layout, ds, path), layout, path)
    options = json.loads(ds.attrs.get("sciguide_config", "{}"))
    prepared = None
    if model is None:
        notes.append(f"no {MODEL} beside {path}: no equations, prior and training data; name its folder with --run")
    else:
        prepared, missing = training_data(section, model)
        notes += [f"no training rows and no novelty: {missing}"] * bool(missing)
        if ds.attrs.get("sciguide_data", model.fingerprint) != model.fingerprint:
            notes.append(f"warning: {path} was drawn from a model of other training data than {found}")
    held = read_reference(reference, layout, section, notes) if reference else held_out(prepared)
    if held is None:
        notes.append("no held-out data, so no distribution metrics: give some with --reference FILE")
    training = prepared.rows("train") if prepared else None
    true = read_reference([truth], layout, section, notes) if truth is not None else None
    if true and len(true.fields) != 1:
        raise InputError(f"{truth}: {len(true.fields)} samples, --truth takes one field; select it first")
    for what in (held, true) if prepared else ():
        if what and (shared := overlap(what, prepared)):
            notes.append(f"warning: {shared} of {len(what.fields)} samples of {what.name} are training samples")
    block = correlation_length(held) if held else 1
    return Evidence(samples, layout, grid, model, options, held, training, true.fields if true else None, block, notes)


def beside(path: Path) -> Path | None:
    """The model.pt in the folder `path` or in one of the two above it; `generate` writes into RUN/ensemble."""
    folder = path.absolute()
    return next((p / MODEL for p in (folder, *folder.parents[:2]) if (p / MODEL).is_file()), None)


def data_section(run: Path) -> dict[str, Any]:
    """What the config of a run says of its data; empty where there is none, or none that can be read."""
    try:
        return (yaml.safe_load((run / "config.yaml").read_text()) or {}).get("data") or {}
    except (OSError, yaml.YAMLError, AttributeError):
        return {}


def training_data(section: dict[str, Any], model: Model) -> tuple[Prepared | None, str]:
    """The data that `model` was trained on, from the cache or prepared again; otherwise None and the reason."""
    keys = ("source", "variables", "train", "validation", "test", "units", "axes", "log", "cache")
    given = {k: section[k] for k in keys if section.get(k) is not None}
    if "source" not in given:
        return None, "there is no config.yaml with a `data:` section beside the model"
    try:
        prepared = prepare(**given)
    except (InputError, OSError) as error:
        return None, f"the training data cannot be opened ({error})"
    if prepared.fingerprint != model.fingerprint:
        return None, f"{given['source']} is not what it was when the model was trained"
    return prepared, ""


def read_samples(path: Path, layout: Layout | None) -> "xr.Dataset":
    """The fields at `path`, loaded: an ensemble folder, a run's folder with one, a NetCDF file or a Zarr store."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; `sciguide generate RUN` writes into RUN/ensemble")
    folder = path / "ensemble" if (path / "ensemble").is_dir() else path
    if folder.is_dir() and ((folder / FOLDER).is_dir() or any(folder.glob("member_*.nc"))):
        ds = open_ensemble(folder)
        names = layout.variables if layout else [n for n, v in ds.items() if "ancillary_variables" in v.attrs]
        with LOCK:
            # Not by threads: they would wait for the lock that is held here.
            return open_fields(ds[[n for n in names if n in ds]])[0].load(scheduler="synchronous")
    return load_fields(folder, list(layout.variables) if layout else None)[0]


def _layout_of(ds: "xr.Dataset", path: Path) -> tuple[Layout, Grid]:
    """Layout and grid of samples without a model; where any sample lacks a value is land."""
    ds, axes = open_fields(ds)
    layout = Layout.from_dataset(ds, axes)
    mask = np.isfinite(_tensor(layout, ds, path)).all(0)
    if not mask.any((1, 2)).all():
        raise InputError(f"{path}: a variable has no point with a value in every sample")
    units = (str(attrs.get("units", "1")) for attrs in (layout.y_attrs, layout.x_attrs))
    return Layout.from_dataset(ds, axes, mask), grid_of(layout.y, layout.x, *units)


def _tensor(layout: Layout, ds: "xr.Dataset", where: object) -> np.ndarray:
    try:
        return layout.to_tensor(ds)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def finite(fields: np.ndarray, layout: Layout, where: object) -> np.ndarray:
    """The fields themselves. Raises InputError where one is not finite inside the mask: it is broken."""
    broken = np.flatnonzero(~np.isfinite(np.where(layout.mask, fields, 0)).all((1, 2, 3)))
    if len(broken):
        some = f"{len(broken)} of {len(fields)} samples, first number {broken[0]},"
        raise InputError(f"{where}: {some} are not finite inside the mask of the grid: draw them again")
    return fields


def read_reference(
    source: Sequence[str | Path], layout: Layout, section: dict[str, Any], notes: list[str]
) -> Reference:
    """Fields of another source on this layout. Samples with gaps are left out, which `notes` says."""
    names, where = list(layout.variables), ", ".join(map(str, source))
    try:
        ds, axes = load_fields(source, names)
    except InputError:
        # What the config had to say about units and axes of the training data holds for these as well.
        told = {k: section[k] for k in ("units", "axes") if section.get(k)}
        if not told:
            raise
        ds, axes = load_fields(source, names, **told)
    fields, times = _tensor(layout, ds, where), sample_labels(ds, axes.sample)
    whole = np.isfinite(np.where(layout.mask, fields, 0)).all((1, 2, 3))
    if not whole.any():
        raise InputError(f"{where}: every sample lacks values inside the mask of the samples; is its mask another?")
    if not whole.all():
        notes.append(f"{where}: {len(whole) - whole.sum()} samples with gaps are left out")
    return Reference(fields[whole], times[whole], where)


def held_out(prepared: Prepared | None) -> Reference | None:
    """The test samples of the training set's own config, else the validation samples, else None."""
    for name in ("test", "validation"):
        if prepared and name in prepared.split:
            fields, times = np.asarray(prepared.rows(name)), prepared.times_of(name)
            whole = np.isfinite(np.where(prepared.layout.mask, fields, 0)).all((1, 2, 3))
            if whole.any():
                return Reference(fields[whole], times[whole], f"the {name} samples of the run's config")
    return None


def overlap(held: Reference, prepared: Prepared) -> int:
    """How many reference samples are training samples, by their times or by their contents."""
    training, times = prepared.rows("train"), prepared.times_of("train")
    same = np.zeros(len(held.fields), bool)
    if are_times(times) and are_times(held.times):
        same |= np.isin(held.times.astype(str), times.astype(str))
    known = {_hash(x) for x in training}
    return int((same | [_hash(x) in known for x in held.fields]).sum())


def _hash(x: np.ndarray) -> bytes:
    # Zero and minus zero, and all NaN, are one.
    return hashlib.sha256((np.nan_to_num(x) + np.float32(0)).tobytes()).digest()


def correlation_length(held: Reference) -> int:
    """Samples after which the reference has forgotten itself, 1 where it is no time series; at most a quarter of it."""
    if not are_times(held.times) or len(held.fields) < 8:
        return 1
    flat = held.fields.reshape(len(held.fields), -1)
    flat = flat[:, np.isfinite(flat).all(0)]
    flat = flat[:, :: max(1, flat.shape[1] // COLUMNS)]
    independent = effective_samples(flat / np.maximum(flat.std(0), 1e-30))
    return int(np.clip(round(len(flat) / independent), 1, len(flat) // 4))
