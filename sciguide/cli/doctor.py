"""`sciguide doctor`: what works on this machine, found by trying it, and how to mend what does not."""

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from sciguide.cli.parser import call


class Ailment(Exception):
    """Something that does not work; the message says how to mend it."""


def run(argv: list[str]) -> int:
    return call(doctor, argv, "sciguide doctor")


def doctor() -> int:
    """Try what sciguide needs, one line each: ok, or "-" where only speed is lost, or BAD and how to mend it.

    The exit code is 1 if something bad was found.
    """
    needed = [packages, tensors, netcdf, zarr_store, disk]
    wanted = [graphics, triton_kernels, numba_kernels, compiler]
    bad = [trial for trial in needed if not report(trial, "BAD")]
    for trial in wanted:
        report(trial, "-")
    return int(bool(bad))


def report(trial: Callable[[], str], mark: str) -> bool:
    """Runs one trial and prints its line; whether it went well."""
    try:
        text, well = trial(), True
    except Exception as error:  # whatever a broken installation raises is the finding
        text, well = " ".join(str(error).split()) or type(error).__name__, False
    label = (trial.__doc__ or "").partition(":")[0]
    print(f"{'ok' if well else mark:<4} {label:<12} {text}", flush=True)
    return well


def packages() -> str:
    """packages: everything that pyproject.toml asks for, in the right version."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("sciguide") or []]
    except PackageNotFoundError:
        raise Ailment("sciguide itself is not installed: pip install -e . -c constraints.txt") from None
    wrong, there = [], []
    for need in wanted:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"'{need.name}{need.specifier}'")
            continue
        there.append(f"{need.name} {have}")
        if not need.specifier.contains(have, prereleases=True):
            wrong.append(f"'{need.name}{need.specifier}'")
    if wrong:
        raise Ailment(f"missing or too old; pip install {' '.join(wrong)}")
    return f"Python {platform.python_version()}, {', '.join(there)}"


def tensors() -> str:
    """torch: a convolution and its gradient."""
    import torch

    x = torch.ones(1, 1, 8, 8, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.ones(1, 1, 3, 3)).sum().backward()
    if x.grad is None or x.grad.max() != 9:
        raise Ailment("a convolution's gradient is wrong; install torch again")
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def netcdf() -> str:
    """netCDF4: a compressed file with checksums, written and read back."""
    import netCDF4

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.nc"
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 64)
            file.createVariable("u", "f4", "x", zlib=True, shuffle=True, fletcher32=True)[:] = range(64)
        with netCDF4.Dataset(path) as file:
            if file["u"][:].tolist() != list(range(64)):
                raise Ailment("a file reads back differently; pip install --force-reinstall netCDF4")
    return f"{netCDF4.__version__}, NetCDF-C {netCDF4.__netcdf4libversion__}, HDF5 {netCDF4.__hdf5libversion__}"


def zarr_store() -> str:
    """zarr: a store opened by xarray on Dask."""
    import xarray as xr

    with tempfile.TemporaryDirectory() as folder:
        xr.Dataset({"u": ("x", [1.0, 2.0, 4.0])}).to_zarr(folder, mode="w", consolidated=False)
        with xr.open_zarr(folder, consolidated=False) as ds:
            if ds.u.sum().compute(scheduler="synchronous") != 7:
                raise Ailment("a store reads back differently; pip install --force-reinstall zarr")
    return f"{version('zarr')}, xarray {version('xarray')}, Dask {version('dask')}"


def disk() -> str:
    """disk: room in the current folder."""
    free = shutil.disk_usage(".").free / 2**30
    if free < 1:
        raise Ailment(f"{free:.1f} GiB free here; make room or work elsewhere")
    if not os.access(".", os.W_OK):
        raise Ailment("this folder is read-only; work elsewhere")
    return f"{free:.0f} GiB free here"


def graphics() -> str:
    """GPU: what torch can compute on."""
    import torch

    if not torch.cuda.is_available():
        cause = "this torch is built for CPUs only" if not torch.backends.cuda.is_built() else "no driver or no device"
        raise Ailment(f"none: {cause}; everything runs on the CPU")
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def triton_kernels() -> str:
    """triton: generated kernels on a GPU, one of them compared with the reference."""
    if importlib.util.find_spec("triton") is None:
        raise Ailment("not installed; only needed on a GPU: pip install triton")
    import torch

    if not torch.cuda.is_available():
        return f"{version('triton')}, no GPU to run on"
    return f"{version('triton')}, {kernel_trial('triton', 'cuda')}"


def numba_kernels() -> str:
    """numba: generated kernels on the CPU, one of them compared with the reference."""
    if importlib.util.find_spec("numba") is None:
        raise Ailment("not installed, the PyTorch reference computes on the CPU, slowly: pip install numba")
    return f"{version('numba')}, {kernel_trial('numba', 'cpu')}"


def kernel_trial(backend: str, device: str) -> str:
    """Where kernels lie, once the energy and gradient of one agree with the reference."""
    import torch

    from sciguide.equations import get
    from sciguide.grid import Grid
    from sciguide.kernels.backends import using
    from sciguide.kernels.source import cache_folder

    kernels = get("darcy")().on(Grid.uniform((9, 11))).kernels
    x = 1 + torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).to(device)
    with using(backend):
        found = kernels.energy_and_gradient(x)
    for a, b in zip(found, kernels.reference.energy_and_gradient(x.double()), strict=True):
        if not bool((a - b).abs().max() <= 1e-5 * b.abs().max()):
            raise Ailment(f"a kernel is wrong; set SCIGUIDE_BACKEND=reference, remove {cache_folder()} and try again")
    return f"a kernel agrees with the reference; they are kept in {cache_folder()}"


def compiler() -> str:
    """C++: what torch.compile needs on a CPU."""
    found = next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)
    if found is None:
        raise Ailment("none found; torch.compile is not used: install g++")
    return found
