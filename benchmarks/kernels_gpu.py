"""The kernel benchmark on a GPU machine that has torch, Triton and NumPy and nothing else.

    python benchmarks/kernels_gpu.py --export DIR [--small]           here, where SymPy is: cases and generated sources
    python benchmarks/kernels_gpu.py --run DIR --device cuda --out OUT.json        there

For each case the answers are asserted first, then timed: the fused kernel, a copy, eager autograd, torch.compile; for
small fields also from call to result, the host's share of a launch, and the device's share inside a CUDA graph; with
--tune the best tile as well. OUT is written after every row, so that a time limit loses nothing before it. Exit code 1
if an answer is wrong.
"""

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPERATIONS = ("energy_and_gradient", "residual", "jvp", "vjp")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--export", type=Path, metavar="DIR", help="write cases and sources")
    what.add_argument("--run", type=Path, metavar="DIR", help="check and time what --export wrote")
    parser.add_argument("--small", action="store_true", help="of --export: tiny cases")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="triton", help="triton, auto or reference")
    parser.add_argument("--out", type=Path, default=Path("kernels_gpu.json"))
    parser.add_argument("--cases", default="", help="comma-separated, as darcy or 'darcy 16x128x128'; all if left out")
    parser.add_argument("--operations", default=",".join(OPERATIONS), help="comma-separated, in the order wanted")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each timing")
    parser.add_argument("--compile", default="energy_and_gradient", help="operations with torch.compile beside them")
    parser.add_argument("--tune", action="store_true", help="also time the best tile of several")
    given = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    logging.basicConfig(level=logging.WARNING)
    from sciguide.bench import exported
    from sciguide.bench.kernels import Settings

    if given.export:
        exported.export(given.export, given.small)
        return 0
    settings = Settings(
        device=given.device,
        backend=given.backend,
        seconds=given.seconds,
        compiled=tuple(filter(None, given.compile.split(","))),
        operations=tuple(given.operations.split(",")),
        tune=given.tune,
    )
    command = " ".join(["python benchmarks/kernels_gpu.py", *argv])
    names = [name for name in given.cases.split(",") if name]
    return int(exported.run(given.run, given.out, settings, command, names) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
