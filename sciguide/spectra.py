"""Spectra by octave: what a distance between whole fields hardly notices, the energy of their short waves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sciguide.prior import dct_matrix, transform_axes
from sciguide.reward import euclidean

OCTAVES = 4  # the first from the shortest wave along an axis, the last of all that is longer
QUIET = 1e-6  # energies of a point below it, in variances of the field, count as none
LEAST = 0.01  # standard deviation of a logarithm below which an octave does not vary in the data


class Spectra:
    """Distances between fields by the log energy of every channel in every octave of the wavenumber, each over its
    standard deviation among the `truths` (N, C, Y, X), a root mean square over them; FFT on periodic axes, DCT-II on
    others. Means of fields do not count, nor octaves that do not vary among the truths. Off the mask fields are zero,
    which is part of the spectra of members and truths alike."""

    def __init__(self, truths: Tensor, boundary: Sequence[str]) -> None:
        self.kinds = tuple("fft" if rule == "periodic" else "dct" for rule in boundary[-2:])
        self.matrices = tuple(dct_matrix(n).to(truths.device) for n in truths.shape[-2:])
        self.octave = octaves(truths.shape[-2:], boundary[-2:]).to(truths.device)
        std = self._all(truths).std(0)
        self.kept = std > LEAST
        self.scale = std[self.kept] * int(self.kept.sum()) ** 0.5

    def energies(self, x: Tensor) -> Tensor:
        """Of fields (B, C, Y, X), the mean square of a point in each octave, (B, C, OCTAVES)."""
        power = transform_axes(x, self.kinds, self.matrices).abs().square() / self.octave.numel()
        return torch.stack([power[..., self.octave == b].sum(-1) for b in range(OCTAVES)], -1)

    def logs(self, x: Tensor) -> Tensor:
        """The numbers that are compared, (B, D)."""
        return self._all(x)[:, self.kept] / self.scale

    def _all(self, x: Tensor) -> Tensor:
        return (self.energies(x) + QUIET).log().flatten(1)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return euclidean(self.logs(a), self.logs(b))


def octaves(shape: Sequence[int], boundary: Sequence[str]) -> Tensor:
    """The octave of every wavenumber (Y, X), 0 from half of the shortest wave's on, -1 of the mean."""
    k = [_wavenumber(n, rule) for n, rule in zip(shape, boundary, strict=True)]
    k = (k[0][:, None] ** 2 + k[1] ** 2).sqrt()
    found = ((-k.clamp(min=1e-9).log2()).ceil() - 1).clamp(0, OCTAVES - 1).long()
    found[0, 0] = -1
    return found


def _wavenumber(n: int, rule: str) -> Tensor:
    """Over that of the shortest wave."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.minimum(i, n - i) / (n / 2) if rule == "periodic" else i / n
