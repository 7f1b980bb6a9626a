"""A stencil as plain data: what the backends need of it at run time, without SymPy.

Expressions are the trees of `tree.py`: ["add", ...], ["field", name, dj, di, dk, degree], ["coefficient", name, axis,
offset], ["number", p, q]. `Stencil.program` makes it; a machine with torch, Triton and NumPy only reads it from JSON.
"""

import hashlib
import json
import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tree = list
NUMPY: dict[str, Callable[..., Any]] = {
    "add": lambda *terms: reduce(np.add, terms),
    "mul": lambda *factors: reduce(np.multiply, factors),
    "pow": np.power,
    **{name: getattr(np, name) for name in ("exp", "log", "sin", "cos", "tan", "tanh", "abs", "sign")},
}


class Read(NamedTuple):
    """A field at an offset, as `Point` has it."""

    name: str
    dj: int
    di: int
    dk: int
    degree: int


class Table(NamedTuple):
    """A number that varies along one axis at most, of the coefficients that the grid and the equation supply."""

    name: str
    axis: str
    tree: Tree


class Program(NamedTuple):
    """`names` of the K residuals; `halo` (z, y, x); `residuals` K trees; `derivatives` per residual dr/du of its reads;
    `curvatures` per residual d2r/du dv of pairs of reads, zeros left out; `tables` of the generated kernels;
    `stencil`: `Stencil.to_json()`."""

    fields: tuple[str, ...]
    positive: tuple[str, ...]
    names: tuple[str, ...]
    halo: tuple[int, int, int]
    linear: bool
    residuals: tuple[Tree, ...]
    derivatives: tuple[tuple[tuple[Read, Tree], ...], ...]
    curvatures: tuple[tuple[tuple[Read, Read, Tree], ...], ...]
    tables: tuple[Table, ...]
    stencil: dict[str, Any]

    @property
    def reads(self) -> tuple[Read, ...]:
        """Every read, in a fixed order."""
        return tuple(sorted({read for found in self.derivatives for read, _ in found}))

    @property
    def key(self) -> str:
        """A name for the stencil: the same for the same formula, whatever the grid's numbers."""
        return hashlib.sha256(json.dumps(self.stencil, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers."""
        return json.loads(json.dumps(self._asdict()))

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "Program":
        """The program that `to_json` described."""
        plain = {k: tuple(state[k]) for k in ("fields", "positive", "names", "halo", "residuals")}
        derivatives = tuple(tuple((Read(*r), t) for r, t in found) for found in state["derivatives"])
        curvatures = tuple(tuple((Read(*r), Read(*s), t) for r, s, t in found) for found in state["curvatures"])
        tables = tuple(Table(*t) for t in state["tables"])
        return cls(
            **plain,
            linear=state["linear"],
            derivatives=derivatives,
            curvatures=curvatures,
            tables=tables,
            stencil=state["stencil"],
        )


def reads_fields(tree: Tree) -> bool:
    """Whether a field stands anywhere in `tree`."""
    return tree[0] == "field" or any(reads_fields(t) for t in tree[1:] if isinstance(t, list | tuple))


def number(tree: Tree, coefficient: Callable[[str, str, int], NDArray | float]) -> NDArray | float:
    """A field-free tree in float64; `coefficient(name, axis, offset)` gives arrays that broadcast."""
    kind, *args = tree
    if kind == "coefficient":
        return coefficient(*args)
    if kind == "pi":
        return math.pi
    if kind in ("number", "float"):
        return np.float64(args[0] / args[1] if kind == "number" else args[0])
    return NUMPY[kind](*(number(a, coefficient) for a in args))
