"""The one door to the kernels: `Kernels(site)`, whose methods are operators of `torch.library`.

They work under autograd, `torch.compile` and CUDA graphs, on whatever backend `backends.backend_for` chooses. Which
site is meant travels as a string, the key of a registry that holds no site alive: a graph that outlives its `Kernels`
does not run, a backward pass keeps them.

    energy -> gradient -> hvp        residual -> vjp        jvp, vjp -> each other and second

say what differentiates into what. A backward that returned g times a saved gradient would have a wrong second
derivative, silently. The derivatives of hvp and second with respect to x (of third order) are refused unless they are
zero. No gradient flows through `energy_and_gradient` and `update`: their results are detached.
"""

import itertools
from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.library import Library

from .autograd import register
from .backends import BackendError, backend_class, backend_for, chosen, count, one_line, say, told
from .reference import Reference
from .site import Site

HALF = (torch.float16, torch.bfloat16)
COMPUTED = (torch.float32, torch.float64)
SCHEMAS = {
    "residual": "(Tensor x, str key) -> Tensor",
    "energy": "(Tensor x, str key) -> Tensor",
    "gradient": "(Tensor x, str key) -> Tensor",
    "energy_and_gradient": "(Tensor x, str key) -> (Tensor, Tensor)",
    "update": "(Tensor x, Tensor step, str key) -> (Tensor, Tensor)",
    "jvp": "(Tensor x, Tensor v, str key) -> Tensor",
    "vjp": "(Tensor x, Tensor w, str key) -> Tensor",
    "hvp": "(Tensor x, Tensor v, str key) -> Tensor",
    "second": "(Tensor x, Tensor v, Tensor w, str key) -> Tensor",
}
_registry: "WeakValueDictionary[str, Kernels]" = WeakValueDictionary()
_numbers = itertools.count()


class Kernels:
    """The operations of a stencil at its site. Fields x are (B, F, [Z,] Y, X) in the units of the site, of any strides;
    float16 and bfloat16 are computed in float32, other types than these and float64 refused. Residuals are
    (B, K, [Z,] Y, X), energies (B,). Nothing is written to what is given."""

    def __init__(self, site: Site) -> None:
        self.site, program = site, site.program
        self.shape = tuple(site.shape[3 - site.axes :])
        self.fields, self.components = len(program.fields), len(program.names)
        # whether J is one matrix whatever x is: then all derivatives of second order vanish
        self.constant = program.linear and not bool(site.log.any())
        self.key = f"site-{next(_numbers)}"
        self._ready: dict[tuple, tuple[str, Callable[..., Any]]] = {}
        self._made: dict[str, Any] = {}
        _registry[self.key] = self

    def __reduce__(self) -> tuple:
        return Kernels, (self.site,)

    @cached_property
    def reference(self) -> Reference:
        """What the backends are tested against, and what it alone can say."""
        return Reference(self.site)

    def residual(self, x: Tensor) -> Tensor:
        """r, zero where the cell is not valid."""
        return torch.ops.sciguide.residual.default(self._like_x(x), self.key)

    def energy(self, x: Tensor) -> Tensor:
        """sum_k omega_k mean (r_k / scale_k)^2."""
        return torch.ops.sciguide.energy.default(self._like_x(x), self.key)

    def gradient(self, x: Tensor) -> Tensor:
        """d energy / dx, like x."""
        return torch.ops.sciguide.gradient.default(self._like_x(x), self.key)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both at once, detached."""
        return torch.ops.sciguide.energy_and_gradient.default(self._like_x(x).detach(), self.key)

    def update(self, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The energy of x, and x - step * gradient for `step` (B, F), at once, detached."""
        x = self._like_x(x).detach()
        if step.shape != x.shape[:2]:
            raise ValueError(f"step is {tuple(step.shape)}, not (B, F) = {tuple(x.shape[:2])}")
        return torch.ops.sciguide.update.default(x, step.detach().to(x.dtype), self.key)

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """J v, like the residual, for `v` like x."""
        x, v = _alike(self._like_x(x), self._like_x(v))
        return torch.ops.sciguide.jvp.default(x, v, self.key)

    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        """J^T w, like x, for `w` like the residual."""
        x, w = _alike(self._like_x(x), self._like_r(w))
        return torch.ops.sciguide.vjp.default(x, w, self.key)

    def hvp(self, x: Tensor, v: Tensor) -> Tensor:
        """(d2 energy / dx2) v per sample, like x."""
        x, v = _alike(self._like_x(x), self._like_x(v))
        return torch.ops.sciguide.hvp.default(x, v, self.key)

    def second(self, x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """d <w, J(x) v> / dx, like x."""
        x, v, w = _alike(self._like_x(x), self._like_x(v), self._like_r(w))
        return torch.ops.sciguide.second.default(x, v, w, self.key)

    def source(self, kind: str, backend: str) -> str:
        """The text that `backend` runs for an operation."""
        return self._backend(backend).source(kind)

    def launch(self, operation: str, x: Tensor, *rest: Tensor) -> Any:
        """Run an operation on the backend for `x`, and count it."""
        case = operation, x.dtype, x.device.type, told()
        found = self._ready.get(case)
        if found is None:
            return self._first(case, operation, x, *rest)
        count(found[0], operation)
        return found[1](x, *rest)

    def _first(self, case: tuple, operation: str, x: Tensor, *rest: Tensor) -> Any:
        """The first call, when a kernel is compiled: one that fails is the reference's from then on, unless the
        backend was asked for by name."""
        wanted = backend_for(x.device, x.dtype)
        try:
            name, run = wanted, self._operation(wanted, operation)
            out = run(x, *rest)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if wanted == "reference":
                raise
            what = f"{wanted} cannot compute {operation} of {', '.join(self.site.program.names)}"
            if chosen() != "auto":
                raise BackendError(f"{what}: {one_line(error)}; set SCIGUIDE_BACKEND=auto") from error
            say(f"{what} ({type(error).__name__}: {one_line(error)}): the PyTorch reference computes it")
            name, run = "reference", self._operation("reference", operation)
            out = run(x, *rest)
        self._ready[case] = name, run
        count(name, operation)
        return out

    def _backend(self, name: str) -> Any:
        if name == "reference":
            return self.reference
        if name not in self._made:
            self._made[name] = backend_class(name)(self.site)
        return self._made[name]

    def _operation(self, name: str, operation: str) -> Callable[..., Any]:
        backend = self._backend(name)
        if name == "reference":  # plain tensor operations, which keep the strides they are given
            run = getattr(backend, operation)
            return lambda *args: _contiguous(run(*args))
        if operation == "gradient" and not hasattr(backend, "gradient"):
            both = backend.energy_and_gradient
            return lambda x: both(x)[1]
        return getattr(backend, operation)

    def _like_x(self, x: Tensor) -> Tensor:
        """`x` in a type that is computed in. Raises ValueError for another shape, TypeError for another type."""
        if x.ndim != 2 + len(self.shape) or x.shape[1] != self.fields or x.shape[2:] != self.shape:
            names = ", ".join(self.site.program.fields)
            wanted = ", ".join(str(n) for n in ("B", self.fields, *self.shape))
            raise ValueError(f"fields {names} are ({wanted}), not {tuple(x.shape)}")
        return x if x.dtype in COMPUTED else _promoted(x)

    def _like_r(self, w: Tensor) -> Tensor:
        if w.ndim != 2 + len(self.shape) or w.shape[1] != self.components or w.shape[2:] != self.shape:
            wanted = ", ".join(str(n) for n in ("B", self.components, *self.shape))
            raise ValueError(f"rows of the residual are ({wanted}), not {tuple(w.shape)}")
        return w if w.dtype in COMPUTED else _promoted(w)


def _promoted(x: Tensor) -> Tensor:
    if x.dtype not in HALF:
        raise TypeError(f"fields are float16, bfloat16, float32 or float64, not {str(x.dtype).removeprefix('torch.')}")
    return x.float()


def _alike(x: Tensor, *others: Tensor) -> list[Tensor]:
    """All of them in the widest of their types. Raises ValueError for different numbers of samples."""
    if any(len(o) != len(x) for o in others):
        raise ValueError(f"{len(x)} samples, but {', '.join(str(len(o)) for o in others)} to go with them")
    if all(o.dtype == x.dtype for o in others):
        return [x, *others]
    return [t.double() for t in (x, *others)]


def _contiguous(out: Any) -> Any:
    return tuple(t.contiguous() for t in out) if isinstance(out, tuple) else out.contiguous()


def find(key: str) -> Kernels:
    """The kernels with that key. Raises RuntimeError where they are gone."""
    found = _registry.get(key)
    if found is None:
        raise RuntimeError("the operator of this graph no longer exists: keep it as long as what was made with it")
    return found


# registration

_library = Library("sciguide", "DEF")


def _define(operation: str, fake: Callable[..., Any]) -> None:
    def body(*args: Any) -> Any:
        *tensors, key = args
        return find(key).launch(operation, *tensors)

    _library.define(operation + SCHEMAS[operation], tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(operation, body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sciguide::{operation}", fake, lib=_library)


def _like_fields(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


def _like_rows(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((x.shape[0], find(rest[-1]).components, *x.shape[2:]))


def _one_each(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((x.shape[0],))


for _name in SCHEMAS:
    _define(
        _name,
        {
            "energy": _one_each,
            "residual": _like_rows,
            "jvp": _like_rows,
            "energy_and_gradient": lambda x, *rest: (_one_each(x), _like_fields(x)),
            "update": lambda x, *rest: (_one_each(x), _like_fields(x)),
        }.get(_name, _like_fields),
    )
register(_library, find)
