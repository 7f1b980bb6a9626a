"""The kernel benchmark: for every case the answers are asserted against float64, then timed beside their rivals.

Bytes are those that must move: every input read once, every output written once. `energy_and_gradient` reads F fields
and writes F gradients. Rivals are `rivals.Eager` in its fastest form, and torch.compile of the energy (the residual)
in its fastest form, differentiated by autograd.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciguide.bench.cases import Case, cotangents, made_up
from sciguide.bench.rivals import FORMS, Eager
from sciguide.bench.timing import NEVER, Call, Timing, copier, launch, measure, timed, wall
from sciguide.bench.truth import LOOSE, Truth
from sciguide.kernels.backends import calls as kernel_calls
from sciguide.kernels.backends import using
from sciguide.kernels.ops import Kernels
from sciguide.kernels.site import Site

OPERATIONS = ("energy_and_gradient", "residual", "jvp", "vjp")
NAN = float("nan")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """One row. Seconds are medians; `gbps`: bytes that must move over `seconds`, `copy_gbps`: of a copy of the inputs;
    `eager`, `compiled`: the form of the rival that was the fastest; `error`: the largest, over the sum of absolute
    terms; on a GPU `wall`: from call to result, `launch`: of the host alone, `graph`: of the device alone inside a CUDA
    graph, `tuned`: with the fastest `tile` of several. NaN where nothing was measured."""

    operator: str
    case: str
    operation: str
    dtype: str
    device: str
    backend: str
    seconds: float
    seconds_p20: float
    seconds_p80: float
    gbps: float
    copy_gbps: float
    eager_seconds: float
    compile_seconds: float
    error: float
    megabytes: float
    eager: str = ""
    compiled: str = ""
    wall_seconds: float = NAN
    eager_wall_seconds: float = NAN
    compile_wall_seconds: float = NAN
    launch_seconds: float = NAN
    graph_seconds: float = NAN
    tuned_seconds: float = NAN
    tile: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, None for what was not measured."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Settings:
    """`backend`: auto or a name; `seconds` of each timing; `compiled`: operations that have torch.compile for
    a rival; `walls`: fields of at most so many bytes are timed from call to result as well, on a GPU; `tune`:
    whether tiles of the Triton kernels are tried out there."""

    device: str = "cpu"
    backend: str = "auto"
    seconds: float = 1.0
    compiled: tuple[str, ...] = OPERATIONS
    operations: tuple[str, ...] = OPERATIONS
    walls: float = 4e6
    tune: bool = False


def run_case(case: Case, site: Site, settings: Settings, say: Say) -> Iterator[Record]:
    """The records of one case, as they are measured. Raises WrongAnswer, and BackendError where the backend asked for
    cannot compute here."""
    device, kernels = settings.device, Kernels(site)
    x = made_up(case, site.program.fields, device)
    v, w = cotangents(case, site.program.names, x)
    given = {"energy_and_gradient": (x,), "residual": (x,), "jvp": (x, v), "vjp": (x, w)}
    with using(settings.backend), torch.no_grad():
        truth, forms = Truth(site, x, v, w), affordable(case, site, device, say)
        for operation in settings.operations:
            inputs = given[operation]
            fused = bind(getattr(kernels, operation), inputs)
            before = kernel_calls()
            out = fused()
            error = truth.require(operation, out, settings.backend)
            backend = ", ".join(sorted({name for name, _ in kernel_calls() - before}))
            rivals, names = {"copy": copier(x)}, {}
            for kind in ("eager", "compile") if operation in settings.compiled else ("eager",):
                found = candidates(kind, case, site, operation, inputs, forms, truth, device, say)
                if found:
                    names[kind] = min(found, key=lambda name: quick(found[name], device))
                    rivals[kind] = found[names[kind]]
                if kind == "eager" and found:
                    forms = [names["eager"], *(f for f in forms if f != names["eager"])]
            timings = measure({"fused": fused, **rivals}, device, settings.seconds)
            more = walls(fused, rivals, device) if device != "cpu" and 4 * case.cells <= settings.walls else {}
            if settings.tune and backend == "triton" and device != "cpu":
                more |= tuned(site, operation, inputs, settings)
            yield Record(
                operator=case.operator,
                case=case.label,
                operation=operation,
                dtype="float32",
                device=device,
                backend=backend,
                error=error,
                **figures(timings, bytes_moved(inputs, out), 2 * x.nbytes),
                megabytes=4e-6 * case.cells,
                eager=names.get("eager", ""),
                compiled=names.get("compile", ""),
                **more,
            )


def bind(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Call:
    return lambda: function(*inputs)


def bytes_moved(inputs: tuple[Tensor, ...], out: Any) -> int:
    """Inputs and outputs, each once."""
    outs = out if isinstance(out, tuple) else (out,)
    return sum(t.nbytes for t in (*inputs, *outs))


def figures(timings: Mapping[str, Timing], moved: int, copied: int) -> dict[str, float]:
    """The columns of seconds and bandwidths."""
    fused = timings["fused"]
    return {
        "seconds": fused.median,
        "seconds_p20": fused.p20,
        "seconds_p80": fused.p80,
        "gbps": moved / fused.median / 1e9,
        "copy_gbps": copied / timings["copy"].median / 1e9,
        **{f"{kind}_seconds": timings.get(kind, NEVER).median for kind in ("eager", "compile")},
    }


def walls(fused: Call, rivals: Mapping[str, Call], device: str) -> dict[str, float]:
    """From call to result, for what is too small to fill the device."""
    found = {"wall_seconds": wall(fused, device).median, "launch_seconds": launch(fused, device)}
    found |= {f"{k}_wall_seconds": wall(call, device).median for k, call in rivals.items() if k != "copy"}
    return found | {"graph_seconds": graph_seconds(fused)}


def tuned(site: Site, operation: str, inputs: tuple[Tensor, ...], settings: Settings) -> dict[str, Any]:
    """Seconds with the best tile, and which that is."""
    os.environ["SCIGUIDE_TUNE"] = "1"
    try:
        kernels = Kernels(site)
        call = bind(getattr(kernels, operation), inputs)
        call()
        seconds = measure({"fused": call}, settings.device, settings.seconds)["fused"].median
    finally:
        del os.environ["SCIGUIDE_TUNE"]
    tiles = kernels._made["triton"]._tiles
    return {"tuned_seconds": seconds, "tile": ", ".join(str(tile) for tile in tiles.values())}


def graph_seconds(call: Call) -> float:
    """Device seconds of a call inside a CUDA graph of many; NaN where it cannot be captured."""
    from triton.testing import do_bench_cudagraph

    try:
        return do_bench_cudagraph(call, rep=50, return_mode="median") / 1e3
    except RuntimeError:
        return NAN


def candidates(
    kind: str,
    case: Case,
    site: Site,
    operation: str,
    inputs: tuple[Tensor, ...],
    forms: list[str],
    truth: Truth,
    device: str,
    say: Say,
) -> dict[str, Call]:
    """The rival in every form whose answer is right; one that does not run is said and left out."""
    found = {}
    if kind == "compile":
        torch._dynamo.reset()
        forms = [f for f in forms if f != "reference"]
        forms = forms if operation == OPERATIONS[0] else forms[:1]
    for form in forms:
        rival = Eager(case.operator, site, form, device)
        try:
            if kind == "compile":
                rival = rival.compile(operation)
            call = bind(getattr(rival, operation), inputs)
            truth.require(operation, call(), f"{kind} {form}", LOOSE, rival.box)
        except (RuntimeError, MemoryError) as error:  # no compiler, no memory
            say(f"  {kind} {form} left out: {' '.join(str(error).split())[:160]}")
            continue
        found[form] = call
    return found


def affordable(case: Case, site: Site, device: str, say: Say) -> list[str]:
    """The forms of the rival whose intermediate results surely fit into memory."""
    if device != "cpu":
        free = torch.cuda.mem_get_info()[0]
    else:
        pages = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
        free = int(pages[0].split()[1]) * 1024
    kept = 4 * case.cells * 6 * len(site.program.reads)
    if kept < free / 2:
        return list(FORMS)
    say(f"  the reference under autograd is left out: it would keep about {kept / 1e9:.0f} GB")
    return [f for f in FORMS if f != "reference"]


def quick(call: Call, device: str) -> float:
    """A first look: the best of three calls, or a long one."""

    def whole() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    first = timed(whole)
    return first if first > 1 else min(first, timed(whole), timed(whole))
