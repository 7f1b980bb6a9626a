"""Two-dimensional incompressible flow on a periodic square, by Fourier series: the solver behind the flow data sets.

    dw/dt + u . grad(w) = nu lap(w) + f,    w = dv/dx - du/dy,    div(u, v) = 0

The state is w_hat, the Fourier coefficients of the vorticity w: (..., n, n // 2 + 1) in the order of `scipy.fft.rfft2`
with norm "forward", so that they do not depend on n. Waves of n / 2 and more are kept zero. Products are taken on
3 n / 2 points, where no alias reaches the waves that are kept; without viscosity and forcing, energy and enstrophy then
change by the error of the time step only. With two products instead of u . grad(w):

    curl(div(u u)) = (d2/dx2 - d2/dy2) (u v) + d2/dxdy (v^2 - u^2)

The time step is the classical Runge-Kutta one of fourth order on exp(nu k^2 t) w_hat, in which viscosity is exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sciguide.errors import InputError

Field = NDArray[np.floating]
Modes = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Torus:
    """n x n points of a periodic square with sides of `length`. Everything is computed in `real`, float64 or float32.
    Raises InputError for an odd n."""

    n: int
    length: float = 1.0
    real: type[np.floating] = np.float64

    def __post_init__(self) -> None:
        if self.n % 2 or self.n < 4:
            raise InputError(f"size {self.n}: a flow on a torus needs an even number of points, 4 or more")

    @cached_property
    def points(self) -> Field:
        """Coordinates along each axis, from 0."""
        return np.arange(self.n) * (self.length / self.n)

    @cached_property
    def fine(self) -> int:
        """Points along each axis on which products are taken."""
        return fft.next_fast_len(3 * self.n // 2, real=True)

    @cached_property
    def waves(self) -> tuple[Field, Field]:
        """(ky, kx) as a column and a row, radians per unit length, with 0 instead of the waves that are not kept."""
        ky, kx = fft.fftfreq(self.n, 1 / self.n)[:, None], np.arange(self.n // 2 + 1.0)
        unit = 2 * np.pi / self.length
        return tuple(np.where(2 * np.abs(k) < self.n, unit * k, 0.0).astype(self.real) for k in (ky, kx))

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """Which coefficients are: all but the mean and those of waves of n / 2."""
        ky, kx = fft.fftfreq(self.n, 1 / self.n)[:, None], np.arange(self.n // 2 + 1)
        return (2 * np.abs(ky) < self.n) & (2 * kx < self.n) & ((ky != 0) | (kx != 0))

    @cached_property
    def k2(self) -> Field:
        """|k|^2 where `kept`, elsewhere infinite: to divide by."""
        ky, kx = self.waves
        return np.where(self.kept, ky**2 + kx**2, np.inf).astype(self.real)

    @cached_property
    def twice(self) -> Field:
        """How often each coefficient counts in a sum over all waves: those of kx > 0 stand for -kx as well."""
        return np.where(np.arange(self.n // 2 + 1) > 0, 2, 1).astype(self.real)

    @cached_property
    def _rotation(self) -> tuple[Modes, Modes]:
        """What makes u and v of w."""
        ky, kx = self.waves
        return 1j * (ky / self.k2), -1j * (kx / self.k2)

    @cached_property
    def _curl(self) -> tuple[Field, Field]:
        """What makes -u . grad(w) of u v and v^2 - u^2."""
        ky, kx = self.waves
        return (kx - ky) * (kx + ky) * self.kept, kx * ky * self.kept

    def modes(self, field: Field) -> Modes:
        """Coefficients of the fields (..., n, n), without their means and the waves that are not kept."""
        return fft.rfft2(field, norm="forward") * self.kept

    def field(self, modes: Modes) -> Field:
        """The fields (..., n, n) of `modes`."""
        return fft.irfft2(modes, s=(self.n, self.n), norm="forward")

    def resampled(self, modes: Modes, n: int) -> Modes:
        """`modes` on a torus of n points: waves that it cannot hold are dropped, those it has more of are zero."""
        half = min(n, self.n) // 2
        out = np.zeros((*modes.shape[:-2], n, n // 2 + 1), modes.dtype)
        out[..., :half, :half] = modes[..., :half, :half]
        out[..., 1 - half :, :half] = modes[..., 1 - half :, :half]
        return out

    def velocity(self, w: Modes) -> tuple[Modes, Modes]:
        """Coefficients of (u, v) of the vorticity `w`."""
        of_u, of_v = self._rotation
        return of_u * w, of_v * w

    def on_fine(self, modes: Modes) -> Field:
        """The fields of `modes` on the points for products."""
        half, m = self.n // 2, self.fine
        padded = np.zeros((*modes.shape[:-2], m, half), modes.dtype)
        padded[..., :half, :] = modes[..., :half, :half]
        padded[..., 1 - half :, :] = modes[..., 1 - half :, :half]
        columns = fft.ifft(padded, axis=-2, norm="forward", overwrite_x=True)
        return fft.irfft(columns, m, axis=-1, norm="forward")

    def from_fine(self, field: Field) -> Modes:
        """Coefficients of fields on the points for products."""
        half = self.n // 2
        rows = fft.rfft(field, axis=-1, norm="forward")[..., :half]
        columns = fft.fft(rows, axis=-2, norm="forward", overwrite_x=True)
        out = np.zeros((*field.shape[:-2], self.n, half + 1), columns.dtype)
        out[..., :half, :half] = columns[..., :half, :]
        out[..., 1 - half :, :half] = columns[..., 1 - half :, :]
        return out

    def transport(self, w: Modes) -> Modes:
        """-u . grad(w)."""
        u, v = (self.on_fine(c) for c in self.velocity(w))
        of_shear, of_strain = self._curl
        return of_shear * self.from_fine(u * v) + of_strain * self.from_fine((v - u) * (v + u))

    def pressure(self, w: Modes) -> Modes:
        """p of lap(p) = -div(u . grad(u)), without its mean; a force without divergence does not change it."""
        u, v = (self.on_fine(c) for c in self.velocity(w))
        ky, kx = self.waves
        xx, xy, yy = (self.from_fine(product) for product in (u * u, u * v, v * v))
        return -(kx**2 * xx + 2 * kx * ky * xy + ky**2 * yy) / self.k2

    def advance(self, w: Modes, nu: float | Field, force: Modes, dt: float, steps: int) -> Modes:
        """`w` after `steps` of `dt`. `nu`: one number or (..., 1, 1); `force`: the curl of the body force."""
        half = np.exp((-0.5 * dt) * nu * np.where(self.kept, self.k2, 0.0)).astype(self.real)
        for _ in range(steps):
            a = self.transport(w) + force
            carried = half * w
            b = self.transport(carried + (dt / 2) * (half * a)) + force
            c = self.transport(carried + (dt / 2) * b) + force
            d = self.transport(half * (carried + dt * c)) + force
            w = half * (carried + (dt / 6) * (half * a + 2 * (b + c))) + (dt / 6) * d
        return w
