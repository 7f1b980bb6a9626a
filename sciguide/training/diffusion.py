"""The base model as a LightningModule: denoising score matching around the prior's Wiener filter.

The loss is the mean square of the network's error in units of the error that the Wiener filter leaves, so that every
noise level weighs the same, area-weighted over valid points (Karras et al. 2022, section 5, for the weighting).
"""

import math
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor

from sciguide.constraints import EquationRecord, record_equations
from sciguide.covariance import fit_prior
from sciguide.datasets.module import GridData
from sciguide.denoiser import Denoiser
from sciguide.errors import InputError
from sciguide.grid import Grid, grid_of
from sciguide.model import Model, NetworkError, build_network
from sciguide.prior import Prior
from sciguide.strength import calibrate
from sciguide.training.variance import CHANCE, fit_variance

MOST_VALUES = 2**26  # of the training split that the prior is fitted to, every n-th sample of a larger one
ERROR_SIGMAS = 12  # noise levels at which the network's error is measured
CALIBRATED = 32  # of them, for the strength of nonlinear equations
HELD_OUT = 128  # at most so many validation samples for it


class Fitted(NamedTuple):
    """What `build` took from the data. `prior` is in float64; the network's copy is in float32."""

    prior: Prior
    grid: Grid
    network: dict[str, Any]
    sigma_max: float
    effective: float
    equations: list[EquationRecord]


class DiffusionModule(L.LightningModule):
    """A denoiser of gridded fields.

    Args:
        prior: the Gaussian that the network corrects: `eof`, `spectral`, `isotropic`, or `auto` from the grid
        boundary: of the (y, x) axes: periodic, dirichlet, neumann, one-sided or open; from the coordinates where not
            given
        width: channels of the U-Net at full resolution
        multipliers: of the width at each level, each at half the resolution of the one before
        blocks: residual blocks per level
        dropout: inside the blocks; some is needed for small sets
        learning_rate: of AdamW, decayed along a half cosine after a short warm-up
        weight_decay: of AdamW
        sigma_min: smallest noise level, of the order of the data's own noise, in units of the normalised fields
        sigma_max: largest noise level; three times the root of the prior's largest variance where not given
        sigma_data: standard deviation of the isotropic prior
        noise: `log_uniform` between the two, or EDM's `log_normal`: log(sigma / 2 sigma_data) has mean -1.2
            and standard deviation 1.2 (EDM's data have standard deviation 0.5)
        equations: that the fields should obey, by name or `module:Class`; for each the variables of its fields where
            their names do not tell, and its constants, as in `helmholtz: {psi: pressure, k2: 4.0}`
        variance: fit a network of the denoiser's error variance after it, to the validation samples, for guidance by
            observations where the data are not Gaussian
    """

    def __init__(
        self,
        prior: Literal["auto", "eof", "spectral", "isotropic"] = "auto",
        boundary: tuple[str, str] | None = None,
        width: int = 32,
        multipliers: list[int] = (1, 2, 2),
        blocks: int = 1,
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        sigma_min: float = 0.01,
        sigma_max: float | None = None,
        sigma_data: float = 1.0,
        noise: Literal["log_uniform", "log_normal"] = "log_uniform",
        equations: dict[str, dict[str, str | float]] | None = None,
        variance: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.denoiser: Denoiser | None = None
        self.fitted: Fitted | None = None

    def build(self, data: GridData) -> None:
        """Fit the prior to the training split of `data` and make the network: before the trainer sees the module.

        Raises InputError where an equation does not fit the data.
        """
        h = self.hparams
        data.setup("fit")
        layout = data.layout
        mask = torch.from_numpy(layout.mask)
        grid = grid_of(
            layout.y, layout.x, layout.y_attrs["units"], layout.x_attrs["units"], layout.mask.all(0), h.boundary
        )
        train = data.split("train")
        wanted = (h.equations or {}).items()
        equations = [e for n, given in wanted for e in record_equations(n, given, layout, grid, train)]
        few = train[:: -(-train.size // MOST_VALUES)]
        x = data.normaliser.encode(torch.tensor(few, dtype=torch.float64))
        weights = torch.from_numpy(grid.weights())
        area = torch.where(weights > 0, weights, 0)
        prior = fit_prior(
            h.prior,
            x,
            mask,
            boundary=grid.boundary,
            weights=area.clamp(min=1e-3) if grid.latitude is not None else None,
            effective=data.prepared.effective,
            sigma_data=h.sigma_data,
            sigma_min=h.sigma_min,
        )
        sigma_max = h.sigma_max or 3 * math.sqrt(prior.largest)
        keys = ("width", "multipliers", "blocks", "dropout")
        network = {
            "boundary": list(grid.boundary),
            **{k: list(h[k]) if k == "multipliers" else h[k] for k in keys},
        }
        self.denoiser = Denoiser(prior.cast(torch.float32), build_network(len(mask), network))
        self.fitted = Fitted(prior, grid, network, sigma_max, data.prepared.effective, equations)
        area = mask * area
        self.register_buffer("area", (area / area.mean()).float(), persistent=False)

    def sigmas(self, u: Tensor) -> Tensor:
        """Noise levels (B,) at the quantiles `u` of their distribution."""
        if self.hparams.noise == "log_normal":
            normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
            return 2 * self.hparams.sigma_data * torch.exp(-1.2 + 1.2 * normal)
        low, high = math.log(self.hparams.sigma_min), math.log(self.fitted.sigma_max)
        return torch.exp(low + u * (high - low))

    def squared_error(self, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the denoiser over the Wiener filter's, (B, C, Y, X)."""
        noisy = x + sigma[:, None, None, None] * torch.where(self.denoiser.prior.mask, noise, 0)
        wiener, m, f = self.denoiser.scaled_error(noisy, sigma)
        return ((x - wiener) / m - f).square()

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        x = batch["x"]
        # one level per stratum of the distribution: less scatter of the loss than independent draws
        u = (torch.arange(len(x), device=x.device) + torch.rand(len(x), device=x.device)) / len(x)
        loss = (self.area * self.squared_error(x, self.sigmas(u), torch.randn_like(x))).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        x = batch["x"]
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(x.shape, generator=generator).to(x)
        u = (torch.arange(len(x), device=x.device) * 0.6180339887) % 1
        loss = (self.area * self.squared_error(x, self.sigmas(u), noise)).mean()
        self.log("val_loss", loss, prog_bar=True, batch_size=len(x))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(
            self.parameters(), self.hparams.learning_rate, weight_decay=self.hparams.weight_decay, betas=(0.9, 0.99)
        )
        total = self.trainer.estimated_stepping_batches
        warm = min(100, total // 10 + 1)

        def schedule(step: int) -> float:
            return min(1, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def export(self, data: GridData) -> Model:
        """The self-sufficient model of the current weights, with the network's error on held-out samples."""
        fitted, training = self.fitted, self.training
        self.eval()
        model = Model(
            denoiser=Denoiser(fitted.prior, self.denoiser.network),
            network=fitted.network,
            normaliser=data.normaliser,
            layout=data.layout,
            grid=fitted.grid,
            sigma_min=self.hparams.sigma_min,
            sigma_max=fitted.sigma_max,
            error=self.measure_error(data),
            effective=fitted.effective,
            fingerprint=data.prepared.fingerprint,
            equations=fitted.equations,
        )
        calibrate(model, self.held_out(data).double()[:CALIBRATED])
        if self.hparams.variance:
            self.fit_variance(model, data)
        self.train(training)
        return model

    def fit_variance(self, model: Model, data: GridData) -> None:
        """The network of the error's variance, kept where it is better than the prior's on samples that judge.
        Raises InputError without validation samples."""
        if "validation" not in data.prepared.split:
            raise InputError("model.variance is fitted to validation samples: give `data.validation`")
        x = data.normaliser.encode(torch.tensor(data.split("validation"), dtype=torch.float64))
        network, judged = fit_variance(model, x, self.area.to(x))
        better = judged.gain < -CHANCE * judged.error
        model.variance = network if better else None
        found = f"{judged.gain:+.3f} +- {judged.error:.3f} against the prior's"
        print(f"variance network: deviance on held-out samples {found}; {'kept' if better else 'not kept'}")

    def held_out(self, data: GridData) -> Tensor:
        """Some validation samples (training ones if none), normalised."""
        split = "validation" if "validation" in data.prepared.split else "train"
        return data.normaliser.encode(torch.tensor(data.split(split)[:: max(1, len(data.split(split)) // HELD_OUT)]))

    @torch.inference_mode()
    def measure_error(self, data: GridData) -> NetworkError:
        """Mean square error of D per noise level and channel, on noised held-out samples (training ones if none)."""
        x = self.held_out(data).float().to(self.area)
        generator = torch.Generator().manual_seed(0)
        levels = torch.logspace(math.log10(self.hparams.sigma_min), math.log10(self.fitted.sigma_max), ERROR_SIGMAS)
        mse = []
        for sigma in levels.to(x):
            sums = 0.0
            for part in x.split(32):
                noise = torch.randn(part.shape, generator=generator).to(part)
                scaled = self.squared_error(part, sigma.expand(len(part)), noise)
                m2 = self.denoiser.prior.error_std(sigma.reshape(1)) ** 2
                sums = sums + (self.area * scaled * m2).sum((0, 2, 3)) / self.area.sum((1, 2))
            mse.append((sums / len(x)).tolist())
        return NetworkError(levels.tolist(), mse)
