"""Units leave here and come back here: physical values to numbers of order one, and the way back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sciguide.errors import InputError

if TYPE_CHECKING:
    import torch

    from sciguide.datasets.prepared import Prepared

Array = TypeVar("Array", np.ndarray, "torch.Tensor")


@dataclass(frozen=True, eq=False)
class Normaliser:
    """z = (g(x) - mean) / std by channel, with g the logarithm where `log` is set and the identity elsewhere.

    `mean`, `std`: (C,) float64; `log`: (C,) bool; `names`: of the channels, for messages. Arrays are NumPy's or
    torch's, (..., C, Y, X), of any floating type, which they keep, as they do their device.
    """

    mean: np.ndarray
    std: np.ndarray
    log: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def fit(cls, prepared: "Prepared") -> "Normaliser":
        """From the statistics of the training samples."""
        found = prepared.statistics
        return cls(found.mean, found.std, found.log, tuple(prepared.layout.names))

    def encode(self, x: Array) -> Array:
        """Physical to normalised. NaN (land) becomes 0, before the arithmetic, so that gradients stay finite.

        Raises InputError for a value that is not positive where its logarithm is asked for.
        """
        xp, mean, std, log = self._like(x)
        land = xp.isnan(x)
        if self.log.any():
            self._refuse_nonpositive(x)
            x = xp.where(land, xp.ones_like(x), x)
            x = xp.where(log, xp.log(xp.where(log, x, xp.ones_like(x))), x)
        x = xp.where(land, mean, x)
        return (x - mean) / std

    def decode(self, z: Array) -> Array:
        """Normalised to physical; land is whatever 0 becomes, and is masked by `Layout.to_dataset`."""
        xp, mean, std, log = self._like(z)
        x = z * std + mean
        if self.log.any():
            x = xp.where(log, xp.exp(xp.where(log, x, xp.zeros_like(x))), x)
        return x

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, exact."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "log": self.log.tolist(),
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Normaliser":
        """The inverse of `to_dict`."""
        mean, std = (np.array(state[key], np.float64) for key in ("mean", "std"))
        return cls(mean, std, np.array(state["log"], bool), tuple(state["names"]))

    def _like(self, x: Array) -> tuple[Any, Array, Array, Array]:
        """The array library of `x`, and mean, std and log as its arrays (C, 1, 1)."""
        columns = [v[:, None, None] for v in (self.mean, self.std, self.log)]
        if isinstance(x, np.ndarray):
            return np, columns[0].astype(x.dtype), columns[1].astype(x.dtype), columns[2]
        import torch

        mean, std = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in columns[:2])
        return torch, mean, std, torch.as_tensor(columns[2], device=x.device)

    def _refuse_nonpositive(self, x: Array) -> None:
        for c in np.flatnonzero(self.log):
            if bool((x[..., c, :, :] <= 0).any()):
                raise InputError(
                    f"`{self.names[c]}` is not positive everywhere, but `log:` names it: take it out there"
                )
