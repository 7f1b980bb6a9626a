"""What an equation may move, and how far: V, block by block over the fields.

V_f = w_f(sigma) M_f where J is constant, M_f the Wiener error covariance of field f alone, w_f the network's own mean
square error over its trace: data that obey a linear equation give J M = 0 for the joint M, and a step would move
nothing. Where J varies V_f is the inverse of J^T J at the prior's mean, by rings of the wavenumber, of the size of the
network's error, as if all rows erred alike: J V J^T is then nearly the identity between the factors that balance its
rows, whatever the coefficients, and conjugate gradients get there. Where rows are nearly as many as points that move,
the shape of V hardly changes where the step ends.

Where they are at least as many V_f is the prior's own variance of the field, by rings. What a network errs by at the
last noise level, where it is given the truth but for that noise, says nothing of how far a finished member is from the
solution for its own coefficients: that was decided along the whole chain, and is at most what the prior leaves open.
"""

from functools import lru_cache

import torch
from torch import Tensor

from sciguide.jacobian import Jacobian
from sciguide.model import Model
from sciguide.octaves import Octaves
from sciguide.rings import Rings

UNSEEN = 1e-6


class Metric:
    """V of the fields that an equation moves."""

    def __init__(self, model: Model, J: Jacobian) -> None:
        self.model, self.J, self.channels = model, J, J.channels.of
        self.rings = None if J.constant else Rings(model.grid.shape, model.grid.boundary, J.std.device)
        self.size = lru_cache(maxsize=256)(self._size)
        self.shapes = {} if J.constant else {f: self._shape(f) for f in J.moving}
        self.waves = {f: Octaves(model.prior.mask[self.channels[f]], model.grid.boundary) for f in J.moving}

    def __call__(self, v: Tensor, sigma: float, scale: Tensor | None = None) -> Tensor:
        """V v, (B, C, Y, X); `scale` (B, F) multiplies V_f of each of the equation's fields, (B, F, 4) turns it into
        E V_f E, E^2 the scale of each octave."""
        if scale is not None and scale.ndim == 3:
            return self._filtered(self(self._filtered(v, scale), sigma), scale)
        prior = self.model.prior
        out = torch.zeros_like(v)
        for f in self.J.moving:
            c = self.channels[f]
            if self.rings is None:
                block = self.size(f, sigma) * prior.apply_block(v[:, c], sigma, c)
            else:
                block = self.rings.scale(v[:, c], self._variances(f, sigma))
            out[:, c] = block if scale is None else scale[:, f, None, None, None] * block
        return out if self.rings is None else torch.where(prior.mask, out, 0)

    def _size(self, f: int, sigma: float) -> float:
        """The network's mean square error in field f, over the Wiener filter's where J is constant, and what a
        calibration has made of it."""
        error, share = self.model.error.at(sigma)[self.channels[f]], self.J.equation.record.share_at(f, sigma)
        if self.rings is not None:
            return share * float(error.mean())
        return share * float(error.sum() / self.model.prior.error_std(sigma).flatten()[self.channels[f]].square().sum())

    def _filtered(self, v: Tensor, scale: Tensor) -> Tensor:
        """The fields with each octave multiplied by the root of its scale (B, F, 4)."""
        out = torch.zeros_like(v)
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
        return self.size(f, sigma) * self.shapes[f]

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
