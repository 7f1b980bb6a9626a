"""The door to the kernels: derivatives of derivatives, torch.compile, the choice of a backend, and what is counted."""

import copy
import gc
import logging
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sciguide.equations import get
from sciguide.grid import Grid
from sciguide.kernels import backends, ops
from sciguide.kernels.backends import BackendError, backend_for, calls, computed_by, reset_calls, using
from sciguide.kernels.ops import Kernels

CPU = torch.device("cpu")
BACKENDS = [name for name in ("numba", "reference") if not backends.missing(name)]
OPERATIONS = sorted(ops.SCHEMAS)


@pytest.fixture(params=BACKENDS)
def backend(request):
    with using(request.param):
        yield request.param


def darcy() -> Kernels:
    """Nonlinear, with land and a log-normal coefficient, in normalised units."""
    mask = np.ones((4, 4), bool)
    mask[0, 0] = False
    operator = get("darcy")().on(Grid.uniform((4, 4), (1.0, 0.7), ("neumann", "periodic"), mask), 0.5)
    return operator.in_units(np.array([0.1, 0.2, 0.0]), np.array([0.5, 0.7, 1.3]), np.array([True, False, False]))


def wind() -> Kernels:
    """Linear, two residuals."""
    return get("geostrophic")(f=1.0).on(Grid.uniform((4, 4), (1.0, 0.7), ("open", "periodic")), (0.5, 2.0)).kernels


def made(kernels: Kernels, *kinds: str, B: int = 2, grad: bool = True) -> list[torch.Tensor]:
    """Random tensors in float64: "x" like the fields, "w" like the residual, "s" steps."""
    rng = np.random.default_rng(len(kinds))
    sizes = {"x": (kernels.fields, *kernels.shape), "w": (kernels.components, *kernels.shape), "s": (kernels.fields,)}
    return [torch.from_numpy(rng.standard_normal((B, *sizes[k]))).requires_grad_(grad) for k in kinds]


GIVEN = {"update": "xs", "jvp": "xx", "vjp": "xw", "hvp": "xx", "second": "xxw"}


# Derivatives


@pytest.mark.parametrize("make", [darcy, pytest.param(wind, marks=pytest.mark.slow)])
def test_first_and_second_derivatives(make, backend):
    k = make()
    x, v, w = made(k, "x", "x", "w")
    at = x.detach()
    for operation in ("energy", "residual"):
        assert gradcheck(getattr(k, operation), x)
        assert gradgradcheck(getattr(k, operation), x, fast_mode=True)
    assert gradcheck(k.gradient, x) and gradcheck(k.jvp, (x, v)) and gradcheck(k.vjp, (x, w))
    assert gradgradcheck(lambda v: k.jvp(at, v), v, fast_mode=True)
    assert gradgradcheck(lambda w: k.vjp(at, w), w, fast_mode=True)
    assert gradcheck(lambda v: k.hvp(at, v), v) and gradcheck(lambda v: k.second(at, v, w.detach()), v)
    reset_calls()
    k.energy(x).sum().backward()
    assert calls() == {(backend, "energy"): 1, (backend, "gradient"): 1}, "not by autograd through tensor operations"


def test_everything_of_a_linear_equation_can_be_differentiated_twice(backend):
    k = wind()
    for operation, kinds in (("gradient", "x"), ("jvp", "xx"), ("vjp", "xw"), ("hvp", "xx")):
        assert gradgradcheck(getattr(k, operation), made(k, *kinds), fast_mode=True), operation


def test_a_third_derivative_is_refused():
    k = darcy()
    x, v, w = made(k, "x", "x", "w")
    for out in (k.hvp(x, v), k.second(x, v, w.detach())):
        with pytest.raises(NotImplementedError, match="is of third order: there is no kernel for it"):
            out.sum().backward()


def test_fused_results_are_detached(backend):
    k = darcy()
    x, step = made(k, "x", "s")
    energy, gradient = k.energy_and_gradient(x)
    again, moved = k.update(x, step)
    assert not any(t.requires_grad for t in (energy, gradient, again, moved))
    assert torch.equal(energy, again)
    torch.testing.assert_close(energy, k.energy(x).detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(k.energy(x).sum(), x)[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(moved, (x - step[..., None, None] * gradient).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operators_are_what_they_say(operation, backend):
    """Schemas, fake kernels, registration of autograd, and tracing, as PyTorch checks them."""
    k = darcy()
    detached = operation in ("update", "energy_and_gradient", "hvp", "second")
    given = made(k, *GIVEN.get(operation, "x"), grad=not detached)
    found = torch.library.opcheck(getattr(torch.ops.sciguide, operation).default, (*given, k.key))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_a_compiled_function_is_the_plain_one(compiler, backend):
    if compiler == "inductor" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    k = darcy()

    def loss(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        moved = k.update(x, torch.full_like(x[:, :, 0, 0], 1e-3))[1]
        return (k.energy(x) + k.jvp(x, v).square().mean((1, 2, 3)) + moved.mean((1, 2, 3))).sum()

    x, v = made(k, "x", "x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what inductor's own code warns of
        found = torch.compile(loss, fullgraph=True, backend=compiler)(x, v)
        gradients = torch.autograd.grad(found, (x, v))
    expected = loss(x, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for a, b in zip(gradients, torch.autograd.grad(expected, (x, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    torch._dynamo.reset()


# What is let in


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, backend):
    k = darcy()
    x = made(k, "x")[0].detach().to(dtype).requires_grad_()
    energy = k.energy(x)
    assert energy.dtype == torch.float32
    assert torch.equal(energy, k.energy(x.float()))
    energy.sum().backward()
    assert x.grad.dtype == dtype
    assert k.jvp(x.detach(), x.detach().double()).dtype == torch.float64


def test_what_does_not_fit_is_refused_in_one_line():
    k = darcy()
    x, w, s = made(k, "x", "w", "s", grad=False)
    for function, error, message in (
        (lambda: k.energy(x.long()), TypeError, "fields are float16, bfloat16, float32 or float64, not int64"),
        (lambda: k.energy(x[0]), ValueError, r"fields K, p, f are \(B, 3, 4, 4\), not \(3, 4, 4\)"),
        (lambda: k.energy(x[..., 1:]), ValueError, r"not \(2, 3, 4, 3\)"),
        (lambda: k.vjp(x, x), ValueError, r"rows of the residual are \(B, 1, 4, 4\), not \(2, 3, 4, 4\)"),
        (lambda: k.vjp(x, w[:1]), ValueError, "2 samples, but 1 to go with them"),
        (lambda: k.update(x, s[:, :1]), ValueError, r"step is \(2, 1\), not \(B, F\) = \(2, 3\)"),
    ):
        with pytest.raises(error, match=message) as caught:
            function()
        assert "\n" not in str(caught.value)


def test_strides_do_not_matter(backend):
    k = wind()
    x, v, w = made(k, "x", "x", "w", grad=False)
    turned = [t.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1) for t in (x, v, w)]
    for operation in OPERATIONS:
        if operation == "update":
            continue
        plain, strange = (
            getattr(k, operation)(*(dict(zip("xvw", given, strict=True))[c] for c in names))
            for given, names in (((x, v, w), NAMED[operation]), (turned, NAMED[operation]))
        )
        for a, b in zip(tuples(plain), tuples(strange), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)
            assert b.is_contiguous()


NAMED = {o: {"jvp": "xv", "vjp": "xw", "hvp": "xv", "second": "xvw"}.get(o, "x") for o in ops.SCHEMAS}


def tuples(found) -> tuple:
    return found if isinstance(found, tuple) else (found,)


# Operators come and go


def test_thousands_of_operators_leave_nothing_behind():
    k = darcy()
    gc.collect()
    before = len(ops._registry)
    operator = get("helmholtz")().on(Grid.uniform((5, 5)))
    x = torch.rand(1, 2, 5, 5)
    gone = []
    for _ in range(2000):
        one = Kernels(operator.kernels.site)
        gone.append(weakref.ref(one))
    one.energy(x)
    del one
    assert not any(reference() for reference in gone), "no cycle keeps them until the next collection"
    assert len(ops._registry) == before + 1 and k.key in ops._registry


def test_a_backward_pass_keeps_its_operator():
    x = made(darcy(), "x")[0]
    energy = darcy().energy(x)
    gc.collect()
    (found,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(found, darcy().gradient(x.detach()), rtol=1e-12, atol=1e-15)
    with pytest.raises(RuntimeError, match="no longer exists"):
        torch.ops.sciguide.energy(x.detach(), darcy().key)


def test_operators_are_copied_and_pickled():
    operator = get("darcy")().on(Grid.uniform((5, 6)), 0.5)
    x = 1 + torch.rand(2, 3, 5, 6, dtype=torch.float64)
    for other in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator)), copy.copy(operator)):
        assert torch.equal(other.energy(x), operator.energy(x))
    kernels, x = darcy(), x[..., :4, :4]
    for other in (copy.deepcopy(kernels), pickle.loads(pickle.dumps(kernels))):
        assert other.key != kernels.key
        assert torch.equal(other.energy(x), kernels.energy(x))


# Which backend


class Broken:
    """A backend whose compiler fails."""

    def __init__(self, site):
        pass

    def energy(self, x):
        raise ImportError("no code for\nthis machine")


@pytest.fixture
def forget():
    """Nothing has been said yet, nor imported."""
    backends._said.clear()
    backends.missing.cache_clear()
    yield
    backends._said.clear()
    backends.missing.cache_clear()


def test_the_choice(monkeypatch):
    monkeypatch.setenv("SCIGUIDE_BACKEND", "reference")
    assert backend_for(CPU, torch.float32) == "reference"
    assert computed_by() == "equations: computed by the PyTorch reference (SCIGUIDE_BACKEND=reference)"
    with using("auto"):
        assert backend_for(CPU, torch.float32) == BACKENDS[0]
        with using("reference"):
            assert backend_for(CPU, torch.float32) == "reference"
        assert backend_for(torch.device("meta"), torch.float32) == "reference"
    monkeypatch.setenv("SCIGUIDE_BACKEND", "fortran")
    with pytest.raises(BackendError, match="no backend 'fortran': SCIGUIDE_BACKEND is auto, triton, numba, reference"):
        backend_for(CPU, torch.float32)
    with pytest.raises(BackendError, match="no backend 'c'"), using("c"):
        pass
    monkeypatch.delenv("SCIGUIDE_BACKEND")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if not backends.missing("triton"):
        k = darcy()
        with pytest.raises(BackendError, match="triton was asked for: it does not compute on cpu"), using("triton"):
            k.energy(made(k, "x")[0])


def test_a_backend_that_cannot_be_imported_is_said_once(monkeypatch, caplog, forget):
    monkeypatch.setitem(backends.CLASSES, "numba", ("no_such_module", "Nothing"))
    k = darcy()
    (x,) = made(k, "x", grad=False)
    reset_calls()
    with caplog.at_level(logging.WARNING, "sciguide.kernels"), using("auto"):
        k.energy(x), k.residual(x), darcy().energy(x)
    assert [r.message for r in caplog.records] == [
        "numba cannot be imported (No module named 'sciguide.kernels.no_such_module'): "
        "the PyTorch reference computes in its place"
    ]
    assert {name for name, _ in calls()} == {"reference"}
    with pytest.raises(BackendError, match="numba was asked for: No module named .* set SCIGUIDE_BACKEND=auto"):
        with using("numba"):
            k.energy(x)


def test_a_kernel_that_cannot_be_compiled_is_said_once(monkeypatch, caplog, forget):
    monkeypatch.setitem(backends.CLASSES, "numba", ("broken", "Broken"))
    monkeypatch.setattr(backends, "backend_class", lambda name: Broken)
    monkeypatch.setattr(ops, "backend_class", lambda name: Broken)
    k = darcy()
    (x,) = made(k, "x", grad=False)
    reset_calls()
    with caplog.at_level(logging.WARNING, "sciguide.kernels"), using("auto"):
        found = [k.energy(x), k.energy(x)]
    assert torch.equal(found[0], k.reference.energy(x)) and torch.equal(*found)
    assert [r.message for r in caplog.records] == [
        "numba cannot compute energy of residual (ImportError: no code for this machine): "
        "the PyTorch reference computes it"
    ]
    assert calls() == {("reference", "energy"): 2}
    with using("numba"), pytest.raises(BackendError, match="cannot compute energy .* set SCIGUIDE_BACKEND=auto"):
        darcy().energy(x)


HIDDEN = """
import sys
sys.modules["numba"] = sys.modules["triton"] = None
import torch
from sciguide.equations import get
from sciguide.grid import Grid
from sciguide.kernels.backends import calls, computed_by
operator = get("darcy")().on(Grid.uniform((6, 7)))
x = (1 + torch.rand(2, 3, 6, 7)).requires_grad_()
operator.energy(x).sum().backward()
print(computed_by(), dict(calls()))
"""


def test_without_numba_and_triton_everything_works_and_says_so():
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equations: computed by the PyTorch reference {('reference', 'energy'): 1")
    assert done.stderr.count("the PyTorch reference computes in its place") == 1


INTERPRETED = """
import sys
sys.path.insert(0, "tests")
import torch
from torch.autograd import gradcheck, gradgradcheck
from test_ops import darcy, made, wind
from sciguide.kernels.backends import calls, using
quick = {"fast_mode": True}
with using("triton"):
    k = wind()
    x, v, w = made(k, "x", "x", "w", B=1)
    assert gradcheck(k.energy, x, **quick) and gradgradcheck(k.energy, x, **quick)
    assert gradgradcheck(k.residual, x, **quick) and gradgradcheck(k.jvp, (x, v), **quick)
    k = darcy()
    x, s = made(k, "x", "s", B=1)
    assert gradgradcheck(k.energy, x, **quick)
    for operation, given in (("energy", [x]), ("update", [x.detach(), s.detach()])):
        torch.library.opcheck(getattr(torch.ops.sciguide, operation).default, (*given, k.key))
assert {name for name, _ in calls()} == {"triton"}, calls()
"""


@pytest.mark.skipif(bool(backends.missing("triton")), reason="no Triton")
def test_triton_goes_through_the_same_door():
    """In Triton's interpreter, which has to be asked for before Triton is imported."""
    folder, place = Path(__file__).parents[1], {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=place)
    assert done.returncode == 0, done.stderr


def test_a_wrong_choice_is_one_line_of_the_command(monkeypatch, tmp_path, capsys):
    from sciguide.cli import main

    (tmp_path / "model.pt").write_bytes(b"")
    monkeypatch.setenv("SCIGUIDE_BACKEND", "cuda")
    assert main(["generate", str(tmp_path), "--members=1"]) == 2
    assert capsys.readouterr().err.startswith("error: no backend 'cuda': SCIGUIDE_BACKEND is auto,")


@pytest.mark.gpu
def test_a_cuda_graph_holds_every_operation():
    """Nothing at the door synchronises: it can be captured, and a replay computes with the new values."""
    k = darcy()
    x, v, w, s = (t.detach().cuda().float() for t in made(k, "x", "x", "w", "s"))
    tensors = {"x": (x,), "xx": (x, v), "xw": (x, w), "xs": (x, s), "xxw": (x, v, w)}
    for operation in OPERATIONS:
        given, run = tensors[GIVEN.get(operation, "x")], getattr(k, operation)
        run(*given)  # compiled, and its numbers moved, before
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            found = run(*given)
        x.mul_(1.1)
        graph.replay()
        for a, b in zip(tuples(found), tuples(run(*given)), strict=True):
            assert torch.equal(a, b), operation
    assert {name for name, _ in calls()} == {"triton"}
