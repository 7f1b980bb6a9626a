"""An equation on a model as rows: r over its scale, and J v and J^T w, in normalised channels.

Rows are (B, L, Y, X): the equation's residuals, level by level where it has levels, those that exist somewhere. J is
constant, or each member's own: of fields that stay, as Darcy's K, of what moves, or of the slopes of logarithms.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciguide.constraints import EquationOnModel
from sciguide.model import Model

MOST_POINTS = 2**18  # of a field whose matrix is factorised


class At(NamedTuple):
    """Where J is taken: the equation's fields u (B, F, [Z,] Y, X), their slopes `gain` = du/dx, zero where a field may
    not move, and `balance` (B, L, Y, X), what makes a row as large as at the prior's mean. Where J is constant, the
    gain alone."""

    gain: Tensor
    fields: Tensor | None = None
    balance: Tensor | None = None

    def after(self, e: Tensor) -> "At":
        """That of J diag(e), e (B, F, [Z,] Y, X)."""
        return self._replace(gain=self.gain * e)

    def balanced(self, w: Tensor) -> Tensor:
        """balance * w."""
        return w if self.balance is None else self.balance * w


class Jacobian:
    """`valid` (L, Y, X): the cells of the rows; `live`: which of all residuals and levels they are; `moving`: numbers
    of the fields that move; `constant`: whether J is; `mean`: J at the prior's mean; `determines`: whether it varies, r
    is linear in what moves, on two axes without gaps and of at most MOST_POINTS, and its rows are at least as many as
    the points that move."""

    def __init__(self, model: Model, equation: EquationOnModel) -> None:
        self.equation, self.operator, self.shape = equation, equation.operator, model.shape
        operator, self.channels = equation.operator, equation.channels
        K, grid = len(operator.components), operator.grid
        each = operator.valid.expand(K, *grid.shape).flatten(0, -3)
        each = each.to(model.prior.mean.device)
        self.live = each.any((1, 2)).nonzero()[:, 0]  # a level may have no residual at all
        self.valid = each[self.live]
        self.moving = [f for f, name in enumerate(operator.fields) if name in operator.moves and self.channels.of[f]]
        told = {"dtype": torch.float64, "device": each.device}
        std, logs = (torch.as_tensor(v, **told) for v in (model.normaliser.std, model.normaliser.log))
        self.std = self.channels.gather(std[None, :, None, None])
        self.log = self.channels.gather(logs[None, :, None, None]) > 0
        self.constant = operator.linear and not self.log.any()
        self.mean, self.determines = At(self.std), False
        self._last: tuple[Tensor | None, At] = None, self.mean
        if not self.constant:
            still = [f for f in range(len(operator.fields)) if f not in self.moving]
            self.std[:, still] = 0
            u = equation.physical(model.prior.mean[None].double())
            self.mean_sizes = self._sizes(u, self._gain(u))
            self.mean = self.linearised(u)
            self.determines = self._determines()

    def _determines(self) -> bool:
        operator, grid = self.operator, self.operator.grid
        rows = int((torch.where(self.valid, self.mean_sizes, 0) > 0).sum())
        linear = operator.linear_in_moves and not bool(self.log[:, self.moving].any())
        single = all(len(self.channels.of[f]) == 1 for f in self.moving)
        plain = len(grid.shape) == 2 and (grid.mask is None or bool(grid.mask.all())) and single
        points = len(self.moving) * operator.valid.numel()
        return linear and plain and points <= min(rows, MOST_POINTS)

    def rows(self, x: Tensor) -> Tensor:
        """r(x) over its scale."""
        return self.equation.residual(x).flatten(1, -3)[:, self.live]

    def at(self, x: Tensor) -> At:
        """Where J is taken for the members x (B, C, Y, X)."""
        if self.constant:
            return self.mean
        last = self._last  # what a policy sees and what is then corrected are the same fields
        if last[0] is not x:
            last = self._last = x, self.linearised(self.equation.physical(x))
        return last[1]

    def linearised(self, u: Tensor) -> At:
        """The same for the equation's fields u."""
        gain = self._gain(u)
        return At(gain, u, torch.where(self.valid, self.mean_sizes / self._sizes(u, gain).clamp(min=1e-300), 1))

    def _gain(self, u: Tensor) -> Tensor:
        return torch.where(self.log, self.std * u, self.std)

    def _sizes(self, u: Tensor, gain: Tensor) -> Tensor:
        """sum_o |dr/dx_o|, like the rows."""
        moves = [self.operator.fields[f] for f in self.moving]
        found = self.operator.kernels.reference.magnitude_along(u, gain.expand_as(u), moves)
        return self.operator.relative(found).flatten(1, -3)[:, self.live]

    def forward(self, v: Tensor, at: At | None = None) -> Tensor:
        """J v for changes v of the channels, at the prior's mean where not told."""
        at = at or self.mean
        v = self.channels.gather(v) * at.gain
        u = v if at.fields is None else at.fields.expand_as(v)
        return self.operator.relative(self.operator.jvp(u, v)).flatten(1, -3)[:, self.live]

    def transpose(self, w: Tensor, at: At | None = None) -> Tensor:
        """J^T w, zero in the channels that are not the equation's."""
        at = at or self.mean
        shape, count = self.operator.grid.shape, len(w)
        r = w.new_zeros(count, len(self.operator.components), *shape)
        r.view(count, -1, *w.shape[2:])[:, self.live] = w
        u = w.new_zeros(1, len(self.operator.fields), *shape) if at.fields is None else at.fields
        u = self.operator.vjp(u.expand(count, *u.shape[1:]), self.operator.relative(r)) * at.gain
        return self.channels.scatter(u, w.new_zeros(count, *self.shape))
