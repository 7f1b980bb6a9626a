"""The trained model as one self-sufficient file: weights, prior, normaliser, grid, coordinates, equations.

A file holds plain Python values and tensors only and is read with `weights_only=True`: loading runs no code from it.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide.archive import read_archive, write_archive
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.denoiser import Denoiser
from sciguide.device import find_device
from sciguide.grid import Grid
from sciguide.nn.unet import UNet
from sciguide.noise import normals
from sciguide.prior import Prior, prior_from_dict
from sciguide.sampler import karras_sigmas
from sciguide.variance import Variance


class NetworkError(NamedTuple):
    """Mean square error of the denoiser on held-out samples: `mse[i][c]` at noise level `sigmas[i]`, channel c."""

    sigmas: list[float]
    mse: list[list[float]]

    def at(self, sigma: float) -> np.ndarray:
        """Interpolated in log sigma, constant beyond the ends; (C,)."""
        logs = np.log(self.mse)
        return np.exp([np.interp(np.log(sigma), np.log(self.sigmas), logs[:, c]) for c in range(logs.shape[1])])


@dataclass
class Model:
    """A denoiser and all that is needed to sample from it and to write what it makes. `variance`: of its errors, where
    a network was fitted to them."""

    denoiser: Denoiser
    network: dict[str, Any]
    normaliser: Normaliser
    layout: Layout
    grid: Grid
    sigma_min: float
    sigma_max: float
    error: NetworkError
    effective: float
    fingerprint: str
    equations: list[EquationRecord] = field(default_factory=list)
    variance: Variance | None = None
    steps: dict[tuple, list] = field(default_factory=dict, init=False, repr=False, compare=False)  # see constraints_for

    def constraints(self) -> list[EquationOnModel]:
        """The model's equations on its normalised fields."""
        return [EquationOnModel(e, self.normaliser, self.grid, self.layout.static) for e in self.equations]

    @property
    def prior(self) -> Prior:
        """The prior in float64."""
        return self.denoiser.prior

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.prior.mean.device

    def to(self, device: str | torch.device) -> "Model":
        """Itself, computing there: constraints that were made before do not. Raises InputError where torch has no such
        device."""
        for module in (self.denoiser, self.variance):
            if module is not None:
                module.to(find_device(device))
        self.steps.clear()
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, Y, X)"""
        return tuple(self.layout.mask.shape)

    def white(self, seed: int, members: Sequence[int], step: int = 0) -> Tensor:
        """White noise of these members, (B, C, Y, X) float64, drawn on the host: the same on every device."""
        return torch.from_numpy(normals(seed, members, step, self.shape, np.float64)).to(self.device)

    def sigmas(self, steps: int) -> list[float]:
        """The noise levels of a chain of `steps` network evaluations."""
        return karras_sigmas(steps, self.sigma_min, self.sigma_max)

    @torch.inference_mode()
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D(x, sigma), (B, C, Y, X) in the dtype of the prior; the network runs in float32, and not for members whose
        sigma is 0, which are clean."""
        noisy = sigma > 0
        if bool(noisy.all()):
            return self.denoiser(x, sigma)
        found = x.to(self.prior.mean)
        if bool(noisy.any()):
            found = found.clone()
            found[noisy] = self.denoiser(x[noisy], sigma[noisy])
        return found

    def save(self, path: str | os.PathLike) -> None:
        """Write atomically: a file of this name is the old one or the new one."""
        plain = ("network", "sigma_min", "sigma_max", "effective", "fingerprint")
        state = {
            "weights": self.denoiser.network.state_dict(),
            "prior": self.prior.to_dict(),
            "normaliser": self.normaliser.to_dict(),
            "layout": self.layout.to_dict(),
            "grid": self.grid.to_dict(),
            "error": self.error._asdict(),
            "equations": [asdict(e) for e in self.equations],
            "variance": self.variance.to_dict() if self.variance else None,
            **{k: getattr(self, k) for k in plain},
        }
        write_archive(path, state)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> "Model":
        """The model in a file that `save` wrote, in evaluation mode, on `device`.

        Raises InputError where the file is missing, damaged or of another format, or torch has no such device.
        """
        with read_archive(path, "model", "`sciguide fit` makes it") as state:
            prior = prior_from_dict(state.pop("prior"))
            network = build_network(len(prior.mask), state["network"])
            network.load_state_dict(state.pop("weights"))
            variance = state.pop("variance", None)
            parts = {
                "denoiser": Denoiser(prior, network).eval().requires_grad_(False),
                "normaliser": Normaliser.from_dict(state.pop("normaliser")),
                "layout": Layout.from_dict(state.pop("layout")),
                "grid": Grid.from_dict(state.pop("grid")),
                "error": NetworkError(**state.pop("error")),
                "equations": [EquationRecord(**e) for e in state.pop("equations")],
                "variance": Variance.from_dict(variance, prior) if variance else None,
            }
            model = cls(**parts, **state)
        return model.to(device)


def build_network(channels: int, arguments: dict[str, Any]) -> UNet:
    """The U-Net of a model with `channels` channels."""
    return UNet(Denoiser.input_channels(channels), channels, **arguments)
