"""What a printed kernel calls things, and which of its inputs, tables and flags it needs at which offsets."""

from .adjoint import Plan
from .stencil import Stencil
from .triton_print import suffix
from .triton_schedule import Strand, name_of, schedule


class Names:
    """Of the kernel of `plan`, made of `stencil`."""

    def __init__(self, stencil: Stencil, plan: Plan) -> None:
        self.stencil, self.plan, self.schedule = stencil, plan, schedule(plan)
        self.rows, self.deep = self.schedule.rows, self.schedule.deep
        self.degrees = sorted({p.degree for p in stencil.points})
        self.many = len(self.degrees) > 1
        self.F, self.K = len(stencil.fields), len(stencil.exprs)
        tables = [c for c, _ in plan.tables]
        self.tables = {
            a: [c.name for c in tables if c.axis == a] + ([f"w{a}"] if a else []) for a in ("", "z", "y", "x")
        }
        self.top = max(self.degrees[-1] + 1, *plan.halo)  # points this near to an edge may be part of a ghost
        self.tangents, self.given = (any(s.kind == k for s in self.rows) for k in ("tangent", "row"))
        self.reads = [s for s in self.rows if s.kind in ("field", "tangent", "row")]

    def var(self, strand: Strand, row: int) -> str:
        return name_of(strand, row, self.deep, self.many)

    def lead(self, strand: Strand) -> int:
        return self.rows[strand][-1]

    def flag(self, dk: int, row: int, di: int) -> str:
        return "flag__" + suffix(*((dk, row, di) if self.deep else (row, di)))

    @property
    def flags(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Lowest and highest row at which the flags of a column offset are wanted."""
        found: dict[tuple[int, int], list[int]] = {}
        for strand in self.rows:
            if strand.kind in ("field", "tangent", "cell"):
                found.setdefault((strand.dk, strand.di), []).append(self.lead(strand))
        return {place: (min(rows), max(rows)) for place, rows in sorted(found.items())}

    def group(self, field: str, degree: int) -> int:
        """The class of ghosts of a field read with a degree."""
        return 2 * (self.degrees.index(degree) if degree in self.degrees else 0) + (field in self.stencil.positive)

    def row(self, dk: int, row: int) -> str:
        return suffix(*((dk, row) if self.deep else (row,)))
