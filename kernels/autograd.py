"""What the operators of `ops.py` differentiate into."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

Backward = Callable[..., tuple[Tensor | None, ...]]


def register(library: Library, find: Callable[[str], Any]) -> None:
    """Give the operators of `library` their derivatives; `find(key)`: the `Kernels` of a key."""
    ops = torch.ops.sciguide

    def remember(ctx: Any, inputs: tuple, output: Any) -> None:
        *tensors, ctx.key = inputs
        ctx.kernels = find(ctx.key)  # the backward pass keeps them alive
        ctx.save_for_backward(*tensors)

    def energy(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return ops.gradient(x, ctx.key) * g.reshape(-1, *(1,) * (x.ndim - 1)), None

    def gradient(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        return ops.hvp(ctx.saved_tensors[0], v, ctx.key), None

    def residual(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        return ops.vjp(ctx.saved_tensors[0], w, ctx.key), None

    def jvp(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        x, v = ctx.saved_tensors
        along_x = ops.second(x, v, w, ctx.key) if ctx.needs_input_grad[0] and not ctx.kernels.constant else None
        return along_x, ops.vjp(x, w, ctx.key) if ctx.needs_input_grad[1] else None, None

    def vjp(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        along_x = ops.second(x, v, w, ctx.key) if ctx.needs_input_grad[0] and not ctx.kernels.constant else None
        return along_x, ops.jvp(x, v, ctx.key) if ctx.needs_input_grad[1] else None, None

    def hvp(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        refuse(ctx, "hvp", "x", ctx.needs_input_grad[0])
        return None, ops.hvp(x, u, ctx.key) if ctx.needs_input_grad[1] else None, None

    def second(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        x, _, w = ctx.saved_tensors
        refuse(ctx, "second", "x and w", ctx.needs_input_grad[0] or ctx.needs_input_grad[2])
        along_v = ctx.needs_input_grad[1] and not ctx.kernels.constant
        return None, ops.second(x, u, w, ctx.key) if along_v else None, None, None

    for backward in (energy, gradient, residual, jvp, vjp, hvp, second):
        torch.library.register_autograd(f"sciguide::{backward.__name__}", backward, setup_context=remember, lib=library)


def refuse(ctx: Any, operation: str, of: str, asked: bool) -> None:
    """Raises NotImplementedError for a third derivative that is not zero."""
    if asked and not ctx.kernels.constant:
        raise NotImplementedError(
            f"the derivative of {operation} with respect to {of} is of third order: there is no kernel for it"
        )
