"""Non-divergence of a horizontal flow.

    r = div(u, v) = du/dx + dv/dy                                          on a plane
    r = 1 / (a cos(lat)) [du/dlon + d(v cos(lat))/dlat]                    on the sphere, a = 6.371e6 m

`u`, `v`: eastward and northward velocity (along x and y on a plane). There are no constants. `scale` is the vertical
vorticity: |div| / |curl| says how nearly the flow is a rotation only, and does not change with the units.

Centred differences over two spacings: second order, on stretched grids too. They fail where the flow has structure of
two grid lengths (a saw-tooth in u along x has no divergence here), beside land, where cells that would read a masked
point are not valid, and on the last row before a pole, where cos(lat) varies over one spacing by as much as itself.
Wind and current are only nearly non-divergent: good values of rms(div) / rms(curl) are those of the data, about .05 for
geostrophic surface currents, .1 to .3 for winds away from the tropics; 1 says that there is no relation at all.
A guide may move both components.
"""

from sympy import Expr

from sciguide.equations.base import Equation, Field
from sciguide.kernels.stencil import curl, div


class Nondivergence(Equation):
    """div(u, v) = 0."""

    u = Field(
        units="m s-1",
        long_name="eastward velocity",
        standard_names=(
            "eastward_sea_water_velocity",
            "surface_eastward_sea_water_velocity",
            "surface_geostrophic_eastward_sea_water_velocity",
            "geostrophic_eastward_sea_water_velocity",
            "eastward_wind",
            "geostrophic_eastward_wind",
            "sea_water_x_velocity",
            "x_wind",
            "x_velocity",
        ),
    )
    v = Field(
        units="m s-1",
        long_name="northward velocity",
        standard_names=(
            "northward_sea_water_velocity",
            "surface_northward_sea_water_velocity",
            "surface_geostrophic_northward_sea_water_velocity",
            "geostrophic_northward_sea_water_velocity",
            "northward_wind",
            "geostrophic_northward_wind",
            "sea_water_y_velocity",
            "y_wind",
            "y_velocity",
        ),
    )
    moves = ("u", "v")
    scale = "vorticity"
    units = "s-1"

    def residual(self) -> Expr:
        return div(self.u, self.v)

    def vorticity(self) -> Expr:
        """The term that the divergence is compared with."""
        return curl(self.u, self.v)
