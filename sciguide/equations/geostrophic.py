"""Geostrophic balance of a wind with the geopotential of its pressure level.

    r_u = u + (1 / f) dphi/dy        r_v = v - (1 / f) dphi/dx

`u`, `v`: eastward and northward wind (along x and y on a plane); `phi`: geopotential on a surface of constant pressure.
`f`: the Coriolis parameter on a plane, negative in the south; on the sphere it is 2 Omega sin(lat) instead. 1 / f is
taken as f / (f^2 + f_least^2): `f_least` keeps it finite on the equator, and at its default changes nothing (4e-12 at
20 degrees) elsewhere. `scale` is the wind itself, both components as one vector: rms r / rms (u, v) is the share of the
wind that the balance does not explain.

Centred differences over two spacings: second order, on stretched grids and Gaussian latitudes too. It fails where the
balance does: in the tropics (mask |lat| < 20, or r is the noise of phi over a small f), in the boundary layer, where
friction turns the wind across the isobars, and in tight curvature, where the centrifugal force counts. Geopotential in
float16 overflows; packed to int16 its steps show in r where f is small.
Good values, 20 to 80 degrees, monthly means: .07 to .09 at 200 to 500 hPa, .4 to .5 at 850 hPa; geopotential height
taken for geopotential gives .9. For a height in metres, or the sea's surface: `geostrophic_height`.
A guide may move all three fields.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.kernels.stencil import coriolis, ddx, ddy


class Geostrophic(Equation):
    """f u = -d phi / dy, f v = d phi / dx."""

    u = Field(
        units="m s-1",
        long_name="eastward wind",
        standard_names=("eastward_wind", "geostrophic_eastward_wind", "x_wind", "x_velocity"),
    )
    v = Field(
        units="m s-1",
        long_name="northward wind",
        standard_names=("northward_wind", "geostrophic_northward_wind", "y_wind", "y_velocity"),
    )
    phi = Field(units="m2 s-2", long_name="geopotential", standard_names=("geopotential",))
    f = Constant(1e-4, units="s-1", long_name="Coriolis parameter on a plane")
    f_least = Constant(1e-10, units="s-1", long_name="keeps 1 / f finite on the equator")
    moves = ("u", "v", "phi")
    scale = "wind"
    vectors = (("u", "v"),)
    units = "m s-1"

    def residual(self) -> dict[str, Expr]:
        f = coriolis(self.f)
        per_f = f / (f**2 + self.f_least**2)
        return {"u": self.u + per_f * ddy(self.phi), "v": self.v - per_f * ddx(self.phi)}

    def wind(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        return {"u": self.u, "v": self.v}
