"""A small U-Net for fields of any size, with its own padding for each axis.

Residual blocks as in Ho et al. 2020 (arXiv 2006.11239), noise level by Fourier features and a scale and shift after
the normalisation; convolutions pad by the boundary rule of the axis, so that a periodic field stays periodic.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REPEATED = dict.fromkeys(("neumann", "open", "one-sided"), "replicate")
PADDING = {"periodic": "circular", "dirichlet": "constant", **REPEATED}


def pad_axes(x: Tensor, boundary: tuple[str, str], before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Pad (B, C, Y, X) along y and x by each axis' own rule: periodic wraps, dirichlet is zero, others repeat."""
    if boundary[0] == boundary[1]:
        return F.pad(x, (before[1], after[1], before[0], after[0]), PADDING[boundary[0]])
    x = F.pad(x, (0, 0, before[0], after[0]), PADDING[boundary[0]])
    return F.pad(x, (before[1], after[1], 0, 0), PADDING[boundary[1]])


class Conv(nn.Module):
    """A 3 x 3 convolution padded by the boundary rule."""

    def __init__(self, inputs: int, outputs: int, boundary: tuple[str, str], stride: int = 1) -> None:
        super().__init__()
        self.boundary = boundary
        self.conv = nn.Conv2d(inputs, outputs, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_axes(x, self.boundary, (1, 1), (1, 1)))


class Block(nn.Module):
    """norm, SiLU, convolution twice, the second after a scale and shift that depend on the noise level."""

    def __init__(self, inputs: int, outputs: int, embedding: int, boundary: tuple[str, str], dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(math.gcd(8, inputs), inputs)
        self.conv_in = Conv(inputs, outputs, boundary)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(math.gcd(8, outputs), outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = Conv(outputs, outputs, boundary)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv_out.conv.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[..., None, None].chunk(2, 1)
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = F.silu(self.norm_out(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv_out(self.dropout(h))


class UNet(nn.Module):
    """`forward(x, c_noise)`: (B, inputs, Y, X) and (B,) -> (B, outputs, Y, X), for any Y and X.

    `width`: channels at full resolution; `multipliers`: of the width per level, each level at half the resolution of
    the one before; `blocks` per level; `boundary` of the (y, x) axes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        boundary: tuple[str, str],
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.boundary = tuple(boundary)
        self.factor = 2 ** (len(multipliers) - 1)
        embedding = 4 * width
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.5), math.log(32), width // 2)))
        self.embed = nn.Sequential(nn.Linear(2 * (width // 2), embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def block(n_in: int, n_out: int) -> Block:
            return Block(n_in, n_out, embedding, self.boundary, dropout)

        channels = [width * m for m in multipliers]
        self.first = Conv(inputs, channels[0], self.boundary)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, c in enumerate(channels):
            before = channels[level - 1] if level else c
            enter = Conv(before, before, self.boundary, stride=2) if level else nn.Identity()
            self.down.append(nn.ModuleList([enter, *[block(before if i == 0 else c, c) for i in range(blocks)]]))
        self.middle = block(channels[-1], channels[-1])
        for level in reversed(range(len(channels))):
            c, above = channels[level], channels[max(level - 1, 0)]
            leave = Conv(c, above, self.boundary) if level else nn.Identity()
            self.up.append(nn.ModuleList([*[block(2 * c if i == 0 else c, c) for i in range(blocks)], leave]))
        self.last = nn.Sequential(nn.GroupNorm(math.gcd(8, width), channels[0]), nn.SiLU())
        self.out = Conv(channels[0], outputs, self.boundary)
        nn.init.zeros_(self.out.conv.weight)
        nn.init.zeros_(self.out.conv.bias)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        ny, nx = x.shape[-2:]
        x = pad_axes(x, self.boundary, (0, 0), (-ny % self.factor, -nx % self.factor))
        angles = c_noise[:, None] * self.frequencies
        embedding = F.silu(self.embed(torch.cat([angles.cos(), angles.sin()], 1)))
        x = self.first(x)
        skips = []
        for enter, *blocks in self.down:
            x = enter(x)
            for block in blocks:
                x = block(x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for *blocks, leave in self.up:
            x = torch.cat([x, skips.pop()], 1)
            for block in blocks:
                x = block(x, embedding)
            if skips:
                x = leave(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.out(self.last(x))[..., :ny, :nx]
