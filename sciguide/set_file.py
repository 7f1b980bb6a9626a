"""A generated set as one file: CF-1.11 NetCDF, or a Zarr store of the same variables, one chunk a sample.

A writer declares coordinates, static fields and empty variables, receives the samples in order, and gets the global
attributes last, since among them is what was measured on the way.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import netCDF4
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from sciguide.cf import FILL, variable_name
from sciguide.datasets.store import LOCK
from sciguide.equations.operator import Operator
from sciguide.kernels.backends import using
from sciguide.parts import BATCH, disk_errors, plain

FLOOR = 1e-6  # of R_data: where rounding begins
SAMPLE = {"long_name": "number of the sample in the set", "units": "1"}
Fields = dict[str, NDArray[np.float32]]


class Writer(Protocol):
    """A file that is being written."""

    def write(self, first: int, fields: Fields) -> None:
        """The samples `first` ... of every variable."""

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """The global attributes; nothing can be written any more."""


class NetCDF:
    """The lock of the NetCDF library is held for each access."""

    def __init__(self, path: Path, generator: ModuleType, size: int, samples: int) -> None:
        with LOCK:
            self.file = netCDF4.Dataset(path, "w", format="NETCDF4")
        try:
            self._declare(generator, size, samples)
        except BaseException:
            self.abandon()
            raise

    def _declare(self, generator: ModuleType, size: int, samples: int) -> None:
        axes, static, file = generator.axes(size), generator.static(size), self.file
        shape = tuple(len(values) for values, _ in axes.values())
        storage = {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True, "fill_value": FILL}
        with LOCK:
            for dim, length in (("sample", samples), *zip(axes, shape, strict=True)):
                file.createDimension(dim, length)
            for dim, (values, attributes) in {"sample": (_numbers(samples), SAMPLE), **axes}.items():
                variable = file.createVariable(dim, values.dtype, (dim,))
                variable.setncatts(attributes)
                variable[:] = values
            for name, (values, attributes) in static.items():
                variable = file.createVariable(name, "f4", tuple(axes), chunksizes=shape, **storage)
                variable.setncatts(attributes)
                variable[:] = values
            for name, attributes in generator.VARIABLES.items():
                variable = file.createVariable(name, "f4", ("sample", *axes), chunksizes=(1, *shape), **storage)
                variable.setncatts(attributes)

    def write(self, first: int, fields: Fields) -> None:
        with LOCK:
            for name, values in fields.items():
                self.file[name][first : first + len(values)] = values

    def finish(self, attributes: Mapping[str, Any]) -> None:
        with LOCK:
            self.file.setncatts(attributes)
            self.file.close()

    def abandon(self) -> None:
        """Close what cannot be finished."""
        with LOCK:
            try:
                self.file.close()
            except RuntimeError:
                pass  # the disk is full


class Zarr:
    """Format 3, a file for each BATCH samples of a variable, so that large sets do not have millions of files."""

    def __init__(self, path: Path, generator: ModuleType, size: int, samples: int) -> None:
        self.path, self.group = path, zarr.create_group(path, zarr_format=3)
        axes = generator.axes(size)
        shape = tuple(len(values) for values, _ in axes.values())
        for dim, (values, attributes) in {"sample": (_numbers(samples), SAMPLE), **axes}.items():
            self.group.create_array(dim, data=values, dimension_names=(dim,), attributes=plain(attributes))
        for name, (values, attributes) in generator.static(size).items():
            values = values.astype(np.float32)
            self.group.create_array(name, data=values, dimension_names=tuple(axes), attributes=plain(attributes))
        for name, attributes in generator.VARIABLES.items():
            self.group.create_array(
                name,
                shape=(samples, *shape),
                dtype="f4",
                chunks=(1, *shape),
                shards=(BATCH, *shape),
                compressors=[ZstdCodec(level=1, checksum=True)],
                dimension_names=("sample", *axes),
                attributes=plain(attributes),
            )

    def write(self, first: int, fields: Fields) -> None:
        for name, values in fields.items():
            self.group[name][first : first + len(values)] = values

    def finish(self, attributes: Mapping[str, Any]) -> None:
        self.group.update_attributes(plain(attributes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an extension of the format, for which xarray asks first
            zarr.consolidate_metadata(self.path)

    def abandon(self) -> None:
        """Nothing is open."""


WRITERS: dict[str, type[NetCDF] | type[Zarr]] = {".nc": NetCDF, ".zarr": Zarr}


def write_set(
    path: Path,
    suffix: str,
    generator: ModuleType,
    size: int,
    samples: int,
    blocks: Iterator[tuple[int, Fields]],
    attributes: Mapping[str, Any],
) -> None:
    """The set at `path`, in the format of `suffix`; `blocks`: numbers of first samples, and every variable from there,
    (B, ...), in order, at most BATCH; `attributes`: global ones, beside those of the generator and what the residual
    is. Raises OSError, naming the file, where it cannot be written."""
    operator = generator.operator(size)
    measured = Measured(operator, samples, generator.static(size))
    with disk_errors(path):
        writer = WRITERS[suffix](path, generator, size, samples)
    try:
        for first, fields in blocks:
            with disk_errors(path):
                writer.write(first, fields)
            measured.add(first, fields)
        source = generator.TITLE if operator is None else f"random solutions of {operator.formula}"
        always = {"Conventions": "CF-1.11", "title": generator.TITLE, "source": f"sciguide, {source}"}
        with disk_errors(path):
            writer.finish({**always, **attributes, **generator.attributes(), **measured.attributes()})
    except BaseException:
        writer.abandon()
        raise


def attributes_of(path: Path) -> dict[str, Any]:
    """The global attributes of a file or store; none of what is neither."""
    try:
        if path.is_dir():
            return dict(zarr.open_group(path, mode="r").attrs)
        with LOCK, netCDF4.Dataset(path) as file:
            return {name: file.getncattr(name) for name in file.ncattrs()}
    except (OSError, ValueError):
        return {}


class Measured:
    """Residuals of the samples as they are stored, in float32."""

    def __init__(self, operator: Operator | None, samples: int, static: Mapping[str, tuple[NDArray, Any]]) -> None:
        self.operator, K = operator, 0 if operator is None else len(operator.components)
        self.static = {name: values.astype(np.float32) for name, (values, _) in static.items()}
        self.squares, self.scale_squares = np.empty((2, samples, K))

    def add(self, first: int, fields: Fields) -> None:
        """Measure the samples from number `first` on."""
        if self.operator is None:
            return
        shape, rows = next(iter(fields.values())).shape, slice(first, first + len(next(iter(fields.values()))))
        there = fields | {name: np.broadcast_to(values, shape) for name, values in self.static.items()}
        u = torch.from_numpy(np.stack([there[name] for name in self.operator.fields], 1)).double()
        with using("reference"):  # the same bits on every machine, and nothing to compile
            self.squares[rows] = self.operator.mean_square(self.operator.residual(u)).numpy()
            self.scale_squares[rows] = self.operator.scale_square(u).numpy()

    def attributes(self) -> dict[str, float]:
        """Over the samples, each residual relative to its scale term: `R_rms_NAME` for each component; of their mean
        square R by the equation's weights, the .9 quantile `R_data` and the root of its mean, `R_rms`."""
        if self.operator is None:
            return {}
        relative = self.squares / self.scale_squares.mean(0)
        R = relative @ np.asarray(self.operator.share)
        rms = np.sqrt(relative.mean(0)).tolist()
        each = {f"R_rms_{variable_name(k)}": v for k, v in zip(self.operator.components, rms, strict=True)}
        return {"R_data": max(float(np.quantile(R, 0.9)), FLOOR), "R_rms": float(np.sqrt(R.mean())), **each}


def _numbers(samples: int) -> NDArray[np.int32]:
    return np.arange(samples, dtype=np.int32)
