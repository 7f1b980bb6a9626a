"""`sciguide inspect kernel NAME`: the source that is generated from an equation, and what it costs per cell."""

from typing import TYPE_CHECKING, Literal

from sciguide.cli.parser import call, check_import
from sciguide.errors import InputError

if TYPE_CHECKING:
    from sciguide.equations.operator import Operator
    from sciguide.kernels.adjoint import Plan

SIZE = 64  # points along y and x
LEVELS = 8


def run(argv: list[str]) -> int:
    return call(kernel, argv, "sciguide inspect kernel")


def kernel(
    name: str,
    backend: Literal["auto", "triton", "numba", "reference"] = "auto",
    kind: Literal["gradient", "energy", "residual", "jvp", "vjp", "hvp", "second"] = "gradient",
    order: Literal[0, 2, 4] = 0,
    sphere: bool = False,
) -> int:
    """Print the kernel that is generated from an equation, for a small even grid, its formula and its counts per cell.

    Args:
        name: an equation that comes with sciguide, or module:Class of your own
        backend: whose source; auto takes what computes on a CPU, reference the expressions that define the others
        kind: gradient (energy, gradient and update in one launch), energy, residual, jvp (J v), vjp (J^T w), hvp (the
            energy's second derivative times v), second (of J v)
        order: of the differences; the equation's own if left out
        sphere: latitudes and longitudes instead of a plane
    """
    if ":" in name:
        check_import(name)
    operator = on_small_grid(name, order, sphere)
    from sciguide.kernels.adjoint import make_plan

    plan = make_plan(operator.stencils[0], kind)
    print("\n".join([f"{operator.name}: {operator.formula}", counts(plan), "", text(operator, plan, backend)]))
    return 0


def on_small_grid(name: str, order: int, sphere: bool) -> "Operator":
    """The equation, of that order, on an even grid that is open in y and periodic in x. Raises InputError."""
    import numpy as np

    from sciguide.equations import get
    from sciguide.grid import Grid

    equation = get(name)
    if order:
        equation = type(equation.__name__, (equation,), {"order": order, "__module__": equation.__module__})
    edges = ("open", "periodic")
    y = np.linspace(-63, 63, SIZE) if sphere else np.arange(SIZE)
    x = np.arange(SIZE) * 360 / SIZE if sphere else np.arange(SIZE)
    if len(equation.axes) == 3:
        return equation().on(Grid(y, x, ("open", *edges), sphere, z=np.arange(LEVELS)))
    return equation().on(Grid(y, x, edges, sphere))


def counts(plan: "Plan") -> str:
    """Operations and loads per cell, common subexpressions counted once."""
    import sympy

    from sciguide.kernels.stencil import Point

    expressions = [c.expr for c in plan.cells] + [o.expr for o in plan.outputs]
    shared, left = sympy.cse(expressions)
    operations = sum(int(sympy.count_ops(e)) for e in [*(e for _, e in shared), *left])
    reads = {p for e in expressions for p in e.atoms(Point)}
    fields = sum(p.name in plan.inputs for p in reads)
    found = f"{plan.kind}: {operations} operations, {fields} reads of fields"
    return found + (f" and {len(reads) - fields} of residuals a cell" if plan.outputs else " a cell")


def text(operator: "Operator", plan: "Plan", backend: str) -> str:
    """The source of one backend. Raises InputError where it cannot be had."""
    import torch

    from sciguide.kernels.backends import backend_for, missing, one_line, using

    if backend == "auto":
        with using("auto"):
            backend = backend_for(torch.device("cpu"), torch.float32)
    if backend == "reference":
        return expressions(plan)
    if reason := missing(backend):
        raise InputError(f"--backend {backend}: {reason}; pip install {backend}, or --backend reference")
    try:
        return operator.kernels.source(plan.kind, backend).rstrip()
    except Exception as error:  # whatever a generator stumbles over is the finding
        raise InputError(f"{backend} cannot print {plan.kind} of {operator.name}: {one_line(error)}") from error


def expressions(plan: "Plan") -> str:
    """What the plan says: coefficients, values at cells, then what points gather from the cells around them."""
    from sympy import sstr

    lines = [f"{c} = {sstr(e)}" for c, e in plan.tables]
    for cell in plan.cells:
        factor = f" * 2 omega W / scale^2 of residual {cell.residual}" if cell.energy else ""
        lines.append(f"{cell.name} = {sstr(cell.expr)}{factor}")
    lines += [f"d/d{o.field} = {sstr(o.expr)}" for o in plan.outputs]
    return "\n".join(lines)
