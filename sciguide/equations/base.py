"""What an equation is: fields, constants, a residual written once, and which of its fields a guide may move.

    class Helmholtz(Equation):
        \"""lap(psi) + k2 psi = f.\"""

        psi = Field(long_name="potential")
        f = Field(long_name="source")
        k2 = Constant(1.0, units="m-2")
        moves = ("psi",)
        scale = "source"

        def residual(self):
            return lap(self.psi) + self.k2 * self.psi - self.f

        def source(self):
            return self.f

`Helmholtz(k2=4.0).on(grid)` is an `Operator`: residual, energy, gradient, J v and J^T w of tensors (B, F, Y, X) whose
channels are the fields in the order of their definition. A file with one such class in `sciguide/equations/` is found
by its name; a user's own is named `module:Class`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, sstr

from sciguide.errors import InputError
from sciguide.kernels.differences import lower
from sciguide.kernels.geometry import METRICS, Geometry
from sciguide.kernels.stencil import Coefficient, Point, Stencil

if TYPE_CHECKING:
    from sciguide.equations.operator import Operator
    from sciguide.grid import Grid


class Field:
    """A field of an equation; inside its methods, the symbol of that name. `units`: what the data are converted to,
    None where any will do; `standard_names`: CF names by which a variable is recognised; `positive`: never zero;
    `next`: the field that this one is a time step later. Such a field takes what it leaves out from the other."""

    def __init__(
        self,
        units: str | None = None,
        long_name: str = "",
        standard_names: tuple[str, ...] = (),
        positive: bool = False,
        next: str | None = None,
    ) -> None:
        self.units, self.long_name, self.standard_names, self.positive = units, long_name, standard_names, positive
        self.next = next

    def follow(self, now: "Field") -> None:
        """Take units, names and sign from the field a time step before."""
        self.units, self.standard_names, self.positive = now.units, now.standard_names, now.positive
        self.long_name = self.long_name or f"{now.long_name}, a time step later"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, equation: "Equation | None", owner: type) -> Any:
        return self if equation is None else Point(self.name)


class Constant:
    """A constant of an equation with its default and units, set by a keyword of the constructor. A name instead of a
    number makes it a field: what varies from sample to sample, or in space."""

    def __init__(self, value: float, units: str = "1", long_name: str = "") -> None:
        self.value, self.units, self.long_name = value, units, long_name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, equation: "Equation | None", owner: type) -> Any:
        if equation is None:
            return self
        return Point(self.name) if self.name in equation.named else Coefficient(self.name)


Terms = Expr | Mapping[str, Expr]


class Equation(ABC):
    """Equations r(fields) = 0. A subclass supplies fields, `residual` and what stands here without a value.

    `moves`: the fields that a guide may move; `scale`: the name of the method that gives the terms whose sizes the
    residuals are compared with; `units`: of the residual, None where they follow from the fields'; `axes`: (y, x),
    (t, x), or (z, y, x); `vertical`: the units of z, a length counts upwards; `order`: 2 or 4, of the differences;
    `vectors`: names of residuals that are components of one vector, and share one scale; `weights`: of residuals in the
    energy, 1 where they are not named."""

    moves: tuple[str, ...]
    scale: str
    units: str | None = None
    axes: tuple[str, ...] = ("y", "x")
    vertical: str = "m"
    order: int = 2
    vectors: tuple[tuple[str, ...], ...] = ()
    weights: Mapping[str, float] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        fields, moves, scale = cls.members(Field), getattr(cls, "moves", ()), getattr(cls, "scale", "")
        if not moves or not set(moves) <= set(fields):
            raise TypeError(f"{cls.__name__}: `moves` {moves} must name some of its fields {tuple(fields)}")
        if not callable(getattr(cls, scale, None)):
            raise TypeError(f"{cls.__name__}: `scale` names no method: {scale!r}")
        if taken := set(METRICS) & {*fields, *cls.members(Constant)}:
            raise TypeError(f"{cls.__name__}: {', '.join(taken)} are names of the grid's numbers")
        if cls.axes not in (("y", "x"), ("t", "x"), ("z", "y", "x")) or cls.order not in (2, 4):
            raise TypeError(f"{cls.__name__}: axes {cls.axes} of order {cls.order}: see Equation")
        for name, field in fields.items():
            if field.next is not None:
                if field.next not in fields:
                    raise TypeError(f"{cls.__name__}: field {name} is `next` to {field.next!r}, which is no field")
                field.follow(fields[field.next])

    def __init__(self, **constants: float | str) -> None:
        """`constants`: numbers, or names of variables: such a constant is a field, which no guide moves. Raises
        InputError for a constant that the equation does not have, or that is neither."""
        known = self.members(Constant)
        self.constants = {name: constant.value for name, constant in known.items()}
        self.named: dict[str, str] = {}
        for name, value in constants.items():
            if name not in known:
                takes = f"its constants are {', '.join(known)}" if known else "it has no constants"
                raise InputError(f"equation {self.name} has no constant {name!r}; {takes}")
            if isinstance(value, str) and value and name != "dt":
                self.named[name] = value
                del self.constants[name]
            elif isinstance(value, int | float) and isfinite(value):
                self.constants[name] = float(value)
            else:
                raise InputError(f"equation {self.name}: constant {name} is {value!r}, give a finite number")

    @abstractmethod
    def residual(self) -> Terms:
        """r, in the operators of `kernels/stencil.py`; where there are several, a dict of them by name."""

    @classmethod
    def members(cls, kind: type) -> dict[str, Any]:
        """The `Field`s or `Constant`s in the order of their definition, those of base classes first."""
        return {k: v for base in reversed(cls.__mro__) for k, v in vars(base).items() if isinstance(v, kind)}

    @property
    def fields(self) -> dict[str, Field]:
        """All fields, the constants that are fields last."""
        known = self.members(Constant)
        found = {name: Field(c.units, c.long_name) for name, c in known.items() if name in self.named}
        for name, field in found.items():
            field.name = name
        return {**self.members(Field), **found}

    @property
    def name(self) -> str:
        """As the registry knows it."""
        module = type(self).__module__
        return module.rpartition(".")[2] if module.startswith("sciguide.equations.") else type(self).__name__

    def terms(self, method: str) -> dict[str, Expr]:
        """What `method` gives, by name; a single residual is called "residual"."""
        found = getattr(self, method)()
        return dict(found) if isinstance(found, Mapping) else {"residual": found}

    def formula(self) -> str:
        """One line of text, such as "lap(phi) - f = 0"."""
        return ",  ".join(f"{text(r)} = 0" for r in self.terms("residual").values())

    def stencil(self, geometry: Geometry, method: str = "residual") -> Stencil:
        """The method ("residual", or the one that `scale` names), lowered. Raises InputError where the grid does not
        have what the operators ask for."""
        fields, terms = self.fields, self.terms(method)
        geometry = geometry._replace(timed=self.axes[0] == "t")
        positive = tuple(name for name, field in fields.items() if field.positive)
        try:
            exprs = tuple(lower(e, geometry) for e in terms.values())
            return _interned(Stencil(exprs, tuple(fields), positive, tuple(terms)))
        except ValueError as error:
            raise InputError(f"equation {self.name}: {error}") from error

    def on(self, grid: "Grid", scale: float | Sequence[float] = 1.0) -> "Operator":
        """The equation's operator on `grid`; `scale` of every residual, or one for all. Raises InputError where no
        cell's stencil fits into the grid, or its axes are not the equation's."""
        from sciguide.equations.operator import Operator

        if len(grid.axes) != len(self.axes):
            raise InputError(
                f"equation {self.name} is over ({', '.join(self.axes)}), the grid has {len(grid.axes)} axes"
            )
        if list(self.terms("residual")) != list(self.terms(self.scale)):
            raise InputError(
                f"equation {self.name}: `{self.scale}` must give one term for each residual, in their order"
            )
        stencils = [self.stencil(grid.geometry(self.order), method) for method in ("residual", self.scale)]
        names = stencils[0].names
        share = [float(self.weights.get(name, 1.0)) for name in names]
        groups = [[names.index(n) for n in vector] for vector in self.vectors]
        return Operator(
            self.name, self.formula(), *stencils, grid, self.constants, self.moves, self.units, scale, share, groups
        )


@cache
def _interned(stencil: Stencil) -> Stencil:
    """The first of all stencils that are equal: it keeps its derivatives, which take a while."""
    return stencil


def text(expr: Expr) -> str:
    """An expression as a person writes it, positive terms first."""
    terms = sorted(Add.make_args(expr), key=lambda term: term.could_extract_minus_sign())
    return sstr(Add(*terms, evaluate=False), order="none")
