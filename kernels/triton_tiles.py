"""How the work of a kernel is cut into programs: columns and rows of a tile, warps, rows unrolled, launches.

The default is a rule. With SCIGUIDE_TUNE=1 a GPU tries the candidates instead, once for every kernel, device and shape
class, and keeps the fastest in the cache folder, where later runs find it without the variable. It is not done
unasked: compiling the candidates takes seconds to minutes. Nothing is timed while a CUDA graph is captured.
"""

import json
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .program import Program
from .source import cache_folder, digest, write_atomically
from .triton_numbers import Settings, reach

ENOUGH = 1024  # programs that fill a device
LARGE = 2**22  # cells of a launch that are worth a launch of their own for the edges
VARIABLE = "SCIGUIDE_TUNE"


class Tile(NamedTuple):
    """`columns` a power of 2; `rows`: at least so many in every program; `unroll`: rows of the march unrolled;
    `split`: whether tiles away from the edges are launched apart, by code that knows no edges."""

    columns: int
    rows: int
    warps: int
    unroll: int = 1
    split: bool = False


def options(tile: Tile, edge: bool, backend: str) -> dict[str, int]:
    """How the compiler is told to compile; `backend`: cuda or hip. Left to itself ptxas would spill a little at edges,
    where rules take many scalars, so that more warps fit."""
    return {"num_warps": tile.warps, **({"maxnreg": 255} if edge and backend == "cuda" else {})}


def default_tile(program: Program, shape: tuple[int, int, int], batch: int) -> Tile:
    """One column a thread, and rows so that a device is full of programs before their marches get long."""
    nz, ny, nx = shape
    columns = min(128, max(32, triton.next_power_of_2(nx)))
    rows = 64
    while rows > 4 and batch * nz * (ny // rows) * -(-nx // columns) < ENOUGH:
        rows //= 2
    inner = (nx > 4 * columns) and (ny > 4 * rows)
    split = inner and batch * nz * ny * nx >= LARGE
    return Tile(columns, max(rows, reach(program)), max(1, columns // 32), split=split)


def candidates(program: Program, shape: tuple[int, int, int], batch: int) -> list[Tile]:
    """Tiles worth a try, the default first."""
    default = default_tile(program, shape, batch)
    found = [default]
    for columns in (64, 128, 256):
        if columns // 2 < shape[2]:
            rows = {max(reach(program), r) for r in (default.rows // 2, default.rows, default.rows * 2)}
            found += [Tile(columns, r, columns // 32, split=default.split) for r in sorted(rows)]
    found += [default._replace(unroll=2), default._replace(split=not default.split)]
    return list(dict.fromkeys(found))


def choose(
    known: dict, program: Program, kind: str, settings: Settings, x: Tensor, run: Callable[[Tile], object]
) -> Tile:
    """The tile for tensors like `x`, (B, F, Z, Y, X); `run` launches with a tile."""
    key = kind, x.dtype, x.device, tuple(x.shape)
    if key in known:
        return known[key]
    shape, batch = tuple(x.shape[2:]), len(x)
    tile = default_tile(program, shape, batch)
    if x.is_cuda and not torch.cuda.is_current_stream_capturing():
        tile = tuned(program, kind, settings, x, run) or tile
        known[key] = tile
    elif not x.is_cuda:
        known[key] = tile
    return tile


def tuned(program: Program, kind: str, settings: Settings, x: Tensor, run: Callable[[Tile], object]) -> Tile | None:
    """What was found fastest before, or is found now where that is asked for."""
    classes = [triton.next_power_of_2(n) for n in (len(x), *x.shape[2:])]
    told = program.key, kind, repr(tuple(settings)), str(x.dtype), repr(classes), torch.cuda.get_device_name(x.device)
    path = cache_folder() / f"tile_{digest(*told)}.json"
    if path.exists():
        return Tile(**json.loads(path.read_text()))
    if os.environ.get(VARIABLE) != "1":
        return None
    timed = [(triton.testing.do_bench(lambda t=tile: run(t)), tile) for tile in candidates(program, *_of(x))]
    best = min(timed)[1]
    write_atomically(path, json.dumps(best._asdict()).encode())
    return best


def _of(x: Tensor) -> tuple[tuple[int, int, int], int]:
    return tuple(x.shape[2:]), len(x)
