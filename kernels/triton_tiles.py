"""How the work of a kernel is cut into programs: columns and rows of a tile, warps, rows unrolled."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .program import Program
from .triton_numbers import reach


class Tile(NamedTuple):
    """`columns` a power of 2; `rows`: at least so many in every program; `unroll`: rows of the march unrolled;
    `split`: whether tiles away from the edges are launched apart, by code that knows no edges."""

    columns: int
    rows: int
    warps: int
    unroll: int = 1
    split: bool = False


def default_tile(program: Program, shape: tuple[int, int, int], batch: int) -> Tile:
    """One column a thread, and rows so that a device is full of programs before their runs get long."""
    nz, ny, nx = shape
    columns = min(128, max(32, triton.next_power_of_2(nx)))
    rows = 64
    while rows > 4 and batch * nz * (ny // rows) * -(-nx // columns) < 1024:
        rows //= 2
    return Tile(columns, max(rows, reach(program)), max(1, columns // 32))


def choose(known: dict, program: Program, kind: str, x: Tensor, start) -> Tile:
    """The tile for tensors like `x`."""
    key = kind, x.dtype, x.device, tuple(x.shape)
    if key not in known:
        known[key] = default_tile(program, tuple(x.shape[2:]), len(x))
    return known[key]
