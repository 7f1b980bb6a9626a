"""One member of an ensemble a file: CF-1.11 NetCDF that is whole or absent, and whose bytes repeat.

No clock, host, process or batch enters a file, so the same member from two machines has the same SHA-256. With the
fields stand the residual of each equation and its floor in the data, the seed, and what the policy did at every step.
Every opening and closing of a NetCDF file holds the lock of `sciguide.datasets.store`: the library is not thread-safe.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import dask
import dask.array as da
import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sciguide.atomic import write_atomically
from sciguide.cf import REALIZATION, encodings, repaired, variable_name
from sciguide.datasets.store import LOCK
from sciguide.errors import InputError
from sciguide.receipts import (
    Receipt,
    fault,
    lock,
    member_path,
    read_receipt,
    read_receipts,
    receipt_path,
    require_space,
    wanted,
    write_receipt,
)

GLOBALS = ("title", "summary", "institution", "source", "history", "references", "sciguide_config")
OVERHEAD = 131072  # bytes of a file besides its fields: headers, coordinates, receipts


class Trace(NamedTuple):
    """What the policy did to one member: `action` (S, A) at the noise levels `sigma` (S,), `names` of its A numbers."""

    sigma: ArrayLike
    action: ArrayLike
    names: tuple[str, ...]


def member_bytes(fields: xr.Dataset) -> int:
    """An upper bound of the size of the file of one member: its fields as float32, as if they did not compress."""
    return 4 * sum(v.size for v in fields.data_vars.values()) + OVERHEAD


def member_dataset(
    fields: xr.Dataset,
    member: int,
    *,
    seed: int,
    identity: str,
    attributes: Mapping[str, str],
    residuals: Mapping[str, tuple[float, float]],
    trace: Trace | None,
) -> xr.Dataset:
    """The CF Dataset of one member; see `write_member` for the arguments."""
    missing = [name for name in GLOBALS if not attributes.get(name)]
    if missing:
        raise ValueError(f"global attributes without a value: {', '.join(missing)}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed {seed} is not in [0, 2^63), the range of an integer in NetCDF")
    if "realization" not in fields.dims:
        fields = fields.expand_dims("realization")
    out = repaired(fields.drop_vars("realization", errors="ignore"))
    names = list(fields.data_vars)
    out = out.assign_coords(realization=("realization", np.array([member], np.int32), dict(REALIZATION)))
    extra: dict[str, tuple] = {}
    for equation, (value, floor) in residuals.items():
        what = f"residual of {equation}, root mean square over its scale"
        name = variable_name(equation)
        extra[f"pde_residual_{name}"] = ("realization", [value], {"long_name": what, "units": "1"})
        what += ", .9 quantile of the training data"
        extra[f"pde_residual_floor_{name}"] = ("realization", [floor], {"long_name": what, "units": "1"})
    extra["seed"] = ("realization", np.array([seed], np.int64), {"long_name": "seed of the noise", "units": "1"})
    for name in names:
        out[name].attrs["ancillary_variables"] = " ".join(extra)
    out = out.assign(extra)
    if trace is not None:
        out = out.assign(_trace_variables(trace))
    out.attrs = {name: str(attributes[name]) for name in sorted(attributes)} | {
        "Conventions": "CF-1.11",
        "comment": "Synthetic fields; not observations",
        "sciguide_run_id": identity,
    }
    return out


def _trace_variables(trace: Trace) -> dict[str, tuple]:
    action, sigma = np.asarray(trace.action, np.float64), np.asarray(trace.sigma, np.float64)
    if action.shape != (len(sigma), len(trace.names)):
        raise ValueError(f"trace: {action.shape} actions, {len(sigma)} sigmas, {len(trace.names)} names")
    steps, numbers = np.arange(len(sigma), dtype=np.int32), np.arange(len(trace.names), dtype=np.int32)
    names = "; ".join(f"{i}: {name}" for i, name in enumerate(trace.names))
    one = {"units": "1"}
    return {
        "step": ("step", steps, {"long_name": "step of the sampler"} | one),
        "action": ("action", numbers, {"long_name": "number of the policy's action", "comment": names} | one),
        "policy_sigma": ("step", sigma, {"long_name": "noise level, normalised"} | one),
        "policy_action": (
            ("realization", "step", "action"),
            action[None],
            {"long_name": "action of the guidance policy", "comment": "0 is the formula itself"} | one,
        ),
    }


def write_member(
    directory: str | Path,
    fields: xr.Dataset,
    member: int,
    *,
    identity: str,
    seed: int,
    attributes: Mapping[str, str],
    residuals: Mapping[str, tuple[float, float]] | None = None,
    trace: Trace | None = None,
) -> Receipt:
    """Write `member_<member>.nc` and its receipt into a folder taken up by `receipts.begin`.

    fields: variables (..., y, x) of one member, with or without a `realization` dimension of length 1; NaN on land.
    identity: of the run, `receipts.identity`. attributes: the global ones of `GLOBALS`, without any clock.
    residuals: per equation the member's root mean square residual over the equation's scale, and its floor.

    A member that is finished and whole already stays as it is.
    InputError when the disk is too full, OSError naming the file when it cannot be written; neither leaves anything.
    """
    ds = member_dataset(
        fields,
        member,
        seed=seed,
        identity=identity,
        attributes=attributes,
        residuals=residuals or {},
        trace=trace,
    )
    require_space(directory, 1, member_bytes(fields))
    path, encoding = member_path(directory, member), encodings(ds)

    def write(part: Path) -> None:
        with LOCK:
            ds.to_netcdf(part, engine="netcdf4", format="NETCDF4", encoding=encoding)

    with lock(directory, alone=False):
        # Another process may have made it meanwhile: what was reported done is not touched again.
        done = read_receipt(directory, member)
        if done and done.identity == identity and not fault(directory, done, verify=True):
            return done
        if done:
            # An old receipt must never vouch for a new file, not even for the moment between the two.
            receipt_path(directory, member).unlink(missing_ok=True)
        try:
            write_atomically(path, write)
            return write_receipt(directory, member, identity)
        except (OSError, RuntimeError) as error:
            needed, free = member_bytes(fields), shutil.disk_usage(directory).free
            raise OSError(f"{path} could not be written ({error}): {needed} bytes needed, {free} free") from error


def _read(path: Path, name: str) -> NDArray:
    with LOCK, xr.open_dataset(path, engine="netcdf4") as ds:
        return ds[name].values


def _small(path: Path, names: list[str]) -> dict[str, NDArray]:
    with LOCK, netCDF4.Dataset(path) as file:
        return {name: np.asarray(file[name][:]) for name in names}


def open_ensemble(directory: str | Path) -> xr.Dataset:
    """The ensemble of a folder along `realization`, sorted; fields lazily by Dask, a chunk a member, the rest loaded.

    InputError if a member is missing, unfinished, of another size than its receipt says, or of another run: nothing
    is ever filled in. Contents are not hashed here: `receipts.verify` does that.
    """
    receipts = read_receipts(directory)
    members = range(wanted(directory))
    absent = [m for m in members if m not in receipts]
    faults = [fault(directory, receipts[m], verify=False) for m in members if m in receipts]
    problems = [f"members {_shortened(absent)} are missing or unfinished"] * bool(absent) + [f for f in faults if f]
    if not members or problems:
        raise InputError(f"{directory}: {'; '.join(problems) or 'no members'}: run the same generate again to resume")
    if len({receipts[m].identity for m in members}) > 1:
        raise InputError(f"{directory} holds members of more than one run: they are no ensemble")
    paths = [member_path(directory, m) for m in members]
    with LOCK, xr.open_dataset(paths[0], engine="netcdf4") as file:
        first = file.load()
    fields = [n for n, v in first.data_vars.items() if "ancillary_variables" in v.attrs]
    small = [n for n, v in first.variables.items() if "realization" in v.dims and n not in fields]
    values = [_small(path, small) for path in paths]
    stacked = {n: np.concatenate([v[n] for v in values]) for n in small}
    out = first.drop_vars([*small, *fields])
    for name in small:
        out[name] = (first[name].dims, stacked[name], first[name].attrs)
    for name in fields:
        out[name] = (first[name].dims, _lazy(paths, name, first[name]), first[name].attrs)
    return out.set_coords("realization")[[*first.data_vars]]


def _lazy(paths: list[Path], name: str, like: xr.DataArray) -> da.Array:
    read = dask.delayed(_read)
    return da.concatenate([da.from_delayed(read(p, name), like.shape, like.dtype) for p in paths])


def _shortened(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
