"""The cases of the kernel benchmark: an equation, its grid, a batch, and made-up fields that are never zero.

A case's site is made with SymPy once; `site_to_json` writes it as plain data for machines without SymPy.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide.errors import InputError
from sciguide.kernels.program import Program
from sciguide.kernels.site import Site

MODES = 4  # waves in each made-up field
LONGEST_AXIS = 96  # points at which the scale of a residual is measured: the fields are smooth


class Case(NamedTuple):
    """Equation `operator` on `batch` samples of `shape` points."""

    operator: str
    batch: int
    shape: tuple[int, ...]

    @property
    def label(self) -> str:
        """Such as 16x128x128."""
        return "x".join(map(str, (self.batch, *self.shape)))

    @property
    def cells(self) -> int:
        return self.batch * prod(self.shape)


class Setting(NamedTuple):
    """How an equation is set up: boundary rules, `extent` of the axes, constants, and (mean, amplitude) of each field,
    of its logarithm where `logs` names it."""

    boundary: tuple[str, ...]
    fields: dict[str, tuple[float, float]]
    constants: Mapping[str, float] = {}
    logs: tuple[str, ...] = ()
    sphere: bool = False


TORUS = ("periodic", "periodic")
SETTINGS = {
    "darcy": Setting(("open", "open"), {"K": (0.0, 0.5), "p": (0.0, 1.0), "f": (1.0, 10.0)}, logs=("K",)),
    "vorticity": Setting(
        TORUS,
        {"w": (0.0, 40.0), "psi": (0.0, 1.0), "w_next": (0.0, 40.0), "psi_next": (0.0, 1.0)},
        {"nu": 1e-3, "drag": 0.1, "dt": 0.1},
    ),
    "navier_stokes": Setting(TORUS, dict.fromkeys(("u", "v", "p", "u_next", "v_next", "p_next"), (0.3, 1.0))),
    "shallow_water": Setting(
        ("open", "periodic"),
        {**dict.fromkeys(("u", "v", "u_next", "v_next"), (3.0, 10.0)), **dict.fromkeys(("h", "h_next"), (1e3, 100.0))},
        {"dt": 1e4},
        sphere=True,
    ),
    "poisson3": Setting(("open",) * 3, {"phi": (0.0, 1.0), "f": (0.0, 100.0)}),
}
CASES = [
    *(Case("darcy", b, s) for b, s in ((16, (128, 128)), (64, (256, 256)), (16, (1024, 1024)), (4, (4096, 4096)))),
    *(Case("darcy", b, s) for b, s in ((7, (127, 255)), (3, (1000, 1003)))),
    *(Case("vorticity", 16, (n, n)) for n in (64, 256, 1024)),
    *(Case("navier_stokes", 16, (n, n)) for n in (256, 1024)),
    *(Case("shallow_water", b, s) for b, s in ((16, (121, 240)), (4, (361, 720)), (16, (721, 1440)))),
    Case("poisson3", 1, (128, 128, 128)),
]
SMALL = [
    *(Case("darcy", b, s) for b, s in ((2, (16, 16)), (3, (9, 37)))),
    *(Case(name, 2, (12, 20)) for name in ("vorticity", "navier_stokes", "shallow_water")),
    Case("poisson3", 1, (8, 9, 10)),
]


def choose(names: str | None, small: bool, most_bytes: float) -> list[Case]:
    """The cases whose equations are in `names` (comma-separated, all if None), with fields of at most `most_bytes` in
    float32. Raises InputError for a name that has no case."""
    wanted = list(SETTINGS) if names is None else [n.strip() for n in names.split(",")]
    if unknown := [n for n in wanted if n not in SETTINGS]:
        raise InputError(f"no benchmark of {unknown[0]!r}; there are {', '.join(SETTINGS)}")
    return [c for c in (SMALL if small else CASES) if c.operator in wanted and 4 * c.cells <= most_bytes]


def field_names(operator: str) -> tuple[str, ...]:
    """In the order of the equation."""
    return tuple(SETTINGS[operator].fields)


def made_up(case: Case, fields: tuple[str, ...], device: str, seed: int = 0, dtype: torch.dtype = torch.float32):
    """Smooth random fields (B, F, ...), each another sum of waves that close on every axis."""
    setting, out = SETTINGS[case.operator], []
    axes = [torch.linspace(0, 1, n + 1, dtype=torch.float64, device=device)[:-1] for n in case.shape]
    for sample in range(case.batch):
        rng = np.random.default_rng([seed, sample])
        parts = []
        for name in fields:
            waves = rng.integers(1, 6, (len(axes), MODES)), rng.uniform(0, 1, (len(axes), MODES))
            turns = [(2 * np.pi * torch.as_tensor(w, device=device))[..., None] for w in waves]
            shapes = [torch.sin(k * t + shift) for k, shift, t in zip(*turns, axes, strict=True)]
            letters = "zyx"[-len(axes) :]
            total = torch.einsum(f"{','.join('m' + a for a in letters)}->{letters}", *shapes)
            mean, amplitude = setting.fields[name]
            found = mean + amplitude / MODES**0.5 * total
            parts.append((found.exp() if name in setting.logs else found).to(dtype))
        out.append(torch.stack(parts))
    return torch.stack(out)


def make_operator(case: Case, shape: tuple[int, ...]) -> Any:
    """The case's equation on another number of points."""
    from sciguide.equations import get
    from sciguide.grid import Grid

    setting = SETTINGS[case.operator]
    spans = [(-90.0, 90.0), (0.0, 360.0)] if setting.sphere else [(0.0, 1.0)] * len(shape)
    points = [
        low + (high - low) * np.arange(n) / (n if rule == "periodic" else n - 1)
        for n, rule, (low, high) in zip(shape, setting.boundary, spans, strict=True)
    ]
    z = {"z": points[0]} if len(points) == 3 else {}
    grid = Grid(*points[-2:], setting.boundary, setting.sphere, **z)
    return get(case.operator)(**setting.constants).on(grid)


def make_site(case: Case) -> Site:
    """The case's numbers, with the scale that its terms have on a coarse grid."""
    from sciguide.equations.operator import site_of

    coarse = tuple(min(n, LONGEST_AXIS) for n in case.shape)
    measured = make_operator(case, coarse)
    u = made_up(Case(case.operator, 1, coarse), tuple(measured.fields), "cpu", dtype=torch.float64)
    scale = measured.scale_square(u).sqrt()[0].tolist()
    made = make_operator(case, case.shape)
    return site_of(made.stencils[0], made.grid, made.constants, scale, made.share)


def site_to_json(site: Site) -> dict[str, Any]:
    """Lists, strings and numbers, exact. Sites with a mask are not among the cases."""
    lists = {k: [v.tolist() for v in getattr(site, k)] for k in ("coordinates", "widths")}
    vectors = {k: getattr(site, k).tolist() for k in ("scale", "share", "offset", "factor", "log")}
    numbers = {k: np.asarray(v).tolist() for k, v in site.numbers.items()}
    plain = {"shape": list(site.shape), "axes": site.axes, "pad": site.pad, "rules": list(site.rules)}
    return {"program": site.program.to_json(), "numbers": numbers, **plain, **lists, **vectors}


def site_from_json(state: dict[str, Any]) -> Site:
    """The site that `site_to_json` described."""
    return Site(
        program=Program.from_json(state["program"]),
        shape=tuple(state["shape"]),
        axes=state["axes"],
        numbers={k: np.array(v) if isinstance(v, list) else float(v) for k, v in state["numbers"].items()},
        pad=state["pad"],
        rules=tuple(state["rules"]),
        mask=None,
        **{k: tuple(np.array(v) for v in state[k]) for k in ("coordinates", "widths")},
        **{k: np.array(state[k], np.float64) for k in ("scale", "share", "offset", "factor")},
        log=np.array(state["log"], bool),
    )


def cotangents(case: Case, names: tuple[str, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    """A direction v like x, x times numbers between 1/2 and 1, and rows w (B, K, ...)."""
    generator = torch.Generator().manual_seed(1)
    part = 0.5 + 0.5 * torch.rand(x.shape[1:], generator=generator)
    rows = torch.rand((len(names), *case.shape), generator=generator) - 0.5
    return x * part.to(x), rows.to(x).expand(case.batch, *rows.shape).contiguous()
