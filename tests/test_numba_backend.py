"""The CPU kernels against the reference: every operation, edges, gaps, strides, types, and what must not be touched."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stencil import BOUNDARIES, fields_for, island, make_grid, reference

from sciguide.equations.operator import site_of
from sciguide.grid import Grid
from sciguide.kernels import numba_call
from sciguide.kernels.differences import lower
from sciguide.kernels.numba_backend import NumbaBackend
from sciguide.kernels.reference import Reference
from sciguide.kernels.stencil import Point, Stencil, ddx, ddz, div, expand, grad, lap

ROOT = Path(__file__).parents[1]
ALL = ("residual", "energy", "gradient", "update", "jvp", "vjp", "hvp", "second")
LIMITS = {torch.float64: 1e-12, torch.float32: 2e-6}  # of the sum of absolute terms


def arguments(site, x):
    """A direction, rows and steps, always the same."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(x.dtype)

    return draw(*x.shape), draw(len(x), len(site.program.names), *x.shape[2:]), draw(*x.shape[:2]).abs()


def outcomes(backend, x, ops):
    """What the operations named make of the same random arguments."""
    v, w, step = arguments(backend.site, x)
    calls = {
        "residual": lambda: backend.residual(x),
        "energy": lambda: backend.energy(x),
        "gradient": lambda: backend.energy_and_gradient(x)[1],
        "update": lambda: backend.update(x, step)[1],
        "jvp": lambda: backend.jvp(x, v),
        "vjp": lambda: backend.vjp(x, w),
        "hvp": lambda: backend.hvp(x, v),
        "second": lambda: backend.second(x, v, w),
    }
    return {op: calls[op]() for op in ops}


def scales(ref, x, ops):
    """What an error is measured by: at each point the sum of the absolute terms that are added up there, where the
    reference can say it, else the largest value of the exact answer."""
    exact = outcomes(ref, x, ops)
    terms = ref.magnitude(x) + ref.residual(x).abs()  # the constants of a formula are in r alone
    shares = torch.from_numpy(2 * ref.site.share / ref.site.scale**2).reshape(-1, *(1,) * ref.site.axes)
    pulled = shares * torch.from_numpy(ref.site.cell_weight).reshape(x.shape[2:]) * terms
    found = {op: answer.abs().amax() for op, answer in exact.items()}
    if "residual" in ops:
        found["residual"] = terms
    gradient = ref.magnitude_transposed(x, pulled)
    found["gradient"], found["update"] = gradient, gradient + x.abs().nan_to_num(0)
    v, w, _ = arguments(ref.site, x)
    found |= {"jvp": ref.magnitude_along(x, v), "vjp": ref.magnitude_transposed(x, w)}
    found["hvp"] = found.get("hvp", 0) + gradient.amax()
    return found


def assert_equal(site, x, ops):
    ref = Reference(site)
    exact, size = outcomes(ref, x.double(), ops), scales(ref, x.double(), ops)
    for op, found in outcomes(NumbaBackend(site), x, ops).items():
        error = (found.double() - exact[op]).abs()
        assert found.dtype == x.dtype and (error <= LIMITS[x.dtype] * size[op]).all(), (op, (error / size[op]).max())


@pytest.mark.parametrize(
    "name, ops, masked",
    [
        ("darcy", ALL, False),
        pytest.param("darcy", ("residual", "gradient", "jvp", "vjp"), True, marks=pytest.mark.slow),
        ("laplacian", ("jvp", "vjp"), False),
    ],
)
def test_every_operation_on_every_edge(name, ops, masked):
    shape = (9, 10)
    for boundary in BOUNDARIES:
        ref = reference(name, make_grid("sphere", boundary, shape, island(shape) if masked else None), scale=1.7)
        assert_equal(ref.site, fields_for(ref), ops)


def test_units_of_normalised_fields():
    """Affine fields and logarithms, chain rule included."""
    for boundary in BOUNDARIES:
        ref = reference("darcy", make_grid("sphere", boundary))
        site = ref.site.with_units(np.array([0.1, 2.0]), np.array([0.7, 3.0]), np.array([True, False]))
        assert_equal(site, fields_for(ref, seed=2), ALL)


def system(grid, order=2):
    """Three residuals of four fields, wide and nonlinear."""
    u, v, K, p = (Point(n) for n in "uvKp")
    exprs = (
        u * ddx(u) - lap(v),
        expand(div(K * grad(p))) - u,
        div(K * grad(p, mean="harmonic")) if order == 2 else u * v,
    )
    lowered = tuple(lower(e, grid.geometry(order)) for e in exprs)
    stencil = Stencil(lowered, ("u", "v", "K", "p"), ("K",), ("a", "b", "c"))
    return site_of(stencil, grid, {}, [1.0, 2.0, 0.5], [0.5, 0.25, 0.25])


EDGES = [("one-sided", "one-sided"), ("neumann", "periodic")]
MORE_EDGES = [("one-sided", "neumann"), ("periodic", "one-sided")]


@pytest.mark.parametrize(
    "boundaries, order",
    [(EDGES, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((MORE_EDGES, 2), (EDGES + MORE_EDGES, 4)))],
)
def test_systems_and_one_sided_edges(boundaries, order):
    for boundary in boundaries:
        site = system(Grid.uniform((11, 9), (0.3, 0.2), boundary), order)
        assert_equal(site, fields_for(Reference(site)), ("residual", "gradient") if order == 2 else ("gradient",))


@pytest.mark.parametrize(
    "masked, boundaries",
    [
        (False, [("neumann", "periodic", "dirichlet"), ("periodic", "one-sided", "neumann")]),
        (True, [("open",) * 3, ("periodic", "one-sided", "neumann")]),
    ],
)
def test_three_axes(masked, boundaries):
    p, f = Point("p"), Point("f")
    rng = np.random.default_rng(0)
    for boundary in boundaries:
        mask = rng.random((5, 6, 7)) > 0.05 if masked else None
        z, y, x = np.arange(5.0) ** 1.2, np.arange(6.0), np.arange(7.0)
        grid = Grid(y, x, boundary, mask=mask, z=z)
        stencil = Stencil((lower(lap(p) * (1 + p / 4) - f + p * ddz(p), grid.geometry()),), ("p", "f"))
        site = site_of(stencil, grid, {}, [1.0], [1.0])
        generator = torch.Generator().manual_seed(0)
        assert_equal(
            site, torch.randn(2, 2, 5, 6, 7, generator=generator, dtype=torch.float64), ("residual", "gradient")
        )


@settings(max_examples=40, deadline=None)
@given(
    ny=st.integers(1, 257),
    nx=st.integers(1, 257),
    batch=st.integers(1, 3),
    boundary=st.tuples(*[st.sampled_from(["periodic", "dirichlet", "neumann", "open"])] * 2),
    layout=st.sampled_from(["plain", "transposed", "strided", "offset", "expanded"]),
    seed=st.integers(0, 2**20),
)
def test_any_shape_and_strides(ny, nx, batch, boundary, layout, seed):
    ref = reference("darcy", Grid.uniform((ny, nx), (0.5, 0.7), boundary))
    plain = fields_for(ref, batch=batch, dtype=torch.float32, seed=seed)
    x = laid_out(plain, layout)
    assert torch.equal(x, plain) or layout == "expanded"
    assert_equal(ref.site, x, ("residual", "gradient"))


def laid_out(x, layout):
    """The same numbers in other places of a larger memory that holds NaN elsewhere."""
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "transposed":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    step, first = (2, 1) if layout == "strided" else (1, 3 if layout == "offset" else 0)
    memory = torch.full([step * n + first for n in x.shape], torch.nan, dtype=x.dtype)
    view = memory[tuple(slice(first, first + step * n, step) for n in x.shape)]
    view.copy_(x)
    return view


@pytest.mark.parametrize("name", ["momentum"])
def test_repeats_and_threads_change_no_bit_and_inputs_stay(name):
    ref = reference(name, make_grid("sphere", ("open", "periodic"), (96, 130)))
    x = fields_for(ref, batch=5, dtype=torch.float32)
    kept, backend, threads = x.clone(), NumbaBackend(ref.site), torch.get_num_threads()
    first = backend.energy_and_gradient(x)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for a, b in zip(first, backend.energy_and_gradient(x), strict=True):
                assert torch.equal(a, b)
            alone = [backend.energy_and_gradient(x[i : i + 1]) for i in range(5)]
            assert torch.equal(first[0], torch.cat([e for e, _ in alone]))
            assert torch.equal(first[1], torch.cat([g for _, g in alone]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(x, kept)


def test_threads_of_python_do_what_torch_s_do(monkeypatch):
    """Where there is no OpenMP runtime with a C entry, and in forked children."""
    ref = reference("darcy", make_grid("uniform", ("open", "open"), (128, 300)))
    x = fields_for(ref, batch=4, dtype=torch.float32)
    backend, threads, asked = NumbaBackend(ref.site), torch.get_num_threads(), []
    assert numba_call._team(os.getpid() + 1) is None, "another process than the one that was imported in"
    try:
        torch.set_num_threads(2)
        expected = backend.energy_and_gradient(x)
        monkeypatch.setattr(numba_call, "_team", lambda process: asked.append(process))
        for a, b in zip(expected, backend.energy_and_gradient(x), strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)
    assert asked == [os.getpid()]


def test_offsets_past_two_to_the_31():
    """Samples that lie 2^31 numbers apart, in memory of which only they are touched."""
    ref = reference("darcy", Grid.uniform((9, 10)))
    plain = fields_for(ref, dtype=torch.float32)
    memory = torch.empty(2**31 + plain[0].numel(), dtype=torch.float32)
    far = memory.as_strided(plain.shape, (2**31, *plain.stride()[1:]))
    far.copy_(plain)
    backend = NumbaBackend(ref.site)
    assert torch.equal(backend.residual(far), backend.residual(plain))
    assert torch.equal(backend.energy_and_gradient(far)[1], backend.energy_and_gradient(plain)[1])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e36])
def test_land_changes_no_bit(junk):
    shape = (9, 10)
    ref = reference("darcy", make_grid("sphere", ("neumann", "periodic"), shape, island(shape)))
    site = ref.site.with_units(np.zeros(2), np.ones(2), np.array([True, False]))
    clean, backend = fields_for(ref), NumbaBackend(site)
    dirty = torch.where(torch.from_numpy(island(shape)), clean, junk)
    ops = ("residual", "gradient", "jvp", "vjp")
    for (op, a), b in zip(outcomes(backend, clean, ops).items(), outcomes(backend, dirty, ops).values(), strict=True):
        assert torch.equal(a, b) and b.isfinite().all(), op


def test_wide_formula_with_functions():
    for boundary in (("neumann", "periodic"), ("open", "dirichlet")):
        ref = reference("wide", make_grid("stretched", boundary))
        assert_equal(ref.site, fields_for(ref), ("gradient",))


def test_wrong_arguments_are_refused():
    backend = NumbaBackend(reference("darcy", make_grid("uniform")).site)
    with pytest.raises(ValueError, match="grid"):
        backend.residual(torch.zeros(1, 2, 9, 11))
    with pytest.raises(ValueError, match="float64"):
        backend.jvp(torch.zeros(1, 2, 9, 10), torch.zeros(1, 2, 9, 10, dtype=torch.float64))


CHILD = """
import sys, threading, torch
sys.path.insert(0, "tests")
from test_stencil import reference, make_grid, fields_for
from sciguide.kernels.numba_backend import NumbaBackend

def run(index=0):
    ref = reference("darcy", make_grid("uniform", ("open", "open"), (128, 300)))
    x = fields_for(ref, batch=4, dtype=torch.float32)
    return NumbaBackend(ref.site).energy_and_gradient(x)[0].tolist()

class Rows(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return torch.tensor(run())

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = run()
    loader = torch.utils.data.DataLoader(Rows(), num_workers=2, multiprocessing_context=sys.argv[1])
    assert all(torch.equal(e[0], torch.tensor(expected)) for e in loader)
    import dask
    for scheduler in ("threads", "synchronous"):
        found = dask.compute(*[dask.delayed(run)(i) for i in range(6)], scheduler=scheduler)
        assert all(f == expected for f in found)
    threads = [threading.Thread(target=run) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    assert run() == expected
    print("fine")
"""


@pytest.mark.parametrize("context", ["forkserver", "fork"])
def test_beside_loader_workers_and_dask_threads(tmp_path, context):
    """Even in a forked child, after the parent's threads ran."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), context],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=300,
    )
    assert done.stdout.endswith("fine\n"), done.stderr


def test_a_second_process_does_not_compile(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_stencil import reference, make_grid, fields_for\n"
        "from sciguide.kernels.numba_backend import NumbaBackend\n"
        "ref = reference('darcy', make_grid('uniform')); b = NumbaBackend(ref.site); b.residual(fields_for(ref))\n"
        "stats = next(iter(b._kernels.values())).module.march\n"
        "print(int(stats.cache_hits))\n"
    )
    environment = {**os.environ, "SCIGUIDE_CACHE": str(tmp_path / "cache")}
    seen = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            timeout=300,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert seen == [["0"], ["1"]]
