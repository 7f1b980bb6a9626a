"""Hydrostatic balance of the layers between levels of pressure: the hypsometric equation.

    r = (phi[k + 1] - phi[k]) / (ln p[k + 1] - ln p[k]) + R (T[k] + T[k + 1]) / 2

`phi`: geopotential; `T`: temperature, virtual temperature where it is at hand; on levels whose coordinate z is ln p, p
in any unit, ascending, so the top level comes first. `R`: gas constant of dry air. One residual for each layer, at the
level above it; the last level has none. `scale` is R times the layer's mean temperature: r / scale is the relative
error of the layer's thickness.

The layer's mean temperature is that of its two levels, exact where T is linear in ln p, second order in the thickness
where it is not: an inversion or the tropopause inside a layer shows. It fails in moist air for T that is not virtual
(.6 of the specific humidity: up to .01 at the ground in the tropics), below the ground, where pressure levels are
extrapolated, and where a layer is thicker than about half the pressure at its bottom.
Good values, monthly means on 17 levels: .001 to .01 in all layers; heights taken for geopotential give .9, degrees
Celsius for kelvin 1 and more. For heights in metres: `hydrostatic_height`. A guide may move both fields.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.kernels.stencil import Coefficient, Point

TEMPERATURES = ("air_temperature", "virtual_temperature")


class Hydrostatic(Equation):
    """dphi / dln(p) = -R T."""

    phi = Field(units="m2 s-2", long_name="geopotential", standard_names=("geopotential",))
    T = Field(units="K", long_name="temperature", standard_names=TEMPERATURES)
    R = Constant(287.04, units="J kg-1 K-1", long_name="gas constant of dry air")
    axes = ("z", "y", "x")
    vertical = "ln(re 1 Pa)"
    moves = ("phi", "T")
    scale = "thickness"
    units = "m2 s-2"

    def residual(self) -> Expr:
        return slope(self.phi) + self.R * layer_mean(self.T)

    def thickness(self) -> Expr:
        """The term that the residual is compared with."""
        return self.R * layer_mean(self.T)


def slope(e: Point) -> Expr:
    """From this level to the next, per unit of z."""
    return (Point(e.name, dk=1) - e) / Coefficient("dz", "z")


def layer_mean(e: Point) -> Expr:
    """Of this level and the next."""
    return (e + Point(e.name, dk=1)) / 2
