"""Burgers' equation over a plane of time and place.

    r = du/dt + d(u^2 / 2)/dx - nu d2u/dx2

`u`: velocity on a grid of (t, x), all of whose time steps are one sample: the grid's rows are time, in seconds (or any
unit that nu goes with), its columns the place. `nu`: viscosity. `scale` is the advection d(u^2 / 2)/dx.

Centred in both, second order; flux form, so that over a period in x the mean of u is kept, and shocks travel at the
right speed. A centred difference over two time steps does not couple even and odd rows, which a saw-tooth in time
exploits. It fails in shocks thinner than about three columns, nu / max|u| < 3 dx, and where a feature crosses more than
about half a column in a row, max|u| dt > dx / 2: r is then the truncation error of the data's own sampling, and grows
like the cube of the frequency. The first and last row are data (open edges); `periodic` belongs to x only.
Good values, spectral solutions that start from noise of speed .5: .01 to .03 on 128 x 128 points at nu = .01.
A guide may move u.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.kernels.stencil import ddt, ddx, lap


class Burgers(Equation):
    """u_t + u u_x = nu u_xx."""

    u = Field(units="m s-1", long_name="velocity", standard_names=("x_velocity", "sea_water_x_velocity", "x_wind"))
    nu = Constant(0.01, units="m2 s-1", long_name="viscosity")
    axes = ("t", "x")
    moves = ("u",)
    scale = "advection"
    units = "m s-2"

    def residual(self) -> Expr:
        return ddt(self.u) + ddx(self.u**2 / 2) - self.nu * lap(self.u)

    def advection(self) -> Expr:
        """The term that the residual is compared with."""
        return ddx(self.u**2 / 2)
