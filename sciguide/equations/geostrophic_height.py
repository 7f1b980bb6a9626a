"""Geostrophic balance of a current with the height of the sea's surface, or of a wind with geopotential height.

    r_u = u + (g / f) dheight/dy        r_v = v - (g / f) dheight/dx

`u`, `v`: eastward and northward velocity (along x and y on a plane); `height`: of the sea above the geoid (absolute
dynamic topography), or of a pressure level above mean sea level. `g`: gravity; `f`, `f_least`: as in `geostrophic`.
`scale` is the velocity itself, both components as one vector.

Centred differences over two spacings, second order. They fail beside land, where cells that would read a masked point
are not valid, near the equator (mask |lat| < 5 at sea, 20 for winds), for eddies of few grid lengths, whose slope a
difference over two spacings halves, and where an anomaly of the height meets the total velocity: take both total, or
both as anomalies. Velocities derived from the same heights by another difference agree to .09 on a grid of 1/8 degree
(that is the stencil's error, not the sea's), winds at 250 to 500 hPa to .07.
A guide may move all three fields.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.equations.nondivergence import Nondivergence
from sciguide.kernels.stencil import coriolis, ddx, ddy


class GeostrophicHeight(Equation):
    """f u = -g d height / dy, f v = g d height / dx."""

    u = Field(units="m s-1", long_name="eastward velocity", standard_names=Nondivergence.u.standard_names)
    v = Field(units="m s-1", long_name="northward velocity", standard_names=Nondivergence.v.standard_names)
    height = Field(
        units="m",
        long_name="height of the surface",
        standard_names=("sea_surface_height_above_geoid", "geopotential_height", "height_above_geopotential_datum"),
    )
    g = Constant(9.80665, units="m s-2", long_name="gravity")
    f = Constant(1e-4, units="s-1", long_name="Coriolis parameter on a plane")
    f_least = Constant(1e-10, units="s-1", long_name="keeps 1 / f finite on the equator")
    moves = ("u", "v", "height")
    scale = "velocity"
    vectors = (("u", "v"),)
    units = "m s-1"

    def residual(self) -> dict[str, Expr]:
        f = coriolis(self.f)
        per_f = self.g * f / (f**2 + self.f_least**2)
        return {"u": self.u + per_f * ddy(self.height), "v": self.v - per_f * ddx(self.height)}

    def velocity(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        return {"u": self.u, "v": self.v}
