"""Files and stores by name, opened lazily one by one under the process-wide lock.

xarray's own lock does not cover opening and closing, and the NetCDF library is not thread-safe: whoever opens, reads
or closes does so under `LOCK`, which is re-entrant and one for the whole process.
"""

import glob
import hashlib
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciguide.datasets.attributes import units_of
from sciguide.datasets.classic import check_classic
from sciguide.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

LOCK = threading.RLock()
Source = str | PathLike | Sequence[str | PathLike]

_SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf", ".h5")
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_DIGEST_BYTES = 256 * 2**20
_CHUNK_BYTES = "64MiB"


def locked(function: Callable) -> Callable:
    """Runs the function under the process-wide lock."""

    @wraps(function)
    def under_lock(*args: Any, **kwargs: Any) -> Any:
        with LOCK:
            return function(*args, **kwargs)

    return under_lock


def find_files(source: Source) -> list[Path]:
    """The files and Zarr stores that `source` names, in order.

    `source`: a path, a pattern with `*`, a folder of NetCDF files or Zarr stores, or a list of these.
    Raises InputError if nothing matches.
    """
    if not isinstance(source, (str, PathLike)):
        return [path for part in source for path in find_files(part)]
    path = Path(source).expanduser()
    if path.is_dir() and not _is_zarr(path):
        found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES or _is_zarr(p))
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
    if not found:
        raise InputError(f"no NetCDF file or Zarr store matches `{source}` (looked in {Path.cwd()}): correct `source:`")
    return found


def digest(paths: Iterable[Path]) -> str:
    """A hash of the contents where they are small, else of names, sizes and times of change. 64 hexadecimal digits."""
    files = [f for p in paths for f in ([p] if p.is_file() else sorted(q for q in p.rglob("*") if q.is_file()))]
    stats = [f.stat() for f in files]
    small = sum(s.st_size for s in stats) <= _DIGEST_BYTES
    total = hashlib.sha256()
    for file, stat in zip(files, stats, strict=True):
        if small:
            total.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            total.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return total.hexdigest()


def open_file(path: Path) -> "xr.Dataset":
    """One file or store, with `units` repaired and times as they are stored."""
    import dask
    import xarray as xr

    options: dict[str, Any] = {"chunks": "auto", "decode_times": False}
    try:
        with dask.config.set({"array.chunk-size": _CHUNK_BYTES}), warnings.catch_warnings():
            # Several fill values, or one of the wrong type: all of them decode to NaN.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            if _is_zarr(path):
                ds = xr.open_zarr(path, consolidated=(path / ".zmetadata").exists(), **options)
            else:
                check_classic(path)
                ds = xr.open_dataset(path, engine="netcdf4", **options)
    except Exception as error:
        raise InputError(
            f"{path}: not readable as NetCDF or Zarr ({first_line(error)}): damaged, incomplete or another format"
        ) from error
    return repaired(ds)


def repaired(ds: "xr.Dataset") -> "xr.Dataset":
    """The same with every unit under the name `units`, spelt as UDUNITS knows it."""
    repaired = ds.copy()
    for name, variable in repaired.variables.items():
        found = units_of(variable.attrs)
        repaired[name].attrs = {k: v for k, v in variable.attrs.items() if k != "Unit"}
        if found is not None:
            repaired[name].attrs["units"] = found
    repaired.set_close(locked(ds.close))
    return repaired


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / mark).exists() for mark in _ZARR_MARKS)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@locked
def unreadable(source: Source, variables: Iterable[str], error: Exception) -> InputError:
    """What to raise when reading failed half-way: the error with the name of the first file that cannot be read."""
    for path in find_files(source):
        try:
            part = open_file(path)
            try:
                for name in variables:
                    if name in part:
                        part[name].load(scheduler="synchronous")
            finally:
                part.close()
        except Exception as cause:
            return InputError(f"{path}: damaged or incomplete ({first_line(cause)}): fetch it again")
    return InputError(f"cannot read {source}: {first_line(error)}")
