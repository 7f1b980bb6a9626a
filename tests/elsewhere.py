"""A device that only pretends, for machines without a GPU: `elsewhere`.

A tensor there says `elsewhere:0`, computes on the CPU, and keeps a GPU's company: an operation that mixes it with a
tensor of the host raises, as do `.numpy()` and drawing by a generator of the host. As on a GPU numbers without
dimensions may come from the host; unlike there nothing else is copied unasked. What it cannot show is rounding, memory
and time.

    with elsewhere():
        x = torch.ones(3, device="elsewhere")

What torch calls PrivateUse1 is taken for it, for the rest of the process: children run it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
aten = torch.ops.aten


class Mixed(RuntimeError):
    """An operation on tensors of two devices."""


class There(Tensor):
    """A tensor of the device; `host` holds its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "There":
        like = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        there = Tensor._make_wrapper_subclass(cls, host.size(), device=f"{NAME}:0", layout=host.layout, **like)
        there.host = host
        return there

    def __repr__(self) -> str:
        return f"There({self.host})"

    def tolist(self) -> Any:
        """Through the host, as torch does by itself for devices that it knows."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return run(func, args, kwargs or {})


class Moved(TorchFunctionMode):
    """Tensors that are made of numbers are made on the host and moved: torch.tensor does so where no mode looks."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, *args = args
            func, kwargs = torch.tensor, {"dtype": like.dtype, "device": like.device, **kwargs}
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], There):
            args = (args[0], listed(args[1]), *args[2:])
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        return func(*args, **kwargs)


def listed(index: Any) -> Any:
    """An index whose lists are tensors of the device, as torch makes them for devices that it knows."""
    if isinstance(index, tuple):
        return tuple(map(listed, index))
    return torch.tensor(list(index), dtype=torch.int64).to(NAME) if isinstance(index, (list, range)) else index


class Looking(TorchDispatchMode):
    """Sees every operation. `reads`: numbers that the host asked for, each of which waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.is_inference_mode_enabled() and func._can_decompose():
            # operations arrive whole there that otherwise come in the parts that are looked at
            with self, torch._C.DisableTorchFunction():
                return func.decompose(*args, **(kwargs or {}))
        self.reads += func is aten._local_scalar_dense.default and isinstance(args[0], There)
        return run(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[Looking]:
    """Within it torch has the device."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
    # autograd has no thread for a device that came after it
    with Looking() as looking, Moved(), torch.autograd.set_multithreading_enabled(False):
        yield looking


def run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Compute on the host, and have the result where torch would have it."""
    given: list[Tensor] = []

    def enter(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        given.append(value)
        return value.host if isinstance(value, There) else value

    plain, named = each(enter, args), each(enter, kwargs)
    known = {id(t.host): t for t in given if isinstance(t, There)}
    there = bool(known)
    if there and func is not aten._to_copy.default:
        refuse(func, given)
    if named.get("device") is not None:
        there = torch.device(named["device"]).type == NAME
        named["device"] = "cpu"
    if not there:
        return func(*plain, **named)
    if named.get("generator") is not None:
        raise Mixed(f"{func} there by a generator of the host")

    def leave(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else There(value)

    with torch.inference_mode(False), torch.no_grad():  # what is kept inside is plain, whatever it is part of
        return each(leave, func(*plain, **named))


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """The same with everything inside its lists, tuples and dictionaries changed."""
    if isinstance(value, list | tuple):
        return [each(change, v) for v in value] if isinstance(value, list) else tuple(each(change, v) for v in value)
    if isinstance(value, dict):
        return {k: each(change, v) for k, v in value.items()}
    return change(value)


def refuse(func: Any, given: list[Tensor]) -> None:
    """Raises Mixed where a tensor of the host that has dimensions takes part."""
    if any(t.ndim and not isinstance(t, There) for t in given):
        shapes = ", ".join(f"{'there' if isinstance(t, There) else 'host'} {tuple(t.shape)}" for t in given)
        raise Mixed(f"{func}: {shapes}")
