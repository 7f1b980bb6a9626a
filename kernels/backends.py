"""Which backend computes: chosen here and nowhere else, and counted.

`SCIGUIDE_BACKEND` is auto, triton, numba or reference; `using(name)` goes before it. auto is Triton on a GPU, Numba on
a CPU, and the PyTorch reference on any other device, or where the other one cannot be had: that is said once in the
log of `sciguide.kernels`. A backend that was asked for by name and fails is an error.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

import torch

NAMES = ("triton", "numba", "reference")
CLASSES = {
    "triton": ("triton_backend", "TritonBackend"),
    "numba": ("numba_backend", "NumbaBackend"),
    "reference": ("reference", "Reference"),
}
VARIABLE = "SCIGUIDE_BACKEND"
log = logging.getLogger("sciguide.kernels")
_told: list[str] = []  # by `using`, the innermost last; of the whole process, as autograd has threads of its own
_counts: Counter[tuple[str, str]] = Counter()
_said: set[str] = set()


class BackendError(OSError):
    """A backend that was asked for by name cannot compute here; the message says what to do."""


def told() -> str | None:
    """What was said, if anything, right or wrong."""
    return _told[-1] if _told else os.environ.get(VARIABLE)


def chosen() -> str:
    """What was asked for: auto, triton, numba or reference. Raises BackendError for another word."""
    name = told() or "auto"
    if name != "auto" and name not in NAMES:
        raise BackendError(f"no backend {name!r}: {VARIABLE} is auto, {', '.join(NAMES)}")
    return name


@contextmanager
def using(name: str) -> Iterator[None]:
    """Compute by that backend (or auto) inside. Raises BackendError for another word."""
    _told.append(name)
    try:
        chosen()
        yield
    finally:
        _told.pop()


def backend_for(device: torch.device, dtype: torch.dtype) -> str:
    """The name of the backend for tensors there. Raises BackendError where the one asked for cannot be had."""
    name = chosen()
    if name == "auto":
        name = {"cuda": "triton", "cpu": "numba"}.get(device.type, "reference")
        return name if dtype in (torch.float32, torch.float64) and not missing(name) else "reference"
    if reason := missing(name) or misplaced(name, device.type):
        raise BackendError(f"backend {name} was asked for: {reason}; set {VARIABLE}=auto")
    return name


def misplaced(name: str, device: str) -> str:
    """Why that backend does not compute on tensors there; empty where it does."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    places = {"triton": ("cuda", "cpu") if interpreted else ("cuda",), "numba": ("cpu",)}
    return "" if device in places.get(name, (device,)) else f"it does not compute on {device}"


@cache
def missing(name: str) -> str:
    """Why the backend cannot be imported; empty where it can. Said in the log once."""
    try:
        backend_class(name)
        return ""
    except Exception as error:  # a broken installation raises anything
        reason = one_line(error)
        say(f"{name} cannot be imported ({reason}): the PyTorch reference computes in its place")
        return reason


def backend_class(name: str) -> type:
    """The class of a backend, imported. Whatever the import raises passes on."""
    module, attribute = CLASSES[name]
    return getattr(import_module(f"{__package__}.{module}"), attribute)


def say(line: str) -> None:
    """A warning in the log, the same one only once."""
    if line not in _said:
        _said.add(line)
        log.warning(line)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def count(backend: str, operation: str) -> None:
    """One more call."""
    _counts[backend, operation] += 1


def calls() -> Counter[tuple[str, str]]:
    """How often each (backend, operation) ran since `reset_calls`. Replays of a CUDA graph pass unseen."""
    return Counter(_counts)


def reset_calls() -> None:
    """Count from nothing."""
    _counts.clear()


def computed_by(device: str = "cpu") -> str:
    """One line for a run's log: which backend computes equations there. Raises BackendError as `backend_for`."""
    name = backend_for(torch.device(device), torch.float32)
    how = "the PyTorch reference" if name == "reference" else f"kernels generated for {name}"
    return f"equations: computed by {how}" + (f" ({VARIABLE}={chosen()})" if chosen() != "auto" else "")


def summary() -> str:
    """The counts as one line."""
    found = ", ".join(f"{backend} {operation} {n}" for (backend, operation), n in sorted(_counts.items()))
    return f"kernel calls: {found or 'none'}"
