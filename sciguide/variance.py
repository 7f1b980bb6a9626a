"""How wrong an estimate is, and where: a network of the variance of the denoiser's error.

Guidance weighs an estimate x0 = D(x_sigma, sigma) by M, the covariance of the Wiener filter's error. Where the data are
Gaussian that is what the estimate errs by. Where they are not it is right on average and wrong in place: inside a phase
that is told apart already nothing is open, at its edge much is. So

    v(x0, sigma) = E[(x - x0)^2 | x0, sigma],

point by point, is regressed on the frozen denoiser's errors (`sciguide/training/variance.py`), and M becomes E M E with
E = diag(sqrt(v / diag M)): the correlations of M, and the variances of v. What is learned is the ratio v / diag M; 1 is
the formula as it is. The network sees the estimate itself, not the noisy state, so that guidance goes on seeing nothing
of the sampler.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sciguide.nn.dilated import Dilated
from sciguide.prior import Prior

MOST = 8.0  # of the log of the ratio
UNSEEN = 1e-6  # of the channel's mean variance: where M leaves less, the ratio is 1


class Variance(nn.Module):
    """`forward(x0, sigma)`: estimates (B, C, Y, X), normalised, and noise levels (B,) -> the log of v / diag M,
    (B, C, Y, X). `arguments`: of the network."""

    def __init__(self, prior: Prior, arguments: dict[str, Any]) -> None:
        super().__init__()
        channels = len(prior.mask)
        self.prior, self.arguments = prior, arguments
        self.network = Dilated(2 * channels, channels, **arguments)
        self.register_buffer("land", prior.mask.float(), persistent=False)

    def forward(self, x0: Tensor, sigma: Tensor) -> Tensor:
        scaled = (x0 - self.prior.mean) / self.prior.noisy_std(0.0)
        inputs = torch.cat([scaled, self.land.expand(len(x0), -1, -1, -1)], 1).to(self.land.dtype)
        found = self.network(inputs, (sigma.log() / 4).to(self.land.dtype))
        return torch.where(self.prior.mask, MOST * torch.tanh(found / MOST), 0)

    def wiener(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """diag M, (B, C, Y, X), and where it is something to multiply."""
        found = self.prior.diagonal(self.prior.error_variances(sigma))
        return found, found > UNSEEN * self.prior.error_std(sigma).square()

    @torch.inference_mode()
    def ratio(self, x0: Tensor, sigma: float) -> Tensor:
        """v / diag M, (B, C, Y, X), in the dtype of x0."""
        level = x0.new_full((len(x0),), sigma)
        return torch.where(self.wiener(level[:1])[1], self(x0, level).to(x0.dtype).exp(), 1)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs, besides the prior."""
        return {"arguments": self.arguments, "weights": self.network.state_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any], prior: Prior) -> "Variance":
        """In evaluation mode."""
        found = cls(prior, state["arguments"])
        found.network.load_state_dict(state["weights"])
        return found.eval().requires_grad_(False)
