"""The flows of the table: what each set is, and its samples cut into those to train, tune and judge by.

Of Kolmogorov flows only those with Reynolds numbers up to `RE_TRAINED` are for training, tuning and the first
comparison; the others, `outside`, are what the model has never seen. Each training flow stands there with its images
under the symmetries of the equation that a convolution does not have: turned by half a circle, and mirrored in x and
moved by half a wave of the force.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sciguide.cli import main as sciguide
from sciguide.datasets.store import LOCK
from sciguide.equations.base import Equation
from sciguide.equations.navier_stokes import NavierStokes
from sciguide.equations.shallow_water import ShallowWater
from sciguide.simulate import get, kolmogorov, rotating_layer

RE_TRAINED = 500.0
CUTS = "cuts"  # the attribute that holds the ranges of a cut file

Fields = NDArray[np.floating]


class NavierStokes4(NavierStokes):
    """The same equation, by differences of fourth order."""

    order = 4


class ShallowWater4(ShallowWater):
    """The same equation, by differences of fourth order."""

    order = 4


class Flow(NamedTuple):
    """A set: its name in `sciguide.simulate`; what is told apart by Re and has `images`; the equation with differences
    of order 4; samples for training, validation and test, and beyond the training range."""

    name: str
    fourth: Equation
    viscous: bool
    counts: tuple[int, int, int, int]

    @property
    def config(self) -> str:
        return f"configs/{self.name}.yaml"

    @property
    def variables(self) -> list[str]:
        return list(get(self.name).VARIABLES)


_VISCOUS = NavierStokes4(nu="nu", force_x="force_x", dt=kolmogorov.DT)
_ROTATING = ShallowWater4(g=rotating_layer.GRAVITY, f=rotating_layer.CORIOLIS, dt=rotating_layer.DT)
FLOWS = {
    "kolmogorov": Flow("kolmogorov", _VISCOUS, True, (560, 96, 160, 160)),
    "shallow_water": Flow("shallow_water", _ROTATING, False, (744, 96, 160, 0)),
}
SMALL = {
    "kolmogorov": FLOWS["kolmogorov"]._replace(counts=(32, 12, 8, 8)),
    "shallow_water": FLOWS["shallow_water"]._replace(counts=(32, 12, 8, 0)),
}


class Cuts(NamedTuple):
    """Half-open ranges of sample numbers."""

    train: tuple[int, int]
    validation: tuple[int, int]
    test: tuple[int, int]
    outside: tuple[int, int]


def cut_file(flow: Flow, folder: Path, data: str | None, made: int, samples: int, points: int) -> tuple[Path, Cuts]:
    """The file of the cut samples in `folder`, on so many `points` a side of those of the set `data`, or of a set of so
    many `samples` that is `made` on more; unless it is there."""
    path = folder / "data.nc"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if data is None:
            data = str(folder / f"{flow.name}.nc")
            words = ["data", "make", flow.name, "--out", data, "--size", str(made), "--samples", str(samples)]
            if sciguide(words):
                raise SystemExit(f"{data} could not be made")
        with LOCK, xr.open_dataset(data) as whole:
            every = whole.sizes["x"] // points
            loaded = whole.load()  # reading with a stride takes a hundred times as long
        cut, cuts = cut_samples(loaded.isel(y=slice(None, None, every), x=slice(None, None, every)), flow)
        cut.attrs[CUTS] = json.dumps(cuts._asdict())
        part = path.with_suffix(".part")
        with LOCK:
            cut.to_netcdf(part)
        part.rename(path)
    with LOCK, xr.open_dataset(path) as ds:
        cuts = Cuts(**{k: tuple(v) for k, v in json.loads(ds.attrs[CUTS]).items()})
    return path, cuts


def cut_samples(ds: xr.Dataset, flow: Flow) -> tuple[xr.Dataset, Cuts]:
    """Training samples with their images, then validation, test, and those outside the training range; the samples of
    a set are independent, so the first ones will do. SystemExit where there are too few."""
    inside = np.arange(ds.sizes["sample"])
    beyond = inside[:0]
    if flow.viscous:
        within = 1 / ds["nu"].mean(("y", "x")).values <= RE_TRAINED
        inside, beyond = inside[within], inside[~within]
    train, validation, test, outside = flow.counts
    if len(inside) < train + validation + test or len(beyond) < outside:
        needed = f"{train + validation + test} inside and {outside} outside the training range"
        raise SystemExit(f"{len(inside)} and {len(beyond)} samples of {flow.name}: {needed} are needed")
    stops = np.cumsum([0, train, validation, test])
    kept = [inside[a:b] for a, b in zip(stops, stops[1:], strict=False)] + [beyond[:outside]]
    parts = [ds.isel(sample=i) for i in kept]
    parts[:1] = images(parts[0]) if flow.viscous else parts[:1]
    extra = len(parts) - len(kept)
    ends = np.cumsum([0, train * (1 + extra), validation, test, outside]).tolist()
    live = [name for name in ds.data_vars if "sample" in ds[name].dims]
    whole = xr.concat([part[live] for part in parts], "sample").assign_coords(sample=np.arange(ends[-1]))
    return whole.assign({n: ds[n] for n in ds.data_vars if n not in live}), Cuts(*zip(ends, ends[1:], strict=False))


def images(ds: xr.Dataset) -> list[xr.Dataset]:
    """Kolmogorov flows themselves, turned, mirrored, and both: (u, v)(x, y) as (-u, -v)(-x, -y), and as
    (-u, v)(-x, y + pi / 4), under which the force sin(4 y) is itself."""
    half = ds.sizes["y"] // (2 * kolmogorov.FORCED)

    def turned(part: xr.Dataset) -> xr.Dataset:
        return _changed(part, lambda a: np.roll(a[:, ::-1, ::-1], (1, 1), (1, 2)), ("u", "v"))

    def mirrored(part: xr.Dataset) -> xr.Dataset:
        return _changed(part, lambda a: np.roll(a[:, :, ::-1], (-half, 1), (1, 2)), ("u",))

    return [ds, turned(ds), mirrored(ds), turned(mirrored(ds))]


def _changed(ds: xr.Dataset, move: Callable[[NDArray], NDArray], negated: tuple[str, ...]) -> xr.Dataset:
    out = ds.copy()
    for name in ds.data_vars:
        if "sample" in ds[name].dims:
            values = move(ds[name].transpose("sample", "y", "x").values)
            out[name] = ds[name].copy(data=-values if str(name).removesuffix("_next") in negated else values)
    return out


def read(path: Path, variables: list[str], cut: tuple[int, int]) -> NDArray[np.float32]:
    """Physical fields (N, C, Y, X) of a range of samples."""
    with LOCK, xr.open_dataset(path) as ds:
        parts: Any = ds[variables].isel(sample=slice(*cut))
        return np.stack([parts[name].transpose("sample", "y", "x").values for name in variables], 1)


def reynolds(fields: Fields, variables: list[str]) -> NDArray[np.float64]:
    """Of each sample by its own viscosity, (N,); infinite where that is not positive."""
    nu = fields[:, variables.index("nu")].mean((1, 2), dtype=np.float64)
    return np.where(nu > 0, 1 / np.where(nu > 0, nu, 1), np.inf)
