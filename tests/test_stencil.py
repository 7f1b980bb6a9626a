"""Stencils and their reference: exact derivatives and adjoints, boundaries, masks, invariants, JSON."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch
from findiff import Diff
from hypothesis import given, settings
from hypothesis import strategies as st

from sciguide.equations.operator import site_of
from sciguide.grid import RULES, Grid
from sciguide.kernels.differences import difference, lower, shift
from sciguide.kernels.geometry import Geometry, ghosts
from sciguide.kernels.reference import Reference
from sciguide.kernels.stencil import Coefficient, Point, Stencil, curl, ddx, ddy, div, grad, lap
from sciguide.kernels.tensors import extend, fold

u, v, K, p = (Point(n) for n in "uvKp")
FORMULAS = {
    "divergence": (div(u, v), ("u", "v"), ()),
    "vorticity": (curl(u, v), ("u", "v"), ()),
    "laplacian": (lap(p) - K, ("p", "K"), ()),
    "darcy": (-div(K * grad(p)) - 1, ("K", "p"), ("K",)),
    "momentum": (u * ddx(u) + v * ddy(u) + p / 3 - 0.01 * lap(u), ("u", "v", "p"), ()),
    "wide": (
        ddx(ddx(u)) + ddy(ddx(v)) ** 2 + sympy.exp(p) * sympy.sqrt(K) / sympy.log(3 + K),
        ("u", "v", "K", "p"),
        ("K",),
    ),
}
BOUNDARIES = [(r, r) for r in RULES] + [("open", "periodic"), ("neumann", "dirichlet")]


def stretched(n: int) -> np.ndarray:
    s = np.linspace(0, 1, n)
    return s + 0.1 * np.sin(2 * np.pi * s) + 0.05 * s**2


def make_grid(kind: str, boundary=("open", "open"), shape=(9, 10), mask=None) -> Grid:
    if kind == "uniform":
        return Grid.uniform(shape, (0.3, 0.2), boundary, mask)
    if kind == "stretched":
        return Grid(stretched(shape[0]), stretched(shape[1]), boundary, mask=mask)
    lat = 10 + 50 * stretched(shape[0])
    closed = "neumann" if boundary[0] == "periodic" else boundary[0]
    return Grid(lat, np.linspace(0, 40, shape[1]), (closed, boundary[1]), True, mask)


def reference(name: str, grid: Grid, scale: float = 1.0) -> Reference:
    expr, fields, positive = FORMULAS[name]
    stencil = Stencil((lower(expr, grid.geometry()),), fields, positive)
    return Reference(site_of(stencil, grid, {}, [scale], [1.0]))


def fields_for(ref: Reference, batch=2, dtype=torch.float64, seed=0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, len(ref.program.fields), *ref.site.shape[1:], generator=g, dtype=torch.float64)
    for i, name in enumerate(ref.program.fields):
        if name in ref.program.positive:
            x[:, i] = (0.5 * x[:, i]).exp()
    return x.to(dtype)


def island(shape) -> np.ndarray:
    mask = np.ones(shape, bool)
    mask[shape[0] // 2, shape[1] // 2 : shape[1] // 2 + 2] = False
    mask[0, 0] = False
    return mask


CASES = [(f, k, b, m) for f in FORMULAS for k in ("uniform", "stretched", "sphere") for b in BOUNDARIES for m in (0, 1)]


def build(case) -> tuple[Reference, torch.Tensor]:
    name, kind, boundary, masked = case
    shape = (9, 10)
    ref = reference(name, make_grid(kind, boundary, shape, island(shape) if masked else None), scale=1.7)
    return ref, fields_for(ref)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_adjoint_and_autograd(case):
    ref, x = build(case)
    assert ref.valid.any()
    y = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = torch.randn(len(x), 1, *ref.site.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jy, jtw = ref.jvp(x, y), ref.vjp(x, w)
    size = (w.abs() * sum((d.expand_as(w)).abs() for d in derivatives(ref, x))).sum() * y.abs().max()
    assert abs((jy * w).sum() - (jtw * y).sum()) <= 1e-12 * size
    x.requires_grad_()
    dummy = torch.zeros_like(w, requires_grad=True)  # J y is the derivative of J^T w with respect to w, along y
    (transposed,) = torch.autograd.grad(ref.residual(x), x, dummy, create_graph=True)
    (exact,) = torch.autograd.grad(transposed, dummy, y)
    assert torch.allclose(jy, exact, rtol=0, atol=1e-12 * exact.abs().max())
    (by_autograd,) = torch.autograd.grad(ref.energy(x).sum(), x)
    assert torch.allclose(ref.gradient(x), by_autograd, rtol=0, atol=1e-12 * by_autograd.abs().max())


def derivatives(ref, x):
    reads = ref._read(x[:, :, None])
    return [d(reads) for _, d in ref._derivatives[0]]


@pytest.mark.parametrize("name", FORMULAS)
def test_adjoint_in_float32(name):
    ref = reference(name, make_grid("sphere", ("open", "periodic"), (17, 20)))
    x = fields_for(ref, dtype=torch.float32)
    y, w = torch.randn_like(x), torch.randn_like(x[:, :1])
    jy, jtw = ref.jvp(x, y).double(), ref.vjp(x, w).double()
    exact = ref.vjp(x.double(), w.double())
    terms = sum(d.double().expand_as(w).abs() for d in derivatives(ref, x)) * w.abs()
    assert abs((jy * w).sum() - (jtw * y).sum()) <= 1e-5 * (terms * y.abs().max()).sum()
    assert ((jtw - exact).abs().max() <= 1e-5 * terms.max()).all()
    r, r64 = ref.residual(x).double(), ref.residual(x.double())
    assert ((r - r64).abs() <= 2e-6 * (ref.magnitude(x.double()) + 1)).all()


@pytest.mark.parametrize("name, boundary", [("darcy", ("neumann", "periodic")), ("wide", ("open", "dirichlet"))])
def test_gradcheck_and_gradgradcheck(name, boundary):
    ref = reference(name, make_grid("stretched", boundary, (6, 6), np.arange(36).reshape(6, 6) != 0))
    x = fields_for(ref, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(ref.energy, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(ref.energy, x, fast_mode=True, rtol=1e-3, atol=1e-3)
    assert torch.autograd.gradcheck(ref.gradient, x, fast_mode=True, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["darcy", "momentum", "wide"])
def test_taylor(name):
    """E(x + h d) - E(x) - h <grad E, d> falls with h^2."""
    ref = reference(name, make_grid("uniform", ("neumann", "periodic")))
    x, d = fields_for(ref), 0.1 * fields_for(ref, seed=5)
    slope = (ref.gradient(x) * d).sum((1, 2, 3))
    h = np.array([1e-2, 5e-3, 2.5e-3])
    rest = [(ref.energy(x + s * d) - ref.energy(x) - s * slope).abs().sum().item() for s in h]
    assert np.all(np.log2(np.divide(rest[:-1], rest[1:])) > 1.9)


def by_numpy(a: np.ndarray, rule: str, axis: int, n: int, degree: int = 2) -> np.ndarray:
    """`a` read n points further along `axis`, by an independent rule."""
    size, halo = a.shape[axis], abs(n)
    if rule == "one-sided":  # a difference of order degree + 1 vanishes
        weights = {2: (3, -3, 1), 3: (4, -6, 4, -1)}[degree]
        near = np.moveaxis(a, axis, 0)
        low, high = (sum(w * v for w, v in zip(weights, side, strict=False)) for side in (near, near[::-1]))
        extended = np.moveaxis(np.concatenate([low[None], near, high[None]]), 0, axis)
        return np.take(extended, np.arange(size) + 1 + n, axis)
    pad = [(0, 0)] * a.ndim
    pad[axis] = (halo, halo)
    mode = {"periodic": "wrap", "neumann": "symmetric", "dirichlet": "constant", "open": "constant"}[rule]
    return np.take(np.pad(a, pad, mode=mode), np.arange(size) + halo + n, axis)


@pytest.mark.parametrize("rule", RULES)
def test_boundaries_against_numpy(rule):
    grid = make_grid("uniform", (rule, rule), (7, 6))
    x = fields_for(reference("darcy", grid)).numpy()
    Ka, pa = x[:, 0], x[:, 1]
    expected = 0.0
    for axis, h in ((1, grid.spacing[0]), (2, grid.spacing[1])):
        for n in (-1, 1):
            beyond = by_numpy(Ka, rule if rule in ("periodic", "one-sided") else "neumann", axis, n)
            expected = expected - (Ka + beyond) / 2 * (by_numpy(pa, rule, axis, n, 3) - pa) / h**2
    expected = expected - 1
    got = reference("darcy", grid).residual(torch.from_numpy(x))[:, 0].numpy()
    inside = np.zeros((7, 6), bool)
    inside[1:-1, 1:-1] = True
    valid = inside if rule == "open" else np.ones((7, 6), bool)
    assert np.array_equal(reference("darcy", grid).valid.numpy(), valid)
    assert np.allclose(got, np.where(valid, expected, 0), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 9), halo=st.integers(0, 3), seed=st.integers(0, 99))
def test_fold_is_the_transpose_of_extend(rule, n, halo, seed):
    g = torch.Generator().manual_seed(seed)
    n += 2 if rule == "one-sided" else 0
    beyond = ghosts(rule, n, halo, np.arange(n + 2 * halo) ** 1.1)
    for dim, shape in ((-1, (2, 3, n)), (-2, (2, n, 3))):
        a = torch.randn(shape, generator=g, dtype=torch.float64)
        b = torch.randn(extend(a, dim, halo, beyond).shape, generator=g, dtype=torch.float64)
        assert torch.allclose((extend(a, dim, halo, beyond) * b).sum(), (a * fold(b, dim, halo, beyond)).sum())


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(4, 13), st.integers(4, 13)),
    boundary=st.tuples(st.sampled_from(RULES), st.sampled_from(RULES)),
    name=st.sampled_from(["divergence", "darcy", "momentum"]),
    seed=st.integers(0, 2**20),
)
def test_any_shape(shape, boundary, name, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) > 0.1
    ref = reference(name, Grid.uniform(shape, (0.5, 0.7), boundary, mask))
    x = fields_for(ref, seed=seed).requires_grad_()
    r = ref.residual(x)
    assert r.shape == (2, 1, *shape) and not r[..., ~ref.valid].any() and r.isfinite().all()
    (g,) = torch.autograd.grad(ref.energy(x).sum(), x, allow_unused=True)
    assert torch.allclose(ref.gradient(x), g, rtol=1e-10, atol=1e-12 * (1 + g.abs().max()))
    assert not g[..., ~torch.from_numpy(mask)].any()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype, junk", [(torch.float64, np.nan), (torch.float32, np.inf), (torch.float32, 1e36)])
def test_land_changes_no_bit(name, dtype, junk):
    mask = island((9, 10))
    ref = reference(name, make_grid("stretched", ("neumann", "periodic"), mask=mask))
    clean = fields_for(ref, dtype=dtype)
    dirty = torch.where(torch.from_numpy(mask), clean, junk)
    y, w = torch.randn_like(clean), torch.randn_like(clean[:, :1])
    outputs = []
    for x in (clean, dirty):
        x = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(ref.energy(x).sum(), x)
        outputs.append([ref.residual(x), ref.energy(x), ref.gradient(x), ref.jvp(x, y), ref.vjp(x, w), g])
    outputs[1][3] = ref.jvp(dirty, torch.where(torch.from_numpy(mask), y, junk))
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b) and b.isfinite().all()


def test_validity_is_the_stencils_own():
    mask = np.ones((7, 8), bool)
    mask[3, 4] = False
    five = reference("laplacian", Grid.uniform((7, 8), mask=mask)).valid.numpy()
    cross = reference("divergence", Grid.uniform((7, 8), mask=mask)).valid.numpy()
    expected = np.zeros((7, 8), bool)
    expected[1:-1, 1:-1] = True
    for dj, di in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        expected[3 + dj, 4 + di] = False
    expected[3, 4] = False
    assert np.array_equal(cross, expected), "a masked cell has no residual, even if its stencil leaves it out"
    assert np.array_equal(five, expected)
    mirrored = np.ones((4, 4), bool)
    mirrored[0, 1] = False
    valid = reference("laplacian", Grid.uniform((4, 4), (1.0, 1.0), ("neumann", "dirichlet"), mirrored)).valid.numpy()
    assert not valid[0, :3].any() and not valid[1, 1] and valid.sum() == 12


def derivative(a, axis, coordinate, order=1):
    """Second-order accurate, by findiff."""
    return (Diff(axis, coordinate, acc=2) ** order)(a)


def test_findiff_agrees_inside():
    rng = np.random.default_rng(0)
    y, x = stretched(11), stretched(12)
    a, b = rng.standard_normal((2, 11, 12))
    ref = reference("divergence", Grid(y, x))
    expected = derivative(a, 1, x) + derivative(b, 0, y)
    got = ref.residual(torch.tensor(np.stack([a, b]))[None])[0, 0].numpy()
    assert np.allclose(got[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-10, atol=1e-9)
    uniform = Grid.uniform((11, 12), (0.3, 0.2))
    got = reference("laplacian", uniform).residual(torch.tensor(np.stack([a, b]))[None])[0, 0].numpy()
    expected = derivative(a, 0, 0.3, 2) + derivative(a, 1, 0.2, 2) - b
    assert np.allclose(got[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["uniform", "stretched"])
def test_a_constant_field_has_no_derivative(kind, dtype):
    for expr in (div(u, v), curl(u, v), lap(u), ddx(u) + ddy(v), div(v * grad(u))):
        grid = make_grid(kind)
        ref = Reference(site_of(Stencil((lower(expr, grid.geometry()),), ("u", "v")), grid, {}, [1.0], [1.0]))
        x = torch.full((1, 2, *grid.shape), 0.1, dtype=dtype) * torch.tensor([1.0, 3.0], dtype=dtype)[:, None, None]
        assert not ref.residual(x).any(), expr


def test_a_zonal_constant_on_the_sphere():
    """No divergence in u = const; solid rotation u = cos(lat) has vorticity 2 sin(lat) / a, to second order."""
    grid = Grid(np.linspace(-80, 80, 161), np.arange(0, 360, 2.0), ("open", "periodic"), sphere=True)
    x = torch.zeros(1, 2, *grid.shape, dtype=torch.float64)
    x[:, 0] = torch.from_numpy(np.cos(np.deg2rad(grid.y)))[:, None]
    assert not reference("divergence", grid).residual(x).any()
    spin = reference("vorticity", grid).residual(x)[0, 0, 1:-1, 0].numpy() * grid.metric("radius")
    assert np.allclose(spin, 2 * np.sin(np.deg2rad(grid.y[1:-1])), atol=5e-4)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_shift_of_periodic_fields_shifts_every_bit(name):
    ref = reference(name, make_grid("uniform", ("periodic", "periodic")))
    x = fields_for(ref, dtype=torch.float32)
    moved = x.roll((2, 3), (-2, -1))
    assert torch.equal(ref.residual(moved), ref.residual(x).roll((2, 3), (-2, -1)))
    assert torch.allclose(ref.gradient(moved), ref.gradient(x).roll((2, 3), (-2, -1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, kind", [("divergence", "uniform"), ("darcy", "uniform"), ("darcy", "stretched")])
def test_what_leaves_a_cell_enters_its_neighbour(name, kind):
    ref = reference(name, make_grid(kind, ("periodic", "periodic")))
    x = fields_for(ref)
    total = ref._weights.value * (ref.residual(x) + (1 if name == "darcy" else 0))
    assert abs(total.sum()) < 1e-6 * total.abs().sum()


def test_units_scale_the_residual():
    ref = reference("divergence", make_grid("sphere"))
    x = fields_for(ref)
    assert torch.allclose(ref.residual(4 * x), 4 * ref.residual(x), rtol=1e-14)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(half):
    ref = reference("darcy", make_grid("uniform", ("neumann", "periodic")))
    x = fields_for(ref).to(half)
    r = ref.residual(x)
    assert r.dtype == torch.float32 and ref.gradient(x).dtype == torch.float32
    assert (r - ref.residual(x.double())).abs().max() <= 1e-5 * ref.magnitude(x.double()).max()


def test_works_under_inference_mode_and_then_under_autograd():
    ref = reference("darcy", make_grid("sphere"))
    with torch.inference_mode():
        ref.gradient(fields_for(ref))
    x = fields_for(ref).requires_grad_()
    torch.autograd.grad(ref.energy(x).sum(), x)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("geometry", [Geometry(), Geometry(True, (False, True))])
def test_json_round_trip(name, geometry):
    expr, fields, positive = FORMULAS[name]
    stencil = Stencil((lower(expr, geometry),), fields, positive)
    again = Stencil.from_json(json.loads(json.dumps(stencil.to_json())))
    assert again == stencil and again.derivatives == stencil.derivatives
    assert again.to_json() == stencil.to_json()
    assert stencil.linear == (name in ("divergence", "vorticity", "laplacian"))
    assert pickle.loads(pickle.dumps(stencil)) == stencil


FIELD, BIG = ["field", "u", 0, 0, 0, 2], ["number", 2**62, 1]


@pytest.mark.parametrize(
    "tree",
    [
        ["system", "ls"],
        ["field", "__import__('os')", 0, 0, 0, 2],
        ["field", "u", 0, 0],
        ["field", "u", 0, 10**9, 0, 2],
        ["field", "u", True, 0, 0, 2],
        ["field", "w", 0, 0, 0, 2],
        ["coefficient", "dx", "t", 0],
        ["coefficient", "dx", "", 1],
        ["pow", FIELD, ["number", 10**9, 1]],
        ["pow", FIELD, FIELD],
        ["pow", ["mul", BIG, BIG, BIG], ["number", 64, 1]],
        ["number", 1, 0],
        ["number", 10**30, 1],
        ["float", float("nan")],
        ["exp", FIELD, FIELD],
        ["add"],
        ["number", 1, 1],
        "u[0, 0]",
        [],
        None,
        ["mul"] + [FIELD] * 30_000,
    ],
    ids=lambda t: str(t)[:40],
)
def test_json_refuses_what_it_does_not_write(tree):
    with pytest.raises(ValueError):
        Stencil.from_json({"fields": ["u"], "positive": [], "names": ["r"], "residuals": [tree]})


def test_deep_trees_are_refused():
    tree = FIELD
    for _ in range(150):
        tree = ["exp", tree]
    with pytest.raises(ValueError, match="levels"):
        Stencil.from_json({"fields": ["u"], "positive": [], "names": ["r"], "residuals": [tree]})


@pytest.mark.parametrize("expr", [u ** sympy.Symbol("n"), sympy.gamma(u), u**100])
def test_json_writes_nothing_that_it_would_refuse(expr):
    with pytest.raises(ValueError):
        Stencil((expr,), ("u",)).to_json()


def test_language():
    assert str(div(K * grad(p))) == "div(K*grad(p))" and str(div(u, v)) == "div(u, v)" and str(lap(p)) == "lap(p)"
    assert lower(div(grad(p)), Geometry()) == lower(lap(p), Geometry())
    assert -grad(p).factor == (-grad(p)).factor == -1 and (grad(p) * K).factor == K
    dx = Coefficient("dx")
    assert difference(u, "x", Geometry()) == (Point("u", 0, 1) - Point("u", 0, -1)) / (2 * dx)
    assert shift(Coefficient("dx", "x") * u, 1, 2) == Coefficient("dx", "x", 2) * Point("u", 1, 2)
    for wrong in (lambda: div(u), lambda: div(grad(p), u)):
        with pytest.raises(TypeError):
            wrong()
    for name in ("2u", "class", "a b", "_x", "u" * 99):
        with pytest.raises(ValueError):
            Point(name)
    with pytest.raises(ValueError, match="fields are"):
        Stencil((u + v,), ("u",))
    with pytest.raises(ValueError, match="lowered"):
        Stencil((lap(u),), ("u",))


def test_wrong_shapes_are_named():
    ref = reference("divergence", make_grid("uniform"))
    with pytest.raises(ValueError, match="u, v"):
        ref.residual(torch.zeros(1, 3, 9, 10))
    site = ref.site
    for name, wrong in {
        "rules": ("open", "open", "shut"),
        "mask": np.ones((2, 3)),
        "numbers": {"dx": np.ones(3)},
    }.items():
        with pytest.raises(ValueError, match={"rules": "boundary", "numbers": "dx"}.get(name, name)):
            replace(site, **{name: wrong})
