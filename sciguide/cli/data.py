"""`sciguide data make|check|stats`: a training set with a known truth, and a look at files before training."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from sciguide.cli import meant
from sciguide.cli.parser import UsageError, call

if TYPE_CHECKING:
    import xarray as xr

    from sciguide.datasets.axes import Axes

FEW = 50  # samples below which a generative model learns the samples themselves


class Statistics(NamedTuple):
    """One variable over all its samples, levels and points; moments in its unit, NaN where there is no valid value.

    `valid`: share of finite values; `infinite`: number of infinite ones; `wandering`: number of points that are valid
    in some samples only.
    """

    valid: float
    infinite: int
    wandering: int
    mean: float
    std: float
    minimum: float
    maximum: float


def run(argv: list[str]) -> int:
    actions = {"make": "a training set with a known truth", "check": "look for problems", "stats": "print statistics"}
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print("usage: sciguide data make|check|stats ...\n")
        print("\n".join(f"  {name:<8}{text}; see sciguide data {name} --help" for name, text in actions.items()))
        return 0
    if action not in actions:
        raise UsageError(f"no such action: {action}{meant(action, actions)}", "see `sciguide data --help`")
    making = import_module("sciguide.cli.data_make") if action == "make" else None
    if making and {"-h", "--help"} & set(rest):
        print(f"{making.overview()}\n")
    function = making.make if making else {"check": check, "stats": stats}[action]
    return call(function, rest, f"sciguide data {action}")


def check(files: list[str]) -> int:
    """Say what training would make of files: axes, variables, units, sizes, share of valid points, problems.

    Args:
        files: NetCDF files or Zarr stores, a folder of them, or a pattern; several make one set
    """
    ds, axes, found = survey(files)
    samples = ds.sizes[axes.sample] if axes.sample else 1
    size = sum(v.size for v in ds.data_vars.values()) * 4 / 2**20
    print(f"axes       {axes.describe()}")
    print(
        f"size       {samples} samples of {ds.sizes[axes.y]} x {ds.sizes[axes.x]} points, {size:.1f} MiB as float32\n"
    )
    rows = [("variable", "units", "dimensions", "valid", "what it is")]
    for name, stat in found.items():
        what = ds[name].attrs.get("long_name") or ds[name].attrs.get("standard_name") or ""
        sizes = ", ".join(f"{d} {n}" for d, n in ds[name].sizes.items())
        rows.append((name, ds[name].attrs["units"], sizes, f"{stat.valid:.1%}", str(what)))
    print(columns(rows))
    warnings = [f"only {samples} samples: below {FEW} a model repeats what it has seen"] if samples < FEW else []
    warnings += [f"{name}: {text}" for name, stat in found.items() for text in problems(stat)]
    print("\n" + ("\n".join(f"warning    {text}" for text in warnings) or "no problem found"))
    return 0


def stats(files: list[str]) -> int:
    """Print mean, standard deviation, least and greatest value of each variable over its valid points, unweighted.

    Args:
        files: NetCDF files or Zarr stores, a folder of them, or a pattern; several make one set
    """
    ds, _, found = survey(files)
    rows = [("variable", "units", "mean", "std", "min", "max", "valid")]
    for name, s in found.items():
        numbers = [f"{value:.6g}" for value in (s.mean, s.std, s.minimum, s.maximum)]
        rows.append((name, ds[name].attrs["units"], *numbers, f"{s.valid:.1%}"))
    print(columns(rows))
    return 0


def survey(files: list[str]) -> "tuple[xr.Dataset, Axes, dict[str, Statistics]]":
    """Opens, reads and closes files: the fields, for their sizes and attributes, the axes, and the statistics."""
    from sciguide.datasets.files import unreadable
    from sciguide.datasets.store import open_fields

    ds, axes = open_fields(files)
    try:
        return ds, axes, statistics(ds, axes.sample)
    except Exception as error:
        raise unreadable(files, list(axes.levels), error) from error
    finally:
        ds.close()


def problems(stat: Statistics) -> list[str]:
    """What would disturb training on a variable, one line each."""
    found = []
    if stat.infinite:
        found.append(f"{stat.infinite} infinite values: mask them as NaN")
    if stat.wandering:
        found.append(f"{stat.wandering} points are valid in some samples only: fill them, or mask them in all")
    if not stat.valid:
        found.append("no valid value: leave it out of `variables:`")
    elif stat.std == 0:
        found.append("constant: leave it out of `variables:`")
    return found


def statistics(ds: "xr.Dataset", sample: str | None) -> dict[str, Statistics]:
    """Statistics of every variable in one lazy pass, chunk by chunk; `sample`: the sample dimension, if any."""
    import dask
    import numpy as np
    from dask.diagnostics import ProgressBar

    from sciguide.datasets.files import LOCK

    lazy = {}
    for name, field in ds.data_vars.items():
        finite = np.isfinite(field)
        values = field.where(finite).astype("float64")
        here = finite.sum(sample) if sample else finite
        wandering = ((here > 0) & (here < (ds.sizes[sample] if sample else 1))).sum()
        moments = values.mean(), values.std(), values.min(), values.max()
        lazy[name] = [x.data for x in (finite.mean(), np.isinf(field).sum(), wandering, *moments)]
    with LOCK, ProgressBar(minimum=2, out=sys.stderr), np.errstate(all="ignore"):
        (found,) = dask.compute(lazy, scheduler="synchronous")
    return {
        str(name): Statistics(float(valid), int(infinite), int(wandering), *map(float, moments))
        for name, (valid, infinite, wandering, *moments) in found.items()
    }


def columns(rows: list[tuple[str, ...]]) -> str:
    """Rows as text, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
