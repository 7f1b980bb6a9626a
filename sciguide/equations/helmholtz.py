"""Helmholtz's equation with its source.

    r = lap(psi) + k2 psi - f

`psi`: the wave's amplitude; `f`: the source, in the units of psi per length squared; `k2`: the wavenumber squared, per
length squared, negative for a screened potential (-1 / L^2, L the screening length or a deformation radius). `scale`
is lap(psi).

The five-point Laplacian in compact form, second order, on stretched grids whose spacing varies smoothly, on the sphere
with the metric of the surface Laplacian. It needs ten points to a wavelength: the phase of a wave drifts by
(k h)^2 / 24 of a radian per radian, so that over many wavelengths r stays small while psi is wrong. Near an eigenvalue
of the domain r says little about psi: a mode with lap(psi) = -k2 psi may be added for nothing. Open edges take the
stored values as given (zero Dirichlet data keep their stored zeros); `dirichlet` puts the zero one spacing beyond the
last point.

Good values are those of the data: psi rounded to float32 has rms r / rms lap of about 1e-5 at 64 x 64 points, 1e-2 at
2048 x 2048. A guide may move both fields: which errs how much is measured on held-out data, and weighs them.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.kernels.stencil import lap


class Helmholtz(Equation):
    """lap(psi) + k2 psi = f."""

    psi = Field(long_name="amplitude")
    f = Field(long_name="source")
    k2 = Constant(1.0, units="m-2", long_name="wavenumber squared")
    moves = ("psi", "f")
    scale = "laplacian"

    def residual(self) -> Expr:
        return lap(self.psi) + self.k2 * self.psi - self.f

    def laplacian(self) -> Expr:
        """The term that the residual is compared with."""
        return lap(self.psi)
