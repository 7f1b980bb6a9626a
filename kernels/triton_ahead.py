"""Generated kernels compiled without a GPU, and what the compiler says of them: registers, spills, loads and stores.

For a process without TRITON_INTERPRET in its environment.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .program import Program
from .triton_backend import load
from .triton_numbers import Settings
from .triton_tiles import Tile, options

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TILE = Tile(128, 32, 4)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Compiled(NamedTuple):
    """`registers` a thread; `spilled`: bytes of stack on NVIDIA, vector registers on AMD, in memory both; `parked`:
    scalar registers of AMD that wait in lanes of a vector register; `loads` and `stores` of global memory in the text;
    `shared`: bytes of shared memory."""

    target: str
    registers: int
    spilled: int
    parked: int
    loads: int
    stores: int
    shared: int


def compile_ahead(
    program: Program,
    kind: str,
    target: str,
    settings: Settings,
    dtype: str = "fp32",
    tile: Tile = TILE,
    update: bool = False,
    edge: bool = True,
) -> Compiled:
    """The kernel of one operation for a target in `TARGETS`, for contiguous rows."""
    kernel = load(program, kind).kernel
    names = [p.name for p in kernel.params]
    constants: dict[str, Any] = {
        **settings._asdict(),
        "UNROLL": tile.unroll,
        "BX": tile.columns,
        "UPDATE": update,
        "EDGE": edge,
        "ALL": edge,
        "UNIT": True,
        "BIG": False,
    }
    constants = {name: value for name, value in constants.items() if name in names}
    types = {"flags_ptr": "*u8", "source_ptr": "*i32", "energy_ptr": "*fp64"}
    signature = {n: types.get(n, f"*{dtype}" if n.endswith("_ptr") else "i32") for n in names}
    signature |= {n: "i64" for n in names if n.endswith(("_sb", "_sf", "_sk"))}
    signature |= {n: "constexpr" for n in constants}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=TARGETS[target], options=options(tile, edge, TARGETS[target].backend))
    return read_nvidia(made, target) if TARGETS[target].backend == "cuda" else read_amd(made, target)


def read_nvidia(made: Any, target: str) -> Compiled:
    """Registers and stack as cuobjdump finds them in the binary."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        told = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
    ptx = made.asm["ptx"]
    numbers = {name: int(n) for name, n in re.findall(r"(REG|STACK):(\d+)", told)}
    loads, stores = (len(re.findall(rf"\b{word}\.global", ptx)) for word in ("ld", "st"))
    return Compiled(target, numbers["REG"], numbers["STACK"], 0, loads, stores, made.metadata.shared)


def read_amd(made: Any, target: str) -> Compiled:
    """Registers as the assembly declares them."""
    text = made.asm["amdgcn"]

    def declared(name: str) -> int:
        return max(int(n) for n in re.findall(rf"\.{name}:\s+(\d+)", text))

    spilled, parked = declared("vgpr_spill_count"), declared("sgpr_spill_count")
    loads, stores = (len(re.findall(rf"\b(?:global|buffer)_{word}", text)) for word in ("load", "store"))
    return Compiled(target, declared("vgpr_count"), spilled, parked, loads, stores, made.metadata.shared)
