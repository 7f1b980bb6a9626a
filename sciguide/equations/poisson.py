"""Poisson's equation with its source.

    r = lap(phi) - f

`phi`: the potential; `f`: the source, in the units of phi per length squared. There are no constants. `scale` is
lap(phi), which on data that solve the equation is the source itself.

The five-point Laplacian in compact form, second order, on stretched grids as long as the spacing varies smoothly; on
the sphere with the metric of the surface Laplacian. With open boundaries, the default, the rows and columns at the edge
are taken as given (for data with zero Dirichlet values, the stored zeros) and r lives on the points inside. `dirichlet`
puts the zero one spacing beyond the last stored point instead.

Two differences amplify noise by 4 / dx^2: phi rounded to float32 has rms r / rms f of about 1e-5 at 64 x 64 points and
1e-2 at 2048 x 2048, with no error of anybody's. A good value is that of the data (`R_data` in a generated set).
A guide may move both: which of them errs how much is measured on held-out data, and weighs them.
"""

from sympy import Expr

from sciguide.equations.base import Equation, Field
from sciguide.kernels.stencil import lap


class Poisson(Equation):
    """lap(phi) = f."""

    phi = Field(long_name="potential")
    f = Field(long_name="source")
    moves = ("phi", "f")
    scale = "laplacian"

    def residual(self) -> Expr:
        return lap(self.phi) - self.f

    def laplacian(self) -> Expr:
        """The term that the residual is compared with."""
        return lap(self.phi)
