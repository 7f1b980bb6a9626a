"""How a generated CPU kernel is called: one function of one pointer, on as many threads as take part.

Unpacking forty arrays costs Python more than a small grid costs the kernel, and so does waking a thread of Python's. So
a call is a table of numbers in memory, (address and shape) of each array; the kernel reads it, and takes tasks by an
atomic counter until there are none. The threads are those of the OpenMP runtime that torch has loaded and keeps awake,
by its C entry GOMP_parallel; where there is none, or in a forked child, whose copy of that runtime has lost its
threads, they are Python's. What a task computes does not depend on who takes it.
"""

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

# Words of the table: counters, sizes, whether the gradient may be written without a detour; then four for each array.
THREADS, TASK, TASKS, CHUNKS, NM, NR, NX, PLAIN = range(8)
FIRST = 8
REAL, WORDS, INDEX, BYTES = "REAL", "types.int64", "types.uint64", "types.uint8"
GIVEN = (("x", REAL, 1), ("d", REAL, 1), ("w", REAL, 1), ("out", REAL, 1), ("E", "types.float64", 1))
GIVEN += (("step", REAL, 1),)
OWN = (("strides", WORDS, 2), ("scratch", REAL, 1), ("counts", INDEX, 1))
FIXED = (("views", WORDS, 2), ("units", REAL, 2), ("special", BYTES, 2), ("field_units", REAL, 2))
FIXED += tuple((n, WORDS if n[0] in "gf" else REAL, 3) for n in "gm wm gr wr gx wx fm vm fr vr fx vx".split())
FIXED += (("pending", BYTES, 1), ("periodic", BYTES, 1), ("T", REAL, 1), ("to", INDEX, 1), ("C", REAL, 1))
FIXED += (("widths", REAL, 1), ("pull", REAL, 1), ("valid", BYTES, 1), ("box", WORDS, 1), ("mask", BYTES, 1))
ARRAYS = (*GIVEN, *OWN, *FIXED)
WORD = {name: FIRST + 4 * n for n, (name, _, _) in enumerate(ARRAYS)}
STRIDES = 15  # at the end of the table
WHERE = [THREADS, TASK, TASKS, CHUNKS, PLAIN, *(WORD[name] for name, _, _ in GIVEN), WORD["step"] + 1]
WHERE = np.array([*WHERE, *range(FIRST + 4 * len(ARRAYS), FIRST + 4 * len(ARRAYS) + STRIDES)])
ENTRY = types.void(types.CPointer(types.int64))


def array_at(word: int, real: types.Type, ndim: int) -> Any:
    """The intrinsic that gives the array whose address is in a table's `word`, its shape in those that follow."""
    kind = types.Array(real, ndim, "C")

    @intrinsic
    def found(typing_context, call):
        def code(context, builder, signature, arguments):
            words = [ir.Constant(ir.IntType(64), word + n) for n in range(1 + ndim)]
            address, *shape = [builder.load(builder.gep(arguments[0], [w])) for w in words]
            array = context.make_array(kind)(context, builder)
            size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(context.get_data_type(real)))
            strides = [size]
            for n in reversed(shape[1:]):
                strides.insert(0, builder.mul(strides[0], n))
            data = builder.inttoptr(address, array.data.type)
            populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
            return array._getvalue()

        return kind(call), code

    return found


@intrinsic
def take_number(typing_context, call, at):
    """call[at], which is one more for whoever asks next."""

    def code(context, builder, signature, arguments):
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(call, at), code


class Workspace:
    """The table of a call, and what its tasks work in on at most `threads` threads: `needs` = how many numbers of type
    `real`, and how many counts, of each. One call uses it at a time.

    `sizes`: (nm, nr, nx); `fixed`: the arrays of FIXED, which the table points at."""

    def __init__(
        self, threads: int, sizes: tuple[int, int, int], needs: tuple[int, int], real: np.dtype, fixed: list[NDArray]
    ) -> None:
        self.threads, self.fixed = threads, fixed
        self.table = np.zeros(FIRST + 4 * len(ARRAYS) + STRIDES, np.int64)
        self.address = self.table.ctypes.data
        self.table[[NM, NR, NX]] = sizes
        own = {"scratch": np.zeros(threads * needs[0], real), "counts": np.zeros(threads * needs[1], np.uint64)}
        own["strides"] = self.table[-STRIDES:].reshape(3, 5)
        self.own = own
        for name, array in (*own.items(), *zip((name for name, _, _ in FIXED), fixed, strict=True)):
            self.table[WORD[name]] = array.ctypes.data
            self.table[WORD[name] + 1 : WORD[name] + 1 + array.ndim] = array.shape

    def fill(
        self, addresses: Sequence[int], strides: Sequence[int], tasks: int, chunks: int, plain: bool, steps: int
    ) -> None:
        """What a call is given: `addresses` of GIVEN, 0 where there is none; `strides` of x, d, w along (batch,
        channel, m, r, x); `tasks`, in all and of each sample; whether a gradient is written as it is; how many
        steps there are."""
        self.table[WHERE] = (0, 0, tasks, chunks, plain, *addresses, steps, *strides)


def run(entry: int, at: int, threads: int) -> None:
    """Call the kernel at address `entry` with the table at address `at` on `threads` threads, this one among them,
    until all tasks are done."""
    if threads == 1:
        _function(entry)(at)
    elif (team := _team(os.getpid())) is not None:
        team(entry, at, threads, 0)
    else:
        call = _function(entry)
        others = [_pool(os.getpid(), threads - 1).submit(call, at) for _ in range(threads - 1)]
        call(at)
        for other in others:
            other.result()


@lru_cache(maxsize=256)
def _function(entry: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(entry)


_home = os.getpid()


@cache
def _team(process: int) -> Any:
    """GOMP_parallel(function, data, threads, flags) of torch's OpenMP runtime, or None: where there is none, and in a
    forked child."""
    maps = Path("/proc/self/maps")
    if process != _home or not torch.backends.openmp.is_available() or not maps.exists():
        return None
    files = {Path(line.split(maxsplit=5)[-1]) for line in maps.read_text().splitlines() if "omp" in line}
    folder = Path(torch.__file__).parent
    for file in sorted(files, key=lambda f: (folder not in f.parents, f)):
        runtime = file.name.startswith(("libgomp", "libiomp", "libomp"))
        found = getattr(ctypes.CDLL(str(file)), "GOMP_parallel", None) if runtime else None
        if found is not None:
            found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
            return found
    return None


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: a forked child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="sciguide-kernels")
