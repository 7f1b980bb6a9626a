"""The denoiser D(x, sigma): a network around the prior's Wiener filter.

    D(x, sigma) = W(x) + m(sigma) F(inputs, log(sigma) / 4),

W the Wiener filter and m, per channel, the root mean square error that W leaves, so that the network F has to say what
a Gaussian cannot, at unit scale on every noise level. With the `isotropic` prior these are EDM's c_skip and c_out
(Karras et al. 2022, table 1).
"""

import torch
from torch import Tensor, nn

from sciguide.prior import Prior


class Denoiser(nn.Module):
    """`forward(x, sigma)`: noisy fields (B, C, Y, X), normalised, and noise levels (B,) -> the clean estimate.

    `network(inputs, c_noise)` takes `input_channels(C)` channels: x and W(x) at unit scale, and
    the mask. No coordinates: with few samples they are what a network remembers samples by.
    """

    def __init__(self, prior: Prior, network: nn.Module) -> None:
        super().__init__()
        self.prior, self.network = prior, network
        self.register_buffer("land", prior.mask.float(), persistent=False)

    @staticmethod
    def input_channels(channels: int) -> int:
        """The number of input channels of the network for fields of `channels` channels."""
        return 3 * channels

    def scaled_error(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W(x), m(sigma) and the network's F, so that D = W + m F; the prior's arithmetic in the dtype of `x`."""
        prior = self.prior
        wiener, m = prior.filter(x, sigma), prior.error_std(sigma)
        scaled = [(x - prior.mean) / prior.noisy_std(sigma), (wiener - prior.mean) / prior.noisy_std(0.0)]
        inputs = torch.cat([*scaled, self.land.expand(len(x), -1, -1, -1)], 1)
        f = self.network(inputs.to(self.land.dtype), (sigma.log() / 4).to(self.land.dtype))
        return wiener, m, torch.where(prior.mask, f, 0)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        wiener, m, f = self.scaled_error(x, sigma)
        return wiener + m * f
