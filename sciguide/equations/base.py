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
from math import isfinite
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, sstr

from sciguide.errors import InputError
from sciguide.kernels.differences import METRICS, Geometry, lower
from sciguide.kernels.stencil import Coefficient, Point, Stencil

if TYPE_CHECKING:
    from sciguide.equations.operator import Operator
    from sciguide.grid import Grid


class Field:
    """A field of an equation; inside its methods, the symbol of that name. `units`: what the data are converted to,
    None where any will do; `standard_names`: CF names by which a variable is recognised; `positive`: never zero."""

    def __init__(
        self,
        units: str | None = None,
        long_name: str = "",
        standard_names: tuple[str, ...] = (),
        positive: bool = False,
    ) -> None:
        self.units, self.long_name, self.standard_names, self.positive = units, long_name, standard_names, positive

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, equation: "Equation | None", owner: type) -> Any:
        return self if equation is None else Point(self.name)


class Constant:
    """A constant of an equation with its default and units, set by a keyword of the constructor."""

    def __init__(self, value: float, units: str = "1", long_name: str = "") -> None:
        self.value, self.units, self.long_name = value, units, long_name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, equation: "Equation | None", owner: type) -> Any:
        return self if equation is None else Coefficient(self.name)


class Equation(ABC):
    """One equation r(fields) = 0. A subclass supplies fields, `residual` and what stands here without a value.

    `moves`: the fields that a guide may move; `scale`: the name of the method that gives the term whose size the
    residual is compared with; `units`: of the residual, None where they follow from the fields'."""

    moves: tuple[str, ...]
    scale: str
    units: str | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        fields, moves, scale = cls.members(Field), getattr(cls, "moves", ()), getattr(cls, "scale", "")
        if not moves or not set(moves) <= set(fields):
            raise TypeError(f"{cls.__name__}: `moves` {moves} must name some of its fields {tuple(fields)}")
        if not callable(getattr(cls, scale, None)):
            raise TypeError(f"{cls.__name__}: `scale` names no method: {scale!r}")
        if taken := set(METRICS) & {*fields, *cls.members(Constant)}:
            raise TypeError(f"{cls.__name__}: {', '.join(taken)} are names of the grid's numbers")

    def __init__(self, **constants: float) -> None:
        """Raises InputError for a constant that the equation does not have, or that is no finite number."""
        known = self.members(Constant)
        self.constants = {name: constant.value for name, constant in known.items()}
        for name, value in constants.items():
            if name not in known:
                takes = f"its constants are {', '.join(known)}" if known else "it has no constants"
                raise InputError(f"equation {self.name} has no constant {name!r}; {takes}")
            if not isinstance(value, int | float) or not isfinite(value):
                raise InputError(f"equation {self.name}: constant {name} is {value!r}, give a finite number")
            self.constants[name] = float(value)

    @abstractmethod
    def residual(self) -> Expr:
        """r, in the operators of `kernels/stencil.py`."""

    @classmethod
    def members(cls, kind: type) -> dict[str, Any]:
        """The `Field`s or `Constant`s in the order of their definition, those of base classes first."""
        return {k: v for base in reversed(cls.__mro__) for k, v in vars(base).items() if isinstance(v, kind)}

    @property
    def name(self) -> str:
        """As the registry knows it."""
        module = type(self).__module__
        return module.rpartition(".")[2] if module.startswith("sciguide.equations.") else type(self).__name__

    def formula(self) -> str:
        """One line of text, such as "lap(phi) - f = 0"."""
        terms = sorted(Add.make_args(self.residual()), key=lambda term: term.could_extract_minus_sign())
        return f"{sstr(Add(*terms, evaluate=False), order='none')} = 0"

    def stencil(self, geometry: Geometry, term: str = "residual") -> Stencil:
        """The method `term` ("residual", or the one that `scale` names), lowered."""
        fields = self.members(Field)
        positive = tuple(name for name, field in fields.items() if field.positive)
        return Stencil(lower(getattr(self, term)(), geometry), tuple(fields), positive)

    def on(self, grid: "Grid", scale: float = 1.0) -> "Operator":
        """The equation's operator on `grid`. Raises InputError where no cell's stencil fits into the grid."""
        from sciguide.equations.operator import Operator

        stencils = [self.stencil(grid.geometry, term) for term in ("residual", self.scale)]
        return Operator(self.name, self.formula(), *stencils, grid, self.constants, self.moves, self.units, scale)
