"""What an equation may move, and how far: V.

Alone, an equation with constant J moves its fields block by block: V_f = w_f(sigma) M_f, M_f the Wiener error
covariance of field f, w_f the network's own mean square error over its trace. Data that obey a linear equation give
J M = 0 for the joint M, and a step would move nothing.

Beside observations of channels that the equation says nothing of, that would lose what they say of those that it moves.
So V is joint over all channels there, moved or not, V_cd = min(w_c, w_d) M_cd. Of two channels the one that errs more
has what the other errs by, through the regression of the prior, and more of its own. V is positive, as the minimum is
and products by entry are; has the network's mean square errors; and is in blocks where M is. E M E with E =
diag(sqrt(w)) is surer of more: where J M = 0 the residuals of the network's errors would have a variance of (sqrt(w_c)
- sqrt(w_d))^2 only, and a hard equation with that leaves next to nothing to the observations: errors of Poisson's pair
were 3 to 6 times the exact posterior's instead of 1.1. Channels of fields that the equation reads and may not move are
held: V does not reach them.

Where J varies V_f is the inverse of J^T J at the prior's mean, by rings of the wavenumber, of the size of the
network's error, as if all rows erred alike: J V J^T is then nearly the identity between the factors that balance its
rows, whatever the coefficients, and conjugate gradients get there. Where rows are nearly as many as points that move,
the shape of V hardly changes where the step ends.

Where they are at least as many V_f is the prior's own variance of the field, by rings. What a network errs by at the
last noise level, where it is given the truth but for that noise, says nothing of how far a finished member is from the
solution for its own coefficients: that was decided along the whole chain, and is at most what the prior leaves open.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sciguide.jacobian import Jacobian
from sciguide.model import Model
from sciguide.octaves import Octaves
from sciguide.rings import Rings

UNSEEN = 1e-6
TINY = 1e-300


class Metric:
    """V of an equation: of the fields that it moves, or `joint` of all channels but those that it holds. `reaches`: the
    channels that it is of, in `groups` of the same size over M; `parts`: those that J sees, of which J V J^T has a part
    for each of the `pairs`."""

    def __init__(self, model: Model, J: Jacobian, joint: bool = False) -> None:
        self.model, self.J, self.channels, self.joint = model, J, J.channels.of, joint
        held = {c for f, of in enumerate(self.channels) for c in of if f not in J.moving}
        moving = [self.channels[f] for f in J.moving]
        everywhere = range(len(model.prior.mask))
        self.reaches = [c for c in everywhere if (c not in held if joint else any(c in of for of in moving))]
        self.groups = [[c] for c in self.reaches] if joint else moving
        self.parts = [[c] for of in moving for c in of] if joint else moving
        numbers = range(len(self.parts))
        self.pairs = [(p, q) for p in numbers for q in numbers if p == q or (joint and p < q)]
        self.rings = None if J.constant else Rings(model.grid.shape, model.grid.boundary, J.std.device)
        self.size = lru_cache(maxsize=256)(self._size)
        together = torch.zeros(len(everywhere), len(everywhere))
        for of in [self.reaches] if joint else moving:
            together[torch.tensor(of)[:, None], of] = 1
        self.together = together.to(J.std)
        self.shapes = {} if J.constant else {f: self._shape(f) for f in J.moving}
        self.waves = {f: Octaves(model.prior.mask[self.channels[f]], model.grid.boundary) for f in J.moving}

    def __call__(self, v: Tensor, sigma: float, scale: Tensor | None = None) -> Tensor:
        """V v, (B, C, Y, X); `scale` (B, F) multiplies w_f of each of the equation's fields, (B, F, 4) turns V into
        E V E, E^2 the scale of each octave."""
        if scale is not None and scale.ndim == 3:
            return self._filtered(self(self._filtered(v, scale), sigma), scale)
        prior = self.model.prior
        if self.rings is None:
            return prior.apply_weighted(v, sigma, self.weights(sigma, scale), self.groups)
        out = torch.zeros_like(v)
        for f in self.J.moving:
            c = self.channels[f]
            block = self.rings.scale(v[:, c], self._variances(f, sigma))
            out[:, c] = block if scale is None else scale[:, f, None, None, None] * block
        return torch.where(prior.mask, out, 0)

    def weights(self, sigma: float, scale: Tensor | None = None) -> Tensor:
        """By which the blocks M_cd are multiplied where J is constant, (B or 1, C, C)."""
        w = self.size(sigma)
        if scale is not None:
            w = w.repeat(len(scale), 1)
            for f in self.J.moving:
                w[:, self.channels[f]] *= scale[:, f, None]
        return torch.minimum(w[:, :, None], w[:, None]) * self.together

    def by_pair(self, sigma: float, scale: Tensor) -> Tensor:
        """Of the weights those of each of the `pairs`, (B, pairs)."""
        first = [(self.parts[p][0], self.parts[q][0]) for p, q in self.pairs]
        return self.weights(sigma, scale)[:, [c for c, _ in first], [d for _, d in first]]

    def _size(self, sigma: float) -> Tensor:
        """The network's mean square error over the Wiener filter's, (1, C): of each channel, or in blocks of the
        channels of each field together."""
        error = torch.as_tensor(self.model.error.at(sigma)).to(self.J.std)[None]
        wiener = self.model.prior.error_std(sigma).reshape(1, -1).to(error).square()
        if not self.joint:
            error, wiener = error @ self.together, wiener @ self.together
        return error / wiener.clamp(min=TINY)

    def _variance(self, f: int, sigma: float) -> float:
        """The network's mean square error in field f, and what a calibration has made of it, where J varies."""
        return self.J.equation.record.share_at(f, sigma) * float(self.model.error.at(sigma)[self.channels[f]].mean())

    def _filtered(self, v: Tensor, scale: Tensor) -> Tensor:
        """The fields with each octave multiplied by the root of its scale (B, F, 4)."""
        out = v.clone()
        for f, waves in self.waves.items():
            own = v[:, self.channels[f]]
            factor = scale[:, f].sqrt()[:, waves.band][:, None]
            out[:, self.channels[f]] = waves.inverse(factor * waves.transform(own), own)
        return out

    def inverse(self, v: Tensor, sigma: float, scale: Tensor) -> Tensor:
        """V^-1 v of the fields that move, (B, fields, Y, X), where the equation determines them."""
        out = torch.empty_like(v)
        for i, f in enumerate(self.J.moving):
            out[:, i] = self.rings.scale(v[:, i], 1 / self._variances(f, sigma)) / scale[:, f, None, None]
        return out

    def roots(self, ratio: Tensor, sigma: float) -> Tensor:
        """E = diag(sqrt(v / diag V)), (B, C, Y, X), for `ratio` v / diag M of variances v of members' errors; 1 in
        channels that do not move. E V E then has the variances v."""
        error, prior = self.model.error.at(sigma), self.model.prior
        wiener = prior.error_std(sigma).flatten() ** 2
        out = torch.ones_like(ratio)
        for c in (self.channels[f] for f in self.J.moving):
            if self.rings is None:
                out[:, c] = ratio[:, c] * float(wiener[c].sum() / error[c].sum())
            else:
                out[:, c] = ratio[:, c] * prior.diagonal(prior.error_variances(sigma))[:, c] / float(error[c].mean())
        return out.sqrt()

    def _variances(self, f: int, sigma: float) -> Tensor:
        if self.J.determines:
            return self.shapes[f]
        return self._variance(f, sigma) * self.shapes[f]

    def _shape(self, f: int) -> Tensor:
        """Where the equation determines field f, the variances of the prior; else the inverse of J^T J at the mean, 1
        on average over its transform."""

        def alone(v: Tensor) -> Tensor:
            u = v.new_zeros(len(v), *self.model.shape)
            u[:, self.channels[f]] = v[:, None]
            return u

        if self.J.determines:
            found = self.rings.response(lambda v: self.model.prior.sqrt_M(alone(v), self.model.sigma_max), self.J.std)
            return found.clamp(min=UNSEEN * UNSEEN * float(found.max()))
        response = self.rings.response(lambda v: self.J.forward(alone(v)), self.J.std)
        # a constant that J does not see stays where it is
        found = torch.where(response > UNSEEN * response.flatten()[1:].min(), 1 / response, 0)
        return found / found.mean()


def only(v: Tensor, channels: Sequence[int]) -> Tensor:
    """The fields (B, C, Y, X) with zeros in all other channels."""
    out = torch.zeros_like(v)
    out[:, channels] = v[:, channels]
    return out
