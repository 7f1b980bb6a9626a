"""`sciguide data make NAME`: a training set with a known truth, as one CF NetCDF file."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING

from sciguide.errors import InputError

if TYPE_CHECKING:
    import netCDF4
    import torch

BATCH = 32
FLOOR = 1e-6  # of R_data: where rounding begins
FILL = 9.969209968386869e36  # netCDF's own fill value of a float
PATIENCE = 2.0  # seconds before a progress bar appears


def make(name: str, out: str | None = None, size: int = 64, samples: int = 1000, seed: int = 0) -> None:
    """Generate a data set and write it to a NetCDF file.

    Sample i depends on `seed` and i only: a larger set begins with the smaller one.

    Args:
        name: of the set; `poisson` is there.
        out: the file to write; NAME.nc if left out.
        size: points along each side, at least 4.
        samples: how many.
        seed: of the random numbers; sets with different seeds share no sample.
    """
    from sciguide.atomic import write_atomically
    from sciguide.simulate import get

    if size < 4 or samples < 1 or seed < 0:
        raise InputError(f"size {size}, samples {samples}, seed {seed}: at least 4, 1 and 0 are needed")
    generator, path = get(name), Path(out or f"{name}.nc")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"out {out!r}: name a file in a folder that exists")
    write_atomically(path, lambda part: write(part, name, generator, size, samples, seed))
    print(f"{path}: {samples} samples of {name}, {size} x {size} points, {path.stat().st_size / 2**20:.1f} MB")


def write(path: Path, name: str, generator: ModuleType, size: int, samples: int, seed: int) -> None:
    """The set as a file at `path`. The lock of the NetCDF library is held for each access, never while drawing."""
    import netCDF4
    import numpy as np

    from sciguide.datasets.store import LOCK

    operator = generator.operator(size)
    squares, scale_squares = np.empty((2, samples))
    with LOCK:
        file = netCDF4.Dataset(path, "w", format="NETCDF4")
    try:
        with LOCK:
            declare(file, generator, size, samples)
        for start, u in with_progress(batches(generator, operator.fields, size, samples, seed), samples, name):
            rows = slice(start, start + len(u))
            with LOCK:
                for channel, variable in enumerate(operator.fields):
                    file[variable][rows] = u[:, channel].numpy()
            u = u.double()
            squares[rows] = operator.mean_square(operator.residual(u))[:, 0].numpy()
            scale_squares[rows] = operator.scale_square(u)[:, 0].numpy()
        R = squares / scale_squares.mean()
        attributes = {
            "Conventions": "CF-1.11",
            "title": generator.TITLE,
            "source": f"sciguide, random solutions of {operator.formula}",
            "history": f"sciguide data make {name} --size {size} --samples {samples} --seed {seed}",
            "comment": "Synthetic fields; not observations",
            **generator.attributes(),
            "seed": np.int64(seed),
            "R_data": max(float(np.quantile(R, 0.9)), FLOOR),
            "R_rms": float(np.sqrt(R.mean())),
        }
        with LOCK:
            file.setncatts(attributes)
    finally:
        with LOCK:
            file.close()


def declare(file: "netCDF4.Dataset", generator: ModuleType, size: int, samples: int) -> None:
    """Dimensions, coordinates and empty variables, one chunk a sample."""
    import numpy as np

    for dim, length in (("sample", samples), ("y", size), ("x", size)):
        file.createDimension(dim, length)
    sample = file.createVariable("sample", "i4", ("sample",))
    sample.setncatts({"long_name": "number of the sample in the set", "units": "1"})
    sample[:] = np.arange(samples, dtype=np.int32)
    for dim in ("y", "x"):
        coordinate = file.createVariable(dim, "f8", (dim,))
        coordinate.setncatts({"long_name": f"{dim}, in sides of the square", "units": "1"})
        coordinate[:] = generator.coordinates(size)
    storage = {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True, "chunksizes": (1, size, size)}
    for name, attributes in generator.VARIABLES.items():
        variable = file.createVariable(name, "f4", ("sample", "y", "x"), fill_value=FILL, **storage)
        variable.setncatts(attributes)


def batches(
    generator: ModuleType, fields: list[str], size: int, samples: int, seed: int
) -> "Iterator[tuple[int, torch.Tensor]]":
    """The number of the first sample, and the fields (B, F, size, size) as they are stored, in float32."""
    import numpy as np
    import torch

    for start in range(0, samples, BATCH):
        drawn = [generator.draw(size, seed, i) for i in range(start, min(start + BATCH, samples))]
        stacked = np.stack([np.stack([one[name] for name in fields]) for one in drawn])
        yield start, torch.from_numpy(stacked.astype(np.float32))


def with_progress(steps: Iterator[tuple], total: int, label: str) -> Iterator[tuple]:
    """`steps` with a bar on stderr once they have taken longer than PATIENCE; each tells how far it is."""
    from rich.console import Console
    from rich.progress import Progress

    begin = monotonic()
    with ExitStack() as shown:
        bar = None
        for step in steps:
            if bar is None and monotonic() - begin > PATIENCE:
                bar = shown.enter_context(Progress(console=Console(stderr=True), transient=True))
                task = bar.add_task(label, total=total)
            if bar is not None:
                bar.update(task, completed=step[0])
            yield step
