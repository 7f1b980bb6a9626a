"""Gradients of every equation: against autograd, as adjoints, by Taylor's expansion, by gradcheck."""

import numpy as np
import pytest
import torch

from sciguide.equations import get, names
from sciguide.equations.operator import Operator
from sciguide.grid import Grid
from sciguide.kernels.backends import using
from tests.equation_cases import constants_of, sample


@pytest.fixture(autouse=True)
def plain_tensors():
    """What generated kernels are tested against elsewhere: nothing to compile."""
    with using("reference"):
        yield


s = np.linspace(0, 1, 9)
MASK = np.arange(9 * 8).reshape(9, 8) % 41 != 33


def grid_for(name: str, kind: str) -> Grid:
    y, x = s + 0.1 * s**2, 1.5 * s[:8]
    three = {"z": np.cumsum([0.2, 0.3, 0.25, 0.3])} if len(get(name).axes) == 3 else {}
    edge = ("open",) * len(three)
    mask = np.broadcast_to(MASK, (4, 9, 8)) if three else MASK
    return {
        "plane": lambda: Grid(y, x, (*edge, "one-sided", "one-sided"), **three),
        "torus": lambda: Grid(s, x, (*edge, "periodic", "periodic"), **three),
        "sphere": lambda: Grid(20 + 50 * y, 45.0 * np.arange(8), (*edge, "open", "periodic"), True, mask, **three),
    }[kind]()


def made(name: str, kind: str) -> tuple[Operator, torch.Tensor, torch.Generator]:
    """The operator, its residuals over their scales, and rough fields."""
    grid = grid_for(name, kind)
    constants = constants_of(name, grid.sphere)
    u, g = sample(name, grid, constants.get("dt", 0.0)), torch.Generator().manual_seed(1)
    rough = 0.1 * torch.randn(2, *u.shape[1:], generator=g, dtype=u.dtype)
    u = u + rough * u.square().mean((0, *range(2, u.ndim)), keepdim=True).sqrt()
    op = get(name)(**constants).on(grid)
    return op.scaled(op.scale_square(u).mean(0).sqrt().tolist()), u, g


def unit_of(op: Operator, u: torch.Tensor) -> torch.Tensor:
    """The size of each field."""
    return u.square().mean((0, *range(2, u.ndim)), keepdim=True).sqrt()


def agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-12 * expected.abs().max())


@pytest.mark.parametrize("kind", ["plane", "torus", "sphere"])
@pytest.mark.parametrize("name", names())
def test_gradients_are_exact(name, kind):
    op, u, g = made(name, kind)
    plain, x, size = op.kernels.reference, u.clone().requires_grad_(), unit_of(op, u)
    squares = plain.mean_square(op.relative(plain.residual(x)))
    energy = (squares * torch.tensor(op.share, dtype=u.dtype)).sum(1)
    assert torch.allclose(op.energy(u), energy, rtol=1e-12)
    (expected,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    assert agree(op.gradient(u) * size, expected * size)

    v = torch.randn(u.shape, generator=g, dtype=u.dtype) * size
    w = op.relative(torch.randn(op.residual(u).shape, generator=g, dtype=u.dtype))
    Jv, Jw = op.jvp(u, v), op.vjp(u, w)
    assert abs((w * Jv).sum() - (Jw * v).sum()) < 1e-12 * (w * Jv).abs().sum()
    pulled = w.clone().requires_grad_()
    (back,) = torch.autograd.grad((pulled * plain.residual(x)).sum(), x, create_graph=True)
    assert agree(Jw * size, back * size)
    (forward,) = torch.autograd.grad((back * v).sum(), pulled)
    assert agree(op.relative(Jv), op.relative(forward))
    (curved,) = torch.autograd.grad((expected * v).sum(), x)
    assert agree(op.hvp(u, v) * size, curved * size)

    steps, slope = 2.0 ** -np.arange(3, 6), (op.gradient(u) * v).sum((1, *range(2, u.ndim)))
    rest = torch.stack([op.energy(u + h * v) - op.energy(u) - h * slope for h in 0.1 * steps]).abs()
    assert (torch.log2(rest[:-1] / rest[1:]) > 1.9).all()


@pytest.mark.parametrize("name", names())
def test_gradcheck(name):
    op, u, g = made(name, "sphere" if name != "burgers" else "plane")
    size = unit_of(op, u)
    x = (u[:1] / size).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: op.energy(x * size), x, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: op.relative(op.residual(x * size)), x, fast_mode=True)
