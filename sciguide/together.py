"""Equations that move the same fields, as one: the rows of all of them in one system, each with its own s^2.

Where two equations cannot both hold, as geostrophic balance and non-divergence where the Coriolis parameter varies,
taking them one after another leaves the last as if it were the better known. Solved together, with the s^2 that each
has on the data, neither goes first. A policy bends the s^2 of each, and sees the residuals of each.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.datasets.normaliser import Normaliser
from sciguide.grid import Grid
from sciguide.kernels.stencil import Coefficient, Point, Stencil
from sciguide.octaves import BANDS


class Together(EquationOnModel):
    """Several equations over (y, x) whose J is constant as one. Its fields are the channels; its residuals are theirs,
    in turn, at cells where the stencils of all of them fit."""

    def __init__(self, equations: Sequence[EquationOnModel], normaliser: Normaliser, grid: Grid) -> None:
        super().__init__(_record([e.record for e in equations]), normaliser, grid)
        self._parts = tuple(e.name for e in equations)
        self._part_of = [p for p, e in enumerate(equations) for _ in e.operator.components]

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the equations in it."""
        return self._parts

    @property
    def part_of(self) -> list[int]:
        """Of each residual, to which of them it belongs."""
        return self._part_of


def grouped(equations: Sequence[EquationOnModel], normaliser: Normaliser, grid: Grid) -> list[EquationOnModel]:
    """The equations, those that can be solved together and move a field in common as one, where its first stood."""
    groups: list[list[EquationOnModel]] = []
    for equation in equations:
        near = [g for g in groups if _joins(equation) and any(_joins(e) and _meet(equation, e) for e in g)]
        if not near:
            groups.append([equation])
            continue
        near[0].append(equation)
        for other in near[1:]:  # the equation moves fields of both
            near[0].extend(other)
            groups.remove(other)
    return [g[0] if len(g) == 1 else Together(g, normaliser, grid) for g in groups]


def _joins(equation: EquationOnModel) -> bool:
    """Whether its J is constant, it is over (y, x), and all its fields are channels."""
    record = equation.record
    logs = any(equation.normaliser.log[c] for own in equation.channels.of for c in own)
    return equation.operator.linear and not logs and record.z is None and not record.static


def _meet(a: EquationOnModel, b: EquationOnModel) -> bool:
    return bool(set(a.moving) & set(b.moving))


def _record(records: Sequence[EquationRecord]) -> EquationRecord:
    """Of all of them. `floor` is nobody's: each equation is judged by its own."""
    channels = sorted({c for r in records for c in r.channels})
    renamed = [_renamed(r, p) for p, r in enumerate(records)]
    fields, positive = [f"c{c}" for c in channels], sorted({n for r in renamed for n in r["positive"]})
    stencils = {
        kind: Stencil(
            tuple(e for r in renamed for e in r[kind].exprs),
            tuple(fields),
            tuple(positive),
            tuple(f"{name}_{p}" for p, r in enumerate(renamed) for name in r[kind].names),
        ).to_json()
        for kind in ("residual", "scale_term")
    }
    operator: dict[str, Any] = {
        "name": " and ".join(r.name for r in records),
        "formula": ",  ".join(r.operator["formula"] for r in records),
        **stencils,
        "constants": {k: v for r in renamed for k, v in r["constants"].items()},
        "moves": [f"c{c}" for c in channels if any(c in r["moves"] for r in renamed)],
        "units": None,
        "scale": [s for r in records for s in r.operator["scale"]],
        "share": [s for r in records for s in r.operator["share"]],
        "groups": [],
    }
    white = [1.0] * BANDS
    octaves = [o for r in records for o in r.octaves or [white] * len(_each(r))]
    s2 = [s for r in records for s in _each(r)]
    return replace(records[0], operator=operator, channels=channels, s2=s2, floor=float("nan"), octaves=octaves)


def _each(record: EquationRecord) -> list[float]:
    """s^2 of each residual."""
    count = len(record.operator["residual"]["names"])
    return list(record.s2) if len(record.s2) == count else list(record.s2) * count


def _renamed(record: EquationRecord, number: int) -> dict[str, Any]:
    """The stencils with fields named by their channels and constants by the equation's number."""
    found = {k: Stencil.from_json(record.operator[k]) for k in ("residual", "scale_term")}
    channel = dict(zip(found["residual"].fields, record.channels, strict=True))
    constants = {k: f"{k}_{number}" for k in record.operator["constants"]}

    def changed(stencil: Stencil) -> Stencil:
        points = {p: Point(f"c{channel[p.name]}", p.dj, p.di, p.dk, p.degree) for p in stencil.points}
        own = {c: Coefficient(constants[c.name], c.axis, c.offset) for c in stencil.coefficients if c.name in constants}
        fields = tuple(f"c{channel[f]}" for f in stencil.fields)
        positive = tuple(f"c{channel[f]}" for f in stencil.positive)
        return Stencil(tuple(e.xreplace(points | own) for e in stencil.exprs), fields, positive, stencil.names)

    stencils = {k: changed(s) for k, s in found.items()}
    return {
        **stencils,
        "positive": stencils["residual"].positive,
        "constants": {constants[k]: v for k, v in record.operator["constants"].items()},
        "moves": {channel[f] for f in record.operator["moves"]},
    }
