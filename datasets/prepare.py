"""One pass over the source into prepared data, kept in a cache by a hash of the source's contents and the options.

What is in the cache is right, and opening it again reads no more of the source than that hash needs.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciguide.datasets.axes import Axes, did_you_mean
from sciguide.datasets.files import LOCK, Source, digest, find_files, unreadable
from sciguide.datasets.layout import Layout
from sciguide.datasets.prepared import FIELDS, STATE, Prepared, open_prepared
from sciguide.datasets.split import Range, are_times, sample_labels, split_samples
from sciguide.datasets.statistics import blocks, effective_samples, measure, refuse_bad_values, thinned
from sciguide.datasets.store import open_fields
from sciguide.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

_FORMAT = 2


def prepare(
    source: Source,
    variables: Sequence[str] | None = None,
    train: Range = None,
    validation: Range = None,
    test: Range = None,
    units: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    log: Sequence[str] = (),
    cache: str | Path | None = None,
) -> Prepared:
    """Reads the fields once, block by block, unless that has been done before.

    `source`, `variables`, `units`, `axes`: see `store.open_fields`. `train`, `validation`, `test`: see
    `split.split_samples`; without any, all samples are for training. `log`: variables whose logarithm is normalised.
    `cache`: the folder of prepared data, by default $SCIGUIDE_CACHE or ~/.cache/sciguide.
    Raises InputError for everything that is wrong with the data.
    """
    paths = find_files(source)
    ranges = {"train": train, "validation": validation, "test": test}
    if train is None and (validation is not None or test is not None):
        raise InputError("`validation` or `test` is given but not `train`: write `train: [first, last]` under `data:`")
    options = [variables and list(variables), units and dict(units), axes and dict(axes), sorted(log)]
    limits = {name: given and [str(v) for v in given] for name, given in ranges.items()}
    identity = json.dumps([_FORMAT, digest(paths), options, limits], sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder = _cache_folder(cache) / fingerprint
    try:
        return open_prepared(folder)
    except (OSError, ValueError, KeyError):
        pass  # not there, or not whole: made below
    ds, found = open_fields(paths, variables, units, axes)
    try:
        ds, labels, split = _chosen(ds, found, ranges)
        _write(ds, found, labels, split, log, paths, folder, fingerprint)
    finally:
        ds.close()
    return open_prepared(folder)


def _cache_folder(cache: str | Path | None) -> Path:
    return Path(cache or os.environ.get("SCIGUIDE_CACHE") or "~/.cache/sciguide").expanduser()


def _chosen(
    ds: "xr.Dataset", axes: Axes, ranges: Mapping[str, Range]
) -> "tuple[xr.Dataset, np.ndarray, dict[str, tuple[int, int]]]":
    """The samples that some split names, their labels, and the splits counted among them."""
    labels = sample_labels(ds, axes.sample)
    if ranges["train"] is None:
        return ds, labels, {"train": (0, len(labels))}
    split = split_samples(labels, **ranges)
    rows = np.sort(np.concatenate([np.arange(*r) for r in split.values()]))
    if axes.sample is not None and len(rows) < len(labels):
        close = ds.close
        contiguous = np.ptp(rows) == len(rows) - 1
        ds = ds.isel({axes.sample: slice(rows[0], rows[-1] + 1) if contiguous else rows})
        ds.set_close(close)
    first = {name: int(np.searchsorted(rows, start)) for name, (start, _) in split.items()}
    return ds, labels[rows], {name: (first[name], first[name] + b - a) for name, (a, b) in split.items()}


def _write(
    ds: "xr.Dataset",
    axes: Axes,
    labels: np.ndarray,
    split: dict[str, tuple[int, int]],
    log: Sequence[str],
    paths: Sequence[Path],
    folder: Path,
    fingerprint: str,
) -> None:
    """Fields first, their description last, each under a temporary name until it is whole."""
    for name in log:
        if name not in axes.levels:
            raise InputError(f"`log:` names `{name}`, which is not loaded.{did_you_mean(name, axes.levels)}")
    layout = Layout.from_dataset(ds, axes)
    size = 4 * len(labels) * layout.mask.size
    with _part(folder, FIELDS, size) as part:
        array = _copied(ds, layout, paths, part)
        flags = np.array([channel.variable in log for channel in layout.channels])
        weights = np.cos(np.deg2rad(layout.y)) if layout.lat_lon else np.ones(layout.y.size)
        refuse_bad_values(array, layout.names, labels)
        training = slice(*split["train"])
        statistics, mask, partial = measure(array[training], flags, weights[:, None], layout.names, labels[training])
        notes = _masked(array, mask, partial, split, layout.names)
        array.flush()
        independent = training.stop - training.start
        if are_times(labels):
            independent = effective_samples(thinned(array[training], statistics, mask))
    layout = Layout.from_dataset(ds, axes, mask)
    prepared = Prepared(
        folder, labels, layout, statistics, split, float(independent), axes.describe(), tuple(notes), fingerprint
    )
    with _part(folder, STATE, 0) as part:
        part.write_text(json.dumps(prepared.to_dict()))


def _copied(ds: "xr.Dataset", layout: Layout, paths: Sequence[Path], part: Path) -> np.memmap:
    """The fields in a new `.npy`, copied chunk by chunk of the source, each read once."""
    import dask.array as da
    from dask.diagnostics import ProgressBar

    with LOCK:
        fields = da.asarray(layout.stacked(ds))
        array = np.lib.format.open_memmap(part, "w+", np.float32, fields.shape)
        # Threads help with Zarr; the NetCDF library would make them wait for each other.
        scheduler = "synchronous" if any(path.is_file() for path in paths) else "threads"
        try:
            with ProgressBar(minimum=2.0, out=sys.stderr):
                da.store(fields, array, lock=False, scheduler=scheduler)
        except Exception as error:
            raise unreadable(paths, layout.variables, error) from error
    return array


def _masked(
    array: np.ndarray, mask: np.ndarray, partial: np.ndarray, split: dict[str, tuple[int, int]], names: Sequence[str]
) -> list[str]:
    """Puts NaN off the mask in every sample; returns what to tell about points that are missing at times."""
    notes = [
        f"`{names[c]}`: {partial[c].sum()} points have no value in some training samples and count as land"
        for c in np.flatnonzero(partial.any((1, 2)))
    ]
    for name, (start, stop) in split.items():
        missing = np.zeros(len(names), int)
        for rows, block in blocks(array, start, stop):
            valid = np.isfinite(block)
            missing += (mask & ~valid).sum((0, 2, 3))
            if (valid & ~mask).any():
                array[rows] = np.where(mask, block, np.float32(np.nan))
        notes += [
            f"`{names[c]}`: {missing[c]} values are missing in the {name} samples" for c in np.flatnonzero(missing)
        ]
    return notes


@contextmanager
def _part(folder: Path, name: str, size: int) -> Iterator[Path]:
    """A temporary file in `folder`, which gets its name when the block has ended well and is removed if not.

    Raises InputError if the folder cannot be written to, or lacks `size` bytes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise InputError(
                f"the cache {folder.parent} has {free / 1e9:.3g} GB free and needs {size / 1e9:.3g} GB: free some, "
                "or point SCIGUIDE_CACHE or `cache:` elsewhere"
            )
        handle, path = tempfile.mkstemp(suffix=".part", dir=folder)
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write to the cache {folder.parent} ({error}): point SCIGUIDE_CACHE or `cache:` elsewhere"
        ) from error
    part = Path(path)
    try:
        yield part
        os.replace(part, folder / name)
    finally:
        part.unlink(missing_ok=True)
