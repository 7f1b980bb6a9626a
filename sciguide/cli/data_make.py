"""`sciguide data make NAME`: a training set with a known truth, as one CF NetCDF file or Zarr store."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING

from sciguide.errors import InputError
from sciguide.simulate import NAMES, get

if TYPE_CHECKING:
    from sciguide.parts import Parts

SUFFIXES = (".nc", ".zarr")
COMMENT = "Synthetic fields; not observations"
SAMPLES, SECONDS = 32, 10.0  # a part is kept when it has so many samples, or took so long
PATIENCE = 2.0  # seconds before a progress bar appears


def make(
    name: str,
    out: str | None = None,
    size: int = 64,
    samples: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Generate a data set with a known truth, as a NetCDF file or a Zarr store.

    Sample i depends on the size, the seed and i only: a larger set begins with the smaller one. What is finished is
    kept in OUT.parts until the set is whole: after an interruption the same command goes on, also for more samples.

    Args:
        name: of the set.
        out: the file to write, .nc or .zarr; NAME.nc if left out.
        size: points along each side, at least 4.
        samples: how many.
        seed: of the random numbers; sets with different seeds share no sample.
        overwrite: replace another file of that name, once the new one is whole.
    """
    if size < 4 or samples < 1 or not 0 <= seed < 2**63:
        raise InputError(f"size {size}, samples {samples}, seed {seed}: at least 4, 1 and 0 are needed")
    generator, path = get(name), Path(out or f"{name}.nc")
    if not path.parent.is_dir() or path.suffix not in SUFFIXES:
        raise InputError(f"out {str(path)!r}: name a file {' or '.join(SUFFIXES)} in a folder that exists")
    from sciguide import __version__
    from sciguide.parts import open_parts
    from sciguide.set_file import attributes_of, write_set

    history = f"sciguide data make {name} --size {size} --samples {samples} --seed {seed}"
    attributes = {"history": history, "sciguide_version": __version__, "comment": COMMENT, "seed": seed}
    held = attributes_of(path) if path.exists() else {}
    if path.is_dir() and not held:
        raise InputError(f"{path} is a folder, and no Zarr store of this command: give another --out")
    if path.exists() and not overwrite:
        if any(held.get(key) != value for key, value in attributes.items()):
            raise InputError(f"{path} is there already, and was not made so: give another --out, or --overwrite")
        print(f"{path}: {samples} samples of {name} are there already")
        return
    identity = {"set": name, "size": size, "seed": seed, "sciguide": __version__, **generator.attributes()}
    with open_parts(path.with_name(f"{path.name}.parts"), identity) as parts:
        for _ in with_progress(draw(parts, generator, size, samples, seed), samples, name):
            pass
        blocks = with_progress(parts.blocks(samples), samples, f"writing {path.name}")
        write_set(parts.whole, path.suffix, generator, size, samples, blocks, attributes)
        megabytes = parts.publish(path) / 2**20
    points = " x ".join(str(len(values)) for values, _ in generator.axes(size).values())
    print(f"{path}: {samples} samples of {name}, {points} points, {megabytes:.1f} MB")


def overview() -> str:
    """The sets, a line each."""
    return "\n".join(["sets:", *(f"  {name:<22}{text}" for name, text in NAMES.items())])


def draw(parts: "Parts", generator: ModuleType, size: int, samples: int, seed: int) -> Iterator[tuple[int]]:
    """Draw the groups that `parts` lacks, and keep them there, several at a time; yields how many samples there are."""
    import numpy as np

    group, wanted = parts.stop(), -(-samples // generator.GROUP)
    while group < wanted:
        first, begin, drawn = group, monotonic(), []
        few = max(1, SAMPLES // generator.GROUP)
        while group < min(wanted, first + few) and (not drawn or monotonic() - begin < SECONDS):
            yield (group * generator.GROUP,)
            drawn.append({k: v.astype(np.float32) for k, v in generator.draw(size, seed, group).items()})
            group += 1
        parts.append(first, group, {name: np.concatenate([d[name] for d in drawn]) for name in generator.VARIABLES})


def with_progress(steps: Iterator[tuple], total: int, label: str) -> Iterator[tuple]:
    """`steps` with a bar on stderr once they have taken longer than PATIENCE; each tells how far it is."""
    from rich.console import Console
    from rich.progress import Progress

    begin = monotonic()
    with ExitStack() as shown:
        bar = None
        for step in steps:
            if bar is None and monotonic() - begin > PATIENCE:
                console = Console(stderr=True)  # in a log, a bar would leave an empty line
                bar = shown.enter_context(Progress(console=console, transient=True, disable=not console.is_terminal))
                task = bar.add_task(label, total=total)
            if bar is not None:
                bar.update(task, completed=step[0])
            yield step
