"""A few dilated convolutions at full resolution, for what depends on values and their neighbourhood.

No normalisation: a U-Net whose groups are normalised hardly sees how large a value is, and how certain an estimate is
shows in just that. What lies farther away than the dilations reach enters by the means over the field.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sciguide.nn.unet import pad_axes


class Layer(nn.Module):
    """x + convolution(SiLU(scale * convolution(x) + shift)); scale and shift depend on the noise level and on the means
    of x."""

    def __init__(self, width: int, embedding: int, boundary: tuple[str, str], dilation: int) -> None:
        super().__init__()
        self.boundary, self.reach = boundary, (dilation, dilation)
        self.conv_in = nn.Conv2d(width, width, 3, dilation=dilation)
        self.modulate = nn.Linear(embedding + width, 2 * width)
        self.conv_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        told = torch.cat([embedding, x.mean((2, 3))], 1)
        scale, shift = self.modulate(told)[..., None, None].chunk(2, 1)
        h = self.conv_in(pad_axes(x, self.boundary, self.reach, self.reach))
        return x + self.conv_out(F.silu(h * (1 + scale) + shift))


class Dilated(nn.Module):
    """`forward(x, c_noise)`: (B, inputs, Y, X) and (B,) -> (B, outputs, Y, X), zero before it is trained.

    `boundary` of the (y, x) axes; one layer of `width` channels for each of the `dilations`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        boundary: tuple[str, str],
        width: int = 32,
        dilations: Sequence[int] = (1, 2, 4, 1),
    ) -> None:
        super().__init__()
        embedding = 2 * width
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.5), math.log(32), width // 2)))
        self.embed = nn.Sequential(nn.Linear(2 * (width // 2), embedding), nn.SiLU())
        self.first = nn.Conv2d(inputs, width, 1)
        self.layers = nn.ModuleList(Layer(width, embedding, tuple(boundary), d) for d in dilations)
        self.out = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies
        embedding = self.embed(torch.cat([angles.cos(), angles.sin()], 1))
        x = self.first(x)
        for layer in self.layers:
            x = layer(x, embedding)
        return self.out(F.silu(x))
